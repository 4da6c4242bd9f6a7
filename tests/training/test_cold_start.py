"""The loss of cold start is METHOD's, and its examples are whole."""

from __future__ import annotations

import copy
from itertools import chain

import pytest
import torch

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.training.callbacks import train
from alignxplore_trl.training.cold_start import ColdStartConfig, fit_examples
from tests.training import tiny


def formula(model, examples):
    """1/N Σ_i 1/T_i Σ_t -log p(token_t), in float64, one example at a time."""
    losses = []
    for example in examples:
        read = tiny.tokenizer()(example["prompt"]).input_ids
        written = [
            *tiny.tokenizer()(example["completion"]).input_ids,
            tiny.tokenizer().eos_token_id,
        ]
        logits = model(torch.tensor([read + written])).logits[0, len(read) - 1 : -1]
        losses.append(-logits.log_softmax(-1)[range(len(written)), written].mean())
    return torch.stack(losses).mean()


def test_gradients_are_the_formulas_in_full_and_in_short_steps(tmp_path):
    """Ten examples in micro-batches of two: steps of four, four and two examples."""
    changes = {"optim": "sgd", "learning_rate": 0.0, "lr_scheduler_type": "constant"}
    trainer = tiny.cold_start(
        str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=2,
        save_strategy="no", **changes,
    )  # fmt: skip
    gradients, seen = tiny.Gradients(), []
    trainer.add_callback(gradients)
    step = trainer.training_step

    def seeing(model, inputs, number):
        seen.append([row[row != 0].tolist() for row in copy.deepcopy(inputs["input_ids"])])
        return step(model, inputs, number)

    trainer.training_step = seeing
    trainer.train()
    by_ids = {
        tuple(tiny.tokenizer()(each["prompt"] + each["completion"]).input_ids): each
        for each in tiny.examples(10)
    }
    batches = [[by_ids[tuple(ids[:-1])] for ids in batch] for batch in seen]
    assert [len(batch) for batch in batches] == [2, 2, 2, 2, 2]
    model = tiny.model().double()
    for number, found in enumerate(gradients.steps):
        model.zero_grad()
        loss = formula(model, list(chain(*batches[2 * number : 2 * number + 2])))
        loss.backward()
        assert trainer.state.log_history[number]["loss"] == pytest.approx(loss.item(), abs=1e-5)
        for name, weight in model.named_parameters():
            torch.testing.assert_close(found[name].double(), weight.grad, rtol=1e-4, atol=1e-6)


def test_prompt_and_completion_are_tokenised_apart_and_nothing_is_cut():
    tokenizer = tiny.tokenizer()
    examples = [
        {"prompt": "the post", "completion": "er chosen </answer>"},
        {"prompt": "the post " * 50, "completion": "long"},
    ]
    data, counts = fit_examples(examples, tokenizer, max_length=40)
    (row,) = data
    read = tokenizer("the post").input_ids
    assert row["input_ids"][: len(read)] == read
    assert row["labels"] == [-100] * len(read) + row["input_ids"][len(read) :]
    assert row["labels"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(row["input_ids"][len(read) : -1]) == "er chosen </answer>"
    assert counts["examples"] == 2
    assert counts["too_long"] == 1
    assert counts["longest"] > 40


def test_examples_that_cant_be_learned_are_refused():
    with pytest.raises(UserError, match=r"cold_start.max_length: 3 .*none of 2 examples fits"):
        fit_examples(tiny.examples(2), tiny.tokenizer(), max_length=3)
    endless = copy.deepcopy(tiny.tokenizer())
    endless.eos_token = None
    with pytest.raises(UserError, match="eos_token"):
        fit_examples(tiny.examples(2), endless, max_length=400)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"packing": True}, "packing=True, expected False"),
        ({"loss_type": "dft"}, "loss_type=dft, expected nll"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices=False"),
        ({"save_total_limit": 1}, "save_total_limit=1, expected 2 or more"),
    ],
)
def test_values_that_would_change_the_loss_or_a_resume_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        tiny.arguments(ColdStartConfig, str(tmp_path), **change)


def test_a_run_that_was_killed_behind_its_last_step_takes_no_further_one(tmp_path):
    run = {"max_steps": 2, "per_device_train_batch_size": 2}
    first, again = (tiny.cold_start(str(tmp_path), **run) for _ in range(2))
    assert train(first)["steps"] == 2
    assert train(again) == {"steps": 2}
    assert all(map(torch.equal, first.model.parameters(), again.model.parameters()))
