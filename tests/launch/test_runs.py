"""Names of runs: two different runs never share one, and a later stage finds the earlier one's."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignxplore_trl.launch.compose import compose_recipe
from alignxplore_trl.launch.entry import CHAINS, resolve
from alignxplore_trl.launch.runs import (
    make_command,
    name_of_run,
    needed_stages,
    overrides_for,
    policy_name,
    upstream_names,
)
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import RunFolder


def test_a_name_spells_out_the_choices() -> None:
    assert name_of_run("rl", []) == "tiny-base-signals4-world-judged-seed0"
    chosen = ["setting=streaming", "setting.signals=8", "seed=2"]
    assert name_of_run("rl", chosen) == "tiny-streaming-signals8-world-judged-seed2"
    assert name_of_run("prepare", chosen) == "tiny-streaming-signals8-world-seed2"


def test_different_configurations_have_different_names() -> None:
    different: list[list[str]] = [
        [],
        ["trainer.learning_rate=1.0e-5"],
        ["trainer.learning_rate=2.0e-5"],
        ["trainer.delta=2.0"],
        ["setting=streaming"],
        ["setting=streaming", "setting.rounds=3"],
        ["model.backbone=elsewhere"],
        ["launch=cpu2"],
        ["prompts.max_prompt_tokens=100"],
        ["upstream.cold_start=another"],
        ["peft=lora"],
        ["judge.order=both"],
        ["peft=lora", "output.weights=adapters"],
        ["sampling.temperature=0.7"],
    ]
    assert len({name_of_run("rl", overrides) for overrides in different}) == len(different)


def test_where_a_judge_is_served_and_what_an_outage_leads_to_change_no_name() -> None:
    served = ["judge=server"]
    free = ["judge.server.urls=[http://h/v1]", "judge.server.deadline=60", "reward.outage.share=0"]
    assert name_of_run("rl", [*served, *free]) == name_of_run("rl", served)
    assert name_of_run("rl", served) != name_of_run("rl", [])
    assert name_of_run("rl", [*served, "judge.letters=top_logprobs"]) != name_of_run("rl", served)


@pytest.mark.parametrize(
    "overrides",
    [
        ["tracking=none"],
        ["tracking.project=mine"],
        ["throughput.judge_gpus=2", "throughput.price_per_gpu_hour=2.5"],
        ["output.push_to_hub=someone/model"],
        ["paths.outputs=elsewhere"],
        ["paths.assets=elsewhere"],
        ["trainer.beta=0.0"],
        ["launch=cpu"],
    ],
)
def test_what_changes_nothing_changes_no_name(overrides: list[str]) -> None:
    assert name_of_run("rl", overrides) == name_of_run("rl", [])


def test_the_order_of_overrides_changes_no_name() -> None:
    overrides = ["trainer.beta=0.1", "setting=streaming", "setting.rounds=3", "seed=1"]
    assert name_of_run("rl", overrides) == name_of_run("rl", overrides[::-1])


def test_a_given_name_is_used_as_it_is() -> None:
    assert name_of_run("rl", ["run_name=mine", "trainer.beta=0.1"]) == "mine"


def test_overrides_reach_the_stages_that_they_concern() -> None:
    overrides = ["setting=streaming", "setting.rounds=3", "trainer.beta=0.1", "run_name=mine",
                 "prompts.max_prompt_tokens=100", "data.counts.rl=9", "launch=cpu2",
                 "throughput.judge_gpus=2", "output.push_to_hub=someone/model"]  # fmt: skip
    assert overrides_for("prepare", "rl", overrides) == (
        "setting=streaming", "setting.rounds=3", "data.counts.rl=9",
    )  # fmt: skip
    assert overrides_for("cold_start", "rl", overrides) == (
        "setting=streaming", "setting.rounds=3", "prompts.max_prompt_tokens=100",
        "data.counts.rl=9", "launch=cpu2",
    )  # fmt: skip
    assert overrides_for("rl", "rl", overrides) == tuple(overrides)


def test_a_later_stage_finds_the_earlier_ones_name() -> None:
    shared = ["seed=1", "setting=streaming", "setting.rounds=3"]
    names = upstream_names("rl", "rl", [*shared, "trainer.beta=0.1"])
    assert names == {
        "prepare": name_of_run("prepare", shared),
        "cold_start": name_of_run("cold_start", shared),
    }


def test_a_stage_of_a_chain_resolves_as_when_it_is_run_alone() -> None:
    shared = ["seed=1", "setting=streaming", "setting.rounds=3"]
    for stage in ("prepare", "synthesize", "cold_start"):
        alone = resolve(stage, stage, shared)
        assert resolve(stage, "rl", [*shared, "trainer.beta=0.1", "run_name=mine"]) == alone


def test_a_mistake_in_a_chain_is_found_by_its_first_stage() -> None:
    with pytest.raises(UserError, match=r"judge\.ordr"):
        resolve("prepare", "rl", ["judge.ordr=both"])


def test_a_given_upstream_run_is_kept() -> None:
    assert upstream_names("rl", "rl", ["upstream.cold_start=mine"])["cold_start"] == "mine"


def finish(outputs: Path, recipe: str, name: str) -> None:
    RunFolder.open(outputs / recipe / name, {}).finish({})


def test_evaluate_takes_up_the_finished_policies_and_no_others(tmp_path: Path) -> None:
    overrides = [f"paths.outputs={tmp_path}", "setting=streaming"]
    before = resolve("evaluate", "evaluate", overrides)
    assert [key for key, name in before["upstream"].items() if name] == ["prepare"]
    finish(tmp_path, "rl", name_of_run("rl", ["setting=streaming"]))
    finish(tmp_path, "rl", name_of_run("rl", ["setting=base", "setting.signals=8"]))
    RunFolder.open(tmp_path / "rl" / name_of_run("rl", []), {})
    after = resolve("evaluate", "evaluate", overrides)
    assert [key for key, name in after["upstream"].items() if name] == [
        "prepare", "rl_base8", "rl_streaming",
    ]  # fmt: skip
    assert after["run_name"] != before["run_name"]


def test_the_evaluation_of_a_chain_scores_the_chains_own_policy(tmp_path: Path) -> None:
    overrides = [f"paths.outputs={tmp_path}", "setting=streaming", "trainer.beta=0.1"]
    finish(tmp_path, "rl", name_of_run("rl", overrides))
    finish(tmp_path, "rl", name_of_run("rl", ["setting=streaming"]))
    found = resolve("evaluate", "rl", overrides)["upstream"]
    assert found["rl_streaming"] == name_of_run("rl", overrides)
    plain = resolve("evaluate", "rl", overrides[:2])["upstream"]
    assert plain["rl_streaming"] == name_of_run("rl", ["setting=streaming"])


def test_the_make_command_of_a_missing_stage() -> None:
    overrides = ["scale=tiny", "seed=1", "setting=streaming", "setting.rounds=3", "tracking=none",
                 "trainer.beta=0.1"]  # fmt: skip
    assert make_command("cold_start", "rl", "rl", overrides) == (
        'make cold-start SCALE=tiny SEED=1 SETTING=streaming ARGS="setting.rounds=3"'
    )
    assert make_command("prepare", "rl", "rl", ["data=alignx", "data.path=x"]) == (
        "make data DATA=alignx DATA_PATH=x"
    )


def test_policies_are_named_by_their_stage_start_and_setting() -> None:
    def policy(stage: str, *overrides: str) -> str:
        return policy_name(stage, compose_recipe(stage, overrides))

    assert policy("cold_start") == "cold_start_base4"
    assert policy("cold_start", "examples=unverified") == "cold_start_unverified_base4"
    assert policy("rl", "setting.signals=8") == "rl_base8"
    assert policy("rl", "setting=streaming") == "rl_streaming"
    assert policy("rl", "setting=streaming", "start=backbone") == "rl_only_streaming"


@pytest.mark.parametrize(
    ("command", "then", "given", "needed"),
    [
        ("rl", [], [], {"prepare", "synthesize", "cold_start", "rl"}),
        ("rl", [], ["upstream.cold_start=x"], {"prepare", "rl"}),
        ("rl", ["evaluate"], ["upstream.cold_start=x"], {"prepare", "rl", "evaluate"}),
        ("rl", [], ["upstream.cold_start=x", "upstream.prepare=y"], {"rl"}),
        ("rl", [], ["start=backbone"], {"prepare", "rl"}),
        ("rl", ["evaluate"], ["start=backbone"], {"prepare", "rl", "evaluate"}),
        ("cold_start", [], ["upstream.synthesize=x"], {"cold_start"}),
        ("cold_start", [], [], {"prepare", "synthesize", "cold_start"}),
        ("evaluate", [], ["upstream.rl_base4=x"], {"prepare", "evaluate"}),
    ],
)
def test_a_stage_that_nothing_starts_from_is_not_needed(
    command: str, then: list[str], given: list[str], needed: set[str]
) -> None:
    assert needed_stages(CHAINS[command], then, given) == needed


def test_the_report_finds_the_evaluation_of_the_same_choices(tmp_path: Path) -> None:
    overrides = [f"paths.outputs={tmp_path}", "setting=streaming"]
    before = resolve("report", "report", [*overrides, "page.cases=3"])
    evaluated = resolve("evaluate", "evaluate", overrides)
    assert before["upstream"] == {"evaluate": evaluated["run_name"]}
    finish(tmp_path, "rl", name_of_run("rl", ["setting=streaming"]))
    after = resolve("report", "report", [*overrides, "page.cases=3"])
    assert after["upstream"]["evaluate"] == resolve("evaluate", "evaluate", overrides)["run_name"]
    assert after["upstream"] != before["upstream"]
    assert after["run_name"] != before["run_name"]


def test_the_report_of_named_evaluations_is_named_by_them() -> None:
    one = resolve("report", "report", ["upstream.evaluate=one"])
    two = resolve("report", "report", ["upstream.evaluate=[one,two]"])
    assert one["upstream"] == {"evaluate": "one"}
    assert two["upstream"] == {"evaluate": ["one", "two"]}
    assert one["run_name"] != two["run_name"]


def test_the_evaluation_finds_the_policies_of_unverified_examples_by_their_own_name(
    tmp_path: Path,
) -> None:
    paths = f"paths.outputs={tmp_path}"
    trained = ["setting=streaming", "examples=unverified", paths]
    name = name_of_run("cold_start", trained)
    assert name != name_of_run("cold_start", ["setting=streaming", paths])
    RunFolder.open(tmp_path / "cold_start" / name, {}).finish({})
    upstream = upstream_names("evaluate", "evaluate", [paths])
    assert upstream["cold_start_unverified_streaming"] == name
    assert upstream["cold_start_unverified_base4"] is None
    assert upstream["cold_start_streaming"] is None


def test_rl_from_the_backbone_is_a_run_of_its_own_and_starts_from_no_cold_start() -> None:
    assert name_of_run("rl", ["start=cold_start"]) == name_of_run("rl", [])
    assert name_of_run("rl", ["start=backbone"]).startswith(name_of_run("rl", []) + "-")
    assert upstream_names("rl", "rl", ["start=backbone"]) == {
        "prepare": name_of_run("prepare", []),
        "cold_start": None,
    }


def test_the_evaluation_finds_rl_with_and_without_a_cold_start(tmp_path: Path) -> None:
    overrides = [f"paths.outputs={tmp_path}", "setting=streaming"]
    tuned = [*overrides, "start=backbone", "trainer.beta=0.1"]
    for trained in (overrides, [*overrides, "start=backbone"], tuned):
        finish(tmp_path, "rl", name_of_run("rl", trained))
    alone = upstream_names("evaluate", "evaluate", overrides)
    assert alone["rl_streaming"] == name_of_run("rl", overrides)
    assert alone["rl_only_streaming"] == name_of_run("rl", [*overrides, "start=backbone"])
    assert alone["rl_only_base4"] is None
    chained = upstream_names("evaluate", "rl", tuned)
    assert chained["rl_streaming"] == alone["rl_streaming"]
    assert chained["rl_only_streaming"] == name_of_run("rl", tuned)
    assert make_command("rl_only_base4", "evaluate", "evaluate", overrides) == (
        'make rl SETTING=base ARGS="start=backbone"'
    )
