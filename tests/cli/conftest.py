"""Each test in an empty folder, without settings in the environment."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.upper().startswith("HYPERGRAD_"):
            monkeypatch.delenv(name)
