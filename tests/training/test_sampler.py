from collections import Counter
from itertools import chain, pairwise

import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.training.sampler import RoundBlockSampler

shapes = st.fixed_dictionaries(
    {
        "rounds_of_cases": st.lists(st.integers(1, 3), min_size=12, max_size=30),
        "cases_per_block": st.integers(1, 4),
        "generations": st.integers(1, 3),
        "repeats": st.integers(1, 3),
        "seed": st.integers(0, 5),
        "epoch": st.integers(0, 5),
    }
)


def rows_of(rounds_of_cases, shuffled_by=0):
    """Case ids and rounds of the rows of cases with so many rounds each."""
    rows = [
        (f"case {number}", round_number)
        for number, rounds in enumerate(rounds_of_cases)
        for round_number in range(1, rounds + 1)
    ]
    rows = rows[shuffled_by:] + rows[:shuffled_by]
    return [case for case, _ in rows], [round_number for _, round_number in rows]


def make_sampler(shape, shuffled_by=0, **changes):
    values = {**shape, **changes}
    case_ids, rounds = rows_of(values.pop("rounds_of_cases"), shuffled_by)
    epoch = values.pop("epoch")
    sampler = RoundBlockSampler(case_ids, rounds, **values)
    sampler.set_epoch(epoch)
    return sampler, list(zip(case_ids, rounds, strict=True))


def generation_batches(sampler):
    size = sampler.cases_per_block * sampler.generations
    indices = list(sampler)
    assert len(indices) == len(sampler)
    assert len(indices) % (size * sampler.repeats) == 0
    return [indices[start : start + size] for start in range(0, len(indices), size)]


@given(shapes)
def test_a_case_appears_once_per_round_and_its_rounds_follow_each_other(shape):
    sampler, rows = make_sampler(shape)
    batches = generation_batches(sampler)
    repeated = [batches[i : i + sampler.repeats] for i in range(0, len(batches), sampler.repeats)]
    seen = Counter()
    earlier_cases, earlier_round = None, None
    for same in repeated:
        assert all(batch == same[0] for batch in same)
        groups = [
            same[0][i : i + sampler.generations]
            for i in range(0, len(same[0]), sampler.generations)
        ]
        assert all(len(set(group)) == 1 for group in groups)
        cases = [rows[group[0]][0] for group in groups]
        (round_number,) = {rows[group[0]][1] for group in groups}
        if round_number > 1:
            assert (cases, round_number) == (earlier_cases, earlier_round + 1)
        seen.update((case, round_number) for case in cases)
        earlier_cases, earlier_round = cases, round_number
    assert set(seen.values()) == {1}
    trained = {case for case, _ in seen}
    assert set(seen) == {row for row in rows if row[0] in trained}
    counts = sampler.counts
    assert counts.cases == len(trained) + counts.left_out + counts.never_used
    assert counts.generation_batches == len(repeated)


@given(shapes)
def test_only_cases_beyond_whole_blocks_are_left_out(shape):
    sampler, rows = make_sampler(shape)
    trained = {rows[index][0] for index in sampler}
    for rounds, cases in Counter(shape["rounds_of_cases"]).items():
        of_group = [c for c in trained if (c, rounds) in rows and (c, rounds + 1) not in rows]
        assert len(of_group) == cases // sampler.cases_per_block * sampler.cases_per_block


@given(shapes)
def test_the_order_is_a_function_of_seed_and_epoch(shape):
    sampler, _ = make_sampler(shape)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(shape["epoch"] + 1)
    list(sampler)
    sampler.set_epoch(shape["epoch"])
    assert list(sampler) == first
    assert list(make_sampler(shape)[0]) == first


def test_epochs_and_seeds_differ():
    shape = {"rounds_of_cases": [2] * 20, "cases_per_block": 4, "generations": 2, "repeats": 1}
    orders = {
        tuple(make_sampler({**shape, "seed": seed, "epoch": epoch})[0])
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_without_shuffling_cases_keep_their_places():
    shape = {"rounds_of_cases": [1] * 5, "cases_per_block": 2, "generations": 1, "repeats": 1}
    for epoch in range(3):
        sampler, _ = make_sampler({**shape, "seed": 0, "epoch": epoch}, shuffle=False)
        assert list(sampler) == [0, 1, 2, 3]


@given(shapes, st.integers(0, 30))
def test_the_order_of_rounds_does_not_depend_on_the_order_of_rows(shape, shuffled_by):
    sampler, rows = make_sampler(shape, shuffled_by)
    rounds = [rows[batch[0]][1] for batch in generation_batches(sampler)][:: sampler.repeats]
    assert all(after in (1, before + 1) for before, after in pairwise(rounds))


@given(shapes, st.integers(2, 4))
def test_processes_share_a_generation_batch_in_the_order_of_one_process(shape, processes):
    sampler, _ = make_sampler(shape, generations=processes * shape["generations"])
    size = sampler.cases_per_block * sampler.generations
    alone = list(BatchSampler(sampler, size, drop_last=False))
    shards = [
        BatchSamplerShard(BatchSampler(sampler, size // processes, False), processes, process)
        for process in range(processes)
    ]
    together = [list(chain(*parts)) for parts in zip(*shards, strict=True)]
    assert together == alone


def test_fewer_cases_than_a_block_are_refused_with_the_arithmetic():
    with pytest.raises(UserError, match=r"2 with 2 rounds, 3 with 1 round found") as error:
        make_sampler(
            {
                "rounds_of_cases": [2, 2, 1, 1, 1],
                "cases_per_block": 4,
                "generations": 8,
                "repeats": 1,
                "seed": 0,
                "epoch": 0,
            }
        )
    assert "a generation batch of 32 completions" in str(error.value)
    assert "4 cases x 8 generations" in str(error.value)


def test_rounds_that_are_missing_or_double_are_named_all_at_once():
    with pytest.raises(UserError) as error:
        RoundBlockSampler(
            ["a", "a", "b", "b"],
            [1, 3, 1, 1],
            cases_per_block=1,
            generations=1,
            repeats=1,
            seed=0,
        )
    assert error.value.problems == [
        "training data, row 3: case b has round 1 in row 2 already; expected one row per case and "
        "round",
        "training data: case a has rounds [1, 3], expected 1 to 3 without a gap",
    ]
