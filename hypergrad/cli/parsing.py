"""Arguments: the parser that every command uses, whose errors are ours."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from hypergrad.errors import InvalidInputError
from hypergrad.registry import closest


class Parser(argparse.ArgumentParser):
    """argparse's, but a mistake raises InvalidInputError, an unknown option names the closest one, and no option can
    be abbreviated (a script would change its meaning when an option is added).

    Args:
        prog: ``"hypergrad train"``.
        options: argparse's other ones.
    """

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        # Read by `main` before any parser; here so that every command accepts and explains it.
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """The namespace.

        Raises:
            InvalidInputError: an argument is unknown, missing or wrong.
        """
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            self._refuse(rest)
        return found

    def _refuse(self, rest: list[str]) -> NoReturn:
        options = [o for o in rest if o.startswith("-") and o != "-"]
        if not options:
            raise InvalidInputError(f"{' '.join(rest)}: nothing is expected here. See: {self.prog} --help")
        name = options[0].partition("=")[0]
        guess = closest(name, list(self._option_string_actions))
        raise InvalidInputError(f"{name}: there is no such option.{guess} See: {self.prog} --help")

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise InvalidInputError(f"{message}. See: {self.prog} --help")
