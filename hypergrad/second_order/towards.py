"""What the second backward passes of one linearisation lead to, now."""

from collections.abc import Iterator
from contextlib import contextmanager


class Towards:
    """What the layers of one linearisation are differentiated towards, now: everything, or ``u`` alone."""

    def __init__(self) -> None:
        self.outputs_only = False

    @contextmanager
    def outputs(self) -> Iterator[None]:
        """Inside, second backward passes go towards the gradients of the outputs alone."""
        self.outputs_only = True
        try:
            yield
        finally:
            self.outputs_only = False
