"""A study from its file to its page; trainings and evaluations are told to make, and made here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alignxplore_trl.run.folder import is_finished, read_summary

ROOT = Path(__file__).parents[2]
PAGE = "# Studies\n\n<!-- study reward: begin -->\nnone\n<!-- study reward: end -->\n"
# In the place of make: notes the command and, for an evaluation, leaves what one leaves.
MAKE = f"""#!{sys.executable}
import re, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.reporting.evaluations import write_evaluation
line = " ".join(sys.argv[1:])
outputs = Path(re.search(r"paths.outputs=(\\S+)", line)[1])
outputs.mkdir(parents=True, exist_ok=True)
with (outputs / "commands").open("a") as file:
    file.write(line + "\\n")
if (outputs / "broken").exists():
    sys.exit(2)
name = re.search(r"RUN=(\\S+)", line)
if name and not (outputs / "evaluate" / name[1]).exists():
    seed = int(re.search(r"SEED=(\\d+)", line)[1])
    share = 0.9 if "judged" in name[1] else 0.5
    write_evaluation(
        outputs / "evaluate" / name[1], seed, {{"world": {{("rl_base4", "base4"): share}}}}, 40
    )
"""


@pytest.fixture
def study(
    run: Callable[..., None], another_make: Callable[[str], None], tmp_path: Path
) -> Callable[..., None]:
    """Run the recipe with a copy of the page and another make."""
    another_make(MAKE)
    (tmp_path / "studies.md").write_text(PAGE)
    page = f"document={tmp_path / 'studies.md'}"

    def run_study(*overrides: str) -> None:
        run("study", tmp_path / "outputs", page, "seeds=[0,3]", "study=reward", *overrides)

    return run_study


def test_a_study_trains_scores_and_writes_its_page(
    study: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study()
    commands = (tmp_path / "outputs" / "commands").read_text().splitlines()
    assert [line.split()[0] for line in commands] == ["rl", "evaluate"] * 6
    assert "SEED=3" in commands[-1]
    assert "RUN=study-reward-log-probability-tiny-" in commands[-1]
    page = (tmp_path / "studies.md").read_text()
    assert "| judged " in page
    assert "- generated < judged: **holds**: +" in page
    assert "(studies/reward.png)" in page
    assert (tmp_path / "studies" / "reward.png").read_bytes().startswith(b"\x89PNG")
    folder = tmp_path / "outputs" / "study" / "latest"
    assert read_summary(folder)["acc_jud/world/tiny/judged/base4"] == pytest.approx(0.9, abs=0.1)
    assert "generated < judged: holds: +" in capsys.readouterr().out
    study()
    assert "nothing to do" in capsys.readouterr().err
    assert (tmp_path / "outputs" / "commands").read_text().splitlines() == commands


def test_a_training_that_fails_ends_the_study_and_it_can_go_on(
    study: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "outputs" / "broken"
    broken.parent.mkdir()
    broken.touch()
    with pytest.raises(SystemExit):
        study()
    assert "make rl SCALE=tiny SEED=0 SETTING=base REWARD=judged" in capsys.readouterr().err
    assert (tmp_path / "studies.md").read_text() == PAGE
    broken.unlink()
    study()
    assert is_finished(tmp_path / "outputs" / "study" / "latest")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "study.evaluation.overrides=['evaluation.casse=3']",
            "evaluation.casse: the evaluate recipe",
        ),
        ("overrides=['trainer.num_generations=7']", "which is not a multiple of 7 rollouts"),
        ("overrides=['data.dimensions_per_user=40']", "dimensions_per_user: 40 found"),
        ("document=README.md", "expected <!-- study reward: begin -->"),
    ],
)
def test_a_mistake_is_found_before_anything_is_trained(
    study: Callable[..., None],
    tmp_path: Path,
    override: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        study(override)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "outputs" / "commands").exists()
