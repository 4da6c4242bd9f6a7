"""Synthesis against its definition: what is kept, what each round reads, what is counted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.data.world import World, stated_poles
from alignxplore_trl.inference.describing import Completion, Describer, SamplingSettings
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.synthesis.candidates import Candidate, SynthesisSettings, synthesize
from alignxplore_trl.text.parsing import FormatProblem, Inference, parse_completion
from alignxplore_trl.text.rendering import PromptSet, Question

CASES = World(0).cases("cold_start", 4)


class TruthJudge:
    """Answers by the true directions: A wins if the description states a pole of the user's."""

    def __init__(self, silent_about: str = "") -> None:
        self.cases = {case.target.post: case for case in CASES}
        self.silent_about = silent_about

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        return [self._verdict(question) for question in questions]

    def _verdict(self, question: Question) -> Verdict | None:
        case = self.cases[question.post]
        if case.case_id == self.silent_about:
            return None
        true = set(stated_poles(question.description or "")) & set((case.directions or {}).values())
        a_is_chosen = question.response_a == case.target.chosen
        return Verdict(0.9 if a_is_chosen == bool(true) else 0.1, 1.0)


class ScriptedTeacher(Describer):
    """Writes, for each case: the truth, an untruth, a malformed text, the truth again."""

    asked: list[list[str]]

    def complete(self, prompts: Sequence[str], seed: int) -> list[Completion]:
        self.asked.append(list(prompts))
        texts = []
        for number, _ in enumerate(prompts):
            case, sample = CASES[number // 4], number % 4
            description = "prefers nothing" if sample == 1 else case.description
            end = "" if sample == 2 else " </answer>"
            texts.append(f" r; </think> <answer> {description}{end}")
        return [Completion(text, 9, True) for text in texts]


@pytest.fixture
def teacher(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> ScriptedTeacher:
    teacher = ScriptedTeacher(
        random_model,
        tokenizer,
        prompts,
        sampling=SamplingSettings(max_new_tokens=8),
        max_prompt_tokens=500,
        batch_size=4,
    )
    teacher.asked = []
    return teacher


def run(
    teacher: Describer, judge: TruthJudge, keep: int | None = None, rounds: int = 2
) -> tuple[list[Candidate], dict[str, int]]:
    settings = SynthesisSettings(
        candidates=4, keep=keep, per_round=4, rounds=rounds, order="both", seed=0
    )
    return synthesize(teacher, judge, CASES, settings)


def test_keeps_exactly_the_well_formed_candidates_that_convince_the_judge(
    teacher: ScriptedTeacher,
) -> None:
    candidates, counts = run(teacher, TruthJudge())
    assert len(candidates) == 2 * 4 * len(CASES)
    assert [candidate.kept for candidate in candidates[:4]] == [True, False, False, True]
    assert [candidate.reward for candidate in candidates[:4]] == [1.0, 0.0, 0.0, 1.0]
    assert candidates[2].outcome is FormatProblem.ANSWER_NOT_CLOSED
    assert counts["round_1/kept"] == counts["round_1/verified"] == 2 * len(CASES)
    assert counts["round_2/format/answer_not_closed"] == len(CASES)
    assert counts["round_2/cases_with_one_kept"] == len(CASES)


def test_keeps_the_first_ones_where_a_number_is_given(teacher: ScriptedTeacher) -> None:
    candidates, counts = run(teacher, TruthJudge(), keep=1)
    assert [candidate.number for candidate in candidates if candidate.kept] == [0] * 2 * len(CASES)
    assert counts["round_1/verified"] == 2 * counts["round_1/kept"]


def test_only_the_teacher_is_told_the_dimensions(teacher: ScriptedTeacher) -> None:
    candidates, _ = run(teacher, TruthJudge(), rounds=1)
    for case, prompt in zip(CASES, teacher.asked[0][::4], strict=True):
        assert all(name in prompt for name in (case.directions or {}))
    assert not any("<dimensions>" in candidate.prompt for candidate in candidates)


def test_the_next_round_reads_new_signals_and_a_well_formed_description_of_its_own_case(
    teacher: ScriptedTeacher,
) -> None:
    candidates, _ = run(teacher, TruthJudge())
    second = [candidate for candidate in candidates if candidate.round == 2]
    for candidate in second:
        case = next(case for case in CASES if case.case_id == candidate.case_id)
        assert candidate.earlier in (case.description, "prefers nothing")
        assert candidate.prompt == teacher.prompts.inference(case.signals[4:8], candidate.earlier)
    assert second == [c for c in run(teacher, TruthJudge())[0] if c.round == 2]


def test_what_the_judge_does_not_answer_is_counted_and_not_kept(teacher: ScriptedTeacher) -> None:
    silent = CASES[1].case_id
    candidates, counts = run(teacher, TruthJudge(silent_about=silent), rounds=1)
    of_silent = [candidate for candidate in candidates if candidate.case_id == silent]
    assert [candidate.reward for candidate in of_silent] == [None, None, 0.0, None]
    assert not any(candidate.kept for candidate in of_silent)
    assert counts["round_1/not_judged"] == 3


def test_an_example_is_what_the_parser_reads_back(teacher: ScriptedTeacher) -> None:
    candidates, _ = run(teacher, TruthJudge(), rounds=1)
    example = candidates[0].example()
    assert parse_completion(example["completion"]) == Inference("r;", str(CASES[0].description))
    assert example["prompt"].endswith("<think>")
    assert candidates[2].row()["outcome"] == "answer_not_closed"


def test_cases_without_signals_for_a_round_are_counted(teacher: ScriptedTeacher) -> None:
    _, counts = run(teacher, TruthJudge(), rounds=3)
    assert counts["round_3/cases_without_signals"] == len(CASES)
    assert "round_3/kept" not in counts
