"""``hypergrad evaluate``."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hypergrad.cli.console import print_table
from hypergrad.cli.devices import add_device, add_trust, chosen_device
from hypergrad.cli.parsing import Parser
from hypergrad.cli.statuses import DONE
from hypergrad.errors import InvalidInputError
from hypergrad.keys import derive
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.data import Dataset, ImageSet, pad_images, read_dataset, to_channels
from hypergrad.vision.evaluation import Evaluation, evaluate
from hypergrad.vision.predict import Description, load
from hypergrad.vision.run import read_run
from hypergrad.vision.splits import Part, make_splits

_EPILOG = """\
On the run's own data, `test` and `val` are the images that the run held out. Other data must have the same classes;
of it, `test` and `val` are the publisher's parts, and a set without parts is evaluated as a whole.

examples:
  hypergrad evaluate runs/first
  hypergrad evaluate runs/first --split val --json
  hypergrad evaluate runs/first --data folder --data.root new-photos
"""


@dataclass(frozen=True)
class _Confusion:
    """Images of one class that were taken for another."""

    true: str
    predicted: str
    count: int


def evaluate_command(arguments: Sequence[str]) -> int:
    """Evaluate a finished run again; the exit status."""
    parser = Parser("hypergrad evaluate", description="Evaluate a finished run again.", epilog=_EPILOG)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--data", metavar="NAME", help="another data set of the same classes (default: the run's own)")
    parser.add_argument("--data.root", dest="root", type=Path, metavar="DIR", help="folder of its files")
    parser.add_argument("--split", choices=("val", "test"), help="which images (default: test where there is such)")
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="confused classes to list (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON, with the whole confusion matrix")
    add_device(parser)
    add_trust(parser)
    parsed = parser.parse_args(arguments)
    classifier = load(parsed.run, device=chosen_device(parsed.device), trust_code=parsed.trust_code)
    config = TrainConfig(**read_run(parsed.run).config)
    own = parsed.data is None and parsed.root is None
    name, part = _own(config, parsed.split) if own else _other(config, classifier.description, parsed)
    found = evaluate(
        classifier.network,
        part,
        classifier.description.classes,
        batch_size=config.eval_batch_size,
        crop=classifier.description.crop,
    )
    data = config.data.name if own else parsed.data or config.data.name
    pairs = _confusions(found, classifier.description.classes, parsed.pairs)
    if parsed.json:
        content = {"run": str(parsed.run), "data": data, "split": name, **found.row()}
        confused = [vars(pair) for pair in pairs]
        print(json.dumps({**content, "confused": confused, "confusion": found.confusion}))
        return DONE
    top5 = [] if found.top5_error is None else [("top-5 error, %", f"{found.top5_error:.2f}")]
    rows = [("data", f"{data}, {name}"), ("images", found.count), ("loss", f"{found.loss:.4f}")]
    print_table(("", parsed.run.name), [*rows, ("error, %", f"{found.error:.2f}"), *top5])
    if pairs:
        print()
        print_table(("class", "taken for", "images"), [(p.true, p.predicted, p.count) for p in pairs])
    return DONE


def _own(config: TrainConfig, split: str | None) -> tuple[str, Part]:
    """The images that the run held out."""
    splits = make_splits(config.data, derive(config.seed, "data"))
    if split == "val" or (split is None and splits.test is None):
        return "val", splits.val
    if splits.test is None:
        raise InvalidInputError(f"The data set {config.data.name!r} has no test images. Give --split val.")
    return "test", splits.test


def _other(config: TrainConfig, description: Description, parsed: argparse.Namespace) -> tuple[str, Part]:
    """Other images, in the form that the network was trained on."""
    name = parsed.data or config.data.name
    dataset = read_dataset(name, parsed.root, image_size=description.side, workers=config.data.workers)
    if dataset.classes != description.classes:
        missing = sorted(set(description.classes) - set(dataset.classes))[:5]
        unknown = sorted(set(dataset.classes) - set(description.classes))[:5]
        raise InvalidInputError(
            f"The classes of {name!r} are not the run's: missing {missing}, unknown {unknown}, or in another order "
            f"({len(dataset.classes)} and {len(description.classes)}). Give data of the same classes."
        )
    part, images = _chosen(dataset, parsed.split)
    pixels = images.images
    if pixels.shape[1] != description.channels:
        pixels = to_channels(pixels, description.channels)
    if description.pad_to is not None:
        pixels = pad_images(pixels, description.pad_to)
    return part, Part(pixels, images.targets, torch.arange(len(images)))


def _chosen(dataset: Dataset, split: str | None) -> tuple[str, ImageSet]:
    parts = {name: images for name, images in dataset.parts().items() if name != "train"}
    if split is None and not parts:
        return "all images", dataset.train
    wanted = split or ("test" if "test" in parts else "val")
    if wanted not in parts:
        raise InvalidInputError(
            f"The data set {dataset.name!r} has no part {wanted!r}; it has {', '.join(dataset.parts())}. Give another "
            "--split, or none."
        )
    return wanted, parts[wanted]


def _confusions(found: Evaluation, classes: Sequence[str], most: int) -> list[_Confusion]:
    """The most frequent ones, at most so many."""
    pairs = [
        _Confusion(classes[i], classes[j], count)
        for i, row in enumerate(found.confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: -pair.count)[: max(most, 0)]
