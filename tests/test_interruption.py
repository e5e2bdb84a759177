"""The first signal asks, the second ends; handlers are put back."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from hypergrad.interruption import SIGNALS, Stopped, asked, graceful, poll

SCRIPT = """
import os, signal, sys, time
from hypergrad import interruption
interruption.ECHO = 0.0
with interruption.graceful():
    os.kill(os.getpid(), signal.SIGTERM)
    print("first", interruption.asked(), flush=True)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    finally:
        print("never", flush=True)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_raised_by_poll_only(number: signal.Signals) -> None:
    before = [signal.getsignal(s) for s in SIGNALS]
    with graceful() as stop:
        poll()
        os.kill(os.getpid(), number)
        assert stop.signal == asked() == number
        os.kill(os.getpid(), number)  # the echo of the same request
        with pytest.raises(Stopped, match=number.name) as raised:
            poll()
        assert raised.value.signal == number
    assert [signal.getsignal(s) for s in SIGNALS] == before
    assert asked() is None
    poll()


def test_a_second_signal_ends_the_process_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (128 + signal.SIGINT, ["first", str(int(signal.SIGTERM))])


def test_nested_and_in_threads() -> None:
    with graceful() as outer:
        with graceful() as inner:
            assert inner is outer
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer.signal == signal.SIGTERM
    seen = []

    def work() -> None:
        with graceful() as stop:
            seen.append(stop.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
