"""The refined sets keep every rule, whoever made them, however often they were interrupted."""

import json
import re
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from alignxplore_trl.data import refined_sets
from alignxplore_trl.data.alignx import Dimension
from alignxplore_trl.data.refined_sets import (
    REFINED_SPLITS,
    Wanted,
    has_directions,
    refine,
    remove_parts,
)
from alignxplore_trl.data.refinement import Rules
from alignxplore_trl.data.sources import read_split
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Comparison, Post

PAIRS, POSTS, VECTOR = (
    "Pair-wise Comparative Feedback", "User-Generated Content", "Preference Direction",
)  # fmt: skip
LENGTH, MINIMUM, NEEDED, POSTS_NEEDED = 7, 2, 2, 1
DIMENSIONS = tuple(Dimension(f"d{n}", f"is {n}", f"isn't {n}") for n in range(LENGTH))
RULES = Rules(DIMENSIONS, MINIMUM, "comparisons", NEEDED, 1, POSTS_NEEDED)
SIZES = {"cold_start": 3, "rl": 3, "validation": 1, "test": 2, "test_posts": 2}


def run(
    path, folder, *, rules=RULES, sizes=SIZES, workers=1, strict=False, chunk_bytes=700, seed=0
):
    wanted = Wanted(sizes, similarity=0.8, seed=seed)
    counts = refine(
        str(path), folder, rules, wanted, workers=workers, strict=strict, chunk_bytes=chunk_bytes
    )
    return counts, {split: read_split(folder, split) for split in REFINED_SPLITS}


def vector(**poles: float) -> list[float]:
    return [poles.get(f"d{n}", 0.5) for n in range(LENGTH)]


def pair(name: str, directions: list[float], post: str | None = None) -> dict:
    return {
        "prompt": post or f"what about {name}", "chosen": f"yes {name}", "rejected": f"no {name}",
        VECTOR: directions,
    }  # fmt: skip


def good_row(number: int, items: int = 3) -> dict:
    directions = vector(d0=1, d1=number % 2)
    history = [pair(f"item {number} {n}", directions) for n in range(items)]
    comment = {"prompt": f"who does {number}", "comment": f"I do {number}", VECTOR: directions}
    return pair(f"target {number}", directions) | {PAIRS: history, POSTS: [comment]}


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --- what the rules say, from the raw rows alone --------------------------------------------------
def post_words(text: str) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return frozenset(tuple(words[n : n + 3]) for n in range(max(1, len(words) - 2)))


def is_same_post(one: str, other: str) -> bool:
    if " ".join(one.lower().split()) == " ".join(other.lower().split()):
        return True
    left, right = post_words(one), post_words(other)
    return len(left & right) / len(left | right) >= 0.95  # The estimate may differ by its noise.


def signals_of(row: dict) -> set[tuple[str, ...]]:
    pairs = [row, *row[PAIRS]]
    found = {
        (p["prompt"], p["chosen"], p["rejected"]) for p in pairs if p["chosen"] != p["rejected"]
    }
    return found | {(post["prompt"], post["comment"]) for post in row[POSTS]}


def users_of(rows: list[dict]) -> list[int]:
    """The user of each row, by spreading the smallest number until nothing changes."""
    users = list(range(len(rows)))
    changed = True
    while changed:
        changed = False
        for one, other in combinations(range(len(rows)), 2):
            if signals_of(rows[one]) & signals_of(rows[other]) and users[one] != users[other]:
                users[one] = users[other] = min(users[one], users[other])
                changed = True
    return users


def directions_of(row: dict, signal: Comparison | Post) -> list[list[float]]:
    """The vectors of the items of a row that read so."""
    if isinstance(signal, Comparison):
        texts = (signal.post, signal.chosen, signal.rejected)
        return [i[VECTOR] for i in row[PAIRS] if (i["prompt"], i["chosen"], i["rejected"]) == texts]
    texts = (signal.post, signal.comment)
    return [item[VECTOR] for item in row[POSTS] if (item["prompt"], item["comment"]) == texts]


