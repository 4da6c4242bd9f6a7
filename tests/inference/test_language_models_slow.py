"""A model that is talked to in real vLLM, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from alignxplore_trl.baselines.language_model import question
from alignxplore_trl.inference.describing import Describer, SamplingSettings
from alignxplore_trl.inference.language_models import LocalLanguageModel
from alignxplore_trl.text.rendering import PromptSet
from tests.vllm_on_cpu import ROOT, served_on_cpu

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TEACHER = ROOT / "assets" / "teacher"
PROMPT = "<post> 1 a day outdoors<chosen> warm, brief<rejected> blunt, detailed\n<think>"
TALKS = [PROMPT, "<post> b<think>", PROMPT, "<post> " * 2000, PROMPT]
IN_VLLM = """
import json
import sys
from pathlib import Path

from alignxplore_trl.baselines.language_model import question
from alignxplore_trl.inference.describing import SamplingSettings
from alignxplore_trl.inference.language_models import VllmLanguageModel


def main(source: str, said: Path) -> None:
    talks = [question(text) for text in json.load(sys.stdin)]
    model = VllmLanguageModel(
        source,
        SamplingSettings(24),
        seed=0,
        chat=False,
        engine={"dtype": "float32", "enforce_eager": True},
    )

    def texts(talks, temperature, seed):
        answers = model.answer(talks, temperature=temperature, seed=seed)
        return [None if own is None else own.text for own in answers]

    found = {
        "sampled": texts(talks, 0.9, 3),
        "turned round": texts(talks[::-1], 0.9, 3),
        "other seed": texts(talks, 0.9, 4),
        "most probable": texts(talks, 0.0, 3),
        "unanswered": dict(model.unanswered),
    }
    said.write_text(json.dumps(found))


main(sys.argv[1], Path(sys.argv[2]))
"""


def test_vllm_answers_as_the_same_model_does_here(tmp_path: Path) -> None:
    serve = served_on_cpu(TEACHER, "teacher")
    (tmp_path / "in_vllm.py").write_text(IN_VLLM)
    environment = {
        **os.environ,
        **serve.environment,
        # In one process instead of three, each of which takes long to import vLLM.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "PYTHONPATH": str(ROOT / "src"),
    }
    subprocess.run(
        [str(serve.python), str(tmp_path / "in_vllm.py"), str(TEACHER), str(tmp_path / "said")],
        input=json.dumps(TALKS),
        text=True,
        check=True,
        env=environment,
    )
    found = json.loads((tmp_path / "said").read_text())
    sampled = found["sampled"]
    assert [text is None for text in sampled] == [False, False, False, True, False]
    assert found["unanswered"] == {"too_long": 4}
    # Equal conversations have answers of their own, the same ones in whatever order.
    assert len({sampled[0], sampled[2], sampled[4]}) > 1
    turned = found["turned round"][::-1]
    assert turned[1] == sampled[1]
    assert sorted(turned[place] for place in (0, 2, 4)) == sorted(
        sampled[place] for place in (0, 2, 4)
    )
    assert found["other seed"] != sampled
    here = LocalLanguageModel(
        Describer.from_folder(
            TEACHER,
            PromptSet("compact"),
            dtype="float32",
            sampling=SamplingSettings(24),
            max_prompt_tokens=320,
            batch_size=8,
        ),
        chat=False,
    ).answer(list(map(question, TALKS)), temperature=0.0, seed=0)
    assert found["most probable"] == [None if own is None else own.text for own in here]
