"""The renderer: a value can't leave its slot, and comes through as it is otherwise."""

import itertools
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.signals import Attributes, Comparison, Post
from alignxplore_trl.text.parsing import FormatProblem, parse_completion, parse_description
from alignxplore_trl.text.rendering import SHIPPED_PROMPTS, PromptSet, Question

STARRED = {
    "inference.jinja": """{% for signal in signals %}
{% if signal.kind == "comparison" %}
*Post:*
{{ signal.post }}

*Chosen:*
{{ signal.chosen }}

*Rejected:*
{{ signal.rejected }}

{% elif signal.kind == "post" %}
*Post:*
{{ signal.post }}

*User's comment:*
{{ signal.comment }}

{% else %}
*About the user:*
{{ signal.text }}

{% endif %}
{% endfor %}
Earlier: {{ earlier if earlier else "Not provided" }}
<think>
""",
    "teacher.jinja": '{{ dimensions | join(", ") }}\n{% include "inference.jinja" %}',
    "judgement.jinja": "{{ description }}\n*Post:*\n{{ post }}\n*A:*\n{{ response_a }}\n"
    "*B:*\n{{ response_b }}\n",
    "reply.jinja": "{{ description }}\n*Post:*\n{{ post }}\n",
}
PIECES = [
    "<", ">", "/", "</", " ", "\n", "*", ":*", ":", "post", "Post", "</post>", "<POST>",
    "< chosen >", "<rejected x=1>", "</comment\n>", "<attributes>", "</earlier_description>",
    "<earlier>",
    "<description>", "<response_a>", "</ response_b>", "<reply>", "<think>", "</think>", "<answer>",
    "</ANSWER>", "<selection>", "<dimensions>", "*Post:*", "* Chosen :*", "*rejected:*",
    "*User's comment:*", "*A:*", "&lt;", "{{ x }}", "{% endif %}", "Not provided", "<poſt>", "é",
]  # fmt: skip
hostile = st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.text(max_size=20)


@pytest.fixture(scope="module", params=["default", "compact", "starred"])
def prompts(request, tmp_path_factory) -> PromptSet:
    if request.param != "starred":
        return PromptSet(request.param)
    folder = tmp_path_factory.mktemp("starred")
    for name, text in STARRED.items():
        (folder / name).write_text(text)
    return PromptSet(folder)


def markers(prompts: PromptSet, text: str) -> list[str]:
    """The tags and starred markers of a prompt set that stand in a text, in order."""
    source = "".join(file.read_text() for file in prompts.folder.glob("*.jinja"))
    tags = {"think", "answer", *re.findall(r"</?(\w+)>", source)}
    starred = set(re.findall(r"\*([\w' ]+):\*", source)) or {"no such marker"}
    pattern = rf"<\s*/?\s*(?:{'|'.join(tags)})\b|\*[ \t]*(?:{'|'.join(starred)})[ \t]*:"
    return re.findall(pattern, text, re.IGNORECASE)


def all_prompts(prompts: PromptSet, value) -> list[str]:
    """Every prompt of a set, with each slot filled by the next value."""
    signals = [
        Comparison(value(), value(), value()),
        Post(value(), value()),
        Attributes(value()),
        Comparison(value(), value(), value()),
    ]
    found = [
        prompts.inference(signals, value()),
        prompts.teacher(signals, value(), [value(), value()]),
        prompts.judgement(Question(value(), value(), value(), value())),
        prompts.reply(value(), value()),
    ]
    if (prompts.folder / "concise.jinja").is_file():
        found.append(prompts.concise(signals, value()))
    if (prompts.folder / "rule_proposal.jinja").is_file():
        found.append(prompts.rule_proposal(signals))
        found.append(prompts.rule_feedback([signals[0], signals[3]], [True, False]))
    return found


@settings(max_examples=80)
@given(data=st.data())
def test_no_value_opens_or_closes_a_slot(prompts, data):
    plain = all_prompts(prompts, lambda: "x")
    # Never empty: an empty description has no slot.
    filled = all_prompts(prompts, lambda: "x" + data.draw(hostile))
    for expected, found in zip(plain, filled, strict=True):
        assert markers(prompts, found) == markers(prompts, expected)


