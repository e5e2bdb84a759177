"""Checkpoints: versioned, hashed, written whole or not at all, without pickle."""

from hypergrad.checkpoint.folder import Checkpoint, Checkpoints, Migration
from hypergrad.checkpoint.identity import code_identity, described, digest
from hypergrad.checkpoint.parts import Stateful, restore, training_state
from hypergrad.checkpoint.saving import Saving

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "Migration",
    "Saving",
    "Stateful",
    "code_identity",
    "described",
    "digest",
    "restore",
    "training_state",
]
