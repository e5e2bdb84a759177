"""The ways to augment a batch that the benchmark times; each is a function of a key that fixes its randomness."""

import functools
import importlib.util
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from hypergrad import keys
from hypergrad.augment import (
    PAPER_OPERATIONS,
    Operation,
    Policy,
    affine,
    get_operation,
    rand_augment,
    trivial_augment_wide,
)
from hypergrad.augment.checks import column
from hypergrad.augment.relaxations import relaxed_bernoulli

TEMPERATURE = 0.5
CHUNKS = 32
GROUP = 4
#: A raw value whose sigmoid is 1 in float32.
ALWAYS = 40.0
KORNIA_MAGNITUDE = 9

HARD = "Policy, 2 stages, hard"
HARD_ALWAYS = "Policy, 2 stages, always applied, hard"
HARD_GROUPS = f"Policy, 2 stages, groups of {GROUP}, hard"
FROZEN = "Policy, 2 stages, frozen"
RAND = "rand_augment(2, 9)"
TRIVIAL = "trivial_augment_wide()"
SOFT = "Policy, 2 stages, soft, forward"
SOFT_GRADIENT = "Policy, 2 stages, soft, with gradient"
KORNIA_ONE = "kornia RandAugment n=1, whole batch"
KORNIA_TWO = "kornia RandAugment n=2, whole batch"
KORNIA_CHUNKS = f"kornia RandAugment n=2, {CHUNKS} chunks"
KORNIA_IMAGES = "kornia RandAugment n=2, per image"
PILLOW = "Pillow loop, 2 stages, to uint8"
PILLOW_FLOAT = "Pillow loop, 2 stages, to float tensor"


def sum_name(stages: int, gradient: bool) -> str:
    """Of the weighted sum of all operations."""
    return f"sum of all 14, {stages} stage{'s' * (stages > 1)}, {'with gradient' if gradient else 'forward'}"


@dataclass(frozen=True)
class Way:
    """One row.

    Attributes:
        name: of the row.
        group: rows of a group have one colour.
        call: takes a key, augments the batch once.
        calls: how many make up a time: many where the cost depends on what is drawn.
    """

    name: str
    group: str
    call: Callable[[int], Any]
    calls: int


def installed(module: str) -> bool:
    """Whether a library can be imported."""
    return importlib.util.find_spec(module) is not None


def always_applied(policy: Policy) -> Policy:
    """The policy with p = 1."""
    with torch.no_grad():
        policy.p.fill_(ALWAYS)
    return policy


def weighted_sum(
    images: Tensor, operations: Sequence[Operation], pi: Tensor, mu: Tensor, p: Tensor, key: int
) -> Tensor:  # (B, C, H, W)
    """Stages of ``sum_n pi_n (b_n O_n(x) + (1 - b_n) x)``: every operation on every image, as relaxations over all do.

    The terms in x are collected, which is the cheapest form, and nothing is checked.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        operations: N of them.
        pi, mu, p: raw values, ``(K, N)``; softmax and sigmoids as in the policy.
        key: of the noise.
    """
    stages, size = pi.shape
    batch, _, height, width = images.shape
    uniform = keys.uniform(key, torch.arange(batch, device=images.device), 2 * stages * size, images.dtype)
    uniform = uniform.view(batch, stages, 2, size)
    weights, magnitudes = torch.softmax(pi, -1), torch.sigmoid(mu)
    for k in range(stages):
        sign = torch.where(uniform[:, k, 1] < 0.5, -1.0, 1.0).to(images.dtype)
        parts = weights[k] * relaxed_bernoulli(p[k], uniform[:, k, 0], TEMPERATURE)  # (B, N)
        total = column(1 - parts.sum(1)) * images
        for n, operation in enumerate(operations):
            magnitude = magnitudes[k, n].expand(batch)
            if operation.kind == "geometric":
                result = affine.warp(images, operation.matrix(magnitude, sign[:, n], height, width))
            else:
                result = operation.recolour(images, magnitude, sign[:, n], "surrogate")
            total = total + column(parts[:, n]) * result
        images = total
    return images


def soft_gradient(policy: Policy, images: Tensor, weights: Tensor, key: int) -> tuple[Tensor, ...]:
    """Gradients of the mean of ``weights`` times the augmented images, to the images, pi, mu and p.

    The one to pi is the unbiased one: log-probability of the picks, leave-one-out baseline.
    """
    augmented, log_prob = policy.draw(images, soft=True, key=key)
    losses = (augmented * weights).mean((1, 2, 3))
    held = losses.detach()
    advantage = held - (held.sum() - held) / (len(held) - 1)
    total = losses.mean() + (advantage * log_prob).mean()
    return torch.autograd.grad(total, [images, policy.pi, policy.mu, policy.p])


def sum_gradient(
    images: Tensor, operations: Sequence[Operation], raw: Sequence[Tensor], weights: Tensor, key: int
) -> tuple[Tensor, ...]:
    """The same gradients of the weighted sum of all operations."""
    augmented = weighted_sum(images, operations, *raw, key)
    return torch.autograd.grad((augmented * weights).mean(), [images, *raw])


