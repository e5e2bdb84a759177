"""Checkpoints: versioned, hashed, written whole or not at all, without pickle."""

from hypergrad.checkpoint.folder import Checkpoint, Checkpoints, Migration
from hypergrad.checkpoint.identity import code_identity, digest

__all__ = ["Checkpoint", "Checkpoints", "Migration", "code_identity", "digest"]
