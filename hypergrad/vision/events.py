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
        after: epochs that are there already; what other files hold of later ones is void (TensorBoard's purge_step).

    Raises:
        MissingLibraryError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, after: int | None = None) -> None:
        self._library = require("torch.utils.tensorboard", "Writing event files for TensorBoard", "tensorboard")
        self._folder, self._after = folder, after
        self._writer: Any = None

    def add(self, epoch: Epoch) -> None:
        """The numbers of an epoch; what is None is left out."""
        if self._writer is None:
            purged = None if self._after is None else self._after + 1
            self._writer = self._library.SummaryWriter(self._folder, purge_step=purged)
        for name, field in SCALARS.items():
            value = getattr(epoch, field)
            if value is not None:
                self._writer.add_scalar(name, value, epoch.epoch)
        self._writer.flush()

    def close(self) -> None:
        """No more epochs follow."""
        if self._writer is not None:
            self._writer.close()
