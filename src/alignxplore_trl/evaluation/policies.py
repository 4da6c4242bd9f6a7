"""A language model as a compared method: it reads signals and writes descriptions."""

from __future__ import annotations

from collections.abc import Sequence

from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.inference.describing import (
    CaseDescription,
    DescriptionWriter,
    describe_cases,
)
from alignxplore_trl.signals import PreferenceCase


class Policy:
    """Describes users with a model, in the rounds of a setting.

    Args:
        name: the method's name in results, such as `backbone` or `rl_streaming`.
        writer: a `Describer` with its templates and sampling, or a model that is prompted
            (`inference.prompted`).
        seed: of sampling.
    """

    def __init__(self, name: str, writer: DescriptionWriter, seed: int) -> None:
        self.name = name
        self.writer = writer
        self.seed = seed

    def describe_in(
        self, setting: Setting, cases: Sequence[PreferenceCase]
    ) -> dict[Setting, list[UserDescription]]:
        """What stands at the end of each round, of each case that has enough signals for all.

        The end of round k is the setting with k rounds; after round 1 that is a base setting. A
        case to which the model gave no answer is left out.
        """
        described = describe_cases(
            self.writer,
            setting.history(cases),
            per_round=setting.per_round,
            rounds=setting.rounds,
            seed=self.seed,
        )
        return {
            each: [_after(case, each.rounds) for case in described]
            for each in setting.after_each_round
        }


def _after(case: CaseDescription, rounds: int) -> UserDescription:
    read = case.rounds[:rounds]
    last = read[-1]
    return UserDescription.from_completion(
        case_id=case.case_id,
        completion=last.completion.text,
        parsed=last.outcome,
        tokens=last.completion.tokens,
        ended=last.completion.ended,
        earlier=last.earlier,
        dropped_signals=sum(record.prompt.dropped_signals for record in read),
        shortened_texts=sum(record.prompt.shortened_texts for record in read),
        prompt_tokens=last.prompt_tokens,
        seconds=last.completion.seconds,
    )
