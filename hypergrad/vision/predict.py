"""A finished run as a classifier: ``load(run).predict(image)``."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.files import Field, read_json, short
from hypergrad.optional import require
from hypergrad.vision.data.pictures import Picture, decode, rgb, square
from hypergrad.vision.models import build_model
from hypergrad.vision.models.normalised import Normalised
from hypergrad.vision.run import SCHEMA

#: Of sides in pixels, channels and the numbers among a network's options.
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Prediction:
    """What a network takes an image for.

    Attributes:
        label: the likeliest class.
        probability: its probability, by the network.
        probabilities: of every class, in the order of the classes.
    """

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Description:
    """What a network's inputs and outputs are; stored beside its tensors.

    Attributes:
        name, options: of the network, for :func:`hypergrad.vision.models.build_model`.
        classes: names, in the order of the outputs.
        channels: of an image, 1 or 3.
        side: height and width that an image is resized to, its shorter side first, then cut at the centre.
        pad_to: padded with black to this side afterwards; None: not padded.
        crop: central part that the network sees; None: all.
        mean, std: per channel, in [0, 1].
    """

    name: str
    options: dict[str, Any]
    classes: tuple[str, ...]
    channels: int
    side: int
    pad_to: int | None
    crop: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Classifier:
    """A network with what it needs to look at a picture.

    Args:
        network: takes images in [0, 1], in eval mode.
        description: its preprocessing and classes.
    """

    def __init__(self, network: nn.Module, description: Description) -> None:
        self.network = network.eval()
        self.description = description

    def predict(self, image: Any) -> Prediction:
        """The class of one image.

        Args:
            image: a path, a Pillow image, or a tensor: floats in [0, 1] or 8-bit, ``(C, H, W)``.

        Raises:
            InvalidInputError: an image that cannot be read, or has another number of channels.
        """
        return self.predict_many([image])[0]

    @torch.no_grad()
    def predict_many(self, images: Sequence[Any]) -> list[Prediction]:
        """The classes of several images, see :meth:`predict`."""
        if not images:
            return []
        batch = torch.stack([self.prepare(image) for image in images])
        device = next(self.network.parameters()).device
        rows = F.softmax(self.network(batch.to(device)).float(), 1).cpu()
        found = []
        for row in rows:
            best = int(row.argmax())
            named = dict(zip(self.description.classes, row.tolist(), strict=True))
            found.append(Prediction(self.description.classes[best], float(row[best]), named))
        return found

    def prepare(self, image: Any) -> Tensor:  # (C, side, side)
        """The image as the network sees it: floats in [0, 1]; pictures are decoded as those that it was trained on."""
        d = self.description
        pixels = _tensor(image, d.channels) if isinstance(image, Tensor) else _picture(image, d.channels, d.side)
        height, width = pixels.shape[1:]
        if (height, width) != (d.side, d.side):
            short = min(height, width)
            pixels = _central(pixels, short)[None]
            pixels = F.interpolate(pixels, (d.side, d.side), mode="bilinear", antialias=True, align_corners=False)[0]
            pixels = pixels.clamp(0, 1)
        if d.pad_to is not None:
            before, after = (d.pad_to - d.side) // 2, (d.pad_to - d.side + 1) // 2
            pixels = F.pad(pixels, (before, after, before, after))
        return pixels if d.crop is None else _central(pixels, d.crop)


def _central(pixels: Tensor, side: int) -> Tensor:
    top, left = (pixels.shape[1] - side) // 2, (pixels.shape[2] - side) // 2
    return pixels[:, top : top + side, left : left + side]


def _tensor(image: Tensor, channels: int) -> Tensor:  # (C, H, W), floats in [0, 1]
    pixels = image if image.is_floating_point() else image.float() / 255
    if pixels.ndim != 3 or pixels.shape[0] not in (channels, 1):
        raise InvalidInputError(
            f"An image must have the shape ({channels}, H, W); got {tuple(image.shape)}. Give one image at a time."
        )
    return pixels.float().expand(channels, -1, -1)


def _picture(image: Any, channels: int, side: int) -> Tensor:  # (C, side, side), floats in [0, 1]
    if isinstance(image, str | Path):
        found = decode(Picture(str(image), Path(image)), side)
        if isinstance(found, str):
            raise InvalidInputError(f"{image} cannot be read as a picture ({found}).")
    elif hasattr(image, "convert"):
        found = square(rgb(image), side)
    else:
        raise InvalidInputError(
            f"An image is a path, a Pillow image or a tensor (C, H, W); got {type(image).__name__}."
        )
    pixels = torch.from_numpy(found)
    # Grey pictures have three equal channels; of coloured ones the luminance, as Pillow's mode "L".
    return (pixels.float() if channels == 3 else _luminance(pixels)) / 255


def _luminance(pixels: Tensor) -> Tensor:  # (3, H, W) -> (1, H, W), 0 to 255
    if torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2]):
        return pixels[:1].float()
    red, green, blue = pixels.float()
    grey: Tensor = 0.299 * red + 0.587 * green + 0.114 * blue
    return grey.round()[None]


def load(run: str | Path, *, device: str = "cpu", trust_code: bool = False) -> Classifier:
    """The classifier that a finished run left.

    Args:
        run: its folder.
        device: where the network lives.
        trust_code: import the network that the run names by an import path (``"package.module:Name"``). The file that
            names it may be anybody's, and whatever it names would be imported and called.

    Raises:
        InvalidInputError: no finished run there, a damaged file, or a network by an import path without
            ``trust_code``.
    """
    run = Path(run)
    if not (run / "model.json").is_file():
        raise InvalidInputError(f"{run} holds no network (model.json is missing): no run, or one that did not finish.")
    content = read_json(run / "model.json").value
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InvalidInputError(f"{run / 'model.json'} has not the schema {SCHEMA} that this version reads.")
    description = _description(Field(str(run / "model.json"), "", content))
    if ":" in description.name and not trust_code:
        raise InvalidInputError(
            f"{run / 'model.json'} names the network {short(description.name)} by an import path, which would run the "
            "code there. If the run is yours, give trust_code=True (--trust-code)."
        )
    safetensors = require("safetensors.torch", "Reading a network", "vision")
    path = run / "model.safetensors"
    try:
        size = path.stat().st_size
        tensors = safetensors.load_file(path)
    except (OSError, RuntimeError, require("safetensors", "Reading a network", "vision").SafetensorError) as error:
        raise InvalidInputError(f"{path} cannot be read ({error}). The run's folder is incomplete.") from error
    if _numbers(description.options) > size:
        # Each channel and each layer has at least a number in the file: no network that fits is built for nothing.
        raise InvalidInputError(f"{run / 'model.json'}: the options do not fit {path.name}, which has {size} bytes.")
    model = _built(run / "model.json", description)
    network = Normalised(model, description.mean, description.std)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InvalidInputError(f"{path} cannot be read into {description.name} ({error}).") from error
    return Classifier(network.to(device), description)


def _built(file: Path, description: Description) -> nn.Module:
    try:
        return build_model(
            description.name,
            num_classes=len(description.classes),
            channels=description.channels,
            image_size=description.crop or description.pad_to or description.side,
            **description.options,
        )
    except UnknownNameError as error:
        raise UnknownNameError(f"{file}: {error}") from error
    except InvalidInputError as error:
        raise InvalidInputError(f"{file}: {error}") from error


def _description(held: Field) -> Description:
    found = held.fields(*(f.name for f in fields(Description)), optional=("schema",))

    def side(name: str, least: int) -> int:
        found[name].number(least, _LARGEST)
        return found[name].integer(least)

    def optional(name: str) -> int | None:
        return None if found[name].value is None else side(name, 1)

    channels = side("channels", 1)
    if not isinstance(found["options"].value, dict):
        raise found["options"].error("an object")
    for option, value in found["options"].value.items():
        one = found["options"].member(option)
        if not isinstance(value, str | bool):
            for number in one.items() if isinstance(value, list) else [one]:
                number.number(-_LARGEST, _LARGEST)
        if option in ("name", "num_classes", "channels", "image_size"):
            raise one.error("left out: it follows from the rest")
    return Description(
        name=found["name"].text(),
        options=found["options"].value,
        classes=tuple(one.text() for one in found["classes"].items()),
        channels=channels,
        side=side("side", 1),
        pad_to=optional("pad_to"),
        crop=optional("crop"),
        mean=tuple(one.number(0, 1) for one in found["mean"].items(channels)),
        std=tuple(one.positive() for one in found["std"].items(channels)),
    )


def _numbers(options: dict[str, Any]) -> float:
    """The largest number among a network's options."""
    flat = [n for v in options.values() for n in (v if isinstance(v, list) else [v])]
    return max((abs(n) for n in flat if isinstance(n, int | float)), default=0)
