"""Every recipe, end to end, with a handful of steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from alignxplore_trl.data.sources import read_split
from alignxplore_trl.data.world import OPPOSITE, World, stated_poles
from alignxplore_trl.inference.preference_describer import PreferenceDescriber
from alignxplore_trl.launch.sweeps import is_metric
from alignxplore_trl.run.environment import read_environment
from alignxplore_trl.run.metrics import read_metrics
from alignxplore_trl.text.rendering import PromptSet
from tests.judging.fault_server import FaultServer, right

ROOT = Path(__file__).parents[2]
# Random judges put their mass anywhere; whatever they lean to counts here.
FEW = (
    "data.counts={cold_start: 10, rl: 24, validation: 4, test: 6}",
    "judge.minimum_label_mass=0.0",
    "model.max_completion_tokens=24",
    "setting=streaming",
)
COLD_START = (*FEW, "trainer.num_train_epochs=1", "trainer.per_device_train_batch_size=4",
              "tracking=none")  # fmt: skip
RL = (*FEW, "trainer.max_steps=4", "trainer.save_steps=2", "trainer.per_device_train_batch_size=16",
      "tracking=none", "completions_every=1")  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, run: Callable[..., None]) -> Path:
    """The chain up to RL, in the streaming setting, once for all tests."""
    folder = tmp_path_factory.mktemp("outputs")
    run("prepare", folder, "--for", "rl", *RL)
    run("synthesize", folder, "--for", "rl", *RL)
    run("cold_start", folder, "--for", "rl", *RL)
    run("rl", folder, *RL)
    return folder


def only_run(outputs: Path, recipe: str) -> Path:
    """The folder of the recipe's run in the chain, whose name starts with the scale."""
    (folder,) = (outputs / recipe).glob("tiny-*")
    return folder


def summary(outputs: Path, recipe: str) -> dict[str, Any]:
    return dict(json.loads((only_run(outputs, recipe) / "summary.json").read_text()))


def test_every_stage_finishes_with_a_flat_summary(outputs: Path) -> None:
    for recipe in ("prepare", "synthesize", "cold_start", "rl"):
        found = summary(outputs, recipe)
        assert found["finished"] is True
        assert not [value for value in found.values() if isinstance(value, dict | list)]


def test_synthesize_keeps_only_verified_candidates(outputs: Path) -> None:
    folder = only_run(outputs, "synthesize")
    candidates = pd.read_parquet(folder / "completions" / "candidates.parquet")
    examples = pd.read_parquet(folder / "examples.parquet")
    assert len(candidates) == 10 * 2 * 4  # cases, rounds, candidates
    assert 0 < len(examples) == (candidates["reward"] == 1).sum() < len(candidates)
    assert set(candidates.loc[candidates["kept"], "reward"]) == {1.0}


