"""Published files: prompts as they are, descriptions in the template's slot, rows kept apart."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignxplore_trl.data.alignx import Dimension
from alignxplore_trl.data.release import (
    PLACEHOLDER,
    PublishedPrompts,
    published_examples,
    published_rounds,
    read_examples,
    read_release,
    read_rounds,
    read_test,
    write_release,
)
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.rendering import PromptSet

FIXTURES = Path(__file__).parents[1] / "fixtures/release"
SIZES = {"cold_start": 100, "rl": 100, "test": 100}


def rows_of(name):
    return json.loads((FIXTURES / name).read_text())


def read(setting="streaming", folder=FIXTURES, sizes=SIZES, signals=8):
    rounds = 2 if setting == "streaming" else 1
    return read_release(folder, setting, rounds, signals, sizes, [])


def write(folder, rows, name="rl_train.json"):
    path = folder / name
    path.write_text(json.dumps(rows))
    return path


def items(pairs):
    return "".join(
        f"{number}. *Post:*\n{post}\n\n*Chosen:*\n{chosen}\n\n*Rejected:*\n{rejected}\n\n"
        for number, (post, chosen, rejected) in enumerate(pairs, 1)
    )


def entry(value, **changes):
    pair = {"task": "t", "chosen": "c", "rejected": "r", "responseA": "r", "responseB": "c",
            "answer": "Response B"}  # fmt: skip
    return {"value": value, **pair, **changes}


def streaming_row(first, second):
    truth = {"from": "assistant", "ground_truth": {"value": "Response B"}}
    return [{"from": "human", "history": [entry(first), entry(second)]}, truth]


@pytest.mark.parametrize("setting", ["base", "streaming"])
def test_cold_start_prompts_and_responses_are_used_as_they_are(setting):
    name = {"base": "cold_start.json", "streaming": "streaming_cold_start.json"}[setting]
    expected = [{"prompt": row["prompt"], "completion": row["response"]} for row in rows_of(name)]
    assert read(setting).examples == expected


def test_responses_that_the_parser_would_refuse_are_counted_and_kept(tmp_path):
    rows = [{"prompt": "p<think>", "response": text}
            for text in (" r </think> <answer> d </answer>", " r </think> d")]  # fmt: skip
    write(tmp_path, rows, "cold_start.json")
    release = read("base", tmp_path)
    assert release.counts["examples_of_another_format"] == 1
    assert len(release.examples) == 2
    assert read("base").counts["examples_of_another_format"] == 0


def test_rl_rows_of_the_base_setting_are_one_round_each():
    for row, published in zip(rows_of("rl_train.json"), read("base").rounds, strict=True):
        first = row[0]
        assert (published.problem, published.round, published.slot) == (first["value"], 1, -1)
        assert published.post == first["task"]
        wins = {"Response A": "responseA", "Response B": "responseB"}[first["answer"]]
        assert published.chosen == first[wins]


def test_the_description_goes_where_the_template_has_its_placeholder():
    rows = rows_of("streaming_rl_train.json")
    later = [published for published in read().rounds if published.round == 2]
    shared = [row[0]["history"][1]["value"].count(PLACEHOLDER) for row in rows]
    assert sorted(set(shared)) == [1, 2]  # In one row a post consists of these words.
    for row, published in zip(rows, later, strict=True):
        value = row[0]["history"][1]["value"]
        filled = published.with_description("likes short replies")
        assert filled.endswith("Known so far: likes short replies\n")
        assert filled.count(PLACEHOLDER) == value.count(PLACEHOLDER) - 1
        assert published.with_description(None) == value


texts = st.lists(
    st.sampled_from([PLACEHOLDER, "yes", "no", "\n\n", "2. *Post:*", "*Chosen:*", " ", "Slot: "]),
    min_size=1, max_size=5,
).map("".join).filter(str.strip)  # fmt: skip
histories = st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=4)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(histories, min_size=3, max_size=6),
    st.sampled_from(["head", "tail"]),
    st.text(alphabet="ab :Post\n", max_size=12),
)
def test_no_text_of_a_user_is_taken_for_the_slot(tmp_path_factory, per_row, place, description):
    head = f"Known: {PLACEHOLDER}\n\n" if place == "head" else "Known: see below.\n\n"
    tail = f"Slot: {PLACEHOLDER}.\n" if place == "tail" else "Now write.\n"
    values = [head + items(pairs) + tail for pairs in per_row]
    rows = [streaming_row("first\n\n" + items([("p", "c", "r")]), value) for value in values]
    path = write(tmp_path_factory.mktemp("release"), rows)
    later = [row for row in read_rounds(path, 2, Counter()) if row.round == 2]
    for published, pairs in zip(later, per_row, strict=True):
        before, after = (text.replace(PLACEHOLDER, description) for text in (head, tail))
        assert published.with_description(description) == before + items(pairs) + after


def test_a_description_cannot_pass_for_a_signal():
    published = read().rounds[1]
    filled = published.with_description("likes tea 5. *Post:* buy *Chosen:* this")
    assert "&#42;Post:*" in filled
    for marker in ("*Post:*", "*Chosen:*"):
        assert filled.count(marker) == published.problem.count(marker)


def test_a_row_whose_template_lacks_the_placeholder_is_named(tmp_path):
    good = "Say.\n\n" + items([("p", "c", "r")]) + f"Known: {PLACEHOLDER}\n"
    bad = "Say.\n\n" + items([(PLACEHOLDER, "c", "r")]) + "Known:\n"
    none = "Say.\n\n" + items([("p", "c", "r")]) + "Known:\n"
    path = write(tmp_path, [streaming_row("x", value) for value in (good, good, bad, none)])
    with pytest.raises(UserError) as error:
        read_rounds(path, 2, Counter())
    wrong = [problem.split(":")[0] for problem in error.value.problems]
    assert wrong == [f"{path}, row 4, history item 2, value", f"{path}, row 3, history item 2"]


def test_all_mistakes_of_rl_rows_come_at_once(tmp_path):
    truth = {"from": "assistant", "ground_truth": {"value": "Response A"}}
    rows = [
        [entry("v", answer="A"), truth],
        [entry("v", answer="Response A"), truth],
        [entry("v", task=None), truth],
        {"value": "v"},
    ]
    with pytest.raises(UserError) as error:
        read_rounds(write(tmp_path, rows), 1, Counter())
    text = str(error.value)
    for message in (
        'row 1, answer: "A" found, expected Response A or Response B',
        'row 2, answer: "Response A" found, but that response isn\'t the chosen one',
        "row 3, task: null found, expected a text",
        'row 3, ground_truth: "Response A" found, expected the answer of the first turn',
        'row 4: {"value": "v"} found, expected a list of two turns',
    ):
        assert message in text


def test_test_rows_that_share_a_post_stay_two_cases():
    rows = rows_of("rl_test.json")
    counts = Counter()
    cases = read_test(FIXTURES / "rl_test.json", 4, [], counts)
    assert cases[0].target.post == cases[1].target.post
    assert cases[0].target != cases[1].target
    assert len({case.case_id for case in cases}) == len(cases) == len(rows)
    for case, row in zip(cases, rows, strict=True):
        wins = {"Response A": "responseA", "Response B": "responseB"}[row["answer"]]
        assert case.target.chosen == row[wins]
        assert [signal.chosen for signal in case.signals] == [
            item["chosen"] for item in row["Pair-wise Comparative Feedback"]
        ]
        assert case.description == (row["profile_full"] or None)


def test_test_rows_with_too_few_pairs_are_counted():
    release = read()
    assert len(release.cases) == release.counts["cases/test"] == 5
    assert release.counts["cases_dropped/too_few_signals"] == 1


def test_a_direction_vector_gives_a_description_where_there_is_none(tmp_path):
    row = rows_of("rl_test.json")[2] | {"Preference Direction": [1, 0.5, 0]}
    path = write(tmp_path, [row], "rl_test.json")
    traits = [Dimension(name, f"likes {name}", f"dislikes {name}") for name in ("a", "b", "c")]
    (case,) = read_test(path, 1, traits, Counter())
    assert case.directions == {"a": "likes a", "c": "dislikes c"}
    assert case.description == "This user likes a; dislikes c."
    with pytest.raises(UserError, match=r"Preference Direction: 3 numbers found, expected 2"):
        read_test(path, 1, traits[:2], Counter())


def test_a_target_in_its_own_history_is_refused(tmp_path):
    row = rows_of("rl_test.json")[0]
    shown = {"prompt": row["prompt"], "chosen": row["responseB"], "rejected": row["responseA"]}
    row["Pair-wise Comparative Feedback"].append(shown)
    with pytest.raises(UserError, match=r"row 1, .*the target pair stands in its own history"):
        read_test(write(tmp_path, [row], "rl_test.json"), 4, [], Counter())


def test_a_prompt_that_does_not_open_the_reasoning_is_refused(tmp_path):
    path = write(tmp_path, [{"prompt": "What now?", "response": "r"}], "cold_start.json")
    with pytest.raises(UserError, match=r'row 1, prompt: its end "What now\?" found, expected'):
        read_examples(path)


def test_what_is_written_is_read_back(tmp_path):
    for setting in ("base", "streaming"):
        release = read(setting)
        write_release(tmp_path, release)
        assert published_examples(tmp_path) == release.examples
        assert published_rounds(tmp_path) == release.rounds


def test_sizes_cut_rows_with_all_their_rounds():
    release = read(sizes={"cold_start": 3, "rl": 2, "test": 1})
    assert [len(release.examples), len(release.rounds), len(release.cases)] == [3, 4, 1]
    assert release.counts["cases/rl"] == 2


def test_files_that_are_not_there_are_left_out_and_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "rl_test.json").write_text((FIXTURES / "rl_test.json").read_text())
    release = read(folder=tmp_path)
    assert (release.examples, release.rounds) == ([], [])
    with pytest.raises(UserError, match=r"has nothing to use in cold_start\.json"):
        read_release(tmp_path / "nowhere", "base", 1, 8, SIZES, [])


def test_posts_that_are_trained_and_tested_on_are_counted(tmp_path):
    rows = rows_of("rl_train.json")
    rows[0][0]["task"] = rows_of("rl_test.json")[0]["prompt"].upper()
    write(tmp_path, rows)
    write(tmp_path, rows_of("rl_test.json"), "rl_test.json")
    assert read("base", tmp_path).counts["test_cases_whose_post_is_in_rl"] == 2
    assert read("base").counts["test_cases_whose_post_is_in_rl"] == 0


def test_prompts_hold_the_whole_problem_and_keep_the_budget():
    prompts = PublishedPrompts(PromptSet("compact"), lambda text: len(text.split()), 80)
    release = read()
    data = prompts.rows(release.rounds, release.examples)
    assert data.counts == {"cases": 20, "cases_with_too_long_prompts": 0, "rows": 40,
                           "cold_start_prompts_worded_alike": 24}  # fmt: skip
    for row, published in zip(data.rows, release.rounds, strict=True):
        assert row.prompt == f"{published.problem}<think>"
    row = asdict(data.rows[1])
    filled = prompts.with_earlier(row, "word " * 100)
    assert len(filled.text.split()) <= 80
    assert filled.shortened_texts == 1
    assert filled.text.endswith("\n<think>")
    assert PLACEHOLDER not in filled.text


def test_a_case_with_a_prompt_above_the_budget_is_left_out_whole():
    release = read()
    lengths = [len(row.problem.split()) for row in release.rounds]
    prompts = PublishedPrompts(
        PromptSet("compact"), lambda text: len(text.split()), sorted(lengths)[-3]
    )
    data = prompts.rows(release.rounds, [])
    assert 0 < data.counts["cases_with_too_long_prompts"] < 20
    per_case = Counter(row.case_id for row in data.rows)
    assert set(per_case.values()) == {2}
    assert len(per_case) == 20 - data.counts["cases_with_too_long_prompts"]


def test_the_cold_start_may_be_worded_otherwise_than_rl():
    prompts = PublishedPrompts(PromptSet("default"), len, 100_000)
    release = read()
    assert prompts.rows([], release.examples).counts["cold_start_prompts_worded_alike"] == 0
    worded = prompts.prompts.problem("some problem")
    assert "answer" in worded
    assert worded.startswith("some problem")
    assert worded.endswith("<think>")
    alike = prompts.rows([], [{"prompt": worded, "completion": "c"}])
    assert alike.counts["cold_start_prompts_worded_alike"] == 1


def test_anonymised_prompts_keep_their_slot(tmp_path):
    secret = "ada@example.com"
    first, second = rows_of("streaming_rl_train.json")[:2]
    for row in (first, second):
        later = row[0]["history"][1]
        later["value"] = later["value"].replace("*Post:*\n", f"*Post:*\n{secret} ", 1)
    write(tmp_path, [first, second], "streaming_rl_train.json")
    example = rows_of("streaming_cold_start.json")[0]
    prompt = example["prompt"].replace("*Post:*\n", f"*Post:*\n{secret} ", 1)
    write(tmp_path, [example | {"prompt": prompt}], "streaming_cold_start.json")
    test = rows_of("rl_test.json")[0]
    write(tmp_path, [test | {"prompt": f"{test['prompt']} {secret}"}], "rl_test.json")

    release = read_release(tmp_path, "streaming", 2, 8, SIZES, [], anonymise=True)
    assert secret not in repr(release)
    assert release.counts["anonymised/email_addresses"] == 4
    for row in release.rounds:
        if row.round == 2:
            assert "[e-mail address] " in row.problem
            assert row.problem[row.slot :].startswith(PLACEHOLDER)
            assert "so far: brief" in row.with_description("brief")


def test_a_direction_that_is_none_is_refused(tmp_path):
    row = rows_of("rl_test.json")[0] | {"Preference Direction": [0.7]}
    path = write(tmp_path, [row], "rl_test.json")
    with pytest.raises(UserError, match=r"row 1, Preference Direction: 0\.7 found"):
        read_test(path, 8, [Dimension("d", "is", "isn't")], Counter())
