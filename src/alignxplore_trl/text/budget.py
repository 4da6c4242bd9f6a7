"""The token budget of a prompt: what is left out when the signals don't fit, and how it is told."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alignxplore_trl.signals import Attributes, Comparison, Post, Signal

ELLIPSIS = " […] "
# No text is cut below this many characters: a shorter one would no longer say anything.
SHORTEST_TEXT = 40


class PromptTooLongError(ValueError):
    """Even one signal, with every text cut to `SHORTEST_TEXT` characters, is above the budget."""


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt within its budget, and what had to be left out of it.

    Attributes:
        text: the rendered prompt.
        dropped_signals: how many signals are missing.
        shortened_texts: how many posts, replies and earlier descriptions lack their middle.
    """

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

    Whole signals go first, the oldest before the newer ones, until one is left. Attributes have no
    date: they stay until one signal is left beside them. Then the middle of the long texts, the
    earlier description included, is replaced by a visible mark: all are cut to one common length,
    the longest that fits. The template's own words are never touched.

    Args:
        render: signals and the earlier description -> prompt, as `PromptSet.inference`.
        signals: in the order in which they happened.
        earlier: the earlier description, if there is one.
        count_tokens: tokens of a text, special tokens included if the model will see them.
        max_tokens: the budget.

    Raises:
        PromptTooLongError: even the shortest form is above the budget.
    """
    leaving = _order_of_leaving(signals)

    def without(count: int) -> tuple[Signal, ...]:
        gone = set(leaving[:count])
        return tuple(signal for place, signal in enumerate(signals) if place not in gone)

    def fits(count: int) -> bool:
        return count_tokens(render(without(count), earlier)) <= max_tokens

    dropped = 0
    # Most prompts fit as they are; of many signals a few tries find how many have to go.
    if leaving and not fits(0):
        dropped = bisect_left(range(len(leaving)), True, lo=1, key=fits)
    kept = without(dropped)
    prompt = render(kept, earlier)
    if count_tokens(prompt) <= max_tokens:
        return FittedPrompt(prompt, dropped)

    fitted = None
    low, high = SHORTEST_TEXT, max(map(len, _texts(kept, earlier)), default=0)
    while low <= high:
        length = (low + high) // 2
        cut_signals = tuple(_shorten_signal(signal, length) for signal in kept)
        cut_earlier = None if earlier is None else shorten(earlier, length)
        prompt = render(cut_signals, cut_earlier)
        if count_tokens(prompt) <= max_tokens:
            cut = sum(len(text) > length for text in _texts(kept, earlier))
            fitted = FittedPrompt(prompt, dropped, cut)
            low = length + 1
        else:
            high = length - 1
    if fitted is None:
        raise PromptTooLongError(
            f"{count_tokens(prompt)} tokens with the newest signal alone and every text cut to "
            f"{SHORTEST_TEXT} characters, but the budget is {max_tokens} tokens"
        )
    return fitted


def shorten(text: str, length: int) -> str:
    """Cut the middle out of a text of more than `length` characters, and mark the place."""
    if len(text) <= length:
        return text
    kept = length - len(ELLIPSIS)
    tail = kept // 2
    return text[: kept - tail] + ELLIPSIS + text[len(text) - tail :]


def _order_of_leaving(signals: Sequence[Signal]) -> list[int]:
    """The places of the signals that may go, in the order in which they do; one always stays."""
    dated = [place for place, each in enumerate(signals) if not isinstance(each, Attributes)]
    undated = [place for place, each in enumerate(signals) if isinstance(each, Attributes)]
    return dated[:-1] + undated if dated else undated[:-1]


def _texts(signals: Sequence[Signal], earlier: str | None) -> list[str]:
    texts = [] if earlier is None else [earlier]
    for signal in signals:
        match signal:
            case Comparison(post, chosen, rejected):
                texts += [post, chosen, rejected]
            case Post(post, comment):
                texts += [post, comment]
            case Attributes(text):
                texts.append(text)
    return texts


def _shorten_signal(signal: Signal, length: int) -> Signal:
    match signal:
        case Comparison(post, chosen, rejected, form):
            return Comparison(
                shorten(post, length), shorten(chosen, length), shorten(rejected, length), form
            )
        case Post(post, comment):
            return Post(shorten(post, length), shorten(comment, length))
        case Attributes(text):
            return Attributes(shorten(text, length))
