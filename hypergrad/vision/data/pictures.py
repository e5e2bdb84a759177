"""One image file, of whatever kind, to one square of 8-bit RGB pixels."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypergrad.files import open_regular
from hypergrad.optional import require

Pixels = NDArray[np.uint8]
PURPOSE = "Decoding image files"
#: What Pillow is let try, by content and not by name. Of the others, EPS is a program in PostScript, which Pillow would
#: have Ghostscript run, and many have decoders that nobody looks after.
FORMATS = frozenset(
    {"AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP"}
)
#: Pixels of a picture that is decoded at most, a quarter of a gigabyte in RGB: Pillow's own threshold of a warning.
LARGEST = 89_478_485


@dataclass(frozen=True)
class Picture:
    """An image file to be decoded.

    Attributes:
        name: for messages and for the list of what was decoded.
        source: its path, or its content.
        cut_bottom: rows of pixels to be cut off at the bottom before anything else.
    """

    name: str
    source: Path | bytes
    cut_bottom: int = 0


def decode(picture: Picture, side: int) -> Pixels | str:
    """The central square of a picture, ``side`` pixels a side.

    The picture is turned as its EXIF orientation says. Of an animation the first frame is taken. Transparent pixels lie
    over white; palettes, grey, CMYK and 16-bit grey (by its upper 8 bits) become 8-bit RGB. Then the shorter side is
    scaled to ``side``, bilinear and antialiased, and the centre of the longer one is kept.

    Returns:
        Bytes of shape ``(3, side, side)``; or, if the file cannot be decoded to its end, what is wrong with it.
    """
    operations = require("PIL.ImageOps", PURPOSE, "vision")
    try:
        with opened(picture.source) as held:
            found = rgb(operations.exif_transpose(held))
        width, height = found.width, found.height - picture.cut_bottom
        if height < 1:
            return f"it is {found.height} pixels high, of which {picture.cut_bottom} are to be cut off"
        # Cut off beforehand, because the filter reaches beyond the box.
        found = found.crop((0, 0, width, height)) if picture.cut_bottom else found
        return square(found, side)
    except MemoryError:
        raise  # no fault of the file
    except Exception as error:  # decoders raise almost anything on a damaged file
        return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def opened(source: Path | bytes) -> Iterator[Any]:
    """An image file as an image of Pillow, of a known format and size; not yet decoded.

    Raises:
        OSError, ValueError: it is none; Pillow raises almost anything on a damaged file.
        MissingLibraryError: Pillow is not installed.
    """
    image = require("PIL.Image", PURPOSE, "vision")
    image.init()
    formats = [name for name in image.OPEN if name in FORMATS]
    # Pillow warns of odd metadata; what cannot be decoded raises, and that is what matters here.
    with warnings.catch_warnings(), io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
        warnings.simplefilter("ignore")
        with image.open(file, formats=formats) as found:
            if found.width * found.height > LARGEST:
                raise ValueError(
                    f"it has {found.width} x {found.height} pixels, and at most {LARGEST:,d} are decoded; scale it down"
                )
            yield found


def square(found: Any, side: int) -> Pixels:  # (3, side, side)
    """The central square of an RGB image of Pillow, scaled bilinearly and antialiased."""
    image = require("PIL.Image", PURPOSE, "vision")
    short = min(found.width, found.height)
    left, top = (found.width - short) / 2, (found.height - short) / 2
    box = (left, top, left + short, top + short)
    scaled = found.resize((side, side), image.Resampling.BILINEAR, box=box)
    return np.ascontiguousarray(np.asarray(scaled, dtype=np.uint8).transpose(2, 0, 1))


def rgb(found: Any) -> Any:
    """An image of Pillow of any mode as RGB, as :func:`decode` says.

    Raises:
        ValueError: pixels whose range is not known (floating point, 32 bits).
    """
    image = require("PIL.Image", PURPOSE, "vision")
    if found.mode.startswith("I;16"):
        # By Pillow's own conversion everything above 255 would be white.
        return image.fromarray((np.asarray(found) >> 8).astype(np.uint8)).convert("RGB")
    if found.mode == "I":
        levels = np.asarray(found)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            raise ValueError("its pixels have 32 bits, whose range is not known; save it with 8 or 16 bits")
        return image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
    if found.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known; save it with 8 bits")
    if found.has_transparency_data:
        picture = found.convert("RGBA")
        white = image.new("RGBA", picture.size, (255, 255, 255, 255))
        return image.alpha_composite(white, picture).convert("RGB")
    return found.convert("RGB")
