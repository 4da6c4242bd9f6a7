"""A preflight finds what would end a run later: each mistake is planted, and told with a remedy."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from huggingface_hub import HfApi
from transformers import PreTrainedTokenizerFast

from alignxplore_trl.data.sources import load_world, write_splits
from alignxplore_trl.data.world import World
from alignxplore_trl.judging.probe import OBVIOUS
from alignxplore_trl.launch.compose import compose_recipe
from alignxplore_trl.launch.config import CONFIGS, ColdStartConfig, RLConfig, read_values
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.launch.machine import Card, Machine, this_machine
from alignxplore_trl.launch.memory import GIB
from alignxplore_trl.launch.model_files import NeededModel, find_models
from alignxplore_trl.launch.preflight.check import Check, CheckedConfig, TrainingConfig
from alignxplore_trl.launch.preflight.run import refuse_or_say, run_checks
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.run.folder import RunFolder
from alignxplore_trl.training.tiny_models import Shape, build_model
from tests.judging.fault_server import FaultServer, listing, refusal, right
from tests.synthesis.teaching import choice

ROOT = Path(__file__).parents[2]
LAUNCHES = ROOT / "conf" / "launch"
EIGHT = Machine((Card(80 * GIB, 0),) * 8, 512 * GIB, 1000 * GIB)


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where make gives its commands; this machine's keys and network don't count."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A model with random weights, as folder."""
    folder = tmp_path_factory.mktemp("small")
    shape = Shape(hidden_size=64, layers=2, heads=2, intermediate_size=96, context=512)
    build_model(shape, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def read(recipe: str, outputs: Path, *overrides: str) -> CheckedConfig:
    problems = Problems()
    values = {**compose_recipe(recipe, [f"paths.outputs={outputs}", *overrides]), "run_name": "x"}
    values["upstream"] = dict.fromkeys(values["upstream"], "x")
    config = read_values(CONFIGS[recipe], values, problems)
    assert isinstance(config, CheckedConfig), problems.found
    return config


def failures(checks: list[Check]) -> list[Check]:
    return [check for check in checks if check.state == "FAIL"]


def only_failure(outputs: Path, *overrides: str, recipe: str = "rl") -> Check:
    found = failures(run_checks(read(recipe, outputs, *overrides), outputs / recipe / "x"))
    assert len(found) == 1, found
    return found[0]


def has(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    """Let the checks find this machine."""
    monkeypatch.setattr(
        "alignxplore_trl.launch.preflight.run.this_machine", lambda outputs: machine
    )


def prepare(outputs: Path, users: int = 40) -> None:
    """The run that RL reads its cases from, finished."""
    folder = RunFolder.open(outputs / "prepare" / "x", {})
    write_splits(folder.path, load_world(World(0), {"rl": users}))
    folder.finish({})


@pytest.mark.parametrize("recipe", ["synthesize", "cold_start", "rl", "evaluate"])
def test_what_ships_passes(tmp_path: Path, recipe: str) -> None:
    checks = run_checks(read(recipe, tmp_path), tmp_path / recipe / "x")
    assert failures(checks) == []
    assert {check.name for check in checks} >= {"versions", "models", "tracking"}


@pytest.mark.parametrize(
    ("overrides", "name", "line", "remedy"),
    [
        (
            ["model.attn_implementation=flash_attention_2"],
            "versions",
            "flash-attn isn't installed, expected flash-attn>=2.8",
            "uv pip install",
        ),
        (
            ["trainer.optim=adamw_bnb_8bit"],
            "versions",
            "bitsandbytes isn't installed, expected",
            "'bitsandbytes'",
        ),
        (
            ["judge.model=no-one/has-this"],
            "models",
            "judge.model: no-one/has-this: it isn't in the Hub's cache on this machine, and the "
            "Hub can't be reached (HF_HUB_OFFLINE is set)",
            "hf download no-one/has-this",
        ),
        (
            ["launch.num_processes=4"],
            "gpus",
            "launch.num_processes: 4 found, but conf/launch/accelerate/cpu.yaml starts 1",
            "the same number",
        ),
        (
            ["tracking=wandb", "preflight.skip=[]"],
            "tracking",
            "not logged in to 127.0.0.1",
            "WANDB_API_KEY",
        ),
        (
            ["trainer.use_vllm=true", "trainer.vllm_mode=server", "preflight.skip=[versions]"],
            "vllm",
            "/health doesn't answer as it should (ConnectError)",
            "make serve-rollouts",
        ),
    ],
)
def test_a_planted_mistake_is_found_with_its_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    name: str,
    line: str,
    remedy: str,
) -> None:
    with FaultServer(right) as server:  # For W&B it is enough that something answers.
        monkeypatch.setenv("WANDB_BASE_URL", f"{server.url}/models")
        nothing = f"trainer.vllm_server_port={_free_port()}"
        found = only_failure(tmp_path, *overrides, nothing)
    assert found.name == name
    assert line in found.line
    assert remedy in found.remedy


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_wandb_that_is_logged_in_and_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{_free_port()}")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password key\n")
    found = only_failure(tmp_path, "tracking=wandb")
    assert "127.0.0.1 can't be reached (ConnectError)" in found.line
    assert "tracking=offline" in found.remedy


