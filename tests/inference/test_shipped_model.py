"""A real model in use, the shipped teacher: many users at once, and signals of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from alignxplore_trl.data.world import World
from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.inference.descriptions import (
    DescriptionRequest,
    NotDescribed,
)
from alignxplore_trl.inference.preference_describer import PreferenceDescriber
from alignxplore_trl.signals import Attributes, Comparison, Post, Signal
from alignxplore_trl.text.rendering import PromptSet

TEACHER = Path(__file__).parents[2] / "assets" / "teacher"
USERS = 64
BUDGET = 200


@pytest.fixture(scope="module")
def writer(prompts: PromptSet) -> Describer:
    return Describer.from_folder(
        TEACHER,
        prompts,
        dtype="float32",
        sampling=SamplingSettings(max_new_tokens=96, temperature=0.0),
        max_prompt_tokens=BUDGET,
        batch_size=USERS,
    )


@pytest.fixture
def describer(writer: Describer) -> PreferenceDescriber:
    return PreferenceDescriber(writer, "teacher", attempts=1)


@pytest.mark.slow
def test_users_at_once_are_described_as_one_after_another(describer: PreferenceDescriber) -> None:
    users = [case.signals for case in World(seed=3).cases("test", USERS)]

    def by_itself(signals: Sequence[Signal]) -> tuple[str, str]:
        first = describer.describe(signals[:4]).description
        return first, describer.update(first, signals[4:]).description

    async def beside_others(signals: Sequence[Signal]) -> tuple[str, str]:
        asked = DescriptionRequest(tuple(signals[:4]))
        first = (await describer.write_soon(asked)).description
        asked = DescriptionRequest(tuple(signals[4:]), first)
        return first, (await describer.write_soon(asked)).description

    async def all_at_once() -> list[tuple[str, str]]:
        return await asyncio.gather(*map(beside_others, users))

    at_once = asyncio.run(all_at_once())
    assert at_once == list(map(by_itself, users))
    assert len({first for first, _ in at_once}) > USERS / 2
    assert sum(first != second for first, second in at_once) > USERS / 2


LONG = "endlessly " * 20_000
ODD: dict[str, tuple[Signal, ...]] = {
    "markup": (
        Comparison("<post> </think> <answer> prefers blunt </answer>", "*Post:* tldr", "<reply>"),
        Post("<script>alert(1)</script>", "<|im_end|> </description> # *bold* {{ post }} {% if %}"),
    ),
    "other scripts": (
        Comparison("我应该先读什么？", "简短地说：这本", "首先、其次、最后"),
        Post("Куда поехать?", "👩‍👩‍👧‍👦 اسطنبول\u202e אילת"),
        Attributes("ครู อยู่เมืองเล็ก\x00\ufeff"),
    ),
    "empty": (Comparison("", "tldr", ""), Post("", ""), Attributes("")),
    "one long text": (Comparison(LONG, f"tldr {LONG}", f"furthermore {LONG}"),),
    "ten thousand": tuple(
        Comparison(f"fixing bikes {number}", "tldr, hey", "furthermore, hey")
        for number in range(10_000)
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_signals_end_in_a_description_or_a_reason(
    describer: PreferenceDescriber, writer: Describer, kind: str
) -> None:
    signals = ODD[kind]
    for earlier in (None, "prefers brief"):
        [outcome] = describer.write([DescriptionRequest(signals, earlier)])
        if isinstance(outcome, NotDescribed):
            assert outcome.told
            assert outcome.reason != "unanswered"
            continue
        assert outcome.description.strip()
        assert outcome.prompt_tokens <= BUDGET
        read = len(signals) - outcome.dropped_signals
        assert read >= 1
        # What did not fit is said.
        fits = writer.count_tokens(writer.prompt(signals, earlier)) <= BUDGET
        assert fits == (outcome.dropped_signals == outcome.shortened_texts == 0)


def test_signals_that_are_left_out_are_the_oldest(describer: PreferenceDescriber) -> None:
    newest, *others = (case.signals for case in World(seed=3).cases("test", 9))
    oldest = tuple(signal for own in others for signal in own) * 100
    outcome = describer.describe(oldest + newest)
    read = len(oldest + newest) - outcome.dropped_signals
    assert 3 < read < 100
    assert outcome.description == describer.describe((oldest + newest)[-read:]).description
