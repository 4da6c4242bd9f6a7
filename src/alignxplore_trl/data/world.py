"""The simulated world: users with hidden directions, and replies whose wording carries them.

A user cares about a few of twelve dimensions and prefers one pole of each. Every comparison
contrasts one dimension the user cares about: the chosen reply has a wording of the preferred pole,
the rejected one a wording of the opposite pole, and each also carries a wording of some dimension
that this user does not care about. No reply ever contains the name of a pole, so that reading a
signal means to infer what a wording stands for, and the dimension that matters is the one in which
the two replies differ.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from alignxplore_trl.signals import Comparison, Post, PreferenceCase, Signal

SignalKind = Literal["comparisons", "posts", "mixed"]
Split = Literal["cold_start", "rl", "validation", "test"]
# Refined sets have one more: test users whose histories are posts.
RefinedSplit = Literal["cold_start", "rl", "validation", "test", "test_posts"]

# dimension -> pole -> wordings. Every wording belongs to one pole; none is the name of a pole.
WORDINGS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "length": {
        "brief": ("tldr", "nutshell", "shortly", "tersely"),
        "detailed": ("furthermore", "thoroughly", "moreover", "elaborating"),
    },
    "humour": {
        "playful": ("haha", "kidding", "giggle", "punchline"),
        "serious": ("soberly", "gravely", "earnestly", "solemnly"),
    },
    "formality": {
        "formal": ("hereby", "sincerely", "esteemed", "pursuant"),
        "casual": ("hey", "gonna", "dude", "yep"),
    },
    "warmth": {
        "warm": ("hugs", "dear", "proud", "cherish"),
        "blunt": ("nonsense", "nope", "harshly", "wrong"),
    },
    "evidence": {
        "factual": ("study", "measured", "statistics", "source"),
        "anecdotal": ("once", "grandma", "neighbour", "story"),
    },
    "certainty": {
        "confident": ("definitely", "certainly", "surely", "undoubtedly"),
        "cautious": ("perhaps", "maybe", "might", "possibly"),
    },
    "novelty": {
        "inventive": ("imagine", "reinvent", "unusual", "experiment"),
        "traditional": ("classic", "customary", "heritage", "timeless"),
    },
    "pace": {
        "quick": ("immediately", "now", "asap", "rush"),
        "patient": ("gradually", "slowly", "wait", "eventually"),
    },
    "focus": {
        "practical": ("toolbox", "checklist", "handson", "try"),
        "theoretical": ("principle", "concept", "abstractly", "framework"),
    },
    "perspective": {
        "personal": ("myself", "feelings", "diary", "heart"),
        "detached": ("objectively", "impartial", "outsider", "observers"),
    },
    "outlook": {
        "hopeful": ("bright", "cheers", "luckily", "promising"),
        "sceptical": ("doubt", "dubious", "unproven", "catch"),
    },
    "structure": {
        "ordered": ("firstly", "secondly", "numbered", "bullet"),
        "rambling": ("anyway", "whatever", "tangent", "besides"),
    },
}
DIMENSION_OF_POLE = {pole: name for name, poles in WORDINGS.items() for pole in poles}
POLE_OF_WORDING = {
    wording: pole
    for poles in WORDINGS.values()
    for pole, wordings in poles.items()
    for wording in wordings
}
OPPOSITE = {
    pole: other for poles in WORDINGS.values() for pole in poles for other in poles if other != pole
}

_ACTIVITIES = (
    "fixing", "painting", "cleaning", "choosing", "moving", "building", "selling", "buying",
    "storing", "sharing", "lending", "washing", "drawing", "filming", "mending", "naming",
)  # fmt: skip
_OBJECTS = (
    "bikes", "boats", "chairs", "lamps", "tents", "pianos", "kites", "clocks", "shelves", "carpets",
    "mirrors", "gates", "fences", "ovens", "radios", "maps", "boots", "hats", "puzzles", "ponds",
)  # fmt: skip
_PLACES = (
    "indoors", "outside", "abroad", "upstairs", "downtown", "nearby", "overnight", "alone",
    "together", "online", "yearly", "weekly",
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """How users and their signals are drawn.

    Attributes:
        seed: everything that is drawn is a function of it and of the user's number.
        dimensions_per_user: how many dimensions a user cares about.
        signals_per_user: how many signals a user has given, the target pair not counted.
        signal_kind: comparisons, posts with the user's comment, or a mixture of both by halves.
    """

    seed: int
    dimensions_per_user: int = 3
    signals_per_user: int = 8
    signal_kind: SignalKind = "comparisons"

    def cases(self, split: Split, count: int) -> list[PreferenceCase]:
        """The first `count` users of a split, one case each.

        Users, and the texts of posts, differ between cold_start and rl together, validation and
        test; cold_start and rl share the wordings of posts but no user.
        """
        return [self.case(split, number) for number in range(count)]

    def case(self, split: Split, number: int) -> PreferenceCase:
        """Draw one user of a split: a function of the seed, the split and the number alone."""
        draw = random.Random(f"{self.seed}/{split}/{number}")
        directions = draw_directions(draw, self.dimensions_per_user)
        posts = draw.sample(posts_of_split(split), self.signals_per_user + 1)
        signals = [self._signal(draw, directions, post) for post in posts[1:]]
        user_id = f"world-{self.seed}-{split}-{number}"
        return PreferenceCase(
            case_id=user_id,
            user_id=user_id,
            signals=tuple(signals),
            target=draw_comparison(draw, directions, posts[0]),
            directions=directions,
            description=describe(draw.sample(list(directions.values()), len(directions))),
        )

    def _signal(self, draw: random.Random, directions: Mapping[str, str], post: str) -> Signal:
        as_post = self.signal_kind == "posts" or (
            self.signal_kind == "mixed" and draw.random() < 0.5
        )
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
    words = draw.sample(_wordings(pole), 2)
    words.append(draw.choice(_wordings(draw.choice(list(WORDINGS[distractor])))))
    draw.shuffle(words)
    return Post(post, ", ".join(words))


def describe(poles: Sequence[str]) -> str:
    """The preference description in the world's language; empty poles give an empty string."""
    return f"prefers {', '.join(poles)}" if poles else ""


