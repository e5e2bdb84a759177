"""Finished cells on disk: written whole or not at all, used again only when they answer the same question."""

import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy
import torch
from _recipe import Recipe
from _rows import Row

from hypergrad.files import write_atomically


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Write a file whole or not at all, in a folder that is made if need be; numbers must be finite."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", label)


def cell_path(directory: Path, row: Row, seed: int) -> Path:
    """Where the cell of this row and seed lies."""
    return directory / f"seed{seed}" / f"{_slug(row.label)}.json"


def probe_path(directory: Path, row: Row) -> Path:
    """Where the comparison of this row with the dense solver lies."""
    return directory / "probe" / f"{_slug(row.label)}.json"


def cell_digest(recipe: Recipe, row: Row, seed: int) -> str:
    """What a cell must have been asked to be used again."""
    return recipe.digest(row=row.name, options=row.options, seed=seed)


def probe_digest(recipe: Recipe, row: Row) -> str:
    """The same, for the comparison with the dense solver."""
    return recipe.digest(row=row.name, options=row.options, probe=True)


def read_cell(path: Path, digest: str) -> dict[str, Any] | None:
    """The finished cell, or None when there is none, it cannot be read, or it answers another question."""
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return cell if isinstance(cell, dict) and cell.get("digest") == digest else None


def git_commit() -> str | None:
    """The commit of the code that runs, with ``+changes`` when tracked files differ from it; None outside git."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", "../hypergrad"],
            cwd=here, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")


def environment() -> dict[str, Any]:
    """Hardware and versions."""
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "threads_per_run": 1,
    }
