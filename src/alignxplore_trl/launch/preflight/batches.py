"""How many completions make a step, and how long the texts are that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alignxplore_trl.data.release import published_rounds
from alignxplore_trl.data.sources import read_split
from alignxplore_trl.launch.checks import check_rows, generation_batch_size
from alignxplore_trl.launch.config import ColdStartConfig, ReleaseData, RLConfig
from alignxplore_trl.launch.entry import upstream_folder
from alignxplore_trl.launch.preflight.check import Check, TrainingConfig, failed, passed, skipped
from alignxplore_trl.run.folder import is_finished
from alignxplore_trl.signals import rounds_of_signals
from alignxplore_trl.text.budget import PromptTooLongError, fit_prompt
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.labels import label_tokens

_BINS = 6
# Of the prompts above the budget, how many are tried to be shortened.
_TRIED = 20


@dataclass(frozen=True)
class Lengths:
    """Tokens of the texts that were measured, and how many rows there are of which they are some.

    Attributes:
        measured: of each text, as it is before anything is shortened.
        rows: that training reads, at the most.
    """

    measured: list[int]
    rows: int

    @property
    def longest(self) -> int:
        """Tokens of the longest text that was measured."""
        return max(self.measured)


def check_batch(config: TrainingConfig, rows: int | None) -> list[Check]:
    """The arithmetic of a step. What can't be was refused with the configuration.

    Args:
        config: of a training.
        rows: that there are to train on, `None` where they aren't prepared yet.
    """
    trainer, processes = config.trainer, config.launch.num_processes
    per_pass = trainer["per_device_train_batch_size"]
    accumulated = trainer["gradient_accumulation_steps"]
    if isinstance(config, ColdStartConfig):
        line = f"{per_pass} x {accumulated} x {processes} = {per_pass * accumulated * processes} "
        return [passed("batch", f"{line}examples a step")]
    if rows is not None and (problems := check_rows(config, rows)):
        return [failed("batch", problem, "") for problem in problems]
    batch, group = generation_batch_size(config), trainer["num_generations"]
    passes = batch // (per_pass * processes)
    prompts = batch // group
    updates = passes * trainer["num_iterations"] // accumulated
    line = (
        f"{per_pass} x {passes} x {processes} = {batch} completions = {prompts} prompts x {group} "
        f"rollouts at once"
    )
    line += f", {updates} update(s) of each" if updates else f", {accumulated // passes} an update"
    if rows is not None:
        epoch = rows // prompts
        line += f"; {rows} rows are {epoch} such batches in an epoch"
    return [passed("batch", f"{line}; a checkpoint every {trainer['save_steps']} updates")]


def measure_lengths(config: TrainingConfig, policy: str | Path) -> Lengths | None:
    """Measure the first texts that training reads; `None` where they aren't made yet.

    Args:
        config: of a training; `preflight.measured` texts are looked at.
        policy: the folder, or the cached name, of the model whose tokenizer counts.
    """
    upstream = upstream_folder(config, _source_of(config))
    if not is_finished(upstream):
        return None
    tokenizer = AutoTokenizer.from_pretrained(policy)
    if isinstance(config, ColdStartConfig):
        return _examples(config, upstream, tokenizer)
    return _prompts(config, upstream, tokenizer)


def check_lengths(
    config: TrainingConfig, lengths: Lengths | None, policy: str | Path, context: int | None
) -> list[Check]:
    """The texts fit the budget and the model's positions, but for a few.

    Args:
        config: of a training.
        lengths: what was measured, if there is something to measure.
        policy: as for `measure_lengths`.
        context: positions of the model; `None` where its config.json names none.
    """
    if lengths is None:
        target = {"prepare": "make data", "synthesize": "make synthesize"}[_source_of(config)]
        return [
            skipped("lengths", "there are no texts to measure yet", f"{target}, with the same "
                    "variables, makes them")
        ]  # fmt: skip
    if isinstance(config, RLConfig):
        key, limit = "prompts.max_prompt_tokens", config.prompts.max_prompt_tokens
        what, fate = "prompts", "shortened"
    else:
        key, limit = "trainer.max_length", int(config.trainer["max_length"])
        what, fate = "examples", "left out"
    over = sum(length > limit for length in lengths.measured)
    line = (
        f"{len(lengths.measured)} of {lengths.rows} {what} measured, tokens (how many have them): "
        f"{histogram(lengths.measured)}; {over} above {key} {limit} are {fate}"
    )
    if 2 * over > len(lengths.measured):
        remedy = f"raise {key}, or lower setting.signals"
        return [failed("lengths", f"{line}, more than half", remedy)]
    found = []
    if isinstance(config, RLConfig):
        if over and not isinstance(config.data, ReleaseData):
            found = _check_shortest(config, policy)
    elif context is not None and min(lengths.longest, limit) > context:
        found = [
            failed(
                "lengths",
                f"trainer.max_length: {limit} found, and examples of {lengths.longest} tokens, but "
                f"{config.model.backbone} has {context} positions",
                f"set trainer.max_length={context}, or choose a model with a longer context",
            )
        ]
    return found or [passed("lengths", line)]


def histogram(lengths: Sequence[int]) -> str:
    """Counts in bins of equal width: `12-19 (3), 20-27 (40), …`."""
    low, high = min(lengths), max(lengths)
    width = (high - low) // _BINS + 1
    counts = [0] * ((high - low) // width + 1)
    for length in lengths:
        counts[(length - low) // width] += 1
    bins = [
        f"{_span(low + number * width, min(high, low + (number + 1) * width - 1))} ({count})"
        for number, count in enumerate(counts)
    ]
    return ", ".join(bins)


def _span(first: int, last: int) -> str:
    return f"{first}-{last}" if first < last else str(first)


def _source_of(config: TrainingConfig) -> str:
    return "prepare" if isinstance(config, RLConfig) else "synthesize"


def _examples(
    config: ColdStartConfig, upstream: Path, tokenizer: PreTrainedTokenizerBase
) -> Lengths | None:
    file = {"verified": "examples.parquet", "unverified": "unverified.parquet"}[config.examples]
    if not (upstream / file).is_file():
        return None
    table = pq.read_table(upstream / file, columns=["prompt", "completion"])
    examples = table.slice(0, config.preflight.measured).to_pylist()
    lengths = [
        len(label_tokens(each["prompt"], each["completion"], tokenizer).input_ids)
        for each in examples
    ]
    return Lengths(lengths, table.num_rows) if lengths else None


def _prompts(
    config: RLConfig, prepared: Path, tokenizer: PreTrainedTokenizerBase
) -> Lengths | None:
    prompts, setting = PromptSet(config.prompts.folder), config.setting
    if isinstance(config.data, ReleaseData):
        published = published_rounds(prepared)
        rows = len(published)
        texts = [
            prompts.problem(row.with_description(None))
            for row in published[: config.preflight.measured]
        ]
    else:
        of_cases = [
            rounds_of_signals(case, setting.signals, setting.rounds)
            for case in read_split(prepared, "rl")
        ]
        rows = sum(map(len, of_cases))
        every = (signals for rounds in of_cases for signals in rounds)
        texts = [
            prompts.inference(signals, None) for signals in islice(every, config.preflight.measured)
        ]
    if not texts:
        return None
    return Lengths([len(ids) for ids in tokenizer(texts)["input_ids"]], rows)


def _check_shortest(config: RLConfig, policy: str | Path) -> list[Check]:
    """Prompts above the budget can be made short enough by dropping signals and cutting texts."""
    tokenizer = AutoTokenizer.from_pretrained(policy)
    prompts, budget = PromptSet(config.prompts.folder), config.prompts.max_prompt_tokens

    def count_tokens(text: str) -> int:
        return len(tokenizer(text).input_ids)

    tried = 0
    for case in read_split(upstream_folder(config, "prepare"), "rl"):
        for signals in rounds_of_signals(case, config.setting.signals, config.setting.rounds):
            if count_tokens(prompts.inference(signals, None)) <= budget:
                continue
            try:
                fit_prompt(prompts.inference, signals, None, count_tokens, budget)
            except PromptTooLongError as error:
                return [
                    failed(
                        "lengths",
                        f"prompts.max_prompt_tokens: the prompt of case {case.case_id} can't be "
                        f"made short enough: {error}",
                        "raise it",
                    )
                ]
            tried += 1
            if tried == _TRIED:
                return []
    return []
