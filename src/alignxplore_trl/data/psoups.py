"""P-SOUPS: pairs of replies that differ in one dimension, in both of its directions; test only.

A file holds one dimension. `ground_truth_persona`, the true description, says which of the two
directions a row's pairs were chosen in. There are no users: whoever has one direction of one
dimension counts as one, and cases are clustered by their target.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import msgspec
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from alignxplore_trl.cases import Case, Comparison
from alignxplore_trl.data.alignx import COLUMNS, AlignxRow, says_something
from alignxplore_trl.data.rows import Problems, convert, read_rows
from alignxplore_trl.data.splits import check_none_is_empty, post_key
from alignxplore_trl.run.errors import UserError

_TRUTH = "ground_truth_persona"


class _PsoupsRow(AlignxRow, kw_only=True):
    description: str = msgspec.field(name=_TRUTH)

    def __post_init__(self) -> None:
        if not says_something(self.signal()):
            raise ValueError(
                "expected a post and two different replies in prompt, chosen, rejected"
            )

    def own(self) -> list[Comparison]:
        """The pairs that the file gives as its history, but for the target pair itself."""
        pairs = [pair.signal() for pair in self.pairs or ()]
        return [pair for pair in pairs if not pair.shows_pair_of(self.signal())]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PSoups:
    """A data source.

    Attributes:
        path: a file of one dimension, `<dimension>.json` (a `psoups_` before it does no harm), or a
            folder of such files.
        sizes: test cases at most. Dimensions and directions take turns, so that the first cases are
            of all of them.
        rounds, signals: the setting; a case has pairs for all of its rounds. The four that the file
            gives come first and stay as they are; what more is needed is drawn from pairs of the
            same direction about other posts, and counted.
    """

    path: str
    sizes: dict[str, int]
    rounds: PositiveInt
    signals: PositiveInt

    def __post_init__(self) -> None:
        if set(self.sizes) != {"test"}:
            raise ValueError("sizes: expected test alone; there is nothing to train on")

    def cases(self, counts: Counter[str], seed: int) -> dict[str, list[Case]]:
        """Read the test cases; see `data.prepare.Source`."""
        problems, files = Problems(), defaultdict[str, list[_PsoupsRow]](list)
        for source in read_rows(self.path, COLUMNS | {_TRUTH}, problems):
            row = convert(source, _PsoupsRow, problems)
            if row is not None:
                files[source.name.rpartition("-")[0].removeprefix("psoups_")].append(row)
                counts["rows"] += 1
        problems.raise_if_any()
        by_user: dict[str, list[Case]] = defaultdict(list)
        for dimension, rows in files.items():
            for case in self._cases(dimension, rows, seed, counts):
                by_user[case.user_id].append(case)
        turns = [case for turn in zip_longest(*by_user.values()) for case in turn if case]
        test = turns[: self.sizes["test"]]
        for case in test:
            counts[f"cases/{case.user_id}"] += 1
            longer = len(case.target.chosen) > len(case.target.rejected)
            counts[f"chosen_is_longer/{case.user_id}"] += longer
        check_none_is_empty({"test": test}, self.sizes, counts)
        return {"test": test}

    def _cases(
        self, dimension: str, rows: Sequence[_PsoupsRow], seed: int, counts: Counter[str]
    ) -> Iterator[Case]:
        pools: Mapping[str, dict[Comparison, None]] = defaultdict(dict)
        for row in rows:
            pairs = (row.signal(), *row.own())
            pools[row.description] |= dict.fromkeys(filter(says_something, pairs))
        if len(pools) != 2:
            raise UserError(
                f"{self.path}, {dimension}, {_TRUTH}: {len(pools)} descriptions found, expected "
                "two, one for each direction of a file's one dimension"
            )
        for number, row in enumerate(rows, 1):
            target, name = row.signal(), f"psoups-{dimension}-{number}"
            pool = list(pools[row.description])
            history = row.own()[: self.rounds * self.signals]
            counts["signals_dropped/target_pair"] += len(row.pairs or ()) - len(row.own())
            own, posts = len(history), {post_key(pair.post) for pair in (target, *history)}
            for pair in random.Random(f"{seed}/{name}").sample(pool, len(pool)):
                if len(history) < self.rounds * self.signals and post_key(pair.post) not in posts:
                    history.append(pair)
                    posts.add(post_key(pair.post))
            if len(history) < self.rounds * self.signals:
                counts["cases_dropped/too_few_signals"] += 1
                continue
            counts["signals_drawn"] += len(history) - own
            texts = "\0".join((target.post, *sorted((target.chosen, target.rejected))))
            yield Case(
                case_id=name,
                user_id=f"psoups-{dimension}-direction-{list(pools).index(row.description) + 1}",
                signals=tuple(history),
                target=target,
                directions={dimension: row.description},
                description=row.description,
                cluster=f"psoups-{dimension}-{hashlib.sha256(texts.encode()).hexdigest()[:16]}",
            )
