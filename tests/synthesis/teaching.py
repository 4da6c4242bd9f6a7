"""Peers of a synthesis: a teacher that follows a script, and answers of a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from alignxplore_trl.inference.describing import SamplingSettings
from alignxplore_trl.inference.language_models import ServerLanguageModel
from alignxplore_trl.judging.client import Unanswered
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.judging.written import Written
from alignxplore_trl.signals import PreferenceCase
from alignxplore_trl.synthesis.teachers import (
    TEACHING,
    Arrival,
    Ask,
    Keep,
    Pull,
    ServerTeacher,
)
from alignxplore_trl.text.rendering import Question
from tests.judging.fault_server import Reply, quick

SAMPLING = SamplingSettings(max_new_tokens=8, temperature=0.9, top_p=0.95, top_k=10)
Script = Callable[[Ask], Written | Unanswered]


def ask(number: int = 0, **changes: Any) -> Ask:
    """An ask about one case; others by what is changed."""
    return replace(Ask("case", 1, number, "prompt"), **changes)


def written(text: str = "text", **changes: Any) -> Written:
    """An answer that ended by itself."""
    return replace(Written(text, None, "stop", 3, 5), **changes)


def count_words(text: str) -> int:
    return len(text.split())


class ScriptedTeacher:
    """Answers by a function of what it is asked, and remembers that; `batch` at once."""

    def __init__(self, script: Script, *, batch: int = 8, identity: str = "scripted") -> None:
        self.script = script
        self.batch = batch
        self.identity = identity
        self.sampling = SAMPLING
        self.chat = False
        self.asked: list[Ask] = []
        self.seeds: list[int] = []

    def count_tokens(self, text: str) -> int:
        return count_words(text)

    def check(self) -> None:
        pass

    def write(self, pull: Pull, keep: Keep, seed: int) -> Iterator[list[Arrival]]:
        self.seeds.append(seed)
        while asks := [own for _ in range(self.batch) if (own := pull()) is not None]:
            self.asked += asks
            arrivals: list[Arrival] = [(own, self.script(own)) for own in asks]
            keep(arrivals)
            yield arrivals


class TruthJudge:
    """Answers by the true directions: A wins if the description states a pole of the user's."""

    def __init__(self, cases: Sequence[PreferenceCase], silent_about: str = "") -> None:
        self.cases = {case.target.post: case for case in cases}
        self.silent_about = silent_about
        self.asked = 0

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        self.asked += len(questions)
        return [self._verdict(question) for question in questions]

    def take_measurements(self) -> Measurements:
        return Measurements()

    def _verdict(self, question: Question) -> Verdict | None:
        case = self.cases[question.post]
        if self.silent_about and case.case_id.startswith(self.silent_about):
            return None
        poles = set((case.directions or {}).values())
        is_true = any(pole in (question.description or "") for pole in poles)
        a_is_chosen = question.response_a == case.target.chosen
        return Verdict(0.9 if a_is_chosen == is_true else 0.1, 1.0)


def choice(text: str = "text", finish_reason: str | None = "stop", **message: Any) -> Reply:
    """An answer of `/completions`, or of `/chat/completions` where a message is given."""
    own: dict[str, Any] = {"message": message} if message else {"text": text}
    choices = [{**own, "finish_reason": finish_reason}]
    usage = {"prompt_tokens": 11, "completion_tokens": 7}
    return Reply(json.dumps({"choices": choices, "usage": usage}).encode())


class TriedServerTeacher(ServerTeacher):
    """Its servers aren't tried: that request would be among those that a test counts."""

    def check(self) -> None:
        pass


def server_teacher(
    url: str,
    *,
    chat: bool = False,
    body: dict[str, Any] | None = None,
    sampling: SamplingSettings = SAMPLING,
    is_tried: bool = True,
    **changes: Any,
) -> ServerTeacher:
    served = ServerLanguageModel(
        quick(url, role=TEACHING, **changes), sampling, count_words, chat=chat, body=body or {}
    )
    return (TriedServerTeacher if is_tried else ServerTeacher)(served, "m")


def pulling(asks: Sequence[Ask]) -> Pull:
    """What gives these asks, one after another."""
    waiting = iter(asks)
    return lambda: next(waiting, None)


def no_keep(arrivals: Sequence[Arrival]) -> None:
    """Forget what arrives."""