def test_deepspeed_is_missing_and_so_are_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, replace(EIGHT, cards=EIGHT.cards[:2]))
    config = read("rl", tmp_path, "launch=zero3")
    found = {check.name: check for check in failures(run_checks(config, tmp_path))}
    assert "2 card(s) found, expected 8" in found["gpus"].line
    assert "another LAUNCH" in found["gpus"].remedy
    if "versions" in found:  # Where it is installed, this isn't a mistake.
        assert "deepspeed isn't installed, expected deepspeed>=0.19" in found["versions"].line
    has(monkeypatch, replace(EIGHT, cards=()))
    assert "no NVIDIA card" in str(failures(run_checks(config, tmp_path)))


def test_each_machine_of_a_launch_needs_its_own_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "two.yaml"
    shipped = (LAUNCHES / "accelerate" / "ddp.yaml").read_text()
    file.write_text(shipped.replace("num_machines: 1", "num_machines: 2").replace(": 8", ": 16"))
    launch = ["launch=ddp", "launch.num_processes=16", f"launch.accelerate_config={file}"]
    has(monkeypatch, EIGHT)
    config = read("rl", tmp_path, *launch)
    assert isinstance(config, TrainingConfig)
    checks = {check.name: check for check in run_checks(config, tmp_path)}
    assert checks["gpus"].state == "PASS"
    assert checks["gpus"].line == "8 card(s) of 80 GiB for 8 process(es), 2 machines"


@pytest.mark.parametrize(
    ("card", "told"),
    [
        (Card(GIB, 0), "card 0 has 1 GiB; an estimate"),
        (Card(80 * GIB, 79 * GIB), "card 0 has 80 GiB, 79 GiB of them in use; an estimate"),
    ],
)
def test_a_card_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: Card, told: str
) -> None:
    has(monkeypatch, replace(EIGHT, cards=(card,)))
    found = only_failure(tmp_path, "launch=gpu1")
    assert found.name == "memory"
    assert told in found.told
    assert "activations" in found.line
    assert "trainer.per_device_train_batch_size" in found.remedy


def test_a_model_that_cannot_be_counted_has_no_estimate(tmp_path: Path, small: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(small, folder)
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')
    config = read("rl", tmp_path, f"model.backbone={folder}")
    checks = {check.name: check for check in run_checks(config, tmp_path)}
    assert (checks["memory"].state, checks["disk"].state) == ("SKIP", "SKIP")
    assert "can't be counted" in checks["memory"].line


def test_the_launchs_file_is_not_there(tmp_path: Path) -> None:
    config = read("rl", tmp_path, "launch.accelerate_config=conf/launch/accelerate/none.yaml")
    with pytest.raises(UserError, match=r"there is no file conf/launch/accelerate/none\.yaml"):
        run_checks(config, tmp_path)


def test_main_memory_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, replace(EIGHT, free_memory=2 * GIB))
    found = only_failure(tmp_path, "launch=cpu2")
    assert "for 2 process(es), but 2 GiB are free" in found.line


def test_what_is_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, replace(EIGHT, free_memory=0))
    checks = run_checks(read("rl", tmp_path, "preflight.skip=[memory]"), tmp_path)
    assert failures(checks) == []
    told = [check for check in checks if check.name == "memory"]
    assert [str(check) for check in told] == ["SKIP  memory         left out by preflight.skip"]


def test_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, replace(EIGHT, free_disk=2**20))
    found = only_failure(tmp_path)
    assert found.name == "disk"
    assert "3 checkpoints of" in found.line
    assert "1 MiB are free" in found.line
    assert "trainer.save_total_limit" in found.remedy
    left = tmp_path / "rl" / "x" / "checkpoints" / "checkpoint-1"
    left.mkdir(parents=True)
    (left / "optimizer.pt").write_bytes(bytes(2**26))
    checks = run_checks(read("rl", tmp_path), tmp_path / "rl" / "x")
    assert failures(checks) == []  # A resumed run writes over what is there.


