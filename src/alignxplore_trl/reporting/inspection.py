"""Cases as a model reads them, for people: each round's prompt, and what is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.text import Text

from alignxplore_trl.cases import Case, Signal
from alignxplore_trl.reporting.pages import visible
from alignxplore_trl.text.budget import PromptBudget

# A prompt, which is masked from the loss, and the completion that is trained on, if there is one.
Example = tuple[str, str | None]


@dataclass(frozen=True)
class Round:
    """What a model is given in one round of a case, and facts about it."""

    number: int
    prompt: str
    completion: str | None
    facts: list[str]


@dataclass(frozen=True)
class Inspected:
    """A case with its rounds, and by name what the judge or nobody sees."""

    name: str
    rounds: list[Round]
    hidden: Mapping[str, str] = field(default_factory=dict)


def inspect_case(
    case: Case,
    rounds: Sequence[Sequence[Signal]],
    budget: PromptBudget,
    examples: Mapping[tuple[str, int], Example],
) -> Inspected:
    """Render a case by the functions that training renders it by.

    Args:
        case: the case.
        rounds: its signals, round by round.
        budget: of prompts, in the backbone's tokens.
        examples: verified examples by case and round, as far as there are any.
    """
    shown = []
    for number, signals in enumerate(rounds, 1):
        # The policy writes the earlier description; here the true one stands in for it.
        fitted = budget.fit("inference", signals, case.description if number > 1 else None)
        example = examples.get((case.case_id, number))
        kinds = Counter(signal.kind for signal in signals)
        facts = [
            f"signals: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}",
            f"{fitted.dropped_signals} left out, {fitted.shortened_texts} texts shortened",
        ]
        if number > 1 and not example:
            facts.append("the true description stands in for the earlier one")
        shown.append(_round(number, example or (fitted.text, None), facts, budget))
    target = case.target
    hidden = {"post": target.post, "chosen": target.chosen, "rejected": target.rejected}
    known = {"true description": case.description} if case.description else {}
    return Inspected(case.case_id, shown, hidden | known)


def inspect_example(name: str, example: Example, budget: PromptBudget) -> Inspected:
    """A published prompt, which is one whole text."""
    return Inspected(name, [_round(1, example, [], budget)])


def render_terminal(console: Console, cases: Sequence[Inspected]) -> None:
    """Print cases: what is masked from the loss dim, what is trained on bright."""
    for number, case in enumerate(cases, 1):
        for part in _parts(case, f"case {number} of {len(cases)}"):
            console.print(part, soft_wrap=True)  # What is copied from it is the prompt.


def _round(number: int, example: Example, facts: list[str], budget: PromptBudget) -> Round:
    prompt, completion = example
    known = f"{budget.count(completion)} trained on, and the end" if completion else ""
    trained = known or "no completion known"
    facts = [*facts, f"{budget.count(prompt)} tokens read, {trained}"]
    return Round(number, prompt, completion, facts)


def _parts(case: Inspected, place: str) -> Iterator[RenderableType]:
    yield Rule(Text(f"{place}: {visible(case.name)}", style="bold"))
    for own in case.rounds:
        yield Text(f"\nround {own.number}: {'; '.join(own.facts)}", style="bold cyan")
        yield Text(visible(own.prompt), style="dim")
        yield Text(visible(own.completion or ""), style="bold bright_green")
    if case.hidden:
        yield Text("what the description is tested on, never in the prompt", style="bold cyan")
    for name, text in case.hidden.items():
        yield Text(f"  {name}: {visible(text)}")
