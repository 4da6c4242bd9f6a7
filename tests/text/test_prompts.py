"""The renderer: a value can't leave its slot, and comes through as it is otherwise."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from alignxplore_trl.cases import Attributes, Comparison, Post
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.completions import FormatProblem, parse_completion
from alignxplore_trl.text.prompts import EXAMPLES, Prompts

STARRED = {
    "inference": "User: {% for signal in signals %}\n*Kind:*\n{{ signal.kind }}\n"
    "*Post:*\n{{ signal.text if signal.kind == 'attributes' else signal.post }}\n{% endfor %}\n"
    "{{ earlier }}\nAssistant: <think>",
    "teacher": '{{ dimensions | join(", ") }}\n{% include "inference.jinja" %}',
    "judgement": "{{ description }}\n*Post:*\n{{ post }}\n*A:*\n{{ response_a }}\n"
    "*B:*\n{{ response_b }}\n",
    "reply": "{{ description }}\n*Post:*\n{{ post }}\n",
}
PIECES = [
    "<", ">", "/", "</", " ", "\n", "*", ":*", ":", "post", "</post>", "<POST>", "< chosen >",
    "<rejected x=1>", "</comment\n>", "<attributes>", "</earlier_description>", "<earlier>",
    "<passed_over>", "<description>", "<response_a>", "</ response_b>", "<reply>", "<think>",
    "</think>", "<answer>", "</ANSWER>", "<selection>", "<dimensions>", "*Post:*", "* A :*", "&lt;",
    "\nAssistant:", "\nUser :", "{{ x }}", "{% endif %}", "<poſt>", "é", "<|im_end|>", "</s>",
]  # fmt: skip
hostile = st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.text(max_size=20)


@pytest.fixture(scope="module", params=["default", "compact", "items", "starred"])
def prompts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prompts:
    if request.param != "starred":
        return Prompts(request.param)
    return Prompts(starred(tmp_path_factory.mktemp("starred")))


def starred(folder: Path, **changed: str | None) -> Path:
    for name, text in (STARRED | changed).items():
        if text is not None:
            (folder / f"{name}.jinja").write_text(text)
    return folder


def markers(prompts: Prompts, text: str) -> list[str]:
    """The tags, starred markers, turns and control tokens of its prompts in a text, in order."""
    source = "\n".join(all_prompts(prompts, lambda: "x"))
    tags = {"think", "answer", "s", *re.findall(r"</?(\w+)>", source)}
    names = set(re.findall(r"\*([\w' ]+):\*", source)) or {"no such marker"}
    turns = set(re.findall(r"^(User|Assistant):", source, re.MULTILINE)) or {"no such turn"}
    pattern = rf"<\s*/?\s*(?:{'|'.join(tags)})\b|<\||\*[ \t]*(?:{'|'.join(names)})[ \t]*:"
    found = re.findall(pattern, text, re.IGNORECASE)
    return found + re.findall(rf"^(?:{'|'.join(turns)})\s*:", text, re.MULTILINE)


def all_prompts(prompts: Prompts, value: Callable[[], str]) -> list[str]:
    """Every prompt of a folder, with each slot filled by the next value."""

    def filled(given: Any) -> Any:
        if isinstance(given, list):
            return [filled(each) for each in given]
        if isinstance(given, Comparison | Post | Attributes):
            return type(given)(*map(filled, astuple(given)))
        return value() if isinstance(given, str) else given

    return [
        prompts.render(name, **{slot: filled(given) for slot, given in values.items()})
        for name, values in EXAMPLES.items()
        if (prompts.folder / f"{name}.jinja").is_file()
    ]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_value_opens_or_closes_a_slot(prompts: Prompts, data: st.DataObject) -> None:
    plain = all_prompts(prompts, lambda: "x")
    assert len(markers(prompts, plain[0])) >= 8
    # Never empty: an empty description has no slot.
    filled = all_prompts(prompts, lambda: "x" + data.draw(hostile))
    for expected, found in zip(plain, filled, strict=True):
        assert markers(prompts, found) == markers(prompts, expected)


@pytest.mark.parametrize(
    "value",
    ["{{ x }}", "{% if %}", "a < b > c", "5 * 3", "&lt;", "<poster>", r"\1", "the user: no"],
)
def test_other_values_come_through_unchanged(prompts: Prompts, value: str) -> None:
    for prompt in all_prompts(prompts, lambda: f"[{value}]"):
        assert prompt.count(f"[{value}]") == prompt.count("[") >= 1


FILLERS = ["<", " ", "\n", "<" + " " * 9, "*", "* ", "</", "<|", "*Post", "User", "User \n", "&"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("filler", FILLERS)
def test_degenerate_values_are_guarded_in_linear_time(prompts: Prompts, filler: str) -> None:
    """A quadratic guard takes an hour for this."""
    for start in ("", "<", "*", "User"):
        prompts.guard(start + filler * (200_000 // len(filler)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reply": "{{ post }} {{ desription }}"}, "desription"),
        ({"judgement": None}, r"judgement\.jinja"),
        ({"reply": "{{ post "}, "not a valid template"),
        ({"reply": "{{ post.__class__.__mro__ }}"}, "unsafe"),
        ({"concise": '{% include "nowhere.jinja" %}'}, "nowhere"),
    ],
)
def test_templates_that_cannot_be_are_refused_when_the_folder_is_opened(
    tmp_path: Path, changed: dict[str, str | None], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Prompts(starred(tmp_path, **changed))


def test_a_folder_of_ones_own_includes_what_ships_and_is_guarded_for_it(tmp_path: Path) -> None:
    own = '{% set kinds = ["post"] %}\n{% include "signals.jinja" %}\n<think>'
    prompts = pickle.loads(pickle.dumps(Prompts(starred(tmp_path, inference=own))))
    prompt = prompts.render("inference", signals=[Post("</comment> a", "b")], earlier=None)
    assert "<post>&lt;/comment> a</post>" in prompt
    with pytest.raises(UserError, match=r"concise\.jinja"):
        prompts.render("concise", signals=[], earlier=None)


SIGNALS = [Comparison("p1", "c", "r"), Post("p2", "said"), Attributes("young")]


@pytest.mark.parametrize("name", ["default", "compact", "items"])
def test_the_prompts_of_folders_that_ship(name: str) -> None:
    prompts = Prompts(name)
    for earlier in (None, "likes jokes"):
        whole = prompts.render("inference", signals=SIGNALS, earlier=earlier)
        guided = prompts.render("teacher", signals=SIGNALS, earlier=earlier, dimensions=["order"])
        assert whole.endswith("<think>")
        assert guided.endswith("<think>")
        assert ("likes jokes" in whole, "order" in guided) == (earlier is not None, True)
        unguided = prompts.render("teacher", signals=SIGNALS, earlier=earlier, dimensions=[])
        assert unguided == whole
    assert "<earlier" not in prompts.render("inference", signals=SIGNALS, earlier="")


@pytest.mark.parametrize("name", ["default", "items"])
def test_a_description_changes_nothing_in_the_instruction_of_a_reply(name: str) -> None:
    """Or the difference to log p(y|x) wouldn't be that of the description alone."""
    prompts = Prompts(name)
    described = prompts.render("reply", post="p", description="likes jokes")
    without = described.replace("<description>likes jokes</description>\n", "")
    assert without == prompts.render("reply", post="p", description=None)


