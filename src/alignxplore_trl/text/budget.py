"""The token budget of a prompt: what is left out when the signals don't fit, and how it is said."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import astuple

from alignxplore_trl.cases import Attributes, Signal
from alignxplore_trl.run.progress import say

ELLIPSIS = " […] "
SHORTEST_TEXT = 40  # Characters: cut further, a text would no longer say anything.


class PromptTooLongError(ValueError):
    """Even one signal, with every text cut to `SHORTEST_TEXT` characters, is too long."""


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt within its budget, and how many signals and middles of texts it lacks."""

    text: str
    dropped_signals: int = 0
    shortened_texts: int = 0


def fit_prompt(
    render: Callable[[Sequence[Signal], str | None], str],
    signals: Sequence[Signal],
    earlier: str | None,
    count_tokens: Callable[[str], int],
    max_tokens: int,
) -> FittedPrompt:
    """Render a prompt of at most `max_tokens` tokens, leaving out as little as the rule allows.

    Whole signals go first, the oldest before the newer ones, until one is left; attributes, which
    have no date, after all others. Then the middle of the long texts, the earlier description
    included, is replaced by a visible mark: all are cut to one common length, the longest that
    fits. The template's own words are never touched. Raises `PromptTooLongError` if nothing fits.
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
        return count_tokens(prompt) <= max_tokens

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
        least = f"{count_tokens(cut(SHORTEST_TEXT))} tokens with one signal and texts cut short"
        raise PromptTooLongError(f"{least}, but prompts.max_tokens is {max_tokens}")
    shortened = sum(len(text) > lengths[place] for text in texts)
    return FittedPrompt(cut(lengths[place]), dropped, shortened)


def shorten(text: str, length: int) -> str:
    """Cut the middle out of a text of more than `length` characters, and mark the place."""
    kept = length - len(ELLIPSIS)
    cut = text[: kept - kept // 2] + ELLIPSIS + text[len(text) - kept // 2 :]
    return cut if len(text) > length else text


def warn_of_losses(lost: int, prompts: int, max_tokens: int) -> None:
    """Say on the screen when most prompts lost signals."""
    if 2 * lost > prompts:
        text = f"{lost} of {prompts} prompts lost signals: above prompts.max_tokens={max_tokens}"
        say(f"{text}; raise it as far as the model's context allows, or set fewer setting.signals")
