"""VPL's losses against their formulas, its draws against chance, and whether it learns."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.baselines.vpl import PairEmbedder, Posterior, VplModel
from alignxplore_trl.data.world import World
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Comparison, Post
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.vpl import (
    annealing,
    bradley_terry,
    divergence,
    draw_batches,
    embed_users,
    train,
)

CASES = World(seed=0).cases("rl", 6)


@pytest.fixture
def embedder(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> PairEmbedder:
    return PairEmbedder(random_model, tokenizer, prompts, max_batch_tokens=4096)


def test_bradley_terry_is_the_log_loss_of_the_difference() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 2))
    expected = np.mean(np.log1p(np.exp(-(scores[:, 0] - scores[:, 1]))))
    assert bradley_terry(torch.tensor(scores)).item() == pytest.approx(expected)


def test_the_divergence_is_that_from_the_standard_normal() -> None:
    mean, log_variance = np.random.default_rng(0).uniform(-1, 1, size=(2, 4, 7))
    entries = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
    found = divergence(Posterior(torch.tensor(mean), torch.tensor(log_variance)))
    assert found.item() == pytest.approx(entries.sum(1).mean())


def test_the_annealing_rises_along_a_cosine_and_starts_again() -> None:
    shares = [annealing(step, 10_000, 0.1) for step in (0, 2_500, 5_000, 9_999, 10_000, 12_500)]
    quarter = 0.1 + 0.9 * (1 - math.cos(math.pi / 4)) / 2
    assert shares == pytest.approx([0.1, quarter, 0.55, 1.0, 0.1, quarter], abs=1e-6)


@given(
    st.lists(st.integers(3, 9), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(2, 8),
    st.integers(0, 2**16),
)
def test_every_pair_is_a_target_once_and_never_in_its_history(
    sizes: list[int], batch_size: int, most_pairs: int, seed: int
) -> None:
    """A pair is known by its one number: user * 100 + place."""
    torch.manual_seed(seed)
    users = [
        (100.0 * user + torch.arange(size)).reshape(size, 1, 1).expand(size, 2, 3)
        for user, size in enumerate(sizes, 1)
    ]
    targets = []
    for batch in draw_batches(users, batch_size, 2, most_pairs):
        assert len(batch.targets) <= batch_size
        for pairs, is_pair, target in zip(batch.pairs, batch.is_pair, batch.targets, strict=True):
            asked = target[0, 0].item()
            history = pairs[is_pair][:, 0, 0].tolist()
            assert len(set(history)) == len(history)
            assert asked not in history
            assert {number // 100 for number in history} == {asked // 100}
            size = sizes[int(asked // 100) - 1]
            assert 2 <= len(history) <= min(most_pairs, size - 1)
            assert (pairs[~is_pair] == 0).all()
            targets.append(asked)
    assert sorted(targets) == [
        100 * user + place for user, size in enumerate(sizes, 1) for place in range(size)
    ]


def test_all_lengths_of_histories_are_drawn() -> None:
    torch.manual_seed(0)
    batches = draw_batches([torch.zeros(9, 2, 3)] * 100, 32, 2, 8)
    counts = torch.bincount(torch.cat([batch.is_pair.sum(1) for batch in batches]))
    assert counts[:2].sum() == 0
    assert len(counts) == 9
    assert (counts[2:] - 900 / 7).abs().max() < 4 * math.sqrt(900 / 7)


def test_users_are_embedded_with_their_target_and_counted(embedder: PairEmbedder) -> None:
    post, long = Post("a", "b"), Comparison("a", "b", "word " * 600)
    few = replace(CASES[0], signals=(post, CASES[0].signals[0]))
    mixed = replace(CASES[1], signals=(post, long, *CASES[1].signals[:2]))
    found = embed_users([few, mixed, CASES[2]], embedder, fewest_pairs=2)
    assert [tuple(user.shape) for user in found.pairs] == [(3, 2, 64), (9, 2, 64)]
    (target,) = embedder.embed([CASES[1].target])
    assert target is not None
    assert torch.equal(found.pairs[0][-1], target)
    assert found.counts == {
        "cases": 3,
        "cases_left_out": 1,
        "pairs": 12,
        "pairs_too_long": 1,
        "signals_not_compared": 2,
    }


def test_data_without_comparisons_are_refused(embedder: PairEmbedder) -> None:
    cases = World(seed=0, signal_kind="posts").cases("rl", 3)
    with pytest.raises(UserError, match=r"vpl\.fewest_pairs: 2 found, but none of 3"):
        embed_users(cases, embedder, fewest_pairs=2)


def test_it_learns_what_users_like() -> None:
    """Every user likes either the first or the second entry of an embedding."""
    torch.manual_seed(0)
    users = []
    for number in range(60):
        pairs = torch.randn(6, 2, 4)
        better = pairs[:, 0, number % 2] > pairs[:, 1, number % 2]
        users.append(torch.where(better[:, None, None], pairs, pairs.flip(1)))
    model = VplModel(
        language_model="a/model", prompts="compact", embedding_size=4, hidden_size=64, latent_size=8
    )
    reported: list[tuple[int, float]] = []
    steps = train(
        model,
        users,
        learning_rate=3e-3,
        warmup_share=0.03,
        weight_decay=0.001,
        epochs=25,
        batch_size=32,
        kl_weight=1e-4,
        kl_cycle_steps=10_000,
        kl_floor=0.1,
        fewest_pairs=2,
        most_pairs=5,
        report=lambda step, values: reported.append((step, values["accuracy"])),
    )
    assert steps == 25 * 12
    assert [step for step, _ in reported] == list(range(20, 301, 20))
    assert reported[0][1] < 0.7
    assert reported[-1][1] > 0.8
    assert not model.training
