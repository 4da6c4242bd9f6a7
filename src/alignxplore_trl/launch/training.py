"""From a recipe's configuration to TRL's arguments, the policy's model, and the training."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from trl import GRPOConfig, SFTConfig

from alignxplore_trl.launch.config import ColdStartConfig, Model, Peft, RLConfig
from alignxplore_trl.launch.model_output import save_model
from alignxplore_trl.run.callbacks import LinesCallback, MetricsCallback
from alignxplore_trl.run.errors import StoppedBySignalError, UserError
from alignxplore_trl.run.folder import RunFolder
from alignxplore_trl.run.progress import shows_bars
from alignxplore_trl.run.tracking import set_up_tracking
from alignxplore_trl.training.checkpoints import (
    delete_incomplete_checkpoints,
    last_complete_checkpoint,
)
from alignxplore_trl.training.cold_start import ColdStartTrainer
from alignxplore_trl.training.preemption import SaveWhenToldToStop
from alignxplore_trl.training.streaming import RoundsGRPOTrainer

Arguments = TypeVar("Arguments", SFTConfig, GRPOConfig)


def trainer_arguments(
    kind: type[Arguments], config: ColdStartConfig | RLConfig, folder: RunFolder
) -> Arguments:
    """The `trainer` node as TRL's configuration, with what the recipe sets itself.

    Raises:
        UserError: TRL refuses a combination of values.
    """
    tracking = config.tracking
    try:
        return kind(
            **config.trainer,
            output_dir=str(folder.checkpoints),
            seed=config.seed,
            run_name=folder.path.name,
            report_to=set_up_tracking(tracking.name, tracking.project, tracking.group, folder.path),
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
    trainer: ColdStartTrainer | RoundsGRPOTrainer,
    tokenizer: PreTrainedTokenizerBase,
    folder: RunFolder,
    config: ColdStartConfig | RLConfig,
) -> dict[str, float]:
    """Train, from the last complete checkpoint if there is one, and save to `model/`.

    Returns:
        The trainer's own figures of the run: seconds, loss, steps; and its throughput.

    Raises:
        StoppedBySignalError: a process was told to stop; there is a checkpoint of its last step.
    """
    stop = SaveWhenToldToStop(trainer.steps_between_checkpoints)
    trainer.add_callback(stop)
    trainer.remove_callback(PrinterCallback)
    resume = last_complete_checkpoint(folder.checkpoints)
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        delete_incomplete_checkpoints(folder.checkpoints)
    output = trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    if stop.received and output.global_step < trainer.state.max_steps:
        raise StoppedBySignalError(stop.received)
    # Of a resumed run, Trainer's own figures mix its last part with the whole.
    own = output.metrics if resume is None else {}
    figures = {"steps": output.global_step, **own, **trainer.throughput_summary()}
    save_model(trainer, tokenizer, folder, config, figures)
    return figures