def test_cold_start_trains_on_unverified_examples_for_comparison(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    synthesized = only_run(outputs, "synthesize")
    given = (f"upstream.synthesize={synthesized.name}", "examples=unverified", "run_name=other")
    run("synthesize", outputs, "--for", "cold_start", *COLD_START, *given)
    assert "synthesize: not needed" in capsys.readouterr().err
    run("cold_start", outputs, *COLD_START, *given)
    figures = json.loads((outputs / "cold_start" / "other" / "summary.json").read_text())
    assert figures["data/examples"] == len(pd.read_parquet(synthesized / "unverified.parquet"))
    (synthesized / "unverified.parquet").rename(synthesized / "away")
    try:
        with pytest.raises(SystemExit):
            run("cold_start", outputs, *COLD_START, *given[:2], "run_name=none")
    finally:
        (synthesized / "away").rename(synthesized / "unverified.parquet")
    assert "examples: unverified found, but" in capsys.readouterr().err


def test_trained_models_load_with_their_tokenizer(outputs: Path) -> None:
    for recipe in ("cold_start", "rl"):
        folder = only_run(outputs, recipe) / "model"
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert model.config.vocab_size >= len(tokenizer)


def test_a_model_holds_its_sampling_and_a_card_with_the_command(outputs: Path) -> None:
    folder = only_run(outputs, "rl")
    sampling = GenerationConfig.from_pretrained(folder / "model")
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.9, 0.95, 10)
    assert (sampling.do_sample, sampling.max_new_tokens) == (True, 24)
    assert sampling.eos_token_id == AutoTokenizer.from_pretrained(folder / "model").eos_token_id
    describer = PreferenceDescriber.from_pretrained(folder / "model", temperature=0)
    assert (describer.writer.max_prompt_tokens, describer.attempts) == (320, 1)
    case = World(seed=3).cases("test", 1)[0]
    asked = PromptSet("compact").inference(case.signals[:4], None)
    assert describer.writer.prompt(case.signals[:4], None) == asked
    card = ModelCard.load(folder / "model" / "README.md")
    assert "grpo" in card.data.tags
    command = read_environment(folder)["command"]
    assert command.startswith("make rl SETTING=streaming")
    assert "trainer.max_steps=4" in command
    assert command in card.text
    trained_before = read_environment(only_run(outputs, "cold_start"))["command"]
    assert trained_before.startswith("make cold-start SETTING=streaming")


@pytest.mark.parametrize("recipe", ["cold_start", "rl"])
def test_a_sweep_can_be_about_every_column(outputs: Path, recipe: str) -> None:
    rows = read_metrics(only_run(outputs, recipe) / "metrics.jsonl")
    # What the whole run took is logged once, at its end.
    of_runs = {"train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second"}
    columns = {column for row in rows for column in row}
    assert of_runs < columns
    others = columns - of_runs - {"step", "epoch", "total_flos"}
    assert [column for column in others if not is_metric(column)] == []


def test_a_run_says_how_fast_it_was(outputs: Path) -> None:
    folder = only_run(outputs, "rl")
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "reward" in line]
    phases = ("generate", "judge", "train", "other")
    assert all(sum(line[f"throughput/share/{phase}"] for phase in phases) == pytest.approx(1)
               for line in lines)  # fmt: skip
    found = summary(outputs, "rl")
    assert found["throughput/tokens"] == lines[-1]["num_tokens"]
    assert 0 < found["throughput/seconds/judge"] < found["throughput/seconds"]
    assert summary(outputs, "cold_start")["throughput/tokens_per_second"] > 0


