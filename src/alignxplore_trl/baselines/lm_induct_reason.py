"""LMInductReason: rules that a language model proposes, tries on a user's choices, and refines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from alignxplore_trl.baselines.protocol import Asked, Method, Said
from alignxplore_trl.cases import Comparison
from alignxplore_trl.inference.writers import Writer
from alignxplore_trl.judging.protocol import Judge, JudgedPair, preferences
from alignxplore_trl.judging.weights import load_tokenizer
from alignxplore_trl.text.budget import PromptBudget
from alignxplore_trl.text.completions import FormatProblem, parse_description
from alignxplore_trl.text.prompts import Prompts


@dataclass
class _User:
    """A user's conversation, as one text, and what came of it so far."""

    case_id: str
    choices: list[Comparison]
    conversation: str
    rule: str | None = None
    problem: FormatProblem | None = None
    # The choices that the rule fails on, each with whether it led to the other reply, not to none.
    failures: list[tuple[Comparison, bool]] = field(default_factory=list)


@dataclass(eq=False)
class LMInductReason(Method):
    """Describe each user by a rule that is refined on the user's own choices.

    Per iteration the model proposes rules. Each is tried on the user's comparisons: a judge is
    asked with the rule as description, and its more probable answer counts, as at temperature 0.
    The rule that gets most of them right is kept, the first of equal ones; the choices that it
    fails on are fed back in the same conversation. The rule kept last is the description. Posts and
    attributes are shown, but no rule can be tried on them.

    Attributes:
        writer: the model, at the temperature of proposals (published: 0.7).
        judge: the same model as a judge, which applies rules.
        prompts: the prompt folder, with rule_proposal and rule_feedback.
        tokenizer: folder or name of the model whose tokens are counted.
        iterations, candidates: proposals and trials at most, and rules that are proposed in each.
    """

    writer: Writer
    judge: Judge
    prompts: str
    max_tokens: int
    tokenizer: str
    iterations: int = 3
    candidates: int = 5
    seed: int = 0

    def describe(self, asked: Asked) -> list[Said]:
        users = []
        for case in asked.cases:
            choices = [own for own in case.signals if isinstance(own, Comparison)]
            proposal = self._budget.fit("rule_proposal", case.signals).text
            users.append(_User(case.case_id, choices, proposal))
        for iteration in range(self.iterations):
            left = [user for user in users if user.rule is None or user.failures]
            for user in left:
                self._feed_back(user)
            self._keep_best(left, self._propose(left, self.seed + iteration))
        known = [user for user in users if user.rule or user.problem]  # Or else no answer came.
        return [
            Said(user.case_id, description=user.rule, problem=None if user.rule else user.problem)
            for user in known
        ]

    def close(self) -> None:
        self.writer.close()

    @cached_property
    def _budget(self) -> PromptBudget:
        return PromptBudget(Prompts(self.prompts), load_tokenizer(self.tokenizer), self.max_tokens)

    def _propose(self, users: Sequence[_User], seed: int) -> list[list[str]]:
        """The distinct rules for each user, in the order in which they were proposed."""
        answers = self.writer.write([user.conversation for user in users], self.candidates, seed)
        proposed = []
        for user, own in zip(users, answers, strict=True):
            read = [parse_description(each.text) for each in own if each is not None]
            problems = [each for each in read if isinstance(each, FormatProblem)]
            user.problem = problems[-1] if problems else user.problem
            rules = [each.description for each in read if not isinstance(each, FormatProblem)]
            proposed.append(list(dict.fromkeys(rules)))
        return proposed

    def _keep_best(self, users: Sequence[_User], proposed: Sequence[Sequence[str]]) -> None:
        pairs = [
            JudgedPair(f"{user.case_id}/{n}", own.post, rule, own.chosen, own.rejected)
            for user, rules in zip(users, proposed, strict=True)
            for rule in rules
            for n, own in enumerate(user.choices)
        ]
        answers = iter(preferences(self.judge, pairs, "random", self.seed))
        for user, rules in zip(users, proposed, strict=True):
            tried = []
            for rule in rules:
                led = [(own, next(answers)) for own in user.choices]
                wrong = [(own, p is not None) for own, p in led if p is None or p <= 0.5]
                tried.append((len(wrong), rule, wrong))
            if tried:
                _, user.rule, user.failures = min(tried, key=lambda own: own[0])

    def _feed_back(self, user: _User) -> None:
        """Go on with a conversation: the rule that was kept, and the choices that it fails on."""
        if user.rule is not None:  # Or else the same question is asked again.
            choices, decided = zip(*user.failures, strict=True)
            feedback = self._budget.fit("rule_feedback", choices, decided=decided).text
            rule = self._budget.prompts.guard(user.rule)
            user.conversation += f"\n\n<answer> {rule} </answer>\n\n{feedback}"
