"""Credit across rounds: plain loops, laws, and the trainer whose advantages follow from it."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_training
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import (
    GradientRecorder,
    Run,
    launch,
    make_trainer,
    prompt_with,
    tiny_model,
    tiny_tokenizer,
)

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.parsing import Inference, parse_completion
from alignxplore_trl.training.checkpoints import last_complete_checkpoint
from alignxplore_trl.training.credit import (
    credit_metrics,
    credit_problems,
    credited_rewards,
    group_advantages,
)


def plain_credited(rewards, well_formed, drawn, credit):
    """One number after the other, as the rule reads."""
    credited = [[list(group) for group in number] for number in rewards]
    for number in range(len(rewards) - 2, -1, -1):
        for case in range(len(rewards[number])):
            later = [value for value in credited[number + 1][case] if not np.isnan(value)]
            if not later or not any(drawn[number][case]):
                continue
            for place in range(len(rewards[number][case])):
                if drawn[number][case][place]:
                    credited[number][case][place] += credit * sum(later) / len(later)
                elif well_formed[number][case][place]:
                    credited[number][case][place] += credit / 2 * sum(later) / len(later)
    return credited


@st.composite
def blocks(draw):
    """Rewards, what is well-formed, and what was drawn, of 1 to 4 rounds of 1 to 3 cases."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(2, 4)))
    rewards = np.full(shape, np.nan)
    well_formed, drawn = np.zeros(shape, bool), np.zeros(shape, bool)
    for place in np.ndindex(shape):
        rewards[place] = draw(st.sampled_from([0.0, 1.0, 0.25, np.nan]))
        well_formed[place] = draw(st.booleans())
        if not well_formed[place]:
            rewards[place] = 0.0
    for number, case in np.ndindex(shape[0] - 1, shape[1]):
        could = np.flatnonzero(well_formed[number, case])
        # None where the description was too long for the next prompt, too.
        if could.size and draw(st.integers(0, 4)):
            drawn[number, case, draw(st.sampled_from(list(could)))] = True
    return rewards, well_formed, drawn


@given(blocks(), st.sampled_from([0.0, 0.45, 0.9, 1.0]))
def test_credit_is_what_the_rule_says(block, credit):
    credited = credited_rewards(*block, credit)
    np.testing.assert_allclose(credited, plain_credited(*block, credit))


@given(blocks())
def test_credit_goes_to_what_was_read_and_leaves_the_rest_alone(block):
    rewards, well_formed, _ = block
    credited = credited_rewards(*block, 0.9)
    np.testing.assert_array_equal(np.isnan(credited), np.isnan(rewards))
    np.testing.assert_array_equal(credited[-1], rewards[-1])
    np.testing.assert_array_equal(credited[~well_formed], rewards[~well_formed])
    assert (np.nan_to_num(credited - rewards) >= 0).all()
    np.testing.assert_array_equal(credited_rewards(*block, 0.0), rewards)


def test_credit_flows_back_through_several_rounds():
    rewards = np.array([[[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 1.0]]])
    drawn = np.array([[[True, False]], [[False, True]], [[False, False]]])
    credited = credited_rewards(rewards, np.ones_like(drawn), drawn, 0.9)
    second = [0.45, 0.9]
    first = [0.9 * np.mean(second), 0.45 * np.mean(second)]
    np.testing.assert_allclose(credited, [[first], [second], [[1.0, 1.0]]])


@given(blocks())
def test_advantages_are_those_of_groups(block):
    rewards, _, _ = block
    advantages = group_advantages(rewards)
    for place in np.ndindex(rewards.shape[:2]):
        scored = rewards[place][~np.isnan(rewards[place])]
        deviation = scored.std(ddof=1) if len(scored) > 1 else 0.0
        expected = [
            0.0 if np.isnan(reward) else (reward - scored.mean()) / (deviation + 1e-4)
            for reward in rewards[place]
        ]
        np.testing.assert_allclose(advantages[place], expected, atol=1e-9)


