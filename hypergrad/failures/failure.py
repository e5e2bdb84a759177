"""What is known of a step that was not finite, in plain values and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from hypergrad.failures.watching import Cause

Level = Literal["inner", "outer"]

#: So many samples are named in a sentence; all of them are in the record.
_NAMED = 8


@dataclass(frozen=True)
class Failure:
    """A step whose loss or gradient is not finite.

    Attributes:
        level: "inner" or "outer".
        step: inner steps before it, or outer steps before it; the number of the step, from 0.
        batch: number of the batch, from 0; None where it is not known.
        data: "train_data" or "val_data".
        stage: "loss", "gradient" or "product" (with the inner Hessian), the first that is not finite.
        value: of the loss, as text.
        holders: NaN or infinite entries that were there before the step, ``(("inputs", 3), ...)``: of the batch's
            arguments, the parameters and the hyperparameters.
        samples: that are not finite: indices in the training set where ``indexed``, else positions in the batch.
        indexed: whether the batch had an index.
        cause: the first operation that made a non-finite number of finite ones.
        late: a GPU found it after the parameters had been updated by it, so that the step could not be taken again.
        action: "raised", or "left out".
    """

    level: Level
    step: int
    batch: int | None
    data: str
    stage: str
    value: str
    holders: tuple[tuple[str, int], ...] = ()
    samples: tuple[int, ...] = ()
    indexed: bool = False
    cause: Cause = field(default_factory=Cause)
    late: bool = False
    action: str = "raised"

    def row(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        row = asdict(self)
        row["holders"] = [list(holder) for holder in self.holders]
        row["samples"] = list(self.samples)
        row["cause"]["rows"] = list(self.cause.rows)
        return row

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Failure":
        """What :meth:`row` gave."""
        cause = Cause(**{**row["cause"], "rows": tuple(row["cause"]["rows"])})
        holders = tuple((name, count) for name, count in row["holders"])
        return cls(**{**row, "cause": cause, "holders": holders, "samples": tuple(row["samples"])})

    def __str__(self) -> str:
        number = "" if self.batch is None else f", batch {self.batch}"
        what = f"the loss is {self.value}" if self.stage == "loss" else f"the {self.stage} is not finite"
        parts = [f"{self.level.capitalize()} step {self.step}, {self.data}{number}: {what}."]
        if self.holders:
            parts.append(f"Not finite before the step: {_listed([f'{n} ({c} entries)' for n, c in self.holders])}.")
        if self.samples:
            kind = "Samples" if self.indexed else "Positions in the batch"
            parts.append(f"{kind}: {_listed(self.samples)}.")
        if self.cause.operation:
            parts.append(f"The first operation to make a non-finite number of finite ones is {self._operation()}.")
        parts.append(self._remedy())
        return " ".join(parts)

    def _operation(self) -> str:
        cause = self.cause
        words = [f"{cause.operation} in {cause.dtype}"]
        if cause.backward:
            words.append(f"in the backward pass of {cause.backward.removesuffix('0').removesuffix('Backward')}")
        if cause.augmentation:
            words.append(f"in the augmentation {cause.augmentation}")
        if cause.module:
            words.append(f"in the module {cause.module}")
        return ", ".join(words) + (f" ({cause.line})" if cause.line else "")

    def _remedy(self) -> str:
        if any(name.startswith(("parameter ", "buffer ", "hyperparameter ")) for name, _ in self.holders):
            return "An earlier step made them so: lower its learning rate, or go back to a checkpoint before."
        if self.late and not self.holders:
            return (
                "The parameters were updated by it before the GPU was through. on_nonfinite='skip' looks at each step "
                "first, and names the operation."
            )
        if self.holders:
            return "Remove or repair these samples."
        if self.cause.overflow:
            return "This is an overflow of float16, whose largest number is 65504: use bfloat16 or float32 there."
        return "Look for log, sqrt or a norm at 0, overflow, or parameters that diverge (a lower learning rate)."


def _listed(items: Sequence[object]) -> str:
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return ", ".join(map(str, items[:_NAMED])) + more
