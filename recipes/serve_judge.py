"""A vLLM server for JUDGE=server: started, awaited, and stopped by Ctrl-C with all it started."""

import sys

from alignxplore_trl.launch.config import ServeJudgeConfig
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.launch.serving import serve_until_interrupted
from alignxplore_trl.run.folder import RunFolder

HINT = "make rl-streaming SCALE={scale} JUDGE=server ARGS='judge.server.urls=[{url}]'"


def main(config: ServeJudgeConfig, folder: RunFolder) -> None:
    """Serve the judge until Ctrl-C, or until the process that started this one is gone."""
    serve_until_interrupted(config, folder, HINT)


if __name__ == "__main__":
    run_recipe(ServeJudgeConfig, main, sys.argv[1:])
