"""How fast a training is, where its time goes, and what it costs.

FLOPs are those of PaLM (arXiv:2204.02311, appendix B), for the tokens that are there, without
padding: see docs/throughput.md for what is counted and what isn't.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, get_args

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import write_json_atomic
from alignxplore_trl.run.progress import say

# generate: the policy writes; judge: rewards are computed; sync: weights go to vLLM; train: forward
# passes, backward passes and the optimizer; other: the rest, such as loading data and saving.
Phase = Literal["generate", "judge", "sync", "train", "other"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_TOTALS_FILE = "throughput.json"
_GIB = 2**30
# Words of a card's name -> TFLOP/s in bfloat16 of dense matrices, from NVIDIA's data sheets (which
# give some with sparsity, twice as much). The first that fits counts: variants stand before others.
_PEAK_TFLOPS: Mapping[tuple[str, ...], float] = {
    ("B200",): 2250.0,
    ("GH200",): 989.4,
    ("H200", "NVL"): 835.5,
    ("H200",): 989.4,
    ("H100", "NVL"): 835.5,
    ("H100", "PCIe"): 756.0,
    ("H100",): 989.4,
    ("A100",): 312.0,
    ("A10",): 125.0,
    ("L40S",): 362.05,
    ("L40",): 181.05,
    ("L4",): 121.0,
    ("4090",): 165.2,
    ("3090",): 71.0,
}


@dataclass(frozen=True)
class ThroughputSettings:
    """What can't be measured.

    Attributes:
        peak_tflops: TFLOP/s that one device can do at most; `None`: as its name says.
        judge_gpus: GPUs that are held beside those of the training, such as a judge's server.
        price_per_gpu_hour: in any currency; `None` where it isn't known.
    """

    peak_tflops: float | None = None
    judge_gpus: int = 0
    price_per_gpu_hour: float | None = None


@dataclass(frozen=True)
class ModelSize:
    """What the FLOPs of a decoder depend on.

    Attributes:
        parameters: those a token is multiplied with: all but tables of embeddings that are only
            looked up. The output layer counts, also where it shares its weights with a table.
        trained: how many of them are trained.
        layers: of attention.
        attention_width: heads x size of a head.
    """

    parameters: int
    trained: int
    layers: int
    attention_width: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelSize:
        """The size of a model with its adapters, also where ZeRO-3 has sharded it."""
        head = model.get_output_embeddings()
        looked_up = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, nn.Embedding)
            for parameter in module.parameters()
        } - {id(parameter) for parameter in (head.parameters() if head is not None else ())}
        counted = [each for each in model.parameters() if id(each) not in looked_up]
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            parameters=sum(map(_count, counted)),
            trained=sum(_count(each) for each in counted if each.requires_grad),
            layers=config.num_hidden_layers,
            attention_width=heads * head_size,
        )


def training_flops(size: ModelSize, tokens: int, squares: int) -> float:
    """FLOPs of forward and backward passes: `(4 N + 2 N_trained) tokens + 12 L W squares`.

    N counts 2 in the forward pass, 2 for the gradients of activations, and 2 for those of weights,
    which only trained ones have: 6 N when all are, about 4 N with adapters. Attention has no
    weights, and counts 12 either way. Recomputed activations don't count.

    Args:
        size: of the model.
        tokens: the sum of the sequences' lengths.
        squares: the sum of the squares of their lengths.
    """
    weights = (4 * size.parameters + 2 * size.trained) * tokens
    return float(weights + 12 * size.layers * size.attention_width * squares)


def generation_flops(size: ModelSize, tokens: int, squares: int) -> float:
    """FLOPs of one forward pass: `2 N tokens + 4 L W squares`; arguments as of `training_flops`."""
    return float(2 * size.parameters * tokens + 4 * size.layers * size.attention_width * squares)


def peak_tflops_of(device_name: str) -> float | None:
    """TFLOP/s in bfloat16 of a card by its name, `None` for one that isn't known here."""
    words = set(re.split(r"[^A-Za-z0-9]+", device_name))
    known = (peak for name, peak in _PEAK_TFLOPS.items() if words.issuperset(name))
    return next(known, None)


