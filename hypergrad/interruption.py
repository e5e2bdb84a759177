"""Signals: the first asks the work to stop where it can be saved, a second one ends the process at once."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hypergrad.distributed import world_size

#: What a scheduler sends before it takes the machine away, and Ctrl-C.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


#: Seconds within which further signals are the same request: a launcher passes on what the terminal sent to all.
ECHO = 1.0


class Stopped(KeyboardInterrupt):
    """Raised by :func:`poll` after a signal. Like Ctrl-C it passes ``except Exception``.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


class Stop:
    """Whether a signal has come, within :func:`graceful`.

    Attributes:
        signal: the number of the first one; None before.
        agreed: whether the ranks of ``torch.distributed`` know that one of them has had a signal.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.agreed = False
        self._since = 0.0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler: remember the first, end the process at the second."""
        if self.signal is not None:
            if time.monotonic() - self._since < ECHO:
                return
            # Not sys.exit: someone who asks twice wants no handler and no save to run any more.
            os._exit(128 + number)
        self.signal, self._since = number, time.monotonic()


#: Signal handlers belong to the process, so this does, too: the innermost one in force.
_current: list[Stop] = []


@contextmanager
def graceful() -> Iterator[Stop]:
    """Within, SIGINT and SIGTERM make :func:`poll` raise instead of breaking off anywhere; a second one exits at once.

    Outside of the main thread, where Python allows no handlers, and within another ``graceful``, nothing is installed.
    """
    if _current or threading.current_thread() is not threading.main_thread():
        yield _current[-1] if _current else Stop()
        return
    stop = Stop()
    before = {number: signal.signal(number, stop.receive) for number in SIGNALS}
    _current.append(stop)
    try:
        yield stop
    finally:
        _current.pop()
        for number, handler in before.items():
            # None: it was not installed by Python, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def received() -> int | None:
    """The signal that this process has had, or None."""
    return _current[-1].signal if _current else None


def agreed() -> None:
    """Called on every rank after the same reduction, when it has shown that a rank had a signal.

    Raises:
        Stopped: this rank has no :func:`graceful` around, so that nothing would ask it later.
    """
    if not _current:
        raise Stopped(signal.SIGTERM)
    _current[-1].agreed = True


def asked() -> int | None:
    """The signal that has come, or None; never raises.

    With several ranks only one that all ranks know of, because a rank that stops by itself leaves the others waiting.
    A rank that had none itself reports SIGTERM.
    """
    number = received()
    if world_size() == 1:
        return number
    return (number or signal.SIGTERM) if _current and _current[-1].agreed else None


def poll() -> None:
    """Called where work can be broken off without loss: between inner steps, and between products of a solve.

    With several ranks a signal travels with the next reduction, and all of them raise at the same call.

    Raises:
        Stopped: a signal has come within :func:`graceful`.
    """
    number = asked()
    if number is not None:
        raise Stopped(number)
