"""VPL: a latent variable of each user, inferred from labelled pairs; under it replies are scored.

Source: Poddar et al. 2024, arXiv 2408.10075; METHOD, The methods we compare with. The language model
that embeds stays frozen (the published LoRA of it is left out), so each reply is embedded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from alignxplore_trl.baselines.protocol import Method, Said, Setting
from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.judging.encoding import encode_replies
from alignxplore_trl.judging.weights import load_model, load_tokenizer
from alignxplore_trl.run.progress import progress
from alignxplore_trl.text.prompts import Prompts

Reply = tuple[str, str]  # a post, and a reply to it


class PairEmbedder:
    """Embeds replies with a frozen language model, each distinct one once.

    What is read is a post in the reply template, without a description, and the reply behind it. The
    embedding is the position-weighted mean of the last hidden layer.

    Args:
        model: folder or name of the language model.
        prompts: a prompt folder; its reply template is used.
        dtype: of the weights.
        max_batch_tokens: tokens of a forward pass, padding included; one reply may exceed it.
    """

    def __init__(self, model: str, prompts: str, dtype: str, max_batch_tokens: int) -> None:
        self._model = load_model(model, dtype, None, None)
        self._tokenizer = load_tokenizer(model)
        self._prompts, self._max_batch_tokens = Prompts(prompts), max_batch_tokens
        config = self._model.config.get_text_config()
        self.size: int = config.hidden_size
        self._context: int = config.max_position_embeddings
        self._known: dict[Reply, Tensor | None] = {}

    def embed(self, comparisons: Sequence[Comparison]) -> list[Tensor | None]:
        """The embeddings of the chosen and the rejected reply: float32, (2, size), on the CPU.

        `None` where a reply with its post is longer than the model's context.
        """
        pairs = [((own.post, own.chosen), (own.post, own.rejected)) for own in comparisons]
        self._read_new(list(dict.fromkeys(reply for pair in pairs for reply in pair)))
        found = [[self._known[reply] for reply in pair] for pair in pairs]
        return [None if None in own else torch.stack(own) for own in found]  # type: ignore[arg-type]

    def _read_new(self, replies: Sequence[Reply]) -> None:
        new = [reply for reply in replies if reply not in self._known]
        prompts = [self._prompts.render("reply", post=post, description=None) for post, _ in new]
        encoded = encode_replies(self._tokenizer, prompts, [text for _, text in new], chat=False)
        rows = {reply: head + tail for reply, (head, tail) in zip(new, encoded, strict=True)}
        self._known |= dict.fromkeys(new)
        fitting = sorted(
            (reply for reply in new if len(rows[reply]) <= self._context),
            key=lambda reply: len(rows[reply]),
        )
        for batch in progress(list(self._batches(fitting, rows)), "batches of replies embedded"):
            self._known |= zip(batch, self._read([rows[reply] for reply in batch]), strict=True)

    def _batches(
        self, replies: Sequence[Reply], rows: dict[Reply, list[int]]
    ) -> Iterator[list[Reply]]:
        batch: list[Reply] = []
        for reply in replies:  # Their lengths never fall.
            if batch and len(rows[reply]) * (len(batch) + 1) > self._max_batch_tokens:
                yield batch
                batch = []
            batch.append(reply)
        if batch:
            yield batch

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
        language_model: folder or name of the frozen model that embeds.
        prompts: the prompt folder.
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
        self.language_model, self.prompts = language_model, prompts
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
        """How much users like both replies of a pair, in logits: (users, 2).

        Args:
            pairs: embeddings of the replies, (users, 2, embedding size).
            latent: each user's variable, (users, latent size).
        """
        users = latent[:, None].expand(-1, 2, -1)
        scores: Tensor = self.decoder(torch.cat([self._standardised(pairs), users], dim=-1))
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
        self._loaded: tuple[VplModel, PairEmbedder] | None = None

    def missing(self) -> str | None:
        """See `Method`."""
        there = (self._folder.parent / "summary.json").is_file()
        return None if there else f"{self._folder} isn't there yet; make vpl makes it"

    def describe(self, cases: Sequence[Case], setting: Setting) -> list[Said]:
        """See `Method`."""
        if self._loaded is None:
            model = VplModel.from_pretrained(str(self._folder)).eval()
            arguments = (model.language_model, model.prompts, self._dtype, self._max_batch_tokens)
            self._loaded = (model, PairEmbedder(*arguments))
        model, embedder = self._loaded
        decided = decide(model, embedder, cases)
        return [
            Said(case.case_id, decided=True, probability=probability)
            for case, probability in zip(cases, decided, strict=True)
        ]

    def close(self) -> None:
        """See `Method`."""
        self._loaded = None


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
