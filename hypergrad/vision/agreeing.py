"""What the ranks of one training must have in common: the run, its checkpoint, and the network all along."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from hypergrad.checkpoint import digest
from hypergrad.distributed import agree, gather, world_size
from hypergrad.errors import RankError
from hypergrad.vision.resuming import Saver


def loaded_alike(saver: Saver, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checkpoint's state; all ranks are the same run, and have the same checkpoint.

    Args:
        saver: reads it.
        identity: of the run, see :func:`hypergrad.vision.run_identity.run_identity`.

    Raises:
        RankError: they are not, or have not.
        OtherRunError: see :meth:`hypergrad.vision.resuming.Saver.load`.
    """
    if world_size() > 1:
        texts = {name: hashlib.sha256(repr(value).encode()).hexdigest() for name, value in identity.items()}
        agree(
            {
                "settings": texts["config"],
                "images": texts["data"],
                "versions, threads and processors": texts["code"],
            },
            {
                "settings": "Give all ranks the same command and the same environment.",
                "images": "Give all machines the same data.",
                "versions, threads and processors": (
                    "Install the same versions, give the same --threads, and use machines of one kind."
                ),
            },
        )
    state = saver.load(identity)
    steps = [row[0] for row in gather([-1 if state is None else state["step"]])]
    if len(set(steps)) > 1:
        raise RankError(
            f"The ranks find different checkpoints in {saver.folder}, of the steps {steps} (-1: none). Put "
            "--output into a folder that all machines see."
        )
    return state


def check_networks(tensors: Iterable[Tensor]) -> None:
    """Refuse to go on with networks that differ.

    Args:
        tensors: parameters and buffers of this rank's.

    Raises:
        RankError: they do.
    """
    if world_size() > 1:
        agree(
            {"networks": digest(*tensors)},
            {"networks": "One of the machines computes wrongly, or the ranks run other code: compare them."},
        )
