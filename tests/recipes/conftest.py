from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipes.commands import Commands


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Recipes whose runs lie in tmp_path/outputs."""
    return Commands(tmp_path / "outputs", monkeypatch)
