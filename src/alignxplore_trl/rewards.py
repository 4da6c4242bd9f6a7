"""Rewards of completions by TRL's contract: dataset columns in, a number or `None` each out.

A run has one reward callable: beside a second one, TRL would count a missing judgement as 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from datasets import Dataset
from torch import distributed

from alignxplore_trl.judging.protocol import Generator, Judge, JudgedPair, Order, preferences
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.completions import FormatProblem, Inference, parse_completion
from alignxplore_trl.text.prompts import Prompts

T = TypeVar("T")
Columns = Mapping[str, Sequence[Any]]
Outcome = Inference | FormatProblem
# Answers that can't be used. The model is there: asking again would bring the same.
_UNUSABLE = ("label_mass", "unreadable", "too_long", "empty")
WITHOUT_DESCRIPTION = ("chosen_without_description", "rejected_without_description")


class DescriptionReward(ABC):
    """A score of the description, times R_format: 0 for a malformed completion.

    It is `None` where the model asked gave no answer, and TRL leaves the row out of its group.

    Args:
        asked: the judge or the generator.
        outage_share, outage_least: the run ends where more than this share of a batch's well-formed
            completions, of all processes, and at least so many had no answer. Answers that can't be
            used don't count.

    Raises:
        UserError: an outage, on all processes. An error of one is raised on all, too.
    """

    __name__: str
    # The name of the number that the reward is made of.
    measured: str

    def __init__(self, asked: Any, outage_share: float, outage_least: int) -> None:
        self.asked = asked
        self.outage_share, self.outage_least = outage_share, outage_least

    @abstractmethod
    def measure(self, pairs: Mapping[int, JudgedPair], columns: Columns) -> list[float | None]:
        """What the reward is made of, for each pair, by its row; `None` without an answer."""

    @abstractmethod
    def score(self, number: float) -> float:
        """The reward for what was measured."""

    def load(self) -> None:
        """Bring the weights into memory, where the model asked has any here."""
        if hasattr(self.asked, "load"):
            self.asked.load()

    def __call__(
        self,
        *,
        completions: Sequence[str],
        case_id: Sequence[str],
        post: Sequence[str],
        chosen: Sequence[str],
        rejected: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score completions; the other arguments are the dataset's columns, one entry each."""
        outcomes = [parse_completion(completion) for completion in completions]
        rows = zip(outcomes, case_id, post, chosen, rejected, strict=True)
        pairs = {
            row: JudgedPair(case, text, outcome.description, winner, loser)
            for row, (outcome, case, text, winner, loser) in enumerate(rows)
            if isinstance(outcome, Inference)
        }
        answers = dict(zip(pairs, self._ask(pairs, columns), strict=True))
        numbers = [answers.get(row) for row in range(len(outcomes))]
        if log_metric is not None:
            for name, value in self._metrics(outcomes, [*answers.values()]).items():
                log_metric(name, value)
        if log_extra is not None:
            log_extra(self.measured, numbers)
            log_extra("format", [_format_of(outcome) for outcome in outcomes])
        return [
            0.0
            if isinstance(outcome, FormatProblem)
            else None
            if number is None
            else self.score(number)
            for outcome, number in zip(outcomes, numbers, strict=True)
        ]

    def _ask(self, pairs: Mapping[int, JudgedPair], columns: Columns) -> list[float | None]:
        """Measure, and end on all processes together where one of them failed, or most got none."""
        before = Counter(getattr(self.asked, "counts", {}))
        numbers: list[float | None] = []
        failure: Exception | None = None
        try:
            numbers = self.measure(pairs, columns)
        except Exception as error:  # The other processes wait for this one: they are told first.
            failure = error
        reasons = Counter(getattr(self.asked, "counts", {})) - before
        everywhere = gathered(
            (repr(failure) if failure else "", len(pairs), numbers.count(None), reasons)
        )
        if failure is not None:
            raise failure
        for process, (failed, *_) in enumerate(everywhere):
            if failed:
                raise UserError(f"process {process} failed while it asked for rewards: {failed}")
        asked, missing = (sum(own[1] for own in everywhere), sum(own[2] for own in everywhere))
        reasons = sum((own[3] for own in everywhere), Counter())
        unanswered = max(0, missing - sum(reasons[reason] for reason in _UNUSABLE))
        said = f"of {asked} well-formed completions were not scored: {dict(reasons)}"
        if unanswered > self.outage_share * asked and unanswered >= self.outage_least:
            raise UserError(
                f"{missing} {said}; make sure that the model asked is there, and give the same "
                "command again: it goes on from the last checkpoint"
            )
        if missing > asked / 2:
            say(f"{missing} {said}")
        return numbers

    def _metrics(
        self, outcomes: Sequence[Outcome], numbers: Sequence[float | None]
    ) -> dict[str, float]:
        """Means of this process; a mean of nothing is left out, for TRL averages over processes."""
        formats = Counter(map(_format_of, outcomes))
        names = ("well_formed", *FormatProblem)
        metrics = {f"format/{name}": formats[name] / len(outcomes) for name in names}
        words = [len(each.description.split()) for each in outcomes if isinstance(each, Inference)]
        answered = [number for number in numbers if number is not None]
        means: dict[str, Sequence[float]] = {
            "description/words": words,
            "reward/not_scored": [float(number is None) for number in numbers],
            f"reward/{self.measured}": answered,
        }
        return metrics | {k: sum(values) / len(values) for k, values in means.items() if values}


