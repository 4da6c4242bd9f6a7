"""Benchmarks by name: whose cases are scored, and what was done to them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignxplore_trl.baselines.protocol import Reading, Setting
from alignxplore_trl.cases import Case, read_cases, write_lines
from alignxplore_trl.data.robustness import check_variation, opposites_of, vary
from alignxplore_trl.data.splits import with_signals
from alignxplore_trl.run.errors import UserError

# The setting of methods that read no history, and the judge of figures that none has to do with.
ANY = "any"


@dataclass(frozen=True)
class Benchmark:
    """Cases as they were prepared (`whole`), and how they are varied before a method reads them.

    `variation` is a name of `data.robustness`, or empty; what is drawn for it is so by the seed.
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
        count = setting.per_round * setting.rounds
        if self.variation.startswith("drift") and int(self.variation[len("drift") :]) > count:
            return []
        enough = [case for case in self.whole if len(case.signals) >= count]
        return self._varied([with_signals(case, range(count)) for case in enough])

    def keep(self, folder: Path) -> None:
        """Add the cases, as they are scored, to `<name>.jsonl`."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.jsonl"
        kept = read_cases(path) if path.is_file() else []
        write_lines(path, {case.case_id: case for case in (*kept, *self.scored)}.values())

    def _varied(self, cases: Sequence[Case]) -> Sequence[Case]:
        if not self.variation:
            return cases
        opposites = opposites_of(self.whole)
        return [vary(case, self.variation, self.seed, opposites) for case in cases]


def read_benchmark(
    name: str, folders: Mapping[str, Path], limit: int | None, seed: int
) -> Benchmark:
    """Read a benchmark by name, `<data>[_validation][_<variation>]`, with at most `limit` cases.

    Cases are taken in an order of hashes: the first ones of a file may be of one kind, and a larger
    limit takes the same ones and others. `folders` are those of prepared data, by the data's name.
    """
    files = {data: folder / "test.jsonl" for data, folder in folders.items()}
    # Those on whom values are chosen.
    files |= {f"{data}_validation": folder / "validation.jsonl" for data, folder in folders.items()}
    begun = [each for each in files if f"{name}_".startswith(f"{each}_")]
    source = max(begun, key=len, default="")
    variation = name[len(source) :].removeprefix("_")
    try:
        if variation or not source:
            check_variation(variation)
    except UserError as error:
        raise UserError(
            f"evaluation.benchmarks: {name} found, expected {', '.join(files)}, or one of them and "
            f"_<variation> ({error}); evaluation.prepared.<name>=outputs/<run>/data adds other data"
        ) from error
    cases = read_cases(files[source]) if files[source].is_file() else []
    if not cases:
        raise UserError(
            f"evaluation.benchmarks: {name} found, but there are no cases in {files[source]}; the "
            "summary.json beside it says what was left out, and why"
        )
    cases.sort(key=lambda case: hashlib.sha256(case.case_id.encode()).digest())
    return Benchmark(name, cases[:limit], variation, seed)


def read_settings(names: Sequence[str], benchmarks: Sequence[Benchmark]) -> list[Setting]:
    """The settings by name; a UserError where no case has as many signals as any of them reads."""
    settings = [Setting.from_name(name) for name in names]
    most = max(len(case.signals) for benchmark in benchmarks for case in benchmark.whole)
    if all(own.per_round * own.rounds > most for own in settings):
        raise UserError(
            f"evaluation.settings: {', '.join(names)} found, but the cases have at most {most} "
            f"signals; give for example evaluation.settings=[base{most}]"
        )
    return settings
