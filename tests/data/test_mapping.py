"""Files of any columns become choices, and choices become cases that don't see their own future."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignxplore_trl.data.mapping import Choice, cases_of_user, load_mapping, read_choices, value_at
from alignxplore_trl.launch.compose import compose_recipe
from alignxplore_trl.launch.config import CONFIGS, read_values
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.signals import Comparison, posts_of
from alignxplore_trl.text.rendering import PromptSet

FIXTURES = Path(__file__).parents[1] / "fixtures/mapping"


def columns(name, *changes):
    """A shipped mapping, as the recipes are given it."""
    values = compose_recipe("prepare", ["data=mapping", f"data/mapping={name}", *changes])
    problems = Problems()
    values = {**values, "run_name": "x", "data": {**values["data"], "path": "x"}}
    config = read_values(CONFIGS["prepare"], values, problems)
    problems.raise_if_any()
    return config.data.mapping


def read(file, name, *changes, seed=0):
    counts = Counter()
    return read_choices(FIXTURES / file, columns(name, *changes), seed, counts), counts


def test_prism_replies_that_were_shown_together_become_pairs():
    rows = [json.loads(line) for line in (FIXTURES / "prism.jsonl").read_text().splitlines()]
    shown = {}
    for row in rows:
        shown.setdefault(row["interaction_id"], []).append(row)
    choices, counts = read("prism.jsonl", "prism")
    assert set(choices) == {f"user{number}" for number in range(8)}
    for user, own in choices.items():
        for choice in own:
            group = shown[choice.group]
            (best,) = [row["model_response"] for row in group if row["if_chosen"]]
            others = {row["model_response"] for row in group if not row["if_chosen"]}
            assert {(row["user_id"], row["turn"]) for row in group} == {(user, 0)}
            assert choice.comparison.post == group[0]["user_prompt"]
            assert choice.comparison.chosen == best
            assert choice.comparison.rejected in others
    per_group = Counter(choice.group for own in choices.values() for choice in own)
    assert set(per_group.values()) == {2}
    assert counts["rows_dropped/turn"] == sum(row["turn"] == 1 for row in rows)
    assert counts["rows_dropped/empty_text"] == 1


def test_prism_users_become_cases_of_four_splits():
    sizes = {"cold_start": 2, "rl": 4, "validation": 2, "test": 4}
    splits = load_mapping(FIXTURES / "prism.jsonl", columns("prism"), 4, 2, sizes, 0)
    users = [{case.user_id for case in splits[split]} for split in sizes]
    assert all(users)
    assert sum(map(len, users)) == len(set.union(*users))
    assert splits.counts["users_with_too_few_choices"] == 1
    posts = [{post for case in splits[split] for post in posts_of([case.target, *case.signals])}
             for split in sizes]  # fmt: skip
    assert sum(map(len, posts)) == len(set.union(*posts))


def test_a_contest_is_read_by_its_winner_and_ties_are_left_out():
    rows = [json.loads(line) for line in (FIXTURES / "arena.jsonl").read_text().splitlines()]
    choices, counts = read("arena.jsonl", "arena")
    by_number = dict(enumerate(rows, 1))
    kept = [row for row in rows if row["turn"] == 1 and not row["winner"].startswith("tie")]
    assert 0 < sum(map(len, choices.values())) <= len(kept)
    for user, own in choices.items():
        times = []
        for choice in own:
            row = by_number[int(choice.group)]
            times.append(row["tstamp"])
            sides = ["conversation_a", "conversation_b"]
            if row["winner"] == "model_b":
                sides.reverse()
            assert row["judge"] == user
            assert [choice.comparison.chosen, choice.comparison.rejected] == [
                row[side][1]["content"] for side in sides
            ]
        assert times == sorted(times)
    ties = sum(row["winner"].startswith("tie") and row["turn"] == 1 for row in rows)
    assert counts["choices_dropped/no_winner"] == ties > 0


def test_a_log_of_recommendations_pairs_what_was_taken_with_what_was_passed_over():
    with (FIXTURES / "recommendations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    choices, counts = read("recommendations.csv", "recommendations")
    for user, own in choices.items():
        for choice in own:
            listed = [row for row in rows if row["list"] == choice.group]
            taken = {row["title"] for row in listed if row["chosen"] == "1"}
            passed = {row["title"] for row in listed if row["chosen"] == "0"}
            assert {row["user"] for row in listed} == {user}
            assert choice.comparison.chosen in taken
            assert choice.comparison.rejected in passed
            assert choice.comparison.form == "items"
        times = [float(choice.rank) for choice in own]
        assert times == sorted(times)
    assert counts["groups_dropped/nothing_chosen_or_nothing_passed_over"] == 6
    assert len({choice.group for own in choices.values() for choice in own}) == 60


def test_items_share_no_post_and_so_splits_lose_none_of_them():
    sizes = {"cold_start": 4, "rl": 4, "validation": 4, "test": 4}
    splits = load_mapping(
        FIXTURES / "recommendations.csv", columns("recommendations"), 4, 4, sizes, 0
    )
    assert splits.counts["signals_dropped/shared_post"] == 0
    assert splits.counts["cases_dropped/shared_post"] == 0
    case = splits.test[0]
    text = PromptSet("default").inference(case.signals, None)
    assert case.signals[0].rejected in text
    assert "<passed_over>" in text
    assert "replies to a post" not in text


def test_rows_of_pairs_in_tsv():
    choices, counts = read("pairs.tsv", "pairs")
    assert {user: len(own) for user, own in choices.items()} == {f"u{n}": 12 for n in range(5)}
    assert counts["rows"] == 60
    cases = cases_of_user("pairs", "u0", choices["u0"], 8, 4, counts)
    # The twelfth row asks what the fourth did, which is not in its history.
    assert cases[-1].target.post == "question 0 3"
    assert [signal.post for signal in cases[-1].signals] == [
        f"question 0 {number}" for number in (2, 4, 5, 6, 7, 8, 9, 10)
    ]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3)), max_size=12),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(["replies", "items"]),
)
def test_a_case_sees_the_latest_choices_before_it_and_none_of_its_target(
    groups, signals, most, form
):
    choices = []
    for number, (post, size) in enumerate(groups):
        for place in range(size):
            text = f"{number}.{place}"
            pair = Comparison(f"post {post}", f"yes {text}", f"no {text}", form)
            choices.append(Choice(pair, f"group {number}", None, "here"))
    cases = cases_of_user("s", "u", choices, signals, most, Counter())
    order = {choice.comparison: place for place, choice in enumerate(choices)}
    group = {choice.comparison: choice.group for choice in choices}

    def usable(number):
        target = choices[number]
        return [
            choice.comparison
            for choice in choices[:number]
            if choice.group != target.group
            and (form == "items" or choice.comparison.post != target.comparison.post)
        ]

    firsts = [n for n in range(len(choices)) if n == 0 or choices[n - 1].group != choices[n].group]
    expected = [n for n in firsts if len(usable(n)) >= signals][-most:]
    assert [order[case.target] for case in cases] == expected
    assert len({group[case.target] for case in cases}) == len(cases)
    for case, number in zip(cases, expected, strict=True):
        assert list(case.signals) == usable(number)[-signals:]


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet", "csv"])
def test_every_format_gives_the_same_choices(tmp_path, ending):
    import pandas as pd

    table = pd.read_csv(FIXTURES / "pairs.tsv", sep="\t")
    path = tmp_path / f"pairs.{ending}"
    match ending:
        case "parquet":
            table.to_parquet(path)
        case "csv":
            table.to_csv(path, index=False)
        case _:
            table.to_json(path, orient="records", lines=ending == "jsonl")
    found = read_choices(path, columns("pairs"), 0, Counter())
    expected, _ = read("pairs.tsv", "pairs")
    assert {user: [choice.comparison for choice in own] for user, own in found.items()} == {
        user: [choice.comparison for choice in own] for user, own in expected.items()
    }


def test_all_wrong_rows_are_named_with_file_row_and_column(tmp_path):
    rows = [
        {"user": "u", "prompt": "p", "chosen": "a"},
        {"user": None, "prompt": "p", "chosen": "a", "rejected": "b"},
        ["not", "an", "object"],
        {"user": "u", "prompt": 7, "chosen": "a", "rejected": "b"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as error:
        read_choices(path, columns("pairs"), 0, Counter())
    assert error.value.problems == [
        f"{path}, line 1, rejected: null found, expected a text",
        f"{path}, line 2, user: null found, expected the user's name",
        f'{path}, line 3: ["not", "an", "object"] found, expected columns and values',
        f"{path}, line 4, prompt: 7 found, expected a text",
    ]


def test_a_group_of_two_users_is_refused(tmp_path):
    row = {"user_id": "a", "user_prompt": "p", "interaction_id": "i", "model_response": "r",
           "if_chosen": True, "turn": 0}  # fmt: skip
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row, {**row, "user_id": "b", "if_chosen": False}]))
    with pytest.raises(UserError, match=r"row 2, interaction_id: the group i is that of .*row 1"):
        read_choices(path, columns("prism"), 0, Counter())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.mapping.post_text=words", "data.mapping.post: expected a column here"),
        ("data.mapping.form=items", "data.mapping.post_text: nothing found"),
        ("data.mapping.form=films", "data.mapping.form: found 'films', expected one of replies"),
        ("+data.mapping.colour=x", "data.mapping.colour: no such key"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(change, message):
    with pytest.raises(UserError) as error:
        columns("pairs", change)
    assert message in str(error.value)


def test_a_path_leads_into_lists_and_objects():
    row = {"a": [{"b": "one"}, {"b": "two"}], "a.b": "whole", "n": 0}
    assert value_at(row, "a.-1.b") == "two"
    assert value_at(row, "a.b") == "whole"
    assert value_at(row, "a.5.b") is None
    assert value_at(row, "n.x") is None


def test_anonymised_choices_hold_no_user_and_stay_choices_among_items(tmp_path):
    with (FIXTURES / "recommendations.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["title"] += " by ada@example.com"
    path = tmp_path / "log.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    sizes = {"cold_start": 2, "test": 2}
    found = load_mapping(path, columns("recommendations"), 4, 2, sizes, 0, anonymise=True)
    cases = [*found.cold_start, *found.test]
    assert "example.com" not in repr(cases)
    assert {case.user_id.split("-")[0] for case in cases} == {"user"}
    assert {signal.form for case in cases for signal in (*case.signals, case.target)} == {"items"}
    assert found.counts["anonymised/email_addresses"] > 0


def test_a_column_that_no_row_has_is_a_mistake_of_the_mapping():
    with pytest.raises(UserError) as error:
        read("pairs.tsv", "pairs", "data.mapping.user=annotator", "+data.mapping.at_least.score=3")
    assert len(error.value.problems) == 2
    assert error.value.problems[0].startswith(
        "data.mapping.user: the column 'annotator' found, but"
    )
    assert "expected one of" in error.value.problems[0]
    assert error.value.problems[1].startswith("data.mapping.at_least.score: the column 'score'")
