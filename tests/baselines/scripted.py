"""A language model that follows a script, and remembers what it was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alignxplore_trl.baselines.language_model import Conversation
from alignxplore_trl.judging.written import Written

# What is answered to a conversation the n-th time (from 0) that it stands in one call.
Script = Callable[[Conversation, int], str | None]


@dataclass(frozen=True)
class Call:
    """What the model was asked at once."""

    conversations: tuple[Conversation, ...]
    temperature: float
    seed: int


class ScriptedModel:
    """Answers by a function of the conversation; `None` is no answer."""

    def __init__(self, script: Script, *, chat: bool = True) -> None:
        self.script = script
        self.chat = chat
        self.unanswered: Counter[str] = Counter()
        self.calls: list[Call] = []

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def answer(
        self, conversations: Sequence[Conversation], *, temperature: float, seed: int
    ) -> list[Written | None]:
        self.calls.append(Call(tuple(conversations), temperature, seed))
        seen: Counter[Conversation] = Counter()
        answers: list[Written | None] = []
        for conversation in conversations:
            text = self.script(conversation, seen[conversation])
            seen[conversation] += 1
            self.unanswered["silent"] += text is None
            answers.append(None if text is None else written(text))
        return answers


def written(text: str) -> Written:
    """An answer that ended by itself."""
    return Written(text, None, "stop", 3, 1 + len(text.split()))
