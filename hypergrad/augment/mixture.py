"""One operation per image: the executor that every policy shares, and the noise that drives it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hypergrad import keys
from hypergrad.augment import affine
from hypergrad.augment.checks import working_dtype
from hypergrad.augment.counting import count_each
from hypergrad.augment.operations import Operation, StraightThrough, get_operation
from hypergrad.errors import InvalidInputError


@dataclass(frozen=True)
class Choice:
    """What one stage does to each image of a batch.

    Attributes:
        pick: the operation's position, integers ``(B,)``; the number of operations stands for "none".
        magnitude: in [0, 1], ``(B,)``.
        sign: +1 or -1, ``(B,)``.
    """

    pick: Tensor
    magnitude: Tensor
    sign: Tensor


@dataclass(frozen=True)
class Groups:
    """A choice with the images sorted by their operation.

    Attributes:
        choice: of one stage.
        order: the images' positions, operation by operation, ``(B,)``.
        counts: images of each operation in the mixture's own order, and last of "none".
    """

    choice: Choice
    order: Tensor
    counts: list[int]


class Mixture(nn.Module):
    """Applies to each image of a batch an operation of its own.

    The images are gathered operation by operation, the geometric ones first, which share one warp. The host asks the
    device for the sizes of the groups, once for all stages that :meth:`group` is given.

    Args:
        operations: N of them.
        straight_through: where the gradient to the magnitudes of discrete operations comes from, see
            :class:`~hypergrad.augment.Operation`.
    """

    def __init__(self, operations: Sequence[Operation], straight_through: StraightThrough = "surrogate") -> None:
        super().__init__()
        self.operations = tuple(operations)
        self.straight_through: StraightThrough = straight_through
        by_kind = sorted(range(len(operations)), key=lambda i: operations[i].kind != "geometric")
        self._table = tuple(operations[i] for i in by_kind)
        # Position of each operation in the table, geometric ones first; the last entry stands for "none".
        rank = torch.argsort(torch.tensor([*by_kind, len(operations)]))
        self.register_buffer("_rank", rank, persistent=False)

    def group(self, choices: Sequence[Choice]) -> list[Groups]:
        """The choices of several stages for one batch, sorted; the host reads the device once."""
        ranks = self.get_buffer("_rank")[torch.stack([choice.pick for choice in choices])]
        orders = torch.argsort(ranks, dim=-1, stable=True)
        counts: list[list[int]] = count_each(ranks, len(self._table) + 1).tolist()
        return [Groups(*stage) for stage in zip(choices, orders, counts, strict=True)]

    def forward(self, images: Tensor, stage: Choice | Groups, *, in_place: bool = False) -> Tensor:  # (B, C, H, W)
        """The images, each after its own operation; nothing is checked.

        ``in_place`` writes into ``images``: large batches spend more time on fresh memory than on the operations.
        """
        (groups,) = self.group([stage]) if isinstance(stage, Choice) else (stage,)
        choice, order, counts = groups.choice, groups.order, groups.counts
        size, height, width = len(self._table), *images.shape[2:]
        rows, magnitudes, signs = (torch.split(v, counts) for v in (order, choice.magnitude[order], choice.sign[order]))
        pieces: list[Tensor] = []
        matrices: list[Tensor] = []
        for i, operation in enumerate(self._table):
            if counts[i] == 0:
                continue
            if operation.kind == "geometric":
                matrices.append(operation.matrix(magnitudes[i], signs[i], height, width))
            else:
                group = images.index_select(0, rows[i])
                pieces.append(operation.recolour(group, magnitudes[i], signs[i], self.straight_through))
        if matrices:
            geometric = order[: sum(len(m) for m in matrices)]
            pieces.insert(0, affine.warp(images.index_select(0, geometric), torch.cat(matrices)))
        if not pieces:
            return images
        if counts[size] == 0 and not in_place:
            return torch.cat(pieces).index_select(0, torch.argsort(order))
        changed = order[: len(order) - counts[size]]
        if in_place:
            return images.index_copy_(0, changed, torch.cat(pieces))
        return images.index_put((changed,), torch.cat(pieces))


def resolve_operations(operations: Sequence[str | Operation], ranges: str) -> tuple[Operation, ...]:
    """The operations by name, in the named ranges; an :class:`~hypergrad.augment.Operation` stands for itself.

    Raises:
        InvalidInputError: none at all, a single string, or a name twice.
        UnknownNameError: a name or a range that does not exist.
    """
    if isinstance(operations, str) or not operations:
        raise InvalidInputError(
            f"operations must be a non-empty sequence of different names; got {operations!r}. "
            "Leave it out for the paper's fourteen."
        )
    found = tuple(o if isinstance(o, Operation) else get_operation(o, ranges) for o in operations)
    names = [o.name for o in found]
    if len(set(names)) < len(names):
        raise InvalidInputError(f"operations must have different names; got {names!r}. Leave the second one out.")
    return found


def noise(images: Tensor, key: int | None, index: Tensor | None, slots: int) -> Tensor:  # (B, slots)
    """Uniform numbers in (0, 1), a row for each image; a row depends on the key and the image's index only.

    Args:
        images: the batch.
        key: from :func:`hypergrad.keys.derive`; None takes one from torch's global generator.
        index: the samples' indices, integers ``(B,)``; None numbers the batch from 0.
        slots: how many numbers an image needs.

    Raises:
        InvalidInputError: indices that are not one integer per image.
    """
    batch = len(images)
    if index is None:
        index = torch.arange(batch, device=images.device)
    elif not isinstance(index, Tensor) or index.shape != (batch,) or index.is_floating_point():
        shown = f"{index.dtype} {tuple(index.shape)}" if isinstance(index, Tensor) else repr(index)
        raise InvalidInputError(
            f"index must hold one integer per image, shape ({batch},); got {shown}. "
            "Let the loader return each sample's position in the training set, or leave it out."
        )
    if key is None:
        key = int(torch.randint(2**62, ()).item())
    return keys.uniform(key, index.to(images.device), slots, working_dtype(images))
