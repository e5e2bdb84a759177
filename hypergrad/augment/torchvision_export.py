"""A policy as a transform for ``torchvision.transforms.v2``, without needing torchvision."""

import copy
import sys
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hypergrad import keys
from hypergrad.augment.checks import check_images, working_dtype
from hypergrad.augment.mixture import Choice, Mixture
from hypergrad.augment.pillow_export import apply_to_pillow, pillow_functions
from hypergrad.errors import InvalidInputError

#: Kinds of ``tv_tensors`` that say where in the image something is.
_ANNOTATIONS = ("BoundingBoxes", "Mask", "KeyPoints")


class Drawing(Protocol):
    """What is exported: a :class:`~hypergrad.augment.FixedPolicy`."""

    mixture: Mixture

    @property
    def slots(self) -> int:
        """How many uniform numbers an image needs."""
        ...

    def choose(self, uniform: Tensor) -> list[Choice]:
        """What each stage does to each image."""
        ...


class TorchvisionPolicy(nn.Module):
    """A policy with nothing to learn, on the samples that ``torchvision.transforms.v2`` passes on.

    A sample is a single value, or any nesting of dictionaries, lists and tuples. Its images are augmented and all else
    comes back as it was. As in v2 an image is a Pillow image, a ``tv_tensors.Image`` or a ``tv_tensors.Video``; only
    where there is none, the sample's first plain tensor is.

    - Tensors have the shape ``(..., C, H, W)`` and hold floats in [0, 1] or uint8 (rounded to its 256 levels at the
      end). Type and dtype stay.
    - Pillow images (mode "L" or "RGB") go through Pillow.
    - As in v2, one call draws once: all images of a sample, all frames of a video and all rows of a batch get the same
      operations. For operations per image, transform samples before they are batched, or call the policy itself.
    - Bounding boxes, masks and key points are refused where the policy has geometric operations, which would leave
      them in the wrong place.

    The noise comes from torch's global generator, whatever the images are, which a ``DataLoader`` seeds in each worker.

    Args:
        policy: a :class:`~hypergrad.augment.FixedPolicy`.

    Example:
        >>> import torch
        >>> from hypergrad.augment import trivial_augment_wide
        >>> image, label = trivial_augment_wide().to_torchvision()(torch.rand(3, 8, 8), 7)
        >>> image.shape, label
        (torch.Size([3, 8, 8]), 7)
    """

    def __init__(self, policy: Drawing) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *inputs: Any) -> Any:
        """The sample with its images augmented; several arguments come back as a tuple.

        Raises:
            InvalidInputError: an image of a shape, type, mode or range that cannot be used, an operation without a
                Pillow function for a Pillow image, or annotations that a geometric operation would make wrong.
        """
        sample: Any = inputs if len(inputs) != 1 else inputs[0]
        leaves: list[Any] = []
        _map(sample, leaves.append)
        self._refuse_annotations(leaves)
        explicit = any(_is_pillow(leaf) or _is_tv(leaf, "Image", "Video") for leaf in leaves)
        plain = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and not _is_tv(leaf, "TVTensor")]
        implied = -1 if explicit or not plain else plain[0]
        uniform = self._uniform()
        choices = self.policy.choose(uniform)
        position = iter(range(len(leaves)))

        def transform(leaf: Any) -> Any:
            # The second walk meets the leaves in the order of the first.
            i = next(position)
            if _is_pillow(leaf):
                return self._transform_pillow(leaf, choices)
            if i == implied or _is_tv(leaf, "Image", "Video"):
                return self._transform_tensor(leaf, choices)
            return leaf

        return _map(sample, transform)

    def _uniform(self) -> Tensor:  # (1, slots)
        key = int(torch.randint(2**62, ()).item())
        device = next(self.buffers()).device  # the policy's
        return keys.uniform(key, torch.zeros(1, dtype=torch.int64, device=device), self.policy.slots)

    def _refuse_annotations(self, leaves: list[Any]) -> None:
        geometric = [o.name for o in self.policy.mixture.operations if o.kind == "geometric"]
        for leaf in leaves:
            if geometric and _is_tv(leaf, *_ANNOTATIONS):
                raise InvalidInputError(
                    f"The sample holds {type(leaf).__name__}, which the policy's geometric operations "
                    f"({', '.join(geometric)}) would leave in the wrong place. Use a policy without them, or give the "
                    "transform the image alone."
                )

    def _transform_pillow(self, image: Any, choices: list[Choice]) -> Any:
        operations = self.policy.mixture.operations
        drawn = []
        for choice in choices:
            if int(choice.pick) < len(operations):
                operation = operations[int(choice.pick)]
                drawn.append((operation.name, operation.amount(choice.magnitude.double(), choice.sign).item()))
        return apply_to_pillow(image, drawn, pillow_functions(operations))

    def _transform_tensor(self, image: Tensor, choices: list[Choice]) -> Tensor:
        levels = image.dtype == torch.uint8
        if image.ndim < 3 or not (levels or image.is_floating_point()):
            raise InvalidInputError(
                f"An image must have the shape (..., C, H, W) and be of uint8, or of floats in [0, 1]; got "
                f"{image.dtype} {tuple(image.shape)}. Where a sample's first tensor is not the image, mark the image "
                "as torchvision.tv_tensors.Image."
            )
        # As a plain tensor, so that no operation has to ask torchvision what type its result is of.
        work = image.as_subclass(Tensor)
        work = work / 255 if levels else work
        work = work.reshape(-1, *image.shape[-3:]) if image.ndim != 4 else work
        check_images(work)
        dtype, rows = working_dtype(work), len(work)
        result = work.to(dtype)
        for choice in choices:
            magnitude, sign = choice.magnitude.to(dtype), choice.sign.to(dtype)
            result = self.policy.mixture(
                result, Choice(choice.pick.expand(rows), magnitude.expand(rows), sign.expand(rows))
            )
        result = (result * 255).round() if levels else result
        result = result.to(image.dtype).reshape(image.shape)
        return _tv().wrap(result, like=image) if _is_tv(image, "TVTensor") else result


def _tv() -> Any:
    """torchvision's types, when somebody has loaded them: nothing can be of one before that."""
    return sys.modules.get("torchvision.tv_tensors")


def _is_tv(leaf: Any, *names: str) -> bool:
    types = tuple(t for name in names if (t := getattr(_tv(), name, None)) is not None)
    return isinstance(leaf, types)


def _is_pillow(leaf: Any) -> bool:
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(leaf, pil.Image)


def _map(sample: Any, function: Callable[[Any], Any]) -> Any:
    """The sample with every value that is not a dictionary, list or tuple replaced by the function's."""
    if isinstance(sample, dict):
        result = copy.copy(sample)  # what kind of dictionary it is, and a default that it may have
        for name, value in sample.items():
            result[name] = _map(value, function)
        return result
    if isinstance(sample, list | tuple):
        members = [_map(value, function) for value in sample]
        # A named tuple takes its fields one by one.
        return type(sample)(*members) if hasattr(sample, "_fields") else type(sample)(members)
    return function(sample)
