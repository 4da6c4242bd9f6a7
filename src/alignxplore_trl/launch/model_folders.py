"""What a model's folder must hold, before anything of it is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
SAVE_THERE = "save model and tokenizer there (save_pretrained), or name another folder"


def folder_problem(folder: Path, *, weights: bool) -> str | None:
    """What a folder lacks of a model, in words; `None` for a whole one.

    Args:
        folder: of the model.
        weights: whether its weights are loaded, too, or its tokenizer alone.
    """

    def find(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    lacking = lacking_files(find, weights=weights)
    return f"it has no {', no '.join(lacking)}" if lacking else None


def lacking_files(find: Callable[[str], Path | None], *, weights: bool) -> list[str]:
    """The files of a model that aren't there, named as transformers looks for them.

    Args:
        find: where a file of this name is, `None` where it isn't.
        weights: whether its weights are loaded, too, or its tokenizer alone.
    """
    lacking = [] if find("config.json") else ["config.json"]
    if not any(find(name) for name in _TOKENIZERS):
        lacking.append("tokenizer (tokenizer.json)")
    return lacking + (_lacking_weights(find) if weights else [])


def _lacking_weights(find: Callable[[str], Path | None]) -> list[str]:
    for name in _WEIGHTS:
        if find(name):
            return []
        if index := find(f"{name}.index.json"):
            parts = set(json.loads(index.read_text())["weight_map"].values())
            return sorted(part for part in parts if not find(part))
    return [f"weights ({_WEIGHTS[0]})"]
