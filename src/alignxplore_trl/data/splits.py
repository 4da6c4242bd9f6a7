"""Cases -> cold_start, rl, validation and test, disjoint by user and by the text of posts."""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from alignxplore_trl.data.alignx import connected_groups
from alignxplore_trl.data.rows import post_key
from alignxplore_trl.data.world import Split
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import PreferenceCase, posts_of

SPLITS: tuple[Split, ...] = get_args(Split)
# What is measured is filled first, so that what it shares with training is taken from training.
_FILLING_ORDER: tuple[Split, ...] = ("test", "validation", "cold_start", "rl")


@dataclass(frozen=True)
class CaseSplits:
    """The cases of each split, and how many were kept and left out, by reason."""

    cold_start: list[PreferenceCase]
    rl: list[PreferenceCase]
    validation: list[PreferenceCase]
    test: list[PreferenceCase]
    counts: dict[str, int]

    def __getitem__(self, split: Split) -> list[PreferenceCase]:
        cases: list[PreferenceCase] = getattr(self, split)
        return cases


def split_cases(
    cases: Sequence[PreferenceCase], sizes: Mapping[Split, int], signals_needed: int, seed: int
) -> CaseSplits:
    """Split cases so that no user is in two splits, and train shares no post with the others.

    Users are laid in a row, those who are connected through shared posts next to each other and
    otherwise by chance. Test takes the first of them until it is full, then validation, cold_start
    and rl. Where all connected users end up in one split nothing is lost. Where a cut goes through
    connected users (in data from a forum, most users may be connected), a later split loses what it
    shares with test or validation: signals first, then the cases whose target it is or that are
    left with too few signals. cold_start and rl are disjoint by user, and may share posts.

    Posts are the same when they differ in case and white space only. A user's cases stay together,
    but a split takes no more than its size. If there are fewer cases than asked for, every split is
    made smaller in proportion.

    Args:
        cases: of any number of users, each with at least `signals_needed` signals.
        sizes: how many cases each split is to have; a split that is not named has none.
        signals_needed: a case with fewer signals is of no use.
        seed: decides the order of users.

    Returns:
        The splits. Their counts hold, beside `cases/<split>`: `cases_missing/<split>` where there
        are fewer than asked for, `signals_dropped/shared_post`, `cases_dropped/shared_post`, and
        `cases_left_over`, which no split needed.

    Raises:
        UserError: a split that is to have cases gets none.
    """
    share = min(1.0, len(cases) / max(1, sum(sizes.values())))
    users = deque(_users_in_a_row(cases, seed))
    splits: dict[Split, list[PreferenceCase]] = {split: [] for split in SPLITS}
    counts: Counter[str] = Counter(
        {"cases_dropped/shared_post": 0, "signals_dropped/shared_post": 0}
    )
    measured_posts: set[str] = set()
    for split in _FILLING_ORDER:
        size = sizes.get(split, 0)
        taken = splits[split]
        while users and len(taken) < size * share:
            for case in users.popleft():
                clean = _without_posts(case, measured_posts)
                if clean is None or len(clean.signals) < signals_needed:
                    counts["cases_dropped/shared_post"] += 1
                elif len(taken) < size:
                    counts["signals_dropped/shared_post"] += len(case.signals) - len(clean.signals)
                    taken.append(clean)
                else:
                    counts["cases_left_over"] += 1
        if split in ("test", "validation"):
            measured_posts.update(post for case in taken for post in _posts(case))
        counts[f"cases/{split}"] = len(taken)
        if len(taken) < size:
            counts[f"cases_missing/{split}"] = size - len(taken)
    counts["cases_left_over"] += sum(map(len, users))
    _check_none_is_empty(splits, sizes, len(cases))
    return CaseSplits(**splits, counts=dict(sorted(counts.items())))


def _users_in_a_row(cases: Sequence[PreferenceCase], seed: int) -> list[list[PreferenceCase]]:
    """The cases of each user; users who are connected through posts stand next to each other."""
    by_user: dict[str, list[PreferenceCase]] = defaultdict(list)
    for case in cases:
        by_user[case.user_id].append(case)
    users = list(by_user.values())
    groups: dict[int, list[list[PreferenceCase]]] = defaultdict(list)
    posts_of_users = [[post for case in user for post in _posts(case)] for user in users]
    for user, group in zip(users, connected_groups(posts_of_users), strict=True):
        groups[group].append(user)
    draw = random.Random(seed)
    shuffled = draw.sample(list(groups.values()), len(groups))
    return [user for group in shuffled for user in draw.sample(group, len(group))]


def _without_posts(case: PreferenceCase, posts: set[str]) -> PreferenceCase | None:
    """The case without the signals about these posts; `None` if its target is about one."""
    if any(post_key(post) in posts for post in posts_of([case.target])):
        return None
    kept = tuple(
        signal
        for signal in case.signals
        if not any(post_key(post) in posts for post in posts_of([signal]))
    )
    return replace(case, signals=kept)


def _posts(case: PreferenceCase) -> Iterable[str]:
    return map(post_key, posts_of([case.target, *case.signals]))


def _check_none_is_empty(
    splits: Mapping[Split, Sequence[PreferenceCase]], sizes: Mapping[Split, int], found: int
) -> None:
    empty = [split for split in SPLITS if sizes.get(split, 0) and not splits[split]]
    if empty:
        raise UserError(
            f"data.counts: no cases are left for {', '.join(empty)}: {found} usable cases found, "
            f"expected {sum(sizes.values())} ("
            + ", ".join(f"{split} {sizes.get(split, 0)}" for split in SPLITS)
            + "); ask for fewer, or give a file with more"
        )
