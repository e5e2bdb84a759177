"""The result of a run that is finished, from its folder."""

from pathlib import Path

import torch

from hypergrad.augment import load_policy
from hypergrad.keys import derive
from hypergrad.optional import require
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.data.base import Dataset
from hypergrad.vision.inner_loop import InnerLoop
from hypergrad.vision.outcome import Epoch, TrainResult
from hypergrad.vision.run import read_run
from hypergrad.vision.splits import make_splits


def finished_result(config: TrainConfig, output: Path, dataset: Dataset | None = None) -> TrainResult:
    """What the training returned: the numbers as they were recorded, network and policy from their files.

    The network is evaluated again, for what is not in the files (its mistakes).

    Args:
        config: of the run.
        output: its folder.
        dataset: in place of the one that the configuration names.

    Raises:
        InvalidInputError: a file of the run is missing or broken.
    """
    recorded = read_run(output)
    assert recorded.result is not None
    number = recorded.result
    loop = InnerLoop(config, make_splits(config.data, derive(config.seed, "data"), dataset))
    safetensors = require("safetensors.torch", "Reading a network", "vision")
    with torch.no_grad():
        loop.network.load_state_dict(safetensors.load_file(output / "model.safetensors"))
    loop.network.eval()
    policy = load_policy(output / "policy.json").to(loop.device) if (output / "policy.json").is_file() else None
    names = Epoch.__dataclass_fields__
    return TrainResult(
        model=loop.network,
        policy=policy,
        history=[Epoch(**{name: epoch[name] for name in names}) for epoch in recorded.epochs],
        val=loop._evaluate(loop.splits.val),
        test=None if loop.splits.test is None else loop._evaluate(loop.splits.test),
        seconds=number["seconds"],
        cpu_seconds=number["cpu_seconds"],
        search_seconds=number["search_seconds"],
        passes=number["passes"],
        search_passes=number["search_passes"],
        search_notes=number["search_notes"],
        weights=number["weights"],
        config=config,
        splits=loop.splits,
    )
