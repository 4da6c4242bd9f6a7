"""How much quicker judging is than one plain forward pass per question, measured side by side.

    python benchmarks/judging.py

A judge with random weights (width 512, 8 layers, vocabulary 16,384, float32, 2 threads) is asked
about 16 cases with 4 rollouts each: instructions and example 400 tokens, post 150, description 250,
two replies of 200; each text is up to a tenth shorter or longer, as texts are. The generator's
prompt has no instructions to share. Two cases at a time are handled in every way, in random order;
a ratio is the median over these repetitions. The last line is one JSON object:

    jud_vs_plain               plain time / time of the local judge, one order of the responses
    jud_both_vs_plain          the same with both orders
    jud_vs_bound               time of the local judge / one plain pass over the distinct tokens
    jud_both_vs_bound          the same with both orders
    jud_vs_sampled             time to generate the answer token by token / time of the local judge
    description_last_vs_plain  plain time / time of the local judge with the description last
    gen_vs_plain_cold          time of four plain passes a rollout / time of the local generator
    gen_vs_plain_warm          the same, once the terms without a description are on disk
    layer_overhead             share of a judging step that is not spent in the model
    max_probability_error      largest difference of any probability from that of plain passes

Plain passes get token ids; ours start from the text of completions.
"""

from __future__ import annotations

import json
import logging
import math
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.judging.generator import Continuation, LocalGenerator
from alignxplore_trl.judging.generator_cache import CachedGenerator
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import JudgedPair, Order, preference_probabilities
from alignxplore_trl.text.parsing import Inference, parse_completion
from alignxplore_trl.text.rendering import SHIPPED_PROMPTS, Layout, PromptSet, Question

logger = logging.getLogger("benchmark")

CASES, ROLLOUTS, CASES_AT_A_TIME = 16, 4, 2
INSTRUCTIONS, POST, DESCRIPTION, REPLY = 400, 150, 250, 200
VARIATION = 0.1
WIDTH, LAYERS, VOCABULARY, THREADS = 512, 8, 16_384, 2
MAX_BATCH_TOKENS = 8192
# No repetition starts after so many seconds.
LATEST_START = 420
ANSWER_START = '{"selection": "Response'
ANSWER = ANSWER_START + ' A"}'
RATIOS = {
    "jud_vs_plain": ("plain", "judge"),
    "jud_both_vs_plain": ("plain_both", "judge_both"),
    "jud_vs_bound": ("judge", "bound"),
    "jud_both_vs_bound": ("judge_both", "bound_both"),
    "jud_vs_sampled": ("sampled", "judge"),
    "description_last_vs_plain": ("plain", "judge_last"),
    "gen_vs_plain_cold": ("plain_generator", "generator_cold"),
    "gen_vs_plain_warm": ("plain_generator", "generator_warm"),
}
SLOTS = {
    "judgement": "<description>{{ description }}</description>\n<post>{{ post }}</post>\n"
    "<response_a>{{ response_a }}</response_a>\n<response_b>{{ response_b }}</response_b>\n",
    "judgement_description_last": "<post>{{ post }}</post>\n"
    "<response_a>{{ response_a }}</response_a>\n<response_b>{{ response_b }}</response_b>\n"
    "<description>{{ description }}</description>\n",
}

Ids = list[int]


@dataclass(frozen=True)
class Case:
    """A case and what the policy wrote about its user."""

    key: str
    post: str
    chosen: str
    rejected: str
    completions: list[str]


