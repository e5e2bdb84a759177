"""Seconds over all sessions of a run: those before an interruption count, those in between do not."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Wall and CPU seconds (of this process, all threads) while it goes; it stands at first.

    Args:
        wall, cpu: seconds that it shows at the start.
    """

    def __init__(self, wall: float = 0.0, cpu: float = 0.0) -> None:
        self._wall, self._cpu = wall, cpu
        self._since: tuple[float, float] | None = None

    @property
    def wall(self) -> float:
        """Wall seconds so far."""
        return self._wall + (0.0 if self._since is None else time.perf_counter() - self._since[0])

    @property
    def cpu(self) -> float:
        """CPU seconds so far."""
        return self._cpu + (0.0 if self._since is None else time.process_time() - self._since[1])

    def start(self) -> None:
        """Go, or go on."""
        if self._since is None:
            self._since = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Stand."""
        self._wall, self._cpu, self._since = self.wall, self.cpu, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand inside; afterwards go on if it went."""
        going = self._since is not None
        self.stop()
        try:
            yield
        finally:
            if going:
                self.start()

    def state_dict(self) -> dict[str, float]:
        """For ``Clock(**state)``."""
        return {"wall": self.wall, "cpu": self.cpu}
