"""A language model as a compared method: it reads signals and writes descriptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.evaluation.settings import Setting
from alignxplore_trl.inference.describing import (
    CaseDescription,
    DescriptionWriter,
    describe_cases,
)
from alignxplore_trl.signals import PreferenceCase


class Policy:
    """Describes users with a model, in the rounds of one setting.

    Args:
        name: the method's name in results, such as `backbone` or `rl_streaming`.
        describer: the model with its templates and sampling: a `Describer`, or one that is prompted
            (`inference.prompted`).
        setting: how much history it reads, in how many rounds.
        seed: of sampling.
        report: called with the number of rounds finished after each of them.
    """

    def __init__(
        self,
        name: str,
        describer: DescriptionWriter,
        setting: Setting,
        seed: int,
        report: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.name = name
        self.describer = describer
        self.setting = setting
        self.seed = seed
        self.report = report

    def describe(self, cases: Sequence[PreferenceCase]) -> list[UserDescription]:
        """The last round's description of each case that has enough signals for the setting.

        A case to which the model gave no answer is left out.
        """
        described = describe_cases(
            self.describer,
            self.setting.history(cases),
            per_round=self.setting.per_round,
            rounds=self.setting.rounds,
            seed=self.seed,
            report=self.report,
        )
        return [_last_round(case) for case in described]


def _last_round(case: CaseDescription) -> UserDescription:
    last = case.rounds[-1]
    return UserDescription.from_completion(
        case_id=case.case_id,
        completion=last.completion.text,
        parsed=last.outcome,
        tokens=last.completion.tokens,
        ended=last.completion.ended,
        earlier=last.earlier,
        dropped_signals=sum(record.prompt.dropped_signals for record in case.rounds),
        shortened_texts=sum(record.prompt.shortened_texts for record in case.rounds),
    )
