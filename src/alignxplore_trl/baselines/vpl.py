"""VPL: a latent variable of each user, inferred from labelled pairs; under it replies are scored.

Source: Poddar et al. 2024, arXiv 2408.10075; METHOD, The methods we compare with. It is trained by
`training.vpl`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from alignxplore_trl.baselines.protocol import Decision
from alignxplore_trl.judging.encoding import encode_replies
from alignxplore_trl.judging.weights import load_model
from alignxplore_trl.run.progress import progress
from alignxplore_trl.signals import Comparison, PreferenceCase
from alignxplore_trl.text.rendering import PromptSet


class PairEmbedder:
    """Embeds the replies of comparisons with a frozen language model, each distinct one once.

    What is read is a post in the reply template, without a description, and the reply behind it, as
    the generator of R_gen reads them. The embedding is the position-weighted mean of the last
    hidden layer. All embeddings are kept in memory.

    Args:
        model: a causal language model, used without gradients.
        tokenizer: its tokenizer.
        prompts: the templates; the reply template is used.
        max_batch_tokens: slots of a forward pass, padding included; one reply may exceed it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: PromptSet,
        *,
        max_batch_tokens: int,
    ) -> None:
        self.size: int = model.config.hidden_size
        self._model = model.base_model
        self._device = model.device
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._max_batch_tokens = max_batch_tokens
        self._context: int = model.config.max_position_embeddings
        self._embeddings: dict[tuple[str, str], Tensor | None] = {}

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        prompts: PromptSet,
        *,
        dtype: str,
        device: torch.device | str = "cpu",
        max_batch_tokens: int,
    ) -> PairEmbedder:
        """Load the language model and its tokenizer from a folder or the name of a model."""
        return cls(
            load_model(folder, dtype=dtype, device=device),
            AutoTokenizer.from_pretrained(folder),
            prompts,
            max_batch_tokens=max_batch_tokens,
        )

    def embed(self, comparisons: Sequence[Comparison]) -> list[Tensor | None]:
        """The embeddings of the chosen and the rejected reply: float32, (2, size), on the CPU.

        `None` where a reply with its post is longer than the model's context.
        """
        self._embed_new(
            [(each.post, text) for each in comparisons for text in (each.chosen, each.rejected)]
        )
        return [self._pair(each) for each in comparisons]

    def _pair(self, comparison: Comparison) -> Tensor | None:
        chosen = self._embeddings[comparison.post, comparison.chosen]
        rejected = self._embeddings[comparison.post, comparison.rejected]
        return None if chosen is None or rejected is None else torch.stack([chosen, rejected])

    def _embed_new(self, replies: Sequence[tuple[str, str]]) -> None:
        """Compute and keep the embeddings of those (post, reply) that aren't known yet."""
        new = [reply for reply in dict.fromkeys(replies) if reply not in self._embeddings]
        if not new:
            return
        encoded = encode_replies(
            self._tokenizer,
            [self._prompts.reply(post, None) for post, _ in new],
            [text for _, text in new],
        )
        rows = {reply: [*head, *tail] for reply, (head, tail) in zip(new, encoded, strict=True)}
        self._embeddings |= dict.fromkeys(new)
        fitting = [reply for reply in new if len(rows[reply]) <= self._context]
        fitting.sort(key=lambda reply: len(rows[reply]))
        batches = list(self._batches([len(rows[reply]) for reply in fitting]))
        for batch in progress(batches, "embedding replies", len(batches)):
            embeddings = self._read([rows[reply] for reply in fitting[batch]])
            self._embeddings |= zip(fitting[batch], embeddings, strict=True)

    def _batches(self, lengths: Sequence[int]) -> Iterator[slice]:
        """Rows in batches that have few enough slots; their lengths never fall."""
        start = 0
        for end in range(1, len(lengths) + 1):
            if end == len(lengths) or lengths[end] * (end + 1 - start) > self._max_batch_tokens:
                yield slice(start, end)
                start = end

    @torch.no_grad()
    def _read(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Padded on the right, where causal attention never sees it."""
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        is_token = pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
        is_token = is_token.to(self._device)
        hidden = self._model(
            input_ids=ids.to(self._device), attention_mask=is_token.long(), use_cache=False
        ).last_hidden_state
        return position_weighted_mean(hidden.float(), is_token).cpu()


def position_weighted_mean(hidden: Tensor, is_token: Tensor) -> Tensor:
    """The mean over tokens in which the t-th counts t times: later ones have read more.

    Args:
        hidden: (rows, length, size).
        is_token: (rows, length), 1 for tokens and 0 for the padding behind them.

    Returns:
        (rows, size).
    """
    weights = is_token * torch.arange(1, is_token.shape[1] + 1, device=is_token.device)
    return torch.einsum("rt,rts->rs", weights / weights.sum(1, keepdim=True), hidden)


class Posterior(NamedTuple):
    """The normal distribution of a user's latent variable: both (users, latent size)."""

    mean: Tensor
    log_variance: Tensor


class VplModel(nn.Module, PyTorchModelHubMixin):
    """What is learned: an encoder of labelled pairs, and a scorer of replies under the variable.

    Embeddings are standardised first, by the means and deviations of those trained on: those of
    one model lie close together, and what they share must not push the posterior into its clamp.

    `save_pretrained` writes the weights as safetensors and these arguments as config.json.

    Args:
        language_model: folder or name of the frozen model that embeds.
        prompts: the folder of templates, or the name of a set that ships.
        embedding_size: of that model's embeddings.
        hidden_size: of both MLPs and of the attention.
        latent_size: of the user's variable.
    """

    def __init__(
        self,
        *,
        language_model: str,
        prompts: str,
        embedding_size: int,
        hidden_size: int,
        latent_size: int,
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.prompts = prompts
        self.register_buffer("center", torch.zeros(embedding_size))
        self.register_buffer("spread", torch.ones(embedding_size))
        self.pair_encoder = _mlp(2 * embedding_size, hidden_size, hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.mean = nn.Linear(hidden_size, latent_size)
        self.log_variance = nn.Linear(hidden_size, latent_size)
        self.decoder = _mlp(embedding_size + latent_size, hidden_size, 1)

    def standardise_by(self, embeddings: Tensor) -> None:
        """Take mean and standard deviation of each entry from embeddings, (any number, size)."""
        self.center = embeddings.mean(0)
        self.spread = embeddings.std(0).clamp(min=1e-6)

    def encode(self, pairs: Tensor, is_pair: Tensor) -> Posterior:
        """What a user's labelled pairs say of the user; their order doesn't matter.

        Args:
            pairs: embeddings of chosen and rejected replies, (users, pairs, 2, embedding size).
            is_pair: bool, (users, pairs), false for padding; every user has a pair.

        Returns:
            Mean and log variance, each clamped to -1 … 1.
        """
        encoded = self.pair_encoder(self._standardised(pairs).flatten(-2))
        attended = scaled_dot_product_attention(
            self.query(encoded), self.key(encoded), self.value(encoded), is_pair[:, None]
        )
        weights = is_pair / is_pair.sum(1, keepdim=True)
        user = torch.einsum("up,ups->us", weights, attended)
        return Posterior(self.mean(user).clamp(-1, 1), self.log_variance(user).clamp(-1, 1))

    def score(self, pairs: Tensor, latent: Tensor) -> Tensor:
        """How much users like the two replies of a pair, in logits: (users, 2).

        Args:
            pairs: embeddings of both replies, (users, 2, embedding size).
            latent: each user's variable, (users, latent size).
        """
        replies = self._standardised(pairs)
        users = latent[:, None].expand(-1, 2, -1)
        scores: Tensor = self.decoder(torch.cat([replies, users], dim=-1))
        return scores.squeeze(-1)

    def _standardised(self, embeddings: Tensor) -> Tensor:
        return (embeddings - self.center) / self.spread


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, outputs),
    )


def sample_latent(posterior: Posterior) -> Tensor:
    """Draw each user's variable by the reparameterisation trick, rescaled to norm √latent_size."""
    noise = torch.randn_like(posterior.mean)
    drawn = posterior.mean + (0.5 * posterior.log_variance).exp() * noise
    return normalize(drawn, dim=-1) * math.sqrt(drawn.shape[-1])


class Vpl:
    """Decide by the difference of two scores under the mean of the user's variable.

    The mean is taken as it is; only the draws of training are rescaled, as published. The language
    model stays frozen: the published LoRA of it is left out.

    Attributes:
        counts: since the start, `signals_not_compared` (posts and attributes, which have no pair),
            `signals_too_long`, and `cases_undecided` (nothing to read, or the target is too long).
    """

    def __init__(self, model: VplModel, embedder: PairEmbedder) -> None:
        self._model = model
        self._embedder = embedder
        self.counts: Counter[str] = Counter()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        dtype: str,
        device: torch.device | str = "cpu",
        max_batch_tokens: int,
    ) -> Vpl:
        """Load what was trained, and the frozen language model that its config.json names.

        Args:
            folder: what `VplModel.save_pretrained` wrote.
            dtype: of the language model's weights.
            device: of both.
            max_batch_tokens: see `PairEmbedder`.
        """
        model = VplModel.from_pretrained(str(folder)).to(device).eval()
        embedder = PairEmbedder.from_folder(
            model.language_model,
            PromptSet(model.prompts),
            dtype=dtype,
            device=device,
            max_batch_tokens=max_batch_tokens,
        )
        return cls(model, embedder)

    def decide(self, cases: Sequence[PreferenceCase]) -> list[Decision]:
        histories = [[s for s in case.signals if isinstance(s, Comparison)] for case in cases]
        targets = [case.target for case in cases]
        # All at once: what is then looked up case by case is in memory.
        self._embedder.embed([*targets, *(each for history in histories for each in history)])
        decisions = []
        for case, history in zip(cases, histories, strict=True):
            self.counts["signals_not_compared"] += len(case.signals) - len(history)
            decisions.append(Decision(case.case_id, self._probability(history, case.target)))
        return decisions

    @torch.no_grad()
    def _probability(self, history: Sequence[Comparison], target: Comparison) -> float | None:
        known = [pair for pair in self._embedder.embed(history) if pair is not None]
        (asked,) = self._embedder.embed([target])
        self.counts["signals_too_long"] += len(history) - len(known)
        if asked is None or not known:
            self.counts["cases_undecided"] += 1
            return None
        device = self._model.center.device
        pairs = torch.stack(known)[None].to(device)
        posterior = self._model.encode(
            pairs, torch.ones(1, len(known), dtype=torch.bool, device=device)
        )
        chosen, rejected = self._model.score(asked[None].to(device), posterior.mean)[0]
        return torch.sigmoid(chosen - rejected).item()