def test_prompts_are_too_long(tmp_path: Path) -> None:
    prepare(tmp_path)
    passed = run_checks(read("rl", tmp_path), tmp_path)
    [line] = [check.line for check in passed if check.name == "lengths"]
    assert line.startswith("40 of 40 prompts measured, tokens (how many have them): ")
    assert line.endswith("; 0 above prompts.max_prompt_tokens 320 are shortened")
    found = only_failure(tmp_path, "prompts.max_prompt_tokens=40", "data.counts.rl=40")
    assert "more than half" in found.line
    assert "raise prompts.max_prompt_tokens" in found.remedy


def test_there_are_too_few_rows_for_a_batch(tmp_path: Path) -> None:
    prepare(tmp_path, users=10)
    found = only_failure(tmp_path)
    assert "10 rows (cases x rounds) found, expected at least 16" in found.line


def test_examples_are_longer_than_the_model_reads(tmp_path: Path, small: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = RunFolder.open(tmp_path / "synthesize" / "x", {})
    rows = [{"prompt": "hey dude " * 300, "completion": "now"}] * 2
    pq.write_table(pa.Table.from_pylist(rows), folder.path / "examples.parquet")
    folder.finish({})
    models = [f"model.backbone={small}"]
    found = only_failure(tmp_path, *models, "trainer.max_length=4096", recipe="cold_start")
    assert found.name == "lengths"
    assert "has 512 positions" in found.line
    assert "trainer.max_length=512" in found.remedy
    found = only_failure(tmp_path, *models, "trainer.max_length=512", recipe="cold_start")
    assert "2 above trainer.max_length 512 are left out, more than half" in found.line


def test_a_models_folder_lacks_what_is_loaded(tmp_path: Path, small: Path) -> None:
    shutil.copytree(small, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    found = only_failure(tmp_path, f"model.backbone={tmp_path}/model")
    assert "model.backbone" in found.line
    assert "has no weights (model.safetensors)" in found.line
    (tmp_path / "model" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).unlink()
    found = only_failure(tmp_path, f"model.backbone={tmp_path}/model")
    assert "no tokenizer (tokenizer.json), no model-1.safetensors, no model-2" in found.line


@pytest.mark.parametrize(
    ("status", "code", "problem"),
    [
        (404, "RepoNotFound", "the Hub has no model of this name"),
        (403, "GatedRepo", "those alone who have accepted its terms"),
        (500, "", "the Hub answered with status 500"),
    ],
)
def test_the_hub_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, problem: str
) -> None:
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(
            "alignxplore_trl.launch.model_files.HfApi", lambda: HfApi(endpoint=address)
        )
        model = NeededModel("judge.model", "no-one/has-this", weights=True)
        found = find_models([model])[model]
        server.shutdown()
    assert problem in found.problem
    assert found.remedy
    assert asked == ["/api/models/no-one/has-this"]


def test_a_hub_that_is_out_is_asked_for_one_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    def api() -> HfApi:
        asked.append(1)
        return HfApi(endpoint=f"http://127.0.0.1:{_free_port()}")

    monkeypatch.setattr("alignxplore_trl.launch.model_files.HfApi", api)
    models = [NeededModel("judge.model", f"no-one/has-{number}", True) for number in range(3)]
    found = find_models(models)
    assert len(asked) == 1
    for model in models:
        assert "can't be reached (ConnectError)" in found[model].problem
        assert f"hf download {model.name}`" in found[model].remedy


def test_a_judge_with_random_weights_answers_wrongly(tmp_path: Path, small: Path) -> None:
    judge = [f"judge.model={small}", f"model.judge={small}"]
    found = only_failure(tmp_path, *judge)
    assert found.name == "judge"
    assert "0 of 4 obvious questions answered rightly, 8 without an answer" in found.line
    assert "make judge-report" in found.remedy
    skipped = run_checks(read("rl", tmp_path, *judge, "preflight.asked_parameters=10"), tmp_path)
    assert [check.state for check in skipped if check.name == "judge"] == ["SKIP"]


def judge_server(url: str) -> list[str]:
    return ["judge=server", f"judge.server.urls=[{url}]", "judge.server.served_as=served"]


def test_the_judges_server_is_dead(tmp_path: Path) -> None:
    found = only_failure(tmp_path, *judge_server(f"http://127.0.0.1:{_free_port()}/v1"))
    assert found.name == "judge"
    assert "found no server: start one with make serve-judge" in found.line


def test_the_judges_server_has_another_model(tmp_path: Path) -> None:
    with FaultServer(lambda body, attempt: refusal(404)) as server:
        found = only_failure(tmp_path, *judge_server(server.url), "judge.server.served_as=qwen")
    assert "it doesn't know the model 'qwen' or the path; it serves served" in found.line


@pytest.mark.parametrize(
    ("recipe", "overrides", "target"),
    [
        ("synthesize", ["teacher=server", "teacher.server.urls=[{url}]"], "serve-teacher"),
        (
            "evaluate",
            ["language_model=server", "language_model.server.urls=[{url}]",
             "evaluation.methods=[prompted_concise]"],
            "serve-teacher",
        ),
    ],
)  # fmt: skip
def test_the_server_of_a_writer_is_asked(
    tmp_path: Path, recipe: str, overrides: list[str], target: str
) -> None:
    def told(url: str) -> list[str]:
        return [override.format(url=url) for override in overrides]

    dead = only_failure(tmp_path, *told(f"http://127.0.0.1:{_free_port()}/v1"), recipe=recipe)
    assert dead.name == "language_model"
    assert f"found no server: start one with make {target}" in dead.line
    with FaultServer(lambda body, attempt: choice(" hello")) as server:
        checks = run_checks(read(recipe, tmp_path, *told(server.url)), tmp_path / recipe / "x")
    assert failures(checks) == []
    [found] = [check for check in checks if check.name == "language_model"]
    assert f"answers at {server.url}" in found.line


def test_the_judges_server_prefers_a_position(tmp_path: Path) -> None:
    # P(A) is ½ for all: no question is answered rightly.
    def even(body: dict, attempt: int):  # type: ignore[no-untyped-def,type-arg]
        return listing({f"token_id:{each}": -0.6931472 for each in body["logprob_token_ids"]})

    with FaultServer(even) as server:
        found = only_failure(tmp_path, *judge_server(server.url))
    assert f"0 of {len(OBVIOUS)} obvious questions answered rightly, P(right) 0.50" in found.line


def test_letters_are_read_where_they_are_single_tokens(
    tmp_path: Path, small: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(small, folder)
    text = (folder / "tokenizer.json").read_text()
    values = json.loads(text)
    assert values["model"]["vocab"]["B"] >= 0
    # Without this letter's token, A and B are one to the tokenizer, or unknown.
    values["normalizer"] = {"type": "Replace", "pattern": {"String": "B"}, "content": "A"}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    found = only_failure(tmp_path, f"judge.model={folder}", "preflight.skip=[lengths]")
    assert "A and B have the same tokens" in found.line
    assert "JUDGE=sampled" in found.remedy


def test_the_servers_of_rollouts_and_of_the_judge_are_two(tmp_path: Path) -> None:
    with FaultServer(right) as server:
        port = server.url.split(":")[2].removesuffix("/v1")
        config = read(
            "rl", tmp_path, *judge_server(server.url), "trainer.use_vllm=true",
            "trainer.vllm_mode=server", f"trainer.vllm_server_base_url=http://localhost:{port}",
            "preflight.skip=[versions,judge]",
        )  # fmt: skip
        lines = [check.line for check in failures(run_checks(config, tmp_path))]
    assert any("is the judge's server, too" in line for line in lines)


def test_a_served_judge_holds_the_cards_of_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, replace(EIGHT, cards=(Card(80 * GIB, 60 * GIB),)))
    with FaultServer(right) as server:
        found = only_failure(
            tmp_path, *judge_server(server.url), "launch=gpu1", "preflight.skip=[judge,memory]"
        )
    assert found.name == "devices"
    assert "something has memory of card(s) 0" in found.line
    assert "CUDA_VISIBLE_DEVICES" in found.remedy


def test_a_colocated_vllm_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, replace(EIGHT, cards=(Card(4 * GIB, 0),)))
    colocated = ["launch=gpu1", "trainer.use_vllm=true", "preflight.skip=[versions]"]
    assert only_failure(tmp_path, *colocated, "trainer.vllm_max_model_length=100").line.startswith(
        "trainer.vllm_max_model_length: 100 found, expected at least 416"
    )
    share = [*colocated, "trainer.vllm_gpu_memory_utilization=0.0001"]
    found = only_failure(tmp_path, *share)
    assert "trainer.vllm_gpu_memory_utilization: 0.0001 of a card" in found.line
    found = only_failure(tmp_path, *colocated, "trainer.vllm_gpu_memory_utilization=0.9")
    assert found.name == "memory"
    assert "vLLM 3.6 GiB" in found.line


