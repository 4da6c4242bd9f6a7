"""P-SOUPS: the file's own pairs stay, both directions are known, targets are clusters."""

import json
from collections import Counter

import pytest
from pydantic import ValidationError

from alignxplore_trl.cases import Comparison
from alignxplore_trl.data.psoups import PSoups
from alignxplore_trl.data.robustness import opposites_of, vary
from alignxplore_trl.run.errors import UserError

PAIRS = "Pair-wise Comparative Feedback"


def pair(post):
    return {"prompt": post, "chosen": f"{post}: yes, long", "rejected": f"{post}: no"}


def rows(count=6):
    """Rows of two directions: both have the same posts, with the other reply chosen."""
    found = []
    for direction in ("be plain.", "be expert."):
        for number in range(count):
            own = [pair(f"post {(number + n) % count}") for n in (1, 1, 2, 3)]
            row = pair(f"post {number}") | {"ground_truth_persona": direction, PAIRS: own}
            if direction == "be expert.":
                for each in (row, *own):
                    each["chosen"], each["rejected"] = each["rejected"], each["chosen"]
            found.append(row)
    return found


def read(folder, content, rounds=1, signals=4, size=100, names=("psoups_expertise",), seed=0):
    for name in names:
        (folder / f"{name}.json").write_text(json.dumps(content))
    counts = Counter()
    path = folder if len(names) > 1 else folder / f"{names[0]}.json"
    return PSoups(str(path), {"test": size}, rounds, signals).cases(counts, seed)["test"], counts


def test_the_files_own_pairs_are_the_history_as_they_stand(tmp_path):
    content = rows()
    content[0][PAIRS].insert(0, pair("post 0"))  # The target pair itself.
    cases, counts = read(tmp_path, content)
    own = [tuple(Comparison(*each.values()) for each in row[PAIRS]) for row in rows()]
    by_id = {case.case_id: case for case in cases}
    assert [by_id[f"psoups-expertise-{n}"].signals for n in range(1, 13)] == own
    assert (counts["signals_dropped/target_pair"], counts["signals_drawn"]) == (1, 0)


def test_what_more_is_needed_is_drawn_of_the_same_direction_about_other_posts(tmp_path):
    cases, counts = read(tmp_path, rows(9), rounds=2)
    assert counts["signals_drawn"] == 4 * len(cases) == 72
    directions = {"be plain.": "yes", "be expert.": "no"}
    for case in cases:
        assert all(directions[case.description] in signal.chosen for signal in case.signals)
        drawn = [signal.post for signal in case.signals[4:]]
        others = {case.target.post, *(signal.post for signal in case.signals[:4])}
        assert len({*drawn, *others}) == len(drawn) + len(others)
    assert cases == read(tmp_path, rows(9), rounds=2)[0]
    assert cases != read(tmp_path, rows(9), rounds=2, seed=1)[0]


def test_dimensions_and_directions_take_turns_and_targets_are_clusters(tmp_path):
    cases, _ = read(tmp_path, rows(), size=12, names=("expertise", "style"))
    assert len({(case.user_id, *case.directions.items()) for case in cases[:4]}) == 4
    assert len(cases) == 12
    assert len({case.cluster for case in cases}) == 6
    varied = vary(cases[0], "reversed", 0, opposites_of(cases))
    assert (cases[0].description, varied.description) == ("be plain.", "be expert.")


def test_what_isnt_in_the_format_is_told(tmp_path):
    with pytest.raises(UserError, match="expertise, ground_truth_persona: 1 descriptions found"):
        read(tmp_path, rows()[:6])
    with pytest.raises(UserError, match="row 1: Object missing required field"):
        read(tmp_path, [pair("a") | {"ground_truth_persona": "x"}])
    with pytest.raises(UserError, match="no case is left for test"):
        read(tmp_path, rows(), signals=50)
    with pytest.raises(ValidationError, match="Input should be 'test'"):
        PSoups(str(tmp_path), {"rl": 3}, 1, 4)
