"""R_gen and the log-probability reward against their equations, in a few lines of plain torch."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.judging.generator import Continuation
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.rewards.described import BatchCounts, DescriptionReward
from alignxplore_trl.rewards.generated import PUBLISHED_MARGIN, GeneratedReward
from alignxplore_trl.rewards.log_probability import LogProbabilityReward
from alignxplore_trl.rewards.responses import aggregated, difference
from alignxplore_trl.rewards.shaping import Shaping
from alignxplore_trl.text.rendering import PromptSet

Tokens = tuple[float, ...]
BOTH: list[type[GeneratedReward] | type[LogProbabilityReward]] = [
    GeneratedReward,
    LogProbabilityReward,
]
CHOSEN, REJECTED = "dear, hugs", "nope"
DESCRIPTIONS = ["prefers warm", "prefers blunt", "prefers brief, warm", "likes tents"]
COMPLETIONS = [f" so </think> <answer> {text} </answer>" for text in DESCRIPTIONS]
MALFORMED = " so <answer> prefers warm </answer>"


@dataclass
class TableGenerator:
    """Token log-probabilities by (description, response); no others are answered."""

    table: dict[tuple[str | None, str], Tokens]
    asked: list[Continuation] = field(default_factory=list)

    def log_probabilities(self, rows: Sequence[Continuation]) -> list[Tokens | None]:
        self.asked += rows
        return [self.table.get((row.description, row.response)) for row in rows]

    def take_measurements(self) -> Measurements:
        return Measurements(questions=len(self.asked))


@dataclass
class PlainGenerator:
    """One forward pass per row, and the response's own tokens read from it."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    prompts: PromptSet

    def log_probabilities(self, rows: Sequence[Continuation]) -> list[Tokens | None]:
        return [self._of(row) for row in rows]

    def _of(self, row: Continuation) -> Tokens:
        head = self.tokenizer(self.prompts.reply(row.post, row.description))["input_ids"]
        tail = self.tokenizer(f" {row.response}")["input_ids"]
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([head + tail])).logits[0].log_softmax(-1)
        return tuple(logits[len(head) + i - 1, token].item() for i, token in enumerate(tail))

    def take_measurements(self) -> Measurements:
        return Measurements()


def call(
    reward: DescriptionReward, completions: Sequence[str], **options: Any
) -> list[float | None]:
    count = len(completions)
    return reward(
        completions=completions,
        prompts=["…"] * count,
        case_id=[str(number) for number in range(count)],
        post=["fixing bikes"] * count,
        chosen=[CHOSEN] * count,
        rejected=[REJECTED] * count,
        **options,
    )


@pytest.mark.parametrize("aggregation", ["sum", "mean", "mean_probability"])
@pytest.mark.parametrize("margin", [0.0, PUBLISHED_MARGIN, -1.0])
def test_generated_is_the_equation(
    random_model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: PromptSet,
    aggregation: Any,
    margin: float,
) -> None:
    """The published code compares a ratio of mean token probabilities with 1.03."""
    plain = PlainGenerator(random_model, tokenizer, prompts)
    number: Callable[[torch.Tensor], torch.Tensor] = {
        "sum": torch.sum,
        "mean": torch.mean,
        "mean_probability": lambda tokens: tokens.exp().mean().log(),
    }[aggregation]

    def score(description: str | None, response: str) -> float:
        row = Continuation("fixing bikes", description, response)
        return number(torch.tensor(plain._of(row), dtype=torch.float64)).item()

    expected = [
        score(d, CHOSEN) - score(None, CHOSEN) - (score(d, REJECTED) - score(None, REJECTED))
        for d in DESCRIPTIONS
    ]
    extra: dict[str, list[Any]] = {}
    reward = GeneratedReward(plain, aggregation=aggregation, margin=margin)
    found = call(reward, [*COMPLETIONS, MALFORMED], log_extra=extra.__setitem__)
    assert extra["difference_of_gains"] == [*map(pytest.approx, expected), None]
    assert found == [*(float(value > margin) for value in expected), 0.0]


def test_the_published_variant_is_a_ratio_with_a_margin() -> None:
    assert pytest.approx(math.log(1.03)) == PUBLISHED_MARGIN
    table = {(None, CHOSEN): (0.2, 0.4), (None, REJECTED): (0.5,)}
    for ratio, expected in ((1.029, 0.0), (1.031, 1.0)):
        table[("prefers warm", CHOSEN)] = (0.3 * ratio, 0.3 * ratio)
        table[("prefers warm", REJECTED)] = (0.5,)
        logs = {key: tuple(map(math.log, tokens)) for key, tokens in table.items()}
        reward = GeneratedReward(
            TableGenerator(logs), aggregation="mean_probability", margin=PUBLISHED_MARGIN
        )
        assert call(reward, COMPLETIONS[:1]) == [expected]


