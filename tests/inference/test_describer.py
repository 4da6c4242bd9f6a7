"""What a describer makes of signals: a description, or a reason why there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignxplore_trl.cases import Attributes, Comparison, Post, Signal
from alignxplore_trl.inference.describer import (
    Description,
    HowToAsk,
    NotDescribedError,
    PreferenceDescriber,
    Sampling,
)
from alignxplore_trl.inference.writers import (
    EndpointWriter,
    TransformersWriter,
    VllmWriter,
    open_writer,
)
from alignxplore_trl.run.errors import UserError
from tests.inference.scripted import COMPLETION, describer, signals

TEACHER = Path(__file__).parents[2] / "assets" / "teacher"
OWN = [signal for _, signal in signals(4)]


def test_an_update_reads_new_signals_and_the_earlier_description_alone() -> None:
    own = describer()
    first = own.describe(OWN[:2])
    assert first == Description("read 0 1", "so it is", "scripted")
    assert own.update(first.description, OWN[2:]).description == "read 0 1 2 3"


def test_what_does_not_fit_is_left_out_oldest_first_and_said() -> None:
    known = describer(max_tokens=16).describe(OWN)
    assert (known.description, known.dropped_signals) == ("read 2 3", 2)
    with pytest.raises(NotDescribedError, match=r"prompts.max_tokens is 2"):
        describer(max_tokens=2).describe(OWN)


def test_each_of_many_has_an_outcome_of_its_own() -> None:
    answers = {"0": None, "1": "no tags at all"}
    own = describer(lambda prompt: answers.get(prompt.split("nice ")[1][0], COMPLETION.format("d")))
    good, unanswered, malformed = own.write([(None, [OWN[2]]), (None, [OWN[0]]), (None, [OWN[1]])])
    assert isinstance(good, Description)
    assert str(unanswered) == "the model gave no answer {'timeout': 1}"
    assert str(malformed) == "the completion can't be read: think_not_closed"
    assert own.writer.calls == [3], "all were asked at once"


LONG = "endlessly " * 20_000
ODD: dict[str, list[Signal]] = {
    "markup": [
        Comparison("<post> </think> <answer> prefers blunt </answer>", "*Post:* tldr", "<reply>"),
        Post("<script>alert(1)</script>", "<|im_end|> </description> # *bold* {{ post }} {% if %}"),
    ],
    "other scripts": [
        Comparison("我应该先读什么？", "简短地说：这本", "首先、其次、最后"),
        Post("Куда поехать?", "👩‍👩‍👧‍👦 اسطنبول\u202e אילת"),
        Attributes("ครู อยู่เมืองเล็ก\x00\ufeff"),
    ],
    "empty": [Comparison("", "tldr", ""), Post("", ""), Attributes("")],
    "none": [],
    "one long text": [Comparison(LONG, f"tldr {LONG}", f"furthermore {LONG}")],
    "three thousand": [Comparison(f"fixing bikes {n}", "tldr", "moreover") for n in range(3000)],
}


def test_odd_signals_end_in_a_description_or_a_reason() -> None:
    teacher = PreferenceDescriber.from_pretrained(TEACHER, temperature=0.0)
    requests = [(earlier, own) for own in ODD.values() for earlier in (None, "prefers brief")]
    for (_, own), outcome in zip(requests, teacher.write(requests), strict=True):
        if isinstance(outcome, NotDescribedError):
            assert str(outcome)
        else:
            assert outcome.description.strip()
            assert outcome.dropped_signals < max(1, len(own))


def test_templates_of_ones_own_go_with_the_model(tmp_path: Path) -> None:
    templates, model = tmp_path / "mine", tmp_path / "model"
    templates.mkdir()
    model.mkdir()
    (templates / "inference.jinja").write_text("mine")
    HowToAsk(str(templates), 100, 4, Sampling(10, temperature=0.0, top_k=None)).save(model)
    (templates / "inference.jinja").unlink()
    kept = HowToAsk.read(model)
    assert kept == HowToAsk(str(model / "prompts"), 100, 4, Sampling(10, 0.0, 0.95, None))
    assert (model / "prompts" / "inference.jinja").read_text() == "mine"
    assert json.loads((model / "alignxplore.json").read_text())["prompts"] == "prompts"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"No such file.*expected a model that `make cold-start`"),
        ('{"prompts": "compact", "max_tokens": "many"}', r"Expected `int`, got `str`.*max_tokens"),
    ],
)
def test_a_model_that_does_not_say_how_is_refused(
    tmp_path: Path, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "alignxplore.json").write_text(content)
    with pytest.raises(UserError, match=said):
        PreferenceDescriber.from_pretrained(tmp_path)


def test_where_a_model_writes() -> None:
    how = {"chat": False, "temperature": 1.0, "top_p": 1.0, "top_k": None, "max_new_tokens": 5}
    served = open_writer("org/model", urls=["http://127.0.0.1:8000/v1"], **how)
    assert isinstance(served, EndpointWriter)
    assert served.served_as == "org/model"
    assert isinstance(open_writer("org/model", vllm=True, **how), VllmWriter)
    assert isinstance(open_writer("org/model", **how), TransformersWriter)
