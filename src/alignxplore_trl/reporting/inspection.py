"""Cases as a model reads them, for people: each round's prompt, and what is trained on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from alignxplore_trl.data.release import PublishedRound
from alignxplore_trl.reporting.pages import render_template, visible
from alignxplore_trl.signals import PreferenceCase, Signal, rounds_of_signals
from alignxplore_trl.text.budget import FittedPrompt, fit_prompt
from alignxplore_trl.text.parsing import Inference, format_completion, parse_completion
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.labels import IGNORED_LABEL, label_tokens

# Where a completion comes from: a kept example of synthesis; a published one; the true description
# in its place; or nowhere, because none of them is known, or because RL alone reads the prompt.
Origin = Literal["example", "published", "stand-in", "none", "policy"]
_ORIGINS: Mapping[Origin, str] = {
    "example": "a kept example of the synthesis",
    "published": "the published response",
    "stand-in": "there is no example: the true description stands in",
    "none": "there is no example, and the true description isn't known",
    "policy": "the policy writes it, in RL",
}
STAND_IN_REASONING = "…"


@dataclass(frozen=True)
class Example:
    """A verified candidate of one case and round.

    Attributes:
        prompt: as it was written into the examples.
        completion: as cold start trains on it.
        earlier: the description of the round before that stands in the prompt.
    """

    prompt: str
    completion: str
    earlier: str | None


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens that are all masked from the loss, or all trained on."""

    text: str
    tokens: int
    trained: bool

    @property
    def heading(self) -> str:
        said = "trained on: the completion starts here" if self.trained else "masked from the loss"
        return f"{said} ({self.tokens} tokens)"


@dataclass(frozen=True)
class InspectedRound:
    """One round of a case.

    Attributes:
        number: 1 is the first.
        kinds: how many signals of each kind the round has; empty where they aren't told apart,
            as in published prompts.
        fitted: the prompt within the budget, and what was left out.
        prompt_tokens: its length in tokens of the backbone.
        spans: what the model is given, cut where masking begins or ends.
        origin: where the completion comes from.
        reads_earlier: whether an earlier description stands in the prompt.
        differs: whether the example's prompt isn't the one that RL and inference would read, as
            when the teacher counts tokens otherwise.
    """

    number: int
    kinds: dict[str, int]
    fitted: FittedPrompt
    prompt_tokens: int
    spans: tuple[Span, ...]
    origin: Origin
    reads_earlier: bool
    differs: bool

    @property
    def facts(self) -> list[str]:
        """Counts in words."""
        trained = sum(span.tokens for span in self.spans if span.trained)
        masked = sum(span.tokens for span in self.spans if not span.trained)
        signals = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        signals = signals or "as they stand in the published text"
        facts = [
            f"signals: {signals}" + (", and an earlier description" if self.reads_earlier else ""),
            f"tokens: {masked} masked from the loss, {trained} trained on",
            f"completion: {_ORIGINS[self.origin]}",
        ]
        if self.fitted.dropped_signals:
            facts.append(
                f"left out by the budget: {self.fitted.dropped_signals} of "
                f"{sum(self.kinds.values())} signals"
            )
        if self.fitted.shortened_texts:
            facts.append(f"shortened by the budget: {self.fitted.shortened_texts} texts")
        if not (self.fitted.dropped_signals or self.fitted.shortened_texts):
            facts.append("nothing left out or shortened")
        if self.differs:
            facts.append(
                f"the example's prompt isn't the one that RL reads, which has {self.prompt_tokens} "
                "tokens: the teacher counts otherwise"
            )
        return facts


@dataclass(frozen=True)
class InspectedCase:
    """A case with its rounds.

    Attributes:
        name: of the case.
        rounds: those it has.
        missing_rounds: how many it has too few signals for.
        hidden_facts: what the judge sees, and the truth where it is known, by name; empty where a
            prompt is all there is.
    """

    name: str
    rounds: tuple[InspectedRound, ...]
    missing_rounds: int
    hidden_facts: tuple[tuple[str, str], ...]


