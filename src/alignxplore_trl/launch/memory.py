"""How much memory a training needs on each card, estimated before any model is loaded.

Bytes of one process; the largest it needs at any time, not what it needs on average. What is taken
into account stands in docs/preflight.md, with what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

GIB = 2**30
BYTES_OF_DTYPE: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
# What a process holds beside tensors: the context of CUDA or the libraries in main memory, and
# buffers of the communication.
RUNTIME = 1 * GIB
# States of an optimizer for each trained weight; those of others are taken for Adam's.
_STATES: Mapping[str, int] = {
    "adafactor": 0,
    "adagrad": 1,
    "lion_32bit": 1,
    "rmsprop": 1,
    "sgd": 0,
}
_STATES_OF_ADAM = 2
# The tile of TRL's fused head, (tokens, vocabulary): log-probabilities are computed in such pieces,
# and all logits at once are never held.
_TILE = (4096, 32768)
# The logits of the last position, while the next token is sampled from them in float32: as they
# are, cut by temperature and top_k, and as probabilities.
_COPIES_OF_LAST_LOGITS = 3
# DeepSpeed's own allowance for what it moves to main memory.
_OFFLOAD_BUFFERS = 1.5


@dataclass(frozen=True)
class ModelShape:
    """What of a causal language model decides how much memory it takes.

    Attributes:
        parameters: all weights, shared ones once.
        trained: those that are trained; the adapters' alone where there are adapters.
        largest_layer: weights of the largest single layer (an embedding, as a rule).
        hidden_size: width.
        intermediate_size: width within the feed-forward part.
        key_value_size: width of the keys of one position and layer: heads x head size.
        layers: transformer blocks.
        heads: attention heads of the queries.
        vocabulary: tokens.
    """

    parameters: int
    trained: int
    largest_layer: int
    hidden_size: int
    intermediate_size: int
    key_value_size: int
    layers: int
    heads: int
    vocabulary: int


@dataclass(frozen=True)
class Sharding:
    """How processes share the states of a training.

    Attributes:
        kind: `none` for one process, `ddp` for whole copies, DeepSpeed's ZeRO, or FSDP.
        stage: of ZeRO: 1 shares optimizer states, 2 gradients as well, 3 weights as well.
        processes: that share them.
        optimizer_on_cpu: optimizer states and their gradients lie in main memory.
        weights_on_cpu: weights lie there, too.
    """

    kind: Literal["none", "ddp", "zero", "fsdp"]
    processes: int
    stage: int = 0
    optimizer_on_cpu: bool = False
    weights_on_cpu: bool = False

    @property
    def shards_weights(self) -> bool:
        """Whether a process has to gather weights before it computes with them."""
        return self.kind == "fsdp" or (self.kind == "zero" and self.stage == 3)


@dataclass(frozen=True)
class TrainingStep:
    """What is computed in one forward and backward pass of one process.

    Attributes:
        sequences: rows of the micro-batch.
        tokens: of each row, at the longest.
        dtype: of the weights as they are loaded.
        mixed_precision: matrix products are computed with 16 bits.
        gradient_checkpointing: blocks keep their input alone, and are computed again.
        eager_attention: attention keeps the scores of all pairs of positions.
        optimizer: `trainer.optim`.
    """

    sequences: int
    tokens: int
    dtype: str
    mixed_precision: bool
    gradient_checkpointing: bool
    eager_attention: bool
    optimizer: str


@dataclass(frozen=True)
class Rollouts:
    """What is generated at once on one card.

    Attributes:
        sequences: completions, each with its prompt.
        prompt_tokens: of a prompt, at the longest.
        completion_tokens: of a completion, at the longest.
        engine: `transformers` generates with the weights in training, `colocated` is vLLM on the
            same card, `server` is elsewhere.
        share_of_card: what a colocated vLLM takes of the card.
        sleeps: it gives that back while the policy is trained.
    """

    sequences: int
    prompt_tokens: int
    completion_tokens: int
    engine: Literal["transformers", "colocated", "server"]
    share_of_card: float = 0.0
    sleeps: bool = False


@dataclass(frozen=True)
class Scorer:
    """A judge or generator in the process, and the tokens of one of its forward passes.

    A generator is read at all positions of a reply, a judge at one.
    """

    shape: ModelShape
    dtype: str
    batch_tokens: int
    reads_all_positions: bool


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process, by what they are for.

    `weights`, `gradients`, `optimizer`, `scorers` and `runtime` are held all the time.
    `activations` come with a forward and backward pass, `rollouts` while completions are
    generated, `scoring` while they are judged: never two of these together. `vllm` is held all the
    time, unless it sleeps. `host` is what is moved to main memory.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    rollouts: int
    scorers: int
    scoring: int
    vllm: int
    vllm_sleeps: bool
    runtime: int
    host: int

    @property
    def held(self) -> int:
        """What is held all the time, without vLLM."""
        return self.weights + self.gradients + self.optimizer + self.scorers + self.runtime

    @property
    def peak(self) -> int:
        """The most that is needed at any time."""
        if self.vllm_sleeps:
            return self.held + max(self.activations, self.vllm, self.scoring)
        return self.held + self.vllm + max(self.activations, self.rollouts, self.scoring)

    def parts(self) -> dict[str, int]:
        """The parts that aren't empty, by name, in bytes."""
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.activations,
            "rollouts": self.rollouts,
            "vLLM": self.vllm,
            "judges": self.scorers,
            "judging": self.scoring,
            "runtime": self.runtime,
        }
        return {name: size for name, size in parts.items() if size}


