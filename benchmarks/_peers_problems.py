"""The problems of ``peers.py``: made once from a seed, handed over as files, and rebuilt alike in every process.

This file is run by other libraries' interpreters, so it imports torch and numpy only.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

SAMPLES, FEATURES = 2000, 200  # of the logistic regression
SOFTMAX_SAMPLES, SOFTMAX_FEATURES = 32, 784
CLASSES = 10
#: exp(-7.6) is 5e-4; with exp(2.3) = 10, CG meets no negative curvature, so that all stop at the budget.
LOG_DECAY = {"neumann": -7.6, "cg": 2.3}


class _Block(nn.Module):
    """The pre-activation block of a wide residual network."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.norm1 = _norm(norm, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = _norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(h)
        return skip + self.conv2(F.relu(self.norm2(self.conv1(h))))


class WideResNet(nn.Module):
    """WRN-depth-width as in :mod:`hypergrad.vision.models` (a test compares), which peers' processes cannot import."""

    def __init__(self, depth: int, width: int, norm: str) -> None:
        super().__init__()
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.blocks = nn.Sequential()
        for group in range(3):
            for block in range((depth - 4) // 6):
                inputs = widths[group] if block == 0 else widths[group + 1]
                stride = 2 if group > 0 and block == 0 else 1
                self.blocks.append(_Block(inputs, widths[group + 1], stride, norm))
        self.norm = _norm(norm, widths[3])
        self.linear = nn.Linear(widths[3], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.mean(F.relu(self.norm(self.blocks(self.stem(x)))), dim=(2, 3)))


def _norm(kind: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(8, channels)


class Problem:
    """Two losses of two lists of tensors, and the point to differentiate at.

    Args:
        path: of a file made by :func:`make`.
        clone_buffers: call the model on copies of its buffers, which ``torch.func`` asks for.

    Attributes:
        params: the inner variables, leaves that require grad.
        hparams: the hyperparameters, leaves that require grad.
        top: largest curvature, where it is known.
        call: ``call(params, x)``, the model as a function of a dictionary; may be replaced.
        names: keys of that dictionary.
    """

    def __init__(self, path: str | Path, clone_buffers: bool = False) -> None:
        held = np.load(path)
        self.kind = str(held["kind"])
        self.top = float(held["top"])
        self.train = torch.from_numpy(held["x"]), torch.from_numpy(held["y"])
        self.val = torch.from_numpy(held["x_val"]), torch.from_numpy(held["y_val"])
        self.names = [k[2:] for k in held.files if k.startswith("w.")]
        self.params = [torch.from_numpy(held[f"w.{k}"]).requires_grad_() for k in self.names]
        self.hparams = [torch.from_numpy(held["h"]).requires_grad_()]
        self.model = network(self.kind)
        self.call: Callable[..., Tensor] = self._copied if clone_buffers else self._plain

    def _plain(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.model, params, (x,))

    def _copied(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        buffers = {k: b.clone() for k, b in self.model.named_buffers()}
        return functional_call(self.model, {**params, **buffers}, (x,))

    def inner(self, params: Sequence[Tensor], hparams: Sequence[Tensor]) -> Tensor:
        """The training loss with its penalty."""
        if self.kind == "logistic":
            penalty = 0.5 * (hparams[0].exp() * params[0] * params[0]).sum()
        else:
            penalty = 0.5 * (hparams[0].exp() * torch.stack([(p * p).sum() for p in params])).sum()
        return self._loss(params, *self.train) + penalty

    def outer(self, params: Sequence[Tensor], hparams: Sequence[Tensor]) -> Tensor:
        """The validation loss, which the hyperparameters reach through the parameters only."""
        return self._loss(params, *self.val)

    def _loss(self, params: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        if self.kind == "logistic":
            return F.binary_cross_entropy_with_logits(x @ params[0], y)
        return F.cross_entropy(self.call(dict(zip(self.names, params, strict=True)), x), y)

    def floor(self) -> Any:
        """One forward and backward pass of the training loss: the unit of time."""
        return torch.autograd.grad(self.inner(self.params, [h.detach() for h in self.hparams]), self.params)


def network(kind: str) -> nn.Module:
    """The model of a kind: ``logistic`` (none is needed), ``softmax``, ``wrn-16-1 group``, ``wrn-28-2 batch``."""
    if kind == "logistic":
        return nn.Identity()
    if kind == "softmax":
        return nn.Linear(SOFTMAX_FEATURES, CLASSES)
    name, norm = kind.split()
    _, depth, width = name.split("-")
    return WideResNet(int(depth), int(width), norm)


def make(kind: str, path: Path, *, seed: int, batch: int = 32, log_decay: float = -7.6) -> None:
    """Write a problem with a model: Gaussian inputs, random labels, initial weights."""
    torch.manual_seed(seed)
    model = network(kind)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    params = {k: p.detach() for k, p in model.named_parameters()}
    shape = (SOFTMAX_SAMPLES, SOFTMAX_FEATURES) if kind == "softmax" else (batch, 3, 32, 32)
    data = {}
    for x, y in (("x", "y"), ("x_val", "y_val")):
        data[x], data[y] = torch.randn(shape).numpy(), torch.randint(CLASSES, shape[:1]).numpy()
    weights = {f"w.{k}": p.numpy() for k, p in params.items()}
    decay = np.full(len(params), log_decay, dtype=np.float32)
    np.savez(path, kind=kind, top=math.nan, h=decay, **data, **weights)


def make_logistic(path: Path, *, condition: float, seed: int, samples: int, features: int) -> dict[str, Any]:
    """Write a logistic regression at its optimum, whose inner Hessian has about the given condition number.

    Features are correlated and of different scales; the common weight decay is found by bisection, and each
    feature's own is up to a factor of e off it. The optimum is found by Newton's method.

    Returns:
        The exact hypergradient (by the closed form of the Hessian, factorised), and what the Hessian is like.
    """
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.standard_normal((features, features)))[0]
    scales = np.logspace(0, -2.5, features)
    truth = rng.standard_normal(features)
    spread = rng.uniform(-0.5, 0.5, features)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        x = (rng.standard_normal((samples, features)) * scales) @ mixing * math.sqrt(features / 10)
        return x, (x @ truth + rng.logistic(size=samples) > 0).astype(float)

    x, y = draw()
    x_val, y_val = draw()

    def solve(log_decay: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        h, w = log_decay + spread, np.zeros(features)
        for _ in range(30):
            p = 0.5 * (1 + np.tanh(x @ w / 2))
            gradient = x.T @ (p - y) / samples + np.exp(h) * w
            hessian = (x.T * (p * (1 - p) / samples)) @ x + np.diag(np.exp(h))
            step = np.linalg.solve(hessian, gradient)
            w = w - step
            if np.linalg.norm(step) < 1e-13 * np.linalg.norm(w):
                break
        return h, w, hessian

    low, high = -14.0, 3.0
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.cond(solve(middle)[2]) > condition else (low, middle)
    h, w, hessian = solve((low + high) / 2)
    values = np.linalg.eigvalsh(hessian)
    b = x_val.T @ (0.5 * (1 + np.tanh(x_val @ w / 2)) - y_val) / samples
    exact = -np.exp(h) * w * np.linalg.solve(hessian, b)
    held = {"x": x, "y": y, "x_val": x_val, "y_val": y_val, "h": h, "w.w": w}
    np.savez(path, kind="logistic", top=values[-1], **held)
    return {
        "exact": exact.tolist(), "condition": float(values[-1] / values[0]), "lambda_max": float(values[-1]),
        "samples": samples, "features": features,
    }  # fmt: skip
