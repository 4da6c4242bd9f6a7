"""VPL: formulas against a few lines of numpy, and a training that learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch.distributions import Normal

from alignxplore_trl.baselines.protocol import Asked, Setting
from alignxplore_trl.baselines.vpl import (
    Vpl,
    VplModel,
    VplTraining,
    annealing,
    decide,
    embed_pairs,
    loss,
    position_weighted_mean,
    sample_latent,
)
from alignxplore_trl.cases import Case, Comparison, Post, Signal
from alignxplore_trl.data.world import World
from alignxplore_trl.run.errors import UserError
from tests.evaluation.doubles import make_case

WORLD = World({"rl": 60, "validation": 40}, rounds=2, signals=4).cases({}, 0)  # type: ignore[arg-type]


def training(**changes: object) -> VplTraining:
    values = {
        "language_model": "assets/judge", "prompts": "compact", "dtype": "float32",
        "max_batch_tokens": 4096, "hidden_size": 32, "latent_size": 16, "fewest_pairs": 2,
        "most_pairs": 4, "epochs": 1, "batch_size": 32, "learning_rate": 1e-3,
        "kl_weight": 1e-4, "kl_cycle_steps": 10, "seed": 0,
    }  # fmt: skip
    return VplTraining(**values | changes)  # type: ignore[arg-type]


def embed(cases: Sequence[Case], max_batch_tokens: int = 4096) -> dict[Signal, torch.Tensor]:
    return embed_pairs(cases, "assets/judge", "compact", "float32", max_batch_tokens)


@pytest.fixture
def model() -> VplModel:
    torch.manual_seed(0)
    return VplModel(
        language_model="m", prompts="p", embedding_size=6, hidden_size=8, latent_size=4
    ).eval()


def test_later_tokens_weigh_more_and_padding_nothing() -> None:
    hidden = torch.randn(2, 4, 3)
    is_token = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()

    found = position_weighted_mean(hidden, is_token).numpy()

    expected = [
        np.average(hidden[0].numpy(), axis=0, weights=[1, 2, 3, 4]),
        np.average(hidden[1, :2].numpy(), axis=0, weights=[1, 2]),
    ]
    assert found == pytest.approx(np.array(expected), abs=1e-6)


def test_embeddings_do_not_depend_on_their_batch() -> None:
    cases = WORLD["validation"][:6]

    together, alone = embed(cases), embed(cases[3:4], 1)

    assert set(alone) == {*cases[3].signals, cases[3].target}
    for pair, own in alone.items():
        assert own.shape[0] == 2
        assert torch.allclose(own, together[pair], atol=1e-5)


def test_a_reply_beyond_the_context_has_no_embedding() -> None:
    signals = (Comparison("p", "a", "b"), Post("p", "a"), Comparison("p", "a", "b " * 9000))
    case = msgspec.structs.replace(make_case(0), signals=signals)

    assert set(embed([case])) == {signals[0], case.target}


def test_a_posterior_knows_no_order_and_no_padding(model: VplModel) -> None:
    pairs = torch.randn(1, 3, 2, 6)
    padded = torch.cat([pairs.flip(1), torch.randn(1, 2, 2, 6)], dim=1)
    is_pair = torch.tensor([[True] * 3 + [False] * 2])

    one = model.encode(pairs, torch.ones(1, 3).bool())
    other = model.encode(padded, is_pair)

    assert torch.allclose(one.mean, other.mean, atol=1e-6)
    assert one.mean.abs().max() <= 1
    assert (2 * one.stddev.log()).abs().max() <= 1


def test_the_loss_is_that_of_the_paper() -> None:
    scores = torch.tensor([[1.0, -0.5], [0.0, 2.0]])
    mean, log_variance = np.array([[0.5, -1.0]]), np.array([[0.3, -0.7]])

    found = loss(scores, Normal(torch.tensor(mean), torch.tensor(np.exp(log_variance / 2))), 0.7)

    preference = np.mean([math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(2.0))])
    kl = 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum()
    assert found.item() == pytest.approx(preference + 0.7 * kl, rel=1e-6)
    assert [annealing(step, 10) for step in (0, 5, 10)] == pytest.approx([0.1, 0.55, 0.1])
    drawn = sample_latent(Normal(torch.randn(5, 9), torch.ones(5, 9)))
    assert drawn.norm(dim=-1).numpy() == pytest.approx(np.full(5, 3.0), rel=1e-5)


def test_every_pair_is_a_target_once_and_in_no_history_of_its_own() -> None:
    users = [torch.full((n, 2, 3), 0.0) + torch.arange(n)[:, None, None] + 10 * n for n in (3, 6)]
    torch.manual_seed(0)

    seen = []
    for pairs, is_pair, targets in training(batch_size=4).batches(users):
        assert ((is_pair.sum(1) >= 2) & (is_pair.sum(1) <= 4)).all()
        for history, known, target in zip(pairs, is_pair, targets, strict=True):
            values = history[known][:, 0, 0].tolist()
            seen.append(target[0, 0].item())
            assert seen[-1] not in values
            assert len(set(values)) == len(values)
            assert {value // 10 for value in values} == {seen[-1] // 10}
    assert sorted(seen) == [30, 31, 32, 60, 61, 62, 63, 64, 65]


def test_it_learns_what_users_have_in_common_and_what_they_do_not(model: VplModel) -> None:
    # Half of the users like what the others don't: nothing is learned but from their own pairs.
    torch.manual_seed(0)
    liked = torch.randn(6)
    users = [
        torch.stack([sign * liked, -sign * liked]) + 0.3 * torch.randn(8, 2, 6)
        for sign in [1, -1] * 40
    ]

    training(epochs=4, learning_rate=5e-3).fit(model, users)

    model.eval()
    ones = torch.ones(1, 4).bool()
    with torch.no_grad():
        scores = [model.score(own[-1:], model.encode(own[None, :4], ones).mean) for own in users]
    assert np.mean([(own[0, 0] > own[0, 1]).item() for own in scores]) > 0.9


def test_a_trained_model_decides_as_it_did_and_says_when_it_can_not(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "vpl" / "model"
    method = Vpl(str(folder), "float32")
    assert method.missing() == f"{folder} isn't there; make vpl makes it"

    summary = training().train(WORLD["rl"], WORLD["validation"], folder)

    (tmp_path / "vpl" / "summary.json").write_text("{}")
    assert method.missing() is None
    assert (summary["pairs"], summary["steps"]) == (60 * 9, 17)
    posts = msgspec.structs.replace(make_case(0), signals=(Post("a", "b"),))
    said = method.describe(Asked([*WORLD["validation"], posts], Setting(8)))
    trained, known = VplModel.from_pretrained(str(folder)).eval(), embed(WORLD["validation"])
    decided = [decide(trained, known, case) for case in WORLD["validation"]]
    assert [own.probability for own in said[:-1]] == pytest.approx(decided, abs=1e-5)
    assert np.mean([own > 0.5 for own in decided if own]) == summary["validation/accuracy"]
    assert said[-1].decided
    assert said[-1].probability is None


def test_data_without_comparisons_can_not_be_trained_on(tmp_path: Path) -> None:
    posts = [msgspec.structs.replace(case, signals=()) for case in WORLD["rl"][:3]]

    with pytest.raises(UserError, match=r"vpl\.fewest_pairs"):
        training().train(posts, [], tmp_path)
