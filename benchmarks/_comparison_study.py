"""The runs of tables 2 to 4: which rows there are, and the configuration of each run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _runs import Cell

from hypergrad.keys import derive, generator
from hypergrad.vision.config import TrainConfig

ROWS = ("standard", "faster-autoaugment", "randaugment", "trivialaugment", "fixed", "madao")
SMOKE_ROWS = ("standard", "randaugment", "madao")

#: The paper's baseline: a random search over the shared magnitude, of two runs.
BINS, SEARCHED = 30, 2


def magnitudes(seed: int) -> list[int]:
    """The two different bins that RandAugment's random search tries with this seed."""
    return torch.randperm(BINS, generator=generator(derive(seed, "randaugment")))[:SEARCHED].tolist()


def methods(row: str, seed: int, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs of a row: the section ``method`` of each."""
    if row == "madao":
        return [dict(settings["method"])]
    if row == "randaugment":
        return [{"name": row, "magnitude": magnitude, "bins": BINS} for magnitude in magnitudes(seed)]
    if row == "faster-autoaugment":
        # As many steps of the search as on 4,000 images, where there are fewer.
        images = settings["data"].get("train_size") or 4000
        return [{"name": row, "search_epochs": round(20 * max(1, 4000 / images))}]
    return [{"name": row}]


def smoke(settings: dict[str, Any]) -> dict[str, Any]:
    """The same code in seconds: too little training for the numbers to mean anything."""
    data = {**settings["data"], "train_size": 96, "validation": 64, "test_size": 100}
    method = {**settings["method"], "every": 2}
    return {**settings, "data": data, "method": method, "epochs": 2, "batch_size": 16, "warmup_epochs": 0}


def run_label(model: str, row: str, part: int | None) -> str:
    """Of a cell: the network, the row, and which of its runs where it has several."""
    return f"{model} {row}" + ("" if part is None else f" {part}")


@dataclass(frozen=True)
class Study:
    """What is asked for.

    Attributes:
        data: its name.
        models, rows, seeds: what is run.
        output: folder of the runs.
        settings: by network, of every row.
        is_smoke: whether it is a smoke run.
    """

    data: str
    models: tuple[str, ...]
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    output: Path
    settings: Mapping[str, dict[str, Any]]
    is_smoke: bool

    def cells(self) -> list[tuple[Cell, dict[str, Any]]]:
        """Every run with what names it: model, row, part and seed. Seed by seed, so that all rows advance together."""
        found = []
        for seed in self.seeds:
            for model in self.models:
                for row in self.rows:
                    settings = self.settings[model]
                    runs = methods(row, seed, settings)
                    for part, method in enumerate(runs, 1):
                        if row == "faster-autoaugment" and self.is_smoke:
                            method |= {"search_epochs": 1, "subset": 64, "search_batch_size": 16}
                        which = part if len(runs) > 1 else None
                        config = TrainConfig(**{**settings, "method": method, "seed": seed})
                        key = {"model": model, "row": row, "part": which, "seed": seed}
                        found.append((Cell(run_label(model, row, which), seed, config), key))
        return found
