"""Documents that teach small models the simulated world: from single wordings to whole judgements.

A document is a list of segments, each text and whether the model is taught to write it. They are
the training data of the models in `assets/`; nothing else reads them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from alignxplore_trl.data.world import (
    DIMENSION_OF_POLE,
    OPPOSITE,
    POLE_OF_WORDING,
    WORDINGS,
    World,
    describe,
    draw_comparison,
    draw_directions,
    draw_post,
    posts_of_split,
    stated_poles,
)
from alignxplore_trl.signals import Comparison, Post, Signal
from alignxplore_trl.text.parsing import Inference, format_completion
from alignxplore_trl.text.rendering import PromptSet, Question

Document = list[tuple[str, bool]]

_POLES = tuple(DIMENSION_OF_POLE)
_WORDS = tuple(POLE_OF_WORDING)
_POSTS = posts_of_split("cold_start")


def named_wordings(draw: random.Random, count: int = 8) -> Document:
    """Wordings, each followed by the pole it stands for."""
    document: Document = []
    for word in draw.sample(_WORDS, count):
        document += [(f"<remark> {word}<pole>", False), (f" {POLE_OF_WORDING[word]}", True)]
    return document


def rated_wordings(draw: random.Random, count: int = 8) -> Document:
    """Wordings, each rated by the user of a description: liked, disliked or neither."""
    description = draw_description(draw)
    attitudes = attitudes_of(description)
    about = [word for word in _WORDS if POLE_OF_WORDING[word] in attitudes]
    others = [word for word in _WORDS if POLE_OF_WORDING[word] not in attitudes]
    words = draw.sample(about, min(len(about), count * 2 // 3))
    words += draw.sample(others, min(len(others), count - len(words)))
    draw.shuffle(words)
    document: Document = [(f"<description> {description}", False)]
    for word in words:
        rating = {1: " liked", -1: " disliked", 0: " neither"}[
            attitudes.get(POLE_OF_WORDING[word], 0)
        ]
        document += [(f"<remark> {word}<rating>", False), (rating, True)]
    return document


def judgement(draw: random.Random, prompts: PromptSet) -> Document:
    """A whole question to the judge and its answer; a coin is thrown where nothing decides."""
    description = draw_description(draw)
    attitudes = attitudes_of(description)
    replies = _pair_of_replies(draw, attitudes)
    draw.shuffle(replies)
    score = reply_score(replies[0], attitudes) - reply_score(replies[1], attitudes)
    a_wins = score > 0 if score else draw.random() < 0.5
    question = Question(draw.choice(_POSTS), description, replies[0], replies[1])
    return [
        (prompts.judgement(question) + '{"selection": "Response', False),
        (" A" if a_wins else " B", True),
    ]


def continuation(draw: random.Random, prompts: PromptSet) -> Document:
    """A reply written under a description: what a generator's log-probabilities are read from."""
    description = draw_description(draw)
    attitudes = attitudes_of(description)
    replies = _pair_of_replies(draw, attitudes)
    best = max(replies, key=lambda reply: (reply_score(reply, attitudes), draw.random()))
    return [(prompts.reply(draw.choice(_POSTS), description), False), (f" {best}", True)]


def attitudes_of(description: str) -> dict[str, int]:
    """Pole to +1 (liked) or -1 (its opposite is liked); a contradiction cancels out."""
    stated = set(stated_poles(description))
    settled = [pole for pole in stated if OPPOSITE[pole] not in stated]
    return {pole: 1 for pole in settled} | {OPPOSITE[pole]: -1 for pole in settled}


def reply_score(reply: str, attitudes: dict[str, int]) -> int:
    """How many wordings of a reply are liked, minus how many are disliked."""
    return sum(attitudes.get(POLE_OF_WORDING[word], 0) for word in reply.split(", "))


def draw_description(draw: random.Random) -> str:
    """A description as a policy might write one: true or not, and sometimes misshapen."""
    shape = draw.random()
    if shape < 0.06:
        return ""
    poles = [draw.choice(list(WORDINGS[name])) for name in draw.sample(list(WORDINGS), _size(draw))]
    if shape < 0.18:
        contradicted = draw.sample(poles, draw.randint(1, len(poles)))
        poles += [OPPOSITE[pole] for pole in contradicted]
        draw.shuffle(poles)
    elif shape < 0.28:
        poles += draw.choices(poles, k=draw.randint(1, 4))
        draw.shuffle(poles)
    if shape < 0.40 and shape >= 0.28:
        padding = [draw.choice(_WORDS + _POSTS + ("prefers", "over")) for _ in range(draw.randint(1, 4))]
        mixed = poles + padding
        draw.shuffle(mixed)
        return describe(mixed)
    return describe(poles)


def _size(draw: random.Random) -> int:
    return draw.choices((1, 2, 3, 4, 5, 6), weights=(2, 3, 4, 3, 2, 1))[0]


def _pair_of_replies(draw: random.Random, attitudes: dict[str, int]) -> list[str]:
    """Two replies that differ in one dimension, mostly one that the description speaks of."""
    liked = [pole for pole, attitude in attitudes.items() if attitude > 0]
    pole = draw.choice(liked) if liked and draw.random() < 0.85 else draw.choice(_POLES)
    others = draw.sample([name for name in WORDINGS if name != DIMENSION_OF_POLE[pole]], 2)
    if draw.random() < 0.7:
        free = [
            name
            for name in WORDINGS
            if name != DIMENSION_OF_POLE[pole] and not attitudes.keys() & WORDINGS[name].keys()
        ]
        others = draw.sample(free, 2) if len(free) > 1 else others
    replies = []
    for side, other in zip((pole, OPPOSITE[pole]), others, strict=True):
        distractor = draw.choice(list(WORDINGS[other]))
        words = [
            draw.choice(WORDINGS[DIMENSION_OF_POLE[side]][side]),
            draw.choice(WORDINGS[other][distractor]),
        ]
        draw.shuffle(words)
        replies.append(", ".join(words))
    return replies
