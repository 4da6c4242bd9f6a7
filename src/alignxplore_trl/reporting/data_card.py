"""What came of a file of rows: `card.md` beside the splits, with two charts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from alignxplore_trl.data.sources import read_split
from alignxplore_trl.data.world import RefinedSplit
from alignxplore_trl.reporting.charts import balance_chart, length_chart
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import write_text_atomic
from alignxplore_trl.run.progress import progress, say
from alignxplore_trl.signals import PreferenceCase, Signal

SPLITS: tuple[RefinedSplit, ...] = get_args(RefinedSplit)
# Lengths are measured in the first cases of each set.
_MEASURED = 1000


@dataclass(frozen=True)
class CardTokenizer:
    """A tokenizer by its name: texts -> number of tokens of each."""

    name: str
    count: Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class SplitFacts:
    """What the card says of one set.

    Attributes:
        users: how many different users.
        cases: how many cases.
        signals: how many cases have so many signals.
        balance: of each dimension, in how many cases each of its poles is preferred.
        lengths: tokens of the first cases' histories, of single signals, and of target pairs;
            empty without a tokenizer.
    """

    users: int
    cases: int
    signals: Mapping[int, int]
    balance: Mapping[str, Mapping[str, int]]
    lengths: Mapping[str, Sequence[int]]


def load_tokenizer(name: str | None) -> CardTokenizer | None:
    """The tokenizer of a folder or a name on the Hub, or `None` where the Hub can't be reached.

    Raises:
        UserError: it is a folder without a tokenizer, or no name that the Hub could have.
    """
    if name is None:
        return None
    # Imported here: only data of one's own is measured.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from tokenizers import Tokenizer

    file = Path(name) / "tokenizer.json"
    if not file.is_file():
        if Path(name).exists() or name.count("/") != 1:
            raise UserError(
                f"data.tokenizer: found no {file}, expected a folder with tokenizer.json, "
                "owner/model on the Hub, or null"
            )
        try:
            file = Path(hf_hub_download(name, "tokenizer.json"))
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
            say(
                f"data.tokenizer: {name} can't be had from the Hub ({type(error).__name__}): the "
                "card will be without token lengths; a folder would do, too"
            )
            return None
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def count(texts: Sequence[str]) -> list[int]:
        encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [len(each.ids) for each in encoded]

    return CardTokenizer(name, count)


def write_data_card(
    folder: Path, source: str, counts: Mapping[str, int], tokenizer: CardTokenizer | None
) -> None:
    """Write `card.md`, `balance.png` and `lengths.png` beside the splits of a folder.

    Args:
        folder: holds `<split>.parquet`.
        source: where the rows came from.
        counts: what was kept and left out, by reason.
        tokenizer: for lengths; without one the card has none.
    """
    present = [split for split in SPLITS if (folder / f"{split}.parquet").is_file()]
    facts = {
        split: facts_of(read_split(folder, split), tokenizer)
        for split in progress(present, "measuring sets", len(present))
    }
    balances = [(split, fact.balance) for split, fact in facts.items() if fact.balance]
    if balances:
        balance_chart(balances, folder / "balance.png")
    lengths = [(split, fact.lengths["history"]) for split, fact in facts.items() if fact.lengths]
    if lengths:
        length_chart(lengths, folder / "lengths.png")
    write_text_atomic(folder / "card.md", data_card(source, counts, facts, tokenizer))


def facts_of(cases: Sequence[PreferenceCase], tokenizer: CardTokenizer | None) -> SplitFacts:
    """Measure one set."""
    balance: dict[str, Counter[str]] = {}
    for case in cases:
        for dimension, pole in (case.directions or {}).items():
            balance.setdefault(dimension, Counter())[pole] += 1
    return SplitFacts(
        users=len({case.user_id for case in cases}),
        cases=len(cases),
        signals=Counter(len(case.signals) for case in cases),
        balance=balance,
        lengths=_lengths(cases[:_MEASURED], tokenizer) if tokenizer and cases else {},
    )


def data_card(
    source: str,
    counts: Mapping[str, int],
    facts: Mapping[RefinedSplit, SplitFacts],
    tokenizer: CardTokenizer | None,
) -> str:
    """The card as Markdown."""
    lines = [
        "# Data card",
        "",
        f"Made by `make data` from `{source}`. {_separation(counts)}",
        "",
        "## Sets",
        "",
        "| set | cases | users | signals a case | cases with fewer than 8 |",
        "|---|---:|---:|---|---:|",
    ]
    for split, fact in facts.items():
        sizes = sorted(fact.signals)
        span = f"{sizes[0]}–{sizes[-1]}" if sizes else "–"
        few = sum(count for size, count in fact.signals.items() if size < 8)
        lines.append(f"| {split} | {fact.cases:,} | {fact.users:,} | {span} | {few:,} |")
    lines += ["", "## Kept and left out", "", "| what | count |", "|---|---:|"]
    lines += [
        f"| {name} | {count:,} |"
        for name, count in sorted(counts.items())
        if not isinstance(count, bool)
    ]
    lines += ["", "## Directions", "", *_balance_table(facts)]
    lines += ["", "## Lengths", ""]
    if tokenizer is None:
        lines.append("Not measured: there was no tokenizer (`data.tokenizer`).")
    else:
        lines += [
            f"Tokens of `{tokenizer.name}` in the first {_MEASURED:,} cases of each set: median, "
            "95th percentile, largest. Texts alone, without what a prompt puts around them.",
            "",
            "| set | whole history | one signal | target pair |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {split} | {' | '.join(map(_spread, fact.lengths.values()))} |"
            for split, fact in facts.items()
            if fact.lengths
        ]
        lines += ["", "![Tokens of histories](lengths.png)"]
    return "\n".join([*lines, ""])


def _separation(counts: Mapping[str, int]) -> str:
    """What the sets don't share, as the reader of the source has left it."""
    if "posts_near_duplicate" in counts:
        return "No two sets share a user or a post."
    if "test_cases_whose_post_is_in_rl" in counts:
        return (
            "The files don't say who is who, so that sets may share users. Posts of the test that "
            "RL trains on are counted below, and stay."
        )
    return "No two sets share a user, and training shares no post with validation or test."


