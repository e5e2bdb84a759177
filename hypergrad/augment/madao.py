"""MADAO: the augmentation policy as a hyperparameter family."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hypergrad import keys
from hypergrad.augment.operations import PAPER_OPERATIONS
from hypergrad.augment.policy import Policy, Selection
from hypergrad.errors import InvalidInputError
from hypergrad.families.base import Context, HyperparameterFamily


class Madao(HyperparameterFamily):
    """Augment the training images by a :class:`~hypergrad.augment.Policy` whose pi, mu and p are learnt.

    Args:
        stages, operations, selection, temperature, selection_temperature: of the policy.
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
        operations: Sequence[str] = PAPER_OPERATIONS,
        selection: Selection = "unbiased",
        temperature: float = 0.5,
        selection_temperature: float | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        self.policy = Policy(
            stages,
            operations,
            selection=selection,
            temperature=temperature,
            selection_temperature=selection_temperature,
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
            return images, targets, log_prob
        return images, targets

    def values(self) -> dict[str, Tensor]:
        """The constrained values ``pi``, ``mu`` and ``p``, each ``(K, N)``, detached."""
        return self.policy.values()

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