class Words:
    """Texts of any number of tokens, in a language of invented words."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]
        self.words = ["".join(self.random.choices(syllables, k=3)) for _ in range(12_000)]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|pad|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        fixed = [*SLOTS.values(), ANSWER, ANSWER.replace("A", "B")]
        texts = fixed * 20 + [f" {word}" for word in self.words] * 2
        tokenizer.train_from_iterator(texts, trainer)
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>")

    def text(self, tokenizer: PreTrainedTokenizerFast, tokens: int, variation: float) -> str:
        tokens += self.random.randint(-round(variation * tokens), round(variation * tokens))
        text = " ".join(self.random.choices(self.words, k=tokens))
        return str(tokenizer.decode(tokenizer(text)["input_ids"][:tokens]))


def make_prompts(folder: Path, instructions: str) -> PromptSet:
    """The default prompts, with judgements that begin with long instructions."""
    shutil.copytree(SHIPPED_PROMPTS / "default", folder)
    for name, slots in SLOTS.items():
        (folder / f"{name}.jinja").write_text(f"{instructions}\n{slots}Answer: ")
    return PromptSet(folder)


def make_cases(words: Words, tokenizer: PreTrainedTokenizerFast) -> list[Case]:
    def text(tokens: int) -> str:
        return words.text(tokenizer, tokens, VARIATION)

    return [
        Case(
            str(number),
            text(POST),
            text(REPLY),
            text(REPLY),
            [
                f"{text(20)} </think> <answer> {text(DESCRIPTION)} </answer>"
                for _ in range(ROLLOUTS)
            ],
        )
        for number in range(CASES)
    ]


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=1376,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        initializer_range=WIDTH**-0.5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


class Plain:
    """One padded forward pass per text, in batches of similar length: what to compare with."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model = model

    @torch.inference_mode()
    def probabilities(self, rows: Sequence[Ids], letters: list[int]) -> list[float]:
        """P(first letter | either letter) after each row."""
        found = [0.0] * len(rows)
        for batch in batches(rows):
            logits = self._logits([rows[number] for number in batch], 1)[:, 0, letters]
            for number, value in zip(batch, logits.softmax(-1)[:, 0].tolist(), strict=True):
                found[number] = value
        return found

    @torch.inference_mode()
    def log_probabilities(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[list[float]]:
        """log p of the tokens of each second part after the first."""
        rows = [head + tail[:-1] for head, tail in pairs]
        found: list[list[float]] = [[] for _ in pairs]
        for batch in batches(rows):
            tails = [pairs[number][1] for number in batch]
            logits = self._logits([rows[number] for number in batch], max(map(len, tails)))
            for number, tail, row in zip(batch, tails, logits, strict=True):
                own = row[len(row) - len(tail) :]
                chosen = own.gather(1, torch.tensor(tail)[:, None])[:, 0]
                found[number] = (chosen - own.logsumexp(1)).tolist()
        return found

    @torch.inference_mode()
    def sample(self, rows: Sequence[Ids], tokens: int) -> None:
        """Write answers token by token, as the sampled way of judging does."""
        for batch in batches(rows):
            ids, mask = pad([rows[number] for number in batch])
            options = {"do_sample": True, "min_new_tokens": tokens, "max_new_tokens": tokens}
            self.model.generate(input_ids=ids, attention_mask=mask, **options)

    def _logits(self, rows: Sequence[Ids], last: int) -> torch.Tensor:
        ids, mask = pad(rows)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits: torch.Tensor = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=last,
        ).logits
        return logits


