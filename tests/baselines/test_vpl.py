"""VPL's embeddings, posterior and scores against a few lines of numpy and torch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.baselines.vpl import (
    PairEmbedder,
    Posterior,
    Vpl,
    VplModel,
    position_weighted_mean,
    sample_latent,
)
from alignxplore_trl.data.world import World
from alignxplore_trl.judging.encoding import encode_replies
from alignxplore_trl.signals import Comparison, Post
from alignxplore_trl.text.rendering import PromptSet

CASES = World(seed=0).cases("test", 5)


@pytest.fixture
def embedder(
    random_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet
) -> PairEmbedder:
    return PairEmbedder(random_model, tokenizer, prompts, max_batch_tokens=200)


def vpl_model(embedding_size: int = 64, language_model: str = "a/model") -> VplModel:
    torch.manual_seed(0)
    return VplModel(
        language_model=language_model,
        prompts="compact",
        embedding_size=embedding_size,
        hidden_size=32,
        latent_size=16,
    ).eval()


def test_the_mean_weighs_tokens_by_their_position() -> None:
    hidden = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    found = position_weighted_mean(
        torch.tensor(hidden), torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]])
    )
    whole = sum((t + 1) * hidden[0, t] for t in range(4)) / (1 + 2 + 3 + 4)
    padded = (hidden[1, 0] + 2 * hidden[1, 1]) / 3
    assert np.allclose(found, [whole, padded], atol=1e-6)


def test_embeddings_are_those_of_the_reply_read_alone(
    embedder: PairEmbedder,
    random_model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: PromptSet,
) -> None:
    """Batches and padding change nothing; the prompt is the generator's."""
    pairs = [case.target for case in CASES] + [Comparison("a", "b " * 40, "c")]
    found = embedder.embed(pairs)
    for pair, embedding in zip(pairs, found, strict=True):
        assert embedding is not None
        for row, text in zip(embedding, (pair.chosen, pair.rejected), strict=True):
            ((head, tail),) = encode_replies(tokenizer, [prompts.reply(pair.post, None)], [text])
            ids = torch.tensor([[*head, *tail]])
            hidden = random_model(ids, output_hidden_states=True).hidden_states[-1][0]
            weights = torch.arange(1, ids.shape[1] + 1.0)
            expected = (weights @ hidden) / weights.sum()
            assert torch.allclose(row, expected, atol=1e-5)


def test_a_reply_is_read_once_and_one_that_is_too_long_never(
    embedder: PairEmbedder, random_model: LlamaForCausalLM
) -> None:
    rows = 0

    def count(module: object, inputs: object, keywords: dict[str, torch.Tensor]) -> None:
        nonlocal rows
        rows += len(keywords["input_ids"])

    random_model.model.register_forward_pre_hook(count, with_kwargs=True)
    one, other = CASES[0].target, CASES[1].target
    long = Comparison("a", "b", "word " * 600)
    found = embedder.embed([one, other, one.reversed(), long])
    assert rows == 4 + 1
    assert found[3] is None
    assert found[0] is not None
    assert found[2] is not None
    assert torch.equal(found[0], found[2].flip(0))
    embedder.embed([one, long])
    assert rows == 5


def test_the_posterior_is_attention_and_means() -> None:
    model = vpl_model(embedding_size=6)
    pairs = torch.randn(1, 3, 2, 6)
    posterior = model.encode(pairs, torch.ones(1, 3, dtype=torch.bool))
    encoded = model.pair_encoder(pairs[0].reshape(3, 12))
    attention = (model.query(encoded) @ model.key(encoded).T / math.sqrt(32)).softmax(-1)
    user = (attention @ model.value(encoded)).mean(0)
    assert torch.allclose(posterior.mean[0], model.mean(user).clamp(-1, 1), atol=1e-6)
    assert torch.allclose(
        posterior.log_variance[0], model.log_variance(user).clamp(-1, 1), atol=1e-6
    )