def check_rules(rows: list[dict], sets: dict) -> None:
    users = users_of(rows)
    users_seen: set[int] = set()
    posts: dict[str, set[str]] = {}
    for split, cases in sets.items():
        posts[split] = set()
        for case in cases:
            row = rows[int(case.case_id.rpartition("-")[2]) - 1]
            user = users[int(case.case_id.rpartition("-")[2]) - 1]
            assert user not in users_seen
            users_seen.add(user)
            assert case.user_id == f"rows-user-of-{user + 1}"
            target = row[VECTOR]
            active = [n for n in range(LENGTH) if target[n] != 0.5]
            assert len(active) >= MINIMUM
            assert set(case.directions) == {f"d{n}" for n in active}
            kind, needed = (Post, POSTS_NEEDED) if split == "test_posts" else (Comparison, NEEDED)
            assert len(case.signals) >= needed
            assert all(isinstance(signal, kind) for signal in case.signals)
            vectors = []
            for signal in case.signals:
                agreeing = [
                    found
                    for found in directions_of(row, signal)
                    if all(found[n] == target[n] for n in active)
                ]
                assert agreeing
                vectors.append(agreeing)
            for n in range(LENGTH):
                always = [{found[n] for found in agreeing} - {0.5} for agreeing in vectors]
                sure = {min(values) for values in always if len(values) == 1}
                assert len(sure) < 2 or any(len(agreeing) > 1 for agreeing in vectors)
            posts[split] |= {case.target.post, *(signal.post for signal in case.signals)}
    for one, other in combinations(posts, 2):
        assert not any(is_same_post(a, b) for a in posts[one] for b in posts[other])


@st.composite
def rows_of_all_kinds(draw):
    """Rows that pass and that don't, sharing posts and signals in every way."""
    entries = st.sampled_from([0.5, 0.5, 0.5, 0, 1])
    free = st.lists(entries, min_size=LENGTH, max_size=LENGTH)
    # Each post in a few wordings: another case, one word of thirty changed, or a different post.
    names = st.integers(0, draw(st.sampled_from([40, 200, 2000])))
    words = [f"word{n}" for n in range(90)]

    @st.composite
    def posts(draw):
        number = draw(names)
        text = [f"{words[(number * 7 + n * n) % 90]}{number}" for n in range(60)]
        wording = draw(st.sampled_from(["same", "same", "case", "edge"]))
        if wording == "edge":
            text[-1] = "other"
        return "  ".join(text).upper() if wording == "case" else " ".join(text)

    replies = st.integers(0, draw(st.sampled_from([9, 300]))).map(lambda n: f"reply {n}")

    def item(target):
        directions = free
        if target:
            agreeing = free.map(
                lambda v: [t if t != 0.5 else x for t, x in zip(target, v, strict=True)]
            )
            directions = st.one_of(free, agreeing, agreeing, st.just(target))
        return st.fixed_dictionaries(
            {"prompt": posts(), "chosen": replies, "rejected": replies, VECTOR: directions}
        )

    rows = []
    for number in range(draw(st.integers(15, 40))):
        target = draw(st.one_of(free, st.just(vector(d0=1, d3=0)), st.just(vector(d1=0, d2=0))))
        comment = item(target).map(
            lambda i: {"prompt": i["prompt"], "comment": i["chosen"], VECTOR: i[VECTOR]}
        )
        rows.append(
            draw(posts().map(lambda post, n=number, t=target: {
                "prompt": post, "chosen": f"yes {n}", "rejected": f"no {n}", VECTOR: t}))
            | {PAIRS: draw(st.lists(item(target), min_size=2, max_size=6)),
               POSTS: draw(st.lists(comment, max_size=3))}
        )  # fmt: skip
    return rows


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(rows_of_all_kinds(), st.integers(0, 3))
def test_refined_sets_meet_every_rule(tmp_path_factory, rows, seed):
    folder = tmp_path_factory.mktemp("refined")
    path = write_lines(folder / "rows.jsonl", rows)
    try:
        counts, sets = run(path, folder / "out", seed=seed)
    except UserError:  # A set gets nothing.
        event("a set gets nothing")
        return
    check_rules(rows, sets)
    for name in ("rows_dropped/same_user", "rows_dropped/shared_post", "signals_dropped/conflict",
                 "signals_dropped/shared_post", "posts_near_duplicate"):  # fmt: skip
        if counts.get(name):
            event(name)
    for split, cases in sets.items():
        assert counts[f"cases/{split}"] == len(cases) <= SIZES[split]
    dropped = sum(count for name, count in counts.items() if name.startswith("rows_dropped/"))
    kept = sum(counts[f"cases/{split}"] for split in sets if split != "test_posts")
    assert counts["rows"] == len(rows) == dropped + kept + counts["rows_left_over"]
    assert counts["users"] == len(set(users_of(rows)))


