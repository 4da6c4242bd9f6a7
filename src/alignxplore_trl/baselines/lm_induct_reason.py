"""LMInductReason: rules that a language model proposes, tries on a user's choices, and refines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from alignxplore_trl.baselines.language_model import (
    Conversation,
    LanguageModel,
    Message,
    question,
)
from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import JudgedPair, preference_probabilities
from alignxplore_trl.judging.sampled import SampledJudge
from alignxplore_trl.judging.written import Written, completion_of
from alignxplore_trl.signals import Comparison, PreferenceCase, Signal
from alignxplore_trl.text.budget import FittedPrompt, fit_prompt
from alignxplore_trl.text.parsing import FormatProblem, Inference, parse_description
from alignxplore_trl.text.rendering import PromptSet


@dataclass(frozen=True)
class InductionSettings:
    """How rules are looked for; the defaults are the published ones (METHOD: methods compared).

    Attributes:
        iterations: proposals and trials, at most.
        candidates: rules that are proposed in each.
        temperature: of proposals; rules are tried at 0.
    """

    iterations: int = 3
    candidates: int = 5
    temperature: float = 0.7


@dataclass(frozen=True)
class _Proposal:
    """What was proposed for one user, and how it was read."""

    written: Written
    completion: str
    parsed: Inference | FormatProblem

    @property
    def rule(self) -> str:
        """The rule of a readable proposal."""
        assert isinstance(self.parsed, Inference)
        return self.parsed.description


@dataclass(frozen=True)
class _Trial:
    """A rule that was tried on each of the user's choices.

    An outcome is 1.0 where the rule leads to the chosen reply, 0.0 where it leads to the other one,
    and `None` where the answer could not be read, or there was none.
    """

    proposal: _Proposal
    outcomes: tuple[float | None, ...]

    @property
    def score(self) -> int:
        """How many choices it gets right."""
        return self.outcomes.count(1.0)


class _User:
    """A user's conversation, and what came of it so far."""

    def __init__(self, case: PreferenceCase, prompt: FittedPrompt) -> None:
        self.case = case
        self.prompt = prompt
        self.choices = [signal for signal in case.signals if isinstance(signal, Comparison)]
        self.conversation: Conversation = question(prompt.text)
        self.kept: _Trial | None = None
        self.malformed: _Proposal | None = None

    @property
    def is_done(self) -> bool:
        """Whether a rule agrees with all choices."""
        return self.kept is not None and self.kept.score == len(self.choices)

    def description(self) -> UserDescription | None:
        """The rule that was kept last; `None` where the model never answered."""
        proposal = self.malformed if self.kept is None else self.kept.proposal
        if proposal is None:
            return None
        return UserDescription.from_completion(
            case_id=self.case.case_id,
            completion=proposal.completion,
            parsed=proposal.parsed,
            tokens=proposal.written.completion_tokens - proposal.written.ended,
            ended=proposal.written.ended,
            dropped_signals=self.prompt.dropped_signals,
            shortened_texts=self.prompt.shortened_texts,
        )


