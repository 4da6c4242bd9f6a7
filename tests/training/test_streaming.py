"""The trainer on one process: plain formulas, earlier descriptions, refusals, and its logs."""

import json
import logging
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, IterableDataset
from tiny_training import (
    PROMPTS,
    GradientRecorder,
    Run,
    hash_reward,
    make_trainer,
    prompt_with,
    tiny_model,
    tiny_tokenizer,
    world_rows,
    written_completion,
)
from trl import GRPOConfig, GRPOTrainer

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import signal_from_dict
from alignxplore_trl.text.parsing import Inference, parse_completion
from alignxplore_trl.training.checkpoints import last_complete_checkpoint
from alignxplore_trl.training.streaming import RoundsGRPOTrainer


def completions_of(folder):
    """The completions of a run, one frame per generation batch, in order."""
    return [pd.read_parquet(file) for file in sorted((folder / "completions").iterdir())]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One epoch of written completions on two rounds, saved after every update."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [{**row, "user_id": "the same user"} for row in world_rows(cases=13, rounds=2, fewer=5)]
    run = Run(str(folder), epochs=1, completions="written")
    trainer = make_trainer(run, rows)
    recorder = GradientRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    return trainer, recorder, completions_of(folder), {(r["case_id"], r["round"]): r for r in rows}


def plain_advantages(rewards):
    """(R - mean) / (std + 1e-4) over what a group's judge could score; 0 for the others."""
    groups = np.asarray(rewards, dtype=float).reshape(-1, 4)
    mean = np.nanmean(groups, axis=1, keepdims=True)
    deviation = np.nanstd(groups, axis=1, ddof=1, keepdims=True)
    return np.nan_to_num((groups - mean) / (deviation + 1e-4)).ravel()