class TestRules:
    def sets_of(self, tmp_path, special: dict, **changes):
        path = write_lines(tmp_path / "rows.jsonl", [special, *map(good_row, range(1, 13))])
        counts, sets = run(path, tmp_path / "out", **changes)
        cases = {case.case_id: case for split in sets for case in sets[split]}
        return counts, cases.get("rows-1")

    def test_an_item_against_the_target_or_neutral_there_is_left_out(self, tmp_path):
        special = good_row(0)
        special[PAIRS] += [
            pair("against", vector(d0=0, d1=0)), pair("neutral", vector(d0=1)),
        ]  # fmt: skip
        counts, case = self.sets_of(tmp_path, special, sizes=SIZES | {"test": 9, "test_posts": 0})
        assert counts["signals_dropped/other_directions"] == 2
        assert case is not None
        assert len(case.signals) == 3

    def test_of_two_items_in_conflict_the_later_one_is_left_out(self, tmp_path):
        special = good_row(0, items=2)
        special[PAIRS] += [
            pair("first", vector(d0=1, d1=0, d5=1)), pair("later", vector(d0=1, d1=0, d5=0)),
        ]  # fmt: skip
        counts, case = self.sets_of(tmp_path, special, sizes=SIZES | {"test": 9, "test_posts": 0})
        assert counts["signals_dropped/conflict"] == 1
        assert case is not None
        assert [s.post for s in case.signals][-1] == "what about first"

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({VECTOR: vector(d0=1)}, "few_dimensions"),
            ({VECTOR: None}, "no_directions"),
            ({PAIRS: [pair("one", vector(d0=1, d1=0))]}, "base_setting_only"),
            ({PAIRS: [pair("one", vector(d0=0, d1=0))]}, "too_few_signals"),
        ],
    )
    def test_why_a_row_is_dropped(self, tmp_path, change, reason):
        counts, _ = self.sets_of(tmp_path, good_row(0) | change)
        assert counts[f"rows_dropped/{reason}"] == 1

    def test_rows_with_fewer_than_eight_signals_are_counted(self, tmp_path):
        path = write_lines(
            tmp_path / "rows.jsonl", [good_row(n, 3 + 5 * (n % 2)) for n in range(20)]
        )
        counts, sets = run(path, tmp_path / "out", sizes={**SIZES, "test_posts": 0})
        few = {split: sum(len(case.signals) < 8 for case in sets[split]) for split in sets}
        assert {split: counts[f"cases_base_only/{split}"] for split in sets} == few
        assert 0 < sum(few.values()) < 9

    def test_rows_that_share_a_signal_are_one_user_even_through_a_row_that_is_dropped(
        self, tmp_path
    ):
        rows = [good_row(n) for n in range(14)]
        link = good_row(99) | {VECTOR: vector(d0=1)}
        link[PAIRS] = [
            rows[0][PAIRS][0],
            {key: rows[1][key] for key in ("prompt", "chosen", "rejected")},
        ]
        path = write_lines(tmp_path / "rows.jsonl", [*rows, link])
        counts, sets = run(path, tmp_path / "out", sizes={**SIZES, "rl": 9, "test_posts": 0})
        assert counts["users"] == 13
        assert counts["rows_dropped/same_user"] == 1
        cases = [case for split in sets for case in sets[split]]
        assert len({case.user_id for case in cases}) == len(cases) == 13

    def test_the_name_of_a_user_makes_rows_one_user(self, tmp_path):
        rows = [good_row(n) | {"user": f"u{n // 2}"} for n in range(20)]
        counts, sets = run(write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "out")
        assert counts["users"] == 10
        cases = [case for split in sets for case in sets[split]]
        assert len({case.user_id for case in cases}) == len(cases)
        assert all(re.fullmatch(r"u\d", case.user_id) for case in cases)


