"""A few images of a run, kept beside its numbers: what it trained on, and what it got wrong."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.files import parse_json, write_atomically
from hypergrad.keys import derive
from hypergrad.optional import require
from hypergrad.vision import policies
from hypergrad.vision.evaluation import Mistake
from hypergrad.vision.splits import Part
from hypergrad.vision.training import TrainResult

#: In the run's folder.
FILE = "samples.safetensors"
SCHEMA = 1
#: Training images that are kept.
_IMAGES = 8
#: Larger images are made smaller, to so many pixels a side.
_SIDE = 96
#: Images of a file that is read; ours hold a few.
_MOST = 1000
_PURPOSE, _EXTRA = "Sample images of a run", "vision"


@dataclass(frozen=True)
class Samples:
    """Images of a run, 8-bit, ``(B, C, H, W)``, at most 96 pixels a side.

    Attributes:
        images: of the training set, in turn from each class.
        standard: the same after one draw of the standard augmentation, as the policy gets them.
        classes: their class numbers.
        mistakes: test images (validation images where there is no test set) whose class the network did not see, the
            most confident one first.
        answers: what the network took them for, one an image.
        part: ``test`` or ``val``, which of them the mistakes are from.
    """

    images: Tensor = field(repr=False)
    standard: Tensor = field(repr=False)
    classes: tuple[int, ...]
    mistakes: Tensor = field(repr=False)
    answers: tuple[Mistake, ...]
    part: str


def draw_samples(result: TrainResult) -> Samples:
    """Choose them; the same run gives the same images."""
    train, config = result.splits.train, result.config
    positions = _in_turn(train, _IMAGES)
    images, targets = train.draw(positions)
    standard = policies.standard(config.standard, result.splits)
    augmented = standard(images, key=derive(config.seed, "samples"), index=positions)
    part, name = (result.splits.val, "val") if result.splits.test is None else (result.splits.test, "test")
    answers = (result.val if result.test is None else result.test).mistakes
    wrong, _ = part.draw(torch.tensor([answer.position for answer in answers], dtype=torch.int64))
    return Samples(
        images=_small(images),
        standard=_small(augmented.cpu()),
        classes=tuple(targets.tolist()),
        mistakes=_small(wrong),
        answers=tuple(answers),
        part=name,
    )


def save_samples(samples: Samples, folder: Path) -> None:
    """Write them into a run's folder, as one file.

    Raises:
        MissingLibraryError: safetensors cannot be imported.
    """
    library = require("safetensors.torch", _PURPOSE, _EXTRA)
    content = {
        "schema": SCHEMA,
        "classes": samples.classes,
        "part": samples.part,
        "answers": [asdict(answer) for answer in samples.answers],
    }
    tensors = {"images": samples.images, "standard": samples.standard, "mistakes": samples.mistakes}
    # Copies: where the standard augmentation does nothing, it gives the same tensor, which the file cannot hold twice.
    packed = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    write_atomically(folder / FILE, library.save(packed, metadata={"samples": json.dumps(content)}))


def read_samples(folder: Path) -> Samples | None:
    """The samples in a run's folder; None where an earlier version left none.

    Raises:
        InvalidInputError: the file is broken.
        MissingLibraryError: safetensors cannot be imported.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    library = require("safetensors", _PURPOSE, _EXTRA)
    try:
        with library.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("images", "standard", "mistakes")}
            content = parse_json(file.metadata()["samples"].encode(), str(path))
        answers = tuple(Mistake(**answer) for answer in content["answers"])
        samples = Samples(**tensors, classes=tuple(content["classes"]), answers=answers, part=str(content["part"]))
        _check(samples)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, library.SafetensorError) as error:
        raise InvalidInputError(
            f"{path} cannot be read ({error}). Remove the file: the run's numbers do not need it."
        ) from error
    if len(samples.images) != len(samples.classes) or len(samples.mistakes) != len(answers):
        raise InvalidInputError(
            f"{path}: {len(samples.images)} images with {len(samples.classes)} classes, {len(samples.mistakes)} "
            f"mistakes with {len(answers)} answers. Remove the file: the run's numbers do not need it."
        )
    return samples


def _check(samples: Samples) -> None:
    """Raises ValueError where the file holds something else than pictures, class numbers and answers."""
    for images in (samples.images, samples.standard, samples.mistakes):
        small = images.ndim == 4 and max(images.shape[2:]) <= 4 * _SIDE and images.shape[1] in (1, 3)
        if images.dtype != torch.uint8 or not small or len(images) > _MOST:
            raise ValueError(f"its pictures are {images.dtype} of the shape {tuple(images.shape)}")
    numbers = [*samples.classes, *(n for a in samples.answers for n in (a.position, a.true, a.predicted))]
    if not all(type(n) is int and 0 <= n < 1 << 40 for n in numbers) or samples.part not in ("test", "val"):
        raise ValueError("its classes and answers are no numbers")
    if not all(type(a.probability) in (int, float) and 0 <= a.probability <= 1.001 for a in samples.answers):
        raise ValueError("its answers' probabilities are no probabilities")


def _in_turn(part: Part, most: int) -> Tensor:
    """Positions of the first image of each class, then of the second of each, and so on."""
    targets = part.targets[part.rows]
    rank = torch.zeros_like(targets)
    for label in targets.unique():
        mine = targets == label
        rank[mine] = torch.arange(int(mine.sum()))
    order = (rank * (int(targets.max()) + 1) + targets).argsort()
    return order[:most]


def _small(images: Tensor) -> Tensor:
    """Shrunk where they are large; 8-bit."""
    side = max(images.shape[2:])
    if side <= _SIDE or not len(images):
        return images
    size = [max(1, round(length * _SIDE / side)) for length in images.shape[2:]]
    smaller = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
    return smaller.round().clamp(0, 255).to(torch.uint8)
