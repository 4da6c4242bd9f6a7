"""Answers that are kept: found again, never mixed up, and never made of nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignxplore_trl.baselines.language_model import Conversation, question
from alignxplore_trl.evaluation.kept import (
    KeptAnswers,
    KeptCompletions,
    KeptGenerator,
    KeptJudge,
    KeptLanguageModel,
)
from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.judging.generator import Continuation
from alignxplore_trl.judging.measurements import Measurements
from alignxplore_trl.judging.protocol import Verdict
from alignxplore_trl.judging.written import Written
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.rendering import Question

ROOT = Path(__file__).parents[2]


class LengthJudge:
    """Prefers the longer response; silent about equal ones."""

    def __init__(self) -> None:
        self.asked: list[Question] = []

    def judge(self, questions: Sequence[Question]) -> list[Verdict | None]:
        self.asked += questions
        return [
            None
            if len(each.response_a) == len(each.response_b)
            else Verdict(len(each.response_a) / len(each.response_a + each.response_b), 0.9)
            for each in questions
        ]

    def take_measurements(self) -> Measurements:
        return Measurements()


class LengthGenerator:
    def __init__(self) -> None:
        self.asked: list[Continuation] = []

    def log_probabilities(self, rows: Sequence[Continuation]) -> list[tuple[float, ...] | None]:
        self.asked += rows
        return [None if not row.response else (-0.1 * len(row.response), -1 / 3) for row in rows]

    def take_measurements(self) -> Measurements:
        return Measurements()


questions = st.lists(
    st.builds(Question, st.text(max_size=3), st.none() | st.text(max_size=3),
              st.text("ab", max_size=3), st.text("ab", max_size=3)),
    max_size=12,
)  # fmt: skip


@given(st.lists(questions, min_size=1, max_size=3))
def test_verdicts_are_those_of_the_judge_and_each_is_asked_for_once(tmp_path_factory, batches):
    path = tmp_path_factory.mktemp("kept") / "answers.sqlite"
    judge, plain = LengthJudge(), LengthJudge()
    for batch in batches:
        kept = KeptJudge(judge, KeptAnswers(path), "length")
        assert kept.judge(batch) == plain.judge(batch)
    answered = [each for each in judge.asked if len(each.response_a) != len(each.response_b)]
    assert len(set(answered)) == len(answered)
    assert set(judge.asked) == {each for batch in batches for each in batch}


def test_another_judge_or_a_missing_answer_is_asked_again(tmp_path):
    answers = KeptAnswers(tmp_path / "answers.sqlite")
    judge = LengthJudge()
    even, clear = Question("x", None, "a", "b"), Question("x", "", "aa", "b")
    for identity in ("one", "one", "other"):
        assert KeptJudge(judge, answers, identity).judge([even, clear])[0] is None
    assert judge.asked == [even, clear, even, even, clear]
    assert None not in KeptJudge(judge, answers, "one").judge([clear])
    without, with_empty = Question("x", None, "aa", "b"), Question("x", "", "aa", "b")
    KeptJudge(judge, answers, "one").judge([with_empty, without])
    assert judge.asked[-1] == without, "no description isn't an empty one"


def test_log_probabilities_come_back_exactly(tmp_path):
    generator = LengthGenerator()
    rows = [
        Continuation("x", None, "abc"),
        Continuation("x", "d", "abc"),
        Continuation("x", "", ""),
    ]
    for _ in range(2):
        kept = KeptGenerator(generator, KeptAnswers(tmp_path / "answers.sqlite"), "length")
        assert kept.log_probabilities(rows) == LengthGenerator().log_probabilities(rows)
    assert generator.asked == [*rows, rows[2]]


class NumberedAnswers:
    """Answers with the number of the conversation it was asked about; silent about "quiet"."""

    chat = True

    def __init__(self, killed_at: int | None = None) -> None:
        self.unanswered: Counter[str] = Counter()
        self.asked: list[Conversation] = []
        self.seeds: list[int] = []
        self._killed_at = killed_at

    def count_tokens(self, text: str) -> int:
        return len(text)

    def answer(
        self, conversations: Sequence[Conversation], *, temperature: float, seed: int
    ) -> list[Written | None]:
        first = len(self.asked)
        self.seeds.append(seed)
        if first == self._killed_at:
            raise KeyboardInterrupt
        self.asked += conversations
        return [
            None if own == question("quiet") else Written(str(first + place), None, "stop", 1, 1)
            for place, own in enumerate(conversations)
        ]


def test_equal_conversations_get_answers_of_their_own_that_are_kept(tmp_path):
    model = NumberedAnswers()
    hello, quiet = question("hello"), question("quiet")

    def texts(seed=0, temperature=1.0, identity="model"):
        kept = KeptLanguageModel(model, KeptAnswers(tmp_path / "answers.sqlite"), identity)
        answers = kept.answer([hello, quiet, hello], temperature=temperature, seed=seed)
        return [answer and answer.text for answer in answers]

    assert texts() == ["0", None, "2"]
    assert texts() == ["0", None, "2"]
    assert model.asked[3:] == [quiet], "no answer isn't kept"
    for different in ({"seed": 1}, {"temperature": 0.0}, {"identity": "other"}):
        assert not {*texts(**different)} & {"0", "2"}


def test_of_many_conversations_those_answered_before_a_kill_are_kept(tmp_path):
    many = [question(f"number {number % 590}") for number in range(600)]
    undisturbed, killed = NumberedAnswers(), NumberedAnswers(killed_at=512)

    def ask(model):
        kept = KeptLanguageModel(model, KeptAnswers(tmp_path / "answers.sqlite"), "model")
        return [answer.text for answer in kept.answer(many, temperature=1.0, seed=3)]

    with pytest.raises(KeyboardInterrupt):
        ask(killed)
    texts = ask(undisturbed)
    assert undisturbed.asked == many[512:]
    assert texts[:512] == [str(number) for number in range(512)]
    assert texts[512:] == [str(number) for number in range(88)]
    assert killed.seeds == [3, 4, 5], "a sampler would repeat itself"


@pytest.fixture
def describer(random_model, tokenizer, prompts):
    return Describer(
        random_model,
        tokenizer,
        prompts,
        sampling=SamplingSettings(max_new_tokens=4),
        max_prompt_tokens=40,
        batch_size=3,
    )


class CountedDescriber:
    def __init__(self, describer, batches=None):
        self.describer, self.left, self.asked = describer, batches, []
        self.max_prompt_tokens = describer.max_prompt_tokens
        self.batch_size = describer.batch_size
        self.prompt, self.read = describer.prompt, describer.read
        self.count_tokens = describer.count_tokens

    def complete(self, prompts, seed):
        if self.left is not None and len(self.asked) == self.left:
            raise KeyboardInterrupt
        self.asked.append(list(prompts))
        return self.describer.complete(prompts, seed)


def test_an_interrupted_model_goes_on_at_the_batch_where_it_was(tmp_path, describer):
    prompts = [f"post {'now ' * (number % 4)}{number}" for number in range(8)]
    whole = KeptCompletions(describer, KeptAnswers(tmp_path / "whole"), "a", 1).complete(prompts, 5)
    broken = CountedDescriber(describer, batches=1)
    with pytest.raises(KeyboardInterrupt):
        KeptCompletions(broken, KeptAnswers(tmp_path / "answers"), "a", 1).complete(prompts, 5)
    rest = CountedDescriber(describer)
    resumed = KeptCompletions(rest, KeptAnswers(tmp_path / "answers"), "a", 1).complete(prompts, 5)
    assert (len(broken.asked), len(rest.asked)) == (1, 2)
    assert resumed == whole
    assert all(each.seconds is not None and each.seconds > 0 for each in resumed)
    assert [each.tokens for each in whole] == [4] * 8
    again = CountedDescriber(describer)
    kept = KeptCompletions(again, KeptAnswers(tmp_path / "answers"), "a", 1)
    assert kept.complete(prompts, 5) == whole
    assert again.asked == []
    assert kept.complete(prompts, 6) != whole
    assert len(again.asked) == 3


def test_a_part_that_holds_all_prompts_is_what_the_model_writes_alone(tmp_path, describer):
    prompts = [f"post {'now ' * (number % 4)}{number}" for number in range(8)]
    kept = KeptCompletions(describer, KeptAnswers(tmp_path / "answers"), "a")
    assert kept.complete(prompts, 5) == describer.complete(prompts, 5)


def test_a_damaged_file_is_told(tmp_path):
    path = tmp_path / "answers.sqlite"
    path.write_text("no database, but a text that is long enough to be taken for one" * 20)
    with pytest.raises(UserError, match="not the cache of evaluations"):
        KeptAnswers(path)


_SCRIPT = """
import json, sys
from accelerate import PartialState
PartialState(cpu=True)
from tests.evaluation.test_kept import LengthJudge
from alignxplore_trl.evaluation.kept import KeptAnswers, KeptJudge
from alignxplore_trl.text.rendering import Question
judge = LengthJudge()
kept = KeptJudge(judge, KeptAnswers(sys.argv[1]), "length")
questions = [Question("x", None, "a" * (n % 7), "b" * (n % 5)) for n in range(60)]
verdicts = [kept.judge(questions[:40]), kept.judge(questions)]
rank = PartialState().process_index
with open(f"{sys.argv[1]}.{rank}", "w") as file:
    found = [[own and own.probability_a for own in each] for each in verdicts]
    json.dump([len(judge.asked), found], file)
"""


@pytest.mark.slow
def test_two_processes_share_the_work_and_agree(tmp_path):
    path = tmp_path / "answers"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file",
              "conf/launch/accelerate/cpu2.yaml"]  # fmt: skip
    script = tmp_path / "ask.py"
    script.write_text(_SCRIPT)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    subprocess.run([*launch, str(script), str(path)], cwd=ROOT, env=environment, check=True)
    first, second = (json.loads(Path(f"{path}.{rank}").read_text()) for rank in (0, 1))
    assert first[1] == second[1]
    expected = LengthJudge().judge(
        [Question("x", None, "a" * (n % 7), "b" * (n % 5)) for n in range(60)]
    )
    assert first[1][1] == [own and own.probability_a for own in expected]
    assert 0 < first[0] < 60
    assert 0 < second[0] < 60
