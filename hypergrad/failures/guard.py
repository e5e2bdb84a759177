"""Whether a step's numbers are finite, and the policy for those that are not."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hypergrad.distributed import gather, world_size
from hypergrad.errors import InvalidInputError, NonFiniteError
from hypergrad.failures.failure import Failure, Level

#: Raise; leave the step out; or leave it out after a failed solve was tried again with half the alpha.
OnNonFinite = Literal["raise", "skip", "halve"]

#: After so many steps of one level in a row that had to be left out, it raises all the same.
IN_A_ROW = 10

#: How often a solve is tried again with half the alpha.
HALVINGS = 5

#: Records of failures that are kept.
_KEPT = 1000

#: Steps that a GPU may be behind before it is waited for.
_BEHIND = 8


class Guard:
    """The policy, and what it has left out.

    Args:
        policy: see :data:`OnNonFinite`.
        advice: a sentence for the errors, with the settings that may help.

    Attributes:
        listener: called with each failure, also with one that is raised.
        left_out: steps that were left out, by level.
        in_a_row: the last so many of them, by level.
        failures: the newest ones, at most a thousand.

    Raises:
        InvalidInputError: another policy.
    """

    def __init__(self, policy: OnNonFinite = "raise", advice: str = "") -> None:
        if policy not in get_args(OnNonFinite):
            raise InvalidInputError(f"on_nonfinite must be one of {get_args(OnNonFinite)}; got {policy!r}.")
        self.policy = policy
        self._advice = advice
        self.listener: Callable[[Failure], None] | None = None
        self.left_out: dict[Level, int] = {"inner": 0, "outer": 0}
        self.in_a_row: dict[Level, int] = {"inner": 0, "outer": 0}
        self.failures: deque[Failure] = deque(maxlen=_KEPT)

    def taken(self, level: Level) -> None:
        """A step of this level was finite."""
        self.in_a_row[level] = 0

    def handle(self, failure: Failure, said: str = "") -> Failure:
        """Count a step that is left out, or raise.

        Args:
            failure: what is known of it.
            said: by whoever found it.

        Returns:
            The failure as it was recorded.

        Raises:
            NonFiniteError: the policy is to raise, or too many in a row were left out; has the ``failure``.
        """
        message = f"{said} {failure} {self._advice}".strip()
        if self.policy != "raise" and self.in_a_row[failure.level] < IN_A_ROW:
            failure = replace(failure, action="left out")
            self.in_a_row[failure.level] += 1
            self.left_out[failure.level] += 1
            self._record(failure)
            return failure
        if self.policy != "raise":
            message = f"{IN_A_ROW} {failure.level} steps in a row were left out, and one more is not finite. {message}"
        error = NonFiniteError(message)
        error.failure = failure
        self._record(failure)
        raise error

    def _record(self, failure: Failure) -> None:
        self.failures.append(failure)
        if self.listener is not None:
            self.listener(failure)

    def state_dict(self) -> dict[str, Any]:
        """The counts and the records, as plain values."""
        return {
            "left_out": dict(self.left_out),
            "in_a_row": dict(self.in_a_row),
            "failures": [f.row() for f in self.failures if f.action != "raised"],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        for held, name in ((self.left_out, "left_out"), (self.in_a_row, "in_a_row")):
            held.update({level: int(state[name][level]) for level in held})
        self.failures = deque((Failure.of(row) for row in state["failures"]), maxlen=_KEPT)


def all_finite(tensors: Iterable[Tensor | None]) -> Tensor:  # () bool
    """Whether every entry is finite; of tensors on a GPU the host does not wait for it."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for t in tensors:
        if t is not None and t.numel():
            groups.setdefault((t.dtype, t.device), []).append(t.detach())
    found = [_finite(group) for group in groups.values()]
    return found[0] if len(found) == 1 else torch.stack([f.to(found[0].device) for f in found]).all()


def _finite(group: list[Tensor]) -> Tensor:  # () bool
    if group[0].device.type == "cpu":
        # A third of the time: a NaN or an infinity always shows in a sum. Large numbers may, too, so only then:
        sums = torch.stack([t.sum() for t in group]).isfinite().all()
        if bool(sums):
            return sums
    # Largest magnitudes: a sum of squares would overflow where no entry does.
    return torch.stack(torch._foreach_norm(group, float("inf"))).isfinite().all()


def on_all_ranks(finite: bool) -> bool:
    """Whether it is so on every rank: all of them take the step, or none does."""
    return finite if world_size() == 1 else not any(row[0] for row in gather([int(not finite)]))


class Copies:
    """Copies of tensors, to be written back."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._live = list(tensors)
        self._held = [t.detach().clone() for t in self._live]

    def restore(self) -> None:
        """Write them back."""
        with torch.no_grad():
            for live, held in zip(self._live, self._held, strict=True):
                live.copy_(held)


class Behind:
    """What a GPU finds out about steps that the host has gone on from, in order.

    Reading a flag at once would make the host wait for the GPU in every step.
    """

    def __init__(self) -> None:
        self._noted: deque[tuple[Tensor, torch.cuda.Event, Any]] = deque()

    def note(self, finite: Tensor, step: Any) -> None:
        """A flag on a GPU, and what it is of."""
        held = torch.empty((), dtype=torch.bool, pin_memory=True)
        held.copy_(finite, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(finite.device))
        self._noted.append((held, event, step))

    def first(self, *, wait: bool = False) -> Any:
        """The first step that was not finite, of those that the GPU is through with; with ``wait`` of all. Or None."""
        while self._noted and (wait or len(self._noted) > _BEHIND or self._noted[0][1].query()):
            held, event, step = self._noted.popleft()
            event.synchronize()
            if not bool(held):
                self._noted.clear()
                return step
        return None
