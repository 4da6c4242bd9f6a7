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
def test_every_case_with_enough_signals_is_described_after_every_round(describer, name):
    setting = Setting.from_name(name)
    cases = World(seed=1, signals_per_user=8).cases("test", 3)
    cases += World(seed=2, signals_per_user=3).cases("test", 2)
    described = Policy("backbone", describer, seed=5).describe_in(setting, cases)
    assert [each.name for each in described] == ["base4", "streaming4+4"][: setting.rounds]
    raw = describe_cases(describer, cases[:3], per_round=4, rounds=setting.rounds, seed=5)
    for number, own in enumerate(described.values()):
        assert [said.case_id for said in own] == [case.case_id for case in cases[:3]]
        for said, case in zip(own, raw, strict=True):
            record, so_far = case.rounds[number], case.rounds[: number + 1]
            assert said.completion == record.completion.text
            assert said.earlier == record.earlier
            assert isinstance(said.format_problem, FormatProblem)  # random weights know no format
            assert said.description is None
            assert said.completion_tokens == 6
            assert said.ended is False
            assert said.prompt_tokens == describer.count_tokens(record.prompt.text) <= 40
            assert said.seconds is not None
            assert said.seconds > 0
            assert said.dropped_signals == sum(r.prompt.dropped_signals for r in so_far)
            assert said.dropped_signals + said.shortened_texts > 0


def test_one_round_of_several_is_the_base_setting(describer):
    cases = World(seed=1, signals_per_user=8).cases("test", 3)
    policy = Policy("backbone", describer, seed=5)
    first = policy.describe_in(Setting(4, 2), cases)[Setting(4, 1)]
    alone = policy.describe_in(Setting(4, 1), cases)[Setting(4, 1)]
    assert [said.completion for said in first] == [said.completion for said in alone]
