"""Models that say what they are told to, and keep what they were asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from alignxplore_trl.baselines.language_model import Conversation
from alignxplore_trl.demo.models import DemoModels
from alignxplore_trl.inference.describing import Completion
from alignxplore_trl.inference.descriptions import WrittenDescription
from alignxplore_trl.inference.preference_describer import PreferenceDescriber
from alignxplore_trl.inference.replies import PersonalReplyWriter
from alignxplore_trl.judging.written import Written
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Signal
from alignxplore_trl.text.parsing import FormatProblem, Inference, parse_completion
from alignxplore_trl.text.rendering import PromptSet


class ScriptedDescriber:
    """Says one description after another; `None`: no answer; an error is raised."""

    max_prompt_tokens = 10_000

    def __init__(self, *says: str | UserError | None) -> None:
        self.says = list(says)
        self.asked: list[tuple[tuple[Signal, ...], str | None]] = []
        self.seeds: list[int] = []

    def prompt(self, signals: Sequence[Signal], earlier: str | None) -> str:
        self.asked.append((tuple(signals), earlier))
        return f"{len(signals)} signals"

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def complete(self, prompts: Sequence[str], seed: int) -> list[Completion | None]:
        self.seeds.append(seed)
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(said, UserError):
            raise said
        if said is None:
            return [None for _ in prompts]
        text = f"so it is </think> <answer>{said}</answer>"
        return [Completion(text, 5, ended=True) for _ in prompts]

    def read(self, completion: str) -> Inference | FormatProblem:
        return parse_completion(completion)


class ScriptedReplies:
    """Says one reply after another; `None`: no answer."""

    chat = False

    def __init__(self, *says: str | None) -> None:
        self.says = list(says)
        self.asked: list[str] = []
        self.seeds: list[int] = []
        self.unanswered: Counter[str] = Counter()

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def answer(
        self, conversations: Sequence[Conversation], *, temperature: float, seed: int
    ) -> list[Written | None]:
        self.asked += [conversation[0].content for conversation in conversations]
        self.seeds.append(seed)
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if said is None:
            self.unanswered["connection"] += len(conversations)
            return [None for _ in conversations]
        return [Written(said, None, "stop", 5, 5) for _ in conversations]


def models(describer: ScriptedDescriber, replies: ScriptedReplies) -> DemoModels:
    """A page's models, of one attempt each."""
    return DemoModels(
        PreferenceDescriber(describer, "scripted", attempts=1),
        PersonalReplyWriter(replies, PromptSet("compact"), temperature=0.9),
    )


def written(description: str) -> WrittenDescription:
    """A description that some model wrote."""
    return WrittenDescription(description, "", "scripted", 5, 5)
