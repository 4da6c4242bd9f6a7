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
Both = tuple[float | None, float | None]  # Of the chosen and the rejected reply.
# Answers that can't be used. The model is there: asking again would bring the same.
_UNUSABLE = ("label_mass", "unreadable", "too_long", "empty")
WITHOUT_DESCRIPTION = ("chosen_without_description", "rejected_without_description")


class DescriptionReward(ABC):
    """A score of the description, times R_format: 0 for a malformed completion.

    It is `None` where the model asked gave no answer, and TRL leaves the row out of its group. A
    UserError ends the run on all processes where more than `outage_share` of a batch's well-formed
    completions, and at least `outage_least` of them, got none, answers that can't be used not
    counted, or where one process failed.
    """

    __name__: str
    # The name of the number that the reward is made of.
    measured: str

    def __init__(self, asked: Any, outage_share: float, outage_least: int) -> None:
        self.asked, self.outage_share, self.outage_least = asked, outage_share, outage_least

    @abstractmethod
    def measure(self, pairs: Mapping[int, JudgedPair], columns: Columns) -> list[float | None]:
        """What the reward is made of, for each pair, by its row; `None` without an answer."""

    @abstractmethod
    def score(self, number: float) -> float:
        """The reward for what was measured."""

    def load(self) -> None:
        """Bring weights into memory, or try the servers."""
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
        formats = [
            own.value if isinstance(own, FormatProblem) else "well_formed" for own in outcomes
        ]
        if log_metric is not None:
            words = [len(pair.description.split()) for pair in pairs.values() if pair.description]
            for name, value in self._metrics(formats, [*answers.values()], words).items():
                log_metric(name, value)
        if log_extra is not None:
            log_extra(self.measured, [answers.get(row) for row in range(len(outcomes))])
            log_extra("format", formats)
        rewards = {row: None if own is None else self.score(own) for row, own in answers.items()}
        return [rewards.get(row, 0.0) for row in range(len(outcomes))]

    def _ask(self, pairs: Mapping[int, JudgedPair], columns: Columns) -> list[float | None]:
        """Measure, and end on all processes together where one failed, or most got no answer."""
        before = Counter(getattr(self.asked, "counts", {}))
        numbers: list[float | None] = []
        failure: Exception | None = None
        try:
            numbers = self.measure(pairs, columns)
        except Exception as error:  # The other processes wait for this one: they are told first.
            failure = error
        reasons = Counter(getattr(self.asked, "counts", {})) - before
        tally = Counter(asked=len(pairs), missing=numbers.count(None))
        everywhere = gathered((failure and repr(failure), tally, reasons))
        if failure is not None:
            raise failure
        if failed := {rank: each[0] for rank, each in enumerate(everywhere) if each[0]}:
            raise UserError(f"other processes failed while they asked for rewards: {failed}")
        tally = sum((each[1] for each in everywhere), Counter())
        reasons = sum((each[2] for each in everywhere), Counter())
        said = f"{tally['missing']} of {tally['asked']} well-formed completions were not scored: "
        said += str(dict(reasons))
        out = tally["missing"] - sum(reasons[reason] for reason in _UNUSABLE)
        if out > self.outage_share * tally["asked"] and out >= self.outage_least:
            raise UserError(
                f"{said}; see that the model asked is there, and give the same command again: "
                "it goes on from the last checkpoint"
            )
        if 2 * tally["missing"] > tally["asked"]:
            say(said)
        return numbers

    def _metrics(
        self, formats: Sequence[str], numbers: Sequence[float | None], words: Sequence[int]
    ) -> dict[str, float]:
        """Means of this process; a mean of nothing is left out, for TRL averages over processes."""
        lists: dict[str, Sequence[float]] = {
            f"format/{name}": [float(own == name) for own in formats]
            for name in ("well_formed", *FormatProblem)
        }
        lists["description/words"] = words
        lists["reward/not_scored"] = [float(number is None) for number in numbers]
        lists[f"reward/{self.measured}"] = [number for number in numbers if number is not None]
        return {name: sum(values) / len(values) for name, values in lists.items() if values}


