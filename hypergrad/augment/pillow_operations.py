"""The operations on one Pillow image: what an exported policy applies in a loader's workers.

Each takes an 8-bit image (mode "L" or "RGB") and the amount in the operation's unit, as the tensor version does, and
agrees with it to one level (geometric ones: where all four neighbours lie inside; at the border Pillow repeats the
outermost pixel, the tensor version fades to black).
"""

import math
from collections.abc import Callable
from typing import Any

from hypergrad.optional import require

#: An image of Pillow; not named by its type, because Pillow is optional.
Picture = Any


def _pillow(module: str) -> Any:
    return require(f"PIL.{module}", "Augmenting Pillow images", "images")


def _warp(image: Picture, coefficients: tuple[float, ...]) -> Picture:
    pil = _pillow("Image")
    return image.transform(image.size, pil.Transform.AFFINE, coefficients, pil.Resampling.BILINEAR)


def shear_x(image: Picture, slope: float) -> Picture:
    """About the centre, as the tensor version; Pillow's own pivot is the corner."""
    return _warp(image, (1, slope, -slope * image.height / 2, 0, 1, 0))


def shear_y(image: Picture, slope: float) -> Picture:
    """About the centre."""
    return _warp(image, (1, 0, 0, slope, 1, -slope * image.width / 2))


def translate_x(image: Picture, fraction: float) -> Picture:
    """By a fraction of the width."""
    return translate_x_pixels(image, fraction * image.width)


def translate_y(image: Picture, fraction: float) -> Picture:
    """By a fraction of the height."""
    return translate_y_pixels(image, fraction * image.height)


def translate_x_pixels(image: Picture, pixels: float) -> Picture:
    """By pixels."""
    return _warp(image, (1, 0, pixels, 0, 1, 0))


def translate_y_pixels(image: Picture, pixels: float) -> Picture:
    """By pixels."""
    return _warp(image, (1, 0, 0, 0, 1, pixels))


def rotate(image: Picture, degrees: float) -> Picture:
    """Counter-clockwise."""
    return image.rotate(degrees, _pillow("Image").Resampling.BILINEAR)


def _blend(image: Picture, other: Picture, strength: float) -> Picture:
    return _pillow("Image").blend(image, other, strength)


def invert(image: Picture, strength: float) -> Picture:
    """Blended by the strength's square, as the tensor version."""
    return _blend(image, _pillow("ImageOps").invert(image), strength**2)


def autocontrast(image: Picture, strength: float) -> Picture:
    """Blended by the strength."""
    return _blend(image, _pillow("ImageOps").autocontrast(image), strength)


def equalize(image: Picture, strength: float) -> Picture:
    """Blended by the strength."""
    return _blend(image, _pillow("ImageOps").equalize(image), strength)


def solarize(image: Picture, threshold: float) -> Picture:
    """Invert the levels at or above ``255 * threshold``."""
    return _pillow("ImageOps").solarize(image, math.ceil(255 * threshold))


def posterize(image: Picture, bits: float) -> Picture:
    """Keep the rounded number of bits."""
    return _pillow("ImageOps").posterize(image, round(bits))


def color(image: Picture, factor: float) -> Picture:
    """Saturation."""
    return _pillow("ImageEnhance").Color(image).enhance(factor)


def contrast(image: Picture, factor: float) -> Picture:
    """About the mean luminance."""
    return _pillow("ImageEnhance").Contrast(image).enhance(factor)


def brightness(image: Picture, factor: float) -> Picture:
    """About black."""
    return _pillow("ImageEnhance").Brightness(image).enhance(factor)


def sharpness(image: Picture, factor: float) -> Picture:
    """About the smoothed image."""
    return _pillow("ImageEnhance").Sharpness(image).enhance(factor)


def identity(image: Picture, amount: float) -> Picture:
    """The image itself."""
    return image


#: By the operation's name.
FUNCTIONS: dict[str, Callable[[Picture, float], Picture]] = {
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
    "Invert": invert,
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Solarize": solarize,
    "Color": color,
    "Posterize": posterize,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "Identity": identity,
}
