"""From a recipe's configuration to TRL's arguments, the policy's model, and what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
)
from trl import GRPOConfig, SFTConfig

from alignxplore_trl.launch.config import ColdStartConfig, Model, Peft, RLConfig
from alignxplore_trl.run.callbacks import LinesCallback, MetricsCallback
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import RunFolder
from alignxplore_trl.run.progress import shows_bars
from alignxplore_trl.run.tracking import set_up_tracking
from alignxplore_trl.training.checkpoints import (
    delete_incomplete_checkpoints,
    last_complete_checkpoint,
)

Arguments = TypeVar("Arguments", SFTConfig, GRPOConfig)


def trainer_arguments(
    kind: type[Arguments], config: ColdStartConfig | RLConfig, folder: RunFolder
) -> Arguments:
    """The `trainer` node as TRL's configuration, with what the recipe sets itself.

    Raises:
        UserError: TRL refuses a combination of values.
    """
    try:
        return kind(
            **config.trainer,
            output_dir=str(folder.checkpoints),
            seed=config.seed,
            run_name=folder.path.name,
            report_to=set_up_tracking(config.tracking.name, config.tracking.project, folder.path),
            disable_tqdm=not shows_bars(),
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"trainer: trl.{kind.__name__} refuses it: {error}") from error


def load_policy(model: Model, source: str | Path) -> PreTrainedModel:
    """The model that is trained, from a folder or by its name on the Hub."""
    return AutoModelForCausalLM.from_pretrained(
        source, dtype=model.dtype, attn_implementation=model.attn_implementation
    )


def adapters(peft: Peft) -> LoraConfig | None:
    """The adapters to train; `None` trains all weights."""
    return None if peft.lora is None else LoraConfig(**peft.lora)


def callbacks(folder: RunFolder) -> list[TrainerCallback]:
    """metrics.jsonl, and lines where no bar can be drawn."""
    lines: list[TrainerCallback] = [] if shows_bars() else [LinesCallback()]
    return [MetricsCallback(folder.metrics), *lines]


def train_and_save(
    trainer: Trainer, tokenizer: PreTrainedTokenizerBase, folder: RunFolder
) -> dict[str, float]:
    """Train, from the last complete checkpoint if there is one, and save to `model/`.

    Adapters are merged into the weights they were trained on, so that what is saved is a model as
    any other.

    Returns:
        The trainer's own figures of the run: seconds, loss, steps.
    """
    trainer.remove_callback(PrinterCallback)
    resume = last_complete_checkpoint(folder.checkpoints)
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        delete_incomplete_checkpoints(folder.checkpoints)
    output = trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        if trainer.accelerator.is_main_process:
            model.merge_and_unload().save_pretrained(folder.model)
    else:
        trainer.save_model(str(folder.model))
    if trainer.accelerator.is_main_process:
        tokenizer.save_pretrained(folder.model)
    trainer.accelerator.wait_for_everyone()
    return {"steps": output.global_step, **output.metrics}
