"""VPL: a latent variable of each user, inferred from labelled pairs; under it replies are scored.

Source: Poddar et al. 2024, arXiv 2408.10075; METHOD, The methods we compare with. The language
model that embeds stays frozen (the published LoRA is left out), so each reply is embedded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import logsigmoid, normalize, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import get_cosine_schedule_with_warmup, set_seed

from alignxplore_trl.baselines.protocol import Asked, Method, Said, missing_model
from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.judging.encoding import encode_replies
from alignxplore_trl.judging.weights import load_model, load_tokenizer
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import progress
from alignxplore_trl.text.prompts import Prompts


class PairEmbedder:
    """Embeds the replies of comparisons with a frozen language model.

    What is read is a post in the reply template, without a description, and the reply behind it.
    The embedding is the position-weighted mean of the last hidden layer.
    """

    def __init__(self, model: str, prompts: str, dtype: str, max_batch_tokens: int) -> None:
        self._model, self._tokenizer = load_model(model, dtype), load_tokenizer(model)
        self._prompts, self._max_batch_tokens = Prompts(prompts), max_batch_tokens
        config = self._model.config.get_text_config()
        self.size: int = config.hidden_size
        self._context: int = config.max_position_embeddings

    def embed(self, cases: Sequence[Case]) -> list[list[Tensor | None]]:
        """Of each case its comparisons, the target last: chosen and rejected reply, (2, size).

        They are float32, on the CPU. Each distinct reply is read once. `None` where one with its
        post exceeds the context.
        """
        pairs = [
            [
                ((own.post, own.chosen), (own.post, own.rejected))
                for own in (*case.signals, case.target)
                if isinstance(own, Comparison)
            ]
            for case in cases
        ]
        replies = list(dict.fromkeys(reply for own in pairs for pair in own for reply in pair))
        posts = [self._prompts.render("reply", post=post, description=None) for post, _ in replies]
        encoded = encode_replies(self._tokenizer, posts, [text for _, text in replies], chat=False)
        rows = {
            reply: head + tail
            for reply, (head, tail) in zip(replies, encoded, strict=True)
            if len(head + tail) <= self._context
        }
        order = sorted(rows, key=lambda reply: len(rows[reply]))
        size = max(1, self._max_batch_tokens // max(map(len, rows.values()), default=1))
        known: dict[tuple[str, str], Tensor] = {}
        for start in progress(range(0, len(order), size), "batches of embedded replies"):
            batch = order[start : start + size]
            known |= zip(batch, self._read([rows[reply] for reply in batch]), strict=True)
        return [
            [torch.stack([known[a], known[b]]) if {a, b} <= known.keys() else None for a, b in own]
            for own in pairs
        ]

    @torch.no_grad()
    def _read(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Padded on the right, where causal attention never sees it."""
        device = self._model.device
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
        output = self._model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
        return position_weighted_mean(output.last_hidden_state.float(), mask).cpu()


def position_weighted_mean(hidden: Tensor, is_token: Tensor) -> Tensor:
    """The mean over tokens with weights 1, 2, 3, …: (rows, tokens, size) becomes (rows, size)."""
    weights = is_token * torch.arange(1, is_token.shape[1] + 1, device=is_token.device)
    return torch.einsum("rt,rts->rs", weights / weights.sum(1, keepdim=True), hidden)


class VplModel(nn.Module, PyTorchModelHubMixin):
    """What is learned: an encoder of labelled pairs, and a scorer of replies under the variable.

    Embeddings are standardised first, by the means and deviations of those trained on: those of
    one model lie close together, and what they share must not push the posterior into its clamp.
    `save_pretrained` writes weights and arguments.
    """

    center: Tensor
    spread: Tensor

    def __init__(
        self,
        language_model: str,
        prompts: str,
        embedding_size: int,
        hidden_size: int,
        latent_size: int,
    ) -> None:
        super().__init__()
        self.embeds_with = (language_model, prompts)
        self.register_buffer("center", torch.zeros(embedding_size))
        self.register_buffer("spread", torch.ones(embedding_size))
        self.pair_encoder = _mlp(2 * embedding_size, hidden_size, hidden_size)
        self.query, self.key, self.value = (nn.Linear(hidden_size, hidden_size) for _ in range(3))
        self.mean, self.log_variance = (nn.Linear(hidden_size, latent_size) for _ in range(2))
        self.decoder = _mlp(embedding_size + latent_size, hidden_size, 1)

    def encode(self, pairs: Tensor, is_pair: Tensor) -> Normal:
        """What labelled pairs say of users, in any order; mean and log variance are within ±1.

        Pairs are (users, pairs, 2, embedding size); `is_pair` (users, pairs) is false for padding,
        and every user has a pair. Means and deviations are (users, latent size).
        """
        encoded = self.pair_encoder(((pairs - self.center) / self.spread).flatten(-2))
        attended = scaled_dot_product_attention(
            self.query(encoded), self.key(encoded), self.value(encoded), is_pair[:, None]
        )
        weights = is_pair / is_pair.sum(1, keepdim=True)
        user = torch.einsum("up,ups->us", weights, attended)
        deviation = (0.5 * self.log_variance(user).clamp(-1, 1)).exp()
        return Normal(self.mean(user).clamp(-1, 1), deviation)

    def score(self, pairs: Tensor, latent: Tensor) -> Tensor:
        """How much users like both replies of a pair, in logits.

        Pairs are (users, 2, embedding size), variables (users, latent size), logits (users, 2).
        """
        replies, users = (pairs - self.center) / self.spread, latent[:, None].expand(-1, 2, -1)
        scores: Tensor = self.decoder(torch.cat([replies, users], dim=-1))
        return scores.squeeze(-1)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    sizes = (inputs, hidden), (hidden, hidden), (hidden, outputs)
    first, second, last = (nn.Linear(*size) for size in sizes)
    return nn.Sequential(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), last)


