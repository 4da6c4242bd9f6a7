"""The shipped teacher in real vLLM on the CPU: how often it is right, and what an outage leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from alignxplore_trl.data.world import World
from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.inference.language_models import ServerLanguageModel
from alignxplore_trl.judging.client import ServerSettings
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.written import Written, completion_of
from alignxplore_trl.launch.config import Serve
from alignxplore_trl.launch.serving import VllmServer
from alignxplore_trl.rewards.judged import JudgedReward
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import PreferenceCase
from alignxplore_trl.synthesis.answers import TeacherAnswers
from alignxplore_trl.synthesis.asking import GIVE_UP_AFTER, Asking, Spending
from alignxplore_trl.synthesis.candidates import (
    Candidate,
    PromptBudget,
    Synthesis,
    SynthesisSettings,
)
from alignxplore_trl.synthesis.selection import keep_verified
from alignxplore_trl.synthesis.teachers import (
    TEACHING,
    LocalTeacher,
    ServerTeacher,
    Teacher,
)
from alignxplore_trl.synthesis.verification import Verifier
from alignxplore_trl.text.parsing import Inference, parse_completion
from alignxplore_trl.text.rendering import PromptSet
from alignxplore_trl.training.outage import OutageSettings
from tests.vllm_on_cpu import ROOT, served_on_cpu

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
TEACHER = ROOT / "assets" / "teacher"
JUDGE = ROOT / "assets" / "judge"
TOKENIZER = AutoTokenizer.from_pretrained(TEACHER)
SAMPLING = SamplingSettings(max_new_tokens=96, temperature=0.9, top_p=0.95, top_k=10)
MAX_PROMPT_TOKENS = 320
USERS = 96
# The first candidates of a user are looked at in groups; the others say how often it succeeds.
GROUPS = (1, 2, 4, 8)
GROUP_NAMES = tuple(f"G = {group}" for group in GROUPS)
OTHERS = 16
LOCAL_SAMPLES = 16
MEASURES = ("accepted", *(f"one of {group} accepted" for group in GROUPS[1:]), "words")
RESAMPLES = 20_000
LEVEL = 0.999


@dataclass(frozen=True)
class Comparison:
    """Two measurements of the same users, and how far their means may lie apart by chance.

    The server's samples are others in each run, and 95 % for each row would fail now and then: the
    intervals hold together instead, so that chance leaves any of them in at most 0.1 % of runs. (In
    12,000 simulated runs with such users it did in 0.03 %.)
    """

    names: tuple[str, ...]
    found: np.ndarray
    expected: np.ndarray
    half_widths: np.ndarray

    @property
    def agrees(self) -> bool:
        """Whether 0 lies in each interval of the difference."""
        return bool(np.all(np.abs(self.found - self.expected) <= self.half_widths))

    def __str__(self) -> str:
        rows = zip(self.names, self.found, self.expected, self.half_widths, strict=True)
        return "\n".join(
            f"{name}: found {found:.3f}, expected {expected:.3f}, "
            f"difference {found - expected:+.3f} ± {width:.3f}"
            for name, found, expected, width in rows
        )


def compare(
    names: Sequence[str], found: np.ndarray, expected: np.ndarray, least_errors: np.ndarray | float
) -> Comparison:
    """Compare columns of users (rows) with those of the same users, all columns at once.

    A user's columns hang together, and so do the two measurements, for a difficult user is so in
    both; so users are drawn with replacement, each with all its differences. The largest of a
    resample's studentised deviations, at its quantile `LEVEL`, makes all intervals.

    Args:
        names: of the columns.
        found: a number for each user and column.
        expected: the same without error, or with one that has mean 0.
        least_errors: what the standard errors of the differences are at least.
    """
    differences = found - expected
    users = len(differences)
    errors = differences.std(axis=0, ddof=1) / np.sqrt(users)
    weights = np.random.default_rng(0).multinomial(users, np.full(users, 1 / users), RESAMPLES)
    deviations = np.abs(weights @ differences / users - differences.mean(axis=0)) / errors
    factor = np.quantile(deviations.max(axis=1), LEVEL)
    widths = factor * np.maximum(errors, least_errors)
    return Comparison(tuple(names), found.mean(axis=0), expected.mean(axis=0), widths)


def compare_groups(names: Sequence[str], found: np.ndarray, expected: np.ndarray) -> Comparison:
    """Compare what came of each user's group (0 or 1) with its estimated chance.

    Where nearly all groups hold an accepted one, the few that might not may all be lucky at once,
    and the spread of the differences is then far too small. So the error is at least that of a
    share of users with these chances.
    """
    spread = np.maximum(expected * (1 - expected), 0).mean(axis=0)
    return compare(names, found, expected, np.sqrt(spread / len(found)))


def at_least_one(accepted: int, samples: int, group: int) -> float:
    """Estimates 1 - (1 - p)^G of `accepted` among `samples`, without bias.

    It is the share of all groups of G of these samples that hold an accepted one. The plug-in
    1 - (1 - accepted / samples)^G is too small on average: (1 - p)^G is convex in p, so by Jensen's
    inequality its mean over estimates of p exceeds its value at p, for G > 1.
    """
    return 1 - comb(samples - accepted, group) / comb(samples, group)


def estimated(accepted: np.ndarray) -> np.ndarray:
    """For each user and group size, the chance of an accepted one; of 0 and 1 per user, sample."""
    samples = accepted.shape[1]
    counts = accepted.sum(axis=1).astype(int).tolist()
    return np.array([[at_least_one(own, samples, group) for group in GROUPS] for own in counts])


def observed(accepted: np.ndarray) -> np.ndarray:
    """For each user and group size, whether one of the first so many samples is accepted."""
    return np.stack([accepted[:, :group].max(axis=1) for group in GROUPS], axis=1)


@dataclass(frozen=True)
class Workshop:
    """What every synthesis here needs besides a teacher."""

    prompts: PromptSet
    judge: LocalJudge
    budget: PromptBudget

    def synthesis(
        self, teacher: Teacher, answers: TeacherAnswers, candidates: int, seed: int = 0
    ) -> Synthesis:
        return Synthesis(
            Asking(teacher, answers, Spending(None)),
            Verifier(JudgedReward(self.judge, "random", 0), "the shipped judge", answers),
            self.prompts,
            student=self.budget,
            teacher=self.budget,
            settings=SynthesisSettings(
                candidates=candidates,
                per_round=4,
                rounds=1,
                earlier="well_formed",
                guidance="known",
                most_dimensions=8,
                budget=None,
                outage=OutageSettings(0.0, "abort", 1.0, 1.0),
                seed=seed,
            ),
        )


@dataclass(frozen=True)
class Served:
    """What came of asking the server for all candidates of all users."""

    candidates: list[Candidate]
    counts: Counter[str]
    path: Path

    @property
    def accepted(self) -> np.ndarray:
        return rewards(self.candidates)


@pytest.fixture(scope="module")
def cases() -> list[PreferenceCase]:
    return World(seed=3).cases("cold_start", USERS)


@pytest.fixture(scope="module")
def workshop(prompts: PromptSet) -> Workshop:
    judge = LocalJudge.from_folder(JUDGE, prompts, dtype="float32", max_batch_tokens=8192)
    return Workshop(prompts, judge, PromptBudget(count_tokens, MAX_PROMPT_TOKENS))


@pytest.fixture(scope="module")
def serve() -> Serve:
    return served_on_cpu(TEACHER, "teacher")


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with VllmServer(serve, 0, tmp_path_factory.mktemp("server")) as server:
        server.wait_until_healthy()
        yield server


@pytest.fixture(scope="module")
def served(
    server: VllmServer,
    workshop: Workshop,
    cases: list[PreferenceCase],
    tmp_path_factory: pytest.TempPathFactory,
) -> Served:
    path = tmp_path_factory.mktemp("answers") / "answers.sqlite"
    teacher = server_teacher(server)
    teacher.check()
    synthesis = workshop.synthesis(teacher, TeacherAnswers(path), GROUPS[-1] + OTHERS)
    synthesis.run(cases)
    return Served(synthesis.candidates, synthesis.asking.counts, path)


def count_tokens(text: str) -> int:
    return len(TOKENIZER(text)["input_ids"])


def server_teacher(server: VllmServer, **changes: float) -> ServerTeacher:
    usual = ServerSettings(
        (server.url,), "teacher", concurrency=32, request_timeout=60.0, deadline=300.0,
        role=TEACHING,
    )  # fmt: skip
    settings = replace(usual, **changes)  # type: ignore[arg-type]
    served = ServerLanguageModel(settings, SAMPLING, count_tokens, chat=False, body={})
    return ServerTeacher(served, "teacher")


def local_teacher(prompts: PromptSet, sampling: SamplingSettings) -> LocalTeacher:
    describer = Describer.from_folder(
        TEACHER,
        prompts,
        dtype="float32",
        sampling=sampling,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        batch_size=128,
    )
    return LocalTeacher(describer, "the shipped teacher", seed=0)


def rewards(candidates: Sequence[Candidate]) -> np.ndarray:
    """Rewards by user and number."""
    users = len({candidate.case_id for candidate in candidates})
    return np.array([float(each.reward or 0) for each in candidates]).reshape(users, -1)


def words(candidates: Sequence[Candidate]) -> np.ndarray:
    """Words of completions by user and number; tokens are counted with or without the end."""
    users = len({candidate.case_id for candidate in candidates})
    return np.array([len((c.completion or "").split()) for c in candidates]).reshape(users, -1)


def test_the_estimator_of_at_least_one_has_no_bias_and_the_plug_in_one_has() -> None:
    samples = 24
    for chance in (0.05, 0.3, 0.8):
        weights = [
            comb(samples, k) * chance**k * (1 - chance) ** (samples - k) for k in range(samples + 1)
        ]
        for group in GROUPS:
            true = 1 - (1 - chance) ** group
            unbiased = [at_least_one(k, samples, group) for k in range(samples + 1)]
            plug_in = [1 - (1 - k / samples) ** group for k in range(samples + 1)]
            assert np.dot(weights, unbiased) == pytest.approx(true, abs=1e-12)
            assert group == 1 or np.dot(weights, plug_in) < true - 1e-6


IN_VLLM = """
import json
import sys
from dataclasses import asdict
from pathlib import Path

