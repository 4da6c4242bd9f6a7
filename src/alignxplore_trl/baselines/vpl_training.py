"""The training of VPL: Bradley-Terry on a pair under a latent variable drawn from other pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from transformers import get_cosine_schedule_with_warmup, set_seed

from alignxplore_trl.baselines.vpl import PairEmbedder, Posterior, VplModel, decide, sample_latent
from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import progress


@dataclass(frozen=True)
class VplTraining:
    """Trains VPL in one process, after embedding every labelled pair once.

    Attributes:
        language_model, prompts, dtype, max_batch_tokens: see `PairEmbedder`.
        hidden_size, latent_size: see `VplModel`.
        fewest_pairs, most_pairs: labelled pairs that a variable is inferred from in training.
        epochs: passes in which every labelled pair is the target once.
        batch_size: targets in an optimizer step.
        learning_rate, warmup_share, weight_decay: of AdamW; the rate falls to zero along a cosine
            after a warm-up over this share of all steps.
        kl_weight, kl_cycle_steps, kl_floor: weight of the KL term, which rises along a cosine from
            this share of it, again in each cycle.
        seed: of everything that is drawn.
    """

    language_model: str
    prompts: str
    dtype: str
    max_batch_tokens: int
    hidden_size: int
    latent_size: int
    fewest_pairs: int
    most_pairs: int
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_share: float
    weight_decay: float
    kl_weight: float
    kl_cycle_steps: int
    kl_floor: float
    seed: int

    def train(
        self, cases: Sequence[Case], validation: Sequence[Case], folder: Path
    ) -> dict[str, float]:
        """Train on the pairs that users labelled, their targets included, and save the model.

        Returns:
            Counts, and the accuracy on the validation cases.

        Raises:
            UserError: no case has enough comparisons.
        """
        set_seed(self.seed)
        where = self.language_model, self.prompts
        embedder = PairEmbedder(*where, self.dtype, self.max_batch_tokens)
        users = self._embed(cases, embedder)
        model = VplModel(
            language_model=self.language_model,
            prompts=self.prompts,
            embedding_size=embedder.size,
            hidden_size=self.hidden_size,
            latent_size=self.latent_size,
        )
        steps = self._fit(model, users)
        model.eval().save_pretrained(folder)
        decided = [own for own in decide(model, embedder, validation) if own is not None]
        return {
            "cases": len(cases),
            "cases_left_out": len(cases) - len(users),
            "pairs": sum(map(len, users)),
            "steps": steps,
            "validation/cases": len(decided),
            "validation/accuracy": sum(own > 0.5 for own in decided) / max(1, len(decided)),
        }

    def _embed(self, cases: Sequence[Case], embedder: PairEmbedder) -> list[Tensor]:
        """Of each user that is trained on, (pairs, 2, embedding size), the chosen reply first."""
        labelled = [
            [*(s for s in case.signals if isinstance(s, Comparison)), case.target] for case in cases
        ]
        flat = iter(embedder.embed([pair for pairs in labelled for pair in pairs]))
        known = [[pair for _ in pairs if (pair := next(flat)) is not None] for pairs in labelled]
        users = [torch.stack(pairs) for pairs in known if len(pairs) > self.fewest_pairs]
        if not users:
            raise UserError(
                f"vpl.fewest_pairs: {self.fewest_pairs} found, but none of {len(cases)} training "
                "cases has as many comparisons beside its target; choose data whose signals are "
                "comparisons"
            )
        return users

    def _fit(self, model: VplModel, users: Sequence[Tensor]) -> int:
        model.standardise_by(torch.cat([user.flatten(0, 1) for user in users]))
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        steps = self.epochs * math.ceil(sum(map(len, users)) / self.batch_size)
        warmup = round(self.warmup_share * steps)
        rate = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
        batches = (batch for _ in range(self.epochs) for batch in self.batches(users))
        model.train()
        for step, (pairs, is_pair, targets) in enumerate(progress(batches, "VPL", steps)):
            posterior = model.encode(pairs, is_pair)
            scores = model.score(targets, sample_latent(posterior))
            weight = self.kl_weight * annealing(step, self.kl_cycle_steps, self.kl_floor)
            (bradley_terry(scores) + weight * divergence(posterior)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            rate.step()
        return steps

    def batches(self, users: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One epoch: every pair is a target once, with a history drawn from the user's others.

        Yields histories, (users, pairs, 2, size), which of their pairs are none of padding, and
        targets, (users, 2, size).
        """
        targets = [(user, place) for user in users for place in range(len(user))]
        for places in torch.randperm(len(targets)).split(self.batch_size):
            drawn = [targets[place] for place in places]
            histories = [self._draw_history(user, place) for user, place in drawn]
            ones = [torch.ones(len(history), dtype=torch.bool) for history in histories]
            yield (
                pad_sequence(histories, batch_first=True),
                pad_sequence(ones, batch_first=True),
                torch.stack([user[place] for user, place in drawn]),
            )

    def _draw_history(self, user: Tensor, target: int) -> Tensor:
        others = torch.cat([torch.arange(target), torch.arange(target + 1, len(user))])
        most = min(self.most_pairs, len(others))
        count = int(torch.randint(self.fewest_pairs, most + 1, ()))
        return user[others[torch.randperm(len(others))[:count]]]


def bradley_terry(scores: Tensor) -> Tensor:
    """-log P(the first reply is preferred), in nats, the mean over pairs; scores are (pairs, 2)."""
    return -logsigmoid(scores[:, 0] - scores[:, 1]).mean()


def divergence(posterior: Posterior) -> Tensor:
    """KL(posterior | standard normal), in nats: the sum over entries, the mean over users."""
    deviation = (0.5 * posterior.log_variance).exp()
    of_entries = kl_divergence(Normal(posterior.mean, deviation), Normal(0.0, 1.0))
    return of_entries.sum(-1).mean()


def annealing(step: int, cycle_steps: int, floor: float) -> float:
    """The share of the KL term's weight: from the floor up to 1 along a cosine, again and again."""
    risen = (1 - math.cos(math.pi * (step % cycle_steps) / cycle_steps)) / 2
    return floor + (1 - floor) * risen
