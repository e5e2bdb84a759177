"""Differentiable augmentation on batches of images in [0, 1]: operations, the policy, and the family ``madao``."""

from hypergrad.augment.density import TwoHeads
from hypergrad.augment.faster import FasterResult, faster_auto_augment
from hypergrad.augment.fixed import COMMON_OPERATIONS, FixedPolicy, auto_augment, rand_augment, trivial_augment_wide
from hypergrad.augment.loading import load_policy
from hypergrad.augment.madao import Madao
from hypergrad.augment.operations import (
    PAPER_OPERATIONS,
    Operation,
    get_operation,
    operation_names,
    register_operation,
)
from hypergrad.augment.policy import Policy
from hypergrad.augment.ranges import RANGES
from hypergrad.augment.resized_crop import ResizedCropFlip
from hypergrad.augment.standard import Compose, CropFlip, Cutout, RandomErasing

__all__ = [
    "COMMON_OPERATIONS",
    "PAPER_OPERATIONS",
    "RANGES",
    "Compose",
    "CropFlip",
    "Cutout",
    "FasterResult",
    "FixedPolicy",
    "Madao",
    "Operation",
    "Policy",
    "RandomErasing",
    "ResizedCropFlip",
    "TwoHeads",
    "auto_augment",
    "faster_auto_augment",
    "get_operation",
    "load_policy",
    "operation_names",
    "rand_augment",
    "register_operation",
    "trivial_augment_wide",
]