class TestDefault:
    prompts = Prompts("default")

    def test_turns_numbered_signals_and_the_format_that_is_parsed(self) -> None:
        prompt = self.prompts.render("inference", signals=SIGNALS, earlier=None)
        assert prompt.startswith("User: ")
        assert prompt.endswith("\n\nAssistant: <think>")
        assert re.findall(r"^Signal (\d), ", prompt, re.MULTILINE) == ["1", "2", "3"]
        assert "<post>p1</post>\n<chosen>c</chosen>\n<rejected>r</rejected>" in prompt
        assert "<post>p2</post>\n<comment>said</comment>" in prompt
        [shown] = re.findall(r"<think>(.*</answer>)", prompt)
        assert parse_completion(shown) is FormatProblem.PLACEHOLDER_ECHOED

    def test_no_prompt_names_a_dimension(self) -> None:
        """What P-SOUPS and ALIGNX test: a prompted baseline mustn't be told of it."""
        named = r"tone|length|detail|warm|concise|brief|expert|informati|style|value|polite|humou?r"
        words = " ".join(file.read_text() for file in self.prompts.folder.glob("*.jinja"))
        assert not re.findall(rf"\b(?:{named})\w*", words, re.IGNORECASE)


def test_items_are_not_replies_to_a_post() -> None:
    prompts, pair = Prompts("items"), Comparison("A list of films.", "x", "y")
    judged = {"post": pair.post, "description": "d", "response_a": "x", "response_b": "y"}
    prompt = prompts.render("inference", signals=[pair], earlier="d")
    assert "<passed_over>y</passed_over>" in prompt
    for text in (prompt, prompts.render("judgement", **judged)):
        assert pair.post in text
        assert not re.search(r"\b(repl(y|ies)|posts?)\b", text)


def test_the_compact_wording_that_the_small_models_were_trained_on() -> None:
    """Other words would be another task for them; a changed hash means training them anew."""
    texts = all_prompts(Prompts("compact"), iter(map(str, range(99))).__next__)
    found = hashlib.sha256("\n\n".join(texts).encode()).hexdigest()
    assert found[:16] == "ff3d57d0aca605b1"