def test_metrics_count_the_cases_without_credit():
    rewards = np.array([[[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [np.nan, np.nan]]])
    drawn = np.zeros(rewards.shape, bool)
    drawn[0, :, 0] = True
    credited = credited_rewards(rewards, ~np.zeros_like(drawn), drawn, 0.9)
    assert credit_metrics(rewards, credited, drawn) == {
        "credit/round_1": pytest.approx((0.9 + 0.45 + 0 + 0) / 4),
        "credit/cases_without": 0.5,
        "credit/frac_reward_zero_std": 0.75,
    }


def test_an_update_must_hold_all_rounds_of_a_block():
    assert credit_problems(0.0, 1, 3, 1) == []
    assert credit_problems(0.9, 3, 2, 6) == []
    (problem,) = credit_problems(0.9, 3, 2, 2)
    assert "3 rounds x steps_per_generation 2 = 6 micro-batches" in problem
    assert problem.endswith("set trainer.gradient_accumulation_steps=6")
    (problem,) = credit_problems(0.9, 1, 2, 2)
    assert problem == "round_credit: 0.9 found, expected 0 with one round: none comes after it"


def completions_of(folder):
    """The completions of a run, one frame per update, in order."""
    return [pd.read_parquet(file) for file in sorted((folder / "completions").iterdir())]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three blocks of two cases in three rounds; three cases of two rounds are left out."""
    folder = tmp_path_factory.mktemp("credited")
    run = Run(
        str(folder), fewer=3, rounds=3, accumulation=3, epochs=1, completions="written", credit=0.9
    )
    trainer = make_trainer(run)
    recorder = GradientRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    return trainer, recorder, completions_of(folder)


def by_case(frame, values):
    return np.asarray(values).reshape(frame["round"].nunique(), -1, 4)


def test_a_block_is_one_update(trained):
    trainer, _, frames = trained
    assert trainer.state.global_step == len(frames) == 3
    for frame in frames:
        assert list(frame["round"]) == [1] * 8 + [2] * 8 + [3] * 8
        assert frame["case_id"].nunique() == 2
        for _, of_case in frame.groupby("case_id"):
            assert len(of_case) == 12


def test_cases_with_fewer_rounds_are_left_out_and_counted(trained):
    trainer, _, frames = trained
    counts = trainer.sampler.counts
    assert (counts.cases, counts.blocks, counts.left_out, counts.never_used) == (9, 3, 0, 3)
    assert pd.concat(frames)["case_id"].nunique() == 6


def test_a_round_starts_from_the_rollout_that_is_credited(trained):
    _, _, frames = trained
    for frame in frames:
        for _, of_case in frame.groupby("case_id"):
            for number in (1, 2):
                before = of_case[of_case["round"] == number]
                read = of_case[of_case["round"] == number + 1]["d_prev"]
                drawn = [
                    parse_completion(text).description
                    for text in before["completion"][before["drawn"]]
                ]
                assert len(drawn) <= 1
                assert set(read.dropna()) == set(drawn)
                assert read.nunique(dropna=False) == 1


def test_advantages_are_those_of_credited_rewards(trained):
    _, _, frames = trained
    for frame in frames:
        rewards = by_case(frame, frame["reward"])
        well_formed = by_case(
            frame, [isinstance(parse_completion(text), Inference) for text in frame["completion"]]
        )
        drawn = by_case(frame, frame["drawn"] & (frame["round"] < 3))
        credited = plain_credited(rewards, well_formed, drawn, 0.9)
        np.testing.assert_allclose(by_case(frame, frame["credited_reward"]), credited)
        expected = group_advantages(np.array(credited))
        np.testing.assert_allclose(by_case(frame, frame["advantage"]), expected)
    every = pd.concat(frames)
    assert every["reward"].isna().any(), "a reward of None is to be among the cases"
    assert (every["credited_reward"] > every["reward"]).any()


def test_the_first_update_follows_the_plain_gradient_of_all_rounds(trained):
    _, recorder, frames = trained
    model, tokenizer = tiny_model(), tiny_tokenizer()
    losses = []
    for prompt, completion, advantage in zip(
        frames[0]["prompt"], frames[0]["completion"], frames[0]["advantage"], strict=True
    ):
        before = tokenizer(prompt)["input_ids"]
        after = [*tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
        logits = model(input_ids=torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
        log_p = logits.log_softmax(-1).gather(1, torch.tensor(after)[:, None])
        losses.append(-advantage * log_p.mean())
    torch.stack(losses).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(recorder.steps[0][name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_what_credit_came_to_is_logged(trained):
    trainer, _, frames = trained
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry, frame in zip(logs, frames, strict=True):
        for number in (1, 2):
            of_round = frame[frame["round"] == number]
            given_credit = (of_round["credited_reward"] - of_round["reward"]).mean()
            assert entry[f"credit/round_{number}"] == pytest.approx(given_credit)
        for number in (1, 2, 3):
            reward = frame[frame["round"] == number]["reward"].mean()
            assert entry[f"reward/round_{number}"] == pytest.approx(reward)


def test_a_description_that_the_next_round_could_not_read_earns_nothing(tmp_path):
    run = Run(str(tmp_path), cases=4, epochs=1, completions="written", credit=0.9)
    trainer = make_trainer(run)
    trainer.prompt_with = partial(prompt_with, max_tokens=3)
    trainer.train()
    rollouts = pd.concat(completions_of(tmp_path))
    assert rollouts["drawn"].any()
    np.testing.assert_array_equal(rollouts["credited_reward"], rollouts["reward"])
    assert trainer.state.log_history[0]["credit/cases_without"] == 1


def test_a_round_without_its_block_is_an_error(tmp_path):
    trainer = make_trainer(Run(str(tmp_path), completions="written", credit=0.9))
    trainer.model.train()
    later = [row for row in trainer.train_dataset if row["round"] == 2]
    with pytest.raises(RuntimeError, match="round 2 of 2 is asked for, but 0 rounds"):
        trainer._generate_and_score_completions(later[:2])


def test_settings_that_do_not_go_with_credit_are_refused(tmp_path):
    with pytest.raises(UserError) as error:
        make_trainer(
            Run(str(tmp_path), credit=0.9),
            gradient_accumulation_steps=1,
            scale_rewards="none",
            reward_weights=[2.0],
        )
    keys = [problem.split(":")[0] for problem in error.value.problems]
    assert keys == ["round_credit", "trainer.scale_rewards", "trainer.reward_weights"]


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    run = Run(str(tmp_path / "whole"), cases=4, completions="framed", credit=0.9)
    whole = make_trainer(run, lr_scheduler_type="constant")
    whole.train()
    assert whole.state.global_step == 4
    parts = replace(run, folder=str(tmp_path / "parts"))
    for updates in (1, 3, 4):
        trainer = make_trainer(parts, max_steps=updates, lr_scheduler_type="constant")
        checkpoint = last_complete_checkpoint(tmp_path / "parts")
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name])
    for one, two in zip(
        *map(completions_of, (tmp_path / "whole", tmp_path / "parts")), strict=True
    ):
        pd.testing.assert_frame_equal(one, two)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("per_device_batch", [8, 4])
def test_two_processes_give_the_same_credit_as_one(tmp_path, per_device_batch):
    """With two completions on each of two processes, every group lies on both."""
    results = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        run = Run(
            str(folder),
            cases=7,
            fewer=2,
            epochs=1,
            per_device_batch=per_device_batch // processes,
            completions="written",
            optimizer="sgd",
            credit=0.9,
        )
        finished = launch(Path(tiny_training.__file__), run, processes)
        assert finished.returncode == 0, finished.stderr[-3000:]
        results.append((completions_of(folder), torch.load(folder / "result.pt")["gradients"]))
    (alone, gradients_alone), (together, gradients_together) = results
    for one, two in zip(alone, together, strict=True):
        pd.testing.assert_frame_equal(one, two)
    for one, two in zip(gradients_alone, gradients_together, strict=True):
        assert any(gradient.abs().max() > 1e-3 for gradient in one.values())
        for name, gradient in one.items():
            torch.testing.assert_close(two[name], gradient, rtol=1e-4, atol=1e-6)