class PhaseClock:
    """Tells which phase the time went to: at each moment exactly one, the innermost.

    Args:
        now: seconds of a clock that only goes on.
        synchronize: waits for what the device has still to do. A kernel is launched and not waited
            for, so that without it the time would go to the phase after. There are a few borders
            in an optimizer step, and at each of them the host needs the device's results anyway.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.perf_counter,
        synchronize: Callable[[], None] = lambda: None,
    ) -> None:
        self._now = now
        self._synchronize = synchronize
        self._phases: list[Phase] = []
        self._seconds: dict[Phase, float] = {}
        self._since = now()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Count what is inside as the phase, but for phases inside it."""
        self.begin(phase)
        try:
            yield
        finally:
            self.end()

    def begin(self, phase: Phase) -> None:
        """The phase begins, inside the one that it is now."""
        self._pass()
        self._phases.append(phase)

    def end(self) -> None:
        """The innermost phase ends."""
        self._pass()
        self._phases.pop()

    def timed(
        self, phase: Phase, function: Callable[Parameters, Result]
    ) -> Callable[Parameters, Result]:
        """The function, with its time counted as the phase."""

        def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
            with self.phase(phase):
                return function(*arguments, **named)

        return call

    def restart(self) -> None:
        """Forget all there was: the time before doesn't count."""
        self._seconds, self._since = {}, self._now()

    def take(self) -> dict[Phase, float]:
        """Seconds in each phase since this was last called; they add up to the time since then."""
        self._pass()
        taken, self._seconds = self._seconds, {}
        return taken

    def _pass(self) -> None:
        self._synchronize()
        now = self._now()
        phase = self._phases[-1] if self._phases else "other"
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._since
        self._since = now


@dataclass(frozen=True)
class Throughput:
    """What a training did in some time; what one did after another adds up.

    Attributes:
        seconds: in each phase; of several processes, their mean.
        tokens: that were trained on, prompts and completions, of all processes.
        generated_tokens: of completions that were written, of all processes.
        training_flops, generation_flops: of all processes.
        peak_flops: what the devices could have done in that time; `None` if that isn't known.
        gpu_seconds: of all GPUs, those of the judge included.
        peak_memory: bytes, the most that a process held: of a GPU as torch allocates it, without a
            GPU in the whole process.
    """

    seconds: Mapping[Phase, float] = field(default_factory=dict)
    tokens: int = 0
    generated_tokens: int = 0
    training_flops: float = 0.0
    generation_flops: float = 0.0
    peak_flops: float | None = 0.0
    gpu_seconds: float = 0.0
    peak_memory: int = 0

    def __add__(self, other: Throughput) -> Throughput:
        known = self.peak_flops is not None and other.peak_flops is not None
        return Throughput(
            seconds={
                phase: self.seconds.get(phase, 0.0) + other.seconds.get(phase, 0.0)
                for phase in get_args(Phase)
                if phase in self.seconds or phase in other.seconds
            },
            tokens=self.tokens + other.tokens,
            generated_tokens=self.generated_tokens + other.generated_tokens,
            training_flops=self.training_flops + other.training_flops,
            generation_flops=self.generation_flops + other.generation_flops,
            peak_flops=(self.peak_flops or 0) + (other.peak_flops or 0) if known else None,
            gpu_seconds=self.gpu_seconds + other.gpu_seconds,
            peak_memory=max(self.peak_memory, other.peak_memory),
        )

    @property
    def wall_seconds(self) -> float:
        """The time that all of it took."""
        return sum(self.seconds.values())

    def metrics(self) -> dict[str, float]:
        """Rates, shares and memory, by the names they are logged under.

        A phase that didn't occur is left out; so are rates of what there isn't.
        """
        wall = self.wall_seconds
        if not wall:
            return {}
        metrics = {"tokens_per_second": self.tokens / wall}
        if self.generated_tokens:
            metrics["generated_tokens_per_second"] = self.generated_tokens / wall
        metrics |= self._utilisation()
        for phase, seconds in self.seconds.items():
            metrics[f"seconds/{phase}"] = seconds
            metrics[f"share/{phase}"] = seconds / wall
        metrics["peak_memory_gib"] = self.peak_memory / _GIB
        return {f"throughput/{name}": value for name, value in metrics.items()}

    def summary(self, price_per_gpu_hour: float | None) -> dict[str, float]:
        """`metrics`, totals, and what the GPUs cost."""
        hours = self.gpu_seconds / 3600
        totals: dict[str, float] = {
            "seconds": self.wall_seconds,
            "tokens": self.tokens,
            "generated_tokens": self.generated_tokens,
            "gpu_hours": hours,
        }
        if price_per_gpu_hour is not None:
            totals["cost"] = hours * price_per_gpu_hour
        return {f"throughput/{name}": value for name, value in totals.items()} | self.metrics()

    def _utilisation(self) -> dict[str, float]:
        """Model FLOPs over those the devices could have done: in all of the time, and in phases."""
        if not self.peak_flops:
            return {}
        found = {"mfu": self.training_flops / self.peak_flops}
        done: Mapping[Phase, float] = {
            "train": self.training_flops,
            "generate": self.generation_flops,
        }
        for phase, flops in done.items():
            if seconds := self.seconds.get(phase):
                found[f"mfu_{phase}"] = flops / (self.peak_flops * seconds / self.wall_seconds)
        return found


