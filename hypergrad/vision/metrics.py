"""The metrics of a run, one JSON object a line; a disk that fails keeps no training from going on."""

import json
import os
from pathlib import Path
from typing import Any

from hypergrad.errors import HypergradWarning
from hypergrad.messages import warn


class Metrics:
    """``metrics.jsonl``: lines are appended whole, or kept until the disk takes them.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten: list[str] = []
        self._warned = False

    def append(self, line: dict[str, Any]) -> None:
        """Add a line; the number NaN or an infinity becomes null.

        Warns:
            HypergradWarning: it could not be written (once); it is kept, and tried again with the next.
        """
        self._unwritten.append(json.dumps(finite(line), allow_nan=False) + "\n")
        try:
            self.write()
        except OSError as error:
            if not self._warned:
                self._warned = True
                warn(
                    f"{self.path} could not be written ({error.strerror or error}). The training goes on, and its "
                    "lines are kept in memory and written when it works again; make it writable, and room for it.",
                    HypergradWarning,
                )

    def write(self) -> None:
        """Write the lines that are kept.

        Raises:
            OSError: not all of them could be; the file is as it was.
        """
        if not self._unwritten:
            return
        with self.path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            left = memoryview("".join(self._unwritten).encode())
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                file.truncate(before)  # no half of a line
                raise
        self._unwritten.clear()
        self._warned = False

    def position(self) -> dict[str, Any]:
        """Bytes and lines so far, which are on the disk when this returns, and the lines that could not be written."""
        kept = {"unwritten": list(self._unwritten)}
        if not self.path.exists():
            return {"bytes": 0, "lines": 0, **kept}
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
            content = file.read()
        return {"bytes": len(content), "lines": content.count(b"\n"), **kept}

    def rewind(self, position: dict[str, Any]) -> None:
        """Cut off what was appended after a :meth:`position`.

        A file that has become shorter than that is left with its whole lines, and a warning.
        """
        self._unwritten = list(position.get("unwritten", ()))
        length, there = position["bytes"], self.path.exists()
        if there:
            with self.path.open("rb+") as file:
                content = file.read(length)
                if len(content) < length:
                    length = content.rfind(b"\n") + 1
                file.truncate(length)
                os.fsync(file.fileno())
        if (length if there else 0) < position["bytes"]:
            warn(
                f"{self.path} has lost lines that were written before the checkpoint: it should have "
                f"{position['lines']}. The training goes on; what is missing is missing in the curves, and nowhere "
                "else.",
                HypergradWarning,
            )


def finite(value: Any) -> Any:
    """Plain values for JSON, with None for NaN and infinities."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value
