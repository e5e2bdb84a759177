"""What a command prints: tables by rich on a terminal where it is installed, aligned plain text elsewhere."""

import importlib.util
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hypergrad.errors import HypergradWarning
from hypergrad.optional import require


def plain(text: object) -> str:
    r"""Text in which nothing steers the terminal: names of files and classes may be anybody's.

    Control characters, characters that change the direction of writing, and bytes that are no UTF-8 are written as
    ``\x1b``; a tab and a line's end stay.
    """
    return "".join(
        c
        if c in "\t\n\u200c\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(text)
    )


def print_error(message: object, who: str = "hypergrad") -> None:
    """Each line on stderr, marked as an error.

    Args:
        message: to be shown.
        who: says it.
    """
    for line in plain(message).splitlines() or [""]:
        print(f"{who}: error: {line}", file=sys.stderr)


@contextmanager
def plain_warnings(who: str = "hypergrad", first: Callable[[str], bool] = lambda text: True) -> Iterator[None]:
    """Inside, our own warnings are lines like errors, without the place in the code that they came from.

    Args:
        who: warns.
        first: whether a warning of this text is to be shown; no where another process has shown it.
    """
    shown = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, HypergradWarning):
            if first(f"warning: {message}"):
                print(f"{who}: warning: {plain(message)}", file=sys.stderr)
        else:
            shown(message, category, *place, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout; numbers are aligned right."""
    cells = [[plain(value).replace("\n", "\\n") for value in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        _print_rich(header, cells, right)
        return
    widths = [max(len(text) for text in column) for column in zip(header, *cells, strict=True)]
    for row in [list(header), *cells]:
        texts = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(row, widths, right, strict=True)]
        print("  ".join(texts).rstrip())


def _print_rich(header: Sequence[str], cells: list[list[str]], right: list[bool]) -> None:
    purpose = "A table on the terminal"
    markup = require("rich.markup", purpose, "progress")
    table = require("rich.table", purpose, "progress").Table(box=require("rich.box", purpose, "progress").SIMPLE)
    for title, numeric in zip(header, right, strict=True):
        table.add_column(title, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(markup.escape(text) for text in row))
    require("rich.console", purpose, "progress").Console().print(table)