def test_a_run_is_refused_before_its_folder_is_made(tmp_path: Path) -> None:
    config = read("rl", tmp_path, "model.attn_implementation=flash_attention_2")
    with pytest.raises(UserError) as error_info:
        refuse_or_say(config, tmp_path / "rl" / "x")
    assert error_info.value.problems[0].startswith("versions: flash-attn isn't installed")
    assert not list(tmp_path.iterdir())


def test_a_run_says_in_one_line_that_all_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse_or_say(read("rl", tmp_path), tmp_path / "rl" / "x")
    assert capsys.readouterr().err.endswith("rl: 9 checks passed, without lengths\n")


def preflight(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """Status and lines of a command."""
    kind = {"rl": RLConfig, "cold_start": ColdStartConfig}[arguments[0]]
    status = 0
    try:
        run_recipe(kind, test_what_ships_passes, ["--preflight", *arguments[1:]])  # type: ignore[arg-type]
    except SystemExit as error:
        status = int(error.code or 0)
    return status, capsys.readouterr().out.splitlines()


def test_the_command_prints_a_line_for_each_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = preflight(capsys, "rl", f"paths.outputs={tmp_path}")
    assert status == 0
    stages = [line.split(":")[0] for line in lines if line[:4] not in ("PASS", "SKIP")]
    assert stages == ["synthesize", "cold_start", "rl"]
    assert not list(tmp_path.iterdir())


def test_the_command_fails_with_every_mistake_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = preflight(
        capsys, "rl", f"paths.outputs={tmp_path}", "model.teacher=no-one/has-this",
        "judge.server.urls=[x]", "judge=server", "model.attn_implementation=flash_attention_2",
    )  # fmt: skip
    assert status == 2
    failed = "\n".join(line for line in lines if line.startswith("FAIL"))
    assert "configuration  judge.server.urls[0]: expected http://<host>:<port>/v1" in failed
    assert "teacher.model: no-one/has-this" in failed
    assert "flash-attn" in failed


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainer.per_device_train_batch_size=6", "not a multiple of 4 rollouts per prompt"),
        ("trainer.max_completion_length=3000", "expected at most 2048, the positions"),
        ("model.backbone=/nowhere/model", "found no folder /nowhere/model"),
        ("preflight.skip=[memroy]", "preflight.skip[0]: found 'memroy', expected one of"),
    ],
)
def test_a_wrong_configuration_fails_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, told: str
) -> None:
    status, lines = preflight(capsys, "rl", f"paths.outputs={tmp_path}", override)
    assert status == 2
    assert any(line.startswith("FAIL  configuration") and told in line for line in lines), lines
    # What doesn't hang on it is looked at all the same, and nothing is told twice.
    assert any(line.startswith(("PASS  versions", "SKIP  all others")) for line in lines)
    failed = [line for line in lines if line.startswith("FAIL")]
    assert len(failed) == 1, failed


