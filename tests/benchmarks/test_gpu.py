"""The GPU's benchmark: shapes, command line, figures, and the whole of it at the tiny shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from alignxplore_trl.training.throughput import Throughput
from benchmarks.gpu import (
    SHAPES,
    Setting,
    Variant,
    all_variants,
    figures_of,
    largest_shape,
    make_tokenizer,
    measure_apart,
    read_setting,
    vs_plain,
)

ROOT = Path(__file__).parents[2]
CPU = Setting("tiny", "cpu", "sdpa", steps=1)


@pytest.mark.parametrize(("name", "parameters"), [("0.5b", 494_032_768), ("7b", 7_615_616_512)])
def test_shapes_are_those_of_qwen(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen2Config(**SHAPES[name].model))
    assert model.num_parameters() == parameters


def test_every_id_of_a_model_is_a_word() -> None:
    tokenizer = make_tokenizer(2048)
    assert len(tokenizer) == 2048
    written = tokenizer.decode([2000, 2047])
    assert written.split() == ["word2000", "word2047"]
    assert tokenizer(written)["input_ids"] == [2000, 2047]


@pytest.mark.parametrize(("gib", "shape"), [(0, "tiny"), (24, "0.5b"), (80, "0.5b"), (140, "7b")])
def test_the_largest_shape_that_fits_a_card(gib: int, shape: str) -> None:
    assert largest_shape(gib * 2**30) == shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps: 0 found, expected at least 1"),
        (["--shape", "70b"], "invalid choice: '70b'"),
        (["--device", "cuda"], "--device: cuda found, but nvidia-smi names no GPU"),
    ],
)
def test_what_is_not_here_is_refused(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit) as error:
        read_setting(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_figures_by_hand() -> None:
    """Two updates of 10 s together, 4 s of them judging."""
    totals = Throughput(
        seconds={"judge": 4.0, "train": 6.0}, tokens=50, peak_flops=None, peak_memory=2**31
    )
    found = figures_of(totals, steps=2, knows_phases=True)
    assert found == {
        "tokens_per_second": 5.0,
        "peak_memory_gib": 2.0,
        "share/judge": 0.4,
        "share/train": 0.6,
        "seconds/judge": 2.0,
        "seconds/train": 3.0,
        "seconds_per_update": 5.0,
    }
    assert vs_plain(found, {"tokens_per_second": 2.0}) == pytest.approx(50 / 6 / 2)


@pytest.mark.slow
def test_a_variant_that_fails_says_why_and_the_others_go_on() -> None:
    found = measure_apart(Variant("cold_start/wrong", {"learning_rat": 1}), CPU)
    assert isinstance(found, str)
    assert found.startswith("failed: TypeError: ")
    assert "learning_rat" in found
    assert isinstance(measure_apart(Variant("cold_start/plain"), CPU), dict)


@pytest.mark.slow
def test_the_whole_benchmark_runs_without_a_gpu(tmp_path: Path) -> None:
    command = ["benchmarks/gpu.py", "--shape", "tiny", "--device", "cpu", "--steps", "1"]
    ran = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    result = json.loads(ran.stdout.splitlines()[-1])
    assert (result["shape"], result["device"]) == ("tiny", "cpu")
    for variant in all_variants("cpu"):
        if result.get(variant.name) == "not installed":
            assert variant.name == "rl/vllm"
            continue
        assert result[f"{variant.name}/tokens_per_second"] > 0
        assert variant.plain or result[f"{variant.name}/vs_plain"] > 0
    assert {"generate", "judge", "train"} <= {
        name.split("/")[-1] for name in result if name.startswith("rl/transformers/share/")
    }