class TestAnonymised:
    rules = replace(RULES, anonymise=True)

    def rows(self) -> list[dict]:
        rows = [good_row(n) for n in range(20)]
        for number, row in enumerate(rows):
            row["prompt"] += f" mail ada{number}@example.com"
            row[PAIRS][0]["chosen"] += " call +44 20 7946 0958"
            row[POSTS][0]["comment"] += " see https://example.com/ada"
            row["user"] = f"ada {number}"
        return rows

    def test_nothing_that_is_found_is_written_and_what_is_written_is_counted(self, tmp_path):
        path = write_lines(tmp_path / "rows.jsonl", self.rows())
        counts, sets = run(path, tmp_path / "out", rules=self.rules)
        written = [case for split in sets for case in sets[split]]
        assert "ada" not in repr(written).replace("rows.jsonl", "")
        for kind, mark in (
            ("email_addresses", "[e-mail address]"),
            ("phone_numbers", "[phone number]"),
            ("links", "[link]"),
        ):
            assert counts[f"anonymised/{kind}"] == repr(written).count(mark) > 0
        assert counts["anonymised/cases"] == len(written)

    def test_posts_that_become_the_same_are_in_one_set(self, tmp_path):
        rows = self.rows()
        for number, row in enumerate(rows):
            row[PAIRS][0]["prompt"] = f"ada{number}@example.com"
        path = write_lines(tmp_path / "rows.jsonl", rows)
        _, sets = run(path, tmp_path / "out", rules=self.rules)
        holders = [
            split
            for split, cases in sets.items()
            if any(signal.post == "[e-mail address]" for case in cases for signal in case.signals)
        ]
        assert len(holders) == 1
        _, sets = run(path, tmp_path / "plain")
        assert sum("@example.com" in repr(cases) for cases in sets.values()) > 1

    def test_a_target_whose_replies_become_the_same_is_dropped(self, tmp_path):
        special = good_row(99) | {"chosen": "ask a@example.com", "rejected": "ask b@example.com"}
        path = write_lines(tmp_path / "rows.jsonl", [special, *self.rows()])
        counts, _ = run(path, tmp_path / "out", rules=self.rules)
        assert counts["rows_dropped/same_when_anonymised"] == 1


class TestSameFiles:
    @pytest.fixture
    def path(self, tmp_path):
        return write_lines(tmp_path / "rows.jsonl", [good_row(n) for n in range(60)])

    def files_of(self, folder: Path) -> dict[str, bytes]:
        return {split: (folder / f"{split}.parquet").read_bytes() for split in REFINED_SPLITS}

    def test_on_any_number_of_workers(self, path, tmp_path):
        for workers in (1, 3):
            run(path, tmp_path / f"{workers}", workers=workers, chunk_bytes=9000)
        assert self.files_of(tmp_path / "1") == self.files_of(tmp_path / "3")

    def test_with_chunks_of_any_size(self, path, tmp_path):
        for chunk_bytes in (150, 800, 10**6):
            run(path, tmp_path / f"{chunk_bytes}", chunk_bytes=chunk_bytes)
        files = [self.files_of(tmp_path / f"{size}") for size in (150, 800, 10**6)]
        assert all(one == other for one, other in pairwise(files))

    def test_another_seed_makes_other_sets(self, path, tmp_path):
        for seed in (0, 1):
            run(path, tmp_path / f"{seed}", seed=seed)
        assert self.files_of(tmp_path / "0") != self.files_of(tmp_path / "1")

    @pytest.mark.parametrize("stage", ["judge_and_save", "write_split"])
    def test_after_an_interruption(self, path, tmp_path, monkeypatch, stage):
        run(path, tmp_path / "whole")
        done: list[str] = []
        real = getattr(refined_sets, stage)

        def dies_at_the_third(*arguments):
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(stage)
            real(*arguments)

        monkeypatch.setattr(refined_sets, stage, dies_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            run(path, tmp_path / "halves")
        monkeypatch.undo()
        judged = list((tmp_path / "halves/.parts").glob("0*.npz"))
        times = {part: part.stat().st_mtime_ns for part in judged}
        assert len(judged) >= 2
        run(path, tmp_path / "halves")
        assert {
            part: part.stat().st_mtime_ns for part in judged
        } == times  # They weren't read again.
        assert self.files_of(tmp_path / "halves") == self.files_of(tmp_path / "whole")
        remove_parts(tmp_path / "halves")
        assert not (tmp_path / "halves/.parts").exists()

    def test_other_rows_than_before_the_interruption_are_refused(self, path, tmp_path):
        run(path, tmp_path / "out")
        write_lines(path, [good_row(n) for n in range(61)])
        with pytest.raises(UserError, match="was begun with other rows"):
            run(path, tmp_path / "out")

    def test_from_any_format(self, path, tmp_path):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for folder in ("array", "indented", "parquet"):
            (tmp_path / folder).mkdir()
        (tmp_path / "array/rows.json").write_text(json.dumps(rows))
        (tmp_path / "indented/rows.json").write_text(json.dumps(rows, indent=2) + "\n")
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, tmp_path / "parquet/rows.parquet", row_group_size=7)
        run(path, tmp_path / "from lines")
        for folder in ("array", "indented", "parquet"):
            (source,) = (tmp_path / folder).iterdir()
            run(source, tmp_path / f"from {folder}")
            assert self.files_of(tmp_path / f"from {folder}") == self.files_of(
                tmp_path / "from lines"
            )


