"""Outcome verification of a teacher's completions, by the very callable that rewards rollouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from alignxplore_trl.rewards.described import DescriptionReward
from alignxplore_trl.signals import PreferenceCase
from alignxplore_trl.synthesis.answers import TeacherAnswers, Verified
from alignxplore_trl.text.parsing import Inference, parse_completion


class Verifier:
    """Scores completions with a reward, and keeps what it said.

    Args:
        reward: that of RL.
        identity: everything but case and description that the verdicts depend on: the reward, the
            model that it asks, and how it is asked.
        answers: where verdicts are kept.
    """

    def __init__(self, reward: DescriptionReward, identity: str, answers: TeacherAnswers) -> None:
        self.reward = reward
        self.identity = identity
        self.answers = answers

    def verify(
        self, cases: Sequence[PreferenceCase], completions: Sequence[str]
    ) -> list[Verified | None]:
        """What came of each well-formed completion of a case.

        `None` where it is malformed, or where there was no answer, which is not kept.
        """
        outcomes = [parse_completion(completion) for completion in completions]
        keys = [
            self._key(case, outcome.description) if isinstance(outcome, Inference) else None
            for case, outcome in zip(cases, outcomes, strict=True)
        ]
        known = self.answers.find_verdicts(key for key in keys if key is not None)
        unknown = [place for place, key in enumerate(keys) if key is not None and key not in known]
        asked = self._ask(
            [cases[place] for place in unknown], [completions[place] for place in unknown]
        )
        found = {
            key: verdict
            for place, verdict in zip(unknown, asked, strict=True)
            if verdict is not None and (key := keys[place]) is not None
        }
        self.answers.keep_verdicts(found)
        known |= found
        return [None if key is None else known.get(key) for key in keys]

    def _ask(
        self, cases: Sequence[PreferenceCase], completions: Sequence[str]
    ) -> list[Verified | None]:
        if not cases:
            return []
        columns: dict[str, list[Any]] = {}
        targets = [case.target for case in cases]
        rewards = self.reward(
            completions=completions,
            case_id=[case.case_id for case in cases],
            post=[target.post for target in targets],
            chosen=[target.chosen for target in targets],
            rejected=[target.rejected for target in targets],
            log_extra=columns.__setitem__,
        )
        return [
            None if score is None or reward is None else Verified(score, reward)
            for score, reward in zip(columns[self.reward.measured], rewards, strict=True)
        ]

    def _key(self, case: PreferenceCase, description: str) -> str:
        target = case.target
        texts = [target.post, target.chosen, target.rejected, description]
        return json.dumps([self.identity, case.case_id, *texts])
