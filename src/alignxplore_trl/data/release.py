"""The files that were published with the method: whole prompts to train on, and rows to test on.

A folder holds `cold_start.json` and `rl_train.json` for the base setting, with `streaming_` before
their names for the streaming one, and `rl_test.json`. The prompts of training are whole texts and
are used as they are. Of a cold-start prompt that is all of it, `<think>` included; an RL row holds
the problem text alone, which the prompt set's `problem.jinja` leads over to the completion. The
test rows hold pairs, and become cases as those of other sources do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignxplore_trl.data.alignx import (
    PAIRS_FIELD,
    Dimension,
    compose_description,
    preferred_poles,
    read_directions,
)
from alignxplore_trl.data.privacy import PLACEHOLDERS, anonymise_cases, anonymise_text
from alignxplore_trl.data.psoups import read_pairs
from alignxplore_trl.data.release_files import COLD_START_FILE, RL_FILE, TEST_FILE, SettingName
from alignxplore_trl.data.rounds import RoundRow, RoundRows
from alignxplore_trl.data.rows import (
    Row,
    post_key,
    raise_the_first,
    read_rows,
    shown,
    texts_of,
)
from alignxplore_trl.data.world import Split
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.signals import Comparison, PreferenceCase
from alignxplore_trl.text.budget import FittedPrompt, PromptTooLongError, fit_prompt
from alignxplore_trl.text.parsing import FormatProblem, parse_completion
from alignxplore_trl.text.rendering import PromptSet

# Stands in a later round's problem text where the earlier description belongs.
PLACEHOLDER = "Not provided"
# Where the user's own text begins in a problem text: the first numbered item.
_FIRST_ITEM = re.compile(r"^1\. \*[^*\n]+:\*", re.MULTILINE)
_MARKER = re.compile(r"\*(?=[^*\n]+:\*)")
_PAIR_FIELDS = ("task", "chosen", "rejected", "responseA", "responseB", "answer")
_ANSWERS = ("Response A", "Response B")


@dataclass(frozen=True)
class PublishedRound:
    """One round of one row of an RL file.

    Attributes:
        case_id: names the row; the same in all of its rounds.
        round: 1 is the first.
        problem: the problem text, as it was published.
        slot: where the placeholder for the earlier description begins in it; -1 in round 1.
        post, chosen, rejected: the target pair.
    """

    case_id: str
    round: int
    problem: str
    slot: int
    post: str
    chosen: str
    rejected: str

    def with_description(self, description: str | None) -> str:
        """The problem text with a description in its slot; without one, as it is.

        A marker of a signal, such as `*Post:*`, is escaped in the description.
        """
        if description is None:
            return self.problem
        rest = self.problem[self.slot + len(PLACEHOLDER) :]
        return self.problem[: self.slot] + _MARKER.sub("&#42;", description) + rest


@dataclass(frozen=True)
class PublishedRoundRow(RoundRow):
    """A round as RL reads it. It has no signals of its own: they stand in the problem text."""

    problem: str
    slot: int


@dataclass(frozen=True)
class Release:
    """What was read of a folder, and how much was kept and left out, by reason.

    Attributes:
        examples: prompts and completions of the cold start.
        rounds: rows of the RL file; a row's rounds follow each other.
        cases: the test rows.
    """

    examples: list[dict[str, str]]
    rounds: list[PublishedRound]
    cases: list[PreferenceCase]
    counts: dict[str, int]


def read_release(
    folder: Path,
    setting: SettingName,
    rounds: int,
    signals_needed: int,
    sizes: Mapping[Split, int],
    dimensions: Sequence[Dimension],
    *,
    anonymise: bool = False,
) -> Release:
    """Read those of a setting's files that are in the folder.

    Args:
        folder: holds the files under the names they were published by.
        setting: which files of training are read.
        rounds: rounds of an RL row; later ones of the file are not used.
        signals_needed: test rows with fewer pairs are left out and counted.
        sizes: how many rows of each split are taken at most, the first ones.
        dimensions: the entries of a direction vector, where test rows have one.
        anonymise: whether links, addresses, numbers and user names are replaced, in whole prompts.

    Raises:
        UserError: none of the files is there, or rows of one are not in the format; each problem
            names file, row and field.
    """
    counts: Counter[str] = Counter()
    examples: list[dict[str, str]] = []
    published: list[PublishedRound] = []
    cases: list[PreferenceCase] = []
    if (path := folder / COLD_START_FILE[setting]).is_file():
        examples = read_examples(path)[: sizes.get("cold_start", 0)]
    if (path := folder / RL_FILE[setting]).is_file():
        published = _first_cases(read_rounds(path, rounds, counts), sizes.get("rl", 0))
    if (path := folder / TEST_FILE).is_file():
        cases = read_test(path, signals_needed, dimensions, counts)[: sizes.get("test", 0)]
    if not (examples or published or cases):
        raise UserError(
            f"data.path: the folder {folder} has nothing to use in {COLD_START_FILE[setting]}, "
            f"{RL_FILE[setting]} or {TEST_FILE} ({dict(counts)})"
        )
    if anonymise:
        examples, published, cases = _anonymised(examples, published, cases, signals_needed, counts)
    trained_on = {post_key(row.post) for row in published}
    counts["examples/cold_start"] = len(examples)
    counts["examples_of_another_format"] = sum(
        isinstance(parse_completion(example["completion"]), FormatProblem) for example in examples
    )
    counts["cases/rl"] = len({row.case_id for row in published})
    counts["cases/test"] = len(cases)
    counts["test_cases_whose_post_is_in_rl"] = sum(
        post_key(case.target.post) in trained_on for case in cases
    )
    return Release(examples, published, cases, dict(sorted(counts.items())))


def read_examples(path: Path) -> list[dict[str, str]]:
    """The prompts and completions of a cold-start file.

    Raises:
        UserError: a row lacks one of them, or a prompt doesn't end by opening `<think>`.
    """
    problems = Problems()
    examples = []
    for row in read_rows(path, problems):
        if not isinstance(row.value, dict):
            problems.add(f"{row.place}: {shown(row.value)} found, expected prompt and response")
        elif texts := texts_of(row.value, ("prompt", "response"), row.place, problems):
            prompt, completion = texts
            if not prompt.rstrip().endswith("<think>"):
                problems.add(
                    f"{row.place}, prompt: its end {shown(prompt[-20:])} found, expected <think>, "
                    "which the response goes on from"
                )
            examples.append({"prompt": prompt, "completion": completion})
    raise_the_first(problems, path)
    return examples


def read_rounds(path: Path, rounds: int, counts: Counter[str]) -> list[PublishedRound]:
    """The rounds of an RL file, of the base or the streaming setting.

    The slot of a later round is the placeholder that stands in the words that all rows of the file
    share, before or after the user's own. A user's post may hold the same words.

    Raises:
        UserError: a row is not in the format, or the slot can't be told.
    """
    problems = Problems()
    found: list[PublishedRound] = []
    for row in read_rows(path, problems):
        entries = _entries(row, problems)[:rounds]
        for missing in range(len(entries) + 1, rounds + 1):
            counts[f"cases_without_round/{missing}"] += 1
        for number, entry in enumerate(entries, 1):
            place = row.place if rounds == 1 else f"{row.place}, history item {number}"
            texts = texts_of(entry, ("value", *_PAIR_FIELDS), place, problems)
            if texts:
                problem, post, chosen, rejected, *answer = texts
                _check_answer(chosen, rejected, answer, place, problems)
                slot = -1
                if number > 1:
                    slot = _slot(problem)
                    if slot < 0:
                        problems.add(_no_slot(place))
                case_id = f"{path.stem}-{row.number}"
                found.append(PublishedRound(case_id, number, problem, slot, post, chosen, rejected))
    _check_slots(path, found, problems)
    raise_the_first(problems, path)
    return found


def read_test(
    path: Path, signals_needed: int, dimensions: Sequence[Dimension], counts: Counter[str]
) -> list[PreferenceCase]:
    """The cases of a test file, one for each row: rows that share a post stay apart.

    Raises:
        UserError: a row is not in the format.
    """
    problems = Problems()
    cases = []
    for row in read_rows(path, problems):
        case = _test_case(row, path.stem, dimensions, problems)
        if case is None:
            continue
        if len(case.signals) < signals_needed:
            counts["cases_dropped/too_few_signals"] += 1
        else:
            cases.append(case)
    raise_the_first(problems, path)
    return cases


class PublishedPrompts:
    """The prompts of RL rows: problem texts, led over to the completion, within the token budget.

    A whole text can't be shortened by whole signals. Without a description, a prompt above the
    budget is left out; with one, the description is cut.

    Args:
        prompts: the set whose `problem.jinja` is used.
        count_tokens: tokens of a text.
        max_tokens: the budget.
    """

    def __init__(
        self, prompts: PromptSet, count_tokens: Callable[[str], int], max_tokens: int
    ) -> None:
        self.prompts = prompts
        self.count_tokens = count_tokens
        self.max_tokens = max_tokens

    def fit(self, row: PublishedRound, earlier: str | None) -> FittedPrompt:
        """The prompt of a round.

        Raises:
            PromptTooLongError: it is above the budget, the description cut to its shortest.
        """
        return fit_prompt(
            lambda _, description: self.prompts.problem(row.with_description(description)),
            (),
            earlier,
            self.count_tokens,
            self.max_tokens,
        )

    def with_earlier(self, row: Mapping[str, Any], earlier: str) -> FittedPrompt:
        """The same for a row of the dataset that `rows` made."""
        fields = {name: row[name] for name in PublishedRound.__dataclass_fields__}
        return self.fit(PublishedRound(**fields), earlier)

    def rows(
        self, rounds: Sequence[PublishedRound], examples: Sequence[Mapping[str, str]]
    ) -> RoundRows:
        """The rows that training reads; a case with a prompt above the budget has none.

        Args:
            rounds: the RL rows.
            examples: those of the cold start, whose prompts are whole. The policy should find the
                wording that it learned on again.

        Returns:
            The rows, and the counts `cases`, `rows`, `cases_with_too_long_prompts`, and
            `cold_start_prompts_worded_alike`: those that begin and end as `problem.jinja` does.
        """
        too_long: set[str] = set()
        rows = []
        for row in rounds:
            try:
                prompt = self.fit(row, None)
            except PromptTooLongError:
                too_long.add(row.case_id)
                continue
            rows.append(
                PublishedRoundRow(
                    prompt=prompt.text, user_id=row.case_id, signals="[]", **asdict(row)
                )
            )
        kept = [row for row in rows if row.case_id not in too_long]
        counts = {
            "cases": len({row.case_id for row in rounds}),
            "cases_with_too_long_prompts": len(too_long),
            "cold_start_prompts_worded_alike": self._worded_alike(examples),
            "rows": len(kept),
        }
        return RoundRows(list(kept), counts)

    def _worded_alike(self, examples: Sequence[Mapping[str, str]]) -> int:
        before, after = self.prompts.problem("\0").split("\0")
        prompts = [example["prompt"] for example in examples]
        return sum(text.startswith(before) and text.endswith(after) for text in prompts)


def write_release(folder: Path, release: Release) -> None:
    """Write what the stages of training read: examples.parquet and rounds.parquet."""
    for name, rows in (
        ("examples", release.examples),
        ("rounds", [asdict(row) for row in release.rounds]),
    ):
        unfinished = folder / f".{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), unfinished)
        unfinished.replace(folder / f"{name}.parquet")


def published_examples(folder: Path) -> list[dict[str, str]]:
    """The cold-start examples that `write_release` wrote."""
    examples: list[dict[str, str]] = pq.read_table(folder / "examples.parquet").to_pylist()
    return examples


def published_rounds(folder: Path) -> list[PublishedRound]:
    """The RL rows that `write_release` wrote."""
    rows = pq.read_table(folder / "rounds.parquet").to_pylist()
    return [PublishedRound(**row) for row in rows]


def _anonymised(
    examples: Sequence[Mapping[str, str]],
    rounds: Sequence[PublishedRound],
    cases: Sequence[PreferenceCase],
    signals_needed: int,
    counts: Counter[str],
) -> tuple[list[dict[str, str]], list[PublishedRound], list[PreferenceCase]]:
    """All texts of a folder without what `anonymise_text` finds; rounds of equal replies go."""
    found: Counter[str] = Counter()

    def clean(text: str) -> str:
        return anonymise_text(text, found)

    changed = [_anonymised_round(each, clean) for each in rounds]
    useless = {each.case_id for each in changed if each.chosen == each.rejected}
    counts["cases_dropped/same_when_anonymised"] += len(useless)
    tests = anonymise_cases(cases, signals_needed)
    cleaned = [{key: clean(text) for key, text in example.items()} for example in examples]
    counts.update({f"anonymised/{kind}": found[kind] for kind in PLACEHOLDERS})
    counts.update(tests.counts)
    return cleaned, [each for each in changed if each.case_id not in useless], tests.cases


def _anonymised_round(row: PublishedRound, clean: Callable[[str], str]) -> PublishedRound:
    slot = max(0, row.slot)
    before, behind = clean(row.problem[:slot]), clean(row.problem[slot:])
    return replace(
        row,
        problem=before + behind,
        slot=len(before) if row.slot >= 0 else row.slot,
        post=clean(row.post),
        chosen=clean(row.chosen),
        rejected=clean(row.rejected),
    )


def _entries(row: Row, problems: Problems) -> list[dict[str, Any]]:
    """The rounds of a row: the first turn itself, or the entries of its history."""
    first = row.value[0] if isinstance(row.value, list) and row.value else None
    if not isinstance(first, dict) or len(row.value) != 2:
        problems.add(f"{row.place}: {shown(row.value)} found, expected a list of two turns")
        return []
    entries = first.get("history", [first])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        problems.add(f"{row.place}, history: {shown(entries)} found, expected a list of rounds")
        return []
    truth = row.value[1].get("ground_truth") if isinstance(row.value[1], dict) else None
    answer = truth.get("value") if isinstance(truth, dict) else None
    if entries is not first.get("history") and answer != first.get("answer"):
        problems.add(
            f"{row.place}, ground_truth: {shown(answer)} found, expected the answer of the first "
            f"turn, {shown(first.get('answer'))}"
        )
    return entries


def _check_answer(
    chosen: str, rejected: str, answer: Sequence[str], place: str, problems: Problems
) -> None:
    """Chosen and rejected reply must be those that the answer tells apart."""
    response_a, response_b, label = answer
    expected = {"Response A": (chosen, rejected), "Response B": (rejected, chosen)}.get(label)
    if expected is None:
        problems.add(f"{place}, answer: {shown(label)} found, expected {' or '.join(_ANSWERS)}")
    elif (response_a, response_b) != expected:
        problems.add(
            f"{place}, answer: {shown(label)} found, but that response isn't the chosen one"
        )
    elif chosen == rejected:
        problems.add(f"{place}, chosen and rejected: the replies are equal; remove the row")


def _slot(problem: str) -> int:
    """Where the template's placeholder begins, -1 if nowhere.

    Before the first item all is template. Behind the last one template follows what the user saw
    and wrote, so that the last occurrence is the template's, if it is there at all.
    """
    item = _FIRST_ITEM.search(problem)
    if item is None:
        return -1
    at = problem.find(PLACEHOLDER, 0, item.start())
    return at if at >= 0 else problem.rfind(PLACEHOLDER, item.end())


def _check_slots(path: Path, rounds: Sequence[PublishedRound], problems: Problems) -> None:
    """The words before or behind the slot are the template's, and so the same in all rows."""
    later = [row for row in rounds if row.slot >= 0]
    words = {row: _words_at_slot(row) for row in later}
    for number in sorted({row.round for row in later}):
        of_round = [row for row in later if row.round == number]
        (usual, _), *_ = Counter(words[row] for row in of_round).most_common(1)
        problems.found.extend(
            f"{path}, row {row.case_id.rpartition('-')[2]}, history item {number}: the only "
            f"{PLACEHOLDER!r} stands where most rows have other words, in a user's text; "
            "expected it in the template's, where the earlier description belongs"
            for row in of_round
            if words[row] != usual
        )


