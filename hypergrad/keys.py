"""Randomness as a function of a key, not of a stream.

``derive(seed, stream, step)`` gives a key; ``uniform(key, index, slots)`` gives noise that depends only on the key
and on each sample's index, so a shard of a batch draws what the whole batch would, on every device, in every order,
and a resumed run draws what the uninterrupted one would.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF


def derive(*parts: int | str) -> int:
    """A key in ``[0, 2**63)`` from any sequence of integers and strings, by SHA-256; equal parts give equal keys."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(key: int) -> torch.Generator:
    """A CPU generator seeded by ``key``."""
    return torch.Generator().manual_seed(key)


def _mix(x: Tensor) -> Tensor:
    """The 32-bit finaliser of MurmurHash3 (public domain), on int64 tensors that hold 32-bit values.

    Products stay below 2**64 and are masked, so the wrap of signed int64 does not matter.
    """
    x = x ^ (x >> 16)
    x = (x * 0x85EBCA6B) & _MASK32
    x = x ^ (x >> 13)
    x = (x * 0xC2B2AE35) & _MASK32
    return x ^ (x >> 16)


def uniform(key: int, index: Tensor, slots: int, dtype: torch.dtype = torch.float32) -> Tensor:  # (B, slots)
    """Uniform numbers in the open interval (0, 1), one row a sample.

    Args:
        key: from :func:`derive`.
        index: the samples' indices, integers ``(B,)``; equal indices draw equal rows.
        slots: how many numbers a sample needs.
        dtype: of the result. The numbers have 23 random bits, so float32 and float64 hold the same values, and
            neither 0 nor 1 occurs. Lower precisions are drawn in float32, because rounding would reach 1.
    """
    if not dtype.is_floating_point or torch.finfo(dtype).bits < 32:
        dtype = torch.float32
    index = index.to(torch.int64)
    low, high = key & _MASK32, (key >> 32) & _MASK32
    # Two rounds with both halves of key and index between them: each input bit reaches each output bit.
    row = _mix(_mix((index & _MASK32) ^ low) ^ ((index >> 32) & _MASK32) ^ high)
    slot = _mix(torch.arange(slots, device=index.device, dtype=torch.int64) * 0x9E3779B9 + 1 & _MASK32)
    bits = _mix(_mix(row[:, None] ^ slot[None, :]) + high & _MASK32) >> 9
    return (bits.to(dtype) + 0.5) * 2.0**-23


@contextmanager
def preserved_rng(device: torch.device, key: int | None = None) -> Iterator[None]:
    """Leave torch's global generators bit-equal afterwards; inside, start them from ``key`` when one is given.

    The CPU's generator and, on CUDA, the device's own. Not by ``torch.manual_seed``: where a backend is not
    initialised, each call of it queues another one with a stack trace, a millisecond and a leak an inner step.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [g.get_state() for g in generators]
    try:
        if key is not None:
            for g in generators:
                g.manual_seed(key)
        yield
    finally:
        for g, state in zip(generators, states, strict=True):
            g.set_state(state)