from alignxplore_trl.synthesis.teachers import Ask, VllmTeacher
from alignxplore_trl.inference.describing import SamplingSettings
from alignxplore_trl.inference.language_models import VllmLanguageModel


def main(source: str, said: Path) -> None:
    asked = json.load(sys.stdin)
    asks = [Ask(str(place), 1, 0, prompt) for place, prompt in enumerate(asked["prompts"])]
    left = list(asks)
    model = VllmLanguageModel(
        source,
        SamplingSettings(**asked["sampling"]),
        seed=0,
        chat=False,
        engine={"dtype": "float32", "enforce_eager": True},
    )
    teacher = VllmTeacher(model, "the shipped teacher", seed=0, batch_size=2)
    kept = []
    batches = list(teacher.write(lambda: left.pop(0) if left else None, kept.append, 0))
    assert kept == batches
    arrived = [[[ask.case_id, asdict(written)] for ask, written in batch] for batch in batches]
    tokens = [teacher.count_tokens(ask.prompt) for ask in asks]
    said.write_text(json.dumps({"arrived": arrived, "tokens": tokens}))


main(sys.argv[1], Path(sys.argv[2]))
"""


def test_vllm_in_the_process_writes_in_batches_what_the_parser_reads(
    serve: Serve, workshop: Workshop, cases: list[PreferenceCase], tmp_path: Path
) -> None:
    """In vLLM's own environment, and before the server takes the processor that both would use."""
    prompts = [
        workshop.prompts.teacher(case.signals[:4], None, tuple(case.directions or ()))
        for case in cases[:3]
    ]
    said = write_in_vllm(serve, prompts, tmp_path)
    batches = said["arrived"]
    assert [len(batch) for batch in batches] == [2, 1]
    arrived = [each for batch in batches for each in batch]
    assert [place for place, _ in arrived] == ["0", "1", "2"]
    assert said["tokens"] == [count_tokens(prompt) for prompt in prompts]
    for (_, values), tokens in zip(arrived, said["tokens"], strict=True):
        written = Written(**values)
        assert isinstance(parse_completion(completion_of(written, chat=False)), Inference), written
        assert (written.finish_reason, written.reasoning) == ("stop", None)
        assert written.prompt_tokens == tokens
        # The token that ends it counts, too.
        assert written.completion_tokens in range(5, SAMPLING.max_new_tokens + 1)
        assert written.completion_tokens == pytest.approx(count_tokens(written.text) + 1, abs=3)


