"""What an evaluation makes of its configuration."""

from pathlib import Path

import pytest

from alignxplore_trl.evaluation.kept import KeptAnswers
from alignxplore_trl.evaluation.methods import MethodSetting
from alignxplore_trl.launch.config import EvaluateConfig, read_values
from alignxplore_trl.launch.entry import resolve
from alignxplore_trl.launch.evaluation import Methods, compared_pairs
from alignxplore_trl.run.errors import Problems, UserError
from alignxplore_trl.text.rendering import PromptSet


def test_a_pair_of_which_one_was_not_evaluated_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    here, there = MethodSetting("here", "base4"), MethodSetting("there", "base4")
    texts = ["here/base4 - there/base4", "there/base4 - absent/base4", "no/base4 - nor/base4"]
    assert compared_pairs(texts, {here: [], there: []}) == [(here, there)]
    told = "left out of comparisons, since they weren't evaluated: absent/base4\n"
    assert capsys.readouterr().err == told


def test_a_server_that_is_out_is_found_before_any_method_writes(tmp_path: Path) -> None:
    told = [
        "language_model=server",
        "language_model.tokenizer=assets/backbone",
        "language_model.server.urls=[http://127.0.0.1:9/v1]",
        "evaluation.methods=[backbone,prompted_reasoning]",
    ]
    problems = Problems()
    config = read_values(EvaluateConfig, resolve("evaluate", "evaluate", told), problems)
    assert config is not None, problems.found
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/v1"):
        Methods(config, PromptSet("compact"), KeptAnswers(tmp_path / "answers.sqlite"))
