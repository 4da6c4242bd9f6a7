"""Where models are, before one is loaded: in a folder, in the Hub's cache, or on the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from httpx import HTTPError
from huggingface_hub import HfApi, hf_hub_download, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)

from alignxplore_trl.launch.memory import ModelShape
from alignxplore_trl.launch.model_folders import SAVE_THERE, folder_problem, lacking_files
from alignxplore_trl.run.errors import UserError

# Seconds that the Hub has for an answer. It is asked once: transformers would ask for minutes.
_TIMEOUT = 5.0


@dataclass(frozen=True)
class NeededModel:
    """A model that a run will load.

    Attributes:
        key: the configuration's key that names it.
        name: a folder, or owner/name on the Hub.
        weights: whether its weights are loaded, or its tokenizer alone.
    """

    key: str
    name: str
    weights: bool


@dataclass(frozen=True)
class FoundModel:
    """Where a model is, or why it can't be had.

    Attributes:
        config: its config.json on this machine, if it is here.
        place: folder, cache or Hub; `None` where it can't be had.
        problem: why not.
        remedy: what helps.
    """

    config: Path | None = None
    place: str | None = None
    problem: str = ""
    remedy: str = ""


def find_models(needed: Sequence[NeededModel]) -> dict[NeededModel, FoundModel]:
    """Look for all models; the Hub is asked for what isn't here, until it can't be reached."""
    found: dict[NeededModel, FoundModel] = {}
    unreachable = "HF_HUB_OFFLINE is set" if is_offline_mode() else None
    for model in needed:
        here = _in_folder(model) or _in_cache(model)
        if here is None and unreachable is None:
            try:
                here = _on_hub(model)
            except (HTTPError, OSError) as error:
                unreachable = type(error).__name__
        found[model] = here or _not_here(model, str(unreachable))
    return found


def read_shape(config: Path, lora: Mapping[str, Any] | None = None) -> ModelShape:
    """What decides a model's memory, counted on a model that is built without its weights.

    Args:
        config: the model's config.json.
        lora: arguments of `peft.LoraConfig` of the adapters that are trained; `None` trains all.

    Raises:
        UserError: transformers knows no such model, or peft no such adapters.
    """
    try:
        return _read_shape(config, lora)
    except (ValueError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{config}: can't be counted: {reason}") from error


def _read_shape(config: Path, lora: Mapping[str, Any] | None) -> ModelShape:
    # Imported here: they take seconds that a mistake in the command line needn't wait for.
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.from_pretrained(config.parent)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(settings)
    model.tie_weights()  # Building without weights has parted those that are shared.
    parameters = trained = model.num_parameters()
    largest = max(
        sum(own.numel() for own in module.parameters(recurse=False)) for module in model.modules()
    )
    if lora is not None:
        from peft import LoraConfig, get_peft_model

        with init_empty_weights():
            trained, parameters = get_peft_model(
                model, LoraConfig(**lora)
            ).get_nb_trainable_parameters()
    text = settings.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return ModelShape(
        parameters=parameters,
        trained=trained,
        largest_layer=largest,
        hidden_size=text.hidden_size,
        intermediate_size=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        key_value_size=head_size * (getattr(text, "num_key_value_heads", None) or heads),
        layers=text.num_hidden_layers,
        heads=heads,
        vocabulary=text.vocab_size,
    )


def _in_folder(model: NeededModel) -> FoundModel | None:
    folder = Path(model.name)
    if not folder.is_dir():
        return None
    if problem := folder_problem(folder, weights=model.weights):
        return FoundModel(problem=problem, remedy=SAVE_THERE)
    return FoundModel(folder / "config.json", "folder")


def _in_cache(model: NeededModel) -> FoundModel | None:
    """`None` where something of it isn't there."""

    def cached(name: str) -> Path | None:
        path = try_to_load_from_cache(model.name, name)
        return Path(path) if isinstance(path, str) else None

    try:
        config = cached("config.json")
    except HFValidationError:
        return FoundModel(
            problem=f"{model.name} is neither a folder nor a name of the Hub",
            remedy="give a folder that is there, or owner/name",
        )
    if config is None or lacking_files(cached, weights=model.weights):
        return None
    return FoundModel(config, "cache")


def _on_hub(model: NeededModel) -> FoundModel:
    """Ask the Hub.

    Raises:
        HTTPError, OSError: it can't be reached.
    """
    try:
        HfApi().model_info(model.name, timeout=_TIMEOUT)
        config = hf_hub_download(model.name, "config.json", etag_timeout=_TIMEOUT)
    except GatedRepoError:
        return FoundModel(
            problem="the Hub gives it to those alone who have accepted its terms",
            remedy=f"accept them at https://huggingface.co/{model.name}, and give `hf auth login`",
        )
    except RepositoryNotFoundError:
        return FoundModel(
            problem="the Hub has no model of this name, or it is private",
            remedy=f"correct {model.key}, or give `hf auth login`",
        )
    except HfHubHTTPError as error:
        return FoundModel(
            problem=f"the Hub answered with status {error.response.status_code}",
            remedy=f"try again later, or give {model.key}=<folder>",
        )
    return FoundModel(Path(config), "Hub")


def _not_here(model: NeededModel, reason: str) -> FoundModel:
    return FoundModel(
        problem="it isn't in the Hub's cache on this machine, and the Hub can't be reached "
        f"({reason})",
        remedy=f"on a machine with a network give `hf download {model.name}`, copy its HF_HOME "
        f"here, and set HF_HUB_OFFLINE=1; or give {model.key}=<folder>",
    )