class MeasuresThroughput(Trainer):
    """Logs `Throughput.metrics` with each line of the training, and adds up what all of it took.

    Mixed into a trainer. The totals are kept beside the checkpoints at each log line. So they go on
    over restarts, and hold what a kill has undone, too: it was paid for.

    Args:
        throughput: what can't be measured.
        Others as for the trainer.
    """

    model: PreTrainedModel

    def __init__(
        self, *arguments: Any, throughput: ThroughputSettings | None = None, **named: Any
    ) -> None:
        self.throughput = throughput or ThroughputSettings()
        super().__init__(*arguments, **named)
        on_gpu = self.args.device.type == "cuda"
        self.clock = PhaseClock(synchronize=torch.cuda.synchronize if on_gpu else lambda: None)
        self.model_size = ModelSize.of(self.model)
        self._peak_flops = _peak_flops(self.args.device, self.throughput)
        self._trained, self._squares = _zero(self.args.device), _zero(self.args.device)
        self._generated = Throughput()
        self.totals = Throughput()
        self.add_callback(_TrainPhase(self))

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        """The trainer's loss; counts the tokens of the sequences."""
        if self.model.training:
            lengths = _sequence_lengths(inputs)
            # Added up on the device: asking for the numbers now would wait for it.
            self._trained += lengths.sum()
            self._squares += lengths.square().sum()
        return super().compute_loss(model, inputs, *arguments, **named)

    def count_generated(self, prompts: list[list[int]], completions: list[list[int]]) -> None:
        """Count what this process has written: the token ids of prompts and of completions."""
        pairs = zip(prompts, completions, strict=True)
        lengths = [len(prompt) + len(completion) for prompt, completion in pairs]
        self._generated += Throughput(
            generated_tokens=sum(map(len, completions)),
            generation_flops=generation_flops(
                self.model_size, sum(lengths), sum(length**2 for length in lengths)
            ),
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The trainer's log; a line of the training says how fast it was since the one before."""
        measured = self._take()
        self.totals += measured
        if self.args.should_save:
            self._save_totals()
        # Of the last line, which sums up the run, there is the summary.
        if "loss" in logs:
            logs |= measured.metrics()
        super().log(logs, start_time)

    def throughput_summary(self) -> dict[str, float]:
        """Totals of the whole run, all of its restarts included, for `summary.json`."""
        return self.totals.summary(self.throughput.price_per_gpu_hour)

    def begin_measuring(self) -> None:
        """The training begins: what earlier parts of the run took is taken up."""
        if self._peak_flops is None:
            say(
                "throughput: no MFU is logged, since what this device could do isn't known; "
                "throughput.peak_tflops says it"
            )
        self.totals = _read_totals(self._totals_file)
        self.clock.restart()

    @property
    def _totals_file(self) -> Path:
        return Path(str(self.args.output_dir)) / _TOTALS_FILE

    def _save_totals(self) -> None:
        self._totals_file.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(self._totals_file, asdict(self.totals))

    def _take(self) -> Throughput:
        """What all processes did since the last log line; a collective, the same on each."""
        seconds = self.clock.take()
        wall = sum(seconds.values())
        tokens, squares = int(self._trained.item()), int(self._squares.item())
        own = replace(
            self._generated,
            seconds=seconds,
            tokens=tokens,
            training_flops=training_flops(self.model_size, tokens, squares),
            peak_flops=None if self._peak_flops is None else self._peak_flops * wall,
            gpu_seconds=wall if self.args.device.type == "cuda" else 0.0,
            peak_memory=_peak_memory(self.args.device),
        )
        self._trained.zero_()
        self._squares.zero_()
        self._generated = Throughput()
        each: list[Throughput] = gather_object([own])
        together = reduce(add, each)
        mean = {phase: total / len(each) for phase, total in together.seconds.items()}
        of_judge = self.throughput.judge_gpus * sum(mean.values())
        return replace(together, seconds=mean, gpu_seconds=together.gpu_seconds + of_judge)


class _TrainPhase(TrainerCallback):
    """Begins the measurement with the training, and the phase `train` with an optimizer step."""

    def __init__(self, trainer: MeasuresThroughput) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.begin_measuring()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.clock.begin("train")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.clock.end()


def _sequence_lengths(inputs: Mapping[str, Any]) -> torch.Tensor:
    """Tokens of each sequence of a batch, padding left out, (sequences,), int64."""
    if "completion_mask" in inputs:  # GRPO keeps the two parts of a sequence apart.
        return _ones(inputs["prompt_mask"]) + _ones(inputs["completion_mask"])
    if "cu_seq_lens_q" in inputs:  # Cold start without padding: where each begins in the one row.
        starts: torch.Tensor = inputs["cu_seq_lens_q"]
        return starts.diff().to(torch.int64)
    return _ones(inputs["attention_mask"])


def _ones(mask: torch.Tensor) -> torch.Tensor:
    return mask.sum(dim=1, dtype=torch.int64)


def _zero(device: torch.device) -> torch.Tensor:
    return torch.zeros((), dtype=torch.int64, device=device)


def _count(parameter: nn.Parameter) -> int:
    # Under ZeRO-3 a process holds a part, which numel() counts, and DeepSpeed keeps the whole size.
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _peak_flops(device: torch.device, settings: ThroughputSettings) -> float | None:
    """FLOP/s that the device of this process can do at most, `None` if that isn't known."""
    peak = settings.peak_tflops
    if peak is None and device.type == "cuda":
        peak = peak_tflops_of(torch.cuda.get_device_name(device))
    return None if peak is None else peak * 1e12


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Kilobytes; bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _read_totals(file: Path) -> Throughput:
    """What earlier parts of the run took.

    Raises:
        UserError: the file is damaged.
    """
    if not file.is_file():
        return Throughput()
    try:
        return Throughput(**json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{file}: damaged, expected what a training had written; delete it, and what earlier "
            "parts of this run took isn't counted"
        ) from error