def test_the_posterior_knows_no_order_and_no_padding() -> None:
    model = vpl_model(embedding_size=6)
    pairs = torch.randn(1, 3, 2, 6)
    alone = model.encode(pairs, torch.ones(1, 3, dtype=torch.bool))
    turned = torch.cat([pairs[:, [2, 0, 1]], torch.randn(1, 2, 2, 6)], dim=1)
    padded = model.encode(turned, torch.tensor([[True] * 3 + [False] * 2]))
    for one, other in zip(alone, padded, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_posterior_is_clamped() -> None:
    model = vpl_model(embedding_size=6)
    posterior = model.encode(1e4 * torch.randn(4, 2, 2, 6), torch.ones(4, 2, dtype=torch.bool))
    for values in posterior:
        assert values.abs().max() == 1


def test_embeddings_are_standardised() -> None:
    model, other = vpl_model(embedding_size=6), vpl_model(embedding_size=6)
    embeddings = 5 + 3 * torch.randn(100, 6)
    model.standardise_by(embeddings)
    latent = torch.randn(50, 16)
    plain = (embeddings - embeddings.mean(0)) / embeddings.std(0)
    scores = model.score(embeddings.reshape(50, 2, 6), latent)
    assert scores.shape == (50, 2)
    assert torch.allclose(scores, other.score(plain.reshape(50, 2, 6), latent), atol=1e-5)


def test_a_draw_follows_the_posterior_and_has_norm_root_of_its_size() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.linspace(-1, 1, 400), torch.linspace(1, -1, 400)
    drawn = sample_latent(Posterior(mean.expand(5000, -1), log_variance.expand(5000, -1)))
    assert torch.allclose(drawn.norm(dim=-1), torch.tensor(20.0), atol=1e-3)
    # Before it is rescaled, the expected squared norm of a draw is Σ μ² + σ².
    scale = math.sqrt(400 / (mean.square() + log_variance.exp()).sum())
    assert torch.allclose(drawn.mean(0), scale * mean, atol=0.1)
    assert torch.allclose(drawn.std(0), scale * (0.5 * log_variance).exp(), rtol=0.1)


def test_a_decision_is_the_sigmoid_of_the_difference_under_the_mean(embedder: PairEmbedder) -> None:
    model = vpl_model()
    for case, decision in zip(CASES, Vpl(model, embedder).decide(CASES), strict=True):
        pairs = [embedder.embed([s])[0] for s in case.signals if isinstance(s, Comparison)]
        mean = model.encode(
            torch.stack([p for p in pairs if p is not None])[None],
            torch.ones(1, len(pairs), dtype=torch.bool),
        ).mean
        (target,) = embedder.embed([case.target])
        assert target is not None
        chosen, rejected = model.score(target[None], mean)[0].tolist()
        assert decision.case_id == case.case_id
        assert decision.probability_chosen == pytest.approx(1 / (1 + math.exp(rejected - chosen)))


def test_what_cannot_be_decided_is_none_and_counted(embedder: PairEmbedder) -> None:
    post, long = Post("a", "b"), Comparison("a", "b", "word " * 600)
    cases = [
        replace(CASES[0], signals=(post, long, CASES[0].signals[0])),
        replace(CASES[1], signals=(post, long)),
        replace(CASES[2], target=long),
    ]
    vpl = Vpl(vpl_model(), embedder)
    first, *others = [decision.probability_chosen for decision in vpl.decide(cases)]
    assert first is not None
    assert others == [None, None]
    assert vpl.counts == {"signals_not_compared": 2, "signals_too_long": 2, "cases_undecided": 2}


def test_what_was_saved_decides_alike(
    embedder: PairEmbedder,
    random_model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    random_model.save_pretrained(tmp_path / "language_model")
    tokenizer.save_pretrained(tmp_path / "language_model")
    model = vpl_model(language_model=str(tmp_path / "language_model"))
    model.standardise_by(torch.randn(10, 64))
    model.save_pretrained(tmp_path / "vpl")
    assert {"config.json", "model.safetensors"} <= {p.name for p in (tmp_path / "vpl").iterdir()}
    loaded = Vpl.load(tmp_path / "vpl", dtype="float32", max_batch_tokens=200)
    assert loaded.decide(CASES) == Vpl(model, embedder).decide(CASES)
