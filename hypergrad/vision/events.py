"""A run's numbers as event files of TensorBoard."""

from pathlib import Path
from typing import Any

from hypergrad.optional import require
from hypergrad.vision.training import Epoch

#: Name in TensorBoard to the field of an epoch.
SCALARS = {
    "loss/train": "train_loss",
    "loss/validation": "val_loss",
    "error/validation": "val_error",
    "optimizer/lr": "lr",
    "policy/entropy": "policy_entropy",
    "policy/updates": "updates",
    "policy/hypergradient": "hypergradient",
}


class Events:
    """Writes the scalars of each epoch.

    Args:
        folder: of the event files; made with the first of them.

    Raises:
        MissingLibraryError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._library = require("torch.utils.tensorboard", "Writing event files for TensorBoard", "tensorboard")
        self._folder = folder
        self._writer: Any = None

    def add(self, epoch: Epoch) -> None:
        """The numbers of an epoch; what is None is left out."""
        if self._writer is None:
            self._writer = self._library.SummaryWriter(self._folder)
        for name, field in SCALARS.items():
            value = getattr(epoch, field)
            if value is not None:
                self._writer.add_scalar(name, value, epoch.epoch)
        self._writer.flush()

    def close(self) -> None:
        """No more epochs follow."""
        if self._writer is not None:
            self._writer.close()
