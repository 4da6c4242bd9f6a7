"""Published files: prompts as they are, one wording for both stages, descriptions in slots."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.cases import Case
from alignxplore_trl.data.prepare import prepare
from alignxplore_trl.data.release import (
    PLACEHOLDER,
    Release,
    prompt_with,
    published_rows,
    wrapper,
)
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.budget import PromptBudget
from alignxplore_trl.text.prompts import Prompts

DIMENSIONS = [{"name": "d", "positive": "likes it", "negative": "hates it"}]
SIZES = {"cold_start": 100, "rl": 100, "test": 100}
GOOD = "r </think> <answer> d </answer>"
BEFORE, AFTER = "You infer preferences.\nUser: ", "\nAssistant: <think>\n"
TASK = "What does this user prefer?\n\n"


def problem(name, earlier=None, pairs=4):
    items = "".join(
        f"{n}. *Post:*\n{name} post {n}\n\n*Chosen:*\nyes\n\n*Rejected:*\nno {PLACEHOLDER}\n\n"
        for n in range(1, pairs + 1)
    )
    return TASK + items + ("" if earlier is None else f"\nKnown so far: {earlier}\n")


def entry(name, value):
    return {"value": value, "task": f"task {name}", "chosen": "c", "rejected": "r"}


def rl_row(name, *values):
    first = entry(name, values[0])
    if len(values) > 1:
        first = {"from": "human", "history": [entry(name, value) for value in values]}
    return [first, {"from": "gpt", "ground_truth": {"value": "Response B"}}]


def judged(name, pairs=4, **more):
    history = [
        {"prompt": f"{name} {n}", "chosen": "y", "rejected": "n", "Preference Direction": [0.5]}
        for n in range(pairs)
    ]
    row = {"prompt": f"asked {name}", "responseA": "r", "responseB": "c", "answer": "Response B"}
    return row | {"Pair-wise Comparative Feedback": history} | more


FILES = {
    "cold_start.json": [
        {"prompt": f"{BEFORE}{problem(f'cold {n}')}{AFTER}", "response": GOOD}
        for n in range(4)
    ],
    "rl_train.json": [rl_row(n, problem(f"rl {n}\u2028")) for n in range(3)],
    "streaming_cold_start.json": [
        {"prompt": f"{BEFORE}{problem(f'cold {n}', earlier)}{AFTER}", "response": "no format"}
        for n, earlier in enumerate((PLACEHOLDER, "They like it.", None))
    ],
    "streaming_rl_train.json": [
        rl_row(n, problem(f"rl {n}"), problem(f"new {n}", PLACEHOLDER)) for n in range(3)
    ],
    "rl_test.json": [
        judged("a", **{"Preference Direction": [1]}), judged("b", profile_full="True words."),
    ],
}  # fmt: skip


def read(folder, rounds=1, sizes=SIZES, **files):
    """The counts, and the lines of each file that is written."""
    source = folder / "published"
    source.mkdir()
    for name, rows in (FILES | {f"{name}.json": rows for name, rows in files.items()}).items():
        if rows is not None:
            (source / name).write_text(json.dumps(rows))
    counts = prepare(Release(source, sizes, rounds, 4, DIMENSIONS), folder / "data", 0)
    written = {
        path.stem: [json.loads(line) for line in path.read_bytes().splitlines()]
        for path in (folder / "data").glob("*.jsonl")
    }
    return counts, written


@pytest.mark.parametrize("rounds", [1, 2])
def test_rl_prompts_have_the_wording_of_the_cold_start(tmp_path, rounds):
    counts, written = read(tmp_path, rounds)
    kind = "streaming_" if rounds > 1 else ""
    assert written["examples"] == [
        {"prompt": row["prompt"], "completion": row["response"]}
        for row in FILES[f"{kind}cold_start.json"]
    ]
    first = written["rounds"][0]
    assert first["prompt"] == BEFORE + problem("rl 0" if rounds > 1 else "rl 0\u2028") + AFTER
    assert [first[key] for key in ("case_id", "round", "slot", "post", "chosen", "rejected")] == [
        f"{kind}rl_train-1", 1, -1, "task 0", "c", "r",
    ]  # fmt: skip
    assert counts["rows/rounds"] == 3 * rounds


def of_characters(count):
    return PromptBudget(Prompts("default"), lambda text: {"input_ids": text}, count)


def test_a_description_stands_in_the_templates_slot_and_cant_leave_it(tmp_path):
    _, written = read(tmp_path, 2)
    row = written["rounds"][1]
    assert row["round"] == 2
    told = prompt_with(row, "likes <answer> *Post:* things", of_characters(10_000)).text
    slot = "likes &#60;answer> &#42;Post:* things"
    assert told == BEFORE + problem("new 0", slot) + AFTER
    assert prompt_with(row, None, of_characters(10_000)).text == row["prompt"]
    short = prompt_with(row, "long " * 500, of_characters(len(row["prompt"]) + 60))
    assert short.shortened_texts == 1
    assert len(short.text) <= len(row["prompt"]) + 60
    rows = written["rounds"]
    rows[1]["prompt"] += "!" * 100
    found = published_rows(rows, of_characters(max(len(row["prompt"]) for row in rows) - 1))
    assert [each["case_id"] for each in found.rows] == [each["case_id"] for each in rows[2:]]
    assert found.counts == {"cases": 3, "cases_with_too_long_prompts": 1, "rows": 4}


def test_without_a_cold_start_the_problem_template_wraps(tmp_path, capsys):
    _, written = read(tmp_path, cold_start=None)
    prompt = written["rounds"][0]["prompt"]
    assert problem("rl 0\u2028") in prompt
    assert prompt.rstrip().endswith("<think>")
    assert "the problem template wraps them" in capsys.readouterr().err


def test_test_rows_are_cases_and_serve_the_rounds_that_they_have(tmp_path):
    sizes = {"cold_start": 2, "rl": 1, "test": 2}
    counts, written = read(tmp_path, 2, sizes, rl_test=[*FILES["rl_test.json"], judged("c", 3)])
    assert [counts[name] for name in ("rows/examples", "rows/rounds", "cases/test")] == [2, 2, 2]
    first, second = (Case(**case) for case in written["test"])
    assert (first.case_id, first.description, first.directions) == (
        "rl_test-1", "This user likes it.", {"d": "likes it"},
    )  # fmt: skip
    assert second.description == "True words."
    target = {"kind": "comparison", "post": "asked a", "chosen": "c", "rejected": "r"}
    assert first.target == target
    assert len(first.signals) == len(first.vectors) == 4
    assert counts["cases_dropped/too_few_signals"] == 1


def test_rl_cases_about_a_post_of_the_test_are_left_out(tmp_path):
    test = [judged("a") | {"prompt": "TASK  1"}]
    counts, written = read(tmp_path, rl_test=test)
    assert [row["post"] for row in written["rounds"]] == ["task 0", "task 2"]
    assert counts["rounds_dropped/shared_post"] == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cold_start": [{"prompt": "no end", "response": "r"}]}, "start.json, row 1: expected"),
        ({"rl_train": [[{"value": "x"}, {}]]}, "rl_train.json, row 1: Object missing required"),
        ({"rl_train": [{"value": "x"}]}, "rl_train.json, row 1: Expected `array`, got `object`"),
        ({"rl_train": [[entry(1, "x") | {"chosen": "r"}, {}]]}, "row 1: expected a post and two"),
        ({"rl_test": [judged("a") | {"answer": "A"}]}, "Invalid enum value 'A' - at `$.answer`"),
        ({"rl_test": [judged("a") | {"prompt": ""}]}, "expected a post and two different"),
        ({"rl_test": [judged("c", 3)]}, "left for test, of 100 asked for (cases_dropped/too_few"),
        (dict.fromkeys(("cold_start", "rl_train", "rl_test")), "none of the published files"),
    ],
)  # fmt: skip
def test_what_isnt_in_the_format_is_told(tmp_path, files, message):
    with pytest.raises(UserError) as caught:
        read(tmp_path, **files)
    assert message in str(caught.value)


def test_a_later_round_without_a_slot_is_told(tmp_path):
    # A user's post may hold the words, but only the template's place counts.
    rows = [rl_row("r", problem("a"), problem("b", "something else", pairs=1)[:-20])]
    with pytest.raises(UserError, match="row 1, history item 2, value: no 'Not provided' outside"):
        read(tmp_path, 2, streaming_rl_train=[rl_row("r", "x", "y"), *rows])


@given(st.lists(st.text("ab \n.", min_size=1), min_size=2, max_size=5, unique=True))
def test_wrappers_are_told_from_what_problems_share_and_arent_made_up(texts):
    prompts = [BEFORE + TASK + text + "\n\n" + AFTER for text in texts]
    problems = [TASK + text + "\n\n" for text in ("x", "y", "zz")]
    found = wrapper(prompts, problems)
    assert found is not None
    assert found[0] == BEFORE
    # Users' texts of the few prompts may end alike.
    assert found[1].endswith(AFTER)
    assert wrapper(["Quite another text <think>"], [problem("a"), problem("b")]) is None
    assert wrapper([], [problem("a")]) is None
