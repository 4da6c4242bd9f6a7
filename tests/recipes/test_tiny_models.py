"""How assets/ are made: from the tokenizer to the folders that ship."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.recipes.commands import ROOT

FOLDER = ROOT / "recipes" / "tiny_models"


def run(*words: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=True)


def test_the_shipped_tokenizer_is_made_again(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from training import build_tokenizer;"
        "from alignxplore_trl.text.prompts import Prompts;"
        "build_tokenizer(Prompts('compact'), 1100, 0).save_pretrained(sys.argv[2])"
    )
    run("-c", code, str(FOLDER), str(tmp_path))
    made, shipped = (
        json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
        for folder in (tmp_path, ROOT / "assets" / "judge")
    )
    assert made == shipped


@pytest.mark.slow
def test_each_model_is_made_in_its_turn(tmp_path: Path) -> None:
    models = OmegaConf.load(FOLDER / "models.yaml").models
    few = [
        f"models.{name}.stages=[{{steps: 2, documents: {{{next(iter(own.stages[0].documents))}: 1}}}}]"
        for name, own in models.items()
    ]
    places = [f"output={tmp_path}/made", f"assets={tmp_path}/assets", "validation_cases=4"]
    run(str(FOLDER / "train.py"), *places, *few)
    shipped = {name for name, own in models.items() if own.ships}
    assert {path.name for path in (tmp_path / "assets").iterdir()} == shipped
    assert (tmp_path / "assets" / "teacher" / "model.safetensors").is_file()
