"""Language models that are talked to: in this process, in vLLM, or behind an endpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from alignxplore_trl.baselines.language_model import Conversation, question
from alignxplore_trl.inference.describing import Completion, Describer, SamplingSettings
from alignxplore_trl.judging.client import (
    CompletionsClient,
    Request,
    ServerRole,
    ServerSettings,
    Unanswered,
)
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.written import OPEN_THINK, Usage, Written, WrittenResponse
from alignxplore_trl.run.errors import UserError

PROMPTING = ServerRole(
    "language_model.server",
    "make serve-teacher",
    malformed="the answer has no text; it has to be a server of OpenAI-compatible completions",
    refused="a server other than vLLM may need language_model.top_k=null, one that only knows "
    "chats language_model.chat=true, and a model that sets its temperature itself "
    "+language_model.body.temperature=null",
)
# So many conversations without an answer in a row, each with its retries: the server is out.
GIVE_UP_AFTER = 50
_PROBE_TOKENS = 16


def as_message(prompt: str) -> str:
    """A prompt as a user's message: what it opens for the model to go on is the model's own."""
    return prompt.rstrip().removesuffix(OPEN_THINK).rstrip()


def plain_text(conversation: Conversation) -> str:
    """A conversation for a model that knows no turns: their texts, one after another."""
    return "\n\n".join(message.content for message in conversation)


def chat_messages(conversation: Conversation) -> list[dict[str, str]]:
    """A conversation in the shape of chat templates and of `/chat/completions`."""
    return [
        {
            "role": message.role,
            "content": as_message(message.content) if message.role == "user" else message.content,
        }
        for message in conversation
    ]


def rendered(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, *, chat: bool) -> str:
    """The text that a model goes on from; a chat template writes the special tokens itself."""
    if not chat:
        return plain_text(conversation)
    text = tokenizer.apply_chat_template(
        chat_messages(conversation), tokenize=False, add_generation_prompt=True
    )
    assert isinstance(text, str)
    return text


def written_here(completion: Completion, prompt_tokens: int) -> Written:
    """A completion of this process in the words of a server."""
    return Written(
        completion.text,
        None,
        "stop" if completion.ended else "length",
        prompt_tokens,
        completion.tokens + completion.ended,
    )


class LocalLanguageModel:
    """A causal language model in this process.

    An answer is a function of the seed and of all conversations of the call, whatever their order.

    Args:
        describer: samples completions, without special tokens of its own where `chat` holds.
        chat: send conversations through the tokenizer's chat template.
    """

    def __init__(self, describer: Describer, *, chat: bool) -> None:
        self.describer = describer
        self.sampling = describer.sampling
        self.chat = chat
        self.unanswered: Counter[str] = Counter()

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's tokens."""
        return self.describer.count_tokens(text)

    def answer(
        self, conversations: Sequence[Conversation], *, temperature: float, seed: int
    ) -> list[Written | None]:
        """See `LanguageModel`. "too_long": conversation and answer might exceed the context."""
        texts = [rendered(self.describer.tokenizer, each, chat=self.chat) for each in conversations]
        lengths = [self.count_tokens(text) for text in texts]
        room = self.describer.model.config.max_position_embeddings - self.sampling.max_new_tokens
        asked = [place for place, length in enumerate(lengths) if length <= room]
        self.unanswered["too_long"] += len(texts) - len(asked)
        asked.sort(key=lambda place: texts[place])
        completions = self.describer.at_temperature(temperature).complete(
            [texts[place] for place in asked], seed
        )
        answers = {
            place: written_here(completion, lengths[place])
            for place, completion in zip(asked, completions, strict=True)
        }
        return [answers.get(place) for place in range(len(texts))]


class VllmLanguageModel:
    """A model in vLLM in this process.

    Args:
        source: a folder, or a name on the Hub.
        sampling: how it samples where nothing else is said.
        seed: of the engine.
        chat: send conversations through the tokenizer's chat template.
        engine: further arguments of `vllm.LLM`.
    """

    def __init__(
        self,
        source: str,
        sampling: SamplingSettings,
        *,
        seed: int,
        chat: bool,
        engine: Mapping[str, Any],
    ) -> None:
        # Imported here: an extra, which other models do without.
        from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

        self.sampling = sampling
        self.chat = chat
        self.unanswered: Counter[str] = Counter()
        self._engine = LLM(model=source, seed=seed, generation_config="vllm", **engine)
        self._tokenizer = self._engine.get_tokenizer()
        self._parameters = partial(
            SamplingParams,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,
            max_tokens=sampling.max_new_tokens,
        )

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's tokens."""
        return len(self._tokenizer(text)["input_ids"])

    def answer(
        self, conversations: Sequence[Conversation], *, temperature: float, seed: int | None
    ) -> list[Written | None]:
        """See `LanguageModel`. "too_long": conversation and answer might exceed the context.

        Without a seed the engine goes on with its own.
        """
        room = self._engine.llm_engine.model_config.max_model_len - self.sampling.max_new_tokens
        occurrences: Counter[Conversation] = Counter()
        prompts: dict[int, dict[str, list[int]]] = {}
        parameters = []
        for place, conversation in enumerate(conversations):
            text = rendered(self._tokenizer, conversation, chat=self.chat)
            ids = self._tokenizer(text, add_special_tokens=not self.chat)["input_ids"]
            if len(ids) > room:
                self.unanswered["too_long"] += 1
                continue
            # Equal conversations with one seed would get one answer.
            own = None if seed is None else seed + occurrences[conversation]
            occurrences[conversation] += 1
            prompts[place] = {"prompt_token_ids": ids}
            parameters.append(self._parameters(temperature=temperature, seed=own))
        outputs = self._engine.generate(list(prompts.values()), parameters, use_tqdm=False)
        answers = {
            place: Written(
                output.outputs[0].text,
                None,
                output.outputs[0].finish_reason,
                len(output.prompt_token_ids),
                len(output.outputs[0].token_ids),
            )
            for place, output in zip(prompts, outputs, strict=True)
        }
        return [answers.get(place) for place in range(len(conversations))]


