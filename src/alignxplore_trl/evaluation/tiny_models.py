"""What the cards of the small models say: how well they do what they are there for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignxplore_trl.data.world import OPPOSITE, describe, stated_poles
from alignxplore_trl.inference.describing import Describer, SamplingSettings, describe_cases
from alignxplore_trl.judging.generator import Continuation, LocalGenerator
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.protocol import Judge, JudgedPair, preference_probabilities
from alignxplore_trl.signals import PreferenceCase
from alignxplore_trl.text.rendering import PromptSet

DescriptionOf = Callable[[PreferenceCase], str | None]


def accuracy(judge: Judge, cases: Sequence[PreferenceCase], description: DescriptionOf) -> float:
    """ACC_jud over the cases that the judge answers, both orders averaged."""
    pairs = [
        JudgedPair(
            case.case_id,
            case.target.post,
            description(case),
            case.target.chosen,
            case.target.rejected,
        )
        for case in cases
    ]
    probabilities = preference_probabilities(judge, pairs, "both", seed=0)
    answered = [probability for probability in probabilities if probability is not None]
    return sum(probability > 0.5 for probability in answered) / len(answered)


def measure_judge(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    cases: Sequence[PreferenceCase],
) -> dict[str, float]:
    """ACC_jud and ACC_gen under descriptions that are true, absent, inverted or contradictory."""
    judge = LocalJudge(model, tokenizer, prompts, max_batch_tokens=16384)

    def contradictory(case: PreferenceCase) -> str:
        poles = (case.directions or {}).values()
        return describe([side for pole in poles for side in (pole, OPPOSITE[pole])])

    def inverted(case: PreferenceCase) -> str:
        return describe([OPPOSITE[pole] for pole in (case.directions or {}).values()])

    return {
        "acc_jud_golden": accuracy(judge, cases, lambda case: case.description),
        "acc_jud_null": accuracy(judge, cases, lambda case: None),
        "acc_jud_inverted": accuracy(judge, cases, inverted),
        "acc_jud_contradictory": accuracy(judge, cases, contradictory),
        "acc_gen_golden": generation_accuracy(model, tokenizer, prompts, cases),
    }


def generation_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    cases: Sequence[PreferenceCase],
) -> float:
    """ACC_gen of the true descriptions: the mean of R_gen over the cases that are answered."""
    rows = [
        Continuation(case.target.post, description, response)
        for case in cases
        for response in (case.target.chosen, case.target.rejected)
        for description in (case.description, None)
    ]
    generator = LocalGenerator(model, tokenizer, prompts, max_batch_tokens=16384)
    answers = iter(generator.log_probabilities(rows))
    wins = []
    for scores in zip(answers, answers, answers, answers, strict=True):
        sums = [sum(score) for score in scores if score is not None]
        if len(sums) == len(scores):
            chosen, chosen_alone, rejected, rejected_alone = sums
            wins.append(chosen - chosen_alone > rejected - rejected_alone)
    return sum(wins) / len(wins)


def measure_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    judge: Judge,
    cases: Sequence[PreferenceCase],
    seed: int,
) -> dict[str, float]:
    """ACC_jud, well-formed share, and precision and recall of directions from four signals."""
    describer = Describer(
        model,
        tokenizer,
        prompts,
        sampling=SamplingSettings(max_new_tokens=96),
        max_prompt_tokens=1024,
        batch_size=128,
    )
    described = describe_cases(describer, cases, per_round=4, rounds=1, seed=seed)
    by_case = {own.case_id: own.description for own in described}
    well_formed = [case for case in cases if by_case[case.case_id] is not None]
    share = len(well_formed) / len(cases)
    right = accuracy(judge, well_formed, lambda case: by_case[case.case_id])
    stated = {case.case_id: set(stated_poles(by_case[case.case_id] or "")) for case in cases}
    wanted = {case.case_id: set((case.directions or {}).values()) for case in cases}
    true = sum(len(stated[case.case_id] & wanted[case.case_id]) for case in cases)
    return {
        "acc_jud": right * share,
        "well_formed": share,
        "precision": true / max(1, sum(map(len, stated.values()))),
        "recall": true / sum(map(len, wanted.values())),
    }
