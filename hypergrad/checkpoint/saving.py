"""When a run saves, and what it does when it cannot."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hypergrad.checkpoint.folder import Checkpoints
from hypergrad.distributed import gather, is_writer, world_size
from hypergrad.errors import CheckpointWarning, InvalidInputError, RankError
from hypergrad.messages import warn

#: At most this share of the time is spent on saving.
SHARE = 0.02


class Saving:
    """Saves a run's state when it is due; a disk that fails stops no training.

    With several ranks the first one writes: the state is the same on all. The others return at once, except from a
    strict save, whose end all wait for.

    Args:
        checkpoints: where to.
        every: seconds from one save to the next; more where saving would take over 2 % of the time. 0: at each chance.

    Raises:
        InvalidInputError: ``every`` is no number of at least 0.
    """

    def __init__(self, checkpoints: Checkpoints, every: float) -> None:
        if isinstance(every, bool) or not isinstance(every, int | float) or not every >= 0:
            raise InvalidInputError(f"checkpoint_every must be a number of seconds, at least 0; got {every!r}.")
        self.checkpoints = checkpoints
        self._every = every
        self._next = time.monotonic() + every

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._next

    def save(self, state: Callable[[], Mapping[str, Any]], *, step: int, strict: bool = False) -> Path | None:
        """The folder of the new checkpoint; None where it could not be written.

        Args:
            state: gives the state.
            step: that the run is at.
            strict: raise what :meth:`Checkpoints.save` raises, as at the start of a run, where nothing is lost by it.

        Warns:
            CheckpointWarning: it could not be written; the next save will be tried as usual.
        """
        if world_size() == 1:
            return self._save(state, step, strict)
        failed, path = True, None
        try:
            if is_writer():
                path = self._save(state, step, strict)
            failed = False
        finally:
            outcome = gather([int(failed)])[0][0] if strict else 0
        if outcome:
            raise RankError(f"Rank 0 could not save step {step}; its message has the reason.")
        return path

    def _save(self, state: Callable[[], Mapping[str, Any]], step: int, strict: bool) -> Path | None:
        start = time.monotonic()
        try:
            return self.checkpoints.save(state(), step=step)
        except (OSError, InvalidInputError) as error:
            if strict:
                raise
            warn(
                f"Step {step} could not be saved ({error}). The run goes on; the last checkpoint is the one before, "
                "and the next save is tried as usual.",
                CheckpointWarning,
            )
            return None
        finally:
            end = time.monotonic()
            self._next = end + (max(self._every, (end - start) / SHARE) if self._every else 0)