def stated_poles(description: str) -> list[str]:
    """The poles a description states, in order, repetitions included."""
    return [word for word in re.findall(r"[a-z]+", description.lower()) if word in OPPOSITE]


@cache
def posts_of_split(split: Split) -> tuple[str, ...]:
    """All texts of posts that may occur in a split: eight tenths train, one each for the others."""
    index = {"cold_start": range(8), "rl": range(8), "validation": (8,), "test": (9,)}[split]
    everything = [
        f"{activity} {thing} {place}"
        for activity in _ACTIVITIES
        for thing in _OBJECTS
        for place in _PLACES
    ]
    random.Random("posts").shuffle(everything)
    return tuple(post for number, post in enumerate(everything) if number % 10 in index)


def check_world(world: World) -> list[str]:
    """Problems with a world's settings, in words; empty when it can be drawn."""
    problems = []
    most = len(WORDINGS) - 2
    if not 1 <= world.dimensions_per_user <= most:
        problems.append(
            f"data.dimensions_per_user: {world.dimensions_per_user} found, expected 1 to {most}: "
            f"two of the {len(WORDINGS)} dimensions are left over as distractors"
        )
    posts = min(len(posts_of_split(split)) for split in get_args(Split))
    if not 1 <= world.signals_per_user < posts:
        problems.append(
            f"data.signals_per_user: {world.signals_per_user} found, expected 1 to {posts - 1}: "
            f"the smallest split has {posts} posts, and each signal and the target pair has its own"
        )
    if world.signal_kind not in get_args(SignalKind):
        problems.append(
            f"data.signal_kind: {world.signal_kind!r} found, expected one of "
            f"{', '.join(get_args(SignalKind))}"
        )
    return problems


def _wordings(pole: str) -> tuple[str, ...]:
    return WORDINGS[DIMENSION_OF_POLE[pole]][pole]


def _reply(draw: random.Random, *poles: str) -> str:
    words = [draw.choice(_wordings(pole)) for pole in poles]
    draw.shuffle(words)
    return ", ".join(words)