def test_the_markers_are_found_where_they_are(prompts):
    plain = all_prompts(prompts, lambda: "x")
    assert len(markers(prompts, plain[0])) >= 9
    assert markers(prompts, plain[0])[-1] == "<think"


@pytest.mark.parametrize(
    "value",
    ["{{ x }}", "{% if %}", "Not provided", "a < b > c", "5 * 3", "&lt;", "<poster>", r"\1"],
)
def test_other_values_come_through_unchanged(prompts, value):
    for prompt in all_prompts(prompts, lambda: f"[{value}]"):
        assert prompt.count(f"[{value}]") == prompt.count("[")
        assert prompt.count("[") >= 2


def test_the_earlier_description_is_not_searched_for_in_a_users_words(tmp_path):
    for name, text in STARRED.items():
        (tmp_path / name).write_text(text)
    prompts = PromptSet(tmp_path)
    prompt = prompts.inference([Post("Not provided", "Not provided")], "likes jokes")
    assert prompt.count("Not provided") == 2
    assert prompt.count("likes jokes") == 1


def test_undefined_names_raise(tmp_path):
    for name, text in STARRED.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "reply.jinja").write_text("{{ post }} {{ desription }}")
    with pytest.raises((UndefinedError, UserError), match="desription"):
        PromptSet(tmp_path).reply("post", "description")


def test_a_missing_template_is_named(tmp_path):
    for name, text in STARRED.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "judgement.jinja").unlink()
    with pytest.raises(UserError, match=r"judgement\.jinja"):
        PromptSet(tmp_path)


def test_a_broken_template_is_named(tmp_path):
    for name, text in STARRED.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "reply.jinja").write_text("{{ post ")
    with pytest.raises(UserError, match="not a valid template"):
        PromptSet(tmp_path)


def test_templates_are_sandboxed(tmp_path):
    for name, text in STARRED.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "reply.jinja").write_text("{{ post.__class__.__mro__ }}")
    with pytest.raises(Exception, match="unsafe"):
        PromptSet(tmp_path).reply("post", None)


@pytest.mark.parametrize("name", ["default", "compact"])
class TestShippedSets:
    signals = (Comparison("p", "c", "r"), Post("p", "said"), Attributes("young"))

    def test_inference_ends_by_opening_think(self, name):
        prompts = PromptSet(name)
        for earlier in (None, "likes jokes"):
            assert prompts.inference(self.signals, earlier).endswith("<think>")
            assert prompts.teacher(self.signals, earlier, ["tone"]).endswith("<think>")

    def test_without_an_earlier_description_there_is_no_slot_for_one(self, name):
        prompts = PromptSet(name)
        assert "<earlier" not in prompts.inference(self.signals, None)
        assert prompts.inference(self.signals, "") == prompts.inference(self.signals, None)
        assert "likes jokes" in prompts.inference(self.signals, "likes jokes")

    @given(kinds=st.lists(st.sampled_from(["comparison", "post", "attributes"]), max_size=6))
    def test_each_signal_of_a_mixed_history_says_what_it_is(self, name, kinds):
        """Read back from the tags: every signal's kind and its own texts, in order."""
        made = {
            "comparison": lambda n: Comparison(f"p{n}", f"c{n}", f"r{n}"),
            "post": lambda n: Post(f"p{n}", f"said{n}"),
            "attributes": lambda n: Attributes(f"about{n}"),
        }
        prompt = PromptSet(name).inference(
            [made[kind](number) for number, kind in enumerate(kinds)], None
        )
        found = re.findall(r"<(post|comment|chosen|rejected|attributes)>(?: \d+)? ?(\w+)", prompt)
        tags = {
            "comparison": lambda n: [("post", f"p{n}"), ("chosen", f"c{n}"), ("rejected", f"r{n}")],
            "post": lambda n: [("post", f"p{n}"), ("comment", f"said{n}")],
            "attributes": lambda n: [("attributes", f"about{n}")],
        }
        assert found == [pair for n, kind in enumerate(kinds) for pair in tags[kind](n)]

    def test_concise_shows_what_inference_does_and_opens_no_reasoning(self, name):
        prompts = PromptSet(name)
        for earlier in (None, "likes jokes"):
            shown = prompts.concise(self.signals, earlier)
            whole = prompts.inference(self.signals, earlier)
            assert markers(prompts, shown)[:5] == markers(prompts, whole)[:5]
            assert ("likes jokes" in shown) == (earlier is not None)
            assert not shown.endswith("<think>")

    def test_only_the_teacher_sees_the_dimensions(self, name):
        prompts = PromptSet(name)
        assert "orderliness" in prompts.teacher(self.signals, None, ["orderliness"])
        without = prompts.teacher(self.signals, None, [])
        assert without == prompts.inference(self.signals, None)

    def test_swapping_the_responses_swaps_the_slots_only(self, name):
        prompts = PromptSet(name)
        one = prompts.judgement(Question("p", "d", "@1", "@2"))
        other = prompts.judgement(Question("p", "d", "@2", "@1"))
        assert other == one.replace("@1", "@0").replace("@2", "@1").replace("@0", "@2")


