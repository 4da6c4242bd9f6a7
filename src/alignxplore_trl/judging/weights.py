"""Models that are only read from: loaded once, whole on each process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.integrations import deepspeed
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from alignxplore_trl.run.errors import UserError

# Of each model that anyone still holds: a judge and a generator of the same weights share them.
_LOADED: WeakValueDictionary[tuple[object, ...], PreTrainedModel] = WeakValueDictionary()


def load_model(
    model: str, dtype: str, attn_implementation: str | None = None, device: str | None = None
) -> PreTrainedModel:
    """Load a causal language model; without `device` onto this process's GPU if there is one."""
    here = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    device = device or here
    key = (model, dtype, attn_implementation, device)
    found = _LOADED.get(key)
    if found is None:
        with in_words(model), outside_zero3():
            found = AutoModelForCausalLM.from_pretrained(
                model, dtype=dtype, attn_implementation=attn_implementation
            )
        found.to(device)  # type: ignore[arg-type]
        found = _LOADED[key] = found.eval()
    return found


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    with in_words(model):
        return AutoTokenizer.from_pretrained(model)


@contextmanager
def in_words(model: str) -> Iterator[None]:
    """What transformers says of a model that can't be loaded, as a UserError."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{model}: {error}") from error


@contextmanager
def outside_zero3() -> Iterator[None]:
    """Load weights whole although ZeRO-3 trains another model: it would partition these, too."""
    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if reference is not None and (config := reference()) is not None:
            deepspeed.set_hf_deepspeed_config(config)
