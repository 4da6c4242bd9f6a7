"""Combinations that can't work are refused, with the arithmetic, before any model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import pytest

from alignxplore_trl.launch.checks import (
    check_config,
    check_model_folder,
    check_room,
    check_rows,
    context_length,
    generation_batch_size,
)
from alignxplore_trl.launch.compose import compose_recipe
from alignxplore_trl.launch.config import CONFIGS, RecipeConfig, RLConfig, read_values
from alignxplore_trl.run.errors import Problems


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    for name in ("judge", "test_judge", "backbone", "teacher"):
        model_folder(tmp_path / name)
    return tmp_path


def model_folder(path: Path, positions: int = 512) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"max_position_embeddings": positions}))
    (path / "tokenizer.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"")
    return path


def read(recipe: str, *overrides: str) -> RecipeConfig:
    problems = Problems()
    values = {**compose_recipe(recipe, overrides), "run_name": "x"}
    config = read_values(CONFIGS[recipe], values, problems)
    assert config is not None, problems.found
    return config


def read_rl(*overrides: str) -> RLConfig:
    config = read("rl", *overrides)
    assert isinstance(config, RLConfig)
    return config


def problems_of(recipe: str, assets: Path, *overrides: str) -> list[str]:
    problems = Problems()
    check_config(read(recipe, f"paths.assets={assets}", *overrides), problems)
    return problems.found


@pytest.mark.parametrize("recipe", ["prepare", "synthesize", "cold_start", "rl", "evaluate"])
@pytest.mark.parametrize("setting", ["base", "streaming"])
def test_what_ships_has_no_problem(assets: Path, recipe: str, setting: str) -> None:
    assert problems_of(recipe, assets, f"setting={setting}") == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["trainer.per_device_train_batch_size=6"],
            "6 completions x 1 processes x 1 steps_per_generation = 6 completions at once, which "
            "is not a multiple of 4 rollouts per prompt",
        ),
        (["trainer.num_generations=1"], "trainer.num_generations: 1 found, expected 2 or more"),
        (["trainer.num_generations=0"], "trainer.num_generations: 0 found, expected 2 or more"),
        (["trainer.per_device_train_batch_size=0"], "found, expected 1 or more"),
        (["completions_every=0"], "completions_every: 0 found, expected 1 or more"),
        (["throughput.peak_tflops=0"], "throughput.peak_tflops: 0.0 found, expected 0.001 or more"),
        (["throughput.judge_gpus=-1"], "throughput.judge_gpus: -1 found, expected 0 or more"),
        (["throughput.price_per_gpu_hour=-1"], "throughput.price_per_gpu_hour: -1.0 found"),
        (["sampling.top_p=2"], "sampling.top_p: 2.0 found, expected 0 to 1"),
        (["output.weights=adapters"], "output.weights: adapters found, expected merged with peft"),
        (["judge.minimum_label_mass=2"], "judge.minimum_label_mass: 2.0 found, expected 0 to 1"),
        (["judge=sampled", "judge.samples=0"], "judge.samples: 0 found, expected 1 or more"),
        (["reward.outage.share=1.5"], "reward.outage.share: 1.5 found, expected 0 to 1"),
        (["seed=-1"], "seed: -1 found, expected 0 to 4294967295"),
        (["paths.assets=nowhere", "judge.model=a/b", "model.backbone=a/c"], "found no folder"),
        (["data.path=rows.jsonl"], "expected none with data=world"),
        (
            ["trainer.steps_per_generation=4", "trainer.save_steps=6"],
            "trainer.save_steps: 6 x gradient_accumulation_steps 1 = 6, which is not a multiple of "
            "steps_per_generation 4",
        ),
        (
            ["setting=streaming", "trainer.num_iterations=2"],
            "trainer.num_iterations: 2 found, expected 1 in the streaming setting",
        ),
        (["round_credit=0.9"], "round_credit: 0.9 found, expected 0 with one round"),
        (
            ["setting=streaming", "round_credit=1.5", "trainer.gradient_accumulation_steps=2"],
            "round_credit: 1.5 found, expected 0 to 1",
        ),
        (
            ["setting=streaming", "round_credit=0.9"],
            "2 rounds x steps_per_generation 1 = 2 micro-batches, but trainer."
            "gradient_accumulation_steps is 1; set trainer.gradient_accumulation_steps=2",
        ),
        (
            [
                *("setting=streaming", "reward.score=margin", "round_credit=0.9"),
                "trainer.gradient_accumulation_steps=2",
            ],
            "reward.score: margin found, expected win or probability with round_credit",
        ),
        (
            ["start=backbone", "upstream.cold_start=x"],
            "upstream.cold_start: x found, but start=backbone takes up no cold start",
        ),
        (["trainer.eval_strategy=steps"], "trainer.eval_strategy: 'steps' found, expected 'no'"),
        (["setting.rounds=2"], "setting.rounds: 2 found, expected 1 in the base setting"),
        (
            ["setting=streaming", "setting.rounds=1"],
            "setting.rounds: 1 found, expected 2 or more in the streaming setting",
        ),
        (
            ["setting=streaming", "data.signals_per_user=7"],
            "data.signals_per_user: 7 found, expected at least 2 rounds x 4 signals = 8",
        ),
        (["data.counts.rl=0"], "data.counts.rl: 0 found, expected 1 or more"),
        (["data=alignx", "data.path=/nowhere"], "data.path: found '/nowhere', expected the file"),
        (["data.dimensions_per_user=11"], "data.dimensions_per_user: 11 found, expected 1 to 10"),
        (["judge.model=/nowhere/judge"], "judge.model: found no folder /nowhere/judge"),
    ],
)
def test_what_cannot_work_is_refused(assets: Path, overrides: list[str], message: str) -> None:
    found = problems_of("rl", assets, *overrides)
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["judge=server"], []),
        (["judge=server", "judge.server.urls=[]", "judge.server.deadline=9999"], []),
        (["judge=sampled", "judge.server.urls=[http://h/v1]", "judge.model=some-name"], []),
        (
            ["judge=server", "judge.server.urls=[h:1]", "judge.server.test_urls=[ftp://h]"],
            ["judge.server.urls[0]: expected http", "judge.server.test_urls[0]: expected http"],
        ),
        (
            ["judge=server", "judge.server.key_variable=NO_SUCH_VARIABLE"],
            ["judge.server.key_variable: the environment variable NO_SUCH_VARIABLE isn't set"],
        ),
        (
            ["judge=server", "launch=cpu2", "judge.server.concurrency=1"],
            ["judge.server.concurrency: 1 found, expected at least 2"],
        ),
        (
            ["judge=server", "judge.server.request_timeout=901"],
            ["judge.server.request_timeout: 901 s found, expected more than 0 and at most"],
        ),
        (
            ["judge=server", "trainer.ddp_timeout=600"],
            ["judge.server.deadline: 900 s found, expected less than trainer.ddp_timeout, 600 s"],
        ),
        (
            ["judge=server", "judge.server.deadline=1800"],
            ["judge.server.deadline: 1800 s found, expected less than trainer.ddp_timeout, 1800 s"],
        ),
        (
            ["judge=server", "reward=generated", "reward.generator=some/other"],
            ["reward.generator: some/other found, expected judge.model"],
        ),
        (["judge=server", "reward=generated"], []),
        (
            ["judge=sampled", "judge.server.urls=[http://h/v1]", "judge.chat=true"],
            ["judge.answer_start: '{\"selection\": \"Response' found, expected ''"],
        ),
    ],
)
def test_a_server_that_cannot_be_asked_is_refused(
    assets: Path, overrides: list[str], messages: list[str]
) -> None:
    found = problems_of("rl", assets, *overrides)
    assert len(found) == len(messages), found
    for problem, message in zip(found, messages, strict=True):
        assert message in problem


def test_a_report_needs_cases_bins_and_a_judge(assets: Path) -> None:
    found = problems_of("judge_report", assets, "report.cases=0", "report.bins=0",
                        "judge.model=/nowhere/x")  # fmt: skip
    assert [problem.split(":")[0] for problem in found] == [
        "report.cases", "report.bins", "judge.model",
    ]  # fmt: skip


def test_vpl_needs_pairs_and_a_model_that_embeds(assets: Path) -> None:
    found = problems_of("vpl", assets, "data.signal_kind=posts", "vpl.fewest_pairs=9",
                        "vpl.kl_floor=1.5", "model.backbone=/nowhere/x")  # fmt: skip
    assert [problem.split(":")[0] for problem in found] == [
        "vpl.kl_floor", "model.backbone", "vpl.most_pairs", "data.signal_kind",
    ]  # fmt: skip


def test_all_problems_come_at_once(assets: Path) -> None:
    found = problems_of("rl", assets, "setting.rounds=0", "judge.model=/nowhere/x",
                        "trainer.num_generations=3", "data.counts.test=-1")  # fmt: skip
    assert [problem.split(":")[0] for problem in found] == [
        "setting.rounds", "data.counts.test", "judge.model", "trainer.num_generations",
    ]  # fmt: skip


def test_evaluation_needs_the_signals_of_its_settings(assets: Path) -> None:
    found = problems_of("evaluate", assets, "evaluation.settings=[base16,stream4]")
    assert "base16 reads 16 signals, but data.signals_per_user is 8" in found[1]
    assert "'stream4' found" in found[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.benchmarks=[world_drfit3]"], "world_drfit3 found, expected world, world_"),
        (["evaluation.benchmarks=[psoups]"], "expected a name that begins with one of the data"),
        (["evaluation.benchmarks=[]"], "evaluation.benchmarks: found none"),
        (["evaluation.benchmarks=[world,world]"], "world found 2 times, expected it once"),
        (["evaluation.benchmarks=[world_posts]"], "world has no test users whose history is posts"),
        (["evaluation.benchmarks=[world_drift9]"], "reverses 9 signals, but evaluation.settings"),
        (
            ["evaluation.benchmarks=[world_noise0.1]", "data.signal_kind=mixed"],
            "world_noise0.1 reverses comparisons, but the signals are mixed; choose world_shuffled",
        ),
        (["evaluation.prepared=[none-such]"], "none-such isn't there, or isn't finished"),
        (["evaluation.methods=[goldn]"], "goldn found; did you mean golden?"),
        (
            ["evaluation.methods=[golden]", "upstream.rl_base4=x"],
            "upstream.rl_base4: x found, but rl_base4 isn't among evaluation.methods",
        ),
        (["evaluation.methods=[]"], "evaluation.methods: found none"),
        (["evaluation.methods=[golden,golden]"], "golden found 2 times"),
        (["evaluation.methods=[lm_induct_reason]"], "compact has no rule_proposal.jinja, with w"),
        (["evaluation.settings=[]"], "evaluation.settings: found none"),
        (["evaluation.settings=[base4,base4]"], "base4 found 2 times"),
        (["evaluation.differences=[golden]"], "'golden' found, expected two methods"),
        (["evaluation.controls=[golden]"], "'golden' found, expected <method>/<setting>"),
        (["evaluation.controls=[longer_reply/base4]"], "longer_reply found, which has no descript"),
        (["evaluation.cases=-3"], "evaluation.cases: -3 found"),
        (["evaluation.win_rate.cases=0"], "evaluation.win_rate.cases: 0 found"),
        (["evaluation.batch_size=0"], "evaluation.batch_size: 0 found"),
        (["evaluation.temperature=-1"], "evaluation.temperature: -1.0 found"),
        (
            ["evaluation.differences=['gold/base4 - golden/base4']"],
            "evaluation.differences: the method gold found, which isn't one; did you mean golden",
        ),
        (
            ["evaluation.win_rate.pairs=['longer_reply/base4 - golden/base4']"],
            "longer_reply found, which writes no descriptions",
        ),
        (["evaluation.judges=[/nowhere/x]"], "evaluation.judges: found no folder /nowhere/x"),
        (
            ["evaluation.generators=[assets/judge,assets/judge]"],
            "evaluation.generators: several would be called judge in results",
        ),
        (["evaluation.engine={max_model_len: 512}"], "evaluation.engine: found, but vLLM isn't"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    assets: Path, overrides: list[str], message: str
) -> None:
    (found,) = problems_of("evaluate", assets, *overrides)
    assert message in found


@pytest.mark.parametrize(
    "overrides",
    [
        ["evaluation.benchmarks=[world,world_drift8]"],
        ["evaluation.benchmarks=[world_shuffled]", "data.signal_kind=mixed"],
        ["evaluation.differences=['another_users_golden/base4 - null/base4']"],
        ["evaluation.methods=[pba,golden]"],
    ],
)
def test_what_can_be_evaluated_is_accepted(assets: Path, overrides: list[str]) -> None:
    assert problems_of("evaluate", assets, *overrides) == []


def test_an_inspection_needs_cases_and_a_folder_for_its_page(assets: Path) -> None:
    assert problems_of("inspect_data", assets) == []
    found = problems_of(
        "inspect_data", assets, "inspection.cases=0", f"inspection.html={assets}/no/page.html"
    )
    assert "inspection.cases: 0 found, expected 1 or more" in found[0]
    assert f"inspection.html: found no folder {assets}/no" in found[1]
    (found_folder,) = problems_of("inspect_data", assets, f"inspection.html={assets}")
    assert f"inspection.html: {assets} found, which is a folder" in found_folder


def test_what_goes_to_the_hub_is_checked_before_the_training(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_some")
    assert problems_of("rl", assets, "output.push_to_hub=someone/model") == []
    assert problems_of("cold_start", assets, "output.push_to_hub=someone/model") == []
    (unnamed,) = problems_of("cold_start", assets, "output.push_to_hub=model")
    assert unnamed.startswith("output.push_to_hub: 'model' found, expected owner/name")
    alone = ("output.push_to_hub=someone/model", "peft=lora", "output.weights=adapters")
    (here,) = problems_of("rl", assets, *alone)
    assert "but they go with the cold start's model, which is a folder here" in here
    on_the_hub = ("start=backbone", "model.backbone=Qwen/Qwen2.5-1.5B-Instruct")
    assert problems_of("rl", assets, *alone, *on_the_hub) == []


def test_a_model_folder_must_be_whole(tmp_path: Path) -> None:
    problems = Problems()
    (tmp_path / "empty").mkdir()
    check_model_folder("model.backbone", str(tmp_path / "empty"), problems)
    check_model_folder("model.teacher", str(model_folder(tmp_path / "whole")), problems)
    check_model_folder("judge.model", "Qwen/Qwen2.5-7B-Instruct", problems)
    assert len(problems.found) == 1
    assert "it has no config.json, no tokenizer (tokenizer.json), no weights" in problems.found[0]


def test_a_tokenizer_alone_needs_no_weights(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    problems = Problems()
    check_model_folder("teacher.tokenizer", str(folder), problems, weights=False)
    assert problems.found == []
    check_model_folder("model.teacher", str(folder), problems)
    assert problems.found == [
        f"model.teacher: {folder}: it has no weights (model.safetensors); save model and tokenizer "
        "there (save_pretrained), or name another folder"
    ]


@pytest.mark.parametrize("key", ["save_only_model", "ignore_data_skip"])
def test_a_training_that_a_resume_would_change_is_refused(assets: Path, key: str) -> None:
    for recipe in ("cold_start", "rl"):
        [found] = problems_of(recipe, assets, f"trainer.{key}=true")
        assert found.startswith(f"trainer.{key}: true found, expected false")


@pytest.mark.parametrize(("accumulated", "fits"), [(1, True), (2, False), (3, True), (6, True)])
def test_steps_end_where_generation_batches_do(assets: Path, accumulated: int, fits: bool) -> None:
    # Two generation batches of three micro-batches are three steps of two; a later epoch may begin
    # with a shorter one.
    given = ("trainer.steps_per_generation=3", "trainer.save_steps=3",
             f"trainer.gradient_accumulation_steps={accumulated}")  # fmt: skip
    found = problems_of("rl", assets, *given, "trainer.num_generations=4")
    assert (found == []) == fits
    if not fits:
        assert "a later epoch's steps would end inside a generation batch" in found[0]


@pytest.mark.parametrize("key", ["max_steps", "num_train_epochs"])
def test_a_training_without_a_step_is_refused(assets: Path, key: str) -> None:
    for recipe in ("cold_start", "rl"):
        [found] = problems_of(recipe, assets, f"trainer.{key}=0")
        assert found.startswith(f"trainer.{key}: 0 found, expected")


def test_a_writer_without_room_for_its_completion_is_refused(assets: Path) -> None:
    found = problems_of("synthesize", assets, "model.max_completion_tokens=400")
    assert "400 + prompts.max_prompt_tokens 320 = 720 found, expected at most 512" in found[0]


def test_room_is_counted_to_the_token(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", positions=100)
    assert context_length(folder) == 100
    assert check_room("key", 40, 60, folder) == []
    (problem,) = check_room("key", 41, 60, folder)
    assert problem.endswith("a prompt of 60 tokens leaves room for 40")
    assert check_room("key", 41, 60, "owner/model") == []


def test_rows_must_fill_one_generation_batch_in_every_round() -> None:
    config = read_rl("setting=streaming")
    assert generation_batch_size(config) == 64
    assert check_rows(config, 32) == []
    (problem,) = check_rows(config, 31)
    assert "31 rows (cases x rounds) found, expected at least 32" in problem
    assert "64 completions / 4 rollouts = 16 prompts, times 2 rounds" in problem


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        (["launch=cpu2"], 128),
        (["trainer.steps_per_generation=null", "trainer.gradient_accumulation_steps=3"], 192),
        (["trainer.steps_per_generation=null", "trainer.generation_batch_size=256"], 256),
    ],
)
def test_the_generation_batch_is_that_of_trl(overrides: list[str], size: int) -> None:
    assert generation_batch_size(read_rl(*overrides)) == size


ASKED = "evaluation.methods=[prompted_concise,prompted_reasoning]"


def test_methods_that_prompt_need_a_model_to_prompt(assets: Path) -> None:
    assert problems_of("evaluate", assets, ASKED) == []
    (found,) = problems_of("evaluate", assets, ASKED, "language_model=none")
    assert found.startswith("language_model: none found, but evaluation.methods has prompted_conc")
    assert problems_of("evaluate", assets, "language_model=none") == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("language_model.model=/no/where", "language_model.model: found no folder /no/where"),
        ("language_model.max_new_tokens=9999", "language_model.max_new_tokens: 9999 + prompts"),
        ("language_model.temperature=-1", "language_model.temperature: -1.0 found, expected 0"),
    ],
)
def test_the_model_to_prompt_is_looked_at(assets: Path, override: str, message: str) -> None:
    (found,) = problems_of("evaluate", assets, ASKED, override)
    assert found.startswith(message)


def test_the_server_of_the_model_to_prompt_is_looked_at(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = "language_model.server"
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    found = problems_of(
        "evaluate",
        assets,
        ASKED,
        "language_model=server",
        f"{server}.urls=[http://user:secret@host/v1]",
        f"{server}.key_variable=NO_SUCH_KEY",
        f"{server}.deadline=1.0",
    )
    assert [problem.split(":")[0] for problem in found] == [
        f"{server}.urls[0]",
        f"{server}.key_variable",
        f"{server}.request_timeout",
    ]
    assert "secret" not in " ".join(found)
    (found_none,) = problems_of(
        "evaluate", assets, ASKED, "language_model=server", f"{server}.urls=[]"
    )
    assert found_none.startswith(f"{server}.urls: found none")
