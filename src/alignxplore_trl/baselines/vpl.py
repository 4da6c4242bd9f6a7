"""VPL: a latent variable of each user, inferred from labelled pairs; under it replies are scored.

Source: Poddar et al. 2024, arXiv 2408.10075; METHOD, The methods we compare with. The language
model that embeds stays frozen (the published LoRA is left out), so each reply is embedded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from alignxplore_trl.baselines.protocol import Asked, Method, Said
from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.judging.encoding import encode_replies
from alignxplore_trl.judging.weights import load_model, load_tokenizer
from alignxplore_trl.run.progress import progress
from alignxplore_trl.text.prompts import Prompts


class PairEmbedder:
    """Embeds replies with a frozen language model, each distinct one once.

    What is read is a post in the reply template, without a description, and the reply behind it.
    The embedding is the position-weighted mean of the last hidden layer.

    Args:
        model: folder or name of the language model.
        prompts: the prompt folder.
        dtype: of the weights.
        max_batch_tokens: tokens of a forward pass, padding included.
    """

    def __init__(self, model: str, prompts: str, dtype: str, max_batch_tokens: int) -> None:
        self._model, self._tokenizer = load_model(model, dtype), load_tokenizer(model)
        self._prompts, self._max_batch_tokens = Prompts(prompts), max_batch_tokens
        config = self._model.config.get_text_config()
        self.size: int = config.hidden_size
        self._context: int = config.max_position_embeddings
        self._known: dict[tuple[str, str], Tensor | None] = {}

    def embed(self, comparisons: Sequence[Comparison]) -> list[Tensor | None]:
        """The embeddings of the chosen and the rejected reply: float32, (2, size), on the CPU.

        `None` where a reply with its post is longer than the model's context.
        """
        pairs = [((own.post, own.chosen), (own.post, own.rejected)) for own in comparisons]
        distinct = dict.fromkeys(reply for pair in pairs for reply in pair)
        new = [reply for reply in distinct if reply not in self._known]
        self._known |= dict.fromkeys(new)
        prompts = [self._prompts.render("reply", post=post, description=None) for post, _ in new]
        encoded = encode_replies(self._tokenizer, prompts, [text for _, text in new], chat=False)
        rows = {reply: head + tail for reply, (head, tail) in zip(new, encoded, strict=True)}
        fitting = sorted(
            (reply for reply, ids in rows.items() if len(ids) <= self._context),
            key=lambda reply: len(rows[reply]),
        )
        size = max(1, self._max_batch_tokens // max((len(rows[r]) for r in fitting), default=1))
        parts = range(0, len(fitting), size)
        for start in progress(parts, "batches of embedded replies", len(parts)):
            batch = fitting[start : start + size]
            self._known |= zip(batch, self._read([rows[reply] for reply in batch]), strict=True)
        found = [[self._known[reply] for reply in pair] for pair in pairs]
        known = [[vector for vector in pair if vector is not None] for pair in found]
        return [torch.stack(pair) if len(pair) == 2 else None for pair in known]

    @torch.no_grad()
    def _read(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Padded on the right, where causal attention never sees it."""
        device = self._model.device
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
        output = self._model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
        return position_weighted_mean(output.last_hidden_state.float(), mask).cpu()


def position_weighted_mean(hidden: Tensor, is_token: Tensor) -> Tensor:
    """The mean over tokens with weights 1, 2, 3, …: (rows, tokens, size) becomes (rows, size)."""
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
    `save_pretrained` writes weights and arguments.

    Args:
        language_model, prompts: of the embeddings.
        embedding_size: of these.
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
        self.language_model, self.prompts = language_model, prompts
        self.register_buffer("center", torch.zeros(embedding_size))
        self.register_buffer("spread", torch.ones(embedding_size))
        self.pair_encoder = _mlp(2 * embedding_size, hidden_size, hidden_size)
        self.query, self.key, self.value = (nn.Linear(hidden_size, hidden_size) for _ in range(3))
        self.mean, self.log_variance = (nn.Linear(hidden_size, latent_size) for _ in range(2))
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
        encoded = self.pair_encoder(((pairs - self.center) / self.spread).flatten(-2))
        attended = scaled_dot_product_attention(
            self.query(encoded), self.key(encoded), self.value(encoded), is_pair[:, None]
        )
        weights = is_pair / is_pair.sum(1, keepdim=True)
        user = torch.einsum("up,ups->us", weights, attended)
        return Posterior(self.mean(user).clamp(-1, 1), self.log_variance(user).clamp(-1, 1))

    def score(self, pairs: Tensor, latent: Tensor) -> Tensor:
        """How much users like both replies of a pair, in logits: (users, 2).

        Args:
            pairs: embeddings of the replies, (users, 2, embedding size).
            latent: each user's variable, (users, latent size).
        """
        replies, users = (pairs - self.center) / self.spread, latent[:, None].expand(-1, 2, -1)
        scores: Tensor = self.decoder(torch.cat([replies, users], dim=-1))
        return scores.squeeze(-1)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    first, second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
    last = nn.Linear(hidden, outputs)
    return nn.Sequential(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), last)


def sample_latent(posterior: Posterior) -> Tensor:
    """Draw each user's variable by the reparameterisation trick, rescaled to norm √latent_size."""
    noise = torch.randn_like(posterior.mean)
    drawn = posterior.mean + (0.5 * posterior.log_variance).exp() * noise
    return normalize(drawn, dim=-1) * math.sqrt(drawn.shape[-1])


class Vpl(Method):
    """Decide by the difference of two scores under the mean of the user's variable.

    The mean is taken as it is; only the draws of training are rescaled, as published. There is no
    decision where no signal is a comparison, or what would be read is too long.

    Args:
        model: the folder that the stage vpl has saved.
        dtype: of the language model's weights.
        max_batch_tokens: see `PairEmbedder`.
    """

    def __init__(self, model: str, dtype: str, max_batch_tokens: int = 16384) -> None:
        self._folder, self._dtype, self._max_batch_tokens = Path(model), dtype, max_batch_tokens

    def missing(self) -> str | None:
        there = (self._folder.parent / "summary.json").is_file()
        return None if there else f"{self._folder} isn't there; make vpl makes it"

    def describe(self, asked: Asked) -> list[Said]:
        model = VplModel.from_pretrained(str(self._folder)).eval()
        where = model.language_model, model.prompts
        embedder = PairEmbedder(*where, self._dtype, self._max_batch_tokens)
        both = zip(asked.cases, decide(model, embedder, asked.cases), strict=True)
        return [Said(case.case_id, decided=True, probability=own) for case, own in both]


@torch.no_grad()
def decide(model: VplModel, embedder: PairEmbedder, cases: Sequence[Case]) -> list[float | None]:
    """The probability of the chosen reply of each case; `None` where nothing can be read."""
    histories = [[s for s in case.signals if isinstance(s, Comparison)] for case in cases]
    targets = embedder.embed([case.target for case in cases])
    flat = iter(embedder.embed([pair for history in histories for pair in history]))
    decided: list[float | None] = []
    for history, target in zip(histories, targets, strict=True):
        known = [pair for _ in history if (pair := next(flat)) is not None]
        if target is None or not known:
            decided.append(None)
            continue
        posterior = model.encode(torch.stack(known)[None], torch.ones(1, len(known)).bool())
        chosen, rejected = model.score(target[None], posterior.mean)[0]
        decided.append(torch.sigmoid(chosen - rejected).item())
    return decided
