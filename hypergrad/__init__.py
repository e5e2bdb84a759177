"""Hypergradients you can trust, inside the training loop you already have."""

from hypergrad import augment, estimators, families, solvers
from hypergrad.batches import KeyedBatches
from hypergrad.diagnostics import GradCheck, gradcheck
from hypergrad.errors import (
    CheckpointError,
    CheckpointWarning,
    GradCheckError,
    HypergradError,
    HypergradWarning,
    InexactWarning,
    InvalidInputError,
    MissingLibraryError,
    NonFiniteError,
    RankError,
    SolverError,
    SolverWarning,
    UnknownNameError,
    UnsupportedModelError,
)
from hypergrad.estimators import register_estimator
from hypergrad.estimators.implicit import hypergradient
from hypergrad.estimators.unroll import unrolled
from hypergrad.families import register_family
from hypergrad.families.base import Context, HyperparameterFamily
from hypergrad.modules import functional
from hypergrad.objective import FunctionObjective, ModelObjective
from hypergrad.problem import BilevelProblem
from hypergrad.result import Hypergradient, StepRecord
from hypergrad.solvers import Solution, Status, register_solver
from hypergrad.solving import BilevelResult
from hypergrad.stepper import HyperStepper
from hypergrad.version import __version__ as __version__

__all__ = [
    "BilevelProblem",
    "BilevelResult",
    "CheckpointError",
    "CheckpointWarning",
    "Context",
    "FunctionObjective",
    "GradCheck",
    "GradCheckError",
    "HyperStepper",
    "HypergradError",
    "HypergradWarning",
    "Hypergradient",
    "HyperparameterFamily",
    "InexactWarning",
    "InvalidInputError",
    "KeyedBatches",
    "MissingLibraryError",
    "ModelObjective",
    "NonFiniteError",
    "RankError",
    "Solution",
    "SolverError",
    "SolverWarning",
    "Status",
    "StepRecord",
    "UnknownNameError",
    "UnsupportedModelError",
    "augment",
    "estimators",
    "families",
    "functional",
    "gradcheck",
    "hypergradient",
    "register_estimator",
    "register_family",
    "register_solver",
    "solvers",
    "unrolled",
]
