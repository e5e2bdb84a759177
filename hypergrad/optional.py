"""Libraries that are not needed by everyone: imported where they are used, and the error says how to get them."""

import importlib
from typing import Any

from hypergrad.errors import MissingLibraryError


def require(module: str, purpose: str, extra: str) -> Any:
    """The imported module.

    Args:
        module: its dotted name, ``"PIL.Image"``.
        purpose: what it is needed for, the beginning of a sentence: "Exporting a policy to Pillow".
        extra: the extra of this distribution that installs it.

    Raises:
        MissingLibraryError: it cannot be imported; the message gives the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingLibraryError(
            f"{purpose} needs {module.split('.')[0]}, which cannot be imported ({error}). "
            f'Install it: pip install "hypergrad-toolkit[{extra}]".'
        ) from error
