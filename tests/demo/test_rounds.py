"""Choices become rounds, rounds become versions, and a failure loses none of it."""

from __future__ import annotations

import pytest

from alignxplore_trl.demo.pairs import Pair
from alignxplore_trl.demo.rounds import Rounds, Visit
from alignxplore_trl.inference.replies import NotRepliedError
from alignxplore_trl.run.errors import UserError
from tests.demo.scripted import ScriptedDescriber, ScriptedReplies, models, written

PAIRS = tuple(Pair(f"post {n}", f"left {n}", f"right {n}") for n in range(5))
ROUNDS = Rounds(PAIRS, per_round=2)


def after_a_round(visit: Visit) -> Visit:
    return ROUNDS.choose(ROUNDS.choose(visit, "left"), "right")


def test_a_round_is_due_after_as_many_choices_and_then_nothing_can_be_chosen() -> None:
    one = ROUNDS.choose(Visit(), "left")
    assert (one.place, ROUNDS.is_due(one), ROUNDS.pair(one)) == (1, False, PAIRS[1])
    two = ROUNDS.choose(one, "right")
    assert two.chosen == (PAIRS[0].chosen("left"), PAIRS[1].chosen("right"))
    assert ROUNDS.is_due(two)
    assert ROUNDS.pair(two) is None
    assert ROUNDS.choose(two, "left") == ROUNDS.skip(two) == two


def test_a_skipped_pair_is_counted_and_is_no_choice() -> None:
    visit = ROUNDS.skip(ROUNDS.skip(Visit()))
    assert (visit.place, visit.skipped, visit.chosen) == (2, 2, ())
    assert not ROUNDS.is_due(visit)


def test_what_is_left_when_the_pairs_end_is_a_round() -> None:
    visit = Visit()
    for text in ("first", "second"):
        visit = after_a_round(visit).described(written(text))
    assert ROUNDS.is_due(ROUNDS.choose(visit, "left"))
    skipped = ROUNDS.skip(visit)
    assert not ROUNDS.is_due(skipped)
    assert ROUNDS.pair(skipped) is None


def test_versions_are_kept_and_the_last_change_is_marked() -> None:
    visit = after_a_round(Visit()).described(written("prefers brief"))
    assert [(piece.text, piece.change) for piece in visit.changes] == [("prefers brief", "kept")]
    visit = after_a_round(visit).described(written("prefers warm"))
    assert [(piece.text, piece.change) for piece in visit.changes] == [
        ("prefers ", "kept"), ("brief", "removed"), ("warm", "added"),
    ]  # fmt: skip
    assert [version.choices for version in visit.versions] == [2, 2]
    assert (visit.description, visit.chosen) == ("prefers warm", ())


def test_two_visitors_have_nothing_in_common() -> None:
    shared = models(ScriptedDescriber("of one", "of the other"), ScriptedReplies("hi"))
    one, other = ROUNDS.choose(Visit(), "left"), ROUNDS.skip(Visit())
    one, other = ROUNDS.choose(one, "left"), after_a_round(other)
    one, other = shared.read_choices(one), shared.read_choices(other)
    assert (one.description, one.skipped) == ("of one", 0)
    assert (other.description, other.skipped) == ("of the other", 1)
    assert Visit() == Visit(0, (), 0, (), 0, None)


def test_an_update_reads_the_description_and_the_new_choices_alone() -> None:
    describer = ScriptedDescriber("first", "second")
    shared = models(describer, ScriptedReplies("hi"))
    visit = shared.read_choices(after_a_round(Visit()))
    again = after_a_round(visit)
    shared.read_choices(again)
    asked = list(dict.fromkeys(describer.asked))
    assert asked[0] == ((PAIRS[0].chosen("left"), PAIRS[1].chosen("right")), None)
    assert asked[1] == (again.chosen, "first")
    assert again.chosen == (PAIRS[2].chosen("left"), PAIRS[3].chosen("right"))


@pytest.mark.parametrize("failure", ["", None, UserError("the server is gone")])
def test_a_failure_keeps_the_choices_for_another_try(failure: str | UserError | None) -> None:
    describer = ScriptedDescriber(failure, "at last")
    shared = models(describer, ScriptedReplies("hi"))
    due = after_a_round(Visit())
    visit = shared.read_choices(due)
    assert visit.problem
    assert (visit.chosen, visit.versions, visit.place) == (due.chosen, (), due.place)
    assert ROUNDS.is_due(visit)
    visit = shared.read_choices(visit)
    assert (visit.description, visit.problem) == ("at last", None)
    assert describer.seeds == [0, 1]


def test_both_replies_are_sampled_alike_and_each_time_otherwise() -> None:
    model = ScriptedReplies("for you", "for all")
    shared = models(ScriptedDescriber("x"), model)
    personal, plain = shared.reply("fixing bikes", "prefers brief", 0)
    assert (personal.chosen.text, plain.chosen.text) == ("for you", "for all")
    assert "prefers brief" in model.asked[0]
    assert "prefers brief" not in model.asked[1]
    shared.reply("fixing bikes", "prefers brief", 1)
    assert model.seeds == [0, 0, 1, 1]


def test_no_reply_is_an_error_in_words() -> None:
    with pytest.raises(NotRepliedError, match="gave no answer"):
        models(ScriptedDescriber("x"), ScriptedReplies(None)).reply("post", "description", 0)


def test_suggested_posts_come_from_the_end_and_begin_again() -> None:
    assert [ROUNDS.suggested_post(number) for number in (0, 1, 5)] == ["post 4", "post 3", "post 4"]
