"""Language models that write: in this process, in vLLM, or behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import gc
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignxplore_trl.run.endpoint import Endpoint, Refusal, Request
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import progress
from alignxplore_trl.text.completions import Inference, parse_completion

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Written:
    """What a model wrote, from inside `<think>`; where a server counts no tokens, these are 0."""

    text: str
    prompt_tokens: int
    completion_tokens: int


Ask = tuple[str, int]  # A prompt, and the number of the sample of it that is asked for.
Answers = list[Written | None]
Arrived = Callable[[Mapping[int, Written]], None]  # Given answers by the places of their asks.


@dataclass(kw_only=True, eq=False)
class Writer(ABC):
    """A model that continues prompts; its weights are loaded later than its settings.

    With `chat` prompts are a user's message in the model's chat template. `temperature` 0 takes the
    most probable token each time, `top_k` `None` draws from all. `counts` has reasons of no answer.
    """

    chat: bool
    temperature: float
    top_p: float
    top_k: int | None
    max_new_tokens: int
    counts: Counter[str] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError("temperature is 0 or more, and top_p more than 0 and up to 1")

    def write(self, prompts: Sequence[str], samples: int = 1, seed: int = 0) -> list[Answers]:
        """Samples of each prompt; `None` where there is no answer."""
        asks, found = [(each, n) for each in prompts for n in range(samples)], dict[int, Written]()
        self.write_each(asks, seed, found.update)
        answers = [found.get(place) for place in range(len(asks))]
        return [answers[start : start + samples] for start in range(0, len(asks), samples)]

    @abstractmethod
    def write_each(self, asks: Sequence[Ask], seed: int, arrived: Arrived) -> None:
        """Hand over answers as they arrive: in this process made by seed, prompt and number."""

    @abstractmethod
    def load(self) -> None:
        """Bring the model into memory, or see that its server answers, before it is needed."""

    def close(self) -> None:  # noqa: B027 - a server's memory isn't ours
        """Give its memory back, until it is loaded again."""


@dataclass(kw_only=True, eq=False)
class _InProcess(Writer):
    """A folder, or a name on the Hub; `batch_size` asks are handed over, and arrive, at once."""

    model: str
    batch_size: int = 1024
    _model: Any = field(init=False, default=None)

    def load(self) -> None:
        if self._model is None:
            self._model, self._tokenizer, context, ends = self._open()
            if self.chat and not self._tokenizer.chat_template:
                raise UserError(f"{self.model}: it has no chat template; choose chat: false")
            self._room = (context or 2**31) - self.max_new_tokens
            ends = [*(ends if isinstance(ends, list) else [ends]), self._tokenizer.eos_token_id]
            self._ends = {token for token in ends if token is not None}

    def close(self) -> None:
        import torch

        self._model = None
        gc.collect()
        torch.cuda.empty_cache()

    def write_each(self, asks: Sequence[Ask], seed: int, arrived: Arrived) -> None:
        if not asks:
            return
        self.load()
        texts = [prompt for prompt, _ in asks]
        if self.chat:
            chats = [[{"role": "user", "content": as_message(text)}] for text in texts]
            how = {"tokenize": False, "add_generation_prompt": True}
            texts = self._tokenizer.apply_chat_template(chats, **how)
        read = self._tokenizer(texts, add_special_tokens=not self.chat)["input_ids"]
        order = [place for place, ids in enumerate(read) if len(ids) <= self._room]
        self.counts["too_long"] += len(asks) - len(order)
        # Similar lengths together, and the longest first: too little memory shows at once.
        order.sort(key=lambda place: (-len(read[place]), asks[place]))
        starts = range(0, len(order), self.batch_size)
        for start in progress(starts, f"batches of {self.model}", len(starts)):
            places = order[start : start + self.batch_size]
            seeds = [random.Random(f"{seed}/{asks[n]}").getrandbits(63) for n in places]
            rows = self._generate([read[place] for place in places], seeds)
            both = zip(places, rows, strict=True)
            arrived({place: self._written(len(read[place]), row) for place, row in both})

    def _written(self, read: int, row: list[int]) -> Written:
        length = next((n for n, token in enumerate(row) if token in self._ends), len(row))
        text = str(self._tokenizer.decode(row[:length], skip_special_tokens=True))
        return Written(as_completion(text) if self.chat else text, read, min(length + 1, len(row)))

    @abstractmethod
    def _open(self) -> tuple[Any, Any, int | None, Any]:
        """Model, tokenizer, longest context, end tokens."""

    @abstractmethod
    def _generate(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        """The tokens that follow each prompt, drawn by its own seed."""


@dataclass(kw_only=True, eq=False)
class TransformersWriter(_InProcess):
    """A causal language model in this process, by transformers' `generate`; see `load_model`."""

    dtype: str
    attn_implementation: str | None = None

    def _open(self) -> tuple[Any, Any, int | None, Any]:
        from alignxplore_trl.judging.weights import load_model, load_tokenizer

        model = load_model(self.model, self.dtype, self.attn_implementation)
        tokenizer = load_tokenizer(self.model)
        tokenizer.padding_side = "left"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return model, tokenizer, context, model.generation_config.eos_token_id

    def _generate(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        import torch
        from transformers import GenerationConfig

        def draw(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            """Leave the one token that each row's own number between 0 and 1 points to."""
            count = min(self.top_k or scores.shape[1], scores.shape[1])
            values, tokens = torch.topk(scores.float() / self.temperature, count)
            shares = torch.softmax(values, dim=1)
            shares = shares * (shares.cumsum(dim=1) - shares < self.top_p)
            bounds = shares.cumsum(dim=1)
            points = draws[:, ids.shape[1] - length, None] * bounds[:, -1:]
            drawn = tokens.gather(1, (bounds[:, :-1] <= points).sum(dim=1, keepdim=True))
            return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)

        device, steps = self._model.device, self.max_new_tokens
        streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        draws = torch.stack([torch.rand(steps, generator=each) for each in streams]).to(device)
        # Not `do_sample`: one stream of numbers for a batch would tie its texts together.
        how = GenerationConfig(
            do_sample=False, repetition_penalty=1.0, max_new_tokens=steps,
            eos_token_id=[*self._ends], pad_token_id=self._tokenizer.pad_token_id,
        )  # fmt: skip
        inputs = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(device)
        length, draw_by = inputs["input_ids"].shape[1], [draw] if self.temperature > 0 else []
        with torch.inference_mode():
            rows = self._model.generate(**inputs, generation_config=how, logits_processor=draw_by)
        return list(rows[:, length:].tolist())


@dataclass(kw_only=True, eq=False)
class VllmWriter(_InProcess):
    """A model in a vLLM engine of this process; `engine` holds further arguments of `vllm.LLM`."""

    engine: Mapping[str, Any]

    def close(self) -> None:
        if self._model is not None:
            self._model.llm_engine.engine_core.shutdown()
        super().close()

    def _open(self) -> tuple[Any, Any, int | None, Any]:
        try:
            from vllm import LLM

            # Sampling is ours to say; the model's own end tokens stay.
            model = LLM(self.model, generation_config="vllm", **self.engine)
        except (ImportError, OSError, ValueError) as error:
            raise UserError(f"{self.model} in vLLM (make install-gpu): {error}") from error
        config = model.llm_engine.model_config
        ends = config.try_get_generation_config().get("eos_token_id")
        return model, model.get_tokenizer(), config.max_model_len, ends

    def _generate(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        from vllm import SamplingParams

        drawing = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k or 0}
        how = [SamplingParams(**drawing, max_tokens=self.max_new_tokens, seed=n) for n in seeds]
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = self._model.generate(asked, how, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


@dataclass(kw_only=True, eq=False)
class EndpointWriter(Writer):
    """A model behind an OpenAI-compatible endpoint: a vLLM server, or a vendor's; see `Endpoint`.

    `body` has further fields of each request; one that is `None` takes ours out.
    """

    urls: Sequence[str]
    served_as: str
    key_variable: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 64
    timeout: float = 600.0
    deadline: float = 1800.0

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = self.concurrency, self.timeout, self.deadline
        self._endpoint = Endpoint(self.urls, self.served_as, self.key_variable, *limits)
        self.counts = self._endpoint.counts

    def load(self) -> None:
        [answer] = self._endpoint.ask([self._request("Say hello.", 16)])
        if isinstance(answer, Refusal) and answer.reason != "malformed":
            raise UserError(f"{self.urls}: {answer.reason}: {answer.said}")

    def write_each(self, asks: Sequence[Ask], seed: int, arrived: Arrived) -> None:
        steps = iter(progress(range(len(asks)), f"completions of {self.served_as}", len(asks)))
        in_a_row = 0

        def taken(place: int, answer: Written | Refusal) -> None:
            nonlocal in_a_row
            next(steps)
            in_a_row = in_a_row + 1 if isinstance(answer, Refusal) else 0
            if in_a_row == 50:  # Each with its retries: the server is out.
                raise UserError(f"{self.urls}: no answer to {in_a_row} requests: {self.counts}")
            if isinstance(answer, Written):
                arrived({place: answer})

        requests = [self._request(prompt, self.max_new_tokens) for prompt, _ in asks]
        self._endpoint.ask(requests, each=True, taken=taken)

    def _request(self, prompt: str, longest: int) -> Request[Written]:
        message = {"role": "user", "content": as_message(prompt)}
        text = {"messages": [message]} if self.chat else {"prompt": prompt}
        drawing = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        fields = {**text, "max_tokens": longest, **drawing, **self.body}
        sent = {name: value for name, value in fields.items() if value is not None}
        return Request(prompt, sent, read_answer, f"{'/chat' * self.chat}/completions")


def open_writer(
    model: str,
    urls: Sequence[str] = (),
    served_as: str | None = None,
    key_variable: str | None = None,
    vllm: bool = False,
    **how: Any,
) -> Writer:
    """A model that writes: at servers if there are `urls`, in vLLM, or by transformers.

    `model` is a folder, or owner/name on the Hub, and its name at servers unless `served_as` says
    another; `how` is `chat` and the sampling.
    """
    if urls:
        served_as = served_as or model
        return EndpointWriter(urls=urls, served_as=served_as, key_variable=key_variable, **how)
    if vllm:
        return VllmWriter(model=model, engine={}, **how)
    return TransformersWriter(model=model, dtype="auto", batch_size=64, **how)


def read_answer(response: Any) -> Written:
    """What a server wrote; ValueError where that is nothing, or a reasoning without an end."""
    [choice] = response["choices"]
    message = choice.get("message") or {"content": choice.get("text")}
    content = message.get("content") or ""
    parts = [{"text": content}] if isinstance(content, str) else content
    thoughts = [part for part in parts if part.get("type") in ("thinking", "reasoning")]
    text = _joined([part for part in parts if part not in thoughts])
    thought = message.get("reasoning_content") or message.get("reasoning") or _joined(thoughts)
    if not text.strip():
        ended = choice.get("finish_reason")
        raise ValueError(f"no text ({ended}); a longer reasoning needs a larger max_new_tokens")
    text = as_completion(text, thought) if "message" in choice else text
    # Half a character, which JSON may escape, is taken by no file and no tokenizer.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    usage = response.get("usage") or {}
    tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    return Written(text, *tokens)


def as_message(prompt: str) -> str:
    """A prompt as a user's message: without turns, and without the `<think>` that it opens."""
    text = prompt.rstrip().removesuffix("<think>").rstrip().removesuffix("Assistant:")
    return text.strip().removeprefix("User:").lstrip()


def as_completion(text: str, thought: str = "") -> str:
    """A chat's answer from inside `<think>`; reasoning in the form asked for counts most."""
    text = text.lstrip().removeprefix("<think>")
    again = text.partition("</think>")[2].lstrip().removeprefix("<think>")
    if isinstance(parse_completion(again), Inference):
        return again
    if not thought or isinstance(parse_completion(text), Inference):
        return text
    return f" {thought.strip()} </think> {text}"


def _joined(parts: Any) -> str:
    """The text of a part of a message, or of parts within parts."""
    if isinstance(parts, dict):
        parts = next((parts[n] for n in ("text", "thinking", "reasoning") if parts.get(n)), "")
    return parts if isinstance(parts, str) else "".join(map(_joined, parts))
