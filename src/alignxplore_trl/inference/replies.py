"""Replies for one user: any language model writes them, conditioned on the user's description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from alignxplore_trl.baselines.language_model import LanguageModel, question
from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.inference.language_models import LocalLanguageModel, ServerLanguageModel
from alignxplore_trl.judging.client import ServerRole, ServerSettings
from alignxplore_trl.judging.protocol import Judge, JudgedPair, preference_probabilities
from alignxplore_trl.judging.written import OPEN_THINK, Written
from alignxplore_trl.text.rendering import PromptSet

REPLYING = ServerRole(
    "server",
    "vllm serve <model>",
    malformed="the answer has no text; it has to be a server of OpenAI-compatible completions",
    refused="one that only knows chats needs chat (--chat)",
)
# Of a model of which nothing is known; all tokens may be drawn, since vendors know no top_k.
REPLY_SAMPLING = SamplingSettings(max_new_tokens=512, temperature=0.7, top_p=0.95, top_k=None)
_CLOSE_THINK = "</think>"


@dataclass(frozen=True)
class ReplyRequest:
    """What is replied to, and for whom.

    Attributes:
        post: what the user wrote.
        description: of the user's preferences; `None` for a reply to anybody.
    """

    post: str
    description: str | None = None


@dataclass(frozen=True)
class CandidateReply:
    """One of the replies that were written to a request.

    Attributes:
        text: without reasoning, and without the white space around it.
        ended: whether the model ended it, and not the limit of tokens.
        preference: mean probability with which the judge prefers it to another candidate; `None`
            where no judge was asked, or it gave no answer about this one.
    """

    text: str
    ended: bool
    preference: float | None = None


@dataclass(frozen=True)
class PersonalReply:
    """The reply that was chosen, and those it was chosen from.

    Attributes:
        chosen: the reply.
        candidates: all that differ, in the order in which they were written.
        unanswered: pairs of candidates that the judge gave no answer about.
    """

    chosen: CandidateReply
    candidates: tuple[CandidateReply, ...]
    unanswered: int = 0


class NotRepliedError(Exception):
    """No reply could be had."""


class PersonalReplyWriter:
    """Lets a language model reply, and a judge choose among several replies if one is given.

    The prompt is the one of R_gen and of win rates; the judge sees every pair of candidates in both
    orders, under the same description.

    Args:
        model: any language model, here or behind an endpoint.
        prompts: the templates; the reply template is used.
        temperature: of sampling.
        judge: chooses; `None`: the first candidate is taken.
        candidates: replies that are written to a request.
        seed: of sampling, where the model can be told one.

    Raises:
        ValueError: several candidates and nobody to choose, a judge and nothing to choose from, or
            several candidates at temperature 0, where all are the same.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: PromptSet,
        *,
        temperature: float,
        judge: Judge | None = None,
        candidates: int = 1,
        seed: int = 0,
    ) -> None:
        if candidates < 1 or (judge is None) != (candidates == 1):
            raise ValueError(
                f"candidates: {candidates} found, expected "
                + ("1 without a judge" if judge is None else "2 or more for a judge")
            )
        if candidates > 1 and temperature == 0:
            raise ValueError("temperature: 0 found, expected more where there are candidates")
        self.model = model
        self.prompts = prompts
        self.temperature = temperature
        self.judge = judge
        self.candidates = candidates
        self.seed = seed

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        prompts: PromptSet,
        *,
        chat: bool,
        sampling: SamplingSettings = REPLY_SAMPLING,
        device: str = "cpu",
        dtype: str = "auto",
        batch_size: int = 16,
        judge: Judge | None = None,
        candidates: int = 1,
        seed: int = 0,
    ) -> PersonalReplyWriter:
        """Load a causal language model into this process.

        Args:
            model: a folder, or owner/name on the Hub.
            prompts: see the class.
            chat: ask through its chat template; false: with plain text.
            sampling: how it samples.
            device: cpu, cuda, cuda:1, ….
            dtype: of its weights; auto: as they are saved.
            batch_size: replies that are written in one call of `generate`.
            judge, candidates, seed: see the class.
        """
        sampler = Describer.from_folder(
            model,
            prompts,
            dtype=dtype,
            device=device,
            sampling=sampling,
            max_prompt_tokens=0,  # Of descriptions, which it isn't asked for.
            batch_size=batch_size,
            add_special_tokens=not chat,
        )
        return cls(
            LocalLanguageModel(sampler, chat=chat),
            prompts,
            temperature=sampling.temperature,
            judge=judge,
            candidates=candidates,
            seed=seed,
        )

    @classmethod
    def at_servers(
        cls,
        model: str,
        urls: Sequence[str],
        prompts: PromptSet,
        *,
        chat: bool,
        sampling: SamplingSettings = REPLY_SAMPLING,
        key_variable: str | None = None,
        concurrency: int = 64,
        request_timeout: float = 600.0,
        deadline: float = 1800.0,
        judge: Judge | None = None,
        candidates: int = 1,
    ) -> PersonalReplyWriter:
        """The same behind any OpenAI-compatible endpoint.

        Args:
            model: its name there.
            urls: base URLs such as `http://127.0.0.1:8000/v1`, all with this model.
            prompts: see the class.
            chat: send messages to /chat/completions; false: plain text to /completions.
            sampling: how it samples; what is `None` isn't sent.
            key_variable: the environment variable with the key; `None`: they ask for none.
            concurrency: requests under way at once.
            request_timeout: seconds for one answer.
            deadline: seconds for one request with all its retries.
            judge, candidates: see the class.

        Raises:
            UserError: an address is none, or the variable for the key isn't set.
        """
        settings = ServerSettings(
            tuple(urls),
            model,
            concurrency=concurrency,
            request_timeout=request_timeout,
            deadline=deadline,
            key_variable=key_variable,
            role=REPLYING,
        )
        # A reply isn't measured in tokens, so that no tokenizer is needed.
        served = ServerLanguageModel(settings, sampling, lambda text: 0, chat=chat, body={})
        return cls(
            served,
            prompts,
            temperature=sampling.temperature,
            judge=judge,
            candidates=candidates,
        )

    def reply(self, post: str, description: str | None = None) -> PersonalReply:
        """Reply to a post as the described user would like it.

        Raises:
            NotRepliedError: the model could not be asked, or wrote nothing.
        """
        [reply] = self.write([ReplyRequest(post, description)])
        if reply is None:
            raise NotRepliedError(f"no reply: {_why(self.model.unanswered)}")
        return reply

    def write(self, requests: Sequence[ReplyRequest]) -> list[PersonalReply | None]:
        """A reply to each request, all of them asked at once; `None` where none could be had."""
        asked = [
            question(self.prompts.reply(each.post, each.description))
            for each in requests
            for _ in range(self.candidates)
        ]
        answers = iter(self.model.answer(asked, temperature=self.temperature, seed=self.seed))
        written = [_different([next(answers) for _ in range(self.candidates)]) for _ in requests]
        if self.judge is None:
            return [PersonalReply(own[0], tuple(own)) if own else None for own in written]
        return _judged(self.judge, requests, written, self.seed)


