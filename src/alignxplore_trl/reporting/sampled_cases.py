"""A sample of an evaluation's cases, for people: what was read, what was written, what was true."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import xxhash

from alignxplore_trl.evaluation.methods import MethodSetting
from alignxplore_trl.reporting.evaluations import FinishedEvaluation, figures_of, judges_of
from alignxplore_trl.signals import PreferenceCase, case_from_dict

Outcome = Literal["right", "wrong", "unanswered"]
_NESTED = ("signals", "target", "directions")


@dataclass(frozen=True)
class ShownVerdict:
    """What one judge or generator made of a description.

    Attributes:
        judge: its name.
        outcome: whether it picked the reply that the user preferred.
        detail: a judge's probability of that reply, or by how much the description makes it
            likelier than the other one; empty where there is no number.
    """

    judge: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True)
class ShownInference:
    """What a method wrote about the user of a case, and what came of it.

    Attributes:
        method: in its setting.
        earlier: the description of the round before, where it read one.
        reasoning: how it came to the description, where the completion can be read.
        description: of the user.
        malformed: why the completion can't be read, and the whole of it.
        verdicts: of judges and generators.
        outcome: under the first judge.
    """

    method: MethodSetting
    earlier: str | None
    reasoning: str | None
    description: str | None
    malformed: tuple[str, str] | None
    verdicts: Sequence[ShownVerdict]
    outcome: Outcome


@dataclass(frozen=True)
class SampledCase:
    """A case with what the chosen methods wrote about its user."""

    case: PreferenceCase
    inferences: Sequence[ShownInference]


def sample_cases(
    evaluation: FinishedEvaluation,
    benchmark: str,
    methods: Sequence[MethodSetting],
    count: int,
    seed: int,
) -> list[SampledCase]:
    """Draw cases of a benchmark by a hash of their names, so that nobody chose them.

    Args:
        evaluation: whose cases they are.
        benchmark: of the cases.
        methods: those to show.
        count: how many cases at most.
        seed: of the draw.
    """
    ours = ("benchmark", "==", benchmark)
    names = evaluation.table("cases", ["case_id"], [ours])["case_id"].to_pylist()
    chosen = sorted(names, key=lambda name: xxhash.xxh3_64_intdigest(f"{seed} {name}".encode()))[
        :count
    ]
    if not chosen:
        return []
    where = [ours, ("case_id", "in", chosen)]
    cases = {
        row["case_id"]: _case(row) for row in evaluation.table("cases", where=where).to_pylist()
    }
    written = {
        _place(row): row for row in evaluation.table("descriptions", where=where).to_pylist()
    }
    verdicts = dict[tuple[str, str, str], list[Mapping[str, Any]]]()
    for row in evaluation.table("verdicts", where=where).to_pylist():
        if row["metric"] in ("acc_jud", "acc_gen"):
            verdicts.setdefault(_place(row), []).append(row)
    first = judges_of(figures_of([evaluation]))[0]
    return [
        SampledCase(
            cases[name],
            [
                _inference(method, written.get(place, {}), verdicts[place], first)
                for method in methods
                if (place := (*method, name)) in verdicts
            ],
        )
        for name in chosen
    ]


def _place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["method"], row["setting"], row["case_id"]


def _case(row: Mapping[str, Any]) -> PreferenceCase:
    """A case from its columns; of the nested ones each holds JSON."""
    nested = {name: json.loads(row[name]) for name in _NESTED}
    return case_from_dict({**row, **nested, "cluster": row["user_id"]})


def _inference(
    method: MethodSetting,
    written: Mapping[str, Any],
    verdicts: Sequence[Mapping[str, Any]],
    first: str,
) -> ShownInference:
    problem = written.get("format_problem")
    shown = [_verdict(row) for row in verdicts]
    outcomes = [
        each.outcome
        for each, row in zip(shown, verdicts, strict=True)
        if (row["metric"], row["judge"]) == ("acc_jud", first)
    ]
    return ShownInference(
        method,
        written.get("earlier"),
        written.get("reasoning"),
        written.get("description"),
        (problem, written["completion"] or "") if problem else None,
        shown,
        outcomes[0] if outcomes else "unanswered",
    )


def _verdict(row: Mapping[str, Any]) -> ShownVerdict:
    outcomes: Mapping[float | None, Outcome] = {None: "unanswered", 1.0: "right", 0.0: "wrong"}
    detail = ""
    if row["p_correct"] is not None:
        detail = f"{100 * row['p_correct']:.0f} %"
    elif row["margin"] is not None:
        detail = f"{row['margin']:+.2f} nats"
    judge = row["judge"] if row["metric"] == "acc_jud" else f"{row['judge']} (generator)"
    return ShownVerdict(judge, outcomes[row["correct"]], detail)