def test_a_checkpoint_inside_a_generation_batch_fails_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = preflight(
        capsys, "rl", f"paths.outputs={tmp_path}", "trainer.save_steps=5",
        "trainer.steps_per_generation=2",
    )  # fmt: skip
    assert status == 2
    assert any("a checkpoint inside a generation batch can't be resumed" in each for each in lines)


def test_nvidia_smi_is_asked_for_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nprintf '0, GPU-aa, 81920, 10\\n1, GPU-bb, 40960, 0\\n'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second = Card(80 * GIB, 10 * 2**20), Card(40 * GIB, 0)
    assert this_machine(tmp_path / "not" / "there").cards == (first, second)
    for visible, cards in (
        ("1,0", (second, first)), ("GPU-b", (second,)), ("", ()), ("0,7,1", (first,)),
        ("MIG-aa-1", (second,)),
    ):  # fmt: skip
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert this_machine(tmp_path).cards == cards
    command.write_text("#!/bin/sh\nexit 9\n")
    assert this_machine(tmp_path).cards == ()


def test_a_card_that_shares_the_hosts_memory_has_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nprintf '0, GPU-aa, [N/A], [N/A]\n'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    [card] = this_machine(tmp_path).cards
    assert 0 < card.used < card.total == psutil.virtual_memory().total