class ServerLanguageModel:
    """A model behind an OpenAI-compatible endpoint: a vLLM server, or a vendor's.

    No seed is sent: servers don't keep to it, since the sums of a batch depend on what else is in
    it.

    Args:
        settings: where the servers are, and how much is asked of them.
        sampling: how they are to sample where nothing else is said.
        count_tokens: length of a text in the model's tokens, where a server doesn't say.
        chat: send conversations as messages, through `/chat/completions`.
        body: further fields of each request; `None` takes one of ours out.

    Raises:
        UserError: the environment variable for the key isn't set.
    """

    def __init__(
        self,
        settings: ServerSettings,
        sampling: SamplingSettings,
        count_tokens: Callable[[str], int],
        *,
        chat: bool,
        body: Mapping[str, Any],
    ) -> None:
        self.sampling = sampling
        self.chat = chat
        self.body = body
        self.client = CompletionsClient(settings)
        self.measurements = Measurements()
        self.unanswered: Counter[str] = Counter()
        self._count_tokens = count_tokens
        self._is_checked = False

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's tokens."""
        return self._count_tokens(text)

    def check(self) -> None:
        """Ask each server for one short text, once, before anything depends on it.

        Raises:
            UserError: a server isn't there, refuses, or gives no text.
        """
        if self._is_checked:
            return
        greeting = question(f"Say hello.\n{OPEN_THINK}")
        request = self.request("", greeting, self.sampling.temperature)
        limits = {"max_tokens", "max_completion_tokens"} & request.body.keys()
        short = {**request.body, **dict.fromkeys(limits, _PROBE_TOKENS)}
        self.client.check(replace(request, body=short))
        self._is_checked = True

    def answer(
        self, conversations: Sequence[Conversation], *, temperature: float, seed: int
    ) -> list[Written | None]:
        """See `LanguageModel`. The reasons are those of `Unanswered`."""
        self.check()
        waiting = enumerate(conversations)
        answers: list[Written | None] = [None] * len(conversations)
        in_a_row = 0

        def next_request() -> tuple[int, Request[Written]] | None:
            if in_a_row >= GIVE_UP_AFTER or (own := next(waiting, None)) is None:
                return None
            place, conversation = own
            return place, self.request(plain_text(conversation), conversation, temperature)

        def take(place: int, answer: Written | Unanswered) -> None:
            nonlocal in_a_row
            if isinstance(answer, Written):
                answers[place], in_a_row = answer, 0
            else:
                self.unanswered[answer.reason] += 1
                in_a_row += answer.reason != "too_long"

        self.client.ask_each(next_request, take, self.measurements)
        if in_a_row >= GIVE_UP_AFTER:
            raise UserError(
                f"{self.client.settings.role.section}: no answer to {in_a_row} requests in a row "
                f"({dict(self.unanswered)}); see that the server answers, and give the same "
                "command again"
            )
        return answers

    def request(self, key: str, conversation: Conversation, temperature: float) -> Request[Written]:
        """A request for the next turn; those with the same key go to the same server."""
        body: dict[str, object] = {
            "max_tokens": self.sampling.max_new_tokens,
            "temperature": temperature,
            "top_p": self.sampling.top_p,
            "top_k": self.sampling.top_k,
        }
        if self.chat:
            body["messages"] = chat_messages(conversation)
        else:
            body["prompt"] = plain_text(conversation)
        sent = {name: value for name, value in {**body, **self.body}.items() if value is not None}
        path = "/chat/completions" if self.chat else "/completions"
        return Request(key, sent, partial(self._read, plain_text(conversation)), path=path)

    def _read(self, prompt: str, content: bytes) -> Written:
        """What was written, of a response's bytes.

        Raises:
            ValueError: there is not exactly one answer.
        """
        response = WrittenResponse.from_bytes(content)
        if len(response.choices) != 1:
            raise ValueError(f"found {len(response.choices)} answers, expected 1")
        [choice] = response.choices
        text, usage = choice.read(), response.usage or Usage()
        read, written = usage.prompt_tokens, usage.completion_tokens
        return Written(
            text,
            choice.reasoning,
            choice.finish_reason,
            self._count_tokens(prompt) if read is None else read,
            self._count_tokens((choice.reasoning or "") + text) if written is None else written,
        )
