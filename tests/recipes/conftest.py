"""Small models, trained for seconds, so that recipes run end to end without the shipped ones."""

from __future__ import annotations

import os
import runpy
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from alignxplore_trl.data.world import World
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.tiny_models import Shape, build_model
from tests.vllm_on_cpu import environment_on_cpu, whole_python

ROOT = Path(__file__).parents[2]
COMPLETIONS = (
    " likes short replies </think> <answer> prefers brief </answer>",
    " likes long replies </think> <answer> prefers detailed </answer>",
)
Run = Callable[..., None]


@pytest.fixture(scope="session")
def assets(
    tmp_path_factory: pytest.TempPathFactory,
    prompts: PromptSet,
    tokenizer: PreTrainedTokenizerFast,
) -> Path:
    """A writer that answers in the format, and judges with random weights."""
    folder = tmp_path_factory.mktemp("assets")
    shape = Shape(hidden_size=64, layers=2, heads=2, intermediate_size=96, context=512)
    for seed, name in enumerate(("judge", "test_judge", "backbone", "teacher")):
        model = build_model(shape, tokenizer, seed=seed)
        if name in ("backbone", "teacher"):
            cases = World(seed=9).cases("cold_start", 12)
            teach_format(
                model, tokenizer, [prompts.inference(case.signals[:4], None) for case in cases]
            )
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def teach_format(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, asked: Sequence[str]
) -> None:
    """Let a model answer some prompts in the format."""
    endings = [completion + tokenizer.eos_token for _ in asked for completion in COMPLETIONS]
    starts = [prompt for prompt in asked for _ in COMPLETIONS]
    texts = [start + ending for start, ending in zip(starts, endings, strict=True)]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    labels = batch["input_ids"].clone()
    for row, ending in zip(labels, endings, strict=True):
        row[: -len(tokenizer(ending)["input_ids"])] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="session")
def run(assets: Path) -> Run:
    """Run a recipe's file as the command line does, in this process, from the project's root."""

    def run_file(recipe: str, outputs: Path, *overrides: str) -> None:
        common = [f"paths.assets={assets}", f"paths.outputs={outputs}"]
        if recipe == "rl":  # Judges with random weights answer nothing rightly.
            common.append("preflight.skip=[judge]")
        argv, folder = sys.argv, Path.cwd()
        sys.argv = [f"recipes/{recipe}.py", *common, *overrides]
        os.chdir(ROOT)
        try:
            runpy.run_path(f"recipes/{recipe}.py", run_name="__main__")
        finally:
            sys.argv = argv
            os.chdir(folder)

    return run_file


@pytest.fixture
def another_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a script where recipes find make."""

    def put(script: str) -> None:
        make = tmp_path / "bin" / "make"
        make.parent.mkdir()
        make.write_text(script)
        make.chmod(make.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{make.parent}{os.pathsep}{os.environ['PATH']}")

    return put


# A streaming RL of a few steps, of which each moves the weights far.
FEW_STEPS = (
    "setting=streaming",
    "start=backbone",
    "data.counts={cold_start: 1, rl: 24, validation: 1, test: 1}",
    "judge.minimum_label_mass=0.0",
    "preflight.skip=[judge]",
    "model.max_completion_tokens=24",
    "trainer.learning_rate=0.01",
    "trainer.warmup_steps=0",
    "tracking=none",
    "run_name=run",
)


@pytest.fixture
def train_in_whole_environment(tmp_path: Path, assets: Path, run: Run) -> Callable[..., Path]:
    """Train a policy with vLLM and DeepSpeed at hand, as make does with VENV=.venv-vllm."""

    def train(launch: str, *overrides: str, flags: tuple[str, ...] = ()) -> Path:
        """The run's folder, given a launch of conf/launch/accelerate, overrides, and its flags."""
        told = (*FEW_STEPS, *overrides)
        run("prepare", tmp_path, "--for", "rl", *told)
        paths = (f"paths.assets={assets}", f"paths.outputs={tmp_path}")
        accelerate = ("-m", "accelerate.commands.launch", "--quiet", *flags)
        file = f"--config_file=conf/launch/accelerate/{launch}.yaml"
        subprocess.run(
            [str(whole_python()), *accelerate, file, "recipes/rl.py", *told, *paths],
            cwd=ROOT,
            env=environment_on_cpu(),
            check=True,
        )
        return tmp_path / "rl" / "run"

    return train
