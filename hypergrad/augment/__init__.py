"""Differentiable augmentation on batches of images in [0, 1]: operations, the policy, and the family ``madao``."""

from hypergrad.augment.madao import Madao
from hypergrad.augment.operations import (
    PAPER_OPERATIONS,
    Operation,
    get_operation,
    operation_names,
    register_operation,
)
from hypergrad.augment.policy import Policy

__all__ = [
    "PAPER_OPERATIONS",
    "Madao",
    "Operation",
    "Policy",
    "get_operation",
    "operation_names",
    "register_operation",
]