def test_adapters_can_be_kept_alone_and_no_later_stage_starts_from_them(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    given = (f"upstream.synthesize={only_run(outputs, 'synthesize').name}", "peft=lora")
    run("cold_start", outputs, *COLD_START, *given, "run_name=lora")
    run("cold_start", outputs, *COLD_START, *given, "output.weights=adapters", "run_name=adapters")
    merged, adapters = (outputs / "cold_start" / name / "model" for name in ("lora", "adapters"))
    assert (merged / "model.safetensors").is_file()
    assert not (merged / "adapter_config.json").exists()
    assert not (adapters / "model.safetensors").exists()
    loaded = AutoPeftModelForCausalLM.from_pretrained(adapters).merge_and_unload()
    whole = AutoModelForCausalLM.from_pretrained(merged)
    for one, other in zip(loaded.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(SystemExit):
        run("rl", outputs, *RL, "upstream.cold_start=adapters", "run_name=none")
    assert "holds adapters alone, expected a whole model" in capsys.readouterr().err


def test_rl_logs_every_step_and_both_rounds(outputs: Path) -> None:
    folder = only_run(outputs, "rl")
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows if "reward" in row] == [1, 2, 3, 4]
    rounds = [set(pd.read_parquet(file)["round"])
              for file in sorted((folder / "completions").glob("*.parquet"))]  # fmt: skip
    assert rounds == [{1}, {2}, {1}, {2}]
    assert summary(outputs, "rl")["steps"] == 4


def test_rl_alone_starts_from_the_backbone(
    tmp_path: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """With two signals in a round, too."""
    given = (*RL, "setting=base", "setting.signals=2", "start=backbone", "trainer.max_steps=1",
             "trainer.save_steps=1")  # fmt: skip
    for recipe in ("prepare", "synthesize", "cold_start"):
        run(recipe, tmp_path, "--for", "rl", *given)
    told = capsys.readouterr().err
    assert "synthesize: not needed" in told
    assert "cold_start: not needed" in told
    run("rl", tmp_path, *given)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["prepare", "rl"]
    assert summary(tmp_path, "rl")["steps"] == 1
    (rollouts,) = (only_run(tmp_path, "rl") / "completions").glob("*.parquet")
    assert set(pd.read_parquet(rollouts)["prompt"].str.count("<chosen>")) == {2}
    with pytest.raises(SystemExit):
        run("rl", tmp_path, *given, "upstream.cold_start=x")
    assert "start=backbone takes up no cold start" in capsys.readouterr().err


def test_the_same_command_again_does_nothing(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    model = only_run(outputs, "rl") / "model" / "model.safetensors"
    before = model.stat().st_mtime_ns
    run("rl", outputs, *RL)
    assert "is finished; nothing to do" in capsys.readouterr().err
    assert model.stat().st_mtime_ns == before


def test_an_interrupted_run_resumes_from_its_checkpoint(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = only_run(outputs, "rl")
    uninterrupted = read_metrics(folder / "metrics.jsonl")
    for gone in ("summary.json", "checkpoints/checkpoint-4/complete"):
        (folder / gone).unlink()
    run("rl", outputs, *RL)
    assert "resuming" in capsys.readouterr().err
    resumed = read_metrics(folder / "metrics.jsonl")
    rewards = [[row["reward"] for row in rows if "reward" in row]
               for rows in (uninterrupted, resumed)]  # fmt: skip
    assert rewards[0][:2] == rewards[1][:2]
    assert len(rewards[1]) == 4


def test_evaluate_scores_every_method_under_both_judges(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run("evaluate", outputs, "--for", "rl", *RL)
    found = summary(outputs, "evaluate")
    assert found["policies"] == "cold_start_streaming rl_streaming"
    for judge in ("tiny", "tiny_test"):
        for method in ("null", "signals", "golden", "longer_reply", "backbone", "teacher",
                       "cold_start_streaming", "rl_streaming"):  # fmt: skip
            for setting in ("base4", "base8", "streaming4+4"):
                key = f"acc_jud/world/{judge}/{method}/{setting}"
                assert found[key] is None or 0 <= found[key] <= 1
                assert found[f"cases/world/{judge}/{method}/{setting}"] == 6
    assert "rl_streaming" in capsys.readouterr().out


def test_every_accuracy_is_recomputed_from_the_file_beside_it(outputs: Path) -> None:
    found = summary(outputs, "evaluate")
    rows = pd.read_parquet(only_run(outputs, "evaluate") / "completions" / "verdicts.parquet")
    rows = rows[rows["metric"] != "reasoning"]
    keys = ["metric", "benchmark", "judge", "method", "setting"]
    again = rows.groupby(keys, sort=False)["correct"].mean()
    accuracies = {
        key: value for key, value in found.items()
        if key.split("/")[0] in ("acc_jud", "acc_gen") and key.count("/") == 4
    }  # fmt: skip
    assert {"/".join(key) for key in again.index} == set(accuracies)
    for key, value in again.items():
        assert accuracies["/".join(key)] == (None if pd.isna(value) else pytest.approx(value))


def test_methods_and_cases_can_be_chosen_and_answers_are_kept(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    methods = 'evaluation.methods=["null",pba,prompted_concise,rl_streaming]'
    chosen = (*FEW, methods, "evaluation.cases=3", "judge.order=both",
              "evaluation.settings=[base4,streaming4+4]",
              "evaluation.controls=[rl_streaming/streaming4+4]",
              f"upstream.rl_streaming={only_run(outputs, 'rl').name}",
              f"upstream.prepare={only_run(outputs, 'prepare').name}")  # fmt: skip
    for name in ("chosen", "again"):
        run("evaluate", outputs, *chosen, f"run_name={name}")
    first, second = (
        json.loads((outputs / "evaluate" / name / "summary.json").read_text())
        for name in ("chosen", "again")
    )
    assert first == second, "what models answered was kept, times included"
    assert first["policies"] == "rl_streaming"
    assert first["cases/world/tiny/pba/base4"] == 3
    assert "cases/world/tiny/pba/streaming4+4" not in first
    assert first["cases/world/tiny/prompted_concise/streaming4+4"] == 3
    assert first["cases/world/tiny/another_users_rl_streaming/streaming4+4"] <= 3
    assert not [key for key in first if "golden" in key]
    err = capsys.readouterr().err
    assert "prompted_concise in the setting base4, 3 users, world" in err


def test_a_policy_that_is_asked_for_and_not_trained_is_named_with_its_command(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("evaluate", outputs, "evaluation.methods=[rl_base8,vpl]", "seed=4",
            f"upstream.prepare={only_run(outputs, 'prepare').name}")  # fmt: skip
    err = capsys.readouterr().err
    assert "upstream.rl_base8: the run" in err
    assert "make rl SEED=4 SETTING=base SIGNALS=8" in err
    assert "make vpl SEED=4" in err


def test_a_judge_is_reported_on(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = only_run(outputs, "prepare").name
    run("judge_report", outputs, "judge.minimum_label_mass=0.0", f"upstream.prepare={prepared}",
        "data.counts.validation=4", "report.cases=3")  # fmt: skip
    found = summary(outputs, "judge_report")
    for method in ("golden", "null"):
        assert found[f"cases/world/tiny/{method}"] == 3
        assert found[f"questions/world/tiny/{method}"] == 6
        assert 0 <= found[f"acc_jud/world/tiny/{method}"] <= 1
        assert found[f"tokens_per_second/world/tiny/{method}"] > 0
    folder = only_run(outputs, "judge_report")
    assert (folder / "judge.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "table.txt").read_text() in capsys.readouterr().out


def test_evaluate_on_a_robustness_set_records_what_was_done(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run("evaluate", outputs, *FEW, f"upstream.prepare={only_run(outputs, 'prepare').name}",
        "run_name=turned", "evaluation.benchmarks=[world,world_reversed]",
        "evaluation.methods=[golden,backbone]")  # fmt: skip
    folder = outputs / "evaluate" / "turned"
    found = json.loads((folder / "summary.json").read_text())
    assert "acc_jud/world_reversed/tiny/golden/base4" in found
    assert found["robustness/world_reversed/base8/signals_reversed"] == 6 * 8
    assert found["robustness/world_reversed/base4/targets_reversed"] == 6
    assert "acc_jud/world/tiny/golden/base4" in found
    changes = pd.read_parquet(folder / "completions" / "variations.parquet")
    assert sorted(changes["setting"].unique()) == ["base4", "base8", "streaming4+4"]
    assert set(map(len, changes.loc[changes["setting"] == "base4", "reversed_signals"])) == {4}
    # The golden description of the user who prefers the opposite.
    said = pd.read_parquet(folder / "completions" / "descriptions.parquet")
    said = said.query("benchmark == 'world_reversed' and method == 'golden'")
    golden = said.groupby("case_id")["description"].first()
    plain = {case.case_id: case for case in read_split(only_run(outputs, "prepare"), "test")}
    for case_id, description in golden.items():
        stated = set(stated_poles(description))
        assert stated == {OPPOSITE[pole] for pole in plain[case_id].directions.values()}


def test_inspect_shows_the_examples_that_were_synthesised_and_writes_a_page(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    upstream = [f"upstream.{stage}={only_run(outputs, stage).name}"
                for stage in ("prepare", "synthesize")]  # fmt: skip
    run("inspect_data", outputs, *FEW, *upstream, "run_name=look", "inspection.cases=10",
        f"inspection.html={page}")  # fmt: skip
    shown = capsys.readouterr().out
    folder = only_run(outputs, "synthesize")
    candidates = pd.read_parquet(folder / "completions" / "candidates.parquet")
    kept = candidates[candidates["kept"]].drop_duplicates(["case_id", "round"])
    assert shown.count("a kept example of the synthesis") == len(kept) > 0
    assert shown.count("the true description stands in") == 10 * 2 - len(kept)
    for prompt in kept["prompt"]:
        assert prompt in shown
    assert page.read_text().count('<figure class="trained">') == 10 * 2
    assert not (outputs / "inspect_data" / "look" / "summary.json").exists()


def test_a_stage_without_the_one_before_it_says_how_to_make_it(
    tmp_path: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run("cold_start", tmp_path, "seed=3", "setting=streaming")
    assert exit_info.value.code == 2
    assert "make synthesize SEED=3 SETTING=streaming" in capsys.readouterr().err


SHIPPED_JUDGE = ROOT / "assets" / "judge"


@pytest.mark.parametrize(
    "choices",
    [
        ["judge=sampled", f"judge.model={SHIPPED_JUDGE}", "judge.samples=3", "judge.order=both"],
        [f"reward.panel=[{SHIPPED_JUDGE}]", "reward.score=margin", "judge.layout=description_last"],
        ["reward=generated", "reward.shaping.length_weight=0.1"],
        ["reward=log_probability", "reward.aggregation=mean"],
    ],
    ids=lambda choices: choices[0].split("=[")[0],
)
def test_rl_learns_from_other_rewards(
    outputs: Path, run: Callable[..., None], choices: list[str]
) -> None:
    cold_start = only_run(outputs, "cold_start").name
    name = choices[0].split("=[")[0].replace("=", "-")
    run("rl", outputs, *RL, *choices, "trainer.max_steps=2", f"run_name={name}",
        f"upstream.cold_start={cold_start}")  # fmt: skip
    folder = outputs / "rl" / name
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "reward" in row]
    assert len(rows) == 2
    asked = "judge" if choices[0].startswith(("judge", "reward.panel")) else "generator"
    for row in rows:
        assert row[f"{asked}/failed_share"] == 0.0
        assert row["completions/unscored"] == 0.0
    judged = [row for row in rows if row["judge/requests"] > 0]
    assert judged, "no completion was well-formed in two steps"
    assert all(row["judge/latency_p95"] >= row["judge/latency_p50"] > 0 for row in judged)
    assert rows[1]["judge/share_of_time"] >= 0
    assert (outputs / "generator_cache.sqlite").exists() or "reward=generated" not in choices


def test_rl_gives_credit_across_rounds(outputs: Path, run: Callable[..., None]) -> None:
    cold_start = only_run(outputs, "cold_start").name
    credit = ("round_credit=0.9", "trainer.gradient_accumulation_steps=2", "trainer.max_steps=2")
    run("rl", outputs, *RL, *credit, "run_name=credited", f"upstream.cold_start={cold_start}")
    folder = outputs / "rl" / "credited"
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "reward" in row]
    assert len(rows) == 2
    assert all(row["credit/round_1"] >= 0 for row in rows)
    for file in (folder / "completions").glob("*.parquet"):
        rollouts = pd.read_parquet(file)
        assert list(rollouts["round"]) == [1] * 16 + [2] * 16
        assert (rollouts["credited_reward"] >= rollouts["reward"]).all()


@pytest.mark.parametrize(
    "choices",
    [
        ["judge=server"],
        ["judge=server", "reward=generated"],
        ["judge=sampled", "judge.answer_start=''", "judge.answer_end=''", "judge.samples=3"],
    ],
    ids=["server", "server-generated", "sampled"],
)
def test_rl_asks_a_server(outputs: Path, run: Callable[..., None], choices: list[str]) -> None:
    cold_start = only_run(outputs, "cold_start").name
    name = f"served-{choices[0].removeprefix('judge=')}-{len(choices)}"
    with FaultServer(lambda body, _: right(body)) as server:
        given = [f"judge.server.urls=[{server.url}]", f"upstream.cold_start={cold_start}"]
        run("rl", outputs, *RL, *choices, "trainer.max_steps=2", f"run_name={name}", *given)
        checked, *asked = server.received
    rows = [row for row in read_metrics(outputs / "rl" / name / "metrics.jsonl") if "reward" in row]
    assert sum(row["judge/requests"] for row in rows) == len(asked) > 0
    assert all(row["completions/unscored"] == 0.0 for row in rows)
    assert checked.body["model"] == asked[0].body["model"]


def test_a_server_that_is_not_there_ends_the_run_before_a_model_is_loaded(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    cold_start = only_run(outputs, "cold_start").name
    with pytest.raises(SystemExit) as exit_info:
        run("rl", outputs, *RL, "judge=server", "judge.server.urls=[http://127.0.0.1:9/v1]",
            f"upstream.cold_start={cold_start}", "run_name=nobody")  # fmt: skip
    assert exit_info.value.code == 2
    assert "found no server: start one with make serve-judge" in capsys.readouterr().err


def test_a_judge_that_does_not_answer_ends_the_run_before_the_batch(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The judges here have random weights: the two letters have next to no probability."""
    cold_start = only_run(outputs, "cold_start").name
    with pytest.raises(SystemExit) as exit_info:
        run("rl", outputs, *RL, "judge.minimum_label_mass=0.99", "run_name=silent",
            f"upstream.cold_start={cold_start}")  # fmt: skip
    assert exit_info.value.code == 2
    assert "this batch was not trained on" in capsys.readouterr().err
    assert not (outputs / "rl" / "silent" / "summary.json").exists()


def test_more_rounds_than_fit_are_refused_before_training(
    outputs: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run("rl", outputs, *RL, "trainer.per_device_train_batch_size=256", "run_name=too-few")
    assert exit_info.value.code == 2
    assert "256 completions / 4 rollouts = 64 prompts, times 2 rounds" in capsys.readouterr().err


def test_adapters_are_merged_into_the_model_that_is_saved(
    outputs: Path, run: Callable[..., None], assets: Path
) -> None:
    run("cold_start", outputs, *COLD_START, "peft=lora", "run_name=merged", "trainer.max_steps=2")
    folder = outputs / "cold_start" / "merged" / "model"
    assert not (folder / "adapter_config.json").exists()
    trained = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    before = AutoModelForCausalLM.from_pretrained(assets / "backbone").state_dict()
    assert trained.keys() == before.keys()
    changed = {name for name in before if not trained[name].equal(before[name])}
    assert changed
    assert all(name.endswith("_proj.weight") for name in changed)


@pytest.mark.slow
def test_two_processes_train_one_model_in_one_folder(outputs: Path, assets: Path) -> None:
    # The launch is part of a run's name: the stage before was made by one process.
    examples = f"upstream.synthesize={only_run(outputs, 'synthesize').name}"
    for recipe, overrides, given in (
        ("cold_start", COLD_START, [examples]),
        ("rl", RL, ["upstream.cold_start=two"]),
    ):
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("accelerate")),
                "launch",
                "--config_file=conf/launch/accelerate/cpu2.yaml",
                f"recipes/{recipe}.py",
                f"paths.assets={assets}",
                f"paths.outputs={outputs}",
                *overrides,
                "launch=cpu2",
                "run_name=two",
                *given,
            ],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        folder = outputs / recipe / "two"
        assert json.loads((folder / "summary.json").read_text())["finished"] is True
        steps = [row["step"] for row in read_metrics(folder / "metrics.jsonl")]
        assert steps == sorted(steps)
        assert (folder / "model" / "model.safetensors").is_file()
