"""One rank: ``_rank.py RANK RANKS FOLDER CHECKS`` runs every check of a module of that name and writes its numbers."""

import importlib
import json
import sys
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed


def main(rank: int, ranks: int, folder: Path, name: str) -> None:
    torch.set_num_threads(1)
    store = distributed.FileStore(str(folder / "store"), ranks)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    checks = importlib.import_module(f"tests.distributed.{name}").CHECKS

    warnings.simplefilter("error")
    found = {}
    try:
        for name, check in checks.items():
            found[name] = check()
    except Exception:
        found["error"] = f"{name}: {traceback.format_exc()}"
    (folder / f"{rank}.json").write_text(json.dumps(found))
    if "error" not in found:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
