"""Replies are written behind the generator's prompts, one per case that a method describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from alignxplore_trl.baselines.golden import Golden
from alignxplore_trl.baselines.null import Null
from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.data.world import POLE_OF_WORDING
from alignxplore_trl.evaluation.replies import Reply, write_replies
from alignxplore_trl.inference.describing import Completion, Describer, SamplingSettings
from alignxplore_trl.text.parsing import FormatProblem

SHIPPED_JUDGE = Path(__file__).parents[2] / "assets" / "judge"


@dataclass
class WriterOf:
    """Writes what it is told to, and remembers the prompts and the seed."""

    completions: Sequence[Completion | None]
    asked: list[tuple[list[str], int]] = field(default_factory=list)

    def complete(self, prompts: Sequence[str], seed: int) -> Sequence[Completion | None]:
        self.asked.append((list(prompts), seed))
        return self.completions


@pytest.fixture(scope="module")
def small_writer(prompts):
    """The shipped judge, which was taught to go on with replies, too."""
    return Describer.from_folder(
        SHIPPED_JUDGE,
        prompts,
        dtype="float32",
        sampling=SamplingSettings(max_new_tokens=3),
        max_prompt_tokens=1024,
        batch_size=128,
    )


def test_prompts_are_those_of_the_generator_and_a_malformed_description_is_none(cases, prompts):
    told, malformed, silent, unanswered = cases[:4]
    descriptions = [
        UserDescription(unanswered.case_id, "prefers warm"),
        UserDescription.from_completion(
            malformed.case_id, " hm", FormatProblem.NO_ANSWER, tokens=1, ended=True
        ),
        UserDescription(told.case_id, "prefers brief"),
        UserDescription("a case of another draw", "prefers blunt"),
    ]
    writer = WriterOf([Completion(" tldr, haha\n", 4, True), Completion("", 0, False), None])
    replies = write_replies(
        writer, prompts, [told, malformed, silent, unanswered], descriptions, seed=7
    )
    assert writer.asked == [
        (
            [
                prompts.reply(told.target.post, "prefers brief"),
                prompts.reply(malformed.target.post, None),
                prompts.reply(unanswered.target.post, "prefers warm"),
            ],
            7,
        )
    ]
    assert replies == {
        told.case_id: Reply("tldr, haha", ended=True),
        malformed.case_id: Reply("", ended=False),
    }


def test_the_small_writer_does_what_descriptions_say(cases, prompts, small_writer):
    def liked_share(descriptions):
        replies = write_replies(small_writer, prompts, cases, descriptions, seed=0)
        assert list(replies) == [case.case_id for case in cases]
        wordings = [replies[case.case_id].text.split(", ") for case in cases]
        assert sum(len(words) == 2 for words in wordings) >= 0.98 * len(cases)
        liked = [
            any(POLE_OF_WORDING.get(word) in case.directions.values() for word in words)
            for case, words in zip(cases, wordings, strict=True)
        ]
        return sum(liked) / len(cases)

    assert liked_share(Golden().describe(cases)) > 0.9
    assert liked_share(Null().describe(cases)) < 0.5


def test_replies_are_a_function_of_descriptions_and_seed(cases, prompts, small_writer):
    descriptions = Golden().describe(cases)
    first, again, other = (
        write_replies(small_writer, prompts, cases, own, seed)
        for own, seed in ((descriptions, 0), (descriptions[::-1], 0), (descriptions, 1))
    )
    assert first == again
    assert first != other
    # The small models never end a reply: the limit of new tokens does.
    assert not any(reply.ended for reply in first.values())