@dataclass(eq=False)
class Vpl(Method):
    """Decide by the difference of two scores under the mean of the user's variable.

    The mean is taken as it is; only the draws of training are rescaled, as published. `model` is
    the folder that the stage vpl has saved.
    """

    model: str
    dtype: str
    max_batch_tokens: int = 16384

    def missing(self) -> str | None:
        return missing_model(self.model, "make vpl")

    def describe(self, asked: Asked) -> list[Said]:
        model = VplModel.from_pretrained(self.model).eval()
        embedder = PairEmbedder(*model.embeds_with, self.dtype, self.max_batch_tokens)
        both = zip(asked.cases, decide(model, embedder.embed(asked.cases)), strict=True)
        return [Said(case.case_id, decided=True, probability=own) for case, own in both]


@torch.no_grad()
def decide(model: VplModel, pairs: Iterable[Sequence[Tensor | None]]) -> list[float | None]:
    """The probability of the chosen reply of each case; `None` where nothing can be read."""
    decided: list[float | None] = []
    for *history, target in pairs:
        known = [pair for pair in history if pair is not None]
        if target is None or not known:
            decided.append(None)
            continue
        posterior = model.encode(torch.stack(known)[None], torch.ones(1, len(known)).bool())
        chosen, rejected = model.score(target[None], posterior.mean)[0]
        decided.append(torch.sigmoid(chosen - rejected).item())
    return decided


@dataclass(frozen=True)
class VplTraining:
    """Trains VPL in one process; conf/vpl/published.yaml says what its settings mean."""

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

        Returns counts, and the accuracy on the validation cases.

        Raises:
            UserError: no case has enough comparisons.
        """
        set_seed(self.seed)
        where = self.language_model, self.prompts
        embedder = PairEmbedder(*where, self.dtype, self.max_batch_tokens)
        known = [[pair for pair in own if pair is not None] for own in embedder.embed(cases)]
        users = [torch.stack(pairs) for pairs in known if len(pairs) > self.fewest_pairs]
        if not users:
            raise UserError(
                f"vpl.fewest_pairs: {self.fewest_pairs} found, but no training case has as many "
                "comparisons beside its target; choose data whose signals are comparisons"
            )
        model = VplModel(*where, embedder.size, self.hidden_size, self.latent_size)
        steps = self.fit(model, users)
        model.save_pretrained(folder)
        answers = decide(model, embedder.embed(validation))
        decided = [own > 0.5 for own in answers if own is not None]
        return {
            "cases": len(cases),
            "cases_left_out": len(cases) - len(users),
            "pairs": sum(map(len, users)),
            "steps": steps,
            "validation/cases": len(decided),
            "validation/accuracy": sum(decided) / max(1, len(decided)),
        }

    def fit(self, model: VplModel, users: Sequence[Tensor]) -> int:
        """Train on each user's pairs, (pairs, 2, embedding size); returns the number of steps."""
        everything = torch.cat([user.flatten(0, 1) for user in users])
        model.center, model.spread = everything.mean(0), everything.std(0).clamp(min=1e-6)
        optimizer = torch.optim.AdamW(
            model.parameters(), self.learning_rate, weight_decay=self.weight_decay
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
            loss(scores, posterior, weight).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            rate.step()
        model.eval()
        return steps

    def batches(self, users: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One epoch: every pair is a target once, with a history drawn from the user's others.

        Yields histories, (users, pairs, 2, size), which of their pairs aren't padding, and targets.
        """
        targets = [(user, place) for user in users for place in range(len(user))]
        for places in torch.randperm(len(targets)).split(self.batch_size):
            drawn = [targets[place] for place in places]
            histories = [self._draw_history(user, place) for user, place in drawn]
            ones = [torch.ones(len(history), dtype=torch.bool) for history in histories]
            padded = [pad_sequence(each, batch_first=True) for each in (histories, ones)]
            yield padded[0], padded[1], torch.stack([user[place] for user, place in drawn])

    def _draw_history(self, user: Tensor, target: int) -> Tensor:
        others = torch.cat([torch.arange(target), torch.arange(target + 1, len(user))])
        most = min(self.most_pairs, len(others))
        count = int(torch.randint(self.fewest_pairs, most + 1, ()))
        return user[others[torch.randperm(len(others))[:count]]]


def sample_latent(posterior: Normal) -> Tensor:
    """Draw each user's variable by the reparameterisation trick, rescaled to norm √latent_size."""
    drawn = posterior.mean + posterior.stddev * torch.randn_like(posterior.mean)
    return normalize(drawn, dim=-1) * math.sqrt(drawn.shape[-1])


def loss(scores: Tensor, posterior: Normal, kl_weight: float) -> Tensor:
    """-log P(the first reply is preferred) + weight · KL(posterior | standard normal), in nats.

    The mean over pairs, whose scores are (pairs, 2), and over users, of entries' sums.
    """
    divergence = kl_divergence(posterior, Normal(0.0, 1.0)).sum(-1).mean()
    return kl_weight * divergence - logsigmoid(scores[:, 0] - scores[:, 1]).mean()


def annealing(step: int, cycle_steps: int, floor: float) -> float:
    """The share of the KL term's weight: from the floor up to 1 along a cosine, again and again."""
    risen = (1 - math.cos(math.pi * (step % cycle_steps) / cycle_steps)) / 2
    return floor + (1 - floor) * risen
