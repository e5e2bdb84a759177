"""Whether an inner step may be taken: looked at before the optimizer's step, or by a GPU behind the host."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from hypergrad.failures.failure import Failure
from hypergrad.failures.guard import Behind, Copies, Guard, all_finite, on_all_ranks


class InnerSteps:
    """Looks at each inner step's loss and gradients, and lets the guard act on those that are not finite.

    On a CPU that is done before the optimizer's step. On a GPU it would make the host wait for it in every step, so it
    is done only where a step may be left out; with the policy "raise" the host reads what the GPU found as far as it
    has come, and the error is some steps late.

    Args:
        guard: what acts.
        device: of the parameters.
        trace: finds the cause, given the number of the step, its batch, and whether the parameters have been updated
            by it.
    """

    def __init__(self, guard: Guard, device: torch.device, trace: Callable[[int, Any, bool], Failure]) -> None:
        self._guard = guard
        self._trace = trace
        self._at_once = device.type != "cuda" or guard.policy != "raise"
        self._copies = Copies(())
        self._behind = Behind()

    def begin(self, buffers: Iterable[Tensor]) -> None:
        """Before the forward pass: keep what it changes, if the step may be left out."""
        if self._at_once:
            self._copies = Copies(buffers)

    def accepts(self, step: int, batch: Any, loss: Tensor, params: Iterable[Tensor]) -> bool:
        """After the backward pass: whether the optimizer's step may be taken.

        Where it may not, the buffers are as they were before the forward pass, and there is no ``.grad``.

        Raises:
            NonFiniteError: as the policy wants it.
        """
        params = list(params)
        finite = all_finite([loss, *(p.grad for p in params)])
        if not self._at_once:
            self._behind.note(finite, (step, batch))
            self.settle(wait=False)
            return True
        if on_all_ranks(bool(finite)):
            self._guard.taken("inner")
            return True
        for p in params:
            p.grad = None
        self._copies.restore()
        self._guard.handle(self._trace(step, batch, False))
        return False

    def settle(self, *, wait: bool = True) -> None:
        """Raise for a step that a GPU has found to be not finite; with ``wait`` after all of them were looked at."""
        found = self._behind.first(wait=wait)
        if found is not None:
            step, batch = found
            self._guard.handle(self._trace(step, batch, True))
