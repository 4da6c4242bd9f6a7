"""The figures of an evaluation as one flat object, `metric/benchmark/judge/method/setting`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard, TypeVar

from alignxplore_trl.baselines.protocol import Decision, UserDescription
from alignxplore_trl.evaluation.scoring import MethodSetting, VerdictRow
from alignxplore_trl.evaluation.statistics import ClusteredBootstrap, Estimate
from alignxplore_trl.evaluation.world_truth import StatementCounts, count_statements
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import PreferenceCase

Difference = tuple[MethodSetting, MethodSetting]
Summary = dict[str, float | int | None]
Row = TypeVar("Row", VerdictRow, StatementCounts)


def summarise(
    benchmark: str,
    cases: Sequence[PreferenceCase],
    methods: Mapping[MethodSetting, Sequence[UserDescription | Decision]],
    verdicts: Sequence[VerdictRow],
    differences: Sequence[Difference],
    bootstrap: ClusteredBootstrap,
) -> Summary:
    """All figures of one benchmark.

    For every judge, method and setting, with `/low` and `/high` of the 95 % interval beside each
    share and mean:

    - `acc_jud`: mean of R_jud x R_format over the cases that the judge answered;
    - `position_gap`: how far apart the judge's answers in the two orders of the replies are;
    - `cases`, `judge_failures`, `ties`: how many cases there are, how many of them the judge did
      not answer (left out of the accuracy), and how many it called even (no win);
    - `well_formed`, `ended`, `completion_tokens`: of methods that write a completion, and
      `dropped_signals`, `shortened_texts`: what the token budget kept from them, counted;
    - `description_tokens`: over the cases with a description;
    - `precision` (true among the distinct stated directions), `recall` (stated among the user's
      directions), `contradictions` (descriptions that name both poles of a dimension),
      `repetitions` (statements that repeat an earlier one), `unsupported` (distinct statements
      that neither the reasoning nor the earlier description names): where the true directions
      are known in the simulated world's terms. A malformed completion states nothing, so it costs
      recall.

    Figures that don't depend on the judge stand under every judge. A figure that nothing could be
    estimated from is `None`; one that has no meaning for a method is left out.

    For each of `differences`, `acc_jud_difference/benchmark/judge/A-B/a-b` is the accuracy of
    method A in setting a minus that of B in b, over the `paired_cases` that both have a verdict on.

    Args:
        benchmark: the benchmark's name in the keys.
        cases: all its cases; `bootstrap` was made from their clusters, in this order.
        methods: what was scored.
        verdicts: what `score` returned for it.
        differences: the pairs to compare; `read_differences` refuses unknown ones.
        bootstrap: gives the intervals.
    """
    position = {case.case_id: index for index, case in enumerate(cases)}
    by_group: dict[tuple[str, MethodSetting], list[VerdictRow]] = {}
    for row in verdicts:
        name = MethodSetting(row.method, row.setting)
        by_group.setdefault((row.judge, name), []).append(row)
    statements = {
        name: count_statements(cases, [entry for entry in entries if _tries_to_state(entry)])
        for name, entries in methods.items()
    }
    summary: Summary = {}
    correct: dict[tuple[str, MethodSetting], list[float | None]] = {}
    for (judge, name), rows in by_group.items():
        correct[judge, name] = _aligned(position, rows, lambda row: row.correct)
        estimates = _verdict_estimates(position, rows, bootstrap)
        estimates |= _statement_estimates(position, statements[name], bootstrap)
        where = f"{benchmark}/{judge}/{name.method}/{name.setting}"
        for metric, estimate in estimates.items():
            _add(summary, f"{metric}/{where}", estimate)
        if "well_formed" in estimates:
            said = [entry for entry in methods[name] if isinstance(entry, UserDescription)]
            summary[f"dropped_signals/{where}"] = sum(entry.dropped_signals for entry in said)
            summary[f"shortened_texts/{where}"] = sum(entry.shortened_texts for entry in said)
        summary[f"cases/{where}"] = len(rows)
        summary[f"judge_failures/{where}"] = sum(row.correct is None for row in rows)
        summary[f"ties/{where}"] = sum(row.p_correct == 0.5 for row in rows)
    for judge in dict.fromkeys(judge for judge, _ in by_group):
        for first, second in differences:
            a, b = correct[judge, first], correct[judge, second]
            where = f"{benchmark}/{judge}/{first.method}-{second.method}"
            where += f"/{first.setting}-{second.setting}"
            _add(summary, f"acc_jud_difference/{where}", bootstrap.difference(a, b))
            summary[f"paired_cases/{where}"] = sum(
                None not in values for values in zip(a, b, strict=True)
            )
    return summary


def read_differences(
    texts: Sequence[str], evaluated: Sequence[MethodSetting], known: Sequence[str]
) -> list[Difference]:
    """Read pairs to compare, written `method/setting - method/setting`.

    A pair with a known method that isn't evaluated this time, such as a policy that isn't trained
    yet, is left out.

    Args:
        texts: the pairs as written.
        evaluated: methods in their settings.
        known: all methods that could be evaluated.

    Raises:
        UserError: a pair is not of that form, or names a method that isn't known.
    """
    names = {f"{name.method}/{name.setting}": name for name in evaluated}
    pairs, problems = [], []
    for text in texts:
        sides = [side.strip() for side in text.split(" - ")]
        methods = [side.partition("/")[0] for side in sides]
        if len(sides) == 2 and all(side in names for side in sides):
            pairs.append((names[sides[0]], names[sides[1]]))
        elif len(sides) != 2 or not all("/" in side for side in sides) or set(methods) - set(known):
            problems.append(
                f"evaluation.differences: {text!r} found, expected two methods in their settings, "
                f"written 'method/setting - method/setting'; methods are {', '.join(known)}"
            )
    if problems:
        raise UserError(problems)
    return pairs


def _tries_to_state(entry: UserDescription | Decision) -> TypeGuard[UserDescription]:
    """Whether a method wrote, or failed to write, a description."""
    return isinstance(entry, UserDescription) and (
        entry.description is not None or entry.format_problem is not None
    )


def _add(summary: Summary, key: str, estimate: Estimate) -> None:
    summary[key] = estimate.value
    summary[f"{key}/low"] = estimate.low
    summary[f"{key}/high"] = estimate.high


def _aligned(
    position: Mapping[str, int], rows: Sequence[Row], value: Callable[[Row], float | None]
) -> list[float | None]:
    """A value of each row at the position of its case; `None` for cases without a row."""
    values: list[float | None] = [None] * len(position)
    for row in rows:
        values[position[row.case_id]] = value(row)
    return values


def _verdict_estimates(
    position: Mapping[str, int], rows: Sequence[VerdictRow], bootstrap: ClusteredBootstrap
) -> dict[str, Estimate]:
    def mean(value: Callable[[VerdictRow], float | None]) -> Estimate:
        return bootstrap.mean(_aligned(position, rows, value))

    estimates = {"acc_jud": mean(lambda row: row.correct)}
    if any(row.position_gap is not None for row in rows):
        estimates["position_gap"] = mean(lambda row: row.position_gap)
    if any(row.completion is not None for row in rows):
        estimates["well_formed"] = mean(lambda row: float(row.format_problem is None))
        estimates["ended"] = mean(lambda row: row.ended)
        estimates["completion_tokens"] = mean(lambda row: row.completion_tokens)
    if any(row.description is not None for row in rows):
        estimates["description_tokens"] = mean(lambda row: row.description_tokens)
    return estimates


def _statement_estimates(
    position: Mapping[str, int], rows: Sequence[StatementCounts], bootstrap: ClusteredBootstrap
) -> dict[str, Estimate]:
    def ratio(
        above: Callable[[StatementCounts], float], below: Callable[[StatementCounts], float]
    ) -> Estimate:
        numerators = _aligned(position, rows, above)
        denominators = _aligned(position, rows, below)
        return bootstrap.ratio(
            [value or 0.0 for value in numerators], [value or 0.0 for value in denominators]
        )

    if not rows:
        return {}
    estimates = {
        "precision": ratio(lambda row: row.true, lambda row: row.distinct),
        "recall": ratio(lambda row: row.true, lambda row: row.directions),
    }
    if any(row.contradictory is not None for row in rows):
        estimates["contradictions"] = ratio(
            lambda row: float(row.contradictory or False),
            lambda row: float(row.contradictory is not None),
        )
        estimates["repetitions"] = ratio(
            lambda row: row.statements - row.distinct, lambda row: row.statements
        )
    if any(row.unsupported is not None for row in rows):
        estimates["unsupported"] = ratio(
            lambda row: row.unsupported or 0,
            lambda row: 0 if row.unsupported is None else row.distinct,
        )
    return estimates
