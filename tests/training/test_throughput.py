"""Throughput: FLOPs by hand, phases against clocks of their own, totals that outlive a restart."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from tiny_cold_start import Run as ColdStartRun
from tiny_cold_start import make_trainer as make_cold_start
from tiny_training import Run, WritingTrainer, hash_reward, make_trainer, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.training.streaming import RoundsGRPOTrainer
from alignxplore_trl.training.throughput import (
    ModelSize,
    PhaseClock,
    Throughput,
    ThroughputSettings,
    generation_flops,
    peak_tflops_of,
    training_flops,
)

# Width 8, 2 layers, 2 heads of 4, feed-forward 16, vocabulary 32: matrices of a layer 4 x 64 of
# attention and 3 x 128, two norms of 8; the last norm 8, the output layer 256.
SIZE = 2 * (4 * 64 + 3 * 128 + 2 * 8) + 8 + 256


def small_model(tied: bool) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("tied", [True, False])
def test_the_output_layer_counts_and_the_table_of_embeddings_does_not(tied: bool) -> None:
    assert ModelSize.of(small_model(tied)) == ModelSize(SIZE, SIZE, layers=2, attention_width=8)


def test_adapters_count_and_are_all_that_is_trained() -> None:
    adapters = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    size = ModelSize.of(get_peft_model(small_model(tied=True), adapters))
    trained = 2 * 2 * (2 * 8 + 8 * 2)  # layers, matrices, A and B
    assert (size.parameters, size.trained) == (SIZE + trained, trained)


def test_flops_by_hand() -> None:
    """Two sequences of 10 and 20 tokens: 30 tokens, squares 100 + 400."""
    size = ModelSize(parameters=1000, trained=1000, layers=2, attention_width=8)
    assert training_flops(size, 30, 500) == 6 * 1000 * 30 + 12 * 2 * 8 * (10 * 10 + 20 * 20)
    assert generation_flops(size, 30, 500) == 2 * 1000 * 30 + 4 * 2 * 8 * 500
    frozen = replace(size, trained=10)
    assert training_flops(frozen, 30, 0) == (4 * 1000 + 2 * 10) * 30


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L4", 121.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA A10G", None),
        ("Tesla T4", None),
    ],
)
def test_peaks_are_known_by_whole_words_of_a_name(name: str, expected: float | None) -> None:
    assert peak_tflops_of(name) == expected


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_an_inner_phase_interrupts_the_outer_one() -> None:
    now = Hand()
    clock = PhaseClock(now)
    now.seconds += 1  # other
    with clock.phase("train"):
        now.seconds += 2
        with clock.phase("judge"):
            now.seconds += 4
        now.seconds += 8
        send = clock.timed("sync", lambda: setattr(now, "seconds", now.seconds + 16))
        send()
    assert clock.take() == {"other": 1, "train": 10, "judge": 4, "sync": 16}
    assert clock.take() == {"other": 0}


def test_a_phase_ends_with_an_error() -> None:
    now = Hand()
    clock = PhaseClock(now)
    with pytest.raises(ValueError, match="judge"), clock.phase("judge"):
        raise ValueError("judge")
    now.seconds += 3
    assert clock.take()["other"] == 3


def test_the_device_is_waited_for_at_borders() -> None:
    waited: list[str] = []
    clock = PhaseClock(synchronize=lambda: waited.append("here"))
    with clock.phase("generate"):
        pass
    assert len(waited) == 2


def test_utilisation_by_hand() -> None:
    """10 s on devices that could do 100 a second; 4 s of training do 200, 5 s of writing 50."""
    measured = Throughput(
        seconds={"train": 4.0, "generate": 5.0, "other": 1.0},
        tokens=20,
        generated_tokens=10,
        training_flops=200.0,
        generation_flops=50.0,
        peak_flops=1000.0,
        gpu_seconds=3600.0,
        peak_memory=2**30,
    )
    metrics = {key.removeprefix("throughput/"): v for key, v in measured.metrics().items()}
    assert metrics == pytest.approx(
        {
            "tokens_per_second": 2.0,
            "generated_tokens_per_second": 1.0,
            "mfu": 0.2,
            "mfu_train": 0.5,
            "mfu_generate": 0.1,
            "seconds/train": 4.0,
            "seconds/generate": 5.0,
            "seconds/other": 1.0,
            "share/train": 0.4,
            "share/generate": 0.5,
            "share/other": 0.1,
            "peak_memory_gib": 1.0,
        }
    )
    assert measured.summary(2.5)["throughput/cost"] == 2.5
    assert "throughput/cost" not in measured.summary(None)


def test_without_a_known_peak_there_is_no_utilisation_also_in_the_sum() -> None:
    known = Throughput(seconds={"train": 1.0}, training_flops=1.0, peak_flops=2.0)
    unknown = replace(known, peak_flops=None)
    assert "throughput/mfu" in (known + known).metrics()
    assert not [key for key in (known + unknown).metrics() if "mfu" in key]


class SlowTrainer(WritingTrainer):
    """Takes its time to write."""

    slept = 0.0

    def _generate_single_turn(self, *arguments, **named):
        self.slept += sleep(0.1)
        return super()._generate_single_turn(*arguments, **named)


def sleep(seconds: float) -> float:
    begun = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - begun


def slow_run(folder: Path, **changes) -> tuple[RoundsGRPOTrainer, list[float], float]:
    """A run of two steps whose writer and judge sleep, what they slept, and how long it took."""
    judged: list[float] = []

    def slow_reward(**columns):
        judged.append(sleep(0.2))
        return hash_reward(**columns)

    run = Run(folder=str(folder), cases=4, epochs=1, completions="written")
    trainer = make_trainer(run, reward=slow_reward, kind=SlowTrainer, **changes)
    begun = time.perf_counter()
    trainer.train()
    return trainer, judged, time.perf_counter() - begun


def test_phases_hold_what_was_slept_and_add_up_to_the_wall_time(tmp_path: Path) -> None:
    trainer, judged, wall = slow_run(tmp_path)
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == len(judged) == 2
    for line, slept in zip(lines, judged, strict=True):
        assert line["throughput/seconds/judge"] >= slept
        assert line["throughput/seconds/generate"] >= 0.1
        shares = [value for key, value in line.items() if key.startswith("throughput/share/")]
        assert sum(shares) == pytest.approx(1)
    seconds = trainer.throughput_summary()
    assert seconds["throughput/seconds/generate"] >= trainer.slept
    phases = [value for key, value in seconds.items() if key.startswith("throughput/seconds/")]
    assert sum(phases) == pytest.approx(seconds["throughput/seconds"])
    assert sum(judged) + trainer.slept <= seconds["throughput/seconds"] <= wall


def test_tokens_are_those_that_trl_counts(tmp_path: Path) -> None:
    trainer, *_ = slow_run(tmp_path)
    last = [line for line in trainer.state.log_history if "loss" in line][-1]
    assert trainer.totals.tokens == last["num_tokens"]
    written = sum(
        line["completions/mean_length"] * 16
        for line in trainer.state.log_history
        if "completions/mean_length" in line
    )
    assert trainer.totals.generated_tokens == pytest.approx(written)


def test_cold_start_counts_its_tokens_and_knows_no_other_phases(tmp_path: Path) -> None:
    run = ColdStartRun(str(tmp_path), examples=6, per_device_batch=2, accumulation=2)
    trainer, _ = make_cold_start(run, throughput=ThroughputSettings(peak_tflops=0.05))
    trainer.train()
    lengths = [
        int(length) for batch in trainer.micro_batches for length in batch["attention_mask"].sum(1)
    ]
    assert trainer.totals.tokens == sum(lengths)
    assert set(trainer.totals.seconds) == {"train", "other"}
    size = ModelSize.of(tiny_model())
    flops = training_flops(size, sum(lengths), sum(length**2 for length in lengths))
    seconds = trainer.totals.wall_seconds
    assert trainer.totals.metrics()["throughput/mfu"] == pytest.approx(flops / (5e10 * seconds))


def test_totals_go_on_over_a_restart_and_hold_what_was_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ThroughputSettings(judge_gpus=2, price_per_gpu_hour=3.0)
    run = Run(folder=str(tmp_path), cases=4, epochs=1, completions="written")
    before = make_trainer(run, throughput=settings)
    before.train()
    assert capsys.readouterr().err.count("no MFU is logged") == 1
    after = make_trainer(run, throughput=settings)
    after.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert after.totals.tokens == before.totals.tokens
    assert after.totals.wall_seconds > before.totals.wall_seconds
    again = make_trainer(run, throughput=settings)
    again.train()  # As after a kill before the first checkpoint: what there was, was paid for.
    assert again.totals.tokens == 2 * before.totals.tokens
    found = again.throughput_summary()
    # On a CPU, the GPUs are those of the judge.
    hours = 2 * found["throughput/seconds"] / 3600
    assert found["throughput/gpu_hours"] == pytest.approx(hours)
    assert found["throughput/cost"] == pytest.approx(3 * hours)
    kept = json.loads((tmp_path / "throughput.json").read_text())
    assert kept["tokens"] == again.totals.tokens


def test_a_damaged_file_of_totals_is_named(tmp_path: Path) -> None:
    (tmp_path / "throughput.json").write_text('{"seconds": {}, "tokens"')
    run = Run(folder=str(tmp_path), cases=4, epochs=1, completions="written")
    with pytest.raises(UserError, match=r"throughput\.json: damaged, expected what a training had"):
        make_trainer(run).train()
