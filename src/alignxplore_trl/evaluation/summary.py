"""The figures of an evaluation as one flat object, `metric/benchmark/judge/method/setting`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from alignxplore_trl.evaluation.comparisons import holm, paired_tests
from alignxplore_trl.evaluation.groups import Groups
from alignxplore_trl.evaluation.methods import Comparison, MethodSetting
from alignxplore_trl.evaluation.scoring import (
    DescriptionRow,
    Place,
    Scores,
    VerdictRow,
    aligned,
    tries_to_describe,
)
from alignxplore_trl.evaluation.statistics import ClusteredBootstrap, Estimate
from alignxplore_trl.evaluation.world_truth import StatementCounts, count_statements
from alignxplore_trl.signals import PreferenceCase

Summary = dict[str, float | int | None]
Values = list[float | None]


def summarise(
    benchmark: str,
    cases: Sequence[PreferenceCase],
    scores: Scores,
    groups: Groups,
    differences: Sequence[Comparison],
    bootstrap: ClusteredBootstrap,
) -> Summary:
    """All figures of one benchmark.

    For every judge, method and setting, with `/low` and `/high` of the 95 % interval beside each
    share and mean:

    - `acc_jud`: mean of R_jud x R_format over the cases that the judge answered;
    - `acc_jud_group_gap`: the largest distance between two poles of a dimension, see `GroupGap`;
    - `position_gap`: how far apart the judge's answers in the two orders of the replies are;
    - `reasoning_agreement`: how often the judge picks the same reply when it is given the
      reasoning in place of the description, over the cases where it picks one both times;
    - `cases`, `judge_failures`, `ties`: how many cases there are, how many of them the judge did
      not answer (left out of the accuracy), and how many it called even (no win);
    - `well_formed`, `ended`, `completion_tokens`, `prompt_tokens`, `seconds`: of methods that write
      a completion, and `dropped_signals`, `shortened_texts`: what the token budget kept from them,
      counted;
    - `description_tokens`: over the cases with a description;
    - `precision` (true among the distinct stated directions), `recall` (stated among the user's
      directions), `contradictions` (descriptions that name both poles of a dimension),
      `repetitions` (statements that repeat an earlier one), `unsupported` (distinct statements
      that neither the reasoning nor the earlier description names): where the true directions
      are known in the simulated world's terms. A malformed completion states nothing, so it costs
      recall.

    Figures that don't depend on the judge stand under every judge. A figure that nothing could be
    estimated from is `None`; one that has no meaning for a method is left out.

    With a generator's name in the judge's place there are `acc_gen`, mean of R_gen x R_format,
    `acc_gen_group_gap`, and `generator_failures`, the cases that it did not answer.

    For each of `differences`, at `benchmark/judge/A-B/a-b` of method A in setting a and B in b:

    - `acc_jud_difference`: the accuracy of the first minus that of the second, over the
      `paired_cases` that both have a verdict on; `acc_gen_difference` likewise under a generator,
      where both have an accuracy;
    - `mcnemar_p`, `t_test_p`: see `PairedTests`; `mcnemar_p_corrected`, `t_test_p_corrected`: the
      same by Holm's procedure, over all comparisons under one judge on this benchmark.

    Args:
        benchmark: the benchmark's name in the keys.
        cases: all its cases; `bootstrap` was made from their clusters, in this order.
        scores: what `score` returned for them.
        groups: what `accuracy_by_group` returned for the verdicts.
        differences: the pairs to compare.
        bootstrap: gives the intervals.
    """
    position = {case.case_id: index for index, case in enumerate(cases)}
    described: dict[MethodSetting, list[DescriptionRow]] = {}
    for row in scores.descriptions:
        described.setdefault(row.name, []).append(row)
    of_descriptions = {
        name: _description_estimates(cases, position, rows, bootstrap)
        for name, rows in described.items()
    }
    judged: dict[Place, list[VerdictRow]] = {}
    for verdict in scores.verdicts:
        judged.setdefault(verdict.place, []).append(verdict)
    summary: Summary = {f"cases_without_directions/{benchmark}": groups.without_directions}
    for place, verdicts in judged.items():
        name = MethodSetting(place.method, place.setting)
        if place.metric == "acc_jud":
            reasonings = judged.get(place._replace(metric="reasoning"), [])
            estimates = _judge_estimates(position, verdicts, reasonings, bootstrap)
            estimates |= of_descriptions.get(name, {})
            counts = _counts(verdicts, described.get(name, []))
        elif place.metric == "acc_gen":
            estimates = {"acc_gen": bootstrap.mean(aligned(position, verdicts, _correct))}
            counts = {"generator_failures": sum(row.correct is None for row in verdicts)}
        else:
            continue
        for metric, estimate in estimates.items():
            _add(summary, metric, (benchmark, place.judge, *name), estimate)
        for metric, count in counts.items():
            summary["/".join((metric, benchmark, place.judge, *name))] = count
    for gap in groups.gaps:
        at = (benchmark, gap.judge, gap.method, gap.setting)
        _add(summary, f"{gap.metric}_group_gap", at, Estimate(gap.gap, gap.low, gap.high))
    correct = {place: aligned(position, rows, _correct) for place, rows in judged.items()}
    for judge in dict.fromkeys(place.judge for place in judged if place.metric == "acc_jud"):
        summary |= _judge_comparisons(benchmark, judge, correct, differences, bootstrap)
    for generator in dict.fromkeys(place.judge for place in judged if place.metric == "acc_gen"):
        summary |= _generator_comparisons(benchmark, generator, correct, differences, bootstrap)
    return summary


def _judge_comparisons(
    benchmark: str,
    judge: str,
    correct: Mapping[Place, Values],
    differences: Sequence[Comparison],
    bootstrap: ClusteredBootstrap,
) -> Summary:
    """The paired differences under one judge, and their p-values corrected for their number."""
    nowhere: Values = [None] * len(next(iter(correct.values())))
    sides = [
        tuple(correct.get(Place(benchmark, "acc_jud", judge, *name), nowhere) for name in pair)
        for pair in differences
    ]
    tests = [paired_tests(*side) for side in sides]
    p_values = {
        "mcnemar_p": [own.mcnemar_p for own in tests],
        "t_test_p": [own.t_test_p for own in tests],
    }
    p_values |= {f"{name}_corrected": holm(own) for name, own in p_values.items()}
    summary: Summary = {}
    for number, (pair, side, own) in enumerate(zip(differences, sides, tests, strict=True)):
        at = (benchmark, judge, *_names(pair))
        _add(summary, "acc_jud_difference", at, bootstrap.difference(*side))
        summary["/".join(("paired_cases", *at))] = own.cases
        for metric, values in p_values.items():
            summary["/".join((metric, *at))] = values[number]
    return summary


def _generator_comparisons(
    benchmark: str,
    generator: str,
    correct: Mapping[Place, Values],
    differences: Sequence[Comparison],
    bootstrap: ClusteredBootstrap,
) -> Summary:
    """The paired differences under one generator, of the pairs that it was asked about."""
    summary: Summary = {}
    for pair in differences:
        first, second = (Place(benchmark, "acc_gen", generator, *name) for name in pair)
        if first in correct and second in correct:
            estimate = bootstrap.difference(correct[first], correct[second])
            _add(summary, "acc_gen_difference", (benchmark, generator, *_names(pair)), estimate)
    return summary


def _names(pair: Comparison) -> tuple[str, str]:
    first, second = pair
    return f"{first.method}-{second.method}", f"{first.setting}-{second.setting}"


def _correct(row: VerdictRow) -> float | None:
    return row.correct


def _add(summary: Summary, metric: str, at: Sequence[str], estimate: Estimate) -> None:
    key = "/".join((metric, *at))
    summary[key] = estimate.value
    summary[f"{key}/low"] = estimate.low
    summary[f"{key}/high"] = estimate.high


def _counts(
    verdicts: Sequence[VerdictRow], descriptions: Sequence[DescriptionRow]
) -> dict[str, int]:
    counts = {
        "cases": len(verdicts),
        "judge_failures": sum(row.correct is None for row in verdicts),
        "ties": sum(row.p_correct == 0.5 for row in verdicts),
    }
    if any(row.said.completion is not None for row in descriptions):
        counts["dropped_signals"] = sum(row.said.dropped_signals for row in descriptions)
        counts["shortened_texts"] = sum(row.said.shortened_texts for row in descriptions)
    return counts


def _judge_estimates(
    position: Mapping[str, int],
    verdicts: Sequence[VerdictRow],
    of_reasonings: Sequence[VerdictRow],
    bootstrap: ClusteredBootstrap,
) -> dict[str, Estimate]:
    """What one judge makes of one method."""
    estimates = {"acc_jud": bootstrap.mean(aligned(position, verdicts, _correct))}
    gaps = aligned(position, verdicts, lambda row: row.position_gap)
    if any(gap is not None for gap in gaps):
        estimates["position_gap"] = bootstrap.mean(gaps)
    if of_reasonings:
        described = aligned(position, verdicts, lambda row: row.p_correct)
        reasoned = aligned(position, of_reasonings, lambda row: row.p_correct)
        agreement = [_agrees(*both) for both in zip(described, reasoned, strict=True)]
        estimates["reasoning_agreement"] = bootstrap.mean(agreement)
    return estimates


def _agrees(described: float | None, reasoned: float | None) -> float | None:
    """Whether two probabilities name the same reply; `None` for no answer and for a tie."""
    if described is None or reasoned is None or 0.5 in (described, reasoned):
        return None
    return float((described > 0.5) == (reasoned > 0.5))


def _description_estimates(
    cases: Sequence[PreferenceCase],
    position: Mapping[str, int],
    rows: Sequence[DescriptionRow],
    bootstrap: ClusteredBootstrap,
) -> dict[str, Estimate]:
    """What the descriptions of one method are like, whoever judges them."""
    parts: dict[str, Callable[[DescriptionRow], float | None]] = {
        "ended": lambda row: row.said.ended,
        "completion_tokens": lambda row: row.said.completion_tokens,
        "description_tokens": lambda row: row.description_tokens,
        "prompt_tokens": lambda row: row.said.prompt_tokens,
        "seconds": lambda row: row.said.seconds,
    }
    if any(row.said.completion is not None for row in rows):
        parts["well_formed"] = lambda row: float(row.said.format_problem is None)
    values = {name: aligned(position, rows, value) for name, value in parts.items()}
    estimates = {
        name: bootstrap.mean(own) for name, own in values.items() if any(v is not None for v in own)
    }
    tried = [row.said for row in rows if tries_to_describe(row.said)]
    statements = count_statements(cases, tried)
    return estimates | _statement_estimates(position, statements, bootstrap)


def _statement_estimates(
    position: Mapping[str, int], rows: Sequence[StatementCounts], bootstrap: ClusteredBootstrap
) -> dict[str, Estimate]:
    def ratio(
        above: Callable[[StatementCounts], float], below: Callable[[StatementCounts], float]
    ) -> Estimate:
        numerators = aligned(position, rows, above)
        denominators = aligned(position, rows, below)
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
