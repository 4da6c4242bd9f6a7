"""A vLLM server for rollouts, which gets the weights of each update; until Ctrl-C. Needs GPUs."""

import sys

from alignxplore_trl.launch.config import ServeRolloutsConfig
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.launch.serving import serve_until_interrupted
from alignxplore_trl.run.folder import RunFolder

HINT = (
    "make rl-streaming SCALE={scale} ARGS='trainer.use_vllm=true trainer.vllm_mode=server "
    "trainer.vllm_server_base_url={address}'"
)


def main(config: ServeRolloutsConfig, folder: RunFolder) -> None:
    """Serve the policy until Ctrl-C, or until the process that started this one is gone."""
    serve_until_interrupted(config, folder, HINT)


if __name__ == "__main__":
    run_recipe(ServeRolloutsConfig, main, sys.argv[1:])
