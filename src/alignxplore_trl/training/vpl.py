"""The training of VPL: Bradley-Terry on a pair under a latent variable drawn from other pairs.

Source: Poddar et al. 2024, arXiv 2408.10075; METHOD, The methods we compare with. The language
model that embeds is frozen, so that every reply is embedded once, before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from transformers import get_cosine_schedule_with_warmup

from alignxplore_trl.baselines.vpl import PairEmbedder, Posterior, VplModel, sample_latent
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import progress
from alignxplore_trl.signals import Comparison, PreferenceCase


@dataclass(frozen=True)
class LabelledUsers:
    """The pairs that users labelled, embedded.

    Attributes:
        pairs: of each user, (pairs, 2, embedding size), the chosen reply first.
        counts: `cases`, `cases_left_out` (fewer pairs than it takes), `pairs`, `pairs_too_long` and
            `signals_not_compared` (posts and attributes, which have no pair).
    """

    pairs: list[Tensor]
    counts: dict[str, int]


def embed_users(
    cases: Sequence[PreferenceCase], embedder: PairEmbedder, fewest_pairs: int
) -> LabelledUsers:
    """Embed every pair that a user labelled, the target pair included.

    Raises:
        UserError: no case has a target and `fewest_pairs` others.
    """
    labelled = [
        [*(s for s in case.signals if isinstance(s, Comparison)), case.target] for case in cases
    ]
    embedded = iter(embedder.embed([each for pairs in labelled for each in pairs]))
    known = [[pair for _ in pairs if (pair := next(embedded)) is not None] for pairs in labelled]
    users = [torch.stack(pairs) for pairs in known if len(pairs) > fewest_pairs]
    if not users:
        raise UserError(
            f"vpl.fewest_pairs: {fewest_pairs} found, but none of {len(cases)} training cases has "
            "as many comparisons beside its target; choose data whose signals are comparisons"
        )
    return LabelledUsers(
        users,
        {
            "cases": len(cases),
            "cases_left_out": len(cases) - len(users),
            "pairs": sum(map(len, users)),
            "pairs_too_long": sum(map(len, labelled)) - sum(map(len, known)),
            "signals_not_compared": sum(
                len(case.signals) + 1 - len(pairs)
                for case, pairs in zip(cases, labelled, strict=True)
            ),
        },
    )


@dataclass(frozen=True)
class Batch:
    """Histories of several users, and the pair of each that is to be predicted.

    Attributes:
        pairs: float32, (users, pairs, 2, embedding size), padded with zeros.
        is_pair: bool, (users, pairs).
        targets: float32, (users, 2, embedding size).
    """

    pairs: Tensor
    is_pair: Tensor
    targets: Tensor


def draw_batches(
    users: Sequence[Tensor], batch_size: int, fewest_pairs: int, most_pairs: int
) -> Iterator[Batch]:
    """One epoch: every pair is a target once, in random order, with a history drawn from the rest.

    How many pairs a history has is drawn evenly, between `fewest_pairs` and `most_pairs` or as many
    as there are, and then which ones.
    """
    targets = [(user, place) for user in users for place in range(len(user))]
    for places in torch.randperm(len(targets)).split(batch_size):
        drawn = [targets[place] for place in places]
        histories = [_draw_history(user, place, fewest_pairs, most_pairs) for user, place in drawn]
        ones = [torch.ones(len(history), dtype=torch.bool) for history in histories]
        yield Batch(
            pad_sequence(histories, batch_first=True),
            pad_sequence(ones, batch_first=True),
            torch.stack([user[place] for user, place in drawn]),
        )


def _draw_history(user: Tensor, target: int, fewest_pairs: int, most_pairs: int) -> Tensor:
    others = torch.cat([torch.arange(target), torch.arange(target + 1, len(user))])
    most = min(most_pairs, len(others))
    count = int(torch.randint(fewest_pairs, most + 1, ()))
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


def train(
    model: VplModel,
    users: Sequence[Tensor],
    *,
    learning_rate: float,
    warmup_share: float,
    weight_decay: float,
    epochs: int,
    batch_size: int,
    kl_weight: float,
    kl_cycle_steps: int,
    kl_floor: float,
    fewest_pairs: int,
    most_pairs: int,
    report: Callable[[int, Mapping[str, float]], None],
    report_every: int = 20,
) -> int:
    """Train a model in place; everything is drawn from torch's global generator.

    Args:
        users: `LabelledUsers.pairs`.
        warmup_share: of all steps; the rate then falls to zero along a cosine.
        kl_weight: of the KL term, where `annealing` is at 1.
        report: called with the step and the means since last time of `loss` (Bradley-Terry), `kl`
            and `accuracy` (of the drawn variables), every `report_every` steps and at the end.

    Returns:
        The number of steps.
    """
    model.standardise_by(torch.cat([user.flatten(0, 1) for user in users]).to(model.center.device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    steps = epochs * math.ceil(sum(map(len, users)) / batch_size)
    rate = get_cosine_schedule_with_warmup(optimizer, round(warmup_share * steps), steps)
    batches = (
        batch
        for _ in range(epochs)
        for batch in draw_batches(users, batch_size, fewest_pairs, most_pairs)
    )
    seen: list[dict[str, float]] = []
    model.train()
    for step, batch in enumerate(progress(batches, "training", steps)):
        loss, kl, scores = _losses(model, batch)
        (loss + kl_weight * annealing(step, kl_cycle_steps, kl_floor) * kl).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
        right = (scores[:, 0] > scores[:, 1]).float().mean()
        seen.append({"loss": loss.item(), "kl": kl.item(), "accuracy": right.item()})
        if (step + 1) % report_every == 0 or step + 1 == steps:
            report(step + 1, {name: sum(e[name] for e in seen) / len(seen) for name in seen[0]})
            seen.clear()
    model.eval()
    return steps


def _losses(model: VplModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    device = model.center.device
    posterior = model.encode(batch.pairs.to(device), batch.is_pair.to(device))
    scores = model.score(batch.targets.to(device), sample_latent(posterior))
    return bradley_terry(scores), divergence(posterior), scores
