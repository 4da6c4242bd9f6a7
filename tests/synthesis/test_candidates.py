"""Synthesis against its definition: what each round reads, what is counted, what is asked again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignxplore_trl.data.world import World
from alignxplore_trl.judging.client import Unanswered
from alignxplore_trl.judging.written import Written
from alignxplore_trl.rewards.judged import JudgedReward
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.synthesis.answers import TeacherAnswers
from alignxplore_trl.synthesis.asking import Asking, Prices, Spending
from alignxplore_trl.synthesis.candidates import (
    Candidate,
    Earlier,
    PromptBudget,
    Synthesis,
    SynthesisSettings,
    draw_earlier,
)
from alignxplore_trl.synthesis.selection import keep_verified
from alignxplore_trl.synthesis.teachers import Ask
from alignxplore_trl.synthesis.verification import Verifier
from alignxplore_trl.text.parsing import FormatProblem, Inference, parse_completion
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.outage import OutageSettings
from tests.synthesis.teaching import ScriptedTeacher, TruthJudge, count_words, written

CASES = World(0).cases("cold_start", 4)
BY_ID = {case.case_id: case for case in CASES}
NEVER = OutageSettings(1.0, "abort", 0.0, 0.0)
ABORT = OutageSettings(0.2, "abort", 0.0, 0.0)
SETTINGS = SynthesisSettings(
    candidates=4,
    per_round=4,
    rounds=2,
    earlier="well_formed",
    guidance="known",
    most_dimensions=3,
    budget=None,
    outage=NEVER,
    seed=0,
)


def scripted(asked: Ask) -> Written | Unanswered:
    """For each case: the truth, an untruth, a malformed text, the truth again."""
    description = "prefers nothing" if asked.number == 1 else BY_ID[asked.case_id].description
    end = "" if asked.number == 2 else " </answer>"
    return written(f" r; </think> <answer> {description}{end}")


def names_of(place: int) -> list[str]:
    return [f"Aspect {place}", "tone", "Tone of voice"]


def naming(asked: Ask) -> Written | Unanswered:
    """As `scripted`, with names for each signal but the last, about which it says nothing."""
    if asked.kind == "candidate":
        return scripted(asked)
    names = names_of(asked.number)
    return written(f"hm [1] </think> {json.dumps(names)}" if asked.number < 3 else "no list")


@pytest.fixture
def synthesis_of(tmp_path: Path, prompts: PromptSet) -> Iterator[Callable[..., Synthesis]]:
    """Syntheses that share what was kept."""
    answers = TeacherAnswers(tmp_path / "answers.sqlite")

    def make(
        teacher: ScriptedTeacher | None = None,
        judge: TruthJudge | None = None,
        *,
        spending: Spending | None = None,
        student_tokens: int = 10_000,
        sleep: Callable[[float], None] | None = None,
        **changes: Any,
    ) -> Synthesis:
        reward = JudgedReward(judge or TruthJudge(CASES), "both", seed=0)
        return Synthesis(
            Asking(teacher or ScriptedTeacher(scripted), answers, spending or Spending(None)),
            Verifier(reward, "judge", answers),
            prompts,
            student=PromptBudget(count_words, student_tokens),
            teacher=PromptBudget(count_words, 10_000),
            settings=replace(SETTINGS, **changes),
            sleep=sleep or _never,
        )

    yield make
    answers.close()


def _never(seconds: float) -> None:
    raise AssertionError


def candidates_of(synthesis: Synthesis) -> list[Candidate]:
    synthesis.run(CASES)
    return keep_verified(synthesis.candidates, keep=None, rule="first", mix=None, seed=0)


def test_exactly_the_well_formed_candidates_that_convince_the_judge_are_verified(
    synthesis_of: Callable[..., Synthesis],
) -> None:
    synthesis = synthesis_of()
    candidates = candidates_of(synthesis)
    places = [(case.case_id, r, n) for r in (1, 2) for case in CASES for n in range(4)]
    assert [candidate.place for candidate in candidates] == places
    for start in range(0, len(candidates), 4):
        own = candidates[start : start + 4]
        assert [each.kept for each in own] == [True, False, False, True]
        assert [each.reward for each in own] == [1.0, 0.0, 0.0, 1.0]
        assert [each.score for each in own] == pytest.approx([0.9, 0.1, None, 0.9])
        assert own[2].outcome is FormatProblem.ANSWER_NOT_CLOSED
    counts = synthesis.figures()
    for number in (1, 2):
        assert counts[f"round_{number}/candidates"] == 4 * len(CASES)
        assert counts[f"round_{number}/verified"] == 2 * len(CASES)
        assert counts[f"round_{number}/format/answer_not_closed"] == len(CASES)
        assert counts[f"round_{number}/cases_with_one_verified"] == len(CASES)
        assert counts[f"round_{number}/finish_reason/stop"] == 4 * len(CASES)
    assert (counts["asked"], counts["cached"], counts["not_asked"]) == (32, 0, 0)
    assert (counts["prompt_tokens"], counts["completion_tokens"]) == (32 * 3, 32 * 5)
    assert "cost" not in counts


def test_only_the_teacher_is_told_the_dimensions(synthesis_of: Callable[..., Synthesis]) -> None:
    teacher = ScriptedTeacher(scripted)
    candidates = candidates_of(synthesis_of(teacher, rounds=1))
    for candidate, asked in zip(candidates, teacher.asked, strict=True):
        names = tuple(BY_ID[candidate.case_id].directions or {})
        assert candidate.dimensions == names != ()
        assert all(name in asked.prompt for name in names)
        assert "<dimensions>" not in candidate.prompt
        assert asked.prompt.endswith(candidate.prompt)


def test_without_guidance_teacher_and_student_read_the_same(
    synthesis_of: Callable[..., Synthesis],
) -> None:
    teacher = ScriptedTeacher(scripted)
    candidates = candidates_of(synthesis_of(teacher, guidance="none"))
    assert [own.prompt for own in teacher.asked] == [own.prompt for own in candidates]
    assert {own.dimensions for own in candidates} == {()}


def test_a_teacher_names_the_dimensions_of_each_signal_before_it_reasons(
    synthesis_of: Callable[..., Synthesis], prompts: PromptSet
) -> None:
    teacher = ScriptedTeacher(naming)
    synthesis = synthesis_of(teacher, guidance="teacher")
    candidates = candidates_of(synthesis)
    of_round = 4 * len(CASES)
    first, reasoned, again = (teacher.asked[of_round * n : of_round * (n + 1)] for n in range(3))
    signals = [signal for case in CASES for signal in case.signals[:4]]
    assert [own.prompt for own in first] == list(map(prompts.dimensions, signals))
    assert {own.kind for own in (*first, *again)} == {"dimensions"}
    assert {own.kind for own in reasoned} == {"candidate"}
    # Those that all signals name come first, and three are kept.
    names = ("tone", "Tone of voice", "Aspect 0")
    assert {own.dimensions for own in candidates} == {names}
    for candidate, asked in zip(candidates, reasoned, strict=False):
        assert f"<dimensions> {', '.join(names)}" in asked.prompt
        assert not any(name in candidate.prompt for name in ("Aspect", "<dimensions>"))
    counts = synthesis.figures()
    assert counts["round_1/dimensions/signals"] == of_round
    assert counts["round_2/dimensions/unread"] == len(CASES)
    assert counts["round_1/dimensions/cases_without"] == 0
    assert counts["asked"] == 4 * of_round
    assert teacher.seeds[0] != teacher.seeds[1]


def test_a_teacher_that_names_nothing_is_counted_and_goes_on(
    synthesis_of: Callable[..., Synthesis],
) -> None:
    def silent(asked: Ask) -> Written | Unanswered:
        return Unanswered("timeout") if asked.kind == "dimensions" else scripted(asked)

    synthesis = synthesis_of(ScriptedTeacher(silent), guidance="teacher", rounds=1)
    assert len(candidates_of(synthesis)) == 4 * len(CASES)
    counts = synthesis.figures()
    assert counts["round_1/dimensions/unread"] == counts["unanswered/timeout"] == 16
    assert counts["round_1/dimensions/cases_without"] == len(CASES)


def test_a_signal_that_is_too_long_for_the_teacher_names_nothing(
    synthesis_of: Callable[..., Synthesis],
) -> None:
    synthesis = synthesis_of(ScriptedTeacher(naming), guidance="teacher", rounds=1)
    synthesis.teacher = PromptBudget(count_words, 1)
    synthesis.run(CASES)
    assert synthesis.candidates == []
    assert synthesis.counts["round_1/dimensions/too_long"] == 4 * len(CASES)
    assert synthesis.counts["round_1/cases_too_long"] == len(CASES)


def test_the_next_round_reads_new_signals_and_a_description_of_its_own_case(
    synthesis_of: Callable[..., Synthesis], prompts: PromptSet
) -> None:
    candidates = candidates_of(synthesis_of())
    first, second = candidates[: 4 * len(CASES)], candidates[4 * len(CASES) :]
    by_place = {candidate.place: candidate for candidate in first}
    for candidate in second:
        case, earlier = BY_ID[candidate.case_id], candidate.earlier
        assert earlier.source == "well_formed"
        assert earlier.description in (case.description, "prefers nothing")
        assert earlier.number is not None
        source = by_place[case.case_id, 1, earlier.number].outcome
        assert isinstance(source, Inference)
        assert source.description == earlier.description
        assert candidate.prompt == prompts.inference(case.signals[4:8], earlier.description)
    for candidate in first:
        assert candidate.earlier == Earlier("first_round")
        assert candidate.prompt == prompts.inference(BY_ID[candidate.case_id].signals[:4], None)


def test_the_draw_takes_right_and_wrong_ones_and_depends_on_the_seed_alone(
    synthesis_of: Callable[..., Synthesis],
) -> None:
    first = [own for own in candidates_of(synthesis_of()) if own.round == 1]
    drawn = [draw_earlier(first, "well_formed", seed) for seed in range(30)]
    assert {own.number for by_case in drawn for own in by_case.values()} == {0, 1, 3}
    assert draw_earlier(first[::-1], "well_formed", 3) == drawn[3]


def test_among_the_verified_ones_only_right_ones_are_drawn(
    synthesis_of: Callable[..., Synthesis],
) -> None:
    hopeless = CASES[2].case_id

    def script(asked: Ask) -> Written | Unanswered:
        return scripted(replace(asked, number=1) if asked.case_id == hopeless else asked)

    for seed in range(5):
        synthesis = synthesis_of(ScriptedTeacher(script), earlier="verified", seed=seed)
        second = [own for own in candidates_of(synthesis) if own.round == 2]
        for candidate in second:
            if candidate.case_id == hopeless:
                assert candidate.earlier == Earlier("none_found")
            else:
                description = BY_ID[candidate.case_id].description
                assert candidate.earlier.source == "verified"
                assert candidate.earlier.description == description
        assert synthesis.counts["round_2/without_earlier_description"] == 1


def test_what_the_judge_does_not_answer_is_counted_and_not_kept(
    synthesis_of: Callable[..., Synthesis],
) -> None:
    silent = CASES[1].case_id
    synthesis = synthesis_of(judge=TruthJudge(CASES, silent_about=silent), rounds=1)
    of_silent = [own for own in candidates_of(synthesis) if own.case_id == silent]
    assert [candidate.reward for candidate in of_silent] == [None, None, 0.0, None]
    assert not any(candidate.kept for candidate in of_silent)
    assert synthesis.counts["round_1/not_judged"] == 3
    synthesis = synthesis_of(rounds=1)
    again = [own for own in candidates_of(synthesis) if own.case_id == silent]
    assert [candidate.reward for candidate in again] == [1.0, 0.0, 0.0, 1.0]
    assert synthesis.figures()["asked"] == 0


def test_a_judge_that_is_out_ends_the_run_and_the_teacher_is_not_asked_again(
    synthesis_of: Callable[..., Synthesis],
) -> None:
    out = TruthJudge(CASES, silent_about=CASES[0].case_id[:1])
    with pytest.raises(UserError, match=r"no answer on \d+ of 12 well-formed") as error_info:
        synthesis_of(judge=out, outage=ABORT).run(CASES)
    assert "the teacher is not asked again" in str(error_info.value)
    teacher = ScriptedTeacher(scripted)
    synthesis = synthesis_of(teacher, outage=ABORT)
    assert sum(own.kept for own in candidates_of(synthesis)) == 4 * len(CASES)
    assert {own.round for own in teacher.asked} == {2}


def test_a_run_that_waits_goes_on_when_the_judge_is_back(
    synthesis_of: Callable[..., Synthesis],
) -> None:
    judge = TruthJudge(CASES, silent_about=CASES[0].case_id)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            judge.silent_about = ""

    wait = OutageSettings(0.2, "wait", 7.0, 60.0)
    synthesis = synthesis_of(judge=judge, outage=wait, sleep=sleep)
    assert sum(own.kept for own in candidates_of(synthesis)) == 4 * len(CASES)
    assert slept == [7.0] * 3
    judge.silent_about = CASES[0].case_id
    other = synthesis_of(judge=judge, outage=replace(wait, limit_seconds=6.0))
    other.verifier.identity = "another judge"
    with pytest.raises(UserError, match=r"verification\.outage says when"):
        other.run(CASES)


def test_cases_without_signals_for_a_round_are_counted(
    synthesis_of: Callable[..., Synthesis],
) -> None:
    synthesis = synthesis_of(rounds=3)
    assert {own.round for own in candidates_of(synthesis)} == {1, 2}
    assert synthesis.counts["round_3/cases_without_signals"] == len(CASES)
    assert synthesis.counts["round_3/candidates"] == 0


def test_cases_whose_prompt_is_too_long_are_counted_and_left(
    synthesis_of: Callable[..., Synthesis], prompts: PromptSet
) -> None:
    teacher = ScriptedTeacher(scripted)
    synthesis = synthesis_of(teacher, student_tokens=1)
    assert candidates_of(synthesis) == []
    assert teacher.asked == []
    assert synthesis.counts["round_1/cases_too_long"] == len(CASES)
    whole = max(count_words(prompts.inference(case.signals[:4], None)) for case in CASES)
    synthesis = synthesis_of(student_tokens=whole - 5, rounds=1)
    assert len(candidates_of(synthesis)) == 4 * len(CASES)
    assert synthesis.counts["round_1/prompts_shortened"] > 0


def test_each_round_may_spend_an_equal_part_of_the_budget(
    synthesis_of: Callable[..., Synthesis],
) -> None:
    """An answer costs 5, and 8 are reserved: 7 answers for 40, 15 for 80."""
    teacher = ScriptedTeacher(scripted, batch=1)
    spending = Spending(Prices(0, 1_000_000))
    synthesis = synthesis_of(teacher, spending=spending, budget=80.0)
    candidates = candidates_of(synthesis)
    rounds = [candidate.round for candidate in candidates]
    assert (rounds.count(1), rounds.count(2)) == (7, 8)
    counts = synthesis.figures()
    assert counts["cost"] == 75
    # The two cases that were asked about in the first round, with eight candidates in the second.
    assert counts["not_asked"] == 16 - 7
    assert {own.case_id for own in candidates if own.round == 2} == {
        case.case_id for case in CASES[:2]
    }


def test_more_candidates_cost_only_what_is_new(synthesis_of: Callable[..., Synthesis]) -> None:
    candidates_of(synthesis_of(rounds=1))
    teacher = ScriptedTeacher(scripted)
    synthesis = synthesis_of(teacher, rounds=1, candidates=6)
    assert len(candidates_of(synthesis)) == 6 * len(CASES)
    assert sorted({own.number for own in teacher.asked}) == [4, 5]
    assert len(teacher.asked) == 2 * len(CASES)


def test_what_the_teacher_does_not_answer_is_a_row_with_its_reason(
    synthesis_of: Callable[..., Synthesis],
) -> None:
    def script(asked: Ask) -> Written | Unanswered:
        return Unanswered("status_400") if asked.number == 3 else scripted(asked)

    synthesis = synthesis_of(ScriptedTeacher(script), rounds=1)
    row = candidates_of(synthesis)[3].row()
    assert (row["unanswered"], row["reward"], row["kept"]) == ("status_400", None, False)
    assert (row["completion"], row["outcome"], row["prompt_tokens"]) == (None, None, None)
    assert synthesis.counts["round_1/unanswered/status_400"] == len(CASES)


def test_an_example_is_what_the_parser_reads_back(synthesis_of: Callable[..., Synthesis]) -> None:
    candidates = candidates_of(synthesis_of(rounds=1))
    example = candidates[0].example()
    assert parse_completion(example["completion"]) == Inference("r;", str(CASES[0].description))
    assert example["prompt"].endswith("<think>")
    row = candidates[2].row()
    assert (row["outcome"], row["finish_reason"], row["completion_tokens"]) == (
        "answer_not_closed",
        "stop",
        5,
    )