def _kornia_ways(images: Tensor, large: bool) -> list[Way]:
    from kornia.augmentation.auto import RandAugment

    one, two = (RandAugment(n=n, m=KORNIA_MAGNITUDE) for n in (1, 2))

    def whole(augmentation: Callable[[Tensor], Tensor], key: int) -> Tensor:
        torch.manual_seed(key)  # kornia draws from the global generator
        with torch.no_grad():
            return augmentation(images)

    def parts(pieces: Sequence[Tensor], key: int) -> Tensor:
        torch.manual_seed(key)
        with torch.no_grad():
            return torch.cat([two(piece) for piece in pieces])

    # One draw decides the cost of the whole batch, so many are averaged.
    calls = 8 if large else 30
    return [
        Way(KORNIA_ONE, "kornia", functools.partial(whole, one), calls),
        Way(KORNIA_TWO, "kornia", functools.partial(whole, two), calls),
        Way(KORNIA_CHUNKS, "kornia", functools.partial(parts, images.chunk(CHUNKS)), 1 if large else 3),
        Way(KORNIA_IMAGES, "kornia", functools.partial(parts, images.split(1)), 1),
    ]


def _pillow_ways(images: Tensor) -> list[Way]:
    from PIL import Image

    augmentation = always_applied(Policy()).freeze().to_pillow()
    arrays = [a.permute(1, 2, 0).numpy().copy() for a in (images.cpu() * 255).round().to(torch.uint8)]

    def to_uint8(key: int) -> numpy.ndarray:
        random.seed(key)  # as a loader's worker: the exported policy draws from Python's global generator
        return numpy.stack([numpy.asarray(augmentation(Image.fromarray(a))) for a in arrays])

    def to_float(key: int) -> Tensor:
        levels = torch.from_numpy(to_uint8(key)).to(images.device)
        return levels.permute(0, 3, 1, 2).float() / 255

    return [Way(PILLOW, "Pillow", to_uint8, 1), Way(PILLOW_FLOAT, "Pillow", to_float, 1)]


def make_ways(size: tuple[int, int, int, int], *, device: torch.device, seed: int, large: bool) -> list[Way]:
    """All ways for one size of the batch; those of libraries that are not installed are left out.

    Args:
        size: ``(B, C, H, W)``, C of 3.
        device: where the tensors live; Pillow stays on the CPU.
        seed: of the images.
        large: fewer calls, because each takes long.
    """
    draw = keys.generator(keys.derive(seed, "images", *size))
    # Smooth pictures with some noise: many levels, as photographs have.
    coarse = torch.rand(size[0], size[1], 4, 4, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, size=size[2:], mode="bilinear")
    images = (0.9 * smooth + 0.1 * torch.rand(size, generator=draw)).to(device)
    weights = torch.randn(size, generator=draw).to(device)
    leaf = images.clone().requires_grad_()

    def policy(group_size: int = 1) -> Policy:
        return Policy(2, group_size=group_size, temperature=TEMPERATURE).to(device)

    hard = {
        HARD: functools.partial(policy(), images, soft=False),
        HARD_ALWAYS: functools.partial(always_applied(policy()), images, soft=False),
        HARD_GROUPS: functools.partial(policy(GROUP), images, soft=False),
        FROZEN: functools.partial(policy().freeze().to(device), images),
        RAND: functools.partial(rand_augment(2, 9).to(device), images),
        TRIVIAL: functools.partial(trivial_augment_wide().to(device), images),
    }
    ways = [Way(name, "hypergrad, hard", _without_graph(call), 4 if large else 15) for name, call in hard.items()]
    soft = policy()
    calls = 2 if large else 6
    ways += [
        Way(SOFT, "hypergrad, soft", lambda key: soft.draw(leaf, soft=True, key=key), calls),
        Way(SOFT_GRADIENT, "hypergrad, soft", lambda key: soft_gradient(soft, leaf, weights, key), calls),
    ]
    if installed("kornia"):
        ways += _kornia_ways(images, large)
    operations = [get_operation(name) for name in PAPER_OPERATIONS]
    for stages in (1, 2):
        raw = [torch.zeros(stages, len(operations), device=device, requires_grad=True) for _ in range(3)]
        forward = functools.partial(weighted_sum, leaf, operations, *raw)
        backward = functools.partial(sum_gradient, leaf, operations, raw, weights)
        ways.append(Way(sum_name(stages, False), "sum of all", forward, 1 if large else 2))
        ways.append(Way(sum_name(stages, True), "sum of all", backward, 1 if large else 2))
    if installed("PIL"):
        ways += _pillow_ways(images)
    return ways


def _without_graph(call: Callable[..., Tensor]) -> Callable[[int], Tensor]:
    def augment(key: int) -> Tensor:
        with torch.no_grad():
            return call(key=key)

    return augment
