"""What an extension tests itself with: conformance suites, and bilevel problems with known hypergradients."""

from hypergrad.testing.families import check_family
from hypergrad.testing.problems import Problem
from hypergrad.testing.solvers import DenseOperator, check_solver

__all__ = ["DenseOperator", "Problem", "check_family", "check_solver"]
