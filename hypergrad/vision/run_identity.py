"""What a run is: a checkpoint goes on only with the settings, the images and the code that it was made by."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hypergrad.checkpoint import code_identity, digest
from hypergrad.keys import derive, generator
from hypergrad.vision.config import SavedPolicy, TrainConfig
from hypergrad.vision.splits import Part, Splits

#: Bytes of pixels up to which all are hashed, a second or two; of more, so many images drawn by key.
WHOLE, SAMPLE = 512 * 2**20, 4096

#: Images that are hashed at a time.
_CHUNK = 1024


def run_identity(config: TrainConfig, splits: Splits, device: torch.device) -> dict[str, Any]:
    """Everything that the bits of a run's result depend on, as plain values."""
    return {
        "config": relevant(config),
        "data": data_identity(splits),
        "device": device.type,
        "code": code_identity(),
    }


def relevant(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide the result.

    Left out are the recipe's name (its settings are there), where the images lie and how many processes decode them
    (the images themselves are hashed), device and threads (what they came to is recorded), and what is done about steps
    that are not finite, so that a run that failed can go on with another policy. A policy from a file is its content.
    """
    content = config.model_dump(mode="json")
    for name in ("recipe", "device", "threads", "on_nonfinite"):
        del content[name]
    for name in ("root", "workers"):
        del content["data"][name]
    if isinstance(config.method, SavedPolicy):
        content["method"]["path"] = _hashed(config.method.path)
    return content


def _hashed(path: Path) -> str:
    try:
        return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return str(path)  # refused where it is read


def data_identity(splits: Splits) -> dict[str, Any]:
    """The three parts as they were loaded: labels and rows entirely, pixels up to :data:`WHOLE` bytes, then a sample.

    By content, not by the files' names and times: a data set that was copied to another machine is the same.
    """
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    found: dict[str, Any] = {name: None if part is None else _part(part) for name, part in parts.items()}
    statistics = {"mean": list(splits.mean), "std": list(splits.std), "flip": splits.flip}
    return {**found, **statistics, "classes": list(splits.classes)}


def _part(part: Part) -> Mapping[str, Any]:
    positions = torch.arange(len(part))
    if len(part) * part.images[:1].numel() > WHOLE:
        drawn = torch.randperm(len(part), generator=generator(derive(0, "identity of data")))
        positions = drawn[:SAMPLE].sort().values
    pixels = hashlib.sha256()
    for chunk in positions.split(_CHUNK):
        pixels.update(digest(part.images[part.rows[chunk]]).encode())
    return {
        "images": len(part),
        "hashed": len(positions),
        "pixels": pixels.hexdigest(),
        "labels": digest(part.targets[part.rows]),
    }
