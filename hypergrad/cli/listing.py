"""``hypergrad datasets list`` and ``hypergrad datasets check``."""

import argparse
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hypergrad.cli.console import print_error, print_table
from hypergrad.cli.parsing import Parser
from hypergrad.cli.statuses import BAD_INPUT, DONE
from hypergrad.vision.data import check, dataset_names, describe_dataset, readers

_EPILOG = """\
Nothing is downloaded: a set lies in a folder as its publisher distributes it.

examples:
  hypergrad datasets list
  hypergrad datasets check cifar10 --root ~/data
  hypergrad datasets check folder --root photos
"""


def datasets_command(arguments: Sequence[str]) -> int:
    """List data sets or check one; the exit status."""
    parser = Parser("hypergrad datasets", description="The data sets that can be read.", epilog=_EPILOG)
    commands = parser.add_subparsers(required=True, dest="command", metavar="list|check")
    listing = commands.add_parser("list", help="name, what it is, where its files are expected")
    checking = commands.add_parser("check", help="read one, and say what is in it")
    checking.add_argument("name", metavar="NAME", help="a data set of the list")
    checking.add_argument("--root", type=Path, metavar="DIR", help="folder of its files")
    checking.add_argument("--image-size", type=int, metavar="N", help="pixels a side (default: the set's own)")
    for command in (listing, checking):
        command.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(arguments)
    return _check(parsed) if parsed.command == "check" else _list(parsed.json)


def _list(as_json: bool) -> int:
    found = [(name, describe_dataset(name).rstrip("."), _files(name)) for name in dataset_names()]
    if as_json:
        print(json.dumps([{"name": name, "what": what, "files": files} for name, what, files in found], indent=2))
    else:
        print_table(("name", "what it is", "its files"), found)
    return DONE


def _files(name: str) -> str:
    """What the reader's documentation says about its argument ``root``."""
    text = inspect.getdoc(readers._registry.lookup(name)) or ""
    found = re.search(r"^ +root: (.*?)(?=^ {0,4}\S|^$|\Z)", text, re.MULTILINE | re.DOTALL)
    return "" if found is None else " ".join(found.group(1).replace("``", "").split()).rstrip(".")


def _check(parsed: argparse.Namespace) -> int:
    report = check(parsed.name, parsed.root, image_size=parsed.image_size)
    if parsed.json:
        print(json.dumps({**asdict(report), "ok": report.ok}))
    elif report.error is None:
        print(report)
    if report.error is not None:
        print_error(report.error)
    elif report.broken:
        print_error(f"{len(report.broken)} files of {parsed.name} cannot be decoded; they are listed above.")
    return DONE if report.ok else BAD_INPUT
