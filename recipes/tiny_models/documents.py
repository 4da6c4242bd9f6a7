"""Documents that teach small models the simulated world: from single wordings to whole judgements.

A document is a list of segments, each text and whether the model is taught to write it. They are
the training data of the models in `assets/`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignxplore_trl.cases import Comparison, Post
from alignxplore_trl.data.world import (
    DIMENSION_OF_POLE,
    OPPOSITE,
    POLE_OF_WORDING,
    WORDINGS,
    describe,
    draw_comparison,
    draw_directions,
    draw_post,
    posts_of_split,
    stated_poles,
)
from alignxplore_trl.text.completions import Inference, format_completion
from alignxplore_trl.text.prompts import Prompts

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


def related_wordings(draw: random.Random, count: int = 8) -> Document:
    """Wordings of one pole and its name in any order, then the same for the opposite pole."""
    pole = draw.choice(_POLES)
    first, second = (
        draw.choices((side, *WORDINGS[DIMENSION_OF_POLE[side]][side]), k=count // 2)
        for side in (pole, OPPOSITE[pole])
    )
    return [
        (f"<remark> {first[0]}", False),
        (f" {' '.join(first[1:])} over {' '.join(second)}", True),
    ]


def rated_wordings(draw: random.Random, count: int = 8, named_share: float = 0.3) -> Document:
    """Wordings, each rated by the user of a description: liked, disliked or neither.

    A share of them is replaced by the names of their poles, which is where a model finds the
    comparison of a remark with a description first.
    """
    description = draw_description(draw)
    attitudes = attitudes_of(description)
    about = [word for word in _WORDS if POLE_OF_WORDING[word] in attitudes]
    others = [word for word in _WORDS if POLE_OF_WORDING[word] not in attitudes]
    words = draw.sample(about, min(len(about), count * 2 // 3))
    words += draw.sample(others, min(len(others), count - len(words)))
    draw.shuffle(words)
    document: Document = [(f"<description> {description}", False)]
    for word in words:
        pole = POLE_OF_WORDING[word]
        rating = {1: " liked", -1: " disliked", 0: " neither"}[attitudes.get(pole, 0)]
        if draw.random() < named_share:
            word = pole
        document += [(f"<remark> {word}<rating>", False), (rating, True)]
    return document


def judgement(draw: random.Random, prompts: Prompts) -> Document:
    """A whole question to the judge and its answer; a coin is thrown where nothing decides."""
    description = draw_description(draw)
    attitudes = attitudes_of(description)
    replies = _pair_of_replies(draw, attitudes)
    draw.shuffle(replies)
    score = reply_score(replies[0], attitudes) - reply_score(replies[1], attitudes)
    a_wins = score > 0 if score else draw.random() < 0.5
    question = prompts.render(
        "judgement",
        post=draw.choice(_POSTS),
        description=description,
        response_a=replies[0],
        response_b=replies[1],
    )
    return [
        (question + '{"selection": "Response', False),
        (" A" if a_wins else " B", True),
    ]


def continuation(draw: random.Random, prompts: Prompts) -> Document:
    """A reply written under a description: what a generator's log-probabilities are read from."""
    description = draw_description(draw)
    attitudes = attitudes_of(description)
    replies = _pair_of_replies(draw, attitudes)
    best = max(replies, key=lambda reply: (reply_score(reply, attitudes), draw.random()))
    prompt = prompts.render("reply", post=draw.choice(_POSTS), description=description)
    return [(prompt, False), (f" {best}", True)]


def every_word() -> str:
    """All words of the world once, for a tokenizer to know each by itself."""
    words = {word for post in _POSTS for word in post.split()}
    return "".join(f" {word}" for word in (*_WORDS, *_POLES, *WORDINGS, *sorted(words)))


def attitudes_of(description: str) -> dict[str, int]:
    """Pole to +1 (liked) or -1 (its opposite is liked); a contradiction cancels out."""
    stated = dict.fromkeys(stated_poles(description))  # A set's order differs between processes.
    settled = [pole for pole in stated if OPPOSITE[pole] not in stated]
    return dict.fromkeys(settled, 1) | {OPPOSITE[pole]: -1 for pole in settled}


def reply_score(reply: str, attitudes: dict[str, int]) -> int:
    """How many wordings of a reply are liked, minus how many are disliked."""
    return sum(attitudes.get(POLE_OF_WORDING[word], 0) for word in reply.split(", "))


def draw_description(draw: random.Random) -> str:
    """A description as a policy might write one: true or not, and sometimes misshapen."""
    shape = draw.random()
    if shape < 0.06:
        return ""
    poles = [draw.choice(list(WORDINGS[name])) for name in draw.sample(list(WORDINGS), _size(draw))]
    if shape < 0.26:
        contradicted = draw.sample(poles, draw.randint(1, len(poles)))
        poles += [OPPOSITE[pole] for pole in contradicted]
        draw.shuffle(poles)
    elif shape < 0.36:
        poles += draw.choices(poles, k=draw.randint(1, 4))
        draw.shuffle(poles)
    elif shape < 0.46:
        padding = [
            draw.choice(_WORDS + _POSTS + ("prefers", "over")) for _ in range(draw.randint(1, 4))
        ]
        mixed = poles + padding
        draw.shuffle(mixed)
        return describe(mixed)
    return describe(poles)


