"""Policies as compared methods, and the driver that asks one method after another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from alignxplore_trl.baselines.protocol import Asked, Method, Reading, Said, Setting
from alignxplore_trl.cases import Case
from alignxplore_trl.evaluation.benchmarks import ANY, Benchmark
from alignxplore_trl.evaluation.kept import Table, records
from alignxplore_trl.inference.writers import Writer
from alignxplore_trl.judging.weights import load_tokenizer
from alignxplore_trl.run.progress import say
from alignxplore_trl.text.budget import PromptBudget
from alignxplore_trl.text.completions import FormatProblem, parse_completion, parse_description
from alignxplore_trl.text.prompts import Prompts

# What is written again, at most, after a kill.
_CASES_AT_ONCE = 1000


@dataclass(eq=False)
class Policy(Method):
    """A language model that reads signals, in rounds, and writes descriptions.

    Round k reads its own signals and the last well-formed description, so that a malformed update
    doesn't erase what was known. A case to which the model gave no answer in some round is left out
    for now: that a server didn't answer says nothing of the user, nor of the model.

    Attributes:
        writer: the model; with `model`, what makes a writer of it (`_partial_`).
        tokenizer: folder or name of the model whose tokens are counted, where there is no `model`.
        template: `inference`, as policies are trained, or `concise`, without reasoning.
    """

    reading = "in_rounds"

    writer: Any
    prompts: str
    max_tokens: int
    model: str | None = None
    tokenizer: str | None = None
    made_by: str | None = None
    template: Literal["inference", "concise"] = "inference"
    seed: int = 0

    def __post_init__(self) -> None:
        self._writer: Writer = self.writer if self.model is None else self.writer(model=self.model)
        self._templates = Prompts(self.prompts)

    def describe(self, asked: Asked) -> list[Said]:
        self._writer.load()  # Not in the time of the first round.
        tokenizer = load_tokenizer(str(self.tokenizer or self.model))
        budget = PromptBudget(self._templates, tokenizer, self.max_tokens)
        read = parse_completion if self.template == "inference" else parse_description
        per_round, rounds = asked.setting.per_round, asked.setting.rounds
        earlier: dict[str, str | None] = {case.case_id: None for case in asked.cases}
        said = []
        for number in range(rounds):
            cases = [case for case in asked.cases if case.case_id in earlier]
            prompts = [
                budget.fit(
                    self.template, case.rounds(per_round, rounds)[number], earlier[case.case_id]
                )
                for case in cases
            ]
            began = time.perf_counter()
            answers = self._writer.write([own.text for own in prompts], 1, self.seed + number)
            seconds = (time.perf_counter() - began) / max(1, len(cases))
            for case, prompt, [written] in zip(cases, prompts, answers, strict=True):
                before = earlier.pop(case.case_id)
                if written is None:
                    continue
                found = read(written.text)
                own = Said(
                    case.case_id,
                    round=(number + 1) % rounds,
                    problem=found if isinstance(found, FormatProblem) else None,
                    description=getattr(found, "description", None),
                    reasoning=getattr(found, "reasoning", None),
                    earlier=before,
                    completion=written.text,
                    prompt_tokens=written.prompt_tokens,
                    completion_tokens=written.completion_tokens,
                    seconds=seconds,
                    dropped_signals=prompt.dropped_signals,
                    shortened_texts=prompt.shortened_texts,
                )
                said.append(own)
                earlier[case.case_id] = own.description or before
        return [own for own in said if own.case_id in earlier]

    def close(self) -> None:
        self._writer.close()


def descriptions_table(folder: Path) -> Table:
    """What methods said: one row per benchmark, method, setting (`…@k`: after round k) and case."""
    texts = ("description", "problem", "reasoning", "earlier", "completion")
    counts = ("prompt_tokens", "completion_tokens", "dropped_signals", "shortened_texts")
    columns = dict.fromkeys(texts, "string") | dict.fromkeys(counts, "Int64")
    columns |= {"decided": "bool", "probability": "Float64", "seconds": "Float64"}
    return Table(folder, "descriptions", **columns)


def describe_all(
    methods: Mapping[str, Method],
    benchmarks: Sequence[Benchmark],
    settings: Sequence[Setting],
    table: Table,
) -> dict[str, str]:
    """Ask each method about the cases that it has said nothing of; one is in memory at a time.

    Methods that are left out are returned, with the reason.
    """
    left_out: dict[str, str] = {}
    # Those that are given what another one said come last.
    for name, method in sorted(methods.items(), key=lambda own: own[1].of is not None):
        reason, of = method.missing(), method.of
        if of is not None and (of not in methods or of in left_out):
            reason = f"{of}, whose descriptions it needs, isn't evaluated"
        if reason is not None:
            left_out[name] = reason
            say(f"{name} is left out: {reason}")
            continue
        reading = methods[of].reading if of else method.reading
        for benchmark in benchmarks:
            for where, setting in _places(reading, settings).items():
                at = {"benchmark": benchmark.name, "method": name, "setting": where}
                cases = benchmark.cases(reading, setting)
                if fewer := len(benchmark.whole) - len(cases):
                    say(f"{name}, {where}: {fewer} cases of {benchmark.name} have too few signals")
                known = set(table.at(at).case_id)
                new = [case for case in cases if case.case_id not in known]
                if new:
                    say(f"{name}, {where}: {len(new)} cases of {benchmark.name}")
                for start in range(0, len(new), _CASES_AT_ONCE):
                    part = new[start : start + _CASES_AT_ONCE]
                    table.add(_describe(method, part, setting, at, table))
        method.close()
    return left_out


def _places(reading: Reading, settings: Sequence[Setting]) -> dict[str, Setting]:
    """The settings in which a method is tried, by name; one, whichever, if it reads no history."""
    if reading == "nothing":
        return {ANY: settings[0]}
    if reading == "at_once":
        settings = [Setting(own.per_round * own.rounds) for own in settings]
    return {own.name: own for own in settings}


def _describe(
    method: Method, cases: Sequence[Case], setting: Setting, at: Mapping[str, str], table: Table
) -> Iterator[dict[str, Any]]:
    units = {case.case_id: case.unit for case in cases}
    others = [
        Said(row["case_id"], description=row["description"], problem=row["problem"])
        for row in records(table.at({**at, "method": method.of or ""}))
        if row["case_id"] in units
    ]
    for own in method.describe(Asked(cases, setting, others)):
        where = at["setting"] + (f"@{own.round}" if own.round else "")
        yield {**asdict(own), **at, "setting": where, "unit": units[own.case_id]}
