"""Models of a few lines, that say how often and about what they were asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.inference.writers import Arrived, Ask, Writer, Written
from alignxplore_trl.judging.protocol import Question, Verdict


def make_case(number: int, signals: int = 8, direction: str = "brief", **more: object) -> Case:
    """A user who prefers replies that hold the name of the direction."""
    other = {"brief": "detailed", "detailed": "brief"}[direction]
    pairs = [
        Comparison(f"post {number}-{n}", f"{direction} {number}-{n}", f"{other} {number}-{n}")
        for n in range(signals + 1)
    ]
    known = {
        "directions": {"length": direction},
        "description": f"prefers {direction}",
        **more,
    }
    return Case(f"case{number}", f"user{number}", tuple(pairs[1:]), pairs[0], **known)  # type: ignore[arg-type]


class WordJudge:
    """Prefers the response that shares a word with the description; none of the two: a tie.

    Posts in `silent` get no answer.
    """

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.silent: set[str] = set()
        self.counts: Counter[str] = Counter()

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        self.asked += questions
        return [None if own.post in self.silent else self._answer(own) for own in questions]

    @staticmethod
    def _answer(question: Question) -> Verdict:
        words = set((question.description or "").split())
        a, b = (bool(words & set(r.split())) for r in (question.response_a, question.response_b))
        return Verdict(0.5 + 0.4 * (a - b), 1.0)


class ScriptedWriter(Writer):
    """Writes what a function of the prompt says; `None` is no answer."""

    # How many are loaded now, and the most that were at a time.
    loaded, most = 0, 0

    def __init__(self, model: str = "", script: Callable[[str], str | None] = lambda prompt: None):
        self.model, self.script = model, script
        self.prompts: list[str] = []
        self.counts: Counter[str] = Counter()

    def load(self) -> None:
        ScriptedWriter.loaded += 1
        ScriptedWriter.most = max(ScriptedWriter.most, ScriptedWriter.loaded)

    def close(self) -> None:
        ScriptedWriter.loaded = 0

    def write_each(self, asks: Sequence[Ask], seed: int, arrived: Arrived) -> None:
        self.prompts += [prompt for prompt, _ in asks]
        texts = [self.script(prompt) for prompt, _ in asks]
        for place, ((prompt, _), text) in enumerate(zip(asks, texts, strict=True)):
            if text is not None:
                arrived({place: Written(text, len(prompt.split()), len(text.split()))})
