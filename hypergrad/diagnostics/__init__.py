"""Whether a hypergradient can be trusted, and why not."""

from hypergrad.diagnostics.diagnosis import Diagnosis
from hypergrad.diagnostics.examining import diagnose
from hypergrad.diagnostics.findings import Finding
from hypergrad.diagnostics.gradient_check import gradcheck
from hypergrad.diagnostics.gradient_verdict import DirectionCheck, GradCheck
from hypergrad.errors import GradCheckError

__all__ = [
    "Diagnosis",
    "DirectionCheck",
    "Finding",
    "GradCheck",
    "GradCheckError",
    "diagnose",
    "gradcheck",
]
