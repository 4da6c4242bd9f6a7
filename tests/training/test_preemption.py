"""What a training does when told to stop; tests/recipes/test_kills_slow.py really kills one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from alignxplore_trl.training import preemption
from alignxplore_trl.training.preemption import STOP_SIGNALS, SaveWhenToldToStop


class Training:
    """The calls that a trainer makes."""

    def __init__(self, steps_between_checkpoints: int = 1) -> None:
        self.stop = SaveWhenToldToStop(steps_between_checkpoints)
        self.arguments = TrainingArguments(report_to=[])
        self.state = TrainerState()
        self.control = TrainerControl()

    def begin(self) -> None:
        self.stop.on_train_begin(self.arguments, self.state, self.control)

    def take_step(self) -> None:
        self.state.global_step += 1
        self.stop.on_step_end(self.arguments, self.state, self.control)

    def end(self) -> None:
        self.stop.on_train_end(self.arguments, self.state, self.control)

    @property
    def saves_and_stops(self) -> bool:
        assert self.control.should_save == self.control.should_training_stop
        return self.control.should_training_stop


@pytest.fixture
def training() -> Iterator[Training]:
    begun = Training()
    begun.begin()
    yield begun
    begun.end()


def test_no_signal_changes_nothing(training: Training) -> None:
    training.take_step()
    assert not training.saves_and_stops
    assert training.stop.received == 0


@pytest.mark.parametrize("sign", STOP_SIGNALS)
def test_under_a_launcher_that_leaves_a_signal_alone_it_is_heard(
    monkeypatch: pytest.MonkeyPatch, sign: signal.Signals
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    before = signal.signal(sign, signal.SIG_IGN)
    try:
        training = Training()
        training.begin()
        os.kill(os.getpid(), sign)
        training.take_step()
        training.end()
    finally:
        signal.signal(sign, before)
    assert training.saves_and_stops


@pytest.mark.parametrize("sign", STOP_SIGNALS)
def test_a_signal_saves_and_stops_at_the_end_of_a_step(
    training: Training, sign: signal.Signals
) -> None:
    os.kill(os.getpid(), sign)
    assert not training.saves_and_stops
    training.take_step()
    assert training.saves_and_stops
    assert training.stop.received == sign


def test_a_signal_waits_for_a_step_at_which_a_checkpoint_can_be_taken() -> None:
    training = Training(steps_between_checkpoints=3)
    training.begin()
    os.kill(os.getpid(), signal.SIGTERM)
    found = []
    for _ in range(3):
        training.take_step()
        found.append(training.saves_and_stops)
    training.end()
    assert found == [False, False, True]


def test_a_signal_that_comes_while_the_processes_agree_stops_the_next_step(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    agree = preemption.gather_object

    def told_meanwhile(values: list[Any]) -> list[Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return agree(values)

    with monkeypatch.context() as patched:
        patched.setattr(preemption, "gather_object", told_meanwhile)
        training.take_step()
    assert not training.saves_and_stops, "the others know nothing of it yet"
    training.take_step()
    assert training.saves_and_stops


def test_signals_go_back_to_whoever_had_them() -> None:
    before = [signal.getsignal(sign) for sign in STOP_SIGNALS]
    training = Training()
    training.begin()
    assert [signal.getsignal(sign) for sign in STOP_SIGNALS] != before
    training.end()
    assert [signal.getsignal(sign) for sign in STOP_SIGNALS] == before
