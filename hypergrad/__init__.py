"""Hypergradients you can trust, inside the training loop you already have."""

from hypergrad import estimators, families, solvers
from hypergrad.batches import KeyedBatches
from hypergrad.estimators import register_estimator
from hypergrad.estimators.implicit import hypergradient
from hypergrad.families import register_family
from hypergrad.families.base import Context, HyperparameterFamily
from hypergrad.modules import functional
from hypergrad.result import Hypergradient, StepRecord
from hypergrad.solvers import Solution, Status, register_solver
