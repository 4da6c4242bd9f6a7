from pathlib import Path

import pytest
import tiny_cold_start
import torch
from datasets import Dataset
from tiny_cold_start import Run, examples, make_trainer, results
from tiny_training import launch, tiny_model, tiny_tokenizer

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.training.cold_start import fit_examples


def plain_step(micro_batches):
    """Loss and gradients of one optimizer step: the mean over all its examples of token means."""
    model = tiny_model()
    losses = []
    for batch in micro_batches:
        for ids, labels, mask in zip(
            batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
        ):
            length = int(mask.sum())
            logits = model(input_ids=ids[None, :length]).logits[0, :-1]
            taught = labels[1:length] != -100
            log_p = logits.log_softmax(-1).gather(1, ids[1:length, None])[:, 0]
            losses.append(-log_p[taught].mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_is_plain(result, groups):
    assert len(result["gradients"]) == len(result["losses"]) == len(groups)
    for gradients, loss, group in zip(result["gradients"], result["losses"], groups, strict=True):
        expected_loss, expected = plain_step(group)
        assert float(loss) == pytest.approx(expected_loss, rel=1e-4)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("accumulation", "sizes"),
    [(1, [[2], [2], [2], [1]]), (2, [[2, 2], [2, 1]]), (3, [[2, 2, 2], [1]])],
)
def test_loss_and_gradient_are_the_mean_over_examples_of_token_means(tmp_path, accumulation, sizes):
    trainer, recorder = make_trainer(Run(str(tmp_path), 7, 2, accumulation))
    trainer.train()
    result = results(trainer, recorder)
    batches = iter(result["micro_batches"])
    groups = [[next(batches) for _ in group] for group in sizes]
    assert [[len(batch["labels"]) for batch in group] for group in groups] == sizes
    assert_is_plain(result, groups)


def test_examples_of_unequal_length_tell_the_loss_from_a_token_mean(tmp_path):
    trainer, recorder = make_trainer(Run(str(tmp_path), 4, 4, 1))
    trainer.train()
    (batch,) = trainer.micro_batches
    counts = (batch["labels"] != -100).sum(1)
    assert counts.max() > 2 * counts.min()
    with torch.no_grad():
        token_mean = tiny_model()(**batch).loss.item()
    (loss,) = results(trainer, recorder)["losses"]
    assert abs(float(loss) - token_mean) > 1e-3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_divide_by_the_examples_of_both(tmp_path):
    run = Run(str(tmp_path), examples=12, per_device_batch=2, accumulation=2)
    script = Path(tiny_cold_start.__file__)
    finished = launch(script, run, processes=2)
    assert finished.returncode == 0, finished.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"result_{process}.pt") for process in (0, 1))
    batches = list(zip(first["micro_batches"], second["micro_batches"], strict=True))
    sizes = [[len(part["labels"]) for part in batch] for batch in batches]
    assert sizes == [[2, 2], [2, 2], [2, 2]]
    groups = [[*batches[0], *batches[1]], [*batches[2]]]
    assert_is_plain(first, groups)
    for name, gradient in first["gradients"][0].items():
        assert torch.equal(gradient, second["gradients"][0][name])


def test_evaluation_is_the_mean_over_examples(tmp_path):
    trainer, _ = make_trainer(Run(str(tmp_path), 3, 3, 1))
    (batch,) = list(trainer.get_train_dataloader())
    trainer.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, dict(batch))
    assert loss.item() == pytest.approx(plain_step([batch])[0], rel=1e-4)


def test_prompt_tokens_are_those_of_generation_and_the_end_is_taught():
    tokenizer = tiny_tokenizer()
    (example,) = examples(1)
    dataset, _ = fit_examples([example], tokenizer, max_length=300)
    (row,) = dataset
    prompt = tokenizer(example["prompt"])["input_ids"]
    assert row["input_ids"][: len(prompt)] == prompt
    assert row["labels"][: len(prompt)] == [-100] * len(prompt)
    taught = row["labels"][len(prompt) :]
    assert taught == row["input_ids"][len(prompt) :]
    assert tokenizer.decode(taught) == example["completion"] + tokenizer.eos_token
    assert taught[-1] == tokenizer.eos_token_id


def test_tokens_do_not_merge_across_the_border():
    tokenizer = tiny_tokenizer()
    prompt, completion = "chosen ca", "utiously"
    apart = tokenizer(prompt)["input_ids"] + tokenizer(completion)["input_ids"]
    assert tokenizer(prompt + completion)["input_ids"] != apart
    dataset, _ = fit_examples([{"prompt": prompt, "completion": completion}], tokenizer, 300)
    assert dataset[0]["input_ids"] == [*apart, tokenizer.eos_token_id]


def test_examples_that_do_not_fit_are_left_out_whole_and_counted():
    tokenizer = tiny_tokenizer()
    given = examples(4)
    whole, counts = fit_examples(given, tokenizer, max_length=10_000)
    lengths = [len(ids) for ids in whole["input_ids"]]
    assert counts == {"examples": 4, "kept": 4, "too_long": 0, "longest": max(lengths)}
    limit = sorted(lengths)[1]
    kept, counts = fit_examples(given, tokenizer, max_length=limit)
    fitting = [i for i, length in enumerate(lengths) if length <= limit]
    assert list(kept["input_ids"]) == [whole[i]["input_ids"] for i in fitting]
    assert counts == {
        "examples": 4,
        "kept": len(fitting),
        "too_long": 4 - len(fitting),
        "longest": max(lengths),
    }


@pytest.mark.parametrize("given", [examples(2), []])
def test_nothing_that_fits_is_refused(given):
    with pytest.raises(UserError, match=r"trainer.max_length: 5 tokens found"):
        fit_examples(given, tiny_tokenizer(), max_length=5)


def test_settings_that_would_change_the_loss_are_refused_all_at_once(tmp_path):
    with pytest.raises(UserError) as error:
        make_trainer(
            Run(str(tmp_path), 4, 2, 1),
            packing=True,
            packing_strategy="wrapped",
            label_smoothing_factor=0.1,
            loss_type="dft",
            max_length=20,
        )
    keys = [problem.split(":")[0] for problem in error.value.problems]
    assert keys == [
        "trainer.max_length",
        "trainer.label_smoothing_factor",
        "trainer.packing_strategy",
        "trainer.loss_type",
    ]


def test_examples_in_another_form_are_refused(tmp_path):
    trainer, _ = make_trainer(Run(str(tmp_path), 4, 2, 1))
    with pytest.raises(UserError, match="make them with fit_examples"):
        type(trainer)(tiny_model(), trainer.args, Dataset.from_list(examples(2)), tiny_tokenizer())
