"""Numbers that stop being finite: found, traced to batch, samples and operation, and handled by a policy."""

from hypergrad.failures.failure import Failure
from hypergrad.failures.guard import HALVINGS, IN_A_ROW, OnNonFinite

__all__ = ["HALVINGS", "IN_A_ROW", "Failure", "OnNonFinite"]
