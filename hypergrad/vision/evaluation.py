"""How good a network is: loss, error, which class is taken for which, and its most confident mistakes."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergrad.distributed import rank, world_size
from hypergrad.reductions import MeanOverRanks, poll_together
from hypergrad.vision.splits import Part

#: Mistakes that are kept.
_MISTAKES = 16


@dataclass(frozen=True)
class Mistake:
    """An image whose class the network did not see.

    Attributes:
        position: of the image in the part, from 0.
        true: number of its class.
        predicted: number of the class that it was taken for.
        probability: of that class, by the network.
    """

    position: int
    true: int
    predicted: int
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """Of a network on images that are not augmented.

    Attributes:
        count: images.
        loss: mean cross-entropy.
        error: share of wrong answers, in percent.
        top5_error: share of images whose class is not among the five likeliest, in percent; None below six classes.
        confusion: images by true (row) and predicted (column) class.
        mistakes: at most 16 images with a wrong answer, the most confident one first.
    """

    count: int
    loss: float
    error: float
    top5_error: float | None
    confusion: list[list[int]] = field(repr=False)
    mistakes: list[Mistake] = field(default_factory=list, repr=False)

    def row(self) -> dict[str, Any]:
        """The numbers without the confusion matrix and the mistakes."""
        return {"count": self.count, "loss": self.loss, "error": self.error, "top5_error": self.top5_error}


@torch.no_grad()
def evaluate(
    network: nn.Module, part: Part, classes: tuple[str, ...], *, batch_size: int = 500, crop: int | None = None
) -> Evaluation:
    """Evaluate in eval mode; afterwards the network is in the mode it was in.

    Where ``torch.distributed`` runs, each rank evaluates its part of the images, and all have the sums.

    Args:
        network: takes images in [0, 1].
        part: 8-bit images and targets.
        classes: their names.
        batch_size: images at a time.
        crop: pixels a side of the central crop; None: whole images.

    Raises:
        Stopped: a signal has come (see :mod:`hypergrad.interruption`); the network is in the mode it was in.
    """
    training = network.training
    network.eval()
    try:
        return _evaluated(network, part, classes, batch_size, crop)
    finally:
        network.train(training)


def _evaluated(
    network: nn.Module, part: Part, classes: tuple[str, ...], batch_size: int, crop: int | None
) -> Evaluation:
    device = next(network.parameters()).device
    size = len(classes)
    confusion = torch.zeros(size * size, dtype=torch.int64)
    loss, top5 = 0.0, 0
    mistakes: list[Mistake] = []
    own = torch.arange(len(part)).tensor_split(world_size())[rank()]
    # As many on each rank, the first of which has most: each is a place where all may stop.
    most = -(-len(part) // world_size())
    for number in range(-(-most // batch_size)):
        poll_together()
        positions = own[number * batch_size : (number + 1) * batch_size]
        if not len(positions):
            continue
        pixels, targets = part.draw(positions)
        images = pixels.to(device).float() / 255
        if crop is not None:
            top, left = (images.shape[2] - crop) // 2, (images.shape[3] - crop) // 2
            images = images[..., top : top + crop, left : left + crop]
        outputs = network(images).float().cpu()
        loss += float(F.cross_entropy(outputs, targets, reduction="sum"))
        confusion += torch.bincount(targets * size + outputs.argmax(1), minlength=size * size)
        mistakes = _worst([*mistakes, *_mistakes(outputs, targets, positions)])
        if size > 5:
            top5 += int((outputs.topk(5, 1).indices == targets[:, None]).sum())
    if world_size() > 1:
        loss, top5, confusion, mistakes = _total(loss, top5, confusion, mistakes, device)
    table = confusion.view(size, size)
    count = len(part)
    return Evaluation(
        count=count,
        loss=loss / count,
        error=100 * (1 - int(table.diagonal().sum()) / count),
        top5_error=100 * (1 - top5 / count) if size > 5 else None,
        confusion=table.tolist(),
        mistakes=mistakes,
    )


def _total(
    loss: float, top5: int, confusion: Tensor, mistakes: list[Mistake], device: torch.device
) -> tuple[float, int, Tensor, list[Mistake]]:
    """The sums over the ranks, and the worst mistakes of all; float64 is exact for counts."""
    rows = torch.full((world_size(), _MISTAKES, 4), 0.0, dtype=torch.float64)
    for i, m in enumerate(mistakes):
        rows[rank(), i] = torch.tensor([m.position + 1, m.true, m.predicted, m.probability], dtype=torch.float64)
    sums = torch.tensor([loss, top5], dtype=torch.float64)
    parts = [t.to(device) for t in (sums, confusion.double(), rows)]
    found = [t.cpu() for t in MeanOverRanks((1,) * world_size(), rank()).total_each(parts, parts) if t is not None]
    held = [Mistake(int(p) - 1, int(t), int(c), q) for p, t, c, q in found[2].flatten(0, 1).tolist() if p]
    return float(found[0][0]), int(found[0][1]), found[1].long(), _worst(held)


def _mistakes(outputs: Tensor, targets: Tensor, positions: Tensor) -> list[Mistake]:
    """Those of a batch."""
    probabilities, predicted = outputs.softmax(1).max(1)
    wrong = predicted != targets
    columns = (positions, targets, predicted, probabilities)
    return [Mistake(*row) for row in zip(*(column[wrong].tolist() for column in columns), strict=True)]


def _worst(mistakes: list[Mistake]) -> list[Mistake]:
    return sorted(mistakes, key=lambda m: (-m.probability, m.position))[:_MISTAKES]