class TestDefaultSet:
    prompts = PromptSet("default")

    def test_the_format_it_shows_is_the_one_that_is_parsed(self):
        prompt = self.prompts.inference([Attributes("young")], None)
        shown = re.findall(r"<think>(.*</answer>)", prompt)
        assert len(shown) == 1
        # Its structure is right, and copying it is not an answer.
        assert parse_completion(shown[0]) is FormatProblem.PLACEHOLDER_ECHOED

    def test_each_signal_says_what_it_is(self):
        prompt = self.prompts.inference(
            [Comparison("p1", "c", "r"), Post("p2", "said"), Attributes("young")], None
        )
        for slot in ("<post>p1</post>", "<chosen>c</chosen>", "<rejected>r</rejected>"):
            assert slot in prompt
        assert "<post>p2</post>\n<comment>said</comment>" in prompt
        assert "<attributes>young</attributes>" in prompt

    def test_the_task_names_the_kinds_that_are_there_and_no_others(self):
        asked = {
            "chosen replies apart": Comparison("p", "c", "r"),
            "user's own words": Post("p", "said"),
            "the attributes make likely": Attributes("young"),
        }
        for size in (1, 2, 3):
            for words in itertools.combinations(asked, size):
                signals = [asked[each] for each in words]
                for prompt in (
                    self.prompts.inference(signals, None),
                    self.prompts.teacher(signals, None, []),
                ):
                    assert [each for each in asked if each in prompt] == list(words)

    def test_the_form_of_a_rule_is_the_one_that_is_parsed(self):
        choice = Comparison("p", "c", "r")
        proposal = self.prompts.rule_proposal([choice])
        feedback = self.prompts.rule_feedback([choice, choice], [True, False])
        for prompt in (proposal, feedback):
            [shown] = re.findall("<answer>.*</answer>", prompt)
            assert parse_description(shown) is FormatProblem.PLACEHOLDER_ECHOED
        assert "Signal 1: prefers the other one" in feedback
        assert "Signal 2: can't decide" in feedback

    @pytest.mark.parametrize("description", [None, ""])
    def test_the_judge_can_be_asked_without_a_description(self, description):
        prompt = self.prompts.judgement(Question("p", description, "a", "b"))
        assert "description" not in prompt
        assert "None" not in prompt

    def test_the_judges_example_favours_neither_response(self):
        prompt = self.prompts.judgement(Question("p", "d", "a", "b"))
        assert prompt.count('{"selection": "Response A"}') == 1
        assert prompt.count('{"selection": "Response B"}') == 1


def test_every_shipped_folder_is_a_prompt_set():
    names = sorted(folder.name for folder in Path(SHIPPED_PROMPTS).iterdir())
    assert names == ["compact", "default"]
    for name in names:
        PromptSet(name)


def test_prompts_can_be_pickled(prompts: PromptSet) -> None:
    question = Question("a post", "prefers brief", "yes", "no")
    again = pickle.loads(pickle.dumps(prompts))
    assert again.judgement(question) == prompts.judgement(question)
