"""A small benchmark: users of the simulated world, a judge that knows its rule, and a policy."""

import math
import random
from collections.abc import Sequence

import pytest

from alignxplore_trl.baselines.golden import Golden
from alignxplore_trl.baselines.longer_reply import LongerReply
from alignxplore_trl.baselines.null import Null
from alignxplore_trl.baselines.protocol import Decision, UserDescription
from alignxplore_trl.data.world import OPPOSITE, POLE_OF_WORDING, World, describe, stated_poles
from alignxplore_trl.evaluation.methods import MethodSetting
from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.judging.generator import Continuation
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.signals import PreferenceCase
from alignxplore_trl.text.parsing import Inference, format_completion, parse_completion
from alignxplore_trl.text.rendering import Question


class WordingJudge:
    """Counts wordings of stated poles and of their opposites: the rule of the simulated world.

    `sharpness` scales its confidence; posts that end in `silent_about` get no answer.
    """

    def __init__(self, sharpness: float = 1.0, silent_about: str | None = None) -> None:
        self.sharpness = sharpness
        self.silent_about = silent_about
        self.asked: list[Question] = []

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        self.asked += questions
        return [self._verdict(question) for question in questions]

    def _verdict(self, question: Question) -> Verdict | None:
        if self.silent_about and question.post.endswith(self.silent_about):
            return None
        stated = set(stated_poles(question.description or ""))
        margin = _score(question.response_a, stated) - _score(question.response_b, stated)
        return Verdict(1 / (1 + math.exp(-self.sharpness * margin)), 1.0)


class WordingGenerator:
    """A token per wording, more probable by a nat if its pole is stated, less if its opposite is.

    Posts that end in `silent_about` get no answer.
    """

    def __init__(self, silent_about: str | None = None) -> None:
        self.silent_about = silent_about
        self.asked: list[Continuation] = []

    def log_probabilities(self, rows: Sequence[Continuation]) -> list[tuple[float, ...] | None]:
        self.asked += rows
        return [self._tokens(row) for row in rows]

    def _tokens(self, row: Continuation) -> tuple[float, ...] | None:
        if self.silent_about and row.post.endswith(self.silent_about):
            return None
        stated = set(stated_poles(row.description or ""))
        return tuple(_score(word, stated) - 3.0 for word in row.response.split(", "))

    def take_measurements(self) -> Measurements:
        return Measurements(questions=len(self.asked))


def _score(reply: str, stated: set[str]) -> int:
    poles = [POLE_OF_WORDING[word] for word in reply.split(", ")]
    return sum((pole in stated) - (OPPOSITE[pole] in stated) for pole in poles)


def read_history(case: PreferenceCase, skill: float) -> UserDescription:
    """A policy: states contrasted poles that it sees, right with `skill`.

    Some completions are malformed, and some reason to the opposite of what they state.
    """
    draw = random.Random(f"{case.case_id}/{len(case.signals)}/{skill}")
    named = []
    for signal in case.signals:
        chosen = [POLE_OF_WORDING[word] for word in signal.chosen.split(", ")]
        rejected = [POLE_OF_WORDING[word] for word in signal.rejected.split(", ")]
        contrasted = [pole for pole in chosen if OPPOSITE[pole] in rejected]
        named += [pole if draw.random() < skill else OPPOSITE[pole] for pole in contrasted]
    stated = named if draw.random() < 0.9 else [*named, "playful"]
    reasoning = named if draw.random() < 0.8 else [OPPOSITE[pole] for pole in named]
    completion = format_completion(Inference(", ".join(reasoning), describe(stated)))
    if draw.random() < 0.1:
        completion = completion.removesuffix("</answer>")
    return UserDescription.from_completion(
        case.case_id,
        completion,
        parse_completion(completion),
        tokens=len(completion.split()),
        ended=completion.endswith("</answer>"),
        prompt_tokens=20 * len(case.signals),
        seconds=draw.random(),
    )


@pytest.fixture(scope="session")
def cases() -> list[PreferenceCase]:
    return World(seed=3).cases("test", 150)


@pytest.fixture(scope="session")
def methods(
    cases: list[PreferenceCase],
) -> dict[MethodSetting, Sequence[UserDescription | Decision]]:
    base4, base8 = Setting.from_name("base4"), Setting.from_name("base8")
    return {
        MethodSetting("null", "base4"): Null().describe(cases),
        MethodSetting("golden", "base4"): Golden().describe(cases),
        MethodSetting("longer_reply", "base4"): LongerReply().decide(cases),
        MethodSetting("reader", "base4"): [read_history(c, 0.7) for c in base4.history(cases)],
        MethodSetting("reader", "base8"): [read_history(c, 0.7) for c in base8.history(cases)],
    }


@pytest.fixture
def judges() -> dict[str, WordingJudge]:
    return {"judge": WordingJudge(), "test_judge": WordingJudge(0.3, silent_about="indoors")}


@pytest.fixture
def generators() -> dict[str, WordingGenerator]:
    """One with a judge's name, as where one model plays both parts."""
    return {"judge": WordingGenerator(), "generator": WordingGenerator(silent_about="indoors")}