def write_in_vllm(serve: Serve, prompts: Sequence[str], folder: Path) -> dict[str, list]:
    """What arrived in each batch, and the tokens of each prompt."""
    program, said = folder / "in_vllm.py", folder / "said.json"
    program.write_text(IN_VLLM)
    asked = {"prompts": prompts, "sampling": vars(SAMPLING)}
    ran = subprocess.run(
        [str(serve.python), str(program), str(TEACHER), str(said)],
        input=json.dumps(asked),
        # In one process instead of three, each of which takes long to import vLLM.
        env={
            **os.environ,
            **serve.environment,
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "PYTHONPATH": str(ROOT / "src"),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    found: dict[str, list] = json.loads(said.read_text())
    return found


def test_users_with_a_verified_candidate_are_as_many_as_single_samples_let_expect(
    served: Served,
) -> None:
    accepted = served.accepted
    first, others = accepted[:, : GROUPS[-1]], accepted[:, GROUPS[-1] :]
    found = compare_groups(GROUP_NAMES, observed(first), estimated(others))
    assert found.agrees, f"\n{found}"
    assert np.all(found.half_widths < 0.3), f"\n{found}"
    assert 0.2 < others.mean() < 0.9, f"\n{found}"


def test_the_comparison_rejects_a_teacher_that_repeats_itself(served: Served) -> None:
    """More candidates that are the same text are worth no more than one."""
    accepted = served.accepted
    repeated = np.repeat(accepted[:, :1], GROUPS[-1], axis=1)
    found = compare_groups(GROUP_NAMES, observed(repeated), estimated(accepted[:, GROUPS[-1] :]))
    assert not found.agrees, f"\n{found}"


def test_the_comparison_rejects_four_times_the_candidates(served: Served) -> None:
    accepted = served.accepted
    first, others = accepted[:, : GROUPS[-1]], accepted[:, GROUPS[-1] :]
    names = ("4 as 1", "8 as 2")
    found = compare_groups(names, observed(first)[:, 2:], estimated(others)[:, :2])
    assert not found.agrees, f"\n{found}"


def test_every_answer_of_the_server_says_how_it_ended_and_how_long_it_is(served: Served) -> None:
    for candidate in served.candidates:
        written = candidate.answer
        assert isinstance(written, Written)
        assert written.finish_reason in ("stop", "length")
        assert 0 < written.completion_tokens <= SAMPLING.max_new_tokens
        assert 0 < written.prompt_tokens <= MAX_PROMPT_TOKENS + 1
        assert written.reasoning is None
    assert served.counts == Counter(asked=USERS * (GROUPS[-1] + OTHERS))


def test_the_same_answers_again_come_from_the_cache_and_nothing_is_asked(
    served: Served, workshop: Workshop, cases: list[PreferenceCase], server: VllmServer
) -> None:
    nowhere = server_teacher(server)
    nowhere.write = None  # type: ignore[assignment, method-assign]
    again = workshop.synthesis(nowhere, TeacherAnswers(served.path), GROUPS[-1] + OTHERS)
    again.run(cases)
    assert again.asking.counts == Counter(cached=len(served.candidates))
    assert again.candidates == served.candidates


def test_the_local_teacher_and_the_server_sample_from_the_same_distribution(
    served: Served, workshop: Workshop, cases: list[PreferenceCase], tmp_path: Path
) -> None:
    """As many samples of each, so that the differences are symmetric about 0."""
    some = [candidate for candidate in served.candidates if candidate.number < LOCAL_SAMPLES]
    local = measure_local(SAMPLING, LOCAL_SAMPLES, workshop, cases, tmp_path)
    found = compare(MEASURES, measures(some), local, 0.0)
    assert found.agrees, f"\n{found}"
    cool = replace(SAMPLING, temperature=0.3)
    narrow = measure_local(cool, GROUPS[-1], workshop, cases, tmp_path)
    other = compare(MEASURES, measures(some), narrow, 0.0)
    assert not other.agrees, f"another temperature is not told apart\n{other}"


def measure_local(
    sampling: SamplingSettings,
    samples: int,
    workshop: Workshop,
    cases: list[PreferenceCase],
    folder: Path,
) -> np.ndarray:
    """What the teacher in this process comes to."""
    teacher = local_teacher(workshop.prompts, sampling)
    answers = TeacherAnswers(folder / f"{sampling.temperature}.sqlite")
    synthesis = workshop.synthesis(teacher, answers, samples)
    synthesis.run(cases)
    return measures(synthesis.candidates)


def measures(candidates: Sequence[Candidate]) -> np.ndarray:
    """For each user: the share accepted, one among G accepted, and the mean number of words."""
    means = words(candidates).mean(axis=1)
    return np.column_stack([estimated(rewards(candidates)), means])


def test_a_server_killed_in_the_middle_keeps_what_it_answered_and_the_rest_is_asked_later(
    server: VllmServer, workshop: Workshop, cases: list[PreferenceCase], tmp_path: Path
) -> None:
    """The last test of the server: it leaves another one in its place."""
    some, number = cases[:24], 8
    total = len(some) * number
    answers = TeacherAnswers(tmp_path / "answers.sqlite")
    hasty = {"max_retries": 1, "first_wait": 0.05, "longest_wait": 0.1, "concurrency": 8}
    broken = workshop.synthesis(server_teacher(server, **hasty), answers, number)
    kill = threading.Thread(target=kill_after, args=(server, broken.asking, 40))
    kill.start()
    with pytest.raises(UserError, match="what was answered is kept") as error_info:
        broken.run(some)
    kill.join()
    server.stop()
    before = broken.asking.counts["asked"]
    assert 40 <= before < total - GIVE_UP_AFTER
    assert "unanswered/connection" in str(error_info.value)
    with VllmServer(server.serve, 0, server.folder) as again:
        again.wait_until_healthy()
        whole = workshop.synthesis(server_teacher(again), TeacherAnswers(answers.path), number)
        whole.run(some)
    check_that_it_is_whole(whole, before, total)


def kill_after(server: VllmServer, asking: Asking, answers: int) -> None:
    """Kill the server and what it started, once so many answers are there."""
    give_up = time.monotonic() + 120
    while asking.counts["asked"] < answers and time.monotonic() < give_up:
        time.sleep(0.005)
    os.killpg(server.process.pid, signal.SIGKILL)


def check_that_it_is_whole(synthesis: Synthesis, before: int, total: int) -> None:
    """Everything is there, of which so much was not asked for again, and only what is verified."""
    counts = synthesis.asking.counts
    assert counts == Counter(cached=before, asked=total - before)
    assert len({candidate.place for candidate in synthesis.candidates}) == total
    assert all(isinstance(candidate.answer, Written) for candidate in synthesis.candidates)
    marked = keep_verified(synthesis.candidates, keep=None, rule="first", mix=None, seed=0)
    kept = [candidate for candidate in marked if candidate.kept]
    assert kept
    assert all(candidate.reward == 1 and (candidate.score or 0) > 0.5 for candidate in kept)
    assert len(kept) == sum(candidate.reward == 1 for candidate in synthesis.candidates)
