"""VPL: a latent variable of each user, inferred from labelled pairs; under it replies are scored.

Source: Poddar et al. 2024, arXiv 2408.10075; METHOD, The methods we compare with. The language
model that embeds stays frozen (the published LoRA is left out), so each reply is embedded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import logsigmoid, normalize, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import get_cosine_schedule_with_warmup, set_seed

from alignxplore_trl.baselines.protocol import Asked, Method, Said
from alignxplore_trl.cases import Case, Comparison, Signal
from alignxplore_trl.judging.encoding import encode_replies
from alignxplore_trl.judging.weights import load_model, load_tokenizer
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import progress
from alignxplore_trl.text.prompts import Prompts


@torch.no_grad()
def embed_pairs(
    cases: Iterable[Case], language_model: str, prompts: str, dtype: str, max_batch_tokens: int
) -> dict[Signal, Tensor]:
    """Embed the comparisons of cases, targets included, with a frozen language model.

    What is read is a post in the reply template, without a description, and the reply behind it;
    the embedding is the position-weighted mean of the last hidden layer. Each distinct reply is
    read once. Of each comparison the chosen and the rejected reply, (2, size), in float32 on the
    CPU; it is left out where either, with the post, exceeds the context.
    """
    model, tokenizer = load_model(language_model, dtype), load_tokenizer(language_model)
    templates, context = Prompts(prompts), model.config.get_text_config().max_position_embeddings
    signals = dict.fromkeys(own for case in cases for own in (*case.signals, case.target))
    pairs = {
        own: [(own.post, own.chosen), (own.post, own.rejected)]
        for own in signals
        if isinstance(own, Comparison)
    }
    replies = list(dict.fromkeys(chain.from_iterable(pairs.values())))
    posts = [templates.render("reply", post=post, description=None) for post, _ in replies]
    encoded = encode_replies(tokenizer, posts, [text for _, text in replies], chat=False)
    rows = {reply: head + tail for reply, (head, tail) in zip(replies, encoded, strict=True)}
    order = sorted((r for r in rows if len(rows[r]) <= context), key=lambda r: len(rows[r]))
    size = max(1, max_batch_tokens // len(rows[order[-1]])) if order else 1
    known: dict[tuple[str, str], Tensor] = {}
    for start in progress(range(0, len(order), size), "batches of embedded replies"):
        batch = order[start : start + size]
        # Padded on the right, where causal attention never sees it.
        ids = pad_sequence([torch.tensor(rows[reply]) for reply in batch], batch_first=True)
        mask = _mask([rows[reply] for reply in batch]).to(model.device)
        output = model.base_model(ids.to(model.device), mask.long(), use_cache=False)
        means = position_weighted_mean(output.last_hidden_state.float(), mask)
        known |= zip(batch, means.cpu(), strict=True)
    return {
        pair: torch.stack([known[reply] for reply in both])
        for pair, both in pairs.items()
        if known.keys() >= set(both)
    }


def position_weighted_mean(hidden: Tensor, is_token: Tensor) -> Tensor:
    """The mean over tokens with weights 1, 2, 3, …: (rows, tokens, size) becomes (rows, size)."""
    weights = is_token * torch.arange(1, is_token.shape[1] + 1, device=is_token.device)
    return torch.einsum("rt,rts->rs", weights / weights.sum(1, keepdim=True), hidden)


def _mask(rows: Sequence[Sized]) -> Tensor:
    """Which places of rows aren't padding, once they are padded on the right to one length."""
    lengths = torch.tensor([len(row) for row in rows])
    return torch.arange(int(lengths.max())) < lengths[:, None]


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
        """What labelled pairs say of users, (users, latent size), with log variances within ±1.

        Pairs are (users, pairs, 2, embedding size); `is_pair` (users, pairs) is false for padding.
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
        """How much users like both replies of their pair, (users, 2), in logits."""
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

    made_by = "make vpl"

    model: str
    dtype: str
    max_batch_tokens: int = 16384

    def describe(self, asked: Asked) -> list[Said]:
        model = VplModel.from_pretrained(self.model).eval()
        known = embed_pairs(asked.cases, *model.embeds_with, self.dtype, self.max_batch_tokens)
        return [
            Said(case.case_id, decided=True, probability=decide(model, known, case))
            for case in asked.cases
        ]


@torch.no_grad()
def decide(model: VplModel, known: Mapping[Signal, Tensor], case: Case) -> float | None:
    """The probability of the chosen reply; `None` where it, or the history, can't be read."""
    history = [known[signal] for signal in case.signals if signal in known]
    if case.target not in known or not history:
        return None
    posterior = model.encode(torch.stack(history)[None], torch.ones(1, len(history)).bool())
    chosen, rejected = model.score(known[case.target][None], posterior.mean)[0]
    return torch.sigmoid(chosen - rejected).item()


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
    kl_weight: float
    kl_cycle_steps: int
    seed: int

    def train(
        self, cases: Sequence[Case], validation: Sequence[Case], folder: Path
    ) -> dict[str, float]:
        """Train on users' pairs, targets included, and save; counts, and validation accuracy."""
        set_seed(self.seed)
        where = self.language_model, self.prompts
        known = embed_pairs(cases, *where, self.dtype, self.max_batch_tokens)
        each = [[known[s] for s in (*case.signals, case.target) if s in known] for case in cases]
        users = [torch.stack(pairs) for pairs in each if len(pairs) > self.fewest_pairs]
        if not users:
            raise UserError(
                f"vpl.fewest_pairs: {self.fewest_pairs} found, but no training case has as many "
                "comparisons beside its target; choose data whose signals are comparisons"
            )
        model = VplModel(*where, users[0].shape[-1], self.hidden_size, self.latent_size)
        steps = self.fit(model, users)
        model.save_pretrained(folder)
        known = embed_pairs(validation, *where, self.dtype, self.max_batch_tokens)
        answers = [decide(model, known, case) for case in validation]
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
        optimizer = torch.optim.AdamW(model.parameters(), self.learning_rate, weight_decay=0.001)
        steps = self.epochs * math.ceil(sum(map(len, users)) / self.batch_size)
        rate = get_cosine_schedule_with_warmup(optimizer, round(0.03 * steps), steps)
        batches = chain.from_iterable(self.batches(users) for _ in range(self.epochs))
        model.train()
        for step, (pairs, is_pair, targets) in enumerate(progress(batches, "VPL", steps)):
            posterior = model.encode(pairs, is_pair)
            scores = model.score(targets, sample_latent(posterior))
            weight = self.kl_weight * annealing(step, self.kl_cycle_steps)
            loss(scores, posterior, weight).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
        model.eval()
        return steps

    def batches(self, users: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One epoch: every pair is a target once, with a history drawn from the user's others.

        Yields histories, what isn't padding in them, and targets.
        """
        targets = [(user, place) for user in users for place in range(len(user))]
        for places in torch.randperm(len(targets)).split(self.batch_size):
            drawn = [targets[place] for place in places]
            histories = [self._draw_history(user, place) for user, place in drawn]
            aimed_at = torch.stack([user[place] for user, place in drawn])
            yield pad_sequence(histories, batch_first=True), _mask(histories), aimed_at

    def _draw_history(self, user: Tensor, target: int) -> Tensor:
        others = torch.cat([user[:target], user[target + 1 :]])
        count = int(torch.randint(self.fewest_pairs, min(self.most_pairs, len(others)) + 1, ()))
        return others[torch.randperm(len(others))[:count]]


def sample_latent(posterior: Normal) -> Tensor:
    """Draw each user's variable by the reparameterisation trick, rescaled to norm √latent_size."""
    drawn = posterior.rsample()
    return normalize(drawn, dim=-1) * math.sqrt(drawn.shape[-1])


def loss(scores: Tensor, posterior: Normal, kl_weight: float) -> Tensor:
    """-log P(the first reply is preferred) + weight · KL(posterior | standard normal), in nats.

    The mean over pairs, whose scores are (pairs, 2), and over users, of entries' sums.
    """
    divergence = kl_divergence(posterior, Normal(0.0, 1.0)).sum(-1).mean()
    return kl_weight * divergence - logsigmoid(scores[:, 0] - scores[:, 1]).mean()


def annealing(step: int, cycle_steps: int) -> float:
    """The share of the KL term's weight: from 0.1 up to 1 along a cosine, again and again."""
    return 0.1 + 0.9 * (1 - math.cos(math.pi * (step % cycle_steps) / cycle_steps)) / 2
