"""The simulated world: users with hidden directions, and replies whose wording carries them.

A user cares about a few of twelve dimensions and prefers one pole of each. Every comparison
contrasts one dimension the user cares about: the chosen reply has a wording of the preferred pole,
the rejected one a wording of the opposite pole, and each also carries a wording of some dimension
that this user does not care about. No reply ever contains the name of a pole, so that reading a
signal means to infer what a wording stands for, and the dimension that matters is the one in which
the two replies differ.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import ConfigDict, Field, PositiveInt
from pydantic.dataclasses import dataclass

from alignxplore_trl.cases import Case, Comparison, Post, Signal

SignalKind = Literal["comparisons", "posts", "mixed"]
# A tenth of the posts each is for validation and test; the rest is shared by the training splits.
_TENTHS = {"cold_start": range(8), "rl": range(8), "validation": (8,), "test": (9,)}

_WORDS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
# dimension -> pole -> wordings.
WORDINGS: Mapping[str, Mapping[str, list[str]]] = _WORDS["wordings"]
DIMENSION_OF_POLE = {pole: name for name, poles in WORDINGS.items() for pole in poles}
_POLES = {pole: words for poles in WORDINGS.values() for pole, words in poles.items()}
POLE_OF_WORDING = {word: pole for pole, words in _POLES.items() for word in words}
OPPOSITE = {
    pole: other for one, two in WORDINGS.values() for pole, other in ((one, two), (two, one))
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class World:
    """How users and their signals are drawn: a data source, with the keys of conf/data/world.yaml.

    Users, and the texts of posts, differ between training, validation and test. cold_start and rl
    share the texts of posts, but no user.
    """

    sizes: dict[Literal["cold_start", "rl", "validation", "test"], int]
    rounds: PositiveInt
    signals: PositiveInt
    least_signals: int = 8
    dimensions_per_user: Annotated[int, Field(ge=1, le=len(WORDINGS) - 2)] = 3
    signal_kind: SignalKind = "comparisons"

    def __post_init__(self) -> None:
        if self.signals_per_user >= (posts := len(posts_of_split("test"))):
            found = f"data.rounds, data.signals: {self.signals_per_user} signals of a user found"
            raise ValueError(f"{found}, expected fewer than the {posts} posts of a split")

    @property
    def signals_per_user(self) -> int:
        """Signals of each user, the target pair not counted."""
        return max(self.rounds * self.signals, self.least_signals)

    def cases(self, counts: Counter[str], seed: int) -> dict[str, list[Case]]:
        """The first users of each split, one case each; there is nothing to leave out."""
        return {
            split: [self.case(split, number, seed) for number in range(size)]
            for split, size in self.sizes.items()
        }

    def case(self, split: str, number: int, seed: int) -> Case:
        """Draw one user of a split: a function of the seed, the split and the number alone."""
        draw = random.Random(f"{seed}/{split}/{number}")
        directions = draw_directions(draw, self.dimensions_per_user)
        posts = draw.sample(posts_of_split(split), self.signals_per_user + 1)
        signals = tuple(self._signal(draw, directions, post) for post in posts[1:])
        user_id = f"world-{seed}-{split}-{number}"
        return Case(
            case_id=user_id,
            user_id=user_id,
            signals=signals,
            target=draw_comparison(draw, directions, posts[0]),
            directions=directions,
            description=describe(draw.sample(list(directions.values()), len(directions))),
        )

    def _signal(self, draw: random.Random, directions: Mapping[str, str], post: str) -> Signal:
        kind = self.signal_kind
        as_post = kind == "posts" or (kind == "mixed" and draw.random() < 0.5)
        return (draw_post if as_post else draw_comparison)(draw, directions, post)


def draw_directions(draw: random.Random, count: int) -> dict[str, str]:
    """Choose dimensions a user cares about, and the preferred pole of each."""
    return {name: draw.choice(list(WORDINGS[name])) for name in draw.sample(list(WORDINGS), count)}


def draw_comparison(draw: random.Random, directions: Mapping[str, str], post: str) -> Comparison:
    """A pair of replies that differ in one dimension the user cares about."""
    pole = draw.choice(list(directions.values()))
    distractors = draw.sample([name for name in WORDINGS if name not in directions], 2)
    chosen, rejected = (
        _reply(draw, side, draw.choice(list(WORDINGS[distractor])))
        for side, distractor in zip((pole, OPPOSITE[pole]), distractors, strict=True)
    )
    return Comparison(post, chosen, rejected)


def draw_post(draw: random.Random, directions: Mapping[str, str], post: str) -> Post:
    """A comment the user wrote: two wordings of a pole the user likes, one of something else."""
    pole = draw.choice(list(directions.values()))
    distractor = draw.choice([name for name in WORDINGS if name not in directions])
    words = draw.sample(_POLES[pole], 2)
    words.append(draw.choice(_POLES[draw.choice(list(WORDINGS[distractor]))]))
    draw.shuffle(words)
    return Post(post, ", ".join(words))


def describe(poles: Sequence[str]) -> str:
    """The preference description in the world's language; empty poles give an empty string."""
    return f"prefers {', '.join(poles)}" if poles else ""


def stated_poles(description: str) -> list[str]:
    """The poles a description states, in order, repetitions included."""
    return [word for word in re.findall(r"[a-z]+", description.lower()) if word in OPPOSITE]


@cache
def posts_of_split(split: str) -> tuple[str, ...]:
    """All texts of posts that may occur in a split: eight tenths train, one each for the others."""
    everything = [*map(" ".join, itertools.product(*_WORDS["posts"]))]
    random.Random("posts").shuffle(everything)
    return tuple(post for number, post in enumerate(everything) if number % 10 in _TENTHS[split])


def _reply(draw: random.Random, *poles: str) -> str:
    words = [draw.choice(_POLES[pole]) for pole in poles]
    draw.shuffle(words)
    return ", ".join(words)
