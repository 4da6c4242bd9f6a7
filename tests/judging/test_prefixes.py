"""Shared forward passes against one plain pass per text, whatever is batched together."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.prefixes import PrefixSharingModel, Reading

VOCABULARY = 40
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
SHARING: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, num_key_value_heads=4),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=2),
    "gpt_neox": GPTNeoXConfig(**SIZES),
    "gemma": GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=8),
    "gpt2": GPT2Config(**GPT2, initializer_range=0.3, bos_token_id=None, eos_token_id=None),
    "bloom": BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3
    ),
}
NOT_SHARING: dict[str, tuple[PreTrainedConfig, str]] = {
    "sliding window": (
        MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=8),
        "DynamicSlidingWindowLayer",
    ),
    "some layers slide": (
        Qwen2Config(
            **SIZES,
            num_key_value_heads=2,
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=1,
        ),
        "DynamicSlidingWindowLayer",
    ),
    "recurrent": (
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4),
        "takes no",
    ),
}


def make_model(config: PreTrainedConfig, attention: str | None = None) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


@pytest.fixture(scope="module")
def models() -> dict[str, PreTrainedModel]:
    return {name: make_model(config) for name, config in SHARING.items()}


def plain(model: PreTrainedModel, reading: Reading) -> list[list[float]]:
    """The formula: log softmax of the logits after each position, from one pass over one text."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([reading.ids])).logits[0]
    rows = logits.float().log_softmax(-1)[-len(reading.targets) :]
    return [
        [rows[position, token].item() for token in tokens]
        for position, tokens in enumerate(reading.targets)
    ]


def assert_equal(model: PreTrainedModel, readings: Sequence[Reading], found: object) -> None:
    for reading, values in zip(readings, found, strict=True):  # type: ignore[call-overload]
        for tokens, expected in zip(values, plain(model, reading), strict=True):
            assert [math.exp(v) for v in tokens] == pytest.approx(
                [math.exp(v) for v in expected], abs=1e-4
            )


tokens = st.integers(0, VOCABULARY - 1)
text = st.lists(tokens, min_size=1, max_size=12).map(tuple)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Reading], list[tuple[int, ...]]]:
    """Texts made of a few common parts, so that they share beginnings of any depth."""
    parts = draw(st.lists(text, min_size=1, max_size=5))
    texts = st.lists(st.sampled_from(parts), min_size=1, max_size=5).map(lambda own: sum(own, ()))
    readings = []
    for ids in draw(st.lists(texts, min_size=1, max_size=9)):
        count = draw(st.integers(1, min(3, len(ids))))
        targets = draw(st.lists(st.tuples(tokens, tokens), min_size=count, max_size=count))
        readings.append(Reading(ids, tuple(targets)))
    return readings, draw(st.lists(texts, max_size=2))


@pytest.mark.parametrize("family", SHARING)
@settings(max_examples=60, deadline=None)
@given(batch=batches(), budget=st.sampled_from([1, 30, 10_000]), worth=st.sampled_from([1, 4, 32]))
def test_any_batch_reads_as_one_plain_pass_per_text(models, family, batch, budget, worth) -> None:
    readings, prefixes = batch
    sharing = PrefixSharingModel(models[family], budget, worth_sharing=worth)
    found = sharing.log_probabilities(readings, prefixes, Measurements())
    assert sharing._shares
    assert_equal(models[family], readings, found)


@pytest.mark.parametrize("name", NOT_SHARING)
def test_what_can_not_share_is_read_whole_and_this_is_said_once(name, caplog) -> None:
    config, reason = NOT_SHARING[name]
    model = make_model(config)
    start = tuple(range(3, 33))
    readings = [Reading((*start, *end), ((1, 2),)) for end in [(5,), (6, 7), (8, 9, 1)]]
    sharing = PrefixSharingModel(model, 10_000, worth_sharing=2)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            measured = Measurements()
            found = sharing.log_probabilities(readings, [start], measured)
            assert_equal(model, readings, found)
    assert measured.tokens == sum(len(own.ids) for own in readings)
    [message] = [own.getMessage() for own in caplog.records if "judging" in own.name]
    assert "not shared" in message
    assert reason in message


def test_a_model_that_forgets_what_came_before_is_found_out(caplog) -> None:
    model = make_model(SHARING["llama"])
    inner = model.forward

    def forgetful(
        input_ids=None, attention_mask=None, past_key_values=None, use_cache=None, **options
    ):
        """Fills the cache as asked, and answers as if nothing stood in it."""
        length = 0 if past_key_values is None else past_key_values.get_seq_length()
        answer = inner(input_ids=input_ids, attention_mask=attention_mask,
                       past_key_values=past_key_values, use_cache=use_cache, **options)  # fmt: skip
        if length:
            mask = None if attention_mask is None else attention_mask[:, length:]
            answer.logits = inner(input_ids=input_ids, attention_mask=mask).logits
        return answer

    model.forward = forgetful
    sharing = PrefixSharingModel(model, 10_000)
    with caplog.at_level(logging.WARNING):
        sharing.log_probabilities([Reading(tuple(range(30)), ((1,),))], [], Measurements())
    assert sharing._shares is False
    assert "each text is read whole: its logits differ" in caplog.text


