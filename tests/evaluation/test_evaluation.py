"""An evaluation from cases to figures, with models of a few lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from alignxplore_trl.baselines.controls import AnotherUsers, Golden, LongerReply, Null, Signals
from alignxplore_trl.baselines.protocol import Method, Setting
from alignxplore_trl.cases import Case
from alignxplore_trl.evaluation.benchmarks import Benchmark
from alignxplore_trl.evaluation.figures import make_figures, summarise, table_of
from alignxplore_trl.evaluation.kept import Table, differences
from alignxplore_trl.evaluation.methods import Policy, describe_all, descriptions_table
from alignxplore_trl.evaluation.scoring import score, verdicts_table
from alignxplore_trl.rewards import GeneratedReward, JudgedReward
from tests.evaluation.doubles import ScriptedWriter, WordJudge, make_case

CASES = [make_case(n, direction="detailed" if n % 3 else "brief") for n in range(12)]
STREAMING = Setting(4, 2)


def benchmark(cases: list[Case] = CASES, variation: str = "") -> Benchmark:
    return Benchmark("world", cases, variation, 0)


def policy(script: Callable[[str], str | None], **settings: object) -> Policy:
    writer = partial(ScriptedWriter, script=script)
    return Policy(writer, "default", 4000, model="assets/backbone", **settings)  # type: ignore[arg-type]


def is_second(prompt: str) -> bool:
    return re.search(r"prefers (brief|detailed)", prompt) is not None


def honest(prompt: str) -> str:
    """States the direction of the newest signal, after a mistake in the first round."""
    direction = re.findall(r"(brief|detailed) \d", prompt)[0]
    stated = direction if is_second(prompt) else f"{direction}, playful"
    return f" I see. </think> <answer> prefers {stated} </answer>"


def run(
    folder: Path,
    methods: Mapping[str, Method],
    judges: Mapping[str, WordJudge],
    cases: list[Case] = CASES,
    settings: tuple[Setting, ...] = (STREAMING,),
    pairs: tuple[str, ...] = (),
) -> pd.DataFrame:
    benchmarks = [benchmark(cases)]
    table, verdicts = descriptions_table(folder), verdicts_table(folder)
    benchmarks[0].keep(folder / "cases")
    describe_all(methods, benchmarks, settings, table)
    rows = table.rows[table.rows.method.isin(methods)]
    for name, judge in judges.items():
        score("acc_jud", name, JudgedReward(judge, "both", 0), rows, benchmarks, verdicts)
    return make_figures(folder, pairs)


def value(figures: pd.DataFrame, metric: str, method: str, setting: str = "streaming4+4") -> float:
    own = figures[(figures.metric == metric) & (figures.dimension == "")]
    [found] = own[(own.method == method) & (own.setting == setting)].value
    return float(found)


def test_rounds_have_names_of_their_own_and_costs_are_measured(tmp_path: Path) -> None:
    figures = run(tmp_path, {"rl": policy(honest)}, {"judge": WordJudge()})

    assert set(figures.setting) == {"streaming4+4@1", "streaming4+4"}
    assert value(figures, "acc_jud", "rl") == 1.0
    assert value(figures, "precision", "rl", "streaming4+4@1") == 0.5
    assert value(figures, "precision", "rl") == value(figures, "recall", "rl") == 1.0
    for setting in set(figures.setting):
        assert value(figures, "seconds", "rl", setting) > 0
        assert value(figures, "tokens", "rl", setting) > 5
    rows = pd.read_parquet(tmp_path / "descriptions.parquet").set_index("setting")
    assert rows.loc["streaming4+4@1"].earlier.isna().all()
    assert rows.loc["streaming4+4"].earlier.str.contains("playful").all()


def test_a_malformed_completion_scores_0_and_erases_nothing(tmp_path: Path) -> None:
    def forgets(prompt: str) -> str:
        return "nothing of use" if is_second(prompt) else honest(prompt)

    figures = run(
        tmp_path, {"rl": policy(forgets)}, {"judge": WordJudge()}, settings=(Setting(2, 3),)
    )

    assert value(figures, "well_formed", "rl", "streaming2+2+2") == 0.0
    assert value(figures, "acc_jud", "rl", "streaming2+2+2") == 0.0
    assert value(figures, "recall", "rl", "streaming2+2+2") == 0.0
    rows = pd.read_parquet(tmp_path / "descriptions.parquet")
    last = rows[rows.setting == "streaming2+2+2"]
    assert last.earlier.str.contains("prefers").all()  # That of round 1, past round 2.
    assert set(last.problem) == {"think_not_closed"}


def test_an_evaluation_makes_only_what_is_not_there(tmp_path: Path) -> None:
    judge, other = WordJudge(), WordJudge()
    rl = policy(honest)
    for _ in range(2):
        run(tmp_path, {"rl": rl, "null": Null(), "no": Null()}, {"judge": judge}, CASES[:5])
        assert len(rl._writer.prompts) == 10  # type: ignore[attr-defined]
        assert len(judge.asked) == len(set(judge.asked)) == 30  # Each distinct question once.

    figures = run(tmp_path, {"rl": rl}, {"judge": judge, "other": other}, CASES[:7])
    assert (len(rl._writer.prompts), len(judge.asked)) == (14, 38)  # type: ignore[attr-defined]
    assert len(other.asked) == 28
    # What isn't asked for this time stays.
    assert set(figures[figures.metric == "acc_jud"].method) == {"rl", "null", "no"}
    assert set(figures[figures.method == "rl"].n) == {7}


def test_no_answer_is_counted_and_asked_for_again(tmp_path: Path) -> None:
    judge = WordJudge()
    judge.silent = {CASES[0].target.post, CASES[1].target.post}

    summary = summarise(run(tmp_path, {"golden": Golden()}, {"judge": judge}))
    assert summary["acc_jud/world/judge/golden/any"] == 1.0
    assert summary["cases/world/judge/golden/any"] == 10
    assert summary["unanswered/world/judge/golden/any"] == 2

    judge.silent = set()
    summary = summarise(run(tmp_path, {"golden": Golden()}, {"judge": judge}))
    assert summary["cases/world/judge/golden/any"] == 12
    assert summary["unanswered/world/judge/golden/any"] == 0


def test_a_case_without_a_completion_is_left_out_until_it_has_one(tmp_path: Path) -> None:
    answers = {"on": False}

    def script(prompt: str) -> str | None:
        return None if "post 3-" in prompt and not answers["on"] else honest(prompt)

    figures = run(tmp_path, {"rl": policy(script)}, {"judge": WordJudge()})
    assert set(figures[figures.metric == "acc_jud"].n) == {11}

    answers["on"] = True
    figures = run(tmp_path, {"rl": policy(script)}, {"judge": WordJudge()})
    assert set(figures[figures.metric == "acc_jud"].n) == {12}


def test_one_policy_is_in_memory_at_a_time(tmp_path: Path) -> None:
    ScriptedWriter.most = ScriptedWriter.loaded = 0

    run(tmp_path, {name: policy(honest) for name in "abc"}, {"judge": WordJudge()})

    assert ScriptedWriter.most == 1
    assert ScriptedWriter.loaded == 0


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = {
        "rl": policy(honest, made_by="make rl"),
        "another_users_rl": AnotherUsers("rl"),
        "signals": Signals(),
    }
    cases = [*CASES, make_case(99, signals=3)]

    left_out = describe_all(methods, [benchmark(cases)], [Setting(4)], descriptions_table(tmp_path))

    assert left_out == {
        "rl": "assets/backbone isn't there; make rl makes it",
        "another_users_rl": "rl, whose descriptions it needs, isn't evaluated",
    }
    said = capsys.readouterr().err
    assert "rl is left out" in said
    assert "signals, base4: 1 cases of world have too few signals" in said


def test_controls_read_what_they_should(tmp_path: Path) -> None:
    methods = {
        "null": Null(),
        "golden": Golden(),
        "longer_reply": LongerReply(),
        "signals": Signals(),
        "rl": policy(honest),
        "another_users_rl": AnotherUsers("rl"),
        "another_users_golden": AnotherUsers("golden"),
    }
    judges = {"judge": WordJudge(), "test": WordJudge()}

    figures = run(tmp_path, methods, judges)

    own = figures[figures.judge == "judge"].groupby("method").setting.agg(set).to_dict()
    assert own.pop("signals") == {"base8"}  # The same signals as in rounds, at once.
    assert own.pop("rl") == {"streaming4+4@1", "streaming4+4"}
    assert own.pop("another_users_rl") == {"streaming4+4"}
    free = ["another_users_golden", "golden", "longer_reply", "null"]
    assert own == {name: {"any"} for name in free}
    judged = figures[(figures.metric == "acc_jud") & (figures.dimension == "")]
    of_null = judged[(judged.method == "null") & (judged.judge == "judge")]
    assert of_null.value.tolist() == [0.0]  # A tie is no win.
    # It asks no judge, and stands under each of them.
    longer = judged[judged.method == "longer_reply"].set_index("judge").value
    assert longer["judge"] == longer["test"] == pytest.approx(8 / 12)
    # A third of the users prefers what the others don't.
    assert 0.2 < value(judged[judged.judge == "judge"], "acc_jud", "another_users_rl") < 0.8


def test_figures_are_those_of_the_files(tmp_path: Path) -> None:
    def guesses(prompt: str) -> str:
        direction = "brief" if len(prompt) % 2 else "detailed"
        return f" Hm. </think> <answer> prefers {direction} </answer>"

    methods = {"rl": policy(honest), "backbone": policy(guesses), "null": Null()}
    pairs = ("rl - backbone", "rl/streaming4+4 - backbone/streaming4+4@1", "rl - null", "rl - pba")
    figures = run(tmp_path, methods, {"judge": WordJudge()}, pairs=pairs)

    verdicts = pd.read_parquet(tmp_path / "verdicts.parquet")
    means = verdicts.groupby(["method", "setting"]).correct.mean()
    for (method, setting), mean in means.items():
        assert value(figures, "acc_jud", str(method), str(setting)) == mean
    wide = verdicts.pivot(index="case_id", columns=["method", "setting"], values="correct")
    own = figures[figures.metric == "acc_jud_difference"].set_index("method")
    assert own.index.tolist() == ["rl-backbone", "rl-backbone", "rl-null"]
    first = own[own.setting == "streaming4+4-streaming4+4"].iloc[0]
    expected = stats.ttest_rel(
        wide["rl", "streaming4+4"].astype(float), wide["backbone", "streaming4+4"].astype(float)
    )
    assert first.p == pytest.approx(expected.pvalue)
    assert first.p_holm == pytest.approx(min(1.0, 2 * first.p)) or first.p_holm >= first.p

    summary = summarise(figures)
    key = "world/judge/rl-backbone/streaming4+4-streaming4+4"
    assert summary[f"acc_jud_difference/{key}/p"] == first.p
    assert summary["recall/world/judge/rl/streaming4+4"] == 1.0
    assert summary["acc_jud/world/judge/rl/streaming4+4/low"] < 1.0  # type: ignore[operator]
    assert all(not isinstance(each, dict | list) for each in summary.values())
    assert "streaming4+4@1" in table_of(figures)


def test_accuracy_by_dimension_is_of_the_cases_with_a_direction_there(tmp_path: Path) -> None:
    def brief(prompt: str) -> str:
        return " Yes. </think> <answer> prefers brief </answer>"

    cases = [make_case(n) for n in range(6)]
    cases += [
        make_case(n, direction="detailed", directions={"tone": "detailed"}) for n in range(6, 9)
    ]

    figures = run(tmp_path, {"rl": policy(brief)}, {"judge": WordJudge()}, cases)

    last = figures[(figures.setting == "streaming4+4") & (figures.metric == "acc_jud")]
    by_dimension = last.set_index("dimension")
    assert by_dimension.value.to_dict() == {"": pytest.approx(6 / 9), "length": 1.0, "tone": 0.0}
    assert by_dimension.n.to_dict() == {"": 9, "length": 6, "tone": 3}
    # The truth of the others isn't the world's, and nothing is said of it.
    assert set(figures[figures.metric == "precision"].n) == {6}


def test_acc_gen_asks_for_what_a_description_adds(tmp_path: Path) -> None:
    def log_probabilities(prompts: list[str], replies: list[str]) -> list[float]:
        both = zip(prompts, replies, strict=True)
        return [float(prompt.count(reply.split()[0])) for prompt, reply in both]

    table, verdicts = descriptions_table(tmp_path), verdicts_table(tmp_path)
    methods = {"golden": Golden(), "null": Null(), "longer_reply": LongerReply()}
    describe_all(methods, [benchmark()], [STREAMING], table)
    generator: Any = SimpleNamespace(log_probabilities=log_probabilities)
    reward = GeneratedReward(generator, "default")

    score("acc_gen", "generator", reward, table.rows, [benchmark()], verdicts)

    assert set(verdicts.rows.method) == {"golden"}  # The others have no description to ask about.
    assert verdicts.rows[["correct", "value"]].to_numpy().tolist() == [[1.0, 1.0]] * 12


def test_another_model_under_a_known_name_is_reported(tmp_path: Path) -> None:
    spec = {"_target_": "a.Policy", "model": "outputs/a/rl/model", "writer": {"urls": ["a"]}}
    assert differences(tmp_path, {"methods.rl": spec}) == []

    moved = {**spec, "writer": {"urls": ["b", "c"]}}
    assert differences(tmp_path, {"methods.rl": moved, "methods.null": {}}) == []

    [line] = differences(tmp_path, {"methods.rl": {**spec, "model": "outputs/b/rl/model"}})
    assert "outputs/a/rl/model" in line
    assert "outputs/b/rl/model" in line


def test_a_table_is_whole_or_as_it_was(tmp_path: Path) -> None:
    one, other = ({"benchmark": "b", "method": "m", "setting": "s", "case_id": n} for n in "ab")
    table = Table(tmp_path, "rows", value="Float64")
    table.add([{**one, "value": 1.0}, {**other, "value": None}])
    assert table.lacking(table.rows, "value").case_id.tolist() == ["b"]
    table.add([{**other, "value": 2.0}])

    again = Table(tmp_path, "rows", value="Float64")
    assert again.rows[["case_id", "value"]].to_numpy().tolist() == [["a", 1.0], ["b", 2.0]]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]
