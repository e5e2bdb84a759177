"""What :func:`hypergrad.gradcheck` found, as a value and as a table."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["passed", "failed", "inconclusive"]


@dataclass(frozen=True)
class DirectionCheck:
    """One direction v.

    Attributes:
        hypergradient: ``<grads, v>``.
        difference: the extrapolated central difference of ``g(w*(h), h)`` along v.
        truncation: what the finite step justifies.
        stationarity: what inexact inner solutions justify.
        rounding: what the arithmetic justifies.
        tolerance: what the two numbers may differ by.
        verdict: "passed", "failed", or "inconclusive" where the tolerance is no small part of the numbers.
    """

    hypergradient: float
    difference: float
    truncation: float
    stationarity: float
    rounding: float
    tolerance: float
    verdict: Verdict

    @property
    def error(self) -> float:
        """How far the two numbers are apart."""
        return abs(self.hypergradient - self.difference)


@dataclass(frozen=True)
class GradCheck:
    """What :func:`gradcheck` returns; ``print`` shows it as a table.

    Attributes:
        directions: one entry a direction.
        verdict: "failed" if any direction failed, else "passed" if any passed, else "inconclusive".
        stationarity: the norm of the inner gradient at the solution where the hypergradient was taken.
        step: of the differences, in units of a direction whose entries have a root mean square of 1.
        notes: what else was seen, in sentences.
    """

    directions: tuple[DirectionCheck, ...]
    verdict: Verdict
    stationarity: float
    step: float
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the verdict is "passed"."""
        return self.verdict == "passed"

    def __str__(self) -> str:
        head = ("hypergradient", "difference", "error", "tolerance", "of it: step", "inner", "rounding", "verdict")
        rows = [
            (
                *(f"{x:.9g}" for x in (d.hypergradient, d.difference)),
                *(f"{x:.2g}" for x in (d.error, d.tolerance, d.truncation, d.stationarity, d.rounding)),
                d.verdict,
            )
            for d in self.directions
        ]
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in (head, *rows)]
        end = f"{self.verdict}: inner gradient {self.stationarity:.2g}, step {self.step:.2g}"
        return "\n".join([*lines, end, *self.notes])
