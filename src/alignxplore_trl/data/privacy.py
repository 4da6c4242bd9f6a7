"""Links, e-mail addresses, phone numbers and user names in what people wrote, replaced by words.

This takes out what can be told by its form. It doesn't make a text anonymous: names, places, jobs
and stories stay, and so does the way a person writes. docs/privacy.md says what is found and what
is missed, measured.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignxplore_trl.run.progress import progress
from alignxplore_trl.signals import Attributes, Comparison, Post, PreferenceCase, Signal

PLACEHOLDERS = {
    "links": "[link]",
    "email_addresses": "[e-mail address]",
    "phone_numbers": "[phone number]",
    "user_names": "[user name]",
}
# Numbers without a country's code are read as numbers of this country.
NATIONAL_REGION = "US"

# Scripts that put no blank, or no blank before an ending, between words: a link or an address ends
# where they begin.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff"
    "\uff00-\uffef"
)
_LETTER = rf"[^\W{_UNSPACED}]"
_IN_LINK = rf"[^\s<>\[\]{{}}|\\^`\"“”«»…{_UNSPACED}]"
_AT = r"(?:@|\ ?[(\[]\ ?at\ ?[)\]]\ ?)"
_DOT = r"(?:\.|\ ?[(\[]\ ?dot\ ?[)\]]\ ?)"
_HOST = rf"(?:(?:{_LETTER}|-)+\.)+"
# Endings under which people link to profiles and files without writing http.
_LINKED_ENDINGS = (
    "com org net edu gov info biz io app dev me tv fm ly gg gl be co eu "
    "uk de fr es it nl pl ru ua jp cn in br ca au us"
).replace(" ", "|")

_PATTERN = re.compile(
    rf"""
    (?P<links>
        (?:https?|ftp)://(?:{_IN_LINK}+|[\w-]+(?:\.[\w-]+)*\.[a-z]{{2,}}{_IN_LINK}*)
      | (?<![\w@.-])www\.{_HOST}{_LETTER}{{2,}}(?:[/?\#:]{_IN_LINK}*)?
      | (?<![\w@./-]){_HOST}(?:{_LINKED_ENDINGS})/{_IN_LINK}+
      | (?<![\w@./-]){_HOST}(?:com|org|net)(?!{_LETTER}|[@-]|\.{_LETTER})
    )
    | (?P<email_addresses>
        (?<!{_LETTER})(?<![.+%-])(?:{_LETTER}|[.+%-])+{_AT}
        (?:(?:{_LETTER}|-)+{_DOT})+{_LETTER}{{2,}}
    )
    | (?P<user_names>
        (?<![\w@/.\]])@(?=[^\W\d])(?:{_LETTER}|[.-](?={_LETTER})){{2,}}
      | (?<![\w/])/?u/[A-Za-z0-9_-]{{3,20}}(?![\w/-])
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Nothing of the above stands in a text without one of these.
_MAY_MATCH = re.compile(
    r"@|://|www\.|\bu/|[(\[]\ ?at\ ?[)\]]|\.(?:com|org|net)|\w\.\w+/", re.IGNORECASE
)
_MAY_HOLD_A_NUMBER = re.compile(r"\d(?:[^\w]{0,3}\d){6}")


@dataclass(frozen=True)
class AnonymisedCases:
    """Cases without what was found in them, and how much that was."""

    cases: list[PreferenceCase]
    counts: dict[str, int]


def anonymise_text(text: str, counts: Counter[str] | None = None) -> str:
    """Replace links, e-mail addresses, phone numbers and user names by the `PLACEHOLDERS`.

    A function of the text alone, so that equal posts stay equal: splits are told apart by them.
    Doing it again changes nothing.

    Args:
        text: what a person wrote.
        counts: what was replaced is added to it, by kind.
    """
    counts = Counter() if counts is None else counts

    while True:
        changed = _replace_once(text, counts)
        # Something may have hidden behind what is gone now, as example.com in example.comhttp://a.
        if changed == text:
            return text
        text = changed


def anonymise_case(case: PreferenceCase, counts: Counter[str] | None = None) -> PreferenceCase:
    """`anonymise_text` of all texts of a case: signals, target pair and true description."""
    counts = Counter() if counts is None else counts
    target = _anonymise_signal(case.target, counts)
    assert isinstance(target, Comparison)
    known = case.description
    return replace(
        case,
        signals=tuple(_anonymise_signal(signal, counts) for signal in case.signals),
        target=target,
        description=None if known is None else anonymise_text(known, counts),
    )


def anonymise_cases(cases: Sequence[PreferenceCase], signals_needed: int) -> AnonymisedCases:
    """Anonymise cases before they are split and written.

    A user's id may be a name, too: it becomes `user-<n>`, in the order in which users first occur.
    What no longer says anything is left out: signals whose two replies differed in what was
    replaced alone, or that have become the target, and then cases with too few signals, or whose
    target's replies have become the same.

    Args:
        cases: of any number of users.
        signals_needed: a case with fewer signals is of no use.

    Returns:
        The cases, and the counts `anonymised/<kind>` for each kind, `anonymised/cases` (that had
        any of them), `signals_dropped/same_when_anonymised`, `cases_dropped/same_when_anonymised`.
    """
    found: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    numbers: dict[str, str] = {}
    kept = []
    for case in progress(cases, "cases anonymised", len(cases)):
        before = found.total()
        changed = anonymise_case(case, found)
        found["cases"] += found.total() > before
        telling = tuple(
            signal for signal in changed.signals if _still_tells(signal, changed.target)
        )
        dropped["signals"] += len(changed.signals) - len(telling)
        if changed.target.chosen == changed.target.rejected or len(telling) < signals_needed:
            dropped["cases"] += 1
            continue
        user, cluster = (
            numbers.setdefault(name, f"user-{len(numbers) + 1}")
            for name in (case.user_id, case.cluster)
        )
        kept.append(replace(changed, signals=telling, user_id=user, cluster=cluster))
    counts = {f"anonymised/{kind}": found[kind] for kind in ("cases", *PLACEHOLDERS)}
    counts |= {
        f"{what}_dropped/same_when_anonymised": dropped[what] for what in ("cases", "signals")
    }
    return AnonymisedCases(kept, counts)


def _replace_once(text: str, counts: Counter[str]) -> str:
    def replaced(match: re.Match[str]) -> str:
        kind = str(match.lastgroup)
        counts[kind] += 1
        kept = _end_of_sentence(match[0]) if kind == "links" else ""
        return PLACEHOLDERS[kind] + kept

    if _MAY_MATCH.search(text):
        text = _PATTERN.sub(replaced, text)
    if _MAY_HOLD_A_NUMBER.search(text):
        text = _replace_numbers(text, counts)
    return text


def _replace_numbers(text: str, counts: Counter[str]) -> str:
    # Imported here: it takes longer to load than all else that reads rows.
    from phonenumbers import Leniency, PhoneNumberMatcher

    parts, end = [], 0
    for match in PhoneNumberMatcher(text, NATIONAL_REGION, leniency=Leniency.VALID):
        # Ten digits in a row are as often an order's or a video's number.
        if match.raw_string.isdecimal():
            continue
        parts += [text[end : match.start], PLACEHOLDERS["phone_numbers"]]
        end = match.end
        counts["phone_numbers"] += 1
    return "".join([*parts, text[end:]])


def _end_of_sentence(link: str) -> str:
    """What stands at the end of a link but belongs to the sentence: a full stop, a bracket."""
    end, unmatched = len(link), link.count(")") - link.count("(")
    while end and (link[end - 1] in ".,;:!?*_'’" or (link[end - 1] == ")" and unmatched > 0)):
        end -= 1
        unmatched -= link[end] == ")"
    return link[end:]


def _anonymise_signal(signal: Signal, counts: Counter[str]) -> Signal:
    def clean(text: str) -> str:
        return anonymise_text(text, counts)

    match signal:
        case Comparison(post, chosen, rejected):
            return replace(signal, post=clean(post), chosen=clean(chosen), rejected=clean(rejected))
        case Post(post, comment):
            return Post(clean(post), clean(comment))
        case Attributes(text):
            return Attributes(clean(text))


def _still_tells(signal: Signal, target: Comparison) -> bool:
    if not isinstance(signal, Comparison):
        return True
    return signal.chosen != signal.rejected and not signal.shows_pair_of(target)
