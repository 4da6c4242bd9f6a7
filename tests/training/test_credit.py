"""Credit across rounds by METHOD's rule, computed plainly beside."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from alignxplore_trl.training.credit import credited_rewards
from tests.training import tiny

LAMBDA = 0.9


def plainly(rewards, drawn, credit):
    """One case: `rewards[k][i]`, `None` unscored; `drawn[k]`, where the next round began from."""
    rounds = len(rewards)
    baseline = [0.5] * rounds
    for k in reversed(range(rounds - 1)):
        baseline[k] = 0.5 + credit * baseline[k + 1]
    credited = [list(of_round) for of_round in rewards]
    for k in reversed(range(rounds - 1)):
        scored = [reward for reward in credited[k + 1] if reward is not None]
        m = sum(scored) / len(scored) if scored and drawn[k] is not None else baseline[k + 1]
        for i, own in enumerate(rewards[k]):
            part = m if i == drawn[k] else baseline[k + 1]
            credited[k][i] = None if own is None else own + credit * part
    return credited


def ours(rewards, drawn, credit):
    flags = np.zeros((len(rewards), 1, len(rewards[0])), dtype=bool)
    for k, place in enumerate(drawn):
        if place is not None:
            flags[k, 0, place] = True
    found = credited_rewards(np.array(rewards, dtype=float)[:, None], flags, credit)[:, 0]
    return [[None if np.isnan(each) else each for each in of_round] for of_round in found.tolist()]


@pytest.mark.parametrize(
    ("m", "advantages"),
    [(0.25, [-1.5, 0.5, 0.5, 0.5]), (0.5, [0, 0, 0, 0]), (0.75, [1.5, -0.5, -0.5, -0.5])],
)
def test_the_drawn_rollout_gains_above_chance_and_loses_below(m, advantages):
    """METHOD's own figures: equal own rewards, four rollouts, the first drawn."""
    second = [1.0] * int(4 * m) + [0.0] * int(4 - 4 * m)
    (first, last) = ours([[1.0] * 4, second], [0, None], LAMBDA)
    assert first == pytest.approx([1 + LAMBDA * m] + [1 + LAMBDA / 2] * 3)
    assert last == second
    centred = np.array(first) - np.mean(first)
    assert (centred / (np.std(first, ddof=1) + 1e-9)).tolist() == pytest.approx(
        advantages, abs=1e-6
    )


def test_any_number_of_rounds_is_as_computed_plainly():
    draw = np.random.default_rng(0)
    for _ in range(200):
        rounds = int(draw.integers(2, 5))
        rewards = [
            [None if draw.random() < 0.2 else float(draw.integers(2)) for _ in range(4)]
            for _ in range(rounds)
        ]
        drawn = [None if draw.random() < 0.2 else int(draw.integers(4)) for _ in range(rounds - 1)]
        found, expected = ours(rewards, [*drawn, None], LAMBDA), plainly(rewards, drawn, LAMBDA)
        for one, two in zip(found, expected, strict=True):
            assert one == [each if each is None else pytest.approx(each) for each in two]


@pytest.mark.parametrize("rounds", [2, 3])
def test_a_training_gives_each_round_the_advantages_of_credited_rewards(tmp_path, rounds):
    steps = {2: 1, 3: 3}[rounds]
    trainer = tiny.rl(
        str(tmp_path), rounds=rounds, round_credit=LAMBDA, max_steps=2,
        per_device_train_batch_size=8 * rounds // 2 if rounds == 2 else 8,
        gradient_accumulation_steps=steps, steps_per_generation=steps,
    )  # fmt: skip
    trainer.train()
    tables = [pd.read_parquet(file) for file in sorted((tmp_path / "completions").iterdir())]
    assert len(tables) == 2
    gains = 0
    for table in tables:
        assert set(table["round"]) == set(range(1, rounds + 1))
        for _, case in table.groupby("case_id", sort=False):
            by_round = [case[case["round"] == number] for number in range(1, rounds + 1)]
            rewards = [
                [None if np.isnan(each) else each for each in own["own_reward"].astype(float)]
                for own in by_round
            ]
            drawn = [
                next((i for i, text in enumerate(own["completion"]) if is_of(text, earlier)), None)
                for own, following in pairwise(by_round)
                for earlier in [following["d_prev"].iloc[0]]
            ]
            for own, credited in zip(by_round, plainly(rewards, drawn, LAMBDA), strict=True):
                expected = pd.Series(credited, dtype=float)
                assert own["reward"].tolist() == pytest.approx(expected.tolist(), nan_ok=True)
                spread = 0.0 if expected.count() < 2 else expected.std()
                advantages = ((expected - expected.mean()) / (spread + 1e-4)).fillna(0.0)
                assert own["advantage"].tolist() == pytest.approx(advantages.tolist(), abs=1e-3)
            gains += sum(place is not None for place in drawn)
    assert gains > 0
    own = tables[0][tables[0]["round"] == 1]["own_reward"].astype(float).mean()
    assert trainer.state.log_history[0]["reward/round_1"] == pytest.approx(own)


def is_of(completion, description):
    return description is not None and f"<answer> {description} </answer>" in completion
