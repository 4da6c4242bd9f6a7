"""What vLLM can't do on a CPU, done otherwise in each Python process that finds this on its path.

Weights of a colocated engine are packed for oneDNN and can't be loaded again: they aren't packed.
Weights go to a server by NCCL: they go by a file that it is told to load. All before and after that
(gathering shards, merging adapters, names of weights) is what runs on GPUs.
"""

import importlib.abc
import importlib.util
import os
import sys
import tempfile


def leave_weights_unpacked(custom_ops):
    """For `vllm._custom_ops`."""
    custom_ops._supports_onednn = False


def compute_on_the_cpu(recipe):
    """For `alignxplore_trl.recipe`: accelerate's launcher of DeepSpeed doesn't say so itself."""
    recipe._on_cpu = lambda: True


def count_no_cards(preflight):
    """For `alignxplore_trl.preflight`."""
    preflight.cards = lambda: "the CPU"


def send_weights_by_file(client):
    """For `trl.generation.vllm_client`."""

    def update_named_params(self, metadata, named_params):
        from safetensors.torch import save_file

        weights = {name: weight.detach().contiguous().clone() for name, weight in named_params}
        with tempfile.TemporaryDirectory() as folder:
            save_file(weights, os.path.join(folder, "model.safetensors"), {"format": "pt"})
            told = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
            self._post(f"{self.base_url}/collective_rpc", json=told)

    client.VLLMClient.init_communicator = lambda self, device=0: None
    client.VLLMClient.update_named_params = update_named_params


CHANGED = {
    "alignxplore_trl.recipe": compute_on_the_cpu,
    "alignxplore_trl.preflight": count_no_cards,
    "vllm._custom_ops": leave_weights_unpacked,
    "trl.generation.vllm_client": send_weights_by_file,
}


class _Loader(importlib.abc.Loader):
    def __init__(self, loader, change):
        self.loader, self.change = loader, change

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        self.change(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        change = CHANGED.pop(name, None)
        spec = importlib.util.find_spec(name) if change else None
        if spec is not None:
            spec.loader = _Loader(spec.loader, change)
        return spec


sys.meta_path.insert(0, _Finder())
