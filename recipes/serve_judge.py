"""A vLLM server for JUDGE=server: started, awaited, and stopped by Ctrl-C with all it started."""

import sys

from alignxplore_trl.launch.config import ServeJudgeConfig
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.launch.serving import VllmServer, stop_with_parent
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import RunFolder
from alignxplore_trl.run.progress import say


def main(config: ServeJudgeConfig, folder: RunFolder) -> None:
    """Serve the judge until Ctrl-C, or until the process that started this one is gone."""
    stop_with_parent()
    try:
        with VllmServer(config.serve, config.seed, folder.path) as server:
            say(f"serve_judge: loading {config.serve.model}; its log: {server.log}")
            server.wait_until_healthy()
            say(f"serve_judge: {server.url} serves {config.serve.name}; use it with")
            say(f"  make rl-streaming JUDGE=server ARGS='judge.server.urls=[\"{server.url}\"]'")
            say("serve_judge: Ctrl-C stops it")
            server.process.wait()
            raise UserError(server.last_words())
    except KeyboardInterrupt:
        say("serve_judge: stopped")


if __name__ == "__main__":
    run_recipe(ServeJudgeConfig, main, sys.argv[1:])
