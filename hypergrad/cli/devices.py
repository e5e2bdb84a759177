"""Where a network runs that is only used."""

import torch

from hypergrad.cli.parsing import Parser
from hypergrad.errors import InvalidInputError


def add_device(parser: Parser) -> None:
    """The option ``--device``."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU where there is one (default)"
    )


def add_trust(parser: Parser) -> None:
    """The option ``--trust-code``."""
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="import and call the network that the run names by an import path; only for runs of your own",
    )


def chosen_device(name: str) -> str:
    """``"cpu"`` or ``"cuda"``.

    Raises:
        InvalidInputError: a GPU was asked for, and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InvalidInputError("--device cuda was asked for, and torch sees no GPU. Give --device cpu, or auto.")
    return "cuda" if available and name != "cpu" else "cpu"
