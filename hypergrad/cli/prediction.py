"""``hypergrad predict``."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hypergrad.cli.console import plain, print_error
from hypergrad.cli.devices import add_device, add_trust, chosen_device
from hypergrad.cli.parsing import Parser
from hypergrad.cli.statuses import BAD_INPUT, DONE
from hypergrad.errors import InvalidInputError
from hypergrad.optional import require
from hypergrad.vision.predict import load

_EPILOG = """\
A line a file: the file, its class, and the probability that the network gives it, separated by tabs. A file that
cannot be read is named on stderr, the others are done, and the exit status is 2.

examples:
  hypergrad predict runs/first photo.jpg
  hypergrad predict runs/first photos/ --json > classes.jsonl
"""


def predict_command(arguments: Sequence[str]) -> int:
    """Predict; the exit status."""
    parser = Parser("hypergrad predict", description="Name the class of image files.", epilog=_EPILOG)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE|FOLDER", help="image files; of a folder all, below it, too"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a line, with every class's probability")
    add_device(parser)
    add_trust(parser)
    # Options may stand between the files.
    parsed = parser.parse_intermixed_args(arguments)
    classifier = load(parsed.run, device=chosen_device(parsed.device), trust_code=parsed.trust_code)
    status = DONE
    for path in _files(parsed.images):
        try:
            found = classifier.predict(path)
        except InvalidInputError as error:
            print_error(error)
            status = BAD_INPUT
            continue
        if parsed.json:
            print(json.dumps({"file": str(path), **vars(found)}), flush=True)
        else:
            names = (plain(name).replace("\t", "\\t").replace("\n", "\\n") for name in (path, found.label))
            print(*names, f"{found.probability:.4f}", sep="\t", flush=True)
    return status


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files, those of a folder in the order of their names.

    Raises:
        InvalidInputError: a folder without image files.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        endings = require("PIL.Image", "Reading a picture", "vision").registered_extensions()
        found = [p for p in sorted(path.rglob("*")) if p.is_file() and p.suffix.lower() in endings]
        if not found:
            raise InvalidInputError(f"{path} holds no image file. Give a folder of images, or the files themselves.")
        yield from found