def _balance_table(facts: Mapping[RefinedSplit, SplitFacts]) -> list[str]:
    """Of each dimension, in all sets together, in how many cases which pole is preferred."""
    total: dict[str, Counter[str]] = {}
    for fact in facts.values():
        for dimension, poles in fact.balance.items():
            total.setdefault(dimension, Counter()).update(poles)
    if not total:
        return ["The rows have no direction vectors."]
    rows = sorted(total.items(), key=lambda item: (-item[1].total(), item[0]))
    return [
        "In how many cases of all sets the user prefers which pole, the most frequent dimensions "
        "first.",
        "",
        "| dimension | cases | more frequent pole | share |",
        "|---|---:|---|---:|",
        *(
            f"| {dimension} | {poles.total():,} | {pole} | {count / poles.total():.0%} |"
            for dimension, poles in rows
            for pole, count in [min(poles.items(), key=lambda item: (-item[1], item[0]))]
        ),
        "",
        "![Balance of directions](balance.png)",
    ]


def _lengths(cases: Sequence[PreferenceCase], tokenizer: CardTokenizer) -> dict[str, list[int]]:
    signals = tokenizer.count([_text(signal) for case in cases for signal in case.signals])
    targets = tokenizer.count([_text(case.target) for case in cases])
    ends = np.cumsum([len(case.signals) for case in cases])
    histories = [int(sum(part)) for part in np.split(np.array(signals), ends[:-1])]
    return {"history": histories, "signal": signals, "target": targets}


def _text(signal: Signal) -> str:
    return "\n".join(text for key, text in vars(signal).items() if key not in ("kind", "form"))


def _spread(values: Sequence[int]) -> str:
    middle, high = np.percentile(values, [50, 95])
    return f"{middle:,.0f}, {high:,.0f}, {max(values):,}"
