"""Cases -> splits that share no user and no post, near-duplicates included.

What is measured is filled first, so that training gives way: a case that shares a post with a split
filled before loses the signals about it, and is left out where its target is about one or too few
signals are left.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from rensa import RMinHash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from alignxplore_trl.cases import Attributes, Case
from alignxplore_trl.run.errors import UserError

Numbers = npt.NDArray[np.int64]

# Splits of other names are test sets, and are filled before these.
FILLED_LAST = ("validation", "cold_start", "rl")
# Estimated Jaccard similarity of their runs of three words from which on two posts are one.
SIMILARITY = 0.8
_HASHES, _BAND = 128, 4
# In a bucket, a post is compared with so many that follow it. In larger ones all are alike, and
# links from one to the next connect them.
_COMPARED = 8


@dataclass(frozen=True)
class Pool:
    """Cases of one kind, and the splits that are made of them.

    Attributes:
        cases: of any number of users.
        sizes: how many cases each split is to have.
        needed: a case with fewer signals is of no use.
    """

    cases: Sequence[Case]
    sizes: Mapping[str, int]
    needed: int


def split_cases(
    pools: Sequence[Pool],
    seed: int,
    counts: Counter[str],
    similarity: float = SIMILARITY,
    not_posts: Collection[str] = (),
) -> dict[str, list[Case]]:
    """Split cases so that no two splits share a user or a post.

    Cases that are connected through users or posts lie next to each other and are otherwise in an
    order of chance, so that little is lost where splits meet. With fewer cases than asked for,
    every split is smaller in proportion.

    Args:
        pools: each split's name stands in one of them.
        seed: of the order.
        counts: is given `cases_missing/<split>` where there are fewer than asked for,
            `signals_dropped/shared_post`, `cases_dropped/<reason>` and `cases_left_over`.
        similarity: from which on two posts are the same, see `groups_of_posts`.
        not_posts: texts in the place of posts that say nothing, such as what kind of list items
            stood in: they may be shared.

    Raises:
        UserError: a split that is to have cases gets none.
    """
    cases = [case for pool in pools for case in pool.cases]
    group_of = groups_of_posts(
        sorted({key for case in cases for key in _keys(case)} - set(map(post_key, not_posts))),
        similarity,
    )
    filling = _Filling(group_of, counts)
    queues = _queues(pools, group_of, seed)
    taken: dict[str, list[Case]] = {}
    # Pools may hold the same users, of whom each is used once.
    users = len({case.user_id for case in cases}) if len(pools) > 1 else len(cases)
    of_all = users / max(1, sum(sum(pool.sizes.values()) for pool in pools))
    order = sorted(
        ((split, number) for number, pool in enumerate(pools) for split in pool.sizes),
        key=lambda place: FILLED_LAST.index(place[0]) if place[0] in FILLED_LAST else -1,
    )
    for split, number in order:
        pool = pools[number]
        size, of_pool = pool.sizes[split], len(pool.cases) / max(1, sum(pool.sizes.values()))
        share = min(1.0, of_pool, of_all)
        taken[split] = filling.fill(split, queues[number], size * share, pool.needed)
        if len(taken[split]) < size:
            counts[f"cases_missing/{split}"] = size - len(taken[split])
    counts["cases_left_over"] += sum(1 for queue in queues for _ in queue)
    check_none_is_empty(taken, {k: v for pool in pools for k, v in pool.sizes.items()}, counts)
    return taken


def check_none_is_empty(
    splits: Mapping[str, Sequence[object]], sizes: Mapping[str, int], counts: Mapping[str, int]
) -> None:
    """Refuse data in which a split that is asked for has no cases.

    Raises:
        UserError: with what was counted, which tells why.
    """
    empty = [split for split, size in sizes.items() if size and not splits.get(split)]
    if empty:
        reasons = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if count)
        raise UserError(
            f"data.sizes: no case is left for {', '.join(empty)}, of {sum(sizes.values()):,} asked "
            f"for ({reasons or 'no usable rows'}). Give more rows, ask for fewer (data.sizes), or "
            "for fewer signals of each user (data.signals, data.rounds)"
        )


def post_key(post: str) -> str:
    """Two posts with the same key are the same: case and white space make no difference."""
    return " ".join(post.casefold().split())


def connected(keys_of_items: Sequence[Iterable[Hashable]]) -> Numbers:
    """The number of the part that each item is in; items that share a key are connected."""
    numbers: dict[Hashable, int] = {}
    count = len(keys_of_items)
    links = [
        (item, count + numbers.setdefault(key, len(numbers)))
        for item, keys in enumerate(keys_of_items)
        for key in keys
    ]
    return parts(np.array(links, np.int64).reshape(-1, 2), count + len(numbers))[:count]


def parts(links: Numbers, count: int) -> Numbers:
    """The number of the connected part that each of `count` nodes is in.

    Args:
        links: pairs of nodes: [links, 2].
        count: of nodes.
    """
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def groups_of_posts(keys: Sequence[str], similarity: float = SIMILARITY) -> dict[str, int]:
    """Each post -> a number that it shares with those which are almost the same.

    MinHash over runs of three words: equal bands make two posts candidates (LSH: Leskovec,
    Rajaraman and Ullman, Mining of Massive Datasets, chapter 3), and the share of equal entries,
    which estimates their Jaccard similarity, decides. Of pairs of 0.8, 5 in 10⁸ are missed.
    """
    if not keys:
        return {}
    digests = RMinHash.digests_from_token_sets([_runs(key) for key in keys], _HASHES, 1)
    signatures = np.array(digests, np.uint32)
    links = [np.empty((0, 2), np.int64)]
    for start in range(0, _HASHES, _BAND):
        band = np.ascontiguousarray(signatures[:, start : start + _BAND]).view(np.uint64)
        order = np.lexsort((band[:, 1], band[:, 0]))
        ordered = band[order]
        for step in range(1, min(_COMPARED, len(order) - 1) + 1):
            same = (ordered[step:] == ordered[:-step]).all(axis=1)
            pairs = np.stack([order[:-step][same], order[step:][same]], axis=1)
            shares = (signatures[pairs[:, 0]] == signatures[pairs[:, 1]]).mean(axis=1)
            links.append(pairs[shares >= similarity])
    labels = parts(np.concatenate(links), len(keys))
    return dict(zip(keys, labels.tolist(), strict=True))


def _runs(key: str) -> list[str]:
    words = re.findall(r"\w+", key)
    return [" ".join(words[start : start + 3]) for start in range(max(1, len(words) - 2))]


def _keys(case: Case) -> list[str]:
    """The keys of the target's post and of each signal's, in order; attributes have none."""
    posts = [s.post for s in case.signals if not isinstance(s, Attributes)]
    return [post_key(post) for post in (case.target.post, *posts)]


def _queues(pools: Sequence[Pool], group_of: Mapping[str, int], seed: int) -> list[Iterator[Case]]:
    """The cases of each pool, connected ones next to each other, otherwise by chance."""
    cases = [case for pool in pools for case in pool.cases]
    part_of = connected(
        [[case.user_id, *(group_of[k] for k in _keys(case) if k in group_of)] for case in cases]
    ).tolist()
    draw = random.Random(seed)
    by_part = [draw.random() for _ in range(max(part_of, default=-1) + 1)]
    by_user = {user: draw.random() for user in dict.fromkeys(case.user_id for case in cases)}
    chance = {
        id(case): (by_part[part], by_user[case.user_id])
        for case, part in zip(cases, part_of, strict=True)
    }
    return [iter(sorted(pool.cases, key=lambda case: chance[id(case)])) for pool in pools]


class _Filling:
    """Fills splits, and remembers which of them has which user and which posts."""

    def __init__(self, group_of: Mapping[str, int], counts: Counter[str]) -> None:
        self.group_of = group_of
        self.counts = counts
        self.split_of_user: dict[str, str] = {}
        self.split_of_post: dict[int, str] = {}

    def fill(self, split: str, queue: Iterator[Case], size: float, needed: int) -> list[Case]:
        """Take cases from the queue until there are as many as the size says."""
        taken: list[Case] = []
        while len(taken) < size and (case := next(queue, None)) is not None:
            free = self._with_free_signals(case, split)
            if self.split_of_user.get(case.user_id, split) != split:
                self.counts["cases_dropped/user_of_another_split"] += 1
            elif len(free.signals) < needed or not self._is_free(case.target.post, split):
                self.counts["cases_dropped/shared_post"] += 1
            else:
                self.counts["signals_dropped/shared_post"] += len(case.signals) - len(free.signals)
                self._take(free, split)
                taken.append(free)
        return taken

    def _is_free(self, post: str, split: str) -> bool:
        group = self.group_of.get(post_key(post))
        return group is None or self.split_of_post.get(group, split) == split

    def _with_free_signals(self, case: Case, split: str) -> Case:
        free = [isinstance(s, Attributes) or self._is_free(s.post, split) for s in case.signals]
        return (
            case
            if all(free)
            else with_signals(case, [i for i, is_free in enumerate(free) if is_free])
        )

    def _take(self, case: Case, split: str) -> None:
        self.split_of_user[case.user_id] = split
        for key in _keys(case):
            if key in self.group_of:
                self.split_of_post[self.group_of[key]] = split


def with_signals(case: Case, places: Sequence[int]) -> Case:
    """A case with the signals at these places alone, in this order, and their vectors."""
    vectors = case.vectors
    return msgspec.structs.replace(
        case,
        signals=tuple(case.signals[place] for place in places),
        vectors=None if vectors is None else tuple(vectors[place] for place in places),
    )