def _size(draw: random.Random) -> int:
    return draw.choices(range(1, 10), weights=(4, 6, 8, 6, 4, 2, 2, 1, 1))[0]


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


@dataclass(frozen=True)
class Skill:
    """How well the writer of inference documents reads signals.

    Attributes:
        finds: probability of finding the dimension that a signal is about.
        reads: probability of reading the direction right, the dimension being found.
        formats: probability of keeping to the completion format.
    """

    finds: float = 1.0
    reads: float = 1.0
    formats: float = 1.0


def inference_document(
    draw: random.Random,
    prompts: Prompts,
    skill: Skill,
    end_of_text: str,
    *,
    signals_read: int,
    guided: bool,
) -> Document:
    """Signals, perhaps an earlier description, and the completion of a writer of some skill.

    With `guided`, the prompt is the teacher's and names the dimensions the user cares about; the
    writer then never misses one.
    """
    directions = draw_directions(draw, draw.choices((2, 3, 4, 5), weights=(1, 4, 2, 1))[0])
    signals = _draw_signals(draw, directions, signals_read)
    earlier = _draw_earlier(draw, directions) if draw.random() < 0.45 else None
    readings = [
        _read(draw, signal, directions, Skill(1.0, skill.reads) if guided else skill)
        for signal in signals
    ]
    completion = format_completion(
        Inference(
            _reasoning(readings),
            describe(update_poles(stated_poles(earlier or ""), readings)),
        )
    )
    if draw.random() >= skill.formats:
        completion = _break_format(draw, completion)
    read: dict[str, object] = {"signals": signals, "earlier": earlier}
    if guided:
        read["dimensions"] = draw.sample(list(directions), len(directions))
    prompt = prompts.render("teacher" if guided else "inference", **read)
    return [(prompt, False), (completion + end_of_text, True)]


def summary_document(draw: random.Random, end_of_text: str) -> Document:
    """Readings of signals, perhaps an earlier description, and the description that follows.

    To name each pole once, in order, is what small models find hardest; here they are taught
    nothing else.
    """
    directions = draw_directions(draw, draw.randint(2, 5))
    poles = list(directions.values())
    readings = [
        OPPOSITE[pole] if draw.random() < 0.2 else pole
        for pole in draw.choices(poles, k=draw.choice((1, 2, 3, 4, 4, 4, 6, 8)))
    ]
    earlier = _draw_earlier(draw, directions) if draw.random() < 0.5 else None
    inference = Inference(
        _reasoning(readings), describe(update_poles(stated_poles(earlier or ""), readings))
    )
    reasoning, _, answer = format_completion(inference).partition(" </think>")
    context = f"<earlier> {earlier}<think>" if earlier else "<think>"
    return [(context + reasoning, False), (f" </think>{answer}{end_of_text}", True)]


def update_poles(earlier: Sequence[str], new: Sequence[str]) -> list[str]:
    """The earlier poles, then the new ones; a new one replaces its opposite."""
    poles: list[str] = []
    for pole in (*earlier, *new):
        if OPPOSITE[pole] in poles:
            poles.remove(OPPOSITE[pole])
        if pole not in poles:
            poles.append(pole)
    return poles


def _reasoning(readings: Sequence[str]) -> str:
    return " ".join(f"{i} {pole} over {OPPOSITE[pole]};" for i, pole in enumerate(readings, 1))


def _draw_signals(
    draw: random.Random, directions: Mapping[str, str], number: int
) -> list[Comparison | Post]:
    kind = draw.choices(("comparisons", "posts", "mixed"), weights=(8, 1, 1))[0]
    signals: list[Comparison | Post] = []
    for post in draw.sample(_POSTS, number):
        as_post = kind == "posts" or (kind == "mixed" and draw.random() < 0.5)
        signals.append((draw_post if as_post else draw_comparison)(draw, directions, post))
    return signals


def _draw_earlier(draw: random.Random, directions: Mapping[str, str]) -> str:
    """A description as an earlier round may have left it: incomplete, and in parts wrong."""
    poles = [pole for pole in directions.values() if draw.random() < 0.7]
    poles = [OPPOSITE[pole] if draw.random() < 0.25 else pole for pole in poles]
    others = [name for name in WORDINGS if name not in directions]
    poles += [
        draw.choice(list(WORDINGS[name])) for name in draw.sample(others, draw.choice((0, 0, 1, 2)))
    ]
    draw.shuffle(poles)
    return describe(poles or [draw.choice(_POLES)])


def _read(
    draw: random.Random, signal: Comparison | Post, directions: Mapping[str, str], skill: Skill
) -> str:
    """The pole that a writer of this skill takes a signal to be about."""
    text = signal.chosen if isinstance(signal, Comparison) else signal.comment
    poles = [POLE_OF_WORDING[word] for word in text.split(", ")]
    relevant = [pole for pole in poles if DIMENSION_OF_POLE[pole] in directions]
    distractors = [pole for pole in poles if DIMENSION_OF_POLE[pole] not in directions]
    pole = relevant[0] if draw.random() < skill.finds else distractors[0]
    return pole if draw.random() < skill.reads else OPPOSITE[pole]


def _break_format(draw: random.Random, completion: str) -> str:
    """A completion as a model gets it wrong: a tag left out, or something after the answer."""
    tag = draw.choice(("</think>", "<answer>", "</answer>", ""))
    return completion.replace(f" {tag}", "") if tag else f"{completion} over"