def estimate_memory(
    shape: ModelShape,
    step: TrainingStep,
    sharding: Sharding,
    *,
    rollouts: Rollouts | None = None,
    scorers: tuple[Scorer, ...] = (),
    card: int = 0,
) -> MemoryEstimate:
    """The memory of one process of a training, in bytes.

    Model states under ZeRO are those of DeepSpeed's published estimators
    (`estimate_zero2_model_states_mem_needs`, `estimate_zero3_model_states_mem_needs`).

    Args:
        shape: the policy's.
        step: one forward and backward pass.
        sharding: how processes share the states.
        rollouts: what is generated; `None` where nothing is.
        scorers: judges and generators in the process.
        card: bytes of the card, of which a colocated vLLM takes a share.
    """
    weights, gradients, optimizer, host = _model_states(shape, step, sharding)
    colocated = rollouts is not None and rollouts.engine == "colocated"
    return MemoryEstimate(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=_activations(shape, step),
        rollouts=_rollouts(shape, step, sharding, rollouts),
        scorers=sum(_weight_bytes(scorer) for scorer in scorers),
        scoring=max(map(_scoring, scorers), default=0),
        vllm=int(rollouts.share_of_card * card) if rollouts and colocated else 0,
        vllm_sleeps=bool(rollouts and rollouts.sleeps and colocated),
        runtime=RUNTIME,
        host=host,
    )


def vllm_needs(shape: ModelShape, dtype: str, tokens: int, tensor_parallel: int) -> int:
    """The least that vLLM has to hold on a card: its weights, and the cache of one whole sequence.

    Args:
        shape: the policy's.
        dtype: of weights and cache.
        tokens: of a prompt and its completion together, at the longest.
        tensor_parallel: cards over which one engine is spread.
    """
    cache = tokens * _cache_of_token(shape, BYTES_OF_DTYPE[dtype])
    return (shape.parameters * BYTES_OF_DTYPE[dtype] + cache) // tensor_parallel


def checkpoint_bytes(shape: ModelShape, step: TrainingStep, sharding: Sharding) -> int:
    """One checkpoint of a training, of all processes together: weights and optimizer states.

    With adapters these alone are saved. ZeRO saves weights twice, for itself and for transformers.
    """
    width = _trained_bytes(shape, step, sharding)
    saved = shape.trained if _has_adapters(shape) else shape.parameters
    if sharding.kind == "zero":
        return 2 * saved * width + 12 * shape.trained
    return saved * width + _optimizer_bytes(shape.trained, step.optimizer, width)


def model_bytes(shape: ModelShape, dtype: str) -> int:
    """The trained model as it is saved at the end, adapters merged."""
    return shape.parameters * BYTES_OF_DTYPE[dtype]


def _model_states(
    shape: ModelShape, step: TrainingStep, sharding: Sharding
) -> tuple[int, int, int, int]:
    """Weights, gradients and optimizer states on the card, and what lies in main memory."""
    width, count = BYTES_OF_DTYPE[step.dtype], sharding.processes
    trained_width = _trained_bytes(shape, step, sharding)
    frozen = shape.parameters - shape.trained if _has_adapters(shape) else 0
    if sharding.kind == "zero":
        return _zero_states(shape, width, sharding)
    weights = frozen * width + shape.trained * trained_width
    gradients = shape.trained * trained_width
    optimizer = _optimizer_bytes(shape.trained, step.optimizer, trained_width)
    if sharding.kind == "fsdp":
        # One block at a time is gathered, for which the largest layer stands, and its gradients.
        gathered = 2 * max(shape.largest_layer, _of_block(shape)) * width
        return weights // count + gathered, gradients // count, optimizer // count, 0
    if sharding.kind == "ddp":
        gradients *= 2  # DDP reduces them in buckets that are no views of them.
    return weights, gradients, optimizer, 0


