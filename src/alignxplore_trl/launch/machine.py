"""What this machine has: cards, main memory, and room on the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

_MIB = 2**20
_QUERY = (
    "nvidia-smi",
    "--query-gpu=index,uuid,memory.total,memory.used",
    "--format=csv,noheader,nounits",
)
_QUERY_SECONDS = 30


@dataclass(frozen=True)
class Card:
    """A GPU: bytes of its memory, and how many of them are in use before this run takes any."""

    total: int
    used: int


@dataclass(frozen=True)
class Machine:
    """Cards that this process may use, and bytes of free main memory and of free disk."""

    cards: tuple[Card, ...]
    free_memory: int
    free_disk: int


def this_machine(outputs: Path) -> Machine:
    """What there is here, read without loading CUDA, which would take memory of each card.

    Args:
        outputs: the folder that has to hold the run, whether it is there yet or not.
    """
    folder = outputs.absolute()
    while not folder.exists():
        folder = folder.parent
    return Machine(
        cards=_visible_cards(),
        free_memory=psutil.virtual_memory().available,
        free_disk=shutil.disk_usage(folder).free,
    )


def _visible_cards() -> tuple[Card, ...]:
    """The cards in the order of CUDA_VISIBLE_DEVICES; none where there is no driver to ask."""
    try:
        asked = subprocess.run(
            _QUERY, capture_output=True, text=True, check=True, timeout=_QUERY_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[part.strip() for part in line.split(",")] for line in asked.stdout.splitlines()]
    cards = {(index, uuid): _card(total, used) for index, uuid, total, used in rows}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(cards.values())
    chosen: list[Card] = []
    for name in filter(None, (part.strip() for part in visible.split(","))):
        if name.startswith("MIG-") and cards:
            # A part of a card, of which is only known that it has no more than a whole one.
            chosen.append(min(cards.values(), key=lambda card: card.total))
            continue
        found = [
            card
            for (index, uuid), card in cards.items()
            if name == index or (not name.isdigit() and uuid.startswith(name))
        ]
        if not found:
            break  # CUDA, too, stops at the first that isn't there.
        chosen += found[:1]
    return tuple(chosen)


def _card(total: str, used: str) -> Card:
    """A card by what is told of it in MiB; one that shares the host's memory has no figures."""
    if total.isdigit() and used.isdigit():
        return Card(int(total) * _MIB, int(used) * _MIB)
    memory = psutil.virtual_memory()
    return Card(memory.total, memory.total - memory.available)
