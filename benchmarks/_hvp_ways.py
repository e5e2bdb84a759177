"""The problems of ``hvp.py``, and every way of forming the products of one Neumann hypergradient."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hypergrad
from hypergrad.estimators.implicit import Implicit
from hypergrad.solvers.neumann import Neumann
from hypergrad.vision.models import build_model

ALPHA = 1e-3
#: One log weight decay for each parameter tensor.
INITIAL_LOG_DECAY = -7.6  # exp(-7.6) is 5e-4
FLOOR = "floor"
BY_HAND = "kept graph by hand"

#: Options of the estimator by the name of the way.
OPTIONS: dict[str, dict[str, Any]] = {
    "hypergrad": {},
    "gauss-newton": {"curvature": "gauss-newton"},
    "curvature_share 1/4": {"curvature_share": 0.25},
    "gauss-newton, 1/4": {"curvature": "gauss-newton", "curvature_share": 0.25},
    "bfloat16": {"precision": "bfloat16"},
    "finite-difference": {"curvature": "finite-difference"},
    "memory low": {"memory": "low"},
    "memory low, micro-batch 4": {"memory": "low", "micro_batch": 4},
    "memory low, gauss-newton": {"memory": "low", "curvature": "gauss-newton"},
}

Vector = Sequence[Tensor]


class Problem:
    """A model, a training and a validation batch, and a weight decay for each parameter tensor."""

    def __init__(
        self, name: str, batch: int, seed: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module
        if name == "softmax":
            self.model, shape = nn.Linear(784, 10), (784,)
        else:
            self.model = build_model("wrn-16-1", num_classes=10, channels=3, image_size=32, norm=name)
            shape = (3, 32, 32)
        self.model.to(device, dtype)
        self.train, self.val = (
            (torch.rand(batch, *shape).to(device, dtype), torch.randint(10, (batch,)).to(device)) for _ in range(2)
        )
        family = hypergrad.families.get(
            "weight_decay", model=self.model, per="parameter", initial=math.exp(INITIAL_LOG_DECAY)
        ).to(device, dtype)
        self.bilevel = hypergrad.BilevelProblem.for_model(self.model, family)
        self.params = {k: p.detach() for k, p in self.model.named_parameters()}
        self.hparams = {"log_decay": torch.full((len(self.params),), INITIAL_LOG_DECAY, dtype=dtype, device=device)}
        self.call = hypergrad.functional(self.model)

    def loss(self, params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Of the data alone, in train mode."""
        return F.cross_entropy(self.call(params, x), y)

    def inner(self, params: dict[str, Tensor], hparams: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """The training loss."""
        return self.loss(params, x, y) + penalty(list(params.values()), hparams["log_decay"])

    def outer(self, params: dict[str, Tensor], hparams: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """The validation loss."""
        return self.loss(params, x, y)


def penalty(params: Vector, log_decay: Tensor) -> Tensor:
    """``1/2 sum_i decay_i ||w_i||^2``."""
    return 0.5 * (log_decay.exp() * torch.stack([(p * p).sum() for p in params])).sum()


def floor(problem: Problem) -> Tensor:
    """One forward and backward pass of the training loss."""
    model, (x, y) = problem.model, problem.train
    params = list(model.parameters())
    loss = F.cross_entropy(model(x), y) + penalty(params, problem.hparams["log_decay"])
    return torch.autograd.grad(loss, params)[0]


def training_step(problem: Problem) -> None:
    """A step of SGD with momentum, from gradients that are None."""
    params = list(problem.model.parameters())
    optimizer = torch.optim.SGD(params, lr=0.0, momentum=0.9)
    model, (x, y) = problem.model, problem.train
    (F.cross_entropy(model(x), y) + penalty(params, problem.hparams["log_decay"])).backward()
    optimizer.step()
    optimizer.zero_grad()


def by_hand(problem: Problem, num_hvps: int) -> Tensor:
    """The reference twin: nothing but the calculus, on the module's own parameters."""
    model, (x, y), (x_val, y_val) = problem.model, problem.train, problem.val
    params = list(model.parameters())
    log_decay = problem.hparams["log_decay"].clone().requires_grad_()
    loss = F.cross_entropy(model(x), y) + penalty(params, log_decay)
    grads = torch.autograd.grad(loss, params, create_graph=True)
    term = list(torch.autograd.grad(F.cross_entropy(model(x_val), y_val), params))
    total = list(term)
    for _ in range(num_hvps):
        products = torch.autograd.grad(grads, params, term, retain_graph=True)
        term = [t - ALPHA * p for t, p in zip(term, products, strict=True)]
        total = [s + t for s, t in zip(total, term, strict=True)]
    (cross,) = torch.autograd.grad(grads, log_decay, [ALPHA * s for s in total])
    return -cross


def _neumann(problem: Problem, num_hvps: int, product: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Tensor:
    """With the products of another way; the cross term of a weight decay is ``decay w x``, by autograd."""
    term = torch.func.grad(lambda w: problem.loss(w, *problem.val))(problem.params)
    total = dict(term)
    for _ in range(num_hvps):
        products = product(term)
        term = {k: t - ALPHA * products[k] for k, t in term.items()}
        total = {k: s + term[k] for k, s in total.items()}
    log_decay = problem.hparams["log_decay"].clone().requires_grad_()
    params = [p.clone().requires_grad_() for p in problem.params.values()]
    grads = torch.autograd.grad(penalty(params, log_decay), params, create_graph=True)
    (cross,) = torch.autograd.grad(grads, log_decay, [ALPHA * s for s in total.values()])
    return -cross


def _gradient(problem: Problem) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return torch.func.grad(lambda w: problem.inner(w, problem.hparams, *problem.train))


def by_reused_vjp(problem: Problem, num_hvps: int) -> Tensor:
    """``torch.func.vjp`` of the gradient, once."""
    _, pull = torch.func.vjp(_gradient(problem), problem.params)
    return _neumann(problem, num_hvps, lambda v: pull(v)[0])


def by_jvp(problem: Problem, num_hvps: int) -> Tensor:
    """``torch.func.jvp`` of the gradient, anew for each product."""
    gradient = _gradient(problem)
    return _neumann(problem, num_hvps, lambda v: torch.func.jvp(gradient, (problem.params,), (v,))[1])


def by_differences(problem: Problem, num_hvps: int, *, central: bool) -> Tensor:
    """Differences of the gradient, with the step ``eps^(1/3)`` or ``eps^(1/2)`` times ``(1 + ||w||) / ||v||``."""
    params = problem.params

    def gradient(w: dict[str, Tensor]) -> dict[str, Tensor]:
        w = {k: p.detach().requires_grad_() for k, p in w.items()}
        loss = problem.inner(w, problem.hparams, *problem.train)
        return dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))

    def norm(tree: dict[str, Tensor]) -> Tensor:
        return torch.stack([t.square().sum() for t in tree.values()]).sum().sqrt()

    base = params if central else gradient(params)
    root = torch.finfo(next(iter(params.values())).dtype).eps ** (1 / 3 if central else 1 / 2)

    def product(v: dict[str, Tensor]) -> dict[str, Tensor]:
        step = root * (1 + norm(params)) / norm(v)
        ahead = gradient({k: p + step * v[k] for k, p in params.items()})
        if not central:
            return {k: (a - base[k]) / step for k, a in ahead.items()}
        behind = gradient({k: p - step * v[k] for k, p in params.items()})
        return {k: (a - behind[k]) / (2 * step) for k, a in ahead.items()}

    return _neumann(problem, num_hvps, product)


def by_hypergrad(problem: Problem, num_hvps: int, options: dict[str, Any]) -> Tensor:
    """The estimator, which needs the loss in parts for some of its options."""
    separable, _ = problem.bilevel.objective.losses(0)
    estimator = Implicit(solver=Neumann(num_hvps=num_hvps, alpha=ALPHA), **options)
    result = estimator.estimate(
        separable if options else problem.inner,
        problem.outer,
        problem.params,
        problem.hparams,
        inner_batch=problem.train,
        outer_batch=problem.val,
    )
    return result.grads["log_decay"]


def ways(problem: Problem, num_hvps: int) -> dict[str, Callable[[], Tensor]]:
    """Every way by its name, the floor first."""
    by_name = {
        FLOOR: functools.partial(floor, problem),
        BY_HAND: functools.partial(by_hand, problem, num_hvps),
        "torch.func.vjp, reused": functools.partial(by_reused_vjp, problem, num_hvps),
        "torch.func.jvp of the gradient": functools.partial(by_jvp, problem, num_hvps),
        "central differences by hand": functools.partial(by_differences, problem, num_hvps, central=True),
        "one-sided differences by hand": functools.partial(by_differences, problem, num_hvps, central=False),
    }
    return by_name | {
        name: functools.partial(by_hypergrad, problem, num_hvps, options) for name, options in OPTIONS.items()
    }