def log_probabilities(model, prompt, completion):
    """Log-probabilities of a completion's tokens, end-of-text included."""
    tokenizer = tiny_tokenizer()
    before = tokenizer(prompt)["input_ids"]
    after = [*tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
    logits = model(input_ids=torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(after)[:, None])[:, 0]


def test_advantages_are_rewards_normalised_over_the_group(trained):
    _, _, frames, _ = trained
    for frame in frames:
        np.testing.assert_allclose(frame["advantage"], plain_advantages(frame["reward"]), atol=1e-5)
    rewards = pd.concat(frames)["reward"]
    assert rewards.isna().any(), "a reward of None is to be among the cases"
    assert pd.concat(frames)["advantage"][rewards.isna()].eq(0).all()


def test_rewards_are_those_of_the_completions_beside_them(trained):
    _, _, frames, _ = trained
    for frame in frames:
        again = hash_reward(list(frame["completion"]), list(frame["case_id"]))
        np.testing.assert_array_equal(frame["reward"], np.array(again, dtype=float))


def test_the_first_update_follows_the_plain_gradient(trained):
    _, recorder, frames, _ = trained
    model = tiny_model()
    losses = [
        -advantage * log_probabilities(model, prompt, completion).mean()
        for prompt, completion, advantage in zip(
            frames[0]["prompt"], frames[0]["completion"], frames[0]["advantage"], strict=True
        )
    ]
    # With a ratio of 1 the gradient of ratio x A is A x the gradient of the log-probability.
    torch.stack(losses).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(recorder.steps[0][name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_the_loss_is_the_clipped_ratio_averaged_per_sequence(tmp_path):
    trainer = make_trainer(Run(str(tmp_path)))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    generator = torch.Generator().manual_seed(0)
    prompt_ids = torch.randint(10, 200, (4, 5), generator=generator)
    prompt_mask = torch.ones_like(prompt_ids)
    prompt_mask[0, :2] = 0
    completion_ids = torch.randint(10, 200, (4, 6), generator=generator)
    completion_mask = torch.ones_like(completion_ids)
    completion_mask[1, 4:] = 0
    completion_mask[3, 2:] = 0
    advantages = torch.tensor([1.5, -0.5, 0.7, -1.2])
    ids = torch.cat([prompt_ids, completion_ids], 1)
    mask = torch.cat([prompt_mask, completion_mask], 1)
    logits = trainer.model(input_ids=ids, attention_mask=mask).logits[:, 4:-1]
    log_p = logits.log_softmax(-1).gather(2, completion_ids[..., None])[..., 0]
    old = (log_p + 0.5 * torch.randn(log_p.shape, generator=generator)).detach()

    ratio = (log_p - old).exp()
    weighted = advantages[:, None] * ratio
    clipped = advantages[:, None] * ratio.clamp(0.8, 1.2)
    per_token = -torch.minimum(weighted, clipped)
    expected = ((per_token * completion_mask).sum(1) / completion_mask.sum(1)).mean()
    assert ((weighted > clipped) & completion_mask.bool()).any(), "the clipping is to matter"

    loss = trainer.compute_loss(
        trainer.model,
        {
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
            "completion_ids": completion_ids,
            "completion_mask": completion_mask,
            "advantages": advantages,
            "old_per_token_logps": old,
        },
    )
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)


def test_a_round_starts_from_a_description_of_the_case_s_own_round_before(trained):
    _, _, frames, rows = trained
    seen = []
    written_in_round_before: dict[str, list[str]] = {}
    for frame in frames:
        (round_number,) = set(frame["round"])
        for case_id, group in frame.groupby("case_id", sort=False):
            assert len(group) == 4
            (d_prev,) = {None if pd.isna(text) else text for text in group["d_prev"]}
            if round_number == 1:
                assert d_prev is None
                assert set(group["prompt"]) == {rows[case_id, 1]["prompt"]}
                continue
            written = written_in_round_before[case_id]
            seen.append(d_prev)
            assert d_prev in written if written else d_prev is None
            signals = [signal_from_dict(s) for s in json.loads(rows[case_id, 2]["signals"])]
            assert set(group["prompt"]) == {PROMPTS.inference(signals, d_prev)}
        written_in_round_before = {
            case_id: [
                parsed.description
                for parsed in map(parse_completion, group["completion"])
                if isinstance(parsed, Inference)
            ]
            for case_id, group in frame.groupby("case_id")
        }
    assert None in seen
    assert any(seen), "with and without a well-formed rollout are both to be among the cases"


def test_a_description_cannot_break_out_of_its_slot(trained):
    _, _, frames, _ = trained
    for frame in frames:
        with_earlier = frame[frame["d_prev"].notna()]
        assert with_earlier["d_prev"].str.contains("<post>").all()
        assert (with_earlier["prompt"].str.count("<post>") == 2).all()
        assert (with_earlier["prompt"].str.count("<earlier>") == 1).all()


def test_shares_are_logged_with_the_right_values(trained):
    trainer, _, frames, _ = trained
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == len(frames)
    for entry, frame in zip(logs, frames, strict=True):
        (round_number,) = set(frame["round"])
        parsed = [parse_completion(text) for text in frame["completion"]]
        well_formed = np.mean([isinstance(outcome, Inference) for outcome in parsed])
        assert entry["completions/well_formed"] == pytest.approx(well_formed)
        assert entry["completions/unscored"] == pytest.approx(frame["reward"].isna().mean())
        assert entry[f"reward/round_{round_number}"] == pytest.approx(frame["reward"].mean())
        assert ("earlier_description/missing" in entry) == (round_number == 2)
        if round_number == 2:
            missing = frame["d_prev"].isna().mean()
            assert entry["earlier_description/missing"] == pytest.approx(missing)
            assert entry["earlier_description/prompt_shortened"] == 0


def test_prompts_with_an_earlier_description_keep_the_budget(tmp_path):
    rows = world_rows(cases=9, rounds=2)
    longest = max(len(tiny_tokenizer()(row["prompt"])["input_ids"]) for row in rows)
    trainer = make_trainer(Run(str(tmp_path), epochs=1, completions="written"), rows)
    trainer.prompt_with = partial(prompt_with, max_tokens=longest + 2)
    trainer.train()
    for frame in completions_of(tmp_path):
        lengths = [len(tiny_tokenizer()(prompt)["input_ids"]) for prompt in frame["prompt"]]
        assert max(lengths) <= longest + 2
    shortened = [
        entry["earlier_description/prompt_shortened"]
        for entry in trainer.state.log_history
        if "earlier_description/prompt_shortened" in entry
    ]
    assert max(shortened) > 0


def test_a_description_too_long_for_the_budget_is_left_out_and_counted(tmp_path):
    trainer = make_trainer(Run(str(tmp_path), epochs=1, completions="written"))
    trainer.prompt_with = partial(prompt_with, max_tokens=3)
    trainer.train()
    for frame in completions_of(tmp_path):
        assert frame["d_prev"].isna().all()
    logs = [e for e in trainer.state.log_history if "earlier_description/too_long" in e]
    assert max(entry["earlier_description/too_long"] for entry in logs) > 0
    assert all(entry["earlier_description/missing"] == 1 for entry in logs)


def test_base_setting_is_one_round_without_earlier_descriptions(tmp_path):
    trainer = make_trainer(Run(str(tmp_path), rounds=1, epochs=1, completions="written"))
    trainer.train()
    frames = completions_of(tmp_path)
    assert len(frames) == 2
    assert all(frame["d_prev"].isna().all() and set(frame["round"]) == {1} for frame in frames)


def test_three_rounds_follow_each_other(tmp_path):
    trainer = make_trainer(Run(str(tmp_path), cases=5, rounds=3, epochs=1, completions="written"))
    trainer.train()
    frames = completions_of(tmp_path)
    assert [set(frame["round"]) for frame in frames] == [{1}, {2}, {3}]
    for before, after in pairwise(frames):
        texts = set(before["completion"])
        for d_prev in after["d_prev"].dropna():
            assert any(d_prev in text for text in texts)


def test_user_text_is_not_logged_when_nothing_could_be_scored(tmp_path, caplog):
    def unscored(completions, **columns):
        return [None] * len(completions)

    trainer = make_trainer(
        Run(str(tmp_path), epochs=1, completions="written"), reward=unscored, max_steps=1
    )
    with caplog.at_level(logging.DEBUG):
        trainer.train()
    assert trainer.state.log_history[0]["completions/unscored"] == 1
    posts = {row["post"] for row in world_rows(cases=9, rounds=2)}
    assert not any(post in record.getMessage() for record in caplog.records for post in posts)
    # The silenced warning is real: without the override TRL does log the row.
    rows = world_rows(cases=1, rounds=1)
    GRPOTrainer._calculate_rewards(trainer, rows, ["p"], ["c"], [[1]])
    assert any(rows[0]["post"] in record.getMessage() for record in caplog.records)


def test_warnings_of_trl_are_heard_again_after_rewards(tmp_path, caplog):
    trainer = make_trainer(Run(str(tmp_path), epochs=1, completions="written"), max_steps=1)
    trainer.train()
    logging.getLogger("trl.trainer.grpo_trainer").warning("still heard")
    assert "still heard" in caplog.text


def test_cases_that_fill_no_block_are_reported(tmp_path, caplog):
    trainer = make_trainer(Run(str(tmp_path), cases=9, fewer=3))
    counts = trainer.sampler.counts
    assert (counts.cases, counts.blocks, counts.left_out, counts.never_used) == (9, 1, 2, 3)
    assert "Of 9 cases 2 do not fill a block and are left out" in caplog.text
    assert "3 are never used" in caplog.text


def test_nothing_happens_outside_training_mode(tmp_path):
    trainer = make_trainer(Run(str(tmp_path), completions="written"))
    trainer.model.eval()
    rows = [row for row in world_rows(cases=4, rounds=2) if row["round"] == 2]
    trainer._generate_and_score_completions([row for row in rows for _ in range(4)])
    with pytest.raises(RuntimeError, match="last generation batch was round 0"):
        trainer.earlier.before(rows[0]["case_id"], 2)


def test_a_checkpoint_inside_a_generation_batch_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="save_steps: 1 x gradient_accumulation_steps 1 = 1"
    ) as error:
        make_trainer(Run(str(tmp_path), accumulation=1), steps_per_generation=2)
    assert "multiple of steps_per_generation x num_iterations = 2" in str(error.value)
    trainer = make_trainer(
        Run(str(tmp_path), accumulation=1, epochs=1), steps_per_generation=2, save_strategy="no"
    )
    trainer._step = 1
    with pytest.raises(RuntimeError, match="1 micro-batches into a generation batch"):
        trainer._save_checkpoint(trainer.model, None)


def test_settings_that_do_not_go_with_rounds_are_refused_all_at_once(tmp_path):
    with pytest.raises(UserError) as error:
        make_trainer(
            Run(str(tmp_path)),
            reward=[hash_reward, hash_reward],
            num_iterations=2,
            save_strategy="no",
            eval_strategy="steps",
            per_device_eval_batch_size=4,
            eval_steps=1,
            remove_unused_columns=True,
        )
    keys = [problem.split(":")[0] for problem in error.value.problems]
    assert keys == [
        "reward",
        "trainer.num_iterations",
        "trainer.eval_strategy",
        "trainer.remove_unused_columns",
    ]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (IterableDataset.from_generator(lambda: iter(())), "IterableDataset found"),
        (Dataset.from_list([{"prompt": "p", "case_id": "c"}]), r"\['chosen', 'post', 'rejected'"),
        (Dataset.from_list(world_rows(cases=9, rounds=3)), "setting.rounds: 2 found, but"),
        (Dataset.from_list(world_rows(cases=3, rounds=2)), "3 with 2 rounds found, expected at"),
    ],
)
def test_data_sets_that_cannot_be_trained_on_are_refused_before_any_model(
    tmp_path, dataset, message
):
    args = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=16,
        num_generations=4,
        use_cpu=True,
        report_to="none",
    )
    with pytest.raises(UserError, match=message):
        RoundsGRPOTrainer(
            "no such model",
            hash_reward,
            args,
            dataset,
            tiny_tokenizer(),
            prompt_with=prompt_with,
            rounds=2,
        )


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    """In this process; kills of real processes are in test_resume.py."""
    run = Run(str(tmp_path / "whole"), cases=5, completions="framed")
    whole = make_trainer(run, lr_scheduler_type="constant")
    whole.train()
    assert whole.state.global_step == 4
    parts = replace(run, folder=str(tmp_path / "parts"))
    for updates in (1, 3, 4):  # An epoch has two updates: both pauses are between rounds.
        trainer = make_trainer(parts, max_steps=updates, lr_scheduler_type="constant")
        checkpoint = last_complete_checkpoint(tmp_path / "parts")
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        assert trainer.state.global_step == updates
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name])
    frames = zip(
        completions_of(tmp_path / "whole"), completions_of(tmp_path / "parts"), strict=True
    )
    for uninterrupted, resumed in frames:
        pd.testing.assert_frame_equal(uninterrupted, resumed)


def test_written_completions_are_what_the_tests_need():
    texts = [written_completion("a prompt", place) for place in range(40)]
    kinds = {isinstance(parse_completion(text), Inference) for text in texts}
    assert kinds == {True, False}