def inspect_case(
    case: PreferenceCase,
    *,
    per_round: int,
    rounds: int,
    prompts: PromptSet,
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_tokens: int,
    examples: Mapping[tuple[str, int], Example],
) -> InspectedCase:
    """Render a case by the functions that training renders it by.

    Args:
        case: the case.
        per_round: signals of a round.
        rounds: rounds asked for.
        prompts: the templates.
        tokenizer: the backbone's.
        max_prompt_tokens: the budget of a prompt.
        examples: kept examples by case and round, as far as there are any.

    Raises:
        PromptTooLongError: a round's prompt can't be made short enough.
    """

    def count_tokens(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    found = []
    for number, signals in enumerate(rounds_of_signals(case, per_round, rounds), 1):
        example = examples.get((case.case_id, number))
        if example is not None:
            earlier = example.earlier
        else:
            earlier = case.description if number > 1 else None
        fitted = fit_prompt(prompts.inference, signals, earlier, count_tokens, max_prompt_tokens)
        prompt = fitted.text if example is None else example.prompt
        completion, origin = _completion(case, example)
        found.append(
            InspectedRound(
                number=number,
                kinds=_kinds(signals),
                fitted=fitted,
                prompt_tokens=count_tokens(fitted.text),
                spans=_spans(prompt, completion, tokenizer),
                origin=origin,
                reads_earlier=bool(earlier),
                differs=prompt != fitted.text,
            )
        )
    return InspectedCase(case.case_id, tuple(found), rounds - len(found), _hidden_facts(case))


def inspect_published_example(
    number: int, example: Mapping[str, str], tokenizer: PreTrainedTokenizerBase
) -> InspectedCase:
    """A published example of the cold start, whose prompt is one whole text.

    Args:
        number: of the example, from 1.
        example: `prompt` and `completion`.
        tokenizer: the backbone's.
    """
    fitted = FittedPrompt(example["prompt"], dropped_signals=0, shortened_texts=0)
    spans = _spans(example["prompt"], example["completion"], tokenizer)
    shown = _published_round(1, fitted, spans, "published")
    return InspectedCase(f"published example {number}", (shown,), 0, ())


def inspect_published_case(
    rows: Sequence[PublishedRound],
    fit: Callable[[PublishedRound, str | None], FittedPrompt],
    tokenizer: PreTrainedTokenizerBase,
) -> InspectedCase:
    """The rounds of a published RL row, without an earlier description, which RL alone knows.

    Args:
        rows: the rounds of one case.
        fit: a round and an earlier description -> its prompt.
        tokenizer: the backbone's.

    Raises:
        PromptTooLongError: a prompt is above the budget.
    """
    found = []
    for row in rows:
        fitted = fit(row, None)
        found.append(
            _published_round(row.round, fitted, _spans(fitted.text, None, tokenizer), "policy")
        )
    last = rows[-1]
    facts = (("post", last.post), ("chosen", last.chosen), ("rejected", last.rejected))
    return InspectedCase(last.case_id, tuple(found), 0, facts)


def read_examples(path: Path) -> dict[tuple[str, int], Example]:
    """The first kept example of each case and round, from a synthesis' `candidates.parquet`."""
    columns = ["case_id", "round", "prompt", "completion", "earlier"]
    examples: dict[tuple[str, int], Example] = {}
    for row in pq.read_table(path, columns=columns, filters=[("kept", "=", True)]).to_pylist():
        inference = parse_completion(row["completion"])
        assert isinstance(inference, Inference)
        example = Example(row["prompt"], format_completion(inference), row["earlier"])
        examples.setdefault((row["case_id"], row["round"]), example)
    return examples


def render_terminal(console: Console, cases: Sequence[InspectedCase]) -> None:
    """Print cases: what is masked from the loss dim, what is trained on bright."""
    for number, inspected in enumerate(cases, 1):
        for part in _terminal_case(inspected, number, len(cases)):
            # Lines are the terminal's to break: what is copied from it is the prompt.
            console.print(part, soft_wrap=True)


def render_page(cases: Sequence[InspectedCase], title: str) -> str:
    """The same as one HTML page that needs nothing else."""
    return render_template("inspection.html.jinja", cases=cases, title=title)


def _hidden_facts(case: PreferenceCase) -> tuple[tuple[str, str], ...]:
    target, description = case.target, case.description
    facts = (("post", target.post), ("chosen", target.chosen), ("rejected", target.rejected))
    return facts if description is None else (*facts, ("true description", description))


def _published_round(
    number: int, fitted: FittedPrompt, spans: tuple[Span, ...], origin: Origin
) -> InspectedRound:
    return InspectedRound(
        number=number,
        kinds={},
        fitted=fitted,
        prompt_tokens=sum(span.tokens for span in spans if not span.trained),
        spans=spans,
        origin=origin,
        reads_earlier=False,
        differs=False,
    )


def _completion(case: PreferenceCase, example: Example | None) -> tuple[str | None, Origin]:
    if example is not None:
        return example.completion, "example"
    if case.description is not None:
        return format_completion(Inference(STAND_IN_REASONING, case.description)), "stand-in"
    return None, "none"


def _kinds(signals: Sequence[Signal]) -> dict[str, int]:
    plural = {"comparison": "comparisons", "post": "posts", "attributes": "attributes"}
    return dict(Counter(plural[signal.kind] for signal in signals))


def _spans(
    prompt: str, completion: str | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[Span, ...]:
    tokens = label_tokens(prompt, completion, tokenizer)
    pairs = zip(tokens.input_ids, tokens.labels, strict=True)
    spans = []
    for trained, group in itertools.groupby(pairs, lambda pair: pair[1] != IGNORED_LABEL):
        ids = [token for token, _ in group]
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        spans.append(Span(text, len(ids), trained))
    return tuple(spans)


def _terminal_case(inspected: InspectedCase, number: int, total: int) -> Iterator[RenderableType]:
    yield Rule(Text(f"case {number} of {total}: {visible(inspected.name)}", style="bold"))
    for each in inspected.rounds:
        yield Text(f"\nround {each.number}", style="bold cyan")
        for fact in each.facts:
            yield Text(f"  {fact}", style="cyan")
        for span in each.spans:
            colours = ("green", "bold bright_green") if span.trained else ("bright_black", "dim")
            yield Text(f"\n▼ {span.heading}", style=colours[0])
            yield Text(visible(span.text), style=colours[1])
    if inspected.missing_rounds:
        yield Text(f"\ntoo few signals for {inspected.missing_rounds} more", style="yellow")
    if not inspected.hidden_facts:
        return
    yield Text("\nwhat the description is tested on, never in the prompt", style="bold cyan")
    for name, text in inspected.hidden_facts:
        yield Text(f"  {name}: {visible(text)}")