class LMInductReason:
    """Describe each user by a rule that is refined on the user's own choices.

    Per iteration, the model proposes rules in one conversation per user. Each is tried on the
    user's choices: the judge's prompt with the rule as description, read by the judge's reader of
    written selections. The rule that gets most of them right is kept, the first of equal ones.
    While it fails on some, these are told in the conversation. The rule kept last is the
    description. Iterations end early for a user whose choices are all right.

    All users go through an iteration together, and what one gets depends on no other. Posts and
    attributes are shown, but no rule can be tried on them; without any choice the first rule stays.
    An answer that can't be read, or that isn't there, counts as wrong. A user for whom the model
    proposed nothing at all is left out.

    Args:
        model: the language model.
        prompts: the templates.
        max_prompt_tokens: the budget of each message, which is shortened to it by rule.
        seed: of sampling, and of the order in which a choice's two replies are shown.
        settings: how rules are looked for.

    Attributes:
        counts: `rules`, `rules_unreadable`, `rules_unanswered`; `trials` (a rule on a choice),
            `trials_unreadable`, `trials_unanswered`; `consistent` (users whose choices are all
            right), `left_out`.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: PromptSet,
        *,
        max_prompt_tokens: int,
        seed: int,
        settings: InductionSettings = InductionSettings(),
    ) -> None:
        self.model = model
        self.prompts = prompts
        self.max_prompt_tokens = max_prompt_tokens
        self.seed = seed
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self._judge = SampledJudge(_FirstAnswers(model, seed), prompts, samples=1)

    def describe(self, cases: Sequence[PreferenceCase]) -> list[UserDescription]:
        """The last kept rule of each user for whom there is an answer."""
        users = [_User(case, self._fit_proposal(case.signals)) for case in cases]
        for iteration in range(self.settings.iterations):
            open_users = [user for user in users if not user.is_done]
            if not open_users:
                break
            if iteration > 0:
                self._tell_failures(open_users)
            proposals = self._propose(open_users, self.seed + iteration)
            self._keep_best(open_users, proposals)
        described = [user.description() for user in users]
        self.counts["consistent"] += sum(user.is_done for user in users)
        self.counts["left_out"] += described.count(None)
        return [own for own in described if own is not None]

    def _fit_proposal(self, signals: Sequence[Signal]) -> FittedPrompt:
        return fit_prompt(
            lambda kept, _: self.prompts.rule_proposal(kept),
            signals,
            None,
            self.model.count_tokens,
            self.max_prompt_tokens,
        )

    def _propose(self, users: Sequence[_User], seed: int) -> list[list[_Proposal]]:
        """The readable proposals for each user."""
        number = self.settings.candidates
        answers = self.model.answer(
            [user.conversation for user in users for _ in range(number)],
            temperature=self.settings.temperature,
            seed=seed,
        )
        proposals: list[list[_Proposal]] = []
        for place, user in enumerate(users):
            own = answers[place * number : (place + 1) * number]
            read = [self._read(written) for written in own if written is not None]
            malformed = [each for each in read if isinstance(each.parsed, FormatProblem)]
            user.malformed = malformed[-1] if malformed else user.malformed
            proposals.append([each for each in read if isinstance(each.parsed, Inference)])
            self.counts["rules"] += len(own)
            self.counts["rules_unanswered"] += own.count(None)
            self.counts["rules_unreadable"] += len(malformed)
        return proposals

    def _read(self, written: Written) -> _Proposal:
        completion = completion_of(written, self.model.chat)
        return _Proposal(written, completion, parse_description(completion))

    def _keep_best(self, users: Sequence[_User], proposals: Sequence[list[_Proposal]]) -> None:
        """Try each user's rules on the user's choices, and keep the best."""
        rules = [list(dict.fromkeys(each.rule for each in own)) for own in proposals]
        pairs = [
            JudgedPair(
                f"{user.case.case_id}/{number}", choice.post, rule, choice.chosen, choice.rejected
            )
            for user, own in zip(users, rules, strict=True)
            for rule in own
            for number, choice in enumerate(user.choices)
        ]
        asked = preference_probabilities(self._judge, pairs, "random", self.seed) if pairs else []
        outcomes = iter(asked)
        for user, own, proposed in zip(users, rules, proposals, strict=True):
            tried = {rule: tuple(next(outcomes) for _ in user.choices) for rule in own}
            trials = [_Trial(each, tried[each.rule]) for each in proposed]
            if trials:
                user.kept = max(trials, key=lambda trial: trial.score)
        unanswered = self._judge.take_measurements().unanswered
        unreadable = unanswered.get("unreadable", 0)
        self.counts["trials"] += len(pairs)
        self.counts["trials_unreadable"] += unreadable
        self.counts["trials_unanswered"] += sum(unanswered.values()) - unreadable

    def _tell_failures(self, users: Sequence[_User]) -> None:
        """Go on with each conversation: the rule that was kept, and the choices it fails on."""
        for user in users:
            if user.kept is None:
                continue  # There is no rule to speak of: the same question is asked again.
            outcomes = zip(user.choices, user.kept.outcomes, strict=True)
            failures = {place: own for place, own in enumerate(outcomes) if own[1] != 1.0}
            fitted = self._fit_feedback(list(failures.values()))
            rule = self.prompts.as_value(user.kept.proposal.rule)
            user.conversation += (
                Message("assistant", f"<answer> {rule} </answer>"),
                Message("user", fitted.text),
            )

    def _fit_feedback(self, failures: Sequence[tuple[Comparison, float | None]]) -> FittedPrompt:
        choices = [choice for choice, _ in failures]
        decided = [outcome is not None for _, outcome in failures]

        def render(kept: Sequence[Signal], _: str | None) -> str:
            # Those that don't fit are left out from the front.
            shown = [signal for signal in kept if isinstance(signal, Comparison)]
            return self.prompts.rule_feedback(shown, decided[len(decided) - len(shown) :])

        return fit_prompt(render, choices, None, self.model.count_tokens, self.max_prompt_tokens)


class _FirstAnswers:
    """What a language model answers where nothing is drawn at random; see `AnswerWriter`."""

    def __init__(self, model: LanguageModel, seed: int) -> None:
        self._model = model
        self._seed = seed
        self._measurements = Measurements()

    def write(self, prompts: Sequence[str], samples: int) -> list[list[str] | None]:
        asked = list(dict.fromkeys(prompts))
        conversations = [question(prompt) for prompt in asked]
        written = self._model.answer(conversations, temperature=0.0, seed=self._seed)
        answers = dict(zip(asked, written, strict=True))
        found = [answers[prompt] for prompt in prompts]
        if missing := found.count(None):
            reasons = self._measurements.unanswered
            reasons["unanswered"] = reasons.get("unanswered", 0) + missing
        return [None if own is None else [own.text] * samples for own in found]

    def take_measurements(self) -> Measurements:
        taken, self._measurements = self._measurements, Measurements()
        return taken
