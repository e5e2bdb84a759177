"""Emoji in two drawing styles: a set with a true shift between training and test, small and free."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.files import parse_json, short
from hypergrad.optional import require
from hypergrad.vision.data.archives import read_file
from hypergrad.vision.data.base import Dataset, ImageSet, channel_statistics, missing, need_root
from hypergrad.vision.data.pictures import opened
from hypergrad.vision.data.splits import resize_images, stratified_split

HOME = (
    "https://github.com/iamcal/emoji-data (npm packages emoji-datasource-google and emoji-datasource-twitter, 16.0.0)"
)
SIZE = 32
#: Pixels from one picture of the sheet to the next: each has a border of one pixel.
STRIDE = SIZE + 2
#: A category of five parts of emoji (skin tones), which are no pictures of their own.
LEFT_OUT = "Component"


@dataclass(frozen=True)
class _Emoji:
    """One picture: its category, which emoji it is a variant of, and its place on the sheet in cells."""

    category: str
    base: str
    x: int
    y: int


def read_emoji(root: Path | None, *, image_size: int | None, split_seed: int = 0) -> Dataset:
    """Emoji of 32 x 32 pixels, 9 categories; training in Google's style, validation and test in Twitter's.

    All emoji are in the training part. Those of the other style are split in half, stratified by category, where
    variants of one emoji by skin tone go to the same half. Transparent pixels lie over white.

    Args:
        root: folder of the unpacked packages ``emoji-datasource-google`` and ``emoji-datasource-twitter``, each with
            ``emoji.json`` and ``img/<style>/sheets/32.png``.
        image_size: pixels a side; None is 32.
        split_seed: of the split into validation and test.

    Raises:
        InvalidInputError: a file is missing or damaged.
        MissingLibraryError: Pillow is not installed.
    """
    folder = need_root("emoji", root, "emoji-datasource-google/ and emoji-datasource-twitter/", HOME)
    google, google_images = _read_style(folder, "google")
    twitter, twitter_images = _read_style(folder, "twitter")
    classes = sorted({emoji.category for emoji in google})
    unknown = sorted({emoji.category for emoji in twitter} - set(classes))
    if unknown:
        raise InvalidInputError(
            f"{folder}: only Twitter's emoji have the category {short(unknown[0])}; the other emoji.json lacks it. Get "
            "both anew."
        )
    if image_size is not None:
        google_images, twitter_images = (resize_images(x, image_size) for x in (google_images, twitter_images))
    numbers = {name: label for label, name in enumerate(classes)}
    train = ImageSet(google_images, torch.tensor([numbers[emoji.category] for emoji in google]))
    other = ImageSet(twitter_images, torch.tensor([numbers[emoji.category] for emoji in twitter]))
    test_rows, val_rows = _halves(twitter, numbers, split_seed)
    mean, std = channel_statistics(train.images)
    return Dataset("emoji", tuple(classes), train, other.take(test_rows), other.take(val_rows), mean=mean, std=std)


def _halves(emojis: list[_Emoji], numbers: dict[str, int], seed: int) -> tuple[Tensor, Tensor]:
    """Rows of two halves; variants of one emoji stay together."""
    bases = {emoji.base: numbers[emoji.category] for emoji in emojis}
    _, held_out = stratified_split(torch.tensor(list(bases.values())), 0.5, seed=seed)
    names = list(bases)
    chosen = {names[row] for row in held_out.tolist()}
    mask = torch.tensor([emoji.base in chosen for emoji in emojis])
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def _read_style(folder: Path, style: str) -> tuple[list[_Emoji], Tensor]:
    package = folder / f"emoji-datasource-{style}"
    names = package / "emoji.json"
    sheet = package / "img" / style / "sheets" / f"{SIZE}.png"
    for file in (names, sheet):
        if not file.is_file():
            raise missing(str(file.relative_to(folder)), folder, HOME)
    try:
        emojis = _parse(parse_json(read_file(names), str(names)), f"has_img_{style}")
    except InvalidInputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidInputError(
            f"{names} is not the list of emoji of version 16 ({type(error).__name__}: {error}). Get it anew."
        ) from error
    pixels = _read_sheet(sheet)
    cells = min(pixels.shape[:2]) // STRIDE
    outside = [emoji for emoji in emojis if not (0 <= emoji.x < cells and 0 <= emoji.y < cells)]
    if not emojis or outside:
        place = f"names column {outside[0].x}, row {outside[0].y}" if outside else "names no picture"
        raise InvalidInputError(
            f"{names} {place}; {sheet} holds {cells} x {cells} pictures. They are of different versions: get both anew."
        )
    images = np.stack([_cell(pixels, emoji) for emoji in emojis]).transpose(0, 3, 1, 2)
    return emojis, torch.from_numpy(np.ascontiguousarray(images))


def _parse(entries: list[dict[str, Any]], has_image: str) -> list[_Emoji]:
    """Emoji and their variants by skin tone, as far as the style has a picture of them."""
    found = []
    for entry in entries:
        if entry["category"] == LEFT_OUT:
            continue
        for variant in (entry, *entry.get("skin_variations", {}).values()):
            if variant[has_image]:
                x, y = int(variant["sheet_x"]), int(variant["sheet_y"])
                found.append(_Emoji(str(entry["category"]), str(entry["unified"]), x, y))
    return found


def _read_sheet(sheet: Path) -> Any:  # (H, W, 3), bytes
    image = require("PIL.Image", "The data set 'emoji'", "vision")
    try:
        with opened(sheet) as held:
            picture = held.convert("RGBA")
    except Exception as error:  # a damaged file raises almost anything
        raise InvalidInputError(
            f"{sheet} cannot be decoded ({error}); it is damaged or cut short. Get it anew."
        ) from error
    white = image.new("RGBA", picture.size, (255, 255, 255, 255))
    return np.asarray(image.alpha_composite(white, picture).convert("RGB"))


def _cell(pixels: Any, emoji: _Emoji) -> Any:
    top, left = emoji.y * STRIDE + 1, emoji.x * STRIDE + 1
    return pixels[top : top + SIZE, left : left + SIZE]
