"""Warnings that point at the caller's line."""

import os
import sys
import warnings

import torch

# torch wraps calls in frames of its own (functional_call, func.grad), which are no more the user's than ours.
_INTERNAL = tuple(os.path.dirname(os.path.abspath(str(f))) + os.sep for f in (__file__, torch.__file__))


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the first frame outside hypergrad and torch, so that Python's once-per-line filter counts user lines."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and os.path.abspath(frame.f_code.co_filename).startswith(_INTERNAL):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
