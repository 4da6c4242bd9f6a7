import json

import pytest

from alignxplore_trl.training.earlier import EarlierDescriptions, Rollout


def well_formed(description):
    return f" seen </think> <answer> {description} </answer>"


def rollouts(*entries, round_number=1):
    return [Rollout(case_id, round_number, completion) for case_id, completion in entries]


def test_a_case_gets_one_of_its_own_well_formed_descriptions():
    earlier = EarlierDescriptions(seed=0)
    earlier.record(
        0,
        rollouts(
            ("a", well_formed("from a")),
            ("b", well_formed("from b, first")),
            ("b", " never closed"),
            ("a", "<answer> only an answer </answer>"),
            ("b", well_formed("from b, second")),
            ("c", " never closed"),
        ),
    )
    assert earlier.before("a", 2) == "from a"
    assert earlier.before("b", 2) in {"from b, first", "from b, second"}
    assert earlier.before("c", 2) is None
    assert earlier.before("anyone", 1) is None


def test_the_draw_depends_on_seed_epoch_case_and_round_and_reaches_every_rollout():
    drawn = {}
    for seed in range(3):
        for epoch in range(3):
            for round_number in (1, 2):
                earlier = EarlierDescriptions(seed)
                group = [(case, well_formed(str(n))) for case in "abcd" for n in range(4)]
                earlier.record(epoch, rollouts(*group, round_number=round_number))
                for case in "abcd":
                    key = (seed, epoch, round_number, case)
                    drawn[key] = earlier.before(case, round_number + 1)
    assert set(drawn.values()) == {"0", "1", "2", "3"}
    for position in range(4):
        others = {}
        for key, description in drawn.items():
            others.setdefault(key[:position] + key[position + 1 :], set()).add(description)
        assert any(len(descriptions) > 1 for descriptions in others.values())


def test_a_saved_state_gives_the_same_descriptions(tmp_path):
    earlier = EarlierDescriptions(seed=0)
    earlier.record(0, rollouts(("a", well_formed("ümlaut \ud800 “quoted”")), ("b", "broken")))
    earlier.save(tmp_path / "checkpoint-1")
    restored = EarlierDescriptions(seed=0)
    restored.load(tmp_path / "checkpoint-1")
    assert restored.before("a", 2) == earlier.before("a", 2) == "ümlaut \ud800 “quoted”"
    assert restored.before("b", 2) is None


def test_a_round_that_does_not_follow_the_last_batch_is_an_error(tmp_path):
    earlier = EarlierDescriptions(seed=0)
    with pytest.raises(RuntimeError, match="round 2, but the last generation batch was round 0"):
        earlier.before("a", 2)
    earlier.record(0, rollouts(("a", well_formed("x"))))
    with pytest.raises(RuntimeError, match="case b"):
        earlier.before("b", 2)
    with pytest.raises(RuntimeError, match="round 3"):
        earlier.before("a", 3)


def test_a_batch_of_two_rounds_is_an_error():
    mixed = rollouts(("a", "x")) + rollouts(("b", "x"), round_number=2)
    with pytest.raises(RuntimeError, match=r"rounds \[1, 2\], expected one"):
        EarlierDescriptions(seed=0).record(0, mixed)


def test_the_state_is_plain_json(tmp_path):
    earlier = EarlierDescriptions(seed=0)
    earlier.record(0, rollouts(("a", well_formed("x"))))
    earlier.save(tmp_path)
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text()) == {"round": 1, "drawn": {"a": "x"}}
