"""Random resized crops on whole batches: the standard augmentation of large photographs."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hypergrad.augment.checks import working_dtype
from hypergrad.augment.standard import PerImage, below, interval
from hypergrad.errors import InvalidInputError


class ResizedCropFlip(PerImage):
    """A random part of each image, resized to a square, and mirrored at random (Szegedy et al., CVPR 2015, section 6).

    Area and aspect ratio are drawn, up to ten times, until the part, its sides rounded to whole pixels, fits into the
    image; an image that none of the ten fits gives its largest central square. Its place is uniform over those where
    it fits. Bilinear without a filter against aliasing, so the images should not be much larger than the result.

    Args:
        size: of the result's side, in pixels.
        area: of the part, as a share of the image's; uniform between the two.
        ratio: of width to height; log-uniform between the two.
        flip: whether to mirror left-right with probability 1/2.

    Raises:
        InvalidInputError: an option of a wrong type or range.

    Example:
        >>> import torch
        >>> ResizedCropFlip(24)(torch.rand(2, 3, 32, 40), key=0).shape
        torch.Size([2, 3, 24, 24])
    """

    attempts = 10
    slots = 3 + 2 * attempts

    def __init__(
        self,
        size: int,
        *,
        area: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InvalidInputError(f"size must be an integer of at least 1, in pixels; got {size!r}. Usual is 224.")
        if not isinstance(flip, bool):
            raise InvalidInputError(f"flip must be True (mirror with probability 1/2) or False; got {flip!r}.")
        self.size = size
        self.area = interval(area, "area", 1)
        self.ratio = interval(ratio, "ratio", math.inf)
        self.flip = flip

    def boxes(self, uniform: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Top, left, height and width of each image's part, integers ``(B,)``, from uniform numbers ``(B, slots)``."""
        areas, ratios = uniform[:, 3:].split(self.attempts, 1)
        area = (self.area[0] + (self.area[1] - self.area[0]) * areas) * (height * width)
        low, high = (math.log(r) for r in self.ratio)
        ratio = (low + (high - low) * ratios).exp()
        heights, widths = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()  # (B, attempts)
        fits = (heights >= 1) & (widths >= 1) & (heights <= height) & (widths <= width)
        first, found, side = fits.int().argmax(1, keepdim=True), fits.any(1), min(height, width)
        tall = torch.where(found, heights.gather(1, first)[:, 0], side)
        wide = torch.where(found, widths.gather(1, first)[:, 0], side)
        top = torch.where(found, below(uniform[:, 1], height - tall + 1), (height - side) // 2)
        left = torch.where(found, below(uniform[:, 2], width - wide + 1), (width - side) // 2)
        return top, left, tall, wide

    def augment(self, images: Tensor, uniform: Tensor) -> Tensor:
        """The parts, resized, by uniform numbers in (0, 1), ``(B, 23)``: flip, row, column, ten areas, ten ratios."""
        batch, channels, height, width = images.shape
        if images.numel() == 0:
            return images.new_zeros((batch, channels, self.size, self.size))
        dtype = torch.float32 if images.dtype == torch.uint8 else working_dtype(images)
        top, left, tall, wide = (v.to(dtype)[:, None] for v in self.boxes(uniform, height, width))
        # Centres of the result's pixels, as a share of the part's side.
        centres = ((torch.arange(self.size, dtype=dtype, device=images.device) + 0.5) / self.size)[None]  # (1, size)
        across = centres.expand(batch, -1)
        if self.flip:
            across = torch.where(uniform[:, :1] < 0.5, 1 - across, across)
        # Beyond the part there is more image: only at the image's own border is the outermost pixel repeated.
        x = (left + across * wide) * 2 / width - 1  # (B, size), in half sides about the centre
        y = (top + centres * tall) * 2 / height - 1
        grid = torch.stack((x[:, None, :].expand(-1, self.size, -1), y[:, :, None].expand(-1, -1, self.size)), -1)
        scaled = images.to(dtype)
        result = F.grid_sample(scaled, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return result.round().to(images.dtype) if images.dtype == torch.uint8 else result.to(images.dtype)

    def extra_repr(self) -> str:
        """The options, for ``print``."""
        return f"size={self.size}, area={self.area}, ratio={self.ratio}, flip={self.flip}"
