"""A rollout server as TRL's client finds it; all but the weights, which go from GPU to GPU."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignxplore_trl.launch.serving import VllmServer
from tests.vllm_on_cpu import ROOT, served_on_cpu, whole_python

BACKBONE = ROOT / "assets" / "backbone"
PROMPT = list(range(5, 45))
# The client reads none of it without vLLM installed.
ASK = """
import json, sys
from trl.generation.vllm_client import VLLMClient

client = VLLMClient(base_url=sys.argv[1], connection_timeout=60)
asked = dict(temperature=0.5, top_p=1.0, top_k=0, max_tokens=8, logprobs=0, n=2)
print("ANSWER", json.dumps({
    "model": client.model,
    "info": client.get_server_info()["model_config"]["logprobs_mode"],
    "workers": client.get_world_size(),
    **client.generate([json.loads(sys.argv[2])], **asked),
}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_trls_client_samples_from_the_model_and_is_told_with_which_probability(
    tmp_path: Path,
) -> None:
    serve = served_on_cpu(BACKBONE, "policy", recipe="serve_rollouts")
    assert "--weight-transfer-config" in serve.flags
    serve = replace(serve, dtype="float32")
    with VllmServer(serve, 0, tmp_path) as server:
        server.wait_until_healthy()
        asked = [str(whole_python()), "-c", ASK, server.address, json.dumps(PROMPT)]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("ANSWER ")]
    answer = json.loads(line.removeprefix("ANSWER "))
    assert answer["model"] == "policy"
    assert answer["info"] == "processed_logprobs"
    assert answer["workers"] == 1
    model = AutoModelForCausalLM.from_pretrained(BACKBONE)
    for completion, told in zip(answer["completion_ids"], answer["logprobs"], strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([PROMPT + completion])).logits[0, len(PROMPT) - 1 : -1]
        log_p = (logits / 0.5).log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(told)[:, 0], log_p, rtol=1e-3, atol=1e-3)
