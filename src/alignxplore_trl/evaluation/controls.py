"""Controls: what is left of a method's accuracy when its descriptions are those of other users?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from alignxplore_trl.baselines.protocol import UserDescription
from alignxplore_trl.signals import PreferenceCase


def of_another_user(
    cases: Sequence[PreferenceCase], described: Sequence[UserDescription], seed: int
) -> list[UserDescription]:
    """A method's well-formed descriptions, each given to a case of another user.

    A judge that prefers this control to no description likes replies for what any description
    makes it look at, and not for what it says of the user.

    Each description is given once, never within a user or a cluster. Where that can't be done for
    all cases, as when one user has more than half of them, as few as possible are left out of the
    list; so are methods' entries that have no description on purpose. A malformed completion stays
    with its case, so that the control's R_format is the method's, but not its text.

    Args:
        cases: those that are described.
        described: what the method says of them.
        seed: with the case ids it decides, by hashes, who is given which.

    Returns:
        Entries in the order of `described`, without reasoning and completion: those belong to
        another user.
    """
    by_id = {case.case_id: case for case in cases}
    written = [said for said in described if said.description is not None]
    takers = _shuffled(written, f"{seed}/taker")
    givers = _shuffled(written, f"{seed}/giver")
    users, clusters = (
        [
            np.array([getattr(by_id[said.case_id], name) for said in side])
            for side in (takers, givers)
        ]
        for name in ("user_id", "cluster")
    )
    others = (users[0][:, None] != users[1]) & (clusters[0][:, None] != clusters[1])
    matched = maximum_bipartite_matching(csr_array(others), perm_type="column").tolist()
    given = {
        taker.case_id: givers[number].description
        for taker, number in zip(takers, matched, strict=True)
        if number >= 0
    }
    return [
        UserDescription(said.case_id, given.get(said.case_id), format_problem=said.format_problem)
        for said in described
        if said.case_id in given or said.format_problem is not None
    ]


def _shuffled(described: Sequence[UserDescription], salt: str) -> list[UserDescription]:
    """In an order of hashes, so that no generator's state and no earlier order matters."""
    return sorted(
        described, key=lambda said: hashlib.sha256(f"{salt}/{said.case_id}".encode()).digest()
    )
