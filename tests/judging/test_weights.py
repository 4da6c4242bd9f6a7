"""Models that several parts of a run use are loaded once."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import torch

from alignxplore_trl.judging.generator import LocalGenerator
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.weights import load_model
from alignxplore_trl.text.rendering import PromptSet

JUDGE = Path(__file__).parents[2] / "assets" / "judge"


def test_a_judge_and_a_generator_share_their_weights(prompts: PromptSet) -> None:
    judge = LocalJudge.from_folder(JUDGE, prompts, dtype="float32", max_batch_tokens=4096)
    generator = LocalGenerator.from_folder(JUDGE, prompts, dtype="float32", max_batch_tokens=4096)
    loaded = load_model(JUDGE, dtype="float32", device="cpu")
    assert judge._model.model is generator._model.model is loaded
    assert not loaded.training


def test_what_is_other_is_loaded_apart(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(JUDGE, folder)
    first = load_model(folder, dtype="float32", device="cpu")
    assert load_model(folder, dtype="bfloat16", device="cpu") is not first
    with torch.no_grad():
        first.get_input_embeddings().weight[0, 0] = 7.0
    first.save_pretrained(folder)  # The same name, and other weights.
    second = load_model(folder, dtype="float32", device="cpu")
    assert second is not first
    assert second.get_input_embeddings().weight[0, 0] == 7.0


def test_what_nobody_holds_is_freed() -> None:
    model = load_model(JUDGE, dtype="bfloat16", device="cpu")
    model.mark = "this very one"
    del model
    gc.collect()
    assert not hasattr(load_model(JUDGE, dtype="bfloat16", device="cpu"), "mark")
