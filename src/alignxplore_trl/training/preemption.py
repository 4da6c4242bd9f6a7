"""A training that is told to stop saves a checkpoint first, so that pre-empted jobs can go on."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignxplore_trl.run.progress import say
from alignxplore_trl.run.signals import end_with_launcher, outlive_parent

# What schedulers send. torchrun passes SIGTERM on and kills its processes 30 s later; it knows
# nothing of SIGUSR1, which leaves as much time as the scheduler does.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class SaveWhenToldToStop(TrainerCallback):
    """Saves and stops at the end of an optimizer step, when a process was sent a stop signal.

    The processes agree on it after each step, so that all of them save the same one. The end of
    `accelerate launch` or torchrun, which started this process, counts as SIGTERM (on Linux).

    Args:
        steps_between_checkpoints: a checkpoint can be taken after every so many optimizer steps.

    Attributes:
        received: the signal that any process got; 0 for none.
    """

    def __init__(self, steps_between_checkpoints: int = 1) -> None:
        self.steps_between_checkpoints = steps_between_checkpoints
        self.received = 0
        # Apart from `received`: a signal that comes while the processes agree is for the next step.
        self._told = 0
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Catch the signals from here on."""
        end_with_launcher()  # First: it takes SIGUSR1 as the launcher left it.
        self._handlers = {sign: signal.signal(sign, self._take) for sign in STOP_SIGNALS}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and stop, where a checkpoint can be taken and any process was told to stop."""
        if state.global_step % self.steps_between_checkpoints:
            return
        self.received = max(gather_object([self._told]))
        if self.received:
            name = signal.Signals(self.received).name
            say(f"{name}: saving step {state.global_step}, then stopping")
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the signals to whoever had them before."""
        outlive_parent()
        for sign, handler in self._handlers.items():
            signal.signal(sign, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._told = number
