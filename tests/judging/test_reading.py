"""Reading in batches against one plain pass per text, for families that share and that can't."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from alignxplore_trl.judging import reading
from alignxplore_trl.judging.asking import Text
from alignxplore_trl.judging.reading import Reader
from tests.test_shared_prefix import SIZES

SMALL = {"vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16, "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
}  # fmt: skip
LONG = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 16}


def rope(kind: str, **changes: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **changes}}


SHARING: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "llama with yarn": SIZES | rope("yarn", factor=4.0, original_max_position_embeddings=64),
    "qwen3_moe": SIZES
    | {"head_dim": 8, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
    "gemma": SIZES | {"head_dim": 8},
    "deepseek_v3": SIZES | LATENT,
    "gpt_neox": SIZES,
    "gpt2": SMALL,
    "opt": SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32},
}
PLAIN: dict[str, dict[str, Any]] = {
    "mistral with a window": SIZES | {"sliding_window": 8},
    "gemma2 with windows": SIZES | {"head_dim": 8, "sliding_window": 8},
    "llama4_text in chunks": SIZES
    | {"head_dim": 8, "attention_chunk_size": 8, "intermediate_size_mlp": 48,
       "num_local_experts": 2},
    "jamba hybrid": SIZES
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1, "mamba_d_state": 4,
       "use_mamba_kernels": False, "pad_token_id": None},
    "mamba recurrent": {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2},
    "deepseek_v32 indexed": SIZES
    | LATENT
    | {"index_topk": 8, "index_head_dim": 16, "index_n_heads": 2},
    "phi3 with longrope": SIZES
    | {"sliding_window": None, "pad_token_id": None, "original_max_position_embeddings": 16}
    | rope("longrope", **LONG),
    "llama with dynamic rope": SIZES | rope("dynamic", factor=4.0),
    "mpt": {"vocab_size": 40, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256},
    "gptj": SMALL | {"rotary_dim": 4},
}  # fmt: skip


def random_model(name: str, sizes: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.split()[0], **sizes)
    return AutoModelForCausalLM.from_config(config).eval()


def batch() -> list[Text]:
    """Texts that share beginnings of several depths."""
    draw = torch.Generator().manual_seed(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 40, (count,), generator=draw).tolist())

    a, b = ids(20), ids(12)
    texts = [a + b + ids(9), a + b + ids(5), a + ids(7), a + ids(30), ids(11), ids(3), a + b, a[:9]]
    counts = (1, 3, 1, 2, 1, 2, 1, 1)
    return [
        Text(text, tuple(ids(2) for _ in range(count)))
        for text, count in zip(texts, counts, strict=True)
    ]


def assert_read_as_alone(reader: Reader, texts: Sequence[Text]) -> None:
    found = reader.read(texts)
    for text, scores in zip(texts, found, strict=True):
        with torch.no_grad():
            alone = reader.model(torch.tensor([text.ids])).logits[0, -len(text.wanted) :]
        expected = alone.log_softmax(-1).gather(1, torch.tensor(text.wanted))
        torch.testing.assert_close(torch.tensor(scores).exp(), expected.exp(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", [*SHARING, *PLAIN])
def test_families_read_as_one_pass_per_text_and_share_where_they_can(
    name: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(reading, "SHORTEST_PREFIX", 4)
    reader = Reader(random_model(name, (SHARING | PLAIN)[name]), max_batch_tokens=64)
    assert reader.shares == (name in SHARING)
    assert_read_as_alone(reader, batch())


tokens = st.lists(st.integers(2, 39), min_size=1, max_size=12).map(tuple)


@st.composite
def batches(draw: st.DrawFn) -> list[Text]:
    """Texts made of a few common parts, so that they share beginnings of any depth."""
    parts = draw(st.lists(tokens, min_size=1, max_size=5))
    whole = st.lists(st.sampled_from(parts), min_size=1, max_size=5).map(lambda own: sum(own, ()))
    found = []
    for ids in draw(st.lists(whole, min_size=1, max_size=9)):
        count = draw(st.integers(1, min(3, len(ids))))
        found.append(Text(ids, draw(st.tuples(*[st.tuples(st.integers(2, 39))] * count))))
    return found


@settings(max_examples=60, deadline=None)
@given(texts=batches(), budget=st.sampled_from([1, 30, 10_000]), least=st.sampled_from([1, 4, 64]))
def test_any_batch_reads_as_one_pass_per_text(texts: list[Text], budget: int, least: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "SHORTEST_PREFIX", least)
        patch.setattr(reading, "_SCORED", 4)
        assert_read_as_alone(Reader(random_model("llama", SIZES), budget), texts)


def test_the_context_of_a_nested_configuration_is_found() -> None:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    text = SIZES | {"head_dim": 8, "sliding_window": 8, "model_type": "gemma3_text"}
    model = random_model("gemma3", {"text_config": text, "vision_config": vision})
    reader = Reader(model, max_batch_tokens=64)
    assert reader.context == 256
    assert_read_as_alone(reader, batch())