def _zero_states(shape: ModelShape, width: int, sharding: Sharding) -> tuple[int, int, int, int]:
    """ZeRO keeps the trained weights, their gradients and both states of Adam in float32, too."""
    count, trained = sharding.processes, shape.trained
    weights, gradients = shape.parameters * width, trained * width
    reduced, optimizer = 4 * trained, 12 * trained
    largest = 4 * shape.largest_layer
    if sharding.stage == 1:
        gradients, reduced = gradients + reduced, 0
    if sharding.stage == 3:
        weights, gradients = weights // count, 0
    host = 0
    if sharding.optimizer_on_cpu:
        host += (reduced + optimizer) // count
        gradients, reduced, optimizer = 0, 0, 0
    if sharding.weights_on_cpu and sharding.stage == 3:
        host += weights
        weights = 0
    if sharding.stage == 3:
        weights += largest
    return (
        weights,
        gradients + reduced // count,
        optimizer // count,
        int(host * _OFFLOAD_BUFFERS),
    )


def _has_adapters(shape: ModelShape) -> bool:
    return shape.trained < shape.parameters


def _trained_bytes(shape: ModelShape, step: TrainingStep, sharding: Sharding) -> int:
    """Bytes of a trained weight: peft keeps adapters in float32, FSDP under mixed precision all.

    Otherwise weights are trained as they were loaded: Trainer's `bf16` keeps no copies in float32.
    """
    upcast = sharding.kind == "fsdp" and step.mixed_precision
    return 4 if upcast or _has_adapters(shape) else BYTES_OF_DTYPE[step.dtype]


def _optimizer_bytes(trained: int, optimizer: str, width: int) -> int:
    """States have the type of the weights, or one byte each."""
    states = _STATES.get(optimizer, _STATES_OF_ADAM)
    return trained * states * (1 if "8bit" in optimizer else width)


def _activations(shape: ModelShape, step: TrainingStep) -> int:
    """What is kept from the forward to the backward pass, and the head's tile and gradient.

    Measured on Llama and Qwen2 blocks: the feed-forward part keeps 4 x its width, attention the
    keys and values and, with the norms and projections, 8 x the model's width; norms compute in
    float32.
    """
    tokens, width = step.sequences * step.tokens, BYTES_OF_DTYPE[step.dtype]
    computed = 2 if step.mixed_precision else width
    hidden = shape.hidden_size
    block = (4 * shape.intermediate_size + 2 * shape.key_value_size) * computed
    block += 8 * hidden * width + 2 * hidden * (4 - width)
    if step.eager_attention:
        block += shape.heads * step.tokens * (computed + 4)
    inputs = shape.layers * hidden * width
    per_token = inputs + block if step.gradient_checkpointing else shape.layers * block
    tile = min(tokens, _TILE[0]) * min(shape.vocabulary, _TILE[1]) * 4
    head = 0 if _has_adapters(shape) else shape.vocabulary * hidden * 4
    copies = shape.parameters * 2 if step.mixed_precision and width == 4 else 0
    return tokens * per_token + tile + head + copies


def _rollouts(
    shape: ModelShape, step: TrainingStep, sharding: Sharding, rollouts: Rollouts | None
) -> int:
    """Weights that are gathered, keys and values of all positions, one block's prefill, logits."""
    if rollouts is None or rollouts.engine != "transformers":
        return 0
    width = BYTES_OF_DTYPE[step.dtype]
    gathered = shape.parameters * width if sharding.shards_weights else 0
    tokens = rollouts.sequences * (rollouts.prompt_tokens + rollouts.completion_tokens)
    prefill = rollouts.sequences * rollouts.prompt_tokens * _forward_of_token(shape, width)
    logits = rollouts.sequences * shape.vocabulary * 4 * _COPIES_OF_LAST_LOGITS
    return gathered + tokens * _cache_of_token(shape, width) + prefill + logits


def _weight_bytes(scorer: Scorer) -> int:
    return scorer.shape.parameters * BYTES_OF_DTYPE[scorer.dtype]


def _scoring(scorer: Scorer) -> int:
    width = BYTES_OF_DTYPE[scorer.dtype]
    per_token = _cache_of_token(scorer.shape, width) + _forward_of_token(scorer.shape, width)
    if scorer.reads_all_positions:
        per_token += scorer.shape.vocabulary * width
    return scorer.batch_tokens * per_token


def _cache_of_token(shape: ModelShape, width: int) -> int:
    """Keys and values of one position, in all layers."""
    return 2 * shape.layers * shape.key_value_size * width


def _forward_of_token(shape: ModelShape, width: int) -> int:
    """What one block holds of one position in a pass without gradients."""
    return (3 * shape.intermediate_size + 4 * shape.hidden_size) * width


def _of_block(shape: ModelShape) -> int:
    """Weights of one block, about: attention and a gated feed-forward part."""
    hidden = shape.hidden_size
    return hidden * (2 * hidden + 2 * shape.key_value_size + 3 * shape.intermediate_size)
