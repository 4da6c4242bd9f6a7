"""A vLLM server for TEACHER=server: started, awaited, and stopped by Ctrl-C with all it started."""

import sys

from alignxplore_trl.launch.config import ServeTeacherConfig
from alignxplore_trl.launch.entry import run_recipe
from alignxplore_trl.launch.serving import serve_until_interrupted
from alignxplore_trl.run.folder import RunFolder

HINT = "make synthesize SCALE={scale} TEACHER=server ARGS='teacher.server.urls=[{url}]'"


def main(config: ServeTeacherConfig, folder: RunFolder) -> None:
    """Serve the teacher until Ctrl-C, or until the process that started this one is gone."""
    serve_until_interrupted(config, folder, HINT)


if __name__ == "__main__":
    run_recipe(ServeTeacherConfig, main, sys.argv[1:])
