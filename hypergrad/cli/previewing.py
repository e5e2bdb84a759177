"""``hypergrad preview``."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hypergrad import augment
from hypergrad.augment import FixedPolicy, Policy, load_policy
from hypergrad.cli.parsing import Parser
from hypergrad.cli.statuses import DONE
from hypergrad.errors import InvalidInputError
from hypergrad.optional import require
from hypergrad.vision.data import read_dataset
from hypergrad.vision.data.pictures import PURPOSE, Picture, decode

_NAMED: dict[str, Callable[[], Policy | FixedPolicy]] = {
    "randaugment": augment.rand_augment,
    "trivialaugment": augment.trivial_augment_wide,
    "autoaugment": augment.auto_augment,
    "madao": Policy,
}

_EPILOG = """\
examples:
  hypergrad preview runs/first --output policy.png
  hypergrad preview policy.json --images cat.jpg dog.jpg --output policy.pdf
  hypergrad preview --policy randaugment --data fashion-mnist --output randaugment.png
"""


def preview_command(arguments: Sequence[str]) -> int:
    """Draw a policy; the exit status."""
    parser = Parser("hypergrad preview", description="Draw what a policy of augmentation does.", epilog=_EPILOG)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("file", type=Path, nargs="?", metavar="POLICY", help="a saved policy, or the folder of a run")
    which.add_argument("--policy", choices=sorted(_NAMED), help="a published policy, or madao's as it starts")
    on = parser.add_mutually_exclusive_group()
    on.add_argument("--data", default="digits", metavar="NAME", help="data set to draw it on (default: digits)")
    on.add_argument("--images", type=Path, nargs="+", metavar="FILE", help="image files to draw it on")
    parser.add_argument("--data.root", dest="root", type=Path, metavar="DIR", help="folder of the data set's files")
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels a side; files: 96 by default")
    parser.add_argument("--count", type=int, default=6, metavar="N", help="images of the data set, 1 to 8 (default: 6)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the picture, .png, .pdf or .svg")
    parsed = parser.parse_args(arguments)
    if not 1 <= parsed.count <= 8:
        raise InvalidInputError(f"--count must be 1 to 8; got {parsed.count}.")
    policy = _NAMED[parsed.policy]() if parsed.policy else _saved(parsed.file)
    if parsed.images:
        images = _pictures(parsed.images, parsed.image_size or 96)
    else:
        images = _examples(parsed.data, parsed.root, parsed.image_size, parsed.count)
    policy.preview(images, parsed.output, key=parsed.seed)
    print(parsed.output)
    return DONE


def _saved(path: Path) -> Policy | FixedPolicy:
    """A policy from a file, whichever kind it is, or from a run's folder.

    Raises:
        InvalidInputError: none there, or a file that cannot be read as one.
    """
    if path.is_dir():
        if not (path / "policy.json").is_file():
            raise InvalidInputError(
                f"{path} holds no policy.json: no run, one that did not finish, or one without a policy. Give a run's "
                "folder, or the file of a policy."
            )
        path = path / "policy.json"
    return load_policy(path)


def _pictures(files: Sequence[Path], side: int) -> Tensor:  # (B, 3, side, side)
    if side < 1:
        raise InvalidInputError(f"--image-size must be at least 1; got {side}.")
    require("PIL.Image", PURPOSE, "vision")
    found = []
    for file in files:
        pixels = decode(Picture(str(file), file), side)
        if isinstance(pixels, str):
            raise InvalidInputError(f"{file} cannot be read as a picture ({pixels}).")
        found.append(torch.from_numpy(pixels))
    return torch.stack(found).float() / 255


def _examples(name: str, root: Path | None, side: int | None, count: int) -> Tensor:  # (B, C, H, W)
    """One training image of each of the first classes."""
    train = read_dataset(name, root, image_size=side).train
    rows = [int((train.targets == label).nonzero()[0]) for label in train.targets.unique()[:count]]
    return train.images[torch.tensor(rows)].float() / 255