class JudgedReward(DescriptionReward):
    """R_jud: does a judge, given the description, prefer the reply that the user preferred?

    With P = P_jud(y_w | x, d), the score `win` is 1[P > 1 - P] (a tie is no win), and `probability`
    is P, as in AlignXplore+. The order of the replies is `random`, one for each case by the seed,
    or `both`, averaged.
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
        self.order, self.seed, self.is_win = order, seed, score == "win"

    def measure(self, pairs: Mapping[int, JudgedPair], columns: Columns) -> list[float | None]:
        return preferences(self.asked, [*pairs.values()], self.order, self.seed)

    def score(self, number: float) -> float:
        return float(number > 0.5) if self.is_win else number


class LogProbabilityReward(DescriptionReward):
    """1[log p(y_w|x,d) > log p(y_l|x,d)], by the reply template of a prompt folder."""

    __name__ = "log_probability"
    measured = "difference_of_log_probabilities"

    def __init__(
        self, generator: Generator, prompts: str, outage_share: float = 0.2, outage_least: int = 8
    ) -> None:
        super().__init__(generator, outage_share, outage_least)
        self.prompts = Prompts(prompts)

    def measure(self, pairs: Mapping[int, JudgedPair], columns: Columns) -> list[float | None]:
        return [_minus(*own) for own in self._log_probabilities([*pairs.values()])]

    def score(self, number: float) -> float:
        return float(number > 0)

    def _log_probabilities(self, pairs: Sequence[JudgedPair]) -> list[Both]:
        prompts = [
            self.prompts.render("reply", post=own.post, description=own.description)
            for own in pairs
        ]
        found = self.asked.log_probabilities(
            [prompt for prompt in prompts for _ in range(2)],
            [reply for pair in pairs for reply in (pair.chosen, pair.rejected)],
        )
        return list(zip(found[::2], found[1::2], strict=True))


class GeneratedReward(LogProbabilityReward):
    """R_gen: 1[log p(y_w|x,d) - log p(y_w|x) > log p(y_l|x,d) - log p(y_l|x)].

    The terms without d, which no rollout changes, are columns that `prepare` adds; where they
    aren't there they are asked for.
    """

    __name__ = "generated"
    measured = "difference_of_gains"

    def prepare(self, rows: Dataset) -> Dataset:
        """Add the log-probabilities without a description; each process computes its share."""
        texts = list(zip(*(rows[name] for name in ("post", "chosen", "rejected")), strict=True))
        parallel = distributed.is_initialized()
        first, step = (distributed.get_rank(), distributed.get_world_size()) if parallel else (0, 1)
        own = list(dict.fromkeys(texts))[first::step]
        pairs = [JudgedPair("", post, None, *replies) for post, *replies in own]
        known: dict[Any, Both] = {}
        for part in gathered(list(zip(own, self._log_probabilities(pairs), strict=True))):
            known |= dict(part)
        for place, name in enumerate(WITHOUT_DESCRIPTION):
            rows = rows.add_column(name, [known[text][place] for text in texts])
        return rows

    def measure(self, pairs: Mapping[int, JudgedPair], columns: Columns) -> list[float | None]:
        if columns.keys() >= set(WITHOUT_DESCRIPTION):
            without = [tuple(columns[name][row] for name in WITHOUT_DESCRIPTION) for row in pairs]
        else:
            bare = [replace(pair, description=None) for pair in pairs.values()]
            without = self._log_probabilities(bare)
        gains = [
            [_minus(*terms) for terms in zip(*both, strict=True)]
            for both in zip(self._log_probabilities([*pairs.values()]), without, strict=True)
        ]
        return [_minus(chosen, rejected) for chosen, rejected in gains]


def gathered(own: T) -> list[T]:
    """What each process has, in their order, on all of them."""
    if not distributed.is_initialized():
        return [own]
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, own)
    return found


def _minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second
