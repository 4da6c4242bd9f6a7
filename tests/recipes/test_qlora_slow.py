"""QLoRA, where bitsandbytes is installed: in the environment of make test-slow."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.recipes.commands import ROOT, SMALL


def recipe(folder: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    own = [f'paths.outputs="{folder}"', "run=q", "peft=qlora", *SMALL, *words]
    command = [str(ROOT / ".venv-vllm/bin/python"), f"recipes/{name}.py", *own]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_adapters_on_four_bits_are_trained_and_merged(tmp_path: Path) -> None:
    for name in ("prepare", "synthesize", "cold_start", "rl"):
        done = recipe(tmp_path, name)
        assert done.returncode == 0, done.stderr
    for stage in ("cold_start", "rl"):
        model = tmp_path / "q" / stage / "model"
        assert "quantization_config" not in json.loads((model / "config.json").read_text())
        assert "lora" not in str(load_file(model / "model.safetensors").keys())
    refused = recipe(tmp_path, "rl", "run=other", "upstream=q", "rl.use_vllm=true")
    assert refused.returncode == 2
    assert "expected false with a quantized base" in refused.stderr
