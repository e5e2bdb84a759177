"""Progress of long work: a live bar on a terminal where rich is installed, plain lines elsewhere."""

import contextlib
import importlib.util
import sys
import time
from types import TracebackType
from typing import Any

#: Seconds between plain lines.
INTERVAL = 10.0


class Progress:
    """``with Progress(total, "solve") as p: p.update(done, "loss 0.31")``; writes to stderr.

    Args:
        total: steps in all.
        title: what is being done.
        enabled: False writes nothing.
        begun: steps that were finished before, by a run that is resumed.
    """

    def __init__(self, total: int, title: str, *, enabled: bool = True, begun: int = 0) -> None:
        self._total = total
        self._begun = begun
        self._title = title
        self._enabled = enabled
        self._bar: Any = None
        self._task: Any = None
        self._start = self._last = time.monotonic()

    def __enter__(self) -> "Progress":
        if self._enabled and sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
            # Loaded here and not above: `import hypergrad` must stay light, and rich is optional.
            import rich.console
            import rich.progress as bars

            self._bar = bars.Progress(
                bars.TextColumn("{task.description}"),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TimeRemainingColumn(),
                bars.TextColumn("{task.fields[note]}"),
                console=rich.console.Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, completed=self._begun, note="")
        return self

    def update(self, done: int, note: str = "") -> None:
        """Show that ``done`` of the total steps are finished."""
        if not self._enabled:
            return
        try:
            self._show(done, note)
        except OSError:  # nobody reads stderr any more
            self._enabled = False

    def _show(self, done: int, note: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._last >= INTERVAL or done >= self._total:
            self._last = now
            # Nothing done says nothing about the speed.
            new = done - self._begun
            left = f", {(now - self._start) / new * (self._total - done):.0f} s left" if new > 0 else ""
            print(f"{self._title}: {done}/{self._total}{left}  {note}".rstrip(), file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.stop()
