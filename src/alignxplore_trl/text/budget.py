"""The token budget of a prompt: what is left out when the signals don't fit, and how it is said."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import astuple

from alignxplore_trl.cases import Attributes, Signal
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.prompts import Prompts

ELLIPSIS = " […] "
SHORTEST_TEXT = 40  # Characters: cut further, a text would no longer say anything.
Render = Callable[[Sequence[Signal], str | None], str]


class PromptTooLongError(UserError):
    """Even one signal, with every text cut to `SHORTEST_TEXT` characters, is too long."""


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt within its budget, and how many signals and middles of texts it lacks."""

    text: str
    dropped_signals: int = 0
    shortened_texts: int = 0


@dataclass(frozen=True)
class PromptBudget:
    """The templates of a folder, and how many tokens of a model's tokenizer a prompt may have."""

    prompts: Prompts
    tokenizer: Callable[[str], Any]
    max_tokens: int

    def count(self, text: str) -> int:
        """The tokens of a text, special ones included."""
        return len(self.tokenizer(text)["input_ids"])

    def fit(
        self, template: str, signals: Sequence[Signal], earlier: str | None = None, **values: Any
    ) -> FittedPrompt:
        """The prompt of a template, as `fit_by` shortens it."""

        def render(kept: Sequence[Signal], before: str | None) -> str:
            return self.prompts.render(template, signals=kept, earlier=before, **values)

        return self.fit_by(render, signals, earlier)

    def fit_by(
        self, render: Render, signals: Sequence[Signal], earlier: str | None
    ) -> FittedPrompt:
        """Render a prompt within the budget; raises `PromptTooLongError` if nothing fits.

        Whole signals go first, the oldest before the newer ones, until one is left; attributes,
        which have no date, after all others. Then a visible mark replaces the middle of long texts,
        the earlier description included: all are cut to the longest common length that fits.
        """
        undated = [place for place, each in enumerate(signals) if isinstance(each, Attributes)]
        dated = [place for place in range(len(signals)) if place not in undated]
        leaving = dated[:-1] + undated if dated else undated[:-1]

        def without(count: int) -> list[Signal]:
            gone = set(leaving[:count])
            return [each for place, each in enumerate(signals) if place not in gone]

        def cut(length: int) -> str:
            short = [type(each)(*(shorten(t, length) for t in astuple(each))) for each in kept]
            return render(short, None if earlier is None else shorten(earlier, length))

        def fits(prompt: str) -> bool:
            return self.count(prompt) <= self.max_tokens

        if fits(prompt := render(signals, earlier)):
            return FittedPrompt(prompt)
        # A few tries find the first number of signals, or length of texts, that fits.
        counts = range(len(leaving))
        dropped = bisect_left(counts, True, key=lambda count: fits(render(without(count), earlier)))
        kept = without(dropped)
        if fits(prompt := render(kept, earlier)):
            return FittedPrompt(prompt, dropped)
        texts = [text for signal in kept for text in astuple(signal)] + [earlier or ""]
        lengths = range(max(map(len, texts)), SHORTEST_TEXT - 1, -1)
        place = bisect_left(lengths, True, key=lambda length: fits(cut(length)))
        if place == len(lengths):
            least = f"{self.count(cut(SHORTEST_TEXT))} tokens with one signal and texts cut short"
            raise PromptTooLongError(
                f"{least}, but prompts.max_tokens is {self.max_tokens}; raise it"
            )
        shortened = sum(len(text) > lengths[place] for text in texts)
        return FittedPrompt(cut(lengths[place]), dropped, shortened)

    def warn_of_losses(self, lost: int, prompts: int) -> None:
        """Say on the screen when most prompts lost signals."""
        if 2 * lost > prompts:
            said = f"{lost} of {prompts} prompts lost signals: above prompts.max_tokens="
            remedy = "raise it as far as the model's context allows, or set fewer setting.signals"
            say(f"{said}{self.max_tokens}; {remedy}")


def shorten(text: str, length: int) -> str:
    """Cut the middle out of a text of more than `length` characters, and mark the place."""
    kept = length - len(ELLIPSIS)
    cut = text[: kept - kept // 2] + ELLIPSIS + text[len(text) - kept // 2 :]
    return cut if len(text) > length else text