class TestBrokenRows:
    def rows(self) -> list[str]:
        return [json.dumps(good_row(n)) for n in range(40)]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"prompt": ', "line 18, column"),
            ('{"prompt": "a"}', "line 18, chosen: nothing found, expected a text"),
            (
                json.dumps(good_row(1) | {VECTOR: [1, 0]}),
                "line 18, Preference Direction: 2 numbers",
            ),
            (
                json.dumps(good_row(1) | {VECTOR: [0.7] * LENGTH}),
                "line 18, Preference Direction: 0.7",
            ),
            (json.dumps(good_row(1) | {PAIRS: [good_row(1)]}), "this is the target pair itself"),
        ],
    )
    @pytest.mark.parametrize("workers", [1, 2])
    def test_one_is_told_with_its_number_and_left_out(
        self, tmp_path, capsys, line, message, workers
    ):
        lines = self.rows()
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join([*lines[:16], "", line, *lines[16:]]) + "\n")
        counts, sets = run(path, tmp_path / "out", workers=workers, chunk_bytes=9000)
        assert counts["rows_broken"] == 1
        assert counts["rows"] == 41
        told = capsys.readouterr().err
        assert message in told
        assert "1 of 41 rows aren't in the format" in told
        assert len(sets["rl"]) == 3
        with pytest.raises(UserError, match=r"rows\.jsonl, line 18") as error:
            run(path, tmp_path / "strict", strict=True)
        assert all("line 18" in problem for problem in error.value.problems)
        assert not list((tmp_path / "strict").glob("*.parquet"))

    def test_of_many_the_first_are_told(self, tmp_path, capsys):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join([*self.rows(), *["{"] * 50]))
        assert run(path, tmp_path / "out")[0]["rows_broken"] == 50
        assert "30 more rows that aren't in the format" in capsys.readouterr().err

    def test_a_row_of_an_array_is_told_by_its_number(self, tmp_path, capsys):
        path = tmp_path / "rows.json"
        rows = self.rows()
        path.write_text("[" + ", ".join([*rows[:5], '{"prompt": 7}', *rows[5:]]) + "]")
        assert run(path, tmp_path / "out")[0]["rows_broken"] == 1
        assert "rows.json, row 6, prompt: 7 found" in capsys.readouterr().err

    def test_an_array_whose_rows_cannot_be_told_apart_is_refused(self, tmp_path):
        path = tmp_path / "rows.json"
        rows = self.rows()
        for text in (
            "[" + ", ".join(rows[:5]) + " " + ", ".join(rows[5:]) + "]",
            "[" + ", ".join(rows),
            "[" + ", ".join([*rows[:5], '{"prompt: 3}', *rows[5:]]) + "]",
        ):
            path.write_text(text)
            with pytest.raises(UserError, match="the rows can't be told apart"):
                run(path, tmp_path / "out")
            remove_parts(tmp_path / "out")

    def test_nothing_but_broken_rows_is_an_error(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        path.write_text("{\n{\n")
        with pytest.raises(UserError, match="line 1, column"):
            run(path, tmp_path / "out")


def test_the_first_row_says_whether_there_are_directions(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [good_row(1)])
    assert has_directions(str(path))
    write_lines(path, [good_row(1) | {VECTOR: None}, good_row(2)])
    assert not has_directions(str(path))
    path.write_text("\n{\n")
    assert not has_directions(str(path))  # Those who read it have the words for it.
