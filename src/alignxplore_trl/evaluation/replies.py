"""Replies that a language model writes to a case's post under a method's description of the user.

What a description is for: another model that has read it answers the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.inference.describing import Completion
from alignxplore_trl.signals import PreferenceCase
from alignxplore_trl.text.rendering import PromptSet


class ReplyWriter(Protocol):
    """A language model that goes on with prompts, such as a `Describer`."""

    def complete(self, prompts: Sequence[str], seed: int) -> Sequence[Completion | None]:
        """One completion per prompt, in order; `None` where none could be had."""
        ...


@dataclass(frozen=True)
class Reply:
    """A reply that was written to a case's post.

    Attributes:
        text: without the white space around it; may be empty.
        ended: whether the model ended it, not the limit of new tokens.
    """

    text: str
    ended: bool


def write_replies(
    writer: ReplyWriter,
    prompts: PromptSet,
    cases: Sequence[PreferenceCase],
    descriptions: Sequence[UserDescription],
    seed: int,
) -> dict[str, Reply]:
    """One reply per case, by case id, written under what one method says of the user.

    The prompt is the one that R_gen reads log-probabilities behind. Where a method's completion was
    malformed, the reply is written without a description: that is what its user would get.

    A reply ends where the model ends it, or at the writer's limit of new tokens; nothing else cuts
    it. The small judge was never taught an end: under a limit of three tokens it writes two
    wordings with a comma between them, which is what every reply of the simulated world is.

    Args:
        writer: the model, with its sampling.
        prompts: the templates; the reply template is used.
        cases: what is replied to. A case that the method says nothing of, or that the writer
            answers with `None`, has no reply.
        descriptions: what the method says, in any order; those of other cases are passed over.
        seed: of sampling, the same for all methods that are compared.
    """
    description_of = {said.case_id: said.description for said in descriptions}
    described = [case for case in cases if case.case_id in description_of]
    completions = writer.complete(
        [prompts.reply(case.target.post, description_of[case.case_id]) for case in described], seed
    )
    return {
        case.case_id: Reply(completion.text.strip(), completion.ended)
        for case, completion in zip(described, completions, strict=True)
        if completion is not None
    }
