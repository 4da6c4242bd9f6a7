"""Make: what its targets run, and how its values reach Hydra."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.recipes.commands import ROOT

TARGETS = """
data inspect synthesize cold-start rl rl-streaming evaluate report judge-report sweep study results
vpl describe demo preflight serve-judge serve-teacher serve-rollouts tiny-models rehearse config
install install-gpu lint test test-slow test-browser test-gpu benchmark clean
"""


def make(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make -n`: the commands, without running them."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "-n", "-o", ".venv/stamp", "-o", ".venv-vllm/stamp", *words],
        cwd=ROOT, env=own | environment, capture_output=True, text=True,
    )  # fmt: skip


def commands(*words: str, **environment: str) -> list[list[str]]:
    """The words of each command that runs a recipe."""
    done = make(*words, **environment)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line, comments=True) for line in done.stdout.splitlines() if line.strip()]
    return [line for line in lines if any(word.startswith("recipes/") for word in line)]


def told(line: list[str]) -> dict[str, object]:
    """What Hydra takes the words behind a recipe to be."""
    start = next(i for i, word in enumerate(line) if word.startswith("recipes/"))
    words = [word for word in line[start + 1 :] if not word.startswith("-")]
    return {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(words)}


def recipes_of(*words: str) -> list[str]:
    return [
        Path(next(word for word in line if word.startswith("recipes/"))).stem
        for line in commands(*words)
    ]


@pytest.mark.parametrize(
    ("target", "recipes"),
    [
        ("rl START=backbone", "prepare rl"),
        ("rl-streaming", "prepare synthesize cold_start rl evaluate"),
        ("evaluate", "prepare evaluate"),
        ("inspect N=2 HTML=x.html", "prepare inspect_cases"),
        ("results", "study"),
    ],
)
def test_a_target_runs_its_recipe_after_those_before_it(target: str, recipes: str) -> None:
    assert recipes_of(*target.split()) == recipes.split()


def test_all_recipes_of_a_command_are_told_the_same() -> None:
    asked = [
        "rl-streaming",
        "SEED=3",
        "JUDGE=server",
        "METHODS=null,rl",
        "LIMIT=5",
        "ARGS=rl.beta=0.1",
    ]
    first, *others = [told(line) for line in commands(*asked)]
    for other in others:
        assert other | {"output.push_to_hub": 0} == first | {"output.push_to_hub": 0}
    assert first == {
        "scale": "tiny", "setting": "streaming", "seed": 3, "judge": "server", "rl.beta": 0.1,
        "method": ["null", "rl"], "evaluation.cases": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    "value",
    ["rows (1)/données=a,b#1.jsonl", "1e5", "3e563", "null", "it's", 'a "b"', "a b", "[1,2]", "{a}",
     "~/x", "50%", "*", "a;b", "a\\b", "!x", "true", "a: b"],
)  # fmt: skip
def test_a_value_means_what_it_says(value: str) -> None:
    (line,) = commands("data", f"DATA_PATH={value}", f"RUN={value}", "DATA=alignx", f"FROM={value}")
    found = told(line)
    assert (found["data.path"], found["run"], found["upstream"]) == (value, value, value)


def test_nothing_is_taken_from_the_environment() -> None:
    environment = dict.fromkeys(("NAME", "RUN", "SEED", "SCALE", "ARGS", "LAUNCH", "VENV"), "x")
    assert commands("rl", **environment) == commands("rl")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("rl REWRAD=judged", "REWRAD: no such variable; there are SCALE"),
        ("rl N=3", "N is for: make inspect"),
        ("data METHODS=golden", "METHODS is for: make synthesize evaluate"),
        ("rl LAUNCH=zero4", "LAUNCH=zero4: no such launch; there are cpu fsdp2 gpu zero2 zero3"),
    ],
)
def test_what_would_change_nothing_is_refused(words: str, said: str) -> None:
    done = make(*words.split())
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("words", "launched"),
    [
        ("rl", "conf/accelerate/cpu.yaml --num_cpu_threads_per_process 1 rec"),
        ("rl GPUS=2", "cpu.yaml --num_cpu_threads_per_process 1 --num_processes 2 --multi_gpu rec"),
        ("rl SCALE=one_gpu", "gpu.yaml --num_cpu_threads_per_process 1 recipes"),
        ("rl SCALE=paper_7b_split", "zero3.yaml --num_cpu_threads_per_process 1 --num_processes 4"),
        ("rl LAUNCH=zero3_offload", "zero3_offload.yaml --num_cpu_threads_per_process 8 recipes"),
        ("rl VENV=.venv-vllm", ".venv-vllm/bin/accelerate launch --quiet --config_file conf"),
    ],
)
def test_a_training_is_one_visible_launch(words: str, launched: str) -> None:
    *_, last = commands(*words.split())
    assert launched in " ".join(last)


def test_seeds_are_bit_equal_on_a_cpu_and_cards_leave_threads_alone() -> None:
    shown = "include Makefile\nthreads: ; @echo $$OMP_NUM_THREADS\n"
    clean = {key: v for key, v in os.environ.items() if key[:4] not in ("OMP_", "MAKE")}
    for words, threads in ((), "1"), (("SCALE=one_gpu",), ""):
        command, text = ["make", "-f", "-", "threads", *words], {"input": shown, "text": True}
        said = subprocess.check_output(command, cwd=ROOT, env=clean, **text)
        assert said == f"{threads}\n"


def test_servers_are_visible_lines() -> None:
    judge = make("serve-judge", "MODEL=some/model", "ARGS=--port 8001").stdout
    assert "api_server --dtype float32 --model 'some/model' --port 8000" in judge
    assert judge.rstrip().partition(" ##")[0].endswith("--port 8001")
    assert "--model 'assets/backbone' --port 8004" in make("serve-rollouts").stdout
    teacher = make("serve-teacher", "SCALE=paper_7b").stdout
    assert "--dtype bfloat16 --model 'Qwen/QwQ-32B' --port 8002" in teacher


def test_help_lists_every_target_and_variable() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert sorted(TARGETS.split()) == sorted(re.findall(r"^make ([\w-]+)", listed, re.M))
    for name in ("SCALE", "DATA_PATH", "FROM", "GPUS", "VENV"):
        assert re.search(rf"^{name} ", listed, re.M)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "accelerate").glob("*.yaml")), ids=str)
def test_accelerate_knows_every_key(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    assert load_config_from_file(str(path)).use_cpu == (path.stem == "cpu")
