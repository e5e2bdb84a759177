"""The augmentation policy: K stages that each pick one operation per image, and apply it or not."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hypergrad import keys
from hypergrad.augment import affine, relaxations
from hypergrad.augment.checks import check_images, column, working_dtype
from hypergrad.augment.operations import PAPER_OPERATIONS, get_operation
from hypergrad.errors import InvalidInputError

Selection = Literal["unbiased", "relaxed"]


class Policy(nn.Module):
    """A distribution over augmentations with the learnable values pi, mu and p, each ``(K, N)``.

    Each of the K stages picks for every image one of N operations with probabilities pi (eq. (9) of the paper, or the
    log-probability of the pick), and applies it with probability p at magnitude mu, ``b O(x; mu) + (1 - b) x`` (eq.
    (8)). The parameters are raw: ``pi = softmax``, ``mu = sigmoid``, ``p = sigmoid``; they start at equal
    probabilities and at 0.5.

    Args:
        stages: K.
        operations: names, the paper's fourteen by default.
        selection: where the gradient to pi comes from when ``soft``. "unbiased": from the log-probability that
            :meth:`draw` returns (the images carry none). "relaxed": eq. (9), through the images, which is biased.
        temperature: of the relaxed Bernoulli of eq. (8) and, unless told otherwise, of the selection.
        selection_temperature: of the softmax in eq. (9); used by ``selection="relaxed"`` only.

    Raises:
        InvalidInputError: an option of a wrong type or range.
        UnknownNameError: an operation that is not registered.

    Example:
        >>> import torch
        >>> policy = Policy(stages=2)
        >>> policy(torch.rand(4, 3, 8, 8), soft=False, key=0).shape
        torch.Size([4, 3, 8, 8])
    """

    def __init__(
        self,
        stages: int = 2,
        operations: Sequence[str] = PAPER_OPERATIONS,
        *,
        selection: Selection = "unbiased",
        temperature: float = 0.5,
        selection_temperature: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(stages, int) or isinstance(stages, bool) or stages < 1:
            raise InvalidInputError(f"stages must be an integer of at least 1; got {stages!r}. The paper uses 2.")
        if isinstance(operations, str) or not operations or len(set(operations)) < len(operations):
            raise InvalidInputError(
                f"operations must be a non-empty sequence of different names; got {operations!r}. "
                "Leave it out for the paper's fourteen."
            )
        if selection not in ("unbiased", "relaxed"):
            raise InvalidInputError(
                f"selection must be 'unbiased' (log-probability) or 'relaxed' (eq. (9)); got {selection!r}."
            )
        selection_temperature = temperature if selection_temperature is None else selection_temperature
        for name, value in (("temperature", temperature), ("selection_temperature", selection_temperature)):
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
                raise InvalidInputError(f"{name} must be a positive number; got {value!r}. Common values are 0.1 to 1.")
        self.stages = stages
        self.operations = tuple(operations)
        self.selection: Selection = selection
        self.temperature = float(temperature)
        self.selection_temperature = float(selection_temperature)
        table = [get_operation(name) for name in self.operations]
        by_kind = sorted(range(len(table)), key=lambda i: table[i].kind != "geometric")
        self._table = tuple(table[i] for i in by_kind)
        # Position of each operation in the table, geometric ones first; the last entry stands for "none".
        rank = torch.argsort(torch.tensor([*by_kind, len(table)]))
        self.register_buffer("_rank", rank, persistent=False)
        shape = (stages, len(table))
        self.pi = nn.Parameter(torch.zeros(shape))
        self.mu = nn.Parameter(torch.zeros(shape))
        self.p = nn.Parameter(torch.zeros(shape))

    def values(self) -> dict[str, Tensor]:
        """The constrained values ``pi``, ``mu`` and ``p``, each ``(K, N)``, detached."""
        return {
            "pi": torch.softmax(self.pi.detach(), -1),
            "mu": torch.sigmoid(self.mu.detach()),
            "p": torch.sigmoid(self.p.detach()),
        }

    def forward(self, images: Tensor, *, soft: bool, key: int | None = None, index: Tensor | None = None) -> Tensor:
        """Augmented images; like :meth:`draw`, without the log-probability."""
        return self.draw(images, soft=soft, key=key, index=index)[0]

    def draw(
        self, images: Tensor, *, soft: bool, key: int | None = None, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Augmented images, and the log-probability of the operations that were picked.

        Args:
            images: ``(B, C, H, W)``, floats in [0, 1] (the range is checked on the CPU only).
            soft: True for the outer step: relaxed application, with a graph to the parameters. False for use: hard
                choices, without a graph to the parameters. The same key picks the same operations in both.
            key: of the noise, from :func:`hypergrad.keys.derive`; None takes one from torch's global generator.
            index: the samples' indices, integers ``(B,)``; a sample's noise depends on the key and its index only.
                None numbers the batch from 0.

        Returns:
            Images of the same shape and dtype, and ``sum over stages of log pi[pick]``, ``(B,)``, which carries a
            gradient to pi exactly when ``soft`` and ``selection="unbiased"``.

        Raises:
            InvalidInputError: images or indices that cannot be used.
        """
        check_images(images)
        noise = self._noise(images, key, index)  # (B, K, N + 2)
        dtype = working_dtype(images)
        raw = (self.pi, self.mu, self.p) if soft else (self.pi.detach(), self.mu.detach(), self.p.detach())
        pi_logits, mu_logits, p_logits = (value.to(dtype) for value in raw)
        log_pi, mu = torch.log_softmax(pi_logits, -1), torch.sigmoid(mu_logits)
        result = images.to(dtype)
        log_prob = result.new_zeros(len(images))
        for k in range(self.stages):
            uniform, applied, sign = noise[:, k, :-2], noise[:, k, -2], noise[:, k, -1]
            sign = torch.where(sign < 0.5, -1.0, 1.0)
            factor = None
            if soft and self.selection == "relaxed":
                pick, factor = relaxations.relaxed_selection(log_pi[k], uniform, self.selection_temperature)
            else:
                pick = relaxations.select(log_pi[k], uniform)
            log_prob = log_prob + log_pi[k][pick]
            magnitude, logits = mu[k][pick], p_logits[k][pick]
            if soft:
                b = column(relaxations.relaxed_bernoulli(logits, applied, self.temperature))
                result = torch.lerp(result, self._operate(result, pick, magnitude, sign), b)
            else:
                # An operation that is not applied need not be computed: those images go to a group of their own.
                pick = torch.where(relaxations.bernoulli(logits, applied), pick, len(self._table))
                result = self._operate(result, pick, magnitude, sign)
            if factor is not None:
                result = result * column(factor)  # 1 in value
        if self.selection == "relaxed":
            log_prob = log_prob.detach()
        return result.to(images.dtype), log_prob

    def _noise(self, images: Tensor, key: int | None, index: Tensor | None) -> Tensor:  # (B, K, N + 2)
        """Uniform numbers: per stage N for the selection, one for the application, one for the sign."""
        batch, slots = len(images), len(self._table) + 2
        if index is None:
            index = torch.arange(batch, device=images.device)
        elif index.shape != (batch,) or index.is_floating_point():
            raise InvalidInputError(
                f"index must hold one integer per image, shape ({batch},); got {index.dtype} {tuple(index.shape)}. "
                "Let the loader return each sample's position in the training set, or leave it out."
            )
        if key is None:
            key = int(torch.randint(2**62, ()).item())
        noise = keys.uniform(key, index.to(images.device), self.stages * slots, working_dtype(images))
        return noise.view(batch, self.stages, slots)

    def _operate(self, images: Tensor, pick: Tensor, magnitude: Tensor, sign: Tensor) -> Tensor:  # (B, C, H, W)
        """Each image by its own operation; ``pick`` = N leaves it alone.

        The images are gathered operation by operation, the geometric ones first, which share one warp. The host asks
        the device once, for the size of the groups.
        """
        size, height, width = len(self._table), *images.shape[2:]
        order = torch.argsort(self.get_buffer("_rank")[pick], stable=True)
        counts: list[int] = torch.bincount(self.get_buffer("_rank")[pick], minlength=size + 1).tolist()
        rows, magnitudes, signs = (torch.split(v, counts) for v in (order, magnitude[order], sign[order]))
        pieces: list[Tensor] = []
        matrices: list[Tensor] = []
        for i, operation in enumerate(self._table):
            if counts[i] == 0:
                continue
            amount = operation.amount(magnitudes[i], signs[i])
            if operation.kind == "geometric":
                matrices.append(operation.function(amount, height, width))
            else:
                pieces.append(operation.function(images.index_select(0, rows[i]), amount))
        if matrices:
            geometric = order[: sum(len(m) for m in matrices)]
            pieces.insert(0, affine.warp(images.index_select(0, geometric), torch.cat(matrices)))
        if not pieces:
            return images
        if counts[size] == 0:
            return torch.cat(pieces).index_select(0, torch.argsort(order))
        return images.index_copy(0, order[: len(order) - counts[size]], torch.cat(pieces))

    def extra_repr(self) -> str:
        """The options, for ``print``."""
        return (
            f"stages={self.stages}, operations={list(self.operations)}, selection={self.selection!r}, "
            f"temperature={self.temperature}, selection_temperature={self.selection_temperature}"
        )
