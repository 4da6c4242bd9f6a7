"""The commands of docs/scaling.md, and a rehearsal of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rehearsal.stand_ins import FAMILIES

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "rehearsal"))  # As when it is a script.

from rehearsal.rehearse import SCALES, Rehearsal, commands  # noqa: E402


def test_a_rehearsal_replaces_models_sizes_and_processes_alone() -> None:
    rehearsal = Rehearsal("paper_7b", short=False, again=True)
    lines = dict(commands("Eight GPUs"))
    command = next(words for line, words in lines.items() if line.startswith("make evaluate"))
    replaced = rehearsal._replaced(*command[1:])
    assert {"SCALE=paper_7b", "TEACHER=server", "RUN=ours", "GPUS=2"} <= {*replaced}
    [arguments] = [word for word in replaced if word.startswith("ARGS=")]
    assert "test_judges.test.model=" + rehearsal.models["test_judge"] in arguments
    assert "judge.urls=[http://127.0.0.1:8000/v1]" in arguments
    assert "QwQ" not in " ".join(replaced)
    assert {family for _, families in SCALES.values() for family in families} <= FAMILIES.keys()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_gpu_is_rehearsed() -> None:
    script = [ROOT / ".venv-vllm/bin/python", "rehearsal/rehearse.py", "one_gpu", "--short"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    described = (ROOT / "outputs/rehearsal/one_gpu").glob("*-describe.log")
    # A stand-in leaves the format half of the time.
    assert re.search("Prefers|completion can't be read", next(described).read_text())