class JudgedReward(DescriptionReward):
    """R_jud: does a judge, given the description, prefer the reply that the user preferred?

    With P = P_jud(y_w | x, d): `win` is 1[P > 1 - P] (a tie is no win), `probability` is P, as in
    AlignXplore+.

    Args:
        judge: the judging model.
        order: of the replies: `random`, one for each case by the seed, or `both`, averaged.
        seed: of the random order.
        score: what the reward is.
        outage_share, outage_least: as for `DescriptionReward`.
    """

    __name__ = "judged"
    measured = "probability_of_chosen"

    def __init__(
        self,
        judge: Judge,
        order: Order,
        seed: int,
        score: Literal["win", "probability"] = "win",
        outage_share: float = 0.2,
        outage_least: int = 8,
    ) -> None:
        super().__init__(judge, outage_share, outage_least)
        self.judge, self.order, self.seed = judge, order, seed
        self.is_win = score == "win"

    def measure(self, pairs: Mapping[int, JudgedPair], columns: Columns) -> list[float | None]:
        return preferences(self.judge, [*pairs.values()], self.order, self.seed)

    def score(self, number: float) -> float:
        return float(number > 0.5) if self.is_win else number


class LogProbabilityReward(DescriptionReward):
    """1[log p(y_w|x,d) > log p(y_l|x,d)]: is the preferred reply the more probable one?

    Args:
        generator: the frozen model.
        prompts: a prompt folder; its reply template is used.
        outage_share, outage_least: as for `DescriptionReward`.
    """

    __name__ = "log_probability"
    measured = "difference_of_log_probabilities"

    def __init__(
        self,
        generator: Generator,
        prompts: str,
        outage_share: float = 0.2,
        outage_least: int = 8,
    ) -> None:
        super().__init__(generator, outage_share, outage_least)
        self.generator, self.prompts = generator, Prompts(prompts)

    def measure(self, pairs: Mapping[int, JudgedPair], columns: Columns) -> list[float | None]:
        return [_minus(*own) for own in self.log_probabilities([*pairs.values()])]

    def score(self, number: float) -> float:
        return float(number > 0)

    def log_probabilities(
        self, pairs: Sequence[JudgedPair]
    ) -> list[tuple[float | None, float | None]]:
        """log p of the chosen and of the rejected reply of each pair, in nats."""
        prompts = [
            self.prompts.render("reply", post=pair.post, description=pair.description)
            for pair in pairs
            for _ in range(2)
        ]
        replies = [reply for pair in pairs for reply in (pair.chosen, pair.rejected)]
        found = self.generator.log_probabilities(prompts, replies)
        return list(zip(found[::2], found[1::2], strict=True))


class GeneratedReward(LogProbabilityReward):
    """R_gen: 1[log p(y_w|x,d) - log p(y_w|x) > log p(y_l|x,d) - log p(y_l|x)].

    The terms without d, which no rollout changes, are columns that `prepare` adds; without these
    columns they are asked for. The arguments are those of `LogProbabilityReward`.
    """

    __name__ = "generated"
    measured = "difference_of_gains"

    def prepare(self, rows: Dataset) -> Dataset:
        """Add the log-probabilities without a description; each process computes its share."""
        keys = list(zip(*(rows[name] for name in ("post", "chosen", "rejected")), strict=True))
        distinct = list(dict.fromkeys(keys))
        parallel = distributed.is_initialized()
        process, processes = (
            (distributed.get_rank(), distributed.get_world_size()) if parallel else (0, 1)
        )
        own = distinct[process::processes]
        found = self._without_description([JudgedPair("", p, None, w, r) for p, w, r in own])
        known = {
            k: v for each in gathered(dict(zip(own, found, strict=True))) for k, v in each.items()
        }
        for place, name in enumerate(WITHOUT_DESCRIPTION):
            rows = rows.add_column(name, [known[key][place] for key in keys])
        return rows

    def measure(self, pairs: Mapping[int, JudgedPair], columns: Columns) -> list[float | None]:
        if all(name in columns for name in WITHOUT_DESCRIPTION):
            chosen, rejected = (
                [columns[name][row] for row in pairs] for name in WITHOUT_DESCRIPTION
            )
            without = list(zip(chosen, rejected, strict=True))
        else:
            without = self._without_description([*pairs.values()])
        given = self.log_probabilities([*pairs.values()])
        return [
            _minus(_minus(own[0], base[0]), _minus(own[1], base[1]))
            for own, base in zip(given, without, strict=True)
        ]

    def _without_description(
        self, pairs: Sequence[JudgedPair]
    ) -> list[tuple[float | None, float | None]]:
        return self.log_probabilities([replace(pair, description=None) for pair in pairs])


def gathered(own: T) -> list[T]:
    """What each process has, in their order, on all of them."""
    if not distributed.is_initialized():
        return [own]
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, own)
    return found


def _minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _format_of(outcome: Outcome) -> str:
    return outcome.value if isinstance(outcome, FormatProblem) else "well_formed"