def _words_at_slot(row: PublishedRound) -> tuple[str, str]:
    """The template's words on the side of the slot where no user's text is, and which side."""
    item = _FIRST_ITEM.search(row.problem)
    assert item is not None
    if row.slot < item.start():
        return "before", row.problem[: row.slot]
    return "behind", row.problem[row.slot :]


def _no_slot(place: str) -> str:
    return (
        f"{place}, value: no {PLACEHOLDER!r} found in it, expected one where the earlier "
        "description belongs"
    )


def _test_case(
    row: Row, source: str, dimensions: Sequence[Dimension], problems: Problems
) -> PreferenceCase | None:
    before = len(problems.found)
    if not isinstance(row.value, dict):
        problems.add(f"{row.place}: {shown(row.value)} found, expected an object")
        return None
    fields = ("prompt", "responseA", "responseB", "answer")
    texts = texts_of(row.value, fields, row.place, problems)
    items = row.value.get(PAIRS_FIELD)
    if not isinstance(items, list):
        problems.add(f"{row.place}, {PAIRS_FIELD}: {shown(items)} found, expected a list of pairs")
        return None
    history = read_pairs(items, f"{row.place}, {PAIRS_FIELD}", problems)
    values = read_directions(row.value, row.place, dimensions, problems)
    directions = preferred_poles(values, dimensions) if values else {}
    if texts and texts[3] not in _ANSWERS:
        problems.add(f"{row.place}, answer: {shown(texts[3])} found, expected one of {_ANSWERS}")
    if len(problems.found) > before:
        return None
    post, response_a, response_b, answer = texts
    replies = (response_a, response_b) if answer == "Response A" else (response_b, response_a)
    target = Comparison(post, *replies)
    if any(pair.shows_pair_of(target) for pair in history):
        problems.add(f"{row.place}, {PAIRS_FIELD}: the target pair stands in its own history")
        return None
    described = row.value.get("profile_full")
    if not described and directions:
        described = compose_description(directions.values())
    case_id = f"{source}-{row.number}"
    return PreferenceCase(case_id, case_id, history, target, directions or None, described or None)


def _first_cases(rounds: Sequence[PublishedRound], size: int) -> list[PublishedRound]:
    kept = set(list(dict.fromkeys(row.case_id for row in rounds))[:size])
    return [row for row in rounds if row.case_id in kept]
