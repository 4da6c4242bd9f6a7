"""What a language model wrote, and the shapes in which servers send it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ValidationError

from alignxplore_trl.text.parsing import Inference, parse_completion

OPEN_THINK = "<think>"


@dataclass(frozen=True)
class Written:
    """What a model wrote.

    Attributes:
        text: the answer.
        reasoning: what the server separated from it.
        finish_reason: why it ends, as a server says it: `stop`, `length`, ….
        prompt_tokens: that were read.
        completion_tokens: that were written, reasoning and the token that ends it included.
    """

    text: str
    reasoning: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int

    @property
    def ended(self) -> bool:
        """Whether the model ended it, and not the limit of tokens."""
        return self.finish_reason == "stop"


def completion_of(written: Written, chat: bool) -> str:
    """The answer as the one parser reads it: from inside `<think>`, which a prompt has opened.

    A model that is sent messages opens `<think>` itself, or its server has taken the reasoning out.
    Where the answer has reasoning of its own in the form asked for, that is the one that counts.
    """
    text = written.text
    if chat and text.lstrip().startswith(OPEN_THINK):
        text = text.lstrip().removeprefix(OPEN_THINK)
    if written.reasoning is None or isinstance(parse_completion(text), Inference):
        return text
    return f" {written.reasoning.strip()} </think> {text}"


def _tokens(value: Any) -> int | None:
    """A number of tokens; `None` where it can't be one: the text that it is about was paid for."""
    return value if type(value) is int and 0 <= value < 2**31 else None


def _mapping(value: Any) -> Any:
    return value if isinstance(value, dict) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


_Tokens = Annotated[int | None, BeforeValidator(_tokens)]


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
    finish_reason: Annotated[str | None, BeforeValidator(_text)] = None

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
    total_tokens: _Tokens = None


class WrittenResponse(BaseModel):
    """A response with answers."""

    choices: list[WrittenChoice]
    usage: Annotated[Usage | None, BeforeValidator(_mapping)] = None

    @classmethod
    def from_bytes(cls, content: bytes) -> WrittenResponse:
        """The response in these bytes; halves of characters, which no file takes, are replaced.

        Raises:
            ValueError: it is none.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            # Python's own reader takes what JSON may escape and Unicode doesn't know.
            try:
                values = json.loads(content)
            except RecursionError as error:
                raise ValueError("found lists within lists") from error
            return cls.model_validate(_whole_characters(values))


def _whole_characters(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list():
            return [_whole_characters(each) for each in value]
        case dict():
            return {key: _whole_characters(each) for key, each in value.items()}
    return value
