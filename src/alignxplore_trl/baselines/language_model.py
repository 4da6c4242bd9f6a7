"""A language model that is talked to: what the methods need that prompt one, whoever runs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from alignxplore_trl.judging.written import Written


@dataclass(frozen=True)
class Message:
    """A turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


Conversation = tuple[Message, ...]


def question(text: str) -> Conversation:
    """A conversation that begins and ends with one message of the user's."""
    return (Message("user", text),)


class LanguageModel(Protocol):
    """A model that goes on with conversations.

    Attributes:
        chat: whether it is sent messages, and so opens its reasoning itself; otherwise it is sent
            their texts one after another, and goes on from the last.
        unanswered: conversations that it gave no answer to, by reason.
    """

    chat: bool
    unanswered: Counter[str]

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's tokens."""
        ...

    def answer(
        self, conversations: Sequence[Conversation], *, temperature: float, seed: int
    ) -> list[Written | None]:
        """The model's next turn in each conversation, in their order.

        Equal conversations get answers of their own. `None` where there is none; each is counted in
        `unanswered`.

        Args:
            conversations: each ends with a message of the user's.
            temperature: at 0 the most probable tokens are written.
            seed: of sampling, where the model can be told one.

        Raises:
            UserError: the model isn't there, or has stopped answering.
        """
        ...
