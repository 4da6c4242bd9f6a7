"""Rewards by TRL's contract: formulas, what isn't scored, and processes that end together."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from torch import distributed

from alignxplore_trl.judging.protocol import Question, Verdict
from alignxplore_trl.rewards import GeneratedReward, JudgedReward, LogProbabilityReward
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.completions import Inference, format_completion

CHOSEN = "long answer"


def completion(description: str) -> str:
    return format_completion(Inference("because", description))


def columns(count: int) -> dict[str, list[Any]]:
    return {
        "case_id": [f"case {n}" for n in range(count)],
        "post": ["post"] * count,
        "chosen": [CHOSEN] * count,
        "rejected": ["short"] * count,
    }


class Scripted:
    """A judge that reads the chosen reply's probability from the description, or has no answer."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.asked: list[Question] = []

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        self.asked += questions
        return [self._verdict(own) for own in questions]

    def _verdict(self, question: Question) -> Verdict | None:
        said = str(question.description)
        if said == "fails":
            raise ConnectionError("no route")
        if said in ("timeout", "unreadable"):
            self.counts[said] += 1
            return None
        value = float(said)
        return Verdict(value if question.response_a == CHOSEN else 1 - value, 1.0)


class Generator:
    """log p(reply | prompt): a number for each word of the description that the reply has."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def log_probabilities(
        self, prompts: Sequence[str], replies: Sequence[str]
    ) -> list[float | None]:
        self.asked += zip(prompts, replies, strict=True)
        return [
            None if "silent" in prompt else (-9.0 if reply == CHOSEN else -3.0)
            + 2.0 * sum(word in prompt for word in reply.split())
            for prompt, reply in zip(prompts, replies, strict=True)
        ]  # fmt: skip


TEXTS = [completion("0.8"), completion("0.5"), completion("0.3"), " no tags", completion("timeout")]


@pytest.mark.parametrize(
    ("score", "expected"),
    [("win", [1.0, 0.0, 0.0, 0.0, None]), ("probability", [0.8, 0.5, 0.3, 0.0, None])],
)
def test_a_judged_reward_is_the_win_or_the_probability(score: Any, expected: list[Any]) -> None:
    """A tie is no win; a malformed completion is 0 and is asked about nowhere."""
    metrics: dict[str, float] = {}
    extra: dict[str, list[Any]] = {}
    judge = Scripted()
    reward = JudgedReward(judge, "random", 0, score)
    found = reward(
        completions=TEXTS,
        **columns(5),
        prompts=["?"] * 5,
        completion_ids=[[1]] * 5,
        trainer_state=None,
        log_metric=metrics.__setitem__,
        log_extra=extra.__setitem__,
    )
    assert found == pytest.approx(expected)
    assert len(judge.asked) == 4
    assert extra["format"] == ["well_formed"] * 3 + ["think_not_closed", "well_formed"]
    assert extra["probability_of_chosen"] == pytest.approx([0.8, 0.5, 0.3, None, None])
    assert metrics["format/well_formed"] == pytest.approx(4 / 5)
    assert metrics["format/think_not_closed"] == pytest.approx(1 / 5)
    assert metrics["reward/not_scored"] == pytest.approx(1 / 4), "of the well-formed completions"
    assert metrics["reward/probability_of_chosen"] == pytest.approx(1.6 / 3)
    assert reward.__name__ == "judged"


def test_generated_and_log_probability_rewards_are_their_formulas() -> None:
    """The chosen reply is less probable throughout: only the gain of a description can tell it."""
    texts = [completion(own) for own in ("long answer", "short", "neither", "silent")]
    generator = Generator()
    generated = GeneratedReward(generator, "compact")(completions=texts, **columns(4))
    assert generated == [1.0, 0.0, 0.0, None]
    raw = LogProbabilityReward(generator, "compact")(completions=texts, **columns(4))
    assert raw == [0.0, 0.0, 0.0, None]


def test_what_no_rollout_changes_is_asked_for_once() -> None:
    texts = [completion(own) for own in ("long answer", "short", "neither")]
    generator = Generator()
    given = columns(3) | {"case_id": ["one case"] * 3}
    assert GeneratedReward(generator, "compact")(completions=texts, **given) == [1.0, 0.0, 0.0]
    assert len(generator.asked) == 6 + 2


def outage(count: int, unscored: int, why: str, **settings: Any) -> list[float | None]:
    texts = [completion(why if n < unscored else "0.9") for n in range(count)]
    reward = JudgedReward(Scripted(), "random", 0, outage_share=0.2, outage_least=8, **settings)
    return reward(completions=texts + [" no tags"] * 100, **columns(count + 100))


def test_an_outage_is_a_share_and_a_least_number() -> None:
    assert outage(4, 1, "timeout").count(None) == 1, "one of four well-formed is no outage"
    assert outage(7, 7, "timeout").count(None) == 7
    assert outage(64, 12, "timeout").count(None) == 12
    with pytest.raises(UserError, match=r"13 of 64 .* not scored: \{'timeout': 13\}"):
        outage(64, 13, "timeout")


def test_an_answer_that_cannot_be_read_is_no_outage_but_is_said(capsys: Any) -> None:
    assert outage(64, 60, "unreadable").count(None) == 60
    assert "60 of 64 well-formed completions were not scored" in capsys.readouterr().err


def _in_a_process(rank: int, folder: str, kind: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}
    distributed.init_process_group("gloo", f"file://{folder}/{kind}", rank=rank, world_size=2)
    PartialState._reset_state()
    said = {
        "error": ["fails", "0.9"][rank],
        "outage": ["timeout", "0.9"][rank],
        "none": "0.9",
    }[kind]
    PartialState(cpu=True)
    reward = JudgedReward(Scripted(), "random", 0, outage_least=8)
    try:
        found = str(reward(completions=[completion(said)] * 10, **columns(10))[0])
    except (UserError, ConnectionError) as error:
        found = f"{type(error).__name__}: {error}"
    Path(folder, f"{kind}-{rank}").write_text(found)
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("error", ["ConnectionError: no route", "UserError: another process failed"]),
        ("outage", ["UserError: 10 of 20 well-formed"] * 2),
        ("none", ["1.0"] * 2),
    ],
)
def test_processes_end_together(kind: str, expected: list[str], tmp_path: Path) -> None:
    """An error of one is raised on all, and an outage is one of all."""
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_in_a_process, args=(n, str(tmp_path), kind)) for n in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for rank, words in enumerate(expected):
        assert (tmp_path / f"{kind}-{rank}").read_text().startswith(words)
