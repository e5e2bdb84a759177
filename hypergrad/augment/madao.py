"""MADAO: the augmentation policy as a hyperparameter family."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hypergrad import keys
from hypergrad.augment.operations import PAPER_OPERATIONS, Operation, StraightThrough
from hypergrad.augment.policy import Policy, Selection
from hypergrad.errors import InvalidInputError
from hypergrad.families.base import Context, HyperparameterFamily


class Madao(HyperparameterFamily):
    """Augment the training images by a :class:`~hypergrad.augment.Policy` whose pi, mu and p are learnt.

    Args:
        stages, operations, ranges, group_size, selection, temperature, selection_temperature, straight_through: of
            the policy.
        mean, std: what the loader normalises by, one number or one per channel: images are brought back to [0, 1],
            augmented, and normalised again.

    Raises:
        InvalidInputError: an option of a wrong type or range, or (in use) images that cannot be augmented.
        UnknownNameError: an operation that is not registered.

    Example:
        >>> family = Madao(stages=2, operations=["Rotate", "Solarize"])
        >>> family.values()["mu"].tolist()
        [[0.5, 0.5], [0.5, 0.5]]

    Reference: Hataya et al., Meta Approach to Data Augmentation Optimization, WACV 2022.
    """

    def __init__(
        self,
        *,
        stages: int = 2,
        operations: Sequence[str | Operation] = PAPER_OPERATIONS,
        ranges: str = "madao",
        group_size: int = 1,
        selection: Selection = "unbiased",
        temperature: float = 0.5,
        selection_temperature: float | None = None,
        straight_through: StraightThrough = "surrogate",
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        self.policy = Policy(
            stages,
            operations,
            ranges=ranges,
            group_size=group_size,
            selection=selection,
            temperature=temperature,
            selection_temperature=selection_temperature,
            straight_through=straight_through,
        )
        means, stds = _per_channel(mean, "mean"), _per_channel(std, "std")
        if not bool((stds > 0).all()):
            raise InvalidInputError(f"std must be positive; got {std!r}. Give the std that the loader divides by.")
        # Buffers, so that they move with the module; not saved, because they describe the loader.
        self.register_buffer("_mean", means, persistent=False)
        self.register_buffer("_std", stds, persistent=False)
        self._normalised = bool((means != 0).any() or (stds != 1).any())

    def transform(
        self, inputs: Tensor, targets: Tensor, ctx: Context
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Augmented images ``(B, C, H, W)``; with the picks' log-probability ``(B,)`` when soft and unbiased."""
        images = self._denormalise(inputs) if self._normalised else inputs
        # A stream of its own: other families of the same composition draw from ctx.key as well.
        key = keys.derive(ctx.key, "madao")
        images, log_prob = self.policy.draw(images, soft=ctx.soft, key=key, index=ctx.index)
        if self._normalised:
            mean, std = self._statistics(images)
            images = (images - mean) / std
        if ctx.soft and self.policy.selection == "unbiased":
            return images, targets, self._for_leave_one_out(log_prob)
        return images, targets

    def values(self) -> dict[str, Tensor]:
        """The constrained values ``pi``, ``mu`` and ``p``, each ``(K, N)``, detached."""
        return self.policy.values()

    def _for_leave_one_out(self, log_prob: Tensor) -> Tensor:  # (B,)
        """The log-probability with the gradient that the core's leave-one-out baseline needs when images share picks.

        The baseline of an image, the mean loss of the B - 1 others, then holds the G - 1 others of its group, whose
        losses depend on the same pick; that takes (G - 1) / (B - 1) from the gradient, which is given back here. A
        batch of a single group has no baseline and no gradient.
        """
        batch, size = len(log_prob), self.policy.group_size
        if size == 1 or batch <= size:
            return log_prob
        rows = torch.arange(batch, device=log_prob.device)
        group = (batch - (rows - rows % size)).clamp(max=size)  # (B,), smaller for the last one
        scale = (batch - 1) / (batch - group).to(log_prob.dtype)
        return log_prob.detach() + scale * (log_prob - log_prob.detach())

    def _statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:  # (1, C, 1, 1) each
        mean, std = self.get_buffer("_mean").to(images), self.get_buffer("_std").to(images)
        return mean, std

    def _denormalise(self, inputs: Tensor) -> Tensor:
        if not isinstance(inputs, Tensor) or inputs.ndim != 4 or not inputs.is_floating_point():
            return inputs  # the policy refuses it, and says why
        mean, std = self._statistics(inputs)
        for name, value in (("mean", mean), ("std", std)):
            if value.shape[1] not in (1, inputs.shape[1]):
                raise InvalidInputError(
                    f"{name} has {value.shape[1]} values, but the images have {inputs.shape[1]} channels; "
                    "give one number, or one per channel."
                )
        images = inputs * std + mean
        # Undoing a normalisation misses the bounds by rounding; anything further out is left for the policy to refuse.
        eps = max(torch.finfo(inputs.dtype).eps, torch.finfo(torch.float32).eps)  # the statistics may be in float32
        slack = 4 * eps * (1 + std + mean.abs())
        near = images.clamp(0, 1)
        return torch.where((images - near).abs() <= slack, near, images)


def _per_channel(value: float | Sequence[float], name: str) -> Tensor:  # (1, C or 1, 1, 1)
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"{name} must be a number or one per channel; got {value!r}.") from error
    if tensor.ndim > 1 or tensor.numel() == 0 or not bool(tensor.isfinite().all()):
        raise InvalidInputError(f"{name} must be a finite number or one per channel; got {value!r}.")
    return tensor.reshape(1, -1, 1, 1).to(torch.get_default_dtype())