def _why(unanswered: Counter[str]) -> str:
    reasons = sorted(reason for reason, count in unanswered.items() if count)
    if reasons == ["too_long"]:
        return "what is asked and the longest reply together exceed the model's context"
    return f"the model gave no answer ({', '.join(reasons)})" if reasons else "the model was silent"


def _different(answers: Sequence[Written | None]) -> list[CandidateReply]:
    """The replies in some answers, each text once, without those that are empty."""
    replies: dict[str, CandidateReply] = {}
    for answer in answers:
        if answer is not None:
            text = answer.text.rpartition(_CLOSE_THINK)[2].strip()
            # Reasoning that used up the tokens is no reply.
            if text and not text.startswith(OPEN_THINK):
                replies.setdefault(text, CandidateReply(text, answer.ended))
    return list(replies.values())


def _judged(
    judge: Judge,
    requests: Sequence[ReplyRequest],
    written: Sequence[list[CandidateReply]],
    seed: int,
) -> list[PersonalReply | None]:
    """Of each request, the candidate that the judge prefers to the others, in one call to it."""
    places = [list(combinations(range(len(own)), 2)) for own in written]
    pairs = [
        JudgedPair(f"{number}", request.post, request.description, own[a].text, own[b].text)
        for number, (request, own, of_request) in enumerate(
            zip(requests, written, places, strict=True)
        )
        for a, b in of_request
    ]
    probabilities = iter(preference_probabilities(judge, pairs, "both", seed) if pairs else [])
    replies: list[PersonalReply | None] = []
    for own, of_request in zip(written, places, strict=True):
        verdicts = {pair: next(probabilities) for pair in of_request}
        replies.append(_chosen(own, verdicts) if own else None)
    return replies


def _chosen(
    candidates: Sequence[CandidateReply], verdicts: dict[tuple[int, int], float | None]
) -> PersonalReply:
    """The candidate with the highest mean preference, the first written where all are equal."""
    of_candidate: list[list[float]] = [[] for _ in candidates]
    for (first, second), probability in verdicts.items():
        if probability is not None:
            of_candidate[first].append(probability)
            of_candidate[second].append(1.0 - probability)
    scored = [
        CandidateReply(own.text, own.ended, sum(values) / len(values) if values else None)
        for own, values in zip(candidates, of_candidate, strict=True)
    ]
    known = [each for each in scored if each.preference is not None]
    chosen = max(known, key=lambda each: each.preference or 0.0) if known else scored[0]
    return PersonalReply(chosen, tuple(scored), sum(p is None for p in verdicts.values()))
