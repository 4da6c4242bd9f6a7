"""A trained model in real vLLM, on the CPU: in this process and behind its server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from alignxplore_trl.data.world import World
from alignxplore_trl.inference.describing import SamplingSettings, generation_config
from alignxplore_trl.inference.descriptions import DescriptionRequest
from alignxplore_trl.inference.how_to_ask import PromptSettings, save_how_to_ask
from alignxplore_trl.inference.preference_describer import PreferenceDescriber
from alignxplore_trl.launch.serving import VllmServer
from alignxplore_trl.signals import signal_to_dict
from alignxplore_trl.text.rendering import PromptSet
from tests.vllm_on_cpu import ROOT, served_on_cpu

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CASES = World(seed=5).cases("test", 12)
IN_VLLM = """
import json
import sys
from pathlib import Path

from alignxplore_trl.inference.descriptions import DescriptionRequest
from alignxplore_trl.inference.preference_describer import PreferenceDescriber
from alignxplore_trl.signals import signal_from_dict


def main(model: str, asked: Path, said: Path) -> None:
    requests = [
        DescriptionRequest(tuple(map(signal_from_dict, signals)))
        for signals in json.loads(asked.read_text())
    ]
    describer = PreferenceDescriber.in_vllm(
        model, temperature=0.0, dtype="float32", enforce_eager=True
    )
    said.write_text(json.dumps([str(each) for each in describer.write(requests)]))


main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backbone that ships, as a training would leave it."""
    folder = tmp_path_factory.mktemp("run") / "model"
    shutil.copytree(ROOT / "assets" / "backbone", folder)
    save_how_to_ask(folder, PromptSet("compact"), PromptSettings(320, 4, 1))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    generation_config(SamplingSettings(96), tokenizer).save_pretrained(folder)
    return folder


def test_vllm_describes_as_transformers_does(model: Path, tmp_path: Path) -> None:
    requests = [DescriptionRequest(case.signals[:4]) for case in CASES]
    here = PreferenceDescriber.from_pretrained(model, dtype="float32", temperature=0.0)
    expected = here.write(requests)
    assert len({str(each) for each in expected}) > 3

    serve = served_on_cpu(model, str(model))
    with VllmServer(serve, 0, tmp_path) as server:
        server.wait_until_healthy()
        served = PreferenceDescriber.at_servers(model, [server.url], temperature=0.0)
        assert served.write(requests) == expected

    (tmp_path / "in_vllm.py").write_text(IN_VLLM)
    asked = [[signal_to_dict(signal) for signal in case.signals[:4]] for case in CASES]
    (tmp_path / "asked").write_text(json.dumps(asked))
    arguments = [tmp_path / "in_vllm.py", model, tmp_path / "asked", tmp_path / "said"]
    subprocess.run(
        [str(serve.python), *map(str, arguments)],
        check=True,
        env={
            **os.environ,
            **serve.environment,
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "PYTHONPATH": str(ROOT / "src"),
        },
    )
    assert json.loads((tmp_path / "said").read_text()) == [str(each) for each in expected]
