"""Replies for one user, and a judge that chooses among candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from alignxplore_trl.baselines.language_model import Conversation
from alignxplore_trl.data.world import OPPOSITE, POLE_OF_WORDING, World
from alignxplore_trl.inference.describing import SamplingSettings
from alignxplore_trl.inference.replies import (
    NotRepliedError,
    PersonalReplyWriter,
    ReplyRequest,
)
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.judging.written import Written
from alignxplore_trl.text.rendering import PromptSet, Question

ASSETS = Path(__file__).parents[2] / "assets"


class ScriptedModel:
    """Goes through a list of answers, `None` where it has none."""

    chat = False

    def __init__(self, *answers: str | None) -> None:
        self.answers = iter(answers)
        self.asked: list[str] = []
        self.unanswered: Counter[str] = Counter()

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def answer(
        self, conversations: Sequence[Conversation], *, temperature: float, seed: int
    ) -> list[Written | None]:
        self.asked += [own[-1].content for own in conversations]
        texts = [next(self.answers) for _ in conversations]
        self.unanswered["timeout"] += texts.count(None)
        return [None if text is None else Written(text, None, "stop", 1, 1) for text in texts]


class ScriptedJudge:
    """Prefers the reply with the higher score; gives no answer where a score is missing."""

    def __init__(self, score: Callable[[str], float | None]) -> None:
        self.score = score
        self.questions: list[Question] = []

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        self.questions += questions
        return [self._verdict(question) for question in questions]

    def _verdict(self, question: Question) -> Verdict | None:
        a, b = self.score(question.response_a), self.score(question.response_b)
        return None if a is None or b is None else Verdict(0.5 + (a - b) / 20, 1.0)

    def take_measurements(self) -> Measurements:
        return Measurements()


def candidates_of(
    prompts: PromptSet, judge: ScriptedJudge, *answers: str | None
) -> PersonalReplyWriter:
    return PersonalReplyWriter(
        ScriptedModel(*answers), prompts, temperature=1.0, judge=judge, candidates=len(answers)
    )


def test_the_prompt_is_the_one_of_the_reward_and_one_reply_needs_no_judge(
    prompts: PromptSet,
) -> None:
    model = ScriptedModel(" tldr \n", "hey")
    writer = PersonalReplyWriter(model, prompts, temperature=0.0)
    reply = writer.reply("my boat", "prefers brief")
    assert (reply.chosen.text, reply.chosen.preference, reply.unanswered) == ("tldr", None, 0)
    assert writer.reply("my boat").chosen.text == "hey"
    assert model.asked == [
        prompts.reply("my boat", "prefers brief"), prompts.reply("my boat", None),
    ]  # fmt: skip


def test_the_judge_chooses_and_says_how_much_it_prefers_each(prompts: PromptSet) -> None:
    judge = ScriptedJudge(lambda text: float(len(text)))
    writer = candidates_of(prompts, judge, "aa", "a", "aaaa", "aa")
    reply = writer.reply("my boat", "prefers long")
    # "aa" was written twice and is one candidate; each pair is asked about in both orders.
    assert [each.text for each in reply.candidates] == ["aa", "a", "aaaa"]
    assert len(judge.questions) == 6
    assert {own.description for own in judge.questions} == {"prefers long"}
    assert reply.chosen.text == "aaaa"
    expected = {
        text: sum(0.5 + (len(text) - len(other)) / 20 for other in ("aa", "a", "aaaa")
                  if other != text) / 2
        for text in ("aa", "a", "aaaa")
    }  # fmt: skip
    for own in reply.candidates:
        assert own.preference == pytest.approx(expected[own.text])


def test_a_judge_without_an_answer_is_no_preference(prompts: PromptSet) -> None:
    half = ScriptedJudge(lambda text: None if text == "first" else float(len(text)))
    reply = candidates_of(prompts, half, "first", "b", "bbb").reply("my boat")
    assert [own.preference is None for own in reply.candidates] == [True, False, False]
    assert (reply.chosen.text, reply.unanswered) == ("bbb", 2)
    silent = ScriptedJudge(lambda text: None)
    reply = candidates_of(prompts, silent, "first", "b").reply("my boat")
    assert (reply.chosen.text, reply.chosen.preference, reply.unanswered) == ("first", None, 1)


def test_one_candidate_that_is_left_needs_no_judge(prompts: PromptSet) -> None:
    judge = ScriptedJudge(lambda text: 0.0)
    reply = candidates_of(prompts, judge, None, "the only one", "  ").reply("my boat")
    assert (reply.chosen.text, judge.questions) == ("the only one", [])


def test_reasoning_is_no_reply(prompts: PromptSet) -> None:
    written = ["<think> hm </think> yes", "hm </think> no", "<think> hm, and hm, and"]
    writer = PersonalReplyWriter(ScriptedModel(*written), prompts, temperature=1.0)
    replies = writer.write([ReplyRequest("a"), ReplyRequest("b"), ReplyRequest("c")])
    assert [None if own is None else own.chosen.text for own in replies] == ["yes", "no", None]


def test_no_reply_is_an_error_that_says_why(prompts: PromptSet) -> None:
    writer = PersonalReplyWriter(ScriptedModel(None), prompts, temperature=1.0)
    with pytest.raises(NotRepliedError, match="timeout"):
        writer.reply("my boat")
    writer = PersonalReplyWriter(ScriptedModel(""), prompts, temperature=1.0)
    with pytest.raises(NotRepliedError, match="silent"):
        writer.reply("my boat")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"candidates": 0}, "candidates: 0"),
        ({"candidates": 3}, "1 without a judge"),
        ({"judge": ScriptedJudge(len), "candidates": 1}, "2 or more"),
        ({"judge": ScriptedJudge(len), "candidates": 2, "temperature": 0.0}, "temperature: 0"),
    ],
)
def test_a_choice_needs_a_judge_and_something_to_choose_from(
    prompts: PromptSet, how: dict[str, object], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        PersonalReplyWriter(ScriptedModel(), prompts, **{"temperature": 1.0, **how})


def liked_share(prompts: PromptSet, *, described: bool, candidates: int) -> float:
    """Of the shipped model's replies, those with a liked wording and no disliked one."""
    cases = World(seed=5).cases("test", 60)
    judge = LocalJudge.from_folder(
        ASSETS / "test_judge", prompts, dtype="float32", max_batch_tokens=16_384
    )
    writer = PersonalReplyWriter.from_pretrained(
        ASSETS / "judge",
        prompts,
        chat=False,
        sampling=SamplingSettings(max_new_tokens=3, temperature=0.9),
        judge=judge if candidates > 1 else None,
        candidates=candidates,
    )
    replies = writer.write(
        [ReplyRequest(case.target.post, case.description if described else None) for case in cases]
    )
    liked = 0
    for case, reply in zip(cases, replies, strict=True):
        assert reply is not None
        poles = {POLE_OF_WORDING.get(word) for word in reply.chosen.text.split(", ")}
        wanted = set(case.directions.values())
        liked += bool(poles & wanted) and not poles & {OPPOSITE[pole] for pole in wanted}
    return liked / len(cases)


def test_the_shipped_models_reply_as_described_users_like_it(prompts: PromptSet) -> None:
    without, one, of_four = (
        liked_share(prompts, described=described, candidates=candidates)
        for described, candidates in ((False, 1), (True, 1), (True, 4))
    )
    assert without < 0.5
    assert one > 0.8
    assert of_four >= one
