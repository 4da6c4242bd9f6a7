"""A describer that says what it read, so that tests can tell what a description was made of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from alignxplore_trl.cases import Comparison
from alignxplore_trl.inference.describer import PreferenceDescriber
from alignxplore_trl.inference.writers import Written
from alignxplore_trl.text.budget import PromptBudget
from alignxplore_trl.text.prompts import Prompts

COMPLETION = "so it is </think> <answer> {} </answer>"


def signals(count: int, start: int = 0) -> list[tuple[str, Comparison]]:
    """Signals without ids; the replies of signal n are `nice <n>` and `other <n>`."""
    numbers = range(start, start + count)
    return [("", Comparison(f"post {n}", f"nice {n}", f"other {n}")) for n in numbers]


def said(prompt: str) -> str:
    """The numbers of the chosen replies that a prompt holds, behind those of the earlier ones."""
    earlier = re.search(r"<earlier> read ([\d ]+)", prompt)
    new = re.findall(r"nice (\d+)", prompt)
    return COMPLETION.format(f"read {' '.join([*(earlier[1].split() if earlier else []), *new])}")


class ScriptedWriter:
    """Writes by a function of the prompt; `None` is no answer."""

    def __init__(self, write: Callable[[str], str | None] = said) -> None:
        self._write = write
        self.counts: Counter[str] = Counter()
        self.seeds: list[int] = []
        self.calls: list[int] = []

    def write(
        self, prompts: Sequence[str], samples: int = 1, seed: int = 0
    ) -> list[list[Written | None]]:
        self.seeds.append(seed)
        self.calls.append(len(prompts))
        texts = [self._write(prompt) for prompt in prompts]
        self.counts["timeout"] += texts.count(None)
        return [[None if text is None else Written(text, 9, 3)] for text in texts]


def describer(
    write: Callable[[str], str | None] = said, max_tokens: int = 1000, signals: int = 2
) -> PreferenceDescriber:
    """Counts words as tokens."""
    budget = PromptBudget(Prompts("compact"), lambda text: {"input_ids": text.split()}, max_tokens)
    return PreferenceDescriber(ScriptedWriter(write), budget, signals, "scripted")
