"""What becomes of a stage's folder: made, finished, resumed, read by others, or refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from tests.recipes.commands import Commands

Capture = pytest.CaptureFixture[str]


def test_a_stage_is_made_once_and_says_so(command: Commands, capsys: Capture) -> None:
    assert command("prepare", "run=a") == 0
    folder = command.outputs / "a" / "data"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["cases/rl"] == 32
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert set(kept) == {"seed", "data"}
    assert "torch: " in (folder / "environment.txt").read_text()
    capsys.readouterr()
    began = time.process_time()
    assert command("prepare", "run=a") == 0
    assert time.process_time() - began < 2
    assert "is finished; nothing to do" in capsys.readouterr().err


def test_other_values_are_refused_with_both_and_the_remedy(
    command: Commands, capsys: Capture
) -> None:
    command("prepare", "run=a")
    assert command("prepare", "run=a", "seed=1", "data.dimensions_per_user=2") == 2
    said = capsys.readouterr().err
    assert "made with other values; name this run (RUN=<name>)" in said
    assert "error: data.dimensions_per_user: 3 there, 2 asked" in said
    assert "error: seed: 0 there, 1 asked" in said
    assert "Traceback" not in said
    # A mistyped key differs, too.
    assert command("prepare", "run=a", "+data.sise=1") == 2
    assert "data.sise: alignxplore_trl.data.world.World has no such" in capsys.readouterr().err
    # So it is in a stage that isn't finished.
    (command.outputs / "a" / "data" / "summary.json").unlink()
    assert command("prepare", "run=a", "seed=1") == 2
    assert command("prepare", "run=a") == 0


def test_a_corrected_command_is_taken_where_nothing_was_made(
    command: Commands, capsys: Capture
) -> None:
    command("prepare", "run=a")
    assert command("rl", "run=a", "rl.start=backbone", "rl.temperature=0") == 2
    said = capsys.readouterr().err
    assert "error: rl: `temperature` (=0" in said  # TRL's or transformers' own words.
    assert "Traceback" not in said
    assert command("rl", "run=a", "rl.start=backbone", "rl.max_steps=1") == 0


def test_a_missing_stage_is_named_with_its_target(command: Commands, capsys: Capture) -> None:
    assert command("synthesize", "run=a", "upstream=b") == 2
    said = capsys.readouterr().err
    assert f"found nothing finished in {command.outputs}/a/data or {command.outputs}/b/data" in said
    assert "`make data` makes it" in said


def test_upstream_is_read_where_its_values_are_the_same(command: Commands, capsys: Capture) -> None:
    command("prepare", "run=base")
    before = sorted(command.outputs.rglob("*"))
    assert command("prepare", "run=other", "upstream=base") == 0
    assert "base/data is finished, and used" in capsys.readouterr().err
    assert sorted(command.outputs.rglob("*")) == before
    assert command("synthesize", "run=other", "upstream=base") == 0
    assert (command.outputs / "other" / "synthesis" / "examples.jsonl").is_file()
    changing_nothing = ("tracking.project=x", "model.test_judge=x", "rl.save_steps=7")
    assert command("synthesize", "run=other", "upstream=base", *changing_nothing) == 0
    # It doesn't chain.
    assert command("cold_start", "run=third", "upstream=base") == 2
    assert command("rl", "run=third", "upstream=other", "rl.start=backbone") == 2
    capsys.readouterr()
    assert command("prepare", "run=fourth", "upstream=base", "seed=1") == 0
    assert "made anew, since" in capsys.readouterr().err
    # Read with other values, by a stage that asks for it alone.
    assert command("synthesize", "run=fifth", "upstream=base", "seed=1") == 2
    assert "base/data: made with other values" in capsys.readouterr().err


def test_data_is_compared_by_content_and_not_by_time(
    command: Commands, tmp_path: Path, capsys: Capture
) -> None:
    rows = tmp_path / "rows (1)" / "données=a,b#1.jsonl"
    rows.parent.mkdir()
    row = '{{"user": "u{}", "prompt": "p{} {}", "chosen": "c{}", "rejected": "r"}}'
    lines = [row.format(u, u, n, n) for u in range(20) for n in range(10)]
    rows.write_text("\n".join(lines))
    sizes = "data.sizes={cold_start: 2, rl: 2, validation: 1, test: 1}"
    asked = ("run=a", "data=mapping", f'data.path="{rows}"', sizes, "tracking.mode=none")
    assert command("prepare", *asked, small=False) == 0
    rows.touch()
    assert command("prepare", *asked, small=False) == 0
    rows.write_text("\n".join(lines[:-1]))
    assert command("prepare", *asked, small=False) == 2
    assert "data.path (its content)" in capsys.readouterr().err
    rows.unlink()
    assert command("prepare", *asked, small=False) == 0


def test_hydras_own_flags_work(command: Commands, capsys: Capture) -> None:
    assert command("rl", "--cfg", "job", "--package", "setting") == 0
    assert "rounds: 2" in capsys.readouterr().out
    assert command("rl", "--help") == 0
    assert "setting: base, streaming" in capsys.readouterr().out
    assert command("sweep", "--cfg", "job", "--package", "sweep") == 0
    assert "targets:" in capsys.readouterr().out
    assert command("prepare", "-m", "seed=0,1") == 2
    assert "--multirun is for recipes/sweep.py" in capsys.readouterr().err
    assert not command.outputs.exists()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "sedd=1",
            "error: sedd: no such key; did you mean seed?",
        ),
        ("data.size={}", "did you mean sizes?"),
        ("judge=sever", "error: judge=sever: no such choice; there are local, sampled"),
        ("rl.lerning_rate=1", "error: rl.lerning_rate: RoundsConfig has no such field; did you"),
        ("rl.max_steps=many", "error: rl.max_steps: 'many' found"),
        ("rl.seed=1", "error: rl.seed: the recipe sets it; set seed"),
        ("+judge.modl=x", "LocalJudge has no such argument; did you mean model?"),
        ("setting.rounds=1", "streaming with 1 round(s) found, expected base with exactly one"),
        ("judge._target_=no.such.Judge", "error: judge._target_: 'no.such.Judge': No module named"),
        ("method=[nosuch]", "error: method=nosuch: no such choice; there are another_users"),
        ("data.path=x", "this source reads no file; choose another one, such as DATA=alignx"),
        ("inspection.cases=two", "error: inspection.cases: 'two' found"),
        ("run=../evil", "error: run: '../evil' found, expected the name of a folder below"),
        ("data=alignx", "error: data.path: Missing mandatory value"),
    ],
)
def test_a_mistake_is_one_message(command: Commands, capsys: Capture, word: str, said: str) -> None:
    assert command("prepare", "run=a", word, small=False) in (1, 2)
    found = capsys.readouterr().err
    assert said in found
    assert "Traceback" not in found
    assert not command.outputs.exists()
