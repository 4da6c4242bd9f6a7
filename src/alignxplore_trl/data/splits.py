"""Cases -> splits that share no user and no post, near-duplicates included.

What is measured is filled first, so that training gives way: a case that shares a post with a split
filled before loses the signals about it, and is left out where its target is about one or too few
signals are left.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

import msgspec
from rensa import RMinHash, RMinHashLSH
from scipy.cluster.hierarchy import DisjointSet

from alignxplore_trl.cases import Case
from alignxplore_trl.run.errors import UserError

# Splits of other names are tests, and are filled before these.
_FILLED_LAST = {"validation": 1, "cold_start": 2, "rl": 3}
# Estimated Jaccard similarity of their runs of three words from which on two posts are one.
SIMILARITY = 0.8
# A post is compared with some so many others at most: where thousands share most of their words, as
# those from one template do, some of them stand for all.
_ENOUGH = 200


def split_cases(
    cases: Sequence[Case],
    sizes: Mapping[str, int],
    needed: int,
    seed: int,
    counts: Counter[str],
    not_posts: Collection[str] = (),
) -> dict[str, list[Case]]:
    """Split cases of at least `needed` signals so that no two splits share a user or a post.

    Connected cases lie next to each other and are otherwise in an order of chance (`seed`), so that
    little is lost where splits meet. With few cases, every split is smaller in proportion.

    Args:
        cases: of any number of users.
        sizes: how many cases each split is to have.
        needed: the signals without which a case is of no use.
        seed: of the order.
        counts: is given what is left out, by reason.
        not_posts: texts in the place of posts that may be shared, such as what kind of list it was.

    Raises:
        UserError: a split that is to have cases gets none.
    """
    keys = _keys(cases, not_posts)
    # A user or a group of posts -> the split that has it.
    owner = dict[Hashable, str]()
    queue = _order(cases, keys, seed)[::-1]
    share = min(1.0, len(cases) / max(1, sum(sizes.values())))
    splits: dict[str, list[Case]] = {}
    for split in sorted(sizes, key=lambda name: _FILLED_LAST.get(name, 0)):
        taken = splits[split] = []
        while queue and len(taken) < sizes[split]:
            user, target, *posts = keys[queue[-1]]
            # A user who is begun is taken whole, as far as there is room.
            if len(taken) >= sizes[split] * share and owner.get(user) != split:
                break
            case = cases[queue.pop()]
            places = [at for at, post in enumerate(posts) if owner.get(post, split) == split]
            if owner.get(user, split) != split:
                counts["cases_dropped/user_of_another_split"] += 1
            elif owner.get(target, split) != split or len(places) < needed:
                counts["cases_dropped/shared_post"] += 1
            else:
                counts["signals_dropped/shared_post"] += len(posts) - len(places)
                taken.append(with_signals(case, places))
                owner |= dict.fromkeys((user, target, *(posts[at] for at in places)), split)
        if len(taken) < sizes[split]:
            counts[f"cases_missing/{split}"] = sizes[split] - len(taken)
    counts["cases_left_over"] += len(queue)
    check_none_is_empty(splits, sizes, counts)
    return splits


def check_none_is_empty(
    splits: Mapping[str, Sequence[Case]], sizes: Mapping[str, int], counts: Mapping[str, int]
) -> None:
    """Raise a `UserError`, with what was counted, if a split that is asked for has no cases."""
    empty = [split for split, size in sizes.items() if size and not splits.get(split)]
    if empty:
        reasons = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if count)
        raise UserError(
            f"data.sizes: no case is left for {', '.join(empty)}, of {sum(sizes.values()):,} asked "
            f"for ({reasons or 'no usable rows'}). Give more rows, or ask for fewer cases "
            "(data.sizes) or fewer signals of each (SETTING=base, SIGNALS=<n>)"
        )


def with_signals(case: Case, places: Sequence[int]) -> Case:
    """A case with the signals at these places alone, in this order, and their vectors."""
    vectors = case.vectors
    return msgspec.structs.replace(
        case,
        signals=tuple(case.signals[place] for place in places),
        vectors=None if vectors is None else tuple(vectors[place] for place in places),
    )


def post_key(post: str) -> str:
    """Two posts with the same key are the same: case and white space make no difference."""
    return " ".join(post.casefold().split())


def connected(keys: Iterable[Iterable[Hashable]]) -> list[int]:
    """For each item, given by its keys, a number: the same where keys in common connect them."""
    parts, first = DisjointSet(), dict[Hashable, int]()
    for item, own in enumerate(keys):
        parts.add(item)
        for key in own:
            parts.merge(item, first.setdefault(key, item))
    return [parts[item] for item in range(len(parts))]


def groups_of_posts(keys: Sequence[str]) -> dict[str, int]:
    """Each post -> a number that it shares with those which are almost the same.

    MinHash over runs of three words, found by LSH (Leskovec, Rajaraman and Ullman, Mining of
    Massive Datasets, chapter 3): of pairs of 0.8, 5 in 10⁸ are missed.
    """
    groups, index, hashes = DisjointSet(range(len(keys))), RMinHashLSH(SIMILARITY, 128, 32), []
    for number, key in enumerate(keys):
        words = re.findall(r"\w+", key)
        own = RMinHash(128, seed=1)
        own.update([" ".join(words[start : start + 3]) for start in range(max(1, len(words) - 2))])
        hashes.append(own)
        candidates = index.query(own)
        for other in candidates:
            if own.jaccard(hashes[other]) >= SIMILARITY:
                groups.merge(number, other)
        if len(candidates) < _ENOUGH:
            index.insert(number, own)
    return {key: groups[number] for number, key in enumerate(keys)}


def posts_of(case: Case) -> list[str]:
    """The keys of the posts of target and signals; of what has no post, an empty text."""
    return [post_key(getattr(each, "post", "")) for each in (case.target, *case.signals)]


def _keys(cases: Sequence[Case], not_posts: Collection[str]) -> list[list[Hashable]]:
    """What no two splits may share, of each case: the user, the target's post, each signal's post.

    Posts are numbered by their groups; what is none, as in attributes, has a key of its own.
    """
    posts = [posts_of(case) for case in cases]
    ignored = {"", *map(post_key, not_posts)}
    group_of = groups_of_posts(sorted({key for own in posts for key in own} - ignored))
    return [
        [case.user_id, *(group_of.get(key, object()) for key in own)]
        for case, own in zip(cases, posts, strict=True)
    ]


def _order(cases: Sequence[Case], keys: Sequence[Sequence[Hashable]], seed: int) -> list[int]:
    """The numbers of the cases, connected ones next to each other, otherwise by chance."""
    parts, draw = connected(keys), random.Random(seed)
    by_part = {part: draw.random() for part in dict.fromkeys(parts)}
    by_user = {user: draw.random() for user in dict.fromkeys(case.user_id for case in cases)}
    return sorted(range(len(cases)), key=lambda i: (by_part[parts[i]], by_user[cases[i].user_id]))
