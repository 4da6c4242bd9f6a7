"""Benchmarks by name: whose cases are scored, and what was done to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from alignxplore_trl.data.robustness import FORMS, read_variation
from alignxplore_trl.evaluation.histories import Histories, histories_of
from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import PreferenceCase

Cases = Literal["pairs", "posts"]


@dataclass(frozen=True)
class BenchmarkName:
    """A name such as `world`, `alignx_posts` or `psoups_drift3`, in its parts.

    Attributes:
        source: the data, by their name.
        cases: users whose history is comparisons (or what the data have), or posts alone.
        variation: a robustness set; `None`: the cases as they are.
    """

    source: str
    cases: Cases = "pairs"
    variation: str | None = None

    @classmethod
    def read(cls, name: str, sources: Collection[str]) -> BenchmarkName:
        """Take a name apart: `<source>[_posts][_<variation>]`.

        Raises:
            UserError: no source of this name, or no such variation.
        """
        source = next((each for each in sources if name == each or name.startswith(f"{each}_")), "")
        if not source:
            raise UserError(
                f"evaluation.benchmarks: {name} found, expected a name that begins with one of the "
                f"data there are, {', '.join(sources)}; evaluation.prepared adds others"
            )
        rest = name.removeprefix(source).removeprefix("_")
        cases: Cases = "posts" if rest == "posts" or rest.startswith("posts_") else "pairs"
        variation = rest.removeprefix("posts").removeprefix("_") if cases == "posts" else rest
        if variation:
            try:
                read_variation(variation)
            except UserError as error:
                raise UserError(
                    f"evaluation.benchmarks: {name} found, expected {source}, {source}_posts or "
                    f"one of them with an underscore and one of {FORMS}"
                ) from error
        return cls(source, cases, variation or None)

    def __str__(self) -> str:
        parts = [self.source, "posts" if self.cases == "posts" else None, self.variation]
        return "_".join(part for part in parts if part)


@dataclass(frozen=True)
class Benchmark:
    """The cases that are scored, and the histories that each setting reads.

    Attributes:
        name: in results.
        histories: of each setting; `histories.cases` are all cases with their targets.
    """

    name: str
    histories: Histories

    @property
    def cases(self) -> Sequence[PreferenceCase]:
        """All cases, with the target pairs that are scored."""
        return self.histories.cases


def make_benchmark(
    name: BenchmarkName,
    cases: Sequence[PreferenceCase],
    settings: Sequence[Setting],
    seed: int,
    opposites: Mapping[str, str],
) -> Benchmark:
    """The cases of a benchmark, varied as its name says; a setting too long for it reads none.

    Raises:
        UserError: a case can't be varied so.
    """
    return Benchmark(str(name), histories_of(cases, settings, name.variation, seed, opposites))
