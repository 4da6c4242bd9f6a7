"""What each rule-like method says of a user."""

from dataclasses import replace

import pytest

from alignxplore_trl.baselines.golden import Golden
from alignxplore_trl.baselines.longer_reply import LongerReply
from alignxplore_trl.baselines.null import Null
from alignxplore_trl.baselines.protocol import Decision, UserDescription
from alignxplore_trl.baselines.signals import Signals, plain_text
from alignxplore_trl.data.world import World
from alignxplore_trl.signals import Attributes, Comparison, Post, PreferenceCase
from alignxplore_trl.text.parsing import FormatProblem, Inference
from alignxplore_trl.text.rendering import PromptSet, Question

SIGNALS = (Comparison("p1", "yes", "no"), Post("p2", "words"), Attributes("a baker"))
CASE = PreferenceCase("c", "u", SIGNALS, Comparison("p3", "longer", "short"), None, "likes bread")


def test_null_says_nothing():
    assert Null().describe([CASE]) == [UserDescription("c", None)]


def test_golden_tells_the_truth_where_it_is_known():
    unknown = replace(CASE, case_id="d", description=None)
    assert Golden().describe([CASE, unknown]) == [UserDescription("c", "likes bread")]


def test_signals_shows_every_signal_and_never_the_target():
    (said,) = Signals().describe([CASE])
    assert said.description == (
        "Post: p1\nChosen: yes\nRejected: no\n\nPost: p2\nComment: words\n\nAbout the user: a baker"
    )
    for case in World(seed=1, signal_kind="mixed").cases("test", 20):
        (said,) = Signals().describe([case])
        assert case.target.post not in said.description
        assert said.description.count("Post: ") == 8


def test_signals_tell_items_from_replies():
    items = plain_text(Comparison("Recommended films.", "Alien", "Heat", "items"))
    assert items == "Recommended films.\nChosen: Alien\nPassed over: Heat"


@pytest.mark.parametrize("prompts", ["compact", "default"])
def test_signals_reach_the_judge_unescaped(prompts):
    (said,) = Signals().describe([CASE])
    assert said.description in PromptSet(prompts).judgement(
        Question("x", said.description, "a", "b")
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "probability"), [("aa", "b", 1.0), ("a", "bb", 0.0), ("a", "b", 0.5)]
)
def test_longer_reply(chosen, rejected, probability):
    case = replace(CASE, target=Comparison("p", chosen, rejected))
    assert LongerReply().decide([case]) == [Decision("c", probability)]


def test_a_completion_becomes_a_description_or_a_named_problem():
    said = UserDescription.from_completion("c", "text", Inference("why", "what"), 7, True, "before")
    assert (said.description, said.reasoning, said.format_problem) == ("what", "why", None)
    assert (said.completion, said.completion_tokens, said.ended) == ("text", 7, True)
    assert said.earlier == "before"
    said = UserDescription.from_completion("c", "text", FormatProblem.NO_ANSWER, 9, False)
    assert (said.description, said.reasoning) == (None, None)
    assert said.format_problem is FormatProblem.NO_ANSWER
