"""Shaping: what the description of a right answer loses for its length and its repetitions."""

from __future__ import annotations

from dataclasses import dataclass

from alignxplore_trl.rewards.descriptions import repeated_share, words_of


@dataclass(frozen=True)
class Shaping:
    """How much of a reward is taken away; nothing, as it stands.

    The penalty is `weight x (words above the limit) + weight x (share of repeated n-grams)`, at
    most `largest_penalty`. It is the share that is lost of what a reward has above that of a tie.

    Attributes:
        word_limit: words that a description may have without a penalty.
        length_weight: penalty for each word above the limit.
        repetition_weight: penalty if every n-gram were a repetition.
        ngram: words of an n-gram.
        largest_penalty: below 1, so that a right answer stays above every other one.

    Raises:
        ValueError: a negative number, an n-gram without words, or a penalty of 1 and more.
    """

    word_limit: int = 0
    length_weight: float = 0.0
    repetition_weight: float = 0.0
    ngram: int = 3
    largest_penalty: float = 0.5

    def __post_init__(self) -> None:
        for name in ("word_limit", "length_weight", "repetition_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} found, expected 0 or more")
        if self.ngram < 1:
            raise ValueError(f"ngram: {self.ngram} found, expected 1 or more")
        if not 0 <= self.largest_penalty < 1:
            raise ValueError(
                f"largest_penalty: {self.largest_penalty} found, expected 0 or more and below 1"
            )

    @property
    def is_off(self) -> bool:
        """Whether no description is ever penalised."""
        return not (self.length_weight or self.repetition_weight) or not self.largest_penalty

    def penalty(self, description: str) -> float:
        """The share of a right answer's reward that this description costs."""
        above = max(0, len(words_of(description)) - self.word_limit)
        repeated = repeated_share(description, self.ngram)
        wanted = self.length_weight * above + self.repetition_weight * repeated
        return min(self.largest_penalty, wanted)


NO_SHAPING = Shaping()


def shaped(reward: float, tie: float, penalty: float) -> float:
    """A reward after its penalty: what it has above a tie shrinks, and never to nothing.

    Subtracted, a penalty would put a long wrong answer below a malformed one, and a long right
    answer below a short wrong one. Here neither can happen: what isn't above a tie stays as it is,
    and what is above one stays above.
    """
    return reward if reward <= tie else tie + (reward - tie) * (1 - penalty)
