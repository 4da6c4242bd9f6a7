"""Models that are read or sampled from, loaded once however many parts of a run use them."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakValueDictionary

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

# Of each model that anyone still holds, by what it was loaded as. A judge, a generator and a writer
# of the same weights hold one copy: at the published scale, a second one is 65 GB.
_LOADED: WeakValueDictionary[tuple[object, ...], PreTrainedModel] = WeakValueDictionary()


def load_model(
    folder: str | Path,
    *,
    dtype: str,
    device: torch.device | str,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """Load a model that isn't trained, in evaluation mode, or find it where it is loaded already.

    Args:
        folder: a folder, or a name on the Hub.
        dtype: of its weights.
        device: where it is put.
        attn_implementation: a name that transformers knows; `None`: flash attention where it is
            installed and the numbers have 16 bits on a GPU, PyTorch's own attention elsewhere.
    """
    if attn_implementation is None and torch.device(device).type == "cuda":
        half = dtype in ("bfloat16", "float16")
        attn_implementation = "flash_attention_2" if half and is_flash_attn_2_available() else None
    key = (str(folder), _changed(Path(folder)), dtype, torch.device(device), attn_implementation)
    model = _LOADED.get(key)
    if model is None:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attn_implementation
        )
        model.to(device).eval()  # type: ignore[arg-type]
        _LOADED[key] = model
    return model


def _changed(folder: Path) -> tuple[tuple[str, int], ...]:
    """When each file of a folder was written; nothing for a name on the Hub."""
    if not folder.is_dir():
        return ()
    return tuple((file.name, file.stat().st_mtime_ns) for file in sorted(folder.iterdir()))
