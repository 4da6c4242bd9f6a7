"""Posts that are almost the same, found by MinHash over all posts at once.

Signatures come from rensa. They are made where the posts are read, and compared here in bulk: equal
bands make two posts candidates (LSH: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
chapter 3); the share of equal entries, which estimates their Jaccard similarity, decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

Signatures = npt.NDArray[np.uint32]
Labels = npt.NDArray[np.int32]

SIGNATURE = 128
_ROWS_OF_A_BAND = 4
_WORDS_OF_A_SHINGLE = 3
_SEED = 1
# In a bucket, a post is compared with so many that follow it. In larger ones all are alike, and
# links from one to the next connect them.
_COMPARED = 8


def signatures_of(posts: Sequence[str]) -> Signatures:
    """A MinHash signature per post over its runs of three words: [posts, 128].

    Case, white space and punctuation make no difference.
    """
    if not posts:
        return np.empty((0, SIGNATURE), np.uint32)
    digests = RMinHash.digests_from_token_sets(
        [_shingles(post) for post in posts], SIGNATURE, _SEED
    )
    return np.array(digests, np.uint32)


def groups_of_posts(signatures: Signatures, similarity: float) -> Labels:
    """A number for each post that it shares with those which are almost the same: [posts].

    Args:
        signatures: of all posts, [posts, 128].
        similarity: estimated Jaccard similarity from which on two posts are the same. Of pairs of
            0.8, 5 in 10⁸ are missed, of pairs of 0.7, 2 in 10,000.
    """
    links = [
        pairs[_similarity(signatures, pairs) >= similarity]
        for start in range(0, SIGNATURE, _ROWS_OF_A_BAND)
        for pairs in _pairs_in_buckets(signatures[:, start : start + _ROWS_OF_A_BAND])
    ]
    linked = np.concatenate([np.empty((0, 2), np.int64), *links])
    return connected(linked, len(signatures))


def connected(links: npt.NDArray[np.int64], count: int) -> Labels:
    """Number the connected parts of a graph: [count].

    Args:
        links: pairs of nodes, [links, 2].
        count: how many nodes there are.
    """
    # Imported here: only the process that puts everything together needs it.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(links), bool)
    graph = coo_array((ones, (links[:, 0], links[:, 1])), shape=(count, count))
    labels: Labels = connected_components(graph, directed=False)[1]
    return labels


def linked_by(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Pairs of positions that connect all positions with the same key: [pairs, 2]."""
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    return np.stack([order[same], order[same + 1]], axis=1)


def _shingles(post: str) -> list[str]:
    words = re.findall(r"\w+", post.casefold())
    runs = range(max(1, len(words) - _WORDS_OF_A_SHINGLE + 1))
    return [" ".join(words[start : start + _WORDS_OF_A_SHINGLE]) for start in runs]


def _pairs_in_buckets(band: Signatures) -> list[npt.NDArray[np.int64]]:
    """Pairs of posts with an equal band, each post with the few behind it: [pairs, 2] each."""
    words = np.ascontiguousarray(band).view(np.uint64)
    order = np.lexsort((words[:, 1], words[:, 0]))
    ordered = words[order]
    return [
        np.stack([order[:-step][same], order[step:][same]], axis=1)
        for step in range(1, min(_COMPARED, len(order) - 1) + 1)
        if (same := (ordered[step:] == ordered[:-step]).all(axis=1)).any()
    ]


def _similarity(signatures: Signatures, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The share of equal entries of each pair's signatures."""
    shares = np.empty(len(pairs))
    for start in range(0, len(pairs), 10_000):
        left, right = pairs[start : start + 10_000].T
        shares[start : start + 10_000] = (signatures[left] == signatures[right]).mean(axis=1)
    return shares
