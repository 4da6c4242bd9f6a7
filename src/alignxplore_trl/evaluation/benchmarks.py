"""Benchmarks by name: whose cases are scored, and what was done to them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignxplore_trl.baselines.protocol import Reading, Setting
from alignxplore_trl.cases import Case, read_cases
from alignxplore_trl.data.robustness import FORMS, check_variation, opposites_of, vary
from alignxplore_trl.data.splits import with_signals
from alignxplore_trl.run.errors import UserError

ANY = "any"


@dataclass(frozen=True)
class Benchmark:
    """Cases, and how they are varied before a method reads them.

    Attributes:
        name: in results: `<data>[_<set>][_<variation>]`, such as `world_drift3`, `alignx_posts` (of
            test_posts.jsonl) or `psoups_reversed`.
        whole: the cases as they were prepared.
        variation: a name of `data.robustness`, or none.
        seed: of what is drawn for it.
    """

    name: str
    whole: Sequence[Case]
    variation: str
    seed: int

    @property
    def scored(self) -> Sequence[Case]:
        """The cases with the target and the truth that are scored: only `reversed` changes them."""
        return self._varied(self.whole) if self.variation == "reversed" else self.whole

    def cases(self, reading: Reading, setting: Setting) -> Sequence[Case]:
        """The cases with enough signals, cut to those that are read, and varied.

        What a variation does depends on how many signals are read: with one reversed pair there is
        one among the four of base4, and one among the eight of base8. Where it takes more signals
        than are read there are no cases.
        """
        if reading == "nothing":
            return self.scored
        count = setting.signals
        if self.variation.startswith("drift") and int(self.variation[len("drift") :]) > count:
            return []
        enough = [case for case in self.whole if len(case.signals) >= count]
        return self._varied([with_signals(case, range(count)) for case in enough])

    def _varied(self, cases: Sequence[Case]) -> Sequence[Case]:
        if not self.variation:
            return cases
        opposites = opposites_of(self.whole)
        return [vary(case, self.variation, self.seed, opposites).case for case in cases]


def read_benchmarks(
    names: Sequence[str], folders: Mapping[str, Path], limit: int | None, seed: int
) -> list[Benchmark]:
    """Read test cases of prepared data.

    Args:
        names: of benchmarks; none: the test cases of the first folder.
        folders: of the stages that prepared data, by the data's name; this run's own first.
        limit: cases of each benchmark. They are taken in an order of hashes: the first ones of a
            file may be of one kind, and a larger limit takes the same ones and others.
        seed: of what variations draw.

    Raises:
        UserError: a name can't be read, or there are no such cases.
    """
    return [_read(name, folders, limit, seed) for name in names or list(folders)[:1]]


def read_settings(names: Sequence[str], benchmarks: Sequence[Benchmark]) -> list[Setting]:
    """The settings by name.

    Raises:
        UserError: a name can't be read, or no case has as many signals as any of them reads.
    """
    settings = [Setting.from_name(name) for name in names]
    most = max(len(case.signals) for benchmark in benchmarks for case in benchmark.whole)
    if settings and all(setting.signals > most for setting in settings):
        raise UserError(
            f"evaluation.settings: {', '.join(names)} found, but the cases have at most {most} "
            f"signals; give for example evaluation.settings=[base{most}]"
        )
    return settings


def _read(name: str, folders: Mapping[str, Path], limit: int | None, seed: int) -> Benchmark:
    own = [each for each in folders if name == each or name.startswith(f"{each}_")]
    if not own:
        raise UserError(
            f"evaluation.benchmarks: {name} found, expected a name that begins with one of the data "
            f"there are, {', '.join(folders)}; evaluation.prepared.<name>=outputs/<run>/data adds "
            "others"
        )
    source = max(own, key=len)
    rest = name[len(source) :]
    others = {
        f"_{path.stem.removeprefix('test_')}": path for path in folders[source].glob("test_*.jsonl")
    }
    among = [each for each in others if rest == each or rest.startswith(f"{each}_")]
    path = others[among[0]] if among else folders[source] / "test.jsonl"
    variation = rest[len(among[0]) if among else 0 :].removeprefix("_")
    try:
        if variation:
            check_variation(variation)
    except UserError as error:
        known = ", ".join([source, *(source + each for each in others)])
        raise UserError(
            f"evaluation.benchmarks: {name} found, expected {known}, or one of them with an "
            f"underscore and one of {FORMS}"
        ) from error
    cases = read_cases(path) if path.is_file() else []
    if not cases:
        raise UserError(
            f"evaluation.benchmarks: {name} found, but there are no cases in {path}; the "
            "summary.json beside it says what was left out, and why"
        )
    ranked = sorted(cases, key=lambda case: hashlib.sha256(case.case_id.encode()).digest())
    return Benchmark(name, ranked[:limit], variation, seed)