def batches(rows: Sequence[Ids]) -> Iterator[list[int]]:
    left = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    while left:
        size = max(1, MAX_BATCH_TOKENS // len(rows[left[0]]))
        yield left[:size]
        left = left[size:]


def pad(rows: Sequence[Ids]) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def bound(rows: Sequence[Ids]) -> tuple[list[Ids], float]:
    """Rows, all equally long, with about as many tokens as are distinct, and how many more."""
    ordered = sorted(rows)
    shared = (
        next(position for position, (a, b) in enumerate(zip(*two, strict=False)) if a != b)
        for two in pairwise(ordered)
    )
    # The instructions are computed once for all cases, of which these are a part.
    distinct = sum(map(len, rows)) - sum(shared)
    distinct -= round(INSTRUCTIONS * (1 - CASES_AT_A_TIME / CASES))
    length = min(map(len, rows))
    count = max(1, round(distinct / length))
    return [ordered[0][:length]] * count, count * length / distinct


class TimeInModel:
    """Seconds spent in a model's forward pass."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.seconds = 0.0
        model.register_forward_pre_hook(self._start)
        model.register_forward_hook(self._stop)

    def _start(self, *_: object) -> None:
        self._started = time.perf_counter()

    def _stop(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


def pairs_of(cases: Sequence[Case]) -> list[JudgedPair]:
    """What is judged: a pair per rollout, under the description read from its completion."""
    parsed = [(case, parse_completion(text)) for case in cases for text in case.completions]
    return [
        JudgedPair(case.key, case.post, outcome.description, case.chosen, case.rejected)
        for case, outcome in parsed
        if isinstance(outcome, Inference)
    ]


class Asked:
    """A judge that notes what it is asked and answers nothing: the questions of an order."""

    def judge(self, questions: Sequence[Question]) -> list[None]:
        self.questions = list(questions)
        return [None] * len(questions)

    def take_measurements(self) -> Measurements:
        return Measurements()


class Benchmark:
    """Every way of judging, on the same cases with the same weights."""

    def __init__(self, folder: Path) -> None:
        words = Words(seed=0)
        self.tokenizer = words.tokenizer()
        instructions = words.text(self.tokenizer, INSTRUCTIONS, variation=0.0)
        self.prompts = make_prompts(folder / "prompts", instructions)
        self.cases = make_cases(words, self.tokenizer)
        self.folder = folder
        model = make_model()
        self.plain = Plain(model)
        self.in_model = TimeInModel(model)
        self.first, self.last = (
            LocalJudge(
                model,
                self.tokenizer,
                self.prompts,
                max_batch_tokens=MAX_BATCH_TOKENS,
                minimum_label_mass=0.0,
                layout=layout,
            )
            for layout in get_args(Layout)
        )
        self.generator = LocalGenerator(
            model, self.tokenizer, self.prompts, max_batch_tokens=MAX_BATCH_TOKENS
        )
        self.letters = [self._ids(f" {letter}")[0] for letter in "AB"]

    def warm_up(self) -> None:
        """Compute what is kept between calls, and meet every kernel once."""
        for judge in (self.first, self.last):
            judge.judge([Question("a post", "a description", "one reply", "another")])
        self.generator.log_probabilities([Continuation("a post", "a description", "a reply")])
        self.plain.sample([self._ids("one answer")], 2)

    def repeat(self, number: int) -> tuple[dict[str, float], float, float]:
        """Seconds by way, share of time outside the model, and largest error, on some cases."""
        start = number * CASES_AT_A_TIME
        cases = self.cases[start : start + CASES_AT_A_TIME]
        one, both = self._rows(cases, "random"), self._rows(cases, "both")
        last = self._rows(cases, "random", "description_last")
        prompts = [row[: -len(self._ids(ANSWER_START))] for row in one]
        terms = [
            Continuation(pair.post, description, response)
            for pair in pairs_of(cases)
            for response in (pair.chosen, pair.rejected)
            for description in (pair.description, None)
        ]
        heads_and_tails = [
            (
                self._ids(self.prompts.reply(own.post, own.description)),
                self._ids(f" {own.response}"),
            )
            for own in terms
        ]
        cache = CachedGenerator(
            self.generator, self.prompts, self.folder / f"{number}.sqlite", identity="random"
        )
        bound_one, bound_both = bound(one), bound(both)

        def judged(judge: LocalJudge, order: Order) -> list[float | None]:
            return preference_probabilities(judge, pairs_of(cases), order, seed=0)

        ways: list[dict[str, Callable[[], Any]]] = [
            {"plain": lambda: self.plain.probabilities(one, self.letters)},
            {"plain_both": lambda: self.plain.probabilities(both, self.letters)},
            {"judge": lambda: judged(self.first, "random")},
            {"judge_both": lambda: judged(self.first, "both")},
            {"judge_last": lambda: judged(self.last, "random")},
            {"bound": lambda: self.plain.probabilities(bound_one[0], self.letters)},
            {"bound_both": lambda: self.plain.probabilities(bound_both[0], self.letters)},
            {"sampled": lambda: self.plain.sample(prompts, len(self._ids(ANSWER)))},
            {"plain_generator": lambda: self.plain.log_probabilities(heads_and_tails)},
            {
                "generator_cold": lambda: cache.log_probabilities(terms),
                "generator_warm": lambda: cache.log_probabilities(terms),
            },
        ]
        random.Random(number).shuffle(ways)
        seconds, outside, answers = {}, {}, {}
        for name, run in ((name, run) for way in ways for name, run in way.items()):
            in_model, started = self.in_model.seconds, time.perf_counter()
            answers[name] = run()
            seconds[name] = time.perf_counter() - started
            outside[name] = 1 - (self.in_model.seconds - in_model) / seconds[name]
            logger.info("repetition %d: %s %.1f s", number + 1, name, seconds[name])
        seconds["bound"] /= bound_one[1]
        seconds["bound_both"] /= bound_both[1]
        answers["plain_last"] = self.plain.probabilities(last, self.letters)
        return seconds, outside["judge"], self._largest_error(cases, answers)

    def _largest_error(self, cases: Sequence[Case], answers: dict[str, Any]) -> float:
        """Between ours and plain probabilities, of letters and of the tokens of responses."""
        pairs = pairs_of(cases)
        differences = [
            abs(value - expected)
            for ours, layout, order in (
                ("plain", self.first, "random"),
                ("plain_both", self.first, "both"),
                ("plain_last", self.last, "random"),
            )
            for value, expected in zip(
                (own.probability_a for own in layout.judge(self._questions(pairs, order)) if own),
                answers[ours],
                strict=True,
            )
        ]
        for warmth in ("generator_cold", "generator_warm"):
            for ours, plain in zip(answers[warmth], answers["plain_generator"], strict=True):
                differences += [
                    abs(math.exp(value) - math.exp(expected))
                    for value, expected in zip(ours, plain, strict=True)
                ]
        return max(differences)

    def _questions(self, pairs: Sequence[JudgedPair], order: Order) -> list[Question]:
        asked = Asked()
        preference_probabilities(asked, pairs, order, seed=0)
        return asked.questions

    def _rows(
        self, cases: Sequence[Case], order: Order, layout: Layout = "description_first"
    ) -> list[Ids]:
        """Token ids of each question, up to the letter of its answer."""
        return [
            self._ids(self.prompts.judgement(question, layout) + ANSWER_START)
            for question in self._questions(pairs_of(cases), order)
        ]

    def _ids(self, text: str) -> Ids:
        ids: Ids = self.tokenizer(text)["input_ids"]
        return ids


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    torch.set_num_threads(THREADS)
    ratios: dict[str, list[float]] = defaultdict(list)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(Path(folder))
        benchmark.warm_up()
        for number in range(CASES // CASES_AT_A_TIME):
            if time.perf_counter() - began > LATEST_START:
                logger.info("stopped after %d repetitions: the machine is busy", number)
                break
            seconds, outside, error = benchmark.repeat(number)
            for name, (above, below) in RATIOS.items():
                ratios[name].append(seconds[above] / seconds[below])
            ratios["layer_overhead"].append(outside)
            ratios["max_probability_error"].append(error)
    result = {name: statistics.median(values) for name, values in ratios.items()}
    result["max_probability_error"] = max(ratios["max_probability_error"])
    sys.stdout.write(json.dumps({name: float(f"{own:.3g}") for name, own in result.items()}) + "\n")


if __name__ == "__main__":
    main()
