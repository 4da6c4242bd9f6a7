"""What a description itself gives away: naming a response, contradicting or repeating itself.

A reward says what a judge makes of a description. These measures read the description, and show
when a policy has begun to write for the judge instead of about the user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# Sentences that begin alike ("The user prefers …") stay below a fifth.
_REPEATED_SHARE = 0.2
_NGRAM = 3

# A small "a" is mostly an article: it is a name only where the words end with it.
_NAMED_RESPONSE = re.compile(
    r"""\b(?i:response|reply|option)[\s_\-]*(?:[ABb]\b|a(?=\s*(?:["'.,;:!?)}\]]|$)))
      | (?i:["'“‘]\s*selection\s*["'”’]|\{\s*selection)\s*:""",
    re.VERBOSE,
)
_VERBS = r"(?:like|prefer|want|enjoy|value|appreciate|favou?r|love)"
_ATTITUDE = re.compile(
    rf"""\b(?:
        (?P<against>(?:(?:does|do)(?:\s+not|n['’]t)|never)\s+{_VERBS}s?
            | (?:dislike|avoid|hate|reject)s? | rather\s+than | instead\s+of | over)
      | (?P<favour>{_VERBS}s?)
    )\b""",
    re.VERBOSE,
)
_SENTENCE_END = re.compile(r"[.;!?\n]+")
_BETWEEN_THINGS = re.compile(r",|\b(?:and|or|but|while|yet|also|a|an|the)\b")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without signs."""
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def repeated_share(text: str, ngram: int) -> float:
    """The share of a text's word n-grams that stood in it before: 0 where there is none."""
    words = words_of(text)
    ngrams = [tuple(words[start : start + ngram]) for start in range(len(words) - ngram + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def repeats_itself(description: str) -> bool:
    """Whether more than a fifth of the description's three-word sequences are repetitions."""
    return repeated_share(description, _NGRAM) > _REPEATED_SHARE


def names_response(description: str) -> bool:
    """Whether a description speaks of "Response A" or "Response B", or holds a JSON selection."""
    return _NAMED_RESPONSE.search(description) is not None


def contradicts_itself(description: str, opposites: Mapping[str, str] | None = None) -> bool:
    """Whether a description is for and against the same thing, as far as its words show it.

    In free text only the same words count: "prefers long replies" and "dislikes long replies". So
    this is a lower bound. Where the words for the ends of each dimension are known, as in the
    simulated world, both ends of one count too.

    Args:
        description: the text.
        opposites: from each such word, in lower case, to the one for the other end.
    """
    words = set(words_of(description))
    if opposites and any(opposites.get(word) in words for word in words):
        return True
    favoured, opposed = _favoured_and_opposed(description.lower())
    return bool(favoured & opposed)


def description_metrics(
    descriptions: Sequence[str], opposites: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Shares of descriptions that show one of these, and their mean length in words.

    Empty without descriptions: TRL averages a metric over the processes that have it.
    """
    if not descriptions:
        return {}
    shares = {
        "names_response": sum(map(names_response, descriptions)),
        "contradicts_itself": sum(contradicts_itself(text, opposites) for text in descriptions),
        "repeats_itself": sum(map(repeats_itself, descriptions)),
        "words": sum(len(words_of(text)) for text in descriptions),
    }
    return {f"description/{name}": total / len(descriptions) for name, total in shares.items()}


def _favoured_and_opposed(text: str) -> tuple[set[tuple[str, ...]], set[tuple[str, ...]]]:
    """What stands behind words for and against, each thing as its words."""
    favoured: set[tuple[str, ...]] = set()
    opposed: set[tuple[str, ...]] = set()
    for sentence in _SENTENCE_END.split(text):
        end = len(sentence)
        for attitude in reversed(list(_ATTITUDE.finditer(sentence))):
            things = _BETWEEN_THINGS.split(sentence[attitude.end() : end])
            side = favoured if attitude["favour"] else opposed
            side |= {tuple(words) for thing in things if (words := words_of(thing))}
            end = attitude.start()
    return favoured, opposed
