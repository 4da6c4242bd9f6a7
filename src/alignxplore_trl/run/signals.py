"""What a process asks of the kernel about signals."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2).
# Variables that `accelerate launch` and torchrun set for what they start.
_OF_LAUNCHERS = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")


def ask_for_sigterm_when_parent_ends() -> None:
    """Where the kernel offers it: on Linux."""
    _set_parent_death_signal(signal.SIGTERM)


def end_with_launcher() -> None:
    """Get SIGTERM when the launcher ends that started this process, if one did.

    A process that a person started lives on when their shell ends, as they may have asked for.
    """
    if any(name in os.environ for name in _OF_LAUNCHERS):
        ask_for_sigterm_when_parent_ends()
        # A launcher that leaves it alone (slurm/launch.sh) hands that on, and it would be lost on a
        # process that still loads its models.
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def outlive_parent() -> None:
    """Take that back."""
    _set_parent_death_signal(0)


def _set_parent_death_signal(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, number)
