"""Cases as a model reads them, for people: each round's prompt, and what is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.text import Text

from alignxplore_trl.cases import Case, Signal
from alignxplore_trl.reporting.pages import render_page, visible
from alignxplore_trl.text.budget import fit_prompt
from alignxplore_trl.text.prompts import Prompts

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Example:
    """What the cold start trains on: a prompt, masked from the loss, and its completion."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Round:
    """One round of a case: its prompt, a completion if there is one, and facts about both."""

    number: int
    prompt: str
    completion: str | None
    facts: list[str]


@dataclass(frozen=True)
class Inspected:
    """A case with its rounds, and what the judge sees, or nobody, by name."""

    name: str
    rounds: list[Round]
    hidden: Mapping[str, str] = field(default_factory=dict)


def inspect_case(
    case: Case,
    *,
    signals: int,
    rounds: int,
    prompts: Prompts,
    max_tokens: int,
    count_tokens: CountTokens,
    examples: Mapping[tuple[str, int], Example],
) -> Inspected:
    """Render a case by the functions that training renders it by.

    Args:
        case: the case.
        signals: signals of a round.
        rounds: rounds that are read, at most.
        prompts: the templates.
        max_tokens: the budget of a prompt.
        count_tokens: length of a text in the backbone's tokens.
        examples: verified examples by case and round, as far as there are any.

    Raises:
        PromptTooLongError: a round's prompt can't be made short enough.
    """

    def render(own: Sequence[Signal], earlier: str | None) -> str:
        return prompts.render("inference", signals=own, earlier=earlier)

    shown = []
    for number, own in enumerate(case.rounds(signals, rounds), 1):
        # The policy writes the earlier description; here the true one stands in for it.
        earlier = case.description if number > 1 else None
        fitted = fit_prompt(render, own, earlier, count_tokens, max_tokens)
        example = examples.get((case.case_id, number))
        kinds = Counter(signal.kind for signal in own)
        facts = [
            ", ".join(f"{count} of the kind {kind}" for kind, count in kinds.items()),
            f"{fitted.dropped_signals} signals left out and {fitted.shortened_texts} texts "
            "shortened by the budget",
        ]
        if earlier and example is None:
            facts.append("the true description stands in for the earlier one")
        shown.append(
            _round(number, example.prompt if example else fitted.text, example, facts, count_tokens)
        )
    target = case.target
    hidden = {"post": target.post, "chosen": target.chosen, "rejected": target.rejected}
    if case.description is not None:
        hidden["true description"] = case.description
    return Inspected(case.case_id, shown, hidden)


def inspect_example(number: int, example: Example, count_tokens: CountTokens) -> Inspected:
    """A published example of the cold start, whose prompt is one whole text."""
    return Inspected(
        f"published example {number}", [_round(1, example.prompt, example, [], count_tokens)]
    )


def render_terminal(console: Console, cases: Sequence[Inspected]) -> None:
    """Print cases: what is masked from the loss dim, what is trained on bright."""
    for number, case in enumerate(cases, 1):
        for part in _parts(case, f"case {number} of {len(cases)}"):
            console.print(part, soft_wrap=True)  # What is copied from it is the prompt.


def render_html(cases: Sequence[Inspected], title: str) -> str:
    """The same as one HTML page that loads nothing."""
    return render_page("inspection.html.jinja", cases=cases, title=title)


def _round(
    number: int, prompt: str, example: Example | None, facts: list[str], count_tokens: CountTokens
) -> Round:
    completion = example.completion if example else None
    trained = f"{count_tokens(completion)} trained on" if completion else "no example of it"
    return Round(
        number, prompt, completion, [*facts, f"{count_tokens(prompt)} tokens read, {trained}"]
    )


def _parts(case: Inspected, place: str) -> Iterator[RenderableType]:
    yield Rule(Text(f"{place}: {visible(case.name)}", style="bold"))
    for own in case.rounds:
        yield Text(f"\nround {own.number}: {'; '.join(own.facts)}", style="bold cyan")
        yield Text(visible(own.prompt), style="dim")
        if own.completion:
            yield Text(visible(own.completion), style="bold bright_green")
    if case.hidden:
        yield Text("\nwhat the description is tested on, never in the prompt", style="bold cyan")
    for name, text in case.hidden.items():
        yield Text(f"  {name}: {visible(text)}")
