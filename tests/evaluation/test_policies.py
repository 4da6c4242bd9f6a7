"""A language model as a method, with a small model of random weights."""

import pytest

from alignxplore_trl.data.world import World
from alignxplore_trl.evaluation.policies import Policy
from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.inference.describing import Describer, SamplingSettings, describe_cases
from alignxplore_trl.text.parsing import FormatProblem


@pytest.fixture
def describer(random_model, tokenizer, prompts):
    sampling = SamplingSettings(max_new_tokens=6)
    return Describer(
        random_model,
        tokenizer,
        prompts,
        sampling=sampling,
        max_prompt_tokens=40,
        batch_size=4,
    )


@pytest.mark.parametrize("name", ["base4", "streaming4+4"])
def test_every_case_with_enough_signals_is_described(describer, name):
    setting = Setting.from_name(name)
    cases = World(seed=1, signals_per_user=8).cases("test", 3)
    cases += World(seed=2, signals_per_user=3).cases("test", 2)
    described = Policy("backbone", describer, setting, seed=5).describe(cases)
    assert [said.case_id for said in described] == [case.case_id for case in cases[:3]]
    raw = describe_cases(describer, cases[:3], per_round=4, rounds=setting.rounds, seed=5)
    assert [said.completion for said in described] == [
        case.rounds[-1].completion.text for case in raw
    ]
    for said, case in zip(described, raw, strict=True):
        assert isinstance(said.format_problem, FormatProblem)  # random weights know no format
        assert said.description is None
        assert said.completion_tokens == 6
        assert said.ended is False
        assert said.dropped_signals == sum(r.prompt.dropped_signals for r in case.rounds)
    assert sum(said.dropped_signals + said.shortened_texts for said in described) > 0