@pytest.mark.parametrize(("aggregation", "expected"), [("sum", 0.0), ("mean", 1.0)])
def test_log_probability_prefers_short_replies_unless_it_is_a_mean(
    aggregation: Any, expected: float
) -> None:
    table = {("prefers warm", CHOSEN): (-1.0, -1.0, -1.0), ("prefers warm", REJECTED): (-2.0,)}
    generator = TableGenerator(table)  # type: ignore[arg-type]
    reward = LogProbabilityReward(generator, aggregation=aggregation)
    assert call(reward, COMPLETIONS[:1]) == [expected]
    assert None not in {row.description for row in generator.asked}
    strict = LogProbabilityReward(generator, aggregation=aggregation, margin=1.0)
    assert call(strict, COMPLETIONS[:1]) == [0.0]


@pytest.mark.parametrize("missing", [("prefers warm", CHOSEN), (None, CHOSEN), (None, REJECTED)])
def test_one_missing_term_is_none_and_counted(missing: tuple[str | None, str]) -> None:
    table: dict[tuple[str | None, str], Tokens] = {
        (description, response): (-1.0,)
        for description in (None, "prefers warm")
        for response in (CHOSEN, REJECTED)
    }
    del table[missing]
    logged: dict[str, float] = {}
    reward = GeneratedReward(TableGenerator(table))
    found = call(reward, [*COMPLETIONS[:1], MALFORMED], log_metric=logged.__setitem__)
    assert found == [None, 0.0]
    assert reward.last_batch == BatchCounts(completions=2, well_formed=1, unanswered=1)
    assert logged["generator/failed_share"] == 1.0
    assert logged["format/well_formed"] == 0.5
    assert logged["reward/seconds"] > 0
    assert "generator/difference_of_gains" not in logged


@pytest.mark.parametrize("tokens", [(), (-math.inf,), (math.nan,)])
def test_what_is_no_number_is_no_reward(tokens: Tokens) -> None:
    table: dict[tuple[str | None, str], Tokens] = {
        (description, response): tokens
        for description in (None, "prefers warm")
        for response in (CHOSEN, REJECTED)
    }
    for aggregation in ("sum", "mean", "mean_probability"):
        reward = GeneratedReward(TableGenerator(table), aggregation=aggregation)  # type: ignore[arg-type]
        assert call(reward, COMPLETIONS[:1]) == [None]


def test_malformed_completions_are_asked_about_nowhere() -> None:
    for kind in BOTH:
        generator = TableGenerator({})
        assert call(kind(generator), [MALFORMED] * 2) == [0.0, 0.0]
        assert generator.asked == []


@given(st.lists(st.floats(-800, -1e-3), min_size=1, max_size=6))
def test_aggregations_are_what_they_are_called(tokens: list[float]) -> None:
    assert aggregated(tokens, "sum") == pytest.approx(sum(tokens))
    assert aggregated(tokens, "mean") == pytest.approx(sum(tokens) / len(tokens))
    own = torch.tensor(tokens, dtype=torch.float64)
    expected = (own.logsumexp(0) - math.log(len(tokens))).item()
    assert aggregated(tokens, "mean_probability") == pytest.approx(expected)
    assert aggregated(None, "sum") is None


def test_a_difference_needs_both() -> None:
    assert difference(3.0, 1.0) == 2.0
    assert difference(None, 1.0) is difference(1.0, None) is None


@pytest.mark.parametrize("kind", BOTH)
def test_can_be_pickled_measured_and_shaped(kind: Any) -> None:
    table: dict[tuple[str | None, str], Tokens] = {
        (None, CHOSEN): (-2.0,),
        (None, REJECTED): (-2.0,),
        ("prefers warm", CHOSEN): (-1.0,),
        ("prefers warm", REJECTED): (-2.0,),
    }
    shaping = Shaping(word_limit=1, length_weight=0.25)
    reward = pickle.loads(pickle.dumps(kind(TableGenerator(table), shaping=shaping)))
    assert reward.__name__ in {"generated", "log_probability"}
    assert call(reward, COMPLETIONS[:1]) == [0.75]
    assert reward.take_measurements().questions == (4 if kind is GeneratedReward else 2)


def test_rewards_of_different_kinds_have_names_of_their_own() -> None:
    assert len({kind.__name__ for kind in BOTH}) == 2
