"""What a server wrote: the shapes of `/completions` and `/chat/completions`, in one."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

# Numbers that a sum, a price or a file can hold.
_Tokens = Annotated[int, Field(ge=0, lt=2**31)]


class WrittenMessage(BaseModel):
    """The message of a chat; `content` is `None` where the reasoning used up the tokens.

    Reasoning that the server separates is called `reasoning_content` by some and `reasoning` by
    others.
    """

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class WrittenChoice(BaseModel):
    """An answer: `text` of `/completions`, `message` of `/chat/completions`."""

    text: str | None = None
    message: WrittenMessage | None = None
    finish_reason: str | None = None

    def read(self) -> str:
        """The answer without what the server separates from it.

        Raises:
            ValueError: there is neither a text nor a message.
        """
        if self.message is not None:
            return self.message.content or ""
        if self.text is None:
            raise ValueError("found neither a text nor a message")
        return self.text

    @property
    def reasoning(self) -> str | None:
        """Reasoning that the server has separated from the answer."""
        if self.message is None:
            return None
        return self.message.reasoning_content or self.message.reasoning or None


class Usage(BaseModel):
    """Tokens that were read and written, as far as a server says."""

    prompt_tokens: _Tokens | None = None
    completion_tokens: _Tokens | None = None
    total_tokens: _Tokens = 0


class WrittenResponse(BaseModel):
    """A response with answers."""

    choices: list[WrittenChoice]
    usage: Usage | None = None
