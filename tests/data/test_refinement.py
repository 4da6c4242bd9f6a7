"""Direction vectors in bulk, and rows that a fast reader is unsure of."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.data.alignx import Dimension, read_row
from alignxplore_trl.data.refinement import (
    NEUTRAL,
    UNREADABLE,
    direction_codes,
    problems_of_row,
    row_from_json,
)
from alignxplore_trl.data.rows import Row
from alignxplore_trl.run.errors import Problems

numbers = st.sampled_from(["0", "1", "0.5", "0.0", "1.0", "0.50", "5e-1", "1e0"])
mistakes = st.sampled_from(["10", "0.05", "1.5", "2", "-0.5", "null", '"1"', "[0]", "1.1", "10.5"])
DIMENSIONS = [Dimension(f"d{n}", f"is {n}", f"isn't {n}") for n in range(3)]
ROW = {
    "prompt": "a", "chosen": "b", "rejected": "c", "Demographic Information": "young",
}  # fmt: skip


def expected(text: str, length: int) -> list[int] | None:
    """The codes of a vector; `None` if it isn't one."""
    values = json.loads(text)
    if len(values) != length or any(
        isinstance(value, bool) or not isinstance(value, int | float) or value not in (0, 0.5, 1)
        for value in values
    ):
        return None
    return [NEUTRAL if value == 0.5 else int(value) for value in values]


@given(
    st.lists(
        st.lists(st.one_of(numbers, numbers, numbers, mistakes), min_size=2, max_size=4),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([", ", ",", " ,\n "]),
)
def test_vectors_in_bulk_are_what_they_are_one_by_one(vectors, separator):
    texts = [f"[{separator.join(vector)}]" for vector in vectors]
    codes = direction_codes([text.encode() for text in texts], 3)
    assert codes.shape == (len(texts), 3)
    for own, text in zip(codes, texts, strict=True):
        wanted = expected(text, 3)
        assert (own == UNREADABLE).any() if wanted is None else own.tolist() == wanted


def test_vectors_of_published_length():
    draw = np.random.default_rng(0)
    values = draw.choice([0, 0.5, 1], (50, 90))
    texts = [json.dumps(vector).encode() for vector in values.tolist()]
    assert (direction_codes(texts, 90) == np.where(values == 0.5, NEUTRAL, values)).all()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"prompt": ""},
        {"prompt": 7},
        {"chosen": "c"},
        {"rejected": " "},
        {"Demographic Information": ""},
        {"Demographic Information": None},
        {"Demographic Information": ["young"]},
        {"user": 17},
        {"user": " "},
        {"user": 1.5},
        {"user": None},
        {"something": float("nan")},
        {"prompt": "half a \ud800 pair"},
        {"User-Generated Content": "none"},
        {"User-Generated Content": [{"prompt": "a", "comment": 3}]},
        {"Pair-wise Comparative Feedback": [{"prompt": "a", "chosen": "c", "rejected": "b"}]},
        {"Pair-wise Comparative Feedback": [{"prompt": "a", "chosen": "c", "rejected": "d"}]},
        {"Pair-wise Comparative Feedback": [{"prompt": "a", "chosen": "c"}]},
        {"Pair-wise Comparative Feedback": ["a"]},
    ],
)
def test_the_fast_reader_takes_what_the_other_takes(change):
    line = json.dumps(ROW | change).encode()
    problems = Problems()
    place = "rows, line 1"
    row = read_row(Row(json.loads(line), 1, place), DIMENSIONS, problems, Counter())
    ours = row_from_json(line, DIMENSIONS)
    assert (ours is None) == bool(problems.found)
    if ours is None:
        assert problems_of_row(line, place, DIMENSIONS) == problems.found
    else:
        assert row is not None
        assert ours.target() == row.target
