"""From the log-probabilities of a response's tokens to one number for the response."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

Aggregation = Literal["sum", "mean", "mean_probability"]


def aggregated(tokens: Sequence[float] | None, how: Aggregation) -> float | None:
    """One number in nats from a response's token log-probabilities.

    - `sum`: log p of the response, as METHOD's equations have it.
    - `mean`: the same per token, so that a longer response isn't less probable for its length.
    - `mean_probability`: the log of the mean token *probability*, as the published code compares
      (METHOD: What the published code does).

    `None` without an answer, for a response without tokens (of nothing there is no mean), and where
    a token's log-probability is no finite number.
    """
    if not tokens or not all(map(math.isfinite, tokens)):
        return None
    match how:
        case "sum":
            return math.fsum(tokens)
        case "mean":
            return math.fsum(tokens) / len(tokens)
        case "mean_probability":
            return float(np.logaddexp.reduce(tokens)) - math.log(len(tokens))


def difference(first: float | None, second: float | None) -> float | None:
    """`first - second`, `None` where either is missing."""
    return None if first is None or second is None else first - second
