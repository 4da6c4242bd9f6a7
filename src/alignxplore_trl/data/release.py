"""The files that were published with the method: whole prompts to train on, and rows to test on.

A folder holds `cold_start.json` and `rl_train.json` for one round, with `streaming_` before their
names for several, and `rl_test.json`. A cold-start prompt is whole; an RL row holds the problem
text alone. What stands around it is read from the cold-start prompts, so that RL finds the wording
again that the policy learned on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec.structs import replace
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.data import alignx
from alignxplore_trl.data.rounds import RoundRows
from alignxplore_trl.data.rows import Problems, Row, convert, read_as, read_rows
from alignxplore_trl.data.splits import check_none_is_empty, groups_of_posts, post_key, posts_of
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.budget import FittedPrompt, PromptBudget
from alignxplore_trl.text.prompts import Prompts

R = TypeVar("R")
# Stands in a later round's problem text where the earlier description belongs.
PLACEHOLDER = "Not provided"
# The first numbered item: before it, all is template.
_FIRST_ITEM = re.compile(r"^1\. \*[^*\n]+:\*", re.MULTILINE)
# What would read as a signal or a tag in a description.
_RESERVED = re.compile(r"\*(?=[^*\n]{1,40}:\*)|<(?=/?(?:think|answer)>)")
# Fewer characters that texts share at an end may be chance.
_NO_CHANCE = 8


class _Example(msgspec.Struct):
    prompt: str
    response: str

    def __post_init__(self) -> None:
        if not self.prompt.rstrip().endswith("<think>"):
            raise ValueError("expected a prompt that ends in <think>, from which response goes on")


class _Round(msgspec.Struct):
    value: str
    task: str
    chosen: str
    rejected: str

    def __post_init__(self) -> None:
        alignx.check_target(Comparison(self.task, self.chosen, self.rejected), ())


class _TestRow(msgspec.Struct):
    prompt: str
    first: str = msgspec.field(name="responseA")
    second: str = msgspec.field(name="responseB")
    answer: Literal["Response A", "Response B"]
    pairs: list[alignx.PairItem] = msgspec.field(name=alignx.PAIRS)
    direction: alignx.Vector = msgspec.field(default=None, name=alignx.DIRECTIONS)
    described: str | None = msgspec.field(default=None, name="profile_full")

    def __post_init__(self) -> None:
        self.row()

    def row(self) -> alignx.AlignxRow:
        """The row as it would stand in ALIGNX."""
        pair = (self.first, self.second)
        chosen, rejected = pair if self.answer == "Response A" else pair[::-1]
        return alignx.AlignxRow(self.prompt, chosen, rejected, self.direction, pairs=self.pairs)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Release:
    """A data source, with the keys of conf/data/release.yaml.

    Test rows need signals for one round, and serve the settings that they have signals for.
    """

    path: Path
    sizes: dict[Literal["cold_start", "rl", "test"], int]
    rounds: PositiveInt
    signals: PositiveInt
    dimensions: list[alignx.Dimension]
    prompts: str = "default"

    def cases(self, counts: Counter[str], seed: int) -> dict[str, list[Case]]:
        """The test cases, one a row: rows that share a post stay apart."""
        problems, test = Problems(), list[Case]()
        for row, found in self._read("rl_test.json", _TestRow, problems):
            case = found.row().case(row.name, "comparisons", self.dimensions)
            described = found.described or case.description
            test.append(replace(case, user_id=row.name, description=described))
        problems.raise_if_any()
        enough = [case for case in test if len(case.signals) >= self.signals]
        counts["cases_dropped/too_few_signals"] = len(test) - len(enough)
        splits = {"test": enough[: self.sizes.get("test", 0)]}
        if test:
            check_none_is_empty(splits, {"test": self.sizes.get("test", 0)}, counts)
        return splits

    def published(
        self, counts: Counter[str], splits: Mapping[str, Sequence[Case]]
    ) -> dict[str, list[dict[str, Any]]]:
        """`examples` of the cold start (prompt, completion), and RL's `rounds`.

        A round has the columns of `round_rows`, without signals of its own, and `slot`, where the
        placeholder for the earlier description begins in its prompt (-1 in round 1). RL cases about
        a post of the test are left out; of cold-start prompts, which are whole, it can't be told.
        """
        problems, kind = Problems(), "streaming_" if self.rounds > 1 else ""
        read = self._read(f"{kind}cold_start.json", _Example, problems)
        examples = [each for _, each in read][: self.sizes.get("cold_start", 0)]
        rounds = list(self._rounds(self.path / f"{kind}rl_train.json", counts, problems))
        problems.raise_if_any()
        if not (examples or rounds or splits["test"]):
            raise UserError(f"data.path: the folder {self.path} has none of the published files")
        tested = {key for case in splits["test"] for key in posts_of(case)}
        group_of = groups_of_posts(sorted(tested | {post_key(row["post"]) for row in rounds}))
        groups = {group_of[post] for post in tested}
        free = [row for row in rounds if group_of[post_key(row["post"])] not in groups]
        counts["rounds_dropped/shared_post"] = len(rounds) - len(free)
        kept = list(dict.fromkeys(row["case_id"] for row in free))[: self.sizes.get("rl", 0)]
        found = wrapper([each.prompt for each in examples], [row["prompt"] for row in rounds])
        if rounds and found is None:
            say("RL's problems stand in no cold-start prompts: the problem template wraps them")
        before, after = found or Prompts(self.prompts).render("problem", problem="\0").split("\0")
        for row in free:
            row["prompt"] = f"{before}{row['prompt']}{after}"
            row["slot"] += len(before) if row["slot"] >= 0 else 0
        return {
            "examples": [{"prompt": e.prompt, "completion": e.response} for e in examples],
            "rounds": [row for row in free if row["case_id"] in set(kept)],
        }

    def _read(self, name: str, to: type[R], problems: Problems) -> Iterator[tuple[Row, R]]:
        file = self.path / name
        return read_as(file, to, problems) if file.is_file() else iter(())

    def _rounds(
        self, file: Path, counts: Counter[str], problems: Problems
    ) -> Iterator[dict[str, Any]]:
        for row in read_rows(file, (), problems) if file.is_file() else ():
            turns = convert(row, tuple[dict[str, Any], dict[str, Any]], problems) or ({},)
            entries = row._replace(value=turns[0].get("history", [turns[0]]))
            rounds = convert(entries, list[_Round], problems) or []
            for missing in range(len(rounds) + 1, self.rounds + 1):
                counts[f"cases_without_round/{missing}"] += 1
            for number, entry in enumerate(rounds[: self.rounds], 1):
                slot = _slot(entry.value) if number > 1 else -1
                if number > 1 and slot < 0:
                    problems.append(
                        f"{row.place}, history item {number}, value: no {PLACEHOLDER!r} outside "
                        "the signals, expected one where the earlier description belongs"
                    )
                target = {"post": entry.task, "chosen": entry.chosen, "rejected": entry.rejected}
                about = {"case_id": row.name, "user_id": row.name, "round": number, "slot": slot}
                yield {"prompt": entry.value, **about, "signals": "[]", **target}


def wrapper(prompts: Sequence[str], problems: Sequence[str]) -> tuple[str, str] | None:
    """What stands before and after the problem in whole prompts; `None` if it can't be told.

    The prompts' common beginning runs over into the beginning that all problems have in common, and
    so does their end. The problems are others, in the words of the same template.
    """
    if not prompts or not problems:
        return None
    before = _before(prompts, problems)
    after = _before([text[::-1] for text in prompts], [text[::-1] for text in problems])
    return None if before is None or after is None else (before, after[::-1])


def _before(prompts: Sequence[str], problems: Sequence[str]) -> str | None:
    outer, inner = _common_beginning(*prompts), _common_beginning(*problems)
    if len(inner) < _NO_CHANCE:
        return outer.removesuffix(inner)
    # Either may go on beyond the template's words, where users' texts begin alike.
    shared = [len(_common_beginning(outer[start:], inner)) for start in range(len(outer))]
    longest = max(shared, default=0)
    return outer[: shared.index(longest)] if longest >= _NO_CHANCE else None


def _common_beginning(*texts: str) -> str:
    # Of texts in order, all between the first and the last begin as these two.
    same = takewhile(lambda pair: pair[0] == pair[1], zip(min(texts), max(texts), strict=False))
    return "".join(letter for letter, _ in same)


def _slot(problem: str) -> int:
    """Where the template's placeholder begins, -1 if nowhere.

    Before the first item all is template. Behind the last one template follows what the user saw
    and wrote, so that the last occurrence is the template's, if it is there at all.
    """
    item = _FIRST_ITEM.search(problem)
    at = problem.find(PLACEHOLDER, 0, item.start() if item else None)
    return at if at >= 0 or item is None else problem.rfind(PLACEHOLDER, item.end())


def published_rows(rows: Sequence[Mapping[str, Any]], budget: PromptBudget) -> RoundRows:
    """The rounds that training reads; a case with a prompt above the budget has none."""
    too_long = {row["case_id"] for row in rows if budget.count(row["prompt"]) > budget.max_tokens}
    kept = [dict(row) for row in rows if row["case_id"] not in too_long]
    cases = len({row["case_id"] for row in rows})
    counts = {"cases": cases, "cases_with_too_long_prompts": len(too_long), "rows": len(kept)}
    return RoundRows(kept, counts)


def prompt_with(row: Mapping[str, Any], earlier: str | None, budget: PromptBudget) -> FittedPrompt:
    """The prompt of a published round with an earlier description, which is cut if need be."""
    prompt, slot = str(row["prompt"]), row["slot"]

    def render(_: object, description: str | None) -> str:
        if description is None or slot < 0:
            return prompt
        escaped = _RESERVED.sub(lambda match: f"&#{ord(match[0])};", description)
        return f"{prompt[:slot]}{escaped}{prompt[slot + len(PLACEHOLDER) :]}"

    return budget.fit_by(render, (), earlier)
