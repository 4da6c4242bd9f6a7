"""How assets/ are made: the models in their order, and the folders that ship."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.recipes.commands import ROOT

FOLDER = ROOT / "recipes" / "tiny_models"


@pytest.mark.slow
def test_each_model_is_made_in_its_turn(tmp_path: Path) -> None:
    models = OmegaConf.load(FOLDER / "models.yaml").models
    first = {name: next(iter(own.stages[0].documents)) for name, own in models.items()}
    few = [f"models.{n}.stages=[{{steps: 2, documents: {{{k}: 1}}}}]" for n, k in first.items()]
    places = [f"output={tmp_path}/made", f"assets={tmp_path}/assets", "validation_cases=4"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / "train.py"), *places, *few]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    shipped = {name for name, own in models.items() if own.ships}
    assert {path.name for path in (tmp_path / "assets").iterdir()} == shipped
    assert (tmp_path / "assets" / "teacher" / "model.safetensors").is_file()
