"""Cards, memory and disk, against what a training will need of them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from alignxplore_trl.launch.config import RLConfig
from alignxplore_trl.launch.machine import Card, Machine
from alignxplore_trl.launch.memory import (
    GIB,
    MemoryEstimate,
    ModelShape,
    TrainingStep,
    checkpoint_bytes,
    model_bytes,
)
from alignxplore_trl.launch.preflight.check import Check, TrainingConfig, failed, in_words, passed
from alignxplore_trl.launch.preflight.software import LOOPBACK, judge_servers
from alignxplore_trl.launch.training_memory import LaunchFile

# More than a desktop takes of a card.
_IN_USE = 2 * GIB


def check_gpus(config: TrainingConfig, launch: LaunchFile, machine: Machine) -> list[Check]:
    """As many processes as the launch's file starts, and a card for each of them."""
    found = []
    if launch.processes != config.launch.num_processes:
        found.append(
            failed(
                "gpus",
                f"launch.num_processes: {config.launch.num_processes} found, but "
                f"{config.launch.accelerate_config} starts {launch.processes}",
                "write the same number into both",
            )
        )
    cards, needed = machine.cards, launch.per_machine
    if config.launch.use_cpu:
        return found or [passed("gpus", f"none needed: {needed} process(es) on the CPU")]
    if len(cards) < needed:
        there = f"{len(cards)} card(s)" if cards else "no NVIDIA card (nvidia-smi names none)"
        found.append(
            failed(
                "gpus",
                f"{there} found, expected {needed}, one for each process on this machine "
                f"({config.launch.accelerate_config})",
                "choose another LAUNCH (cpu and cpu2 need none), write another num_processes into "
                "that file and launch.num_processes, or look at CUDA_VISIBLE_DEVICES",
            )
        )
    elsewhere = f", {launch.machines} machines" if launch.machines > 1 else ""
    return found or [
        passed(
            "gpus",
            f"{len(cards)} card(s) of {in_words(min(card.total for card in cards))} for {needed} "
            f"process(es){elsewhere}",
        )
    ]


def check_memory(
    estimate: MemoryEstimate, launch: LaunchFile, machine: Machine, *, use_cpu: bool, told: str
) -> list[Check]:
    """What is estimated fits into each card, or into the main memory of a machine without.

    Args:
        estimate: of one process.
        launch: how many there are on this machine.
        machine: what it has.
        use_cpu: whether processes compute in main memory.
        told: what the estimate is of.
    """
    parts = " + ".join(f"{name} {in_words(size)}" for name, size in estimate.parts().items())
    line = f"{told}: about {in_words(estimate.peak)} for each process at its peak, of {parts}"
    host = estimate.host * launch.per_machine
    if use_cpu:
        host += estimate.peak * launch.per_machine
    found = []
    if host > machine.free_memory:
        found.append(
            failed(
                "memory",
                f"{line}; main memory: {in_words(host)} for {launch.per_machine} process(es), but "
                f"{in_words(machine.free_memory)} are free",
                _LESS_MEMORY,
            )
        )
    if use_cpu:
        room = f"{in_words(machine.free_memory)} of main memory are free"
        return found or [passed("memory", f"{line}; {room}")]
    used = machine.cards[: launch.per_machine]
    for number, card in enumerate(used):
        if estimate.peak > card.total - card.used:
            found.append(failed("memory", f"{line}; card {number} has {_room(card)}", _LESS_MEMORY))
            break  # One line is enough for eight cards of a kind.
    smallest = min(used, key=lambda card: card.total - card.used)
    return found or [passed("memory", f"{line}; each card has {_room(smallest)}")]


_LESS_MEMORY = (
    "an estimate, from docs/preflight.md: lower trainer.per_device_train_batch_size (and raise "
    "gradient_accumulation_steps), trainer.steps_per_generation or trainer.max_completion_length; "
    "trainer.gradient_checkpointing=true, trainer.use_vllm=true, LAUNCH=zero3 or JUDGE=server; or, "
    "if you know better, preflight.skip=[memory]"
)


def check_devices(config: TrainingConfig, launch: LaunchFile, machine: Machine) -> list[Check]:
    """Where judge and policy compute: on the same cards by intent alone."""
    if not isinstance(config, RLConfig):
        return []
    servers = judge_servers(config)
    here = [url for url in servers if urlsplit(url).hostname in LOOPBACK]
    if config.launch.use_cpu:
        return [passed("devices", f"the judge is {_place(servers)}; the policy is on the CPU")]
    busy = [
        number
        for number, card in enumerate(machine.cards[: launch.per_machine])
        if card.used > _IN_USE
    ]
    if here and busy:
        numbers = ", ".join(map(str, busy))
        return [
            failed(
                "devices",
                f"the judge's server is on this machine ({here[0]}), and something has memory of "
                f"card(s) {numbers}, on which the policy is to be trained",
                "give each cards of its own by CUDA_VISIBLE_DEVICES, and write the smaller number "
                "into num_processes of the launch; or choose JUDGE=local",
            )
        ]
    return [
        passed(
            "devices",
            f"the judge is {_place(servers)}"
            + (", on cards of its own as far as can be told" if here else ""),
        )
    ]


def check_disk(
    config: TrainingConfig,
    shape: ModelShape,
    step: TrainingStep,
    launch: LaunchFile,
    free: int,
    kept_already: int = 0,
) -> list[Check]:
    """Room for the checkpoints that are kept, one more while it is saved, and the model.

    Args:
        config: of a training.
        shape: the policy's.
        step: with the type of weights and the optimizer.
        launch: how optimizer states are kept.
        free: bytes of the disk.
        kept_already: bytes of checkpoints that an interrupted run has left.
    """
    one = checkpoint_bytes(shape, step, launch.sharding)
    model = model_bytes(shape, config.model.dtype)
    kept = config.trainer.get("save_total_limit")
    count = 2 if kept is None else int(kept) + 1
    needed = count * one + model
    line = f"{count} checkpoints of {in_words(one)} + model {in_words(model)} = {in_words(needed)}"
    if kept is None:
        line += " at least (trainer.save_total_limit=null keeps all)"
    room = free + kept_already
    line += f"; {in_words(room)} are free for {config.paths.outputs}"
    if needed > room:
        return [
            failed(
                "disk",
                line,
                "free some, lower trainer.save_total_limit, or set paths.outputs to a larger disk",
            )
        ]
    return [passed("disk", line)]


def checkpoints_size(folder: Path) -> int:
    """Bytes of all files in a folder, 0 where there is none."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _room(card: Card) -> str:
    room = f"{in_words(card.total)}"
    return f"{room}, {in_words(card.used)} of them in use" if card.used > _IN_USE else room


def _place(servers: list[str]) -> str:
    return f"served at {servers[0]}" if servers else "in each process, beside the policy"