def test_a_model_that_goes_wrong_under_padding_is_read_a_text_at_a_time(caplog) -> None:
    """It takes no positions and does not make them from the mask."""
    model = make_model(SHARING["llama"])
    inner = model.forward

    def without_positions(input_ids=None, attention_mask=None, logits_to_keep=0):
        return inner(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=torch.arange(2, 2 + input_ids.shape[1])[None] ** 2,
            logits_to_keep=logits_to_keep,
        )

    model.forward = without_positions
    readings = [Reading(tuple(range(n)), ((1, 2),)) for n in (3, 20, 30)]
    measured = Measurements()
    sharing = PrefixSharingModel(model, 10_000)
    with caplog.at_level(logging.WARNING):
        found = sharing.log_probabilities(readings, [], measured)
    assert "read one at a time" in caplog.text
    assert measured.requests == 3
    assert_equal(model, readings, found)


def test_an_adapter_shares_as_its_model_does() -> None:
    model = get_peft_model(make_model(SHARING["llama"]), LoraConfig(init_lora_weights=False)).eval()
    start = tuple(i % VOCABULARY for i in range(40))
    readings = [Reading((*start, *end), ((1,),)) for end in [(5,), (6, 7)]]
    measured = Measurements()
    found = PrefixSharingModel(model, 10_000).log_probabilities(readings, [start], measured)
    assert measured.tokens == 43
    assert_equal(model, readings, found)


def test_what_all_texts_begin_with_is_computed_once_and_again_when_weights_change() -> None:
    model = make_model(SHARING["llama"])
    sharing = PrefixSharingModel(model, 10_000)
    instructions = tuple(i % VOCABULARY for i in range(50))
    readings = [Reading((*instructions, *end), ((1,),)) for end in [(5, 6), (7, 8, 9)]]

    def computed() -> int:
        measured = Measurements()
        found = sharing.log_probabilities(readings, [instructions], measured)
        assert_equal(model, readings, found)
        return measured.tokens

    assert [computed() for _ in range(3)] == [55, 5, 5]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()
    assert [computed() for _ in range(2)] == [55, 5]


def test_each_distinct_token_is_computed_once_at_every_depth() -> None:
    """Instructions, two posts, two orders of the replies, three descriptions."""
    model = make_model(SHARING["llama"])
    part = {name: tuple((number * 7 + i) % VOCABULARY for i in range(length))
            for number, (name, length) in enumerate(
                {"instructions": 40, "p": 33, "q": 35, "w": 32, "l": 36,
                 "d": 3, "e": 5, "f": 9}.items())}  # fmt: skip
    readings = [
        Reading(
            sum((part[name] for name in ("instructions", post, *order, description)), ()), ((1,),)
        )
        for post in "pq"
        for order in ("wl", "lw")
        for description in "def"
    ]
    measured = Measurements()
    sharing = PrefixSharingModel(model, 10_000)
    found = sharing.log_probabilities(readings, [part["instructions"]], measured)
    assert_equal(model, readings, found)
    assert measured.tokens == 40 + 33 + 35 + 4 * (32 + 36) + 4 * (3 + 5 + 9)
    assert measured.requests == len(measured.latencies) == 4


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_attention_and_precision_agrees_with_itself(attention, dtype) -> None:
    model = make_model(SHARING["qwen2"], attention).to(dtype)
    start = tuple(i % VOCABULARY for i in range(40))
    readings = [Reading((*start, *range(n, 3 * n)), ((n, 2 * n),)) for n in range(2, 9)]
    measured = Measurements()
    sharing = PrefixSharingModel(model, 10_000)
    found = sharing.log_probabilities(readings, [start], measured)
    assert measured.tokens == 40 + sum(2 * n for n in range(2, 9))
    tolerance = 1e-4 if dtype == torch.float32 else 0.03
    for reading, values in zip(readings, found, strict=True):
        for value, expected in zip(values[0], plain(model, reading)[0], strict=True):
            assert math.exp(value) == pytest.approx(math.exp(expected), abs=tolerance)


def test_a_pass_stays_within_the_budget() -> None:
    model = make_model(SHARING["llama"])
    slots = []
    inner = model.forward

    def counted(input_ids=None, attention_mask=None, past_key_values=None, use_cache=None,
                position_ids=None, logits_to_keep=0):  # fmt: skip
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        slots.append(len(input_ids) * (input_ids.shape[1] + past))
        return inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache,
                     past_key_values=past_key_values, position_ids=position_ids,
                     logits_to_keep=logits_to_keep)  # fmt: skip

    model.forward = counted
    start = tuple(i % VOCABULARY for i in range(40))
    middles = [tuple(range(length)) for length in (5, 30, 12)]
    readings = [
        Reading((*start, *middle, *range(30, 30 + end)), ((1,),))
        for middle in middles
        for end in range(1, 10)
    ]
    sharing = PrefixSharingModel(model, 300, worth_sharing=4)
    found = sharing.log_probabilities(readings, [start], Measurements())
    assert_equal(model, readings, found)
    assert max(slots) <= 300
