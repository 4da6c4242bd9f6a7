"""P-SOUPS: pairs of replies that differ in one dimension, in both of its directions; test only.

A file holds one dimension. `ground_truth_persona`, the true description, says which of the two
directions a row's pairs were chosen in. There are no users: whoever has one direction of one
dimension counts as one, and cases are clustered by their target.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import zip_longest
from typing import Literal

import msgspec
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.data.alignx import PAIRS, PairItem, check_target, says_something
from alignxplore_trl.data.rows import Problems, read_as
from alignxplore_trl.data.splits import check_none_is_empty, post_key
from alignxplore_trl.run.errors import UserError


class _PsoupsRow(PairItem, kw_only=True):
    description: str = msgspec.field(name="ground_truth_persona")
    pairs: list[PairItem] = msgspec.field(name=PAIRS)

    def __post_init__(self) -> None:
        check_target(self.signal(), ())

    def own(self) -> list[Comparison]:
        """The pairs that the file gives as its history, but for the target pair itself."""
        pairs = [pair.signal() for pair in self.pairs]
        return [pair for pair in pairs if not pair.shows_pair_of(self.signal())]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PSoups:
    """A data source, with the keys of conf/data/psoups.yaml.

    The pairs that a file gives as a history come first and stay as they are; what more a setting
    needs is drawn from pairs of the same direction about other posts, and counted. Dimensions and
    directions take turns.
    """

    path: str
    sizes: dict[Literal["test"], int]
    rounds: PositiveInt
    signals: PositiveInt

    def cases(self, counts: Counter[str], seed: int) -> dict[str, list[Case]]:
        """Read the test cases; see `data.prepare.Source`."""
        problems, files = Problems(), defaultdict[str, list[_PsoupsRow]](list)
        for source, row in read_as(self.path, _PsoupsRow, problems):
            files[source.name.rpartition("-")[0].removeprefix("psoups_")].append(row)
            counts["rows"] += 1
        problems.raise_if_any()
        by_user = defaultdict[str, list[Case]](list)
        for dimension, rows in files.items():
            for case in self._cases(dimension, rows, seed, counts):
                by_user[case.user_id].append(case)
        turns = [case for turn in zip_longest(*by_user.values()) for case in turn if case]
        size = self.sizes.get("test", 0)
        check_none_is_empty({"test": turns[:size]}, {"test": size}, counts)
        return {"test": turns[:size]}

    def _cases(
        self, dimension: str, rows: Sequence[_PsoupsRow], seed: int, counts: Counter[str]
    ) -> Iterator[Case]:
        needed, pools = self.rounds * self.signals, defaultdict[str, list[Comparison]](list)
        for row in rows:
            pools[row.description] += filter(says_something, (row.signal(), *row.own()))
        directions = list(pools)
        if len(directions) != 2:
            raise UserError(
                f"{self.path}, {dimension}, ground_truth_persona: {len(directions)} descriptions "
                "found, expected two, one for each direction of a file's one dimension"
            )
        for number, row in enumerate(rows, 1):
            target, name, history = row.signal(), f"psoups-{dimension}-{number}", row.own()[:needed]
            counts["signals_dropped/target_pair"] += len(row.pairs) - len(row.own())
            counts["signals_drawn"] += needed - len(history)
            posts = {post_key(pair.post) for pair in (target, *history)}
            pool = pools[row.description]
            for pair in random.Random(f"{seed}/{name}").sample(pool, len(pool)):
                if len(history) < needed and post_key(pair.post) not in posts:
                    history.append(pair)
                    posts.add(post_key(pair.post))
            if len(history) < needed:
                counts["cases_dropped/too_few_signals"] += 1
                continue
            pair_of_both = "\0".join((target.post, *sorted((target.chosen, target.rejected))))
            yield Case(
                case_id=name,
                user_id=f"psoups-{dimension}-direction-{directions.index(row.description) + 1}",
                signals=tuple(history),
                target=target,
                directions={dimension: row.description},
                description=row.description,
                cluster=f"psoups-{dimension}-{sha256(pair_of_both.encode()).hexdigest()[:16]}",
            )
