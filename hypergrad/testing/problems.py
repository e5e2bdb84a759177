"""Bilevel problems whose hypergradient is known in closed form, in float64.

Each function builds a :class:`Problem` that stands at its inner optimum. The exact hypergradient never comes from the
implicit function theorem: it is autograd through a closed-form optimum, a formula, or a difference of solved problems.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

TensorDict = dict[str, Tensor]
_F = torch.float64


@dataclass(frozen=True)
class Problem:
    """An inner and an outer loss, an inner optimum, and the hypergradient there.

    Attributes:
        inner_loss: ``f(params, hparams)``, scalar.
        outer_loss: ``g(params, hparams)``, scalar.
        optimum: ``hparams -> params`` that minimise f.
        hparams: the point.
        gradient: ``hparams -> `` the exact hypergradient; None for autograd through ``optimum``.
        params: the inner optimum at ``hparams``; filled in.
        exact: the hypergradient at ``hparams``, like ``hparams``; filled in.

    Example:
        >>> problem = ridge()
        >>> sorted(problem.hparams), problem.exact["log_decay"].shape
        (['log_decay'], torch.Size([]))
    """

    inner_loss: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
    outer_loss: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
    optimum: Callable[[Mapping[str, Tensor]], TensorDict]
    hparams: TensorDict
    gradient: Callable[[Mapping[str, Tensor]], TensorDict] | None = None
    params: TensorDict = field(init=False)
    exact: TensorDict = field(init=False)

    def __post_init__(self) -> None:
        params = {k: v.detach() for k, v in self.optimum(self.hparams).items()}
        object.__setattr__(self, "params", params)
        object.__setattr__(self, "exact", (self.gradient or self._through_optimum)(self.hparams))

    def objective(self, hparams: Mapping[str, Tensor]) -> Tensor:
        """``g(w*(h), h)``, scalar: what the outer problem minimises."""
        return self.outer_loss(self.optimum(hparams), hparams)

    def _through_optimum(self, hparams: Mapping[str, Tensor]) -> TensorDict:
        leaves = {k: v.detach().clone().requires_grad_() for k, v in hparams.items()}
        grads = torch.autograd.grad(self.objective(leaves), list(leaves.values()))
        return dict(zip(leaves, grads, strict=True))


def central_differences(
    objective: Callable[[Mapping[str, Tensor]], Tensor], hparams: Mapping[str, Tensor], step: float = 1e-2
) -> TensorDict:
    """The gradient of ``objective`` by differences of eighth order: error ``O(step^8)`` and ``O(eps / step)``."""
    # Weights of the central difference on the points +-1, +-2, +-3, +-4.
    weights = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
    grads = {}
    for key, value in hparams.items():
        grad = torch.zeros_like(value)
        for i in range(value.numel()):
            for k, weight in enumerate(weights, start=1):
                for sign in (1, -1):
                    moved = value.detach().clone()
                    moved.view(-1)[i] += sign * k * step
                    grad.view(-1)[i] += sign * weight / step * objective({**hparams, key: moved})
        grads[key] = grad
    return grads


def _data(seed: int, n: int = 12, d: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training inputs ``(n, d)`` and targets ``(n,)``, then validation ones."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(d, generator=generator, dtype=_F)
    inputs = torch.randn(2, n, d, generator=generator, dtype=_F)
    targets = inputs @ truth + 0.3 * torch.randn(2, n, generator=generator, dtype=_F)
    return inputs[0], targets[0], inputs[1], targets[1]


def _least_squares(
    seed: int,
    hparams: TensorDict,
    weights: Callable[[Mapping[str, Tensor]], Tensor],  # -> (n,) or ()
    decay: Callable[[Mapping[str, Tensor], Tensor], Tensor],  # (hparams, X) -> (d,) or ()
    inner_loss: Callable[[Tensor, Mapping[str, Tensor], Tensor, Tensor], Tensor] | None = None,
) -> Problem:
    """``f = sum_i s_i (x_i w - y_i)^2 / 2n + sum_k c_k w_k^2 / 2``, ``w* = (X' S X / n + C)^-1 X' S y / n``.

    ``inner_loss(w, hparams, X, y)`` replaces f by something that is equal to it without looking so.
    """
    x, y, x_val, y_val = _data(seed)
    n, d = x.shape

    def optimum(h: Mapping[str, Tensor]) -> TensorDict:
        weighted = x * weights(h).expand(n)[:, None] / n  # (n, d)
        matrix = weighted.T @ x + torch.diag(decay(h, x).expand(d))
        return {"w": torch.linalg.solve(matrix, weighted.T @ y)}

    def inner(p: Mapping[str, Tensor], h: Mapping[str, Tensor]) -> Tensor:
        if inner_loss is not None:
            return inner_loss(p["w"], h, x, y)
        return (weights(h) * (x @ p["w"] - y) ** 2).mean() / 2 + (decay(h, x) * p["w"] ** 2).sum() / 2

    def outer(p: Mapping[str, Tensor], h: Mapping[str, Tensor]) -> Tensor:
        return ((x_val @ p["w"] - y_val) ** 2).mean() / 2

    return Problem(inner, outer, optimum, hparams)


def _one(h: Mapping[str, Tensor]) -> Tensor:
    return torch.ones((), dtype=_F)


def ridge(seed: int = 0, *, log: bool = True) -> Problem:
    """Linear regression with one decay, ``exp(log_decay)`` or the raw ``decay``."""
    if log:
        hparams = {"log_decay": torch.tensor(-1.0, dtype=_F)}
        return _least_squares(seed, hparams, _one, lambda h, x: h["log_decay"].exp())
    return _least_squares(seed, {"decay": torch.tensor(0.4, dtype=_F)}, _one, lambda h, x: h["decay"])


def ridge_per_feature(seed: int = 1) -> Problem:
    """Linear regression with a decay ``exp(log_decay)`` for each feature."""
    hparams = {"log_decay": torch.linspace(-2, 1, 4, dtype=_F)}
    return _least_squares(seed, hparams, _one, lambda h, x: h["log_decay"].exp())


def sample_weights(seed: int = 2) -> Problem:
    """Ridge regression with a weight ``softplus(logits)`` for each of the training samples."""
    hparams = {"logits": torch.linspace(-1, 1, 12, dtype=_F)}
    fixed = torch.tensor(0.1, dtype=_F)
    return _least_squares(seed, hparams, lambda h: torch.nn.functional.softplus(h["logits"]), lambda h, x: fixed)


def noise_augmentation(seed: int = 3) -> Problem:
    """Noise of standard deviation sigma added to the inputs, averaged exactly: equal to a decay of ``sigma^2``.

    The noise takes the 2 d values ``+-sqrt(d) sigma e_k``, of mean zero and covariance ``sigma^2 I``.
    """

    def augmented(w: Tensor, h: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        d = x.shape[1]
        directions = torch.cat([torch.eye(d, dtype=_F), -torch.eye(d, dtype=_F)]) * d**0.5  # (2d, d)
        noisy = x[None] + h["log_sigma"].exp() * directions[:, None]  # (2d, n, d)
        loss: Tensor = ((noisy @ w - y) ** 2).mean() / 2
        return loss

    hparams = {"log_sigma": torch.tensor(-0.7, dtype=_F)}
    return _least_squares(seed, hparams, _one, lambda h, x: (2 * h["log_sigma"]).exp(), augmented)


def feature_dropout(seed: int = 4) -> Problem:
    """Inverted dropout of the inputs at keep probability p, averaged over all masks: a decay per feature.

    ``E (x * m / p - x)^2 = x^2 (1 - p) / p``, so feature k has the decay ``(1 - p) / p * mean_i x_ik^2``.
    """

    def dropped(w: Tensor, h: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        keep = h["logit"].sigmoid()
        masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=x.shape[1])), dtype=_F)  # (2^d, d)
        probability = torch.prod(masks * keep + (1 - masks) * (1 - keep), dim=1)  # (2^d,)
        losses = ((x[None] * masks[:, None] / keep) @ w - y).square().mean(1) / 2
        return (probability * losses).sum()

    def decay(h: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return (-h["logit"]).exp() * x.square().mean(0)  # (1 - p) / p = exp(-logit)

    return _least_squares(seed, {"logit": torch.tensor(1.2, dtype=_F)}, _one, decay, dropped)


def elastic_net(seed: int = 5) -> Problem:
    """Lasso plus ridge, with the inner variables on the support of the solution, where f is smooth."""
    x, y, x_val, y_val = _data(seed, n=20, d=6)
    hparams = {"log_l1": torch.tensor(0.3, dtype=_F).log(), "log_l2": torch.tensor(-2.0, dtype=_F)}
    gram, target = x.T @ x / len(x), x.T @ y / len(x)
    l1, l2 = hparams["log_l1"].exp(), hparams["log_l2"].exp()
    w = torch.zeros(6, dtype=_F)
    for _ in range(500):  # coordinate descent, each coordinate in closed form
        for k in range(6):
            partial = target[k] - gram[k] @ w + gram[k, k] * w[k]
            w[k] = partial.sign() * (partial.abs() - l1).clamp_min(0) / (gram[k, k] + l2)
    support = w.nonzero().squeeze(1)
    x, x_val, signs = x[:, support], x_val[:, support], w.sign()[support]
    gram, target = gram[support][:, support], target[support]

    def optimum(h: Mapping[str, Tensor]) -> TensorDict:
        matrix = gram + h["log_l2"].exp() * torch.eye(len(gram), dtype=_F)
        return {"w": torch.linalg.solve(matrix, target - h["log_l1"].exp() * signs)}

    def inner(p: Mapping[str, Tensor], h: Mapping[str, Tensor]) -> Tensor:
        w = p["w"]
        penalty = h["log_l1"].exp() * w.abs().sum() + h["log_l2"].exp() / 2 * w.square().sum()
        return ((x @ w - y) ** 2).mean() / 2 + penalty

    def outer(p: Mapping[str, Tensor], h: Mapping[str, Tensor]) -> Tensor:
        return ((x_val @ p["w"] - y_val) ** 2).mean() / 2

    return Problem(inner, outer, optimum, hparams)


def leave_one_out(seed: int = 6) -> Problem:
    """The decay of ridge regression by leave-one-out: n inner problems at once, and the PRESS formula.

    ``e_i / (1 - H_ii)`` with the hat matrix ``H = X (X' X + c I)^-1 X'`` is the error at the sample that is left out.
    """
    x, y, _, _ = _data(seed, n=7, d=3)
    n, d = x.shape
    others = 1 - torch.eye(n, dtype=_F)
    eye = torch.eye(d, dtype=_F)

    def optimum(h: Mapping[str, Tensor]) -> TensorDict:
        kept = others[:, :, None] * x  # (n, n, d)
        return {"w": torch.linalg.solve(kept.mT @ x + h["log_decay"].exp() * eye, kept.mT @ y)}

    def inner(p: Mapping[str, Tensor], h: Mapping[str, Tensor]) -> Tensor:
        w = p["w"]  # (n, d), row i without sample i
        return (others * (w @ x.T - y) ** 2).sum() / 2 + h["log_decay"].exp() / 2 * w.square().sum()

    def outer(p: Mapping[str, Tensor], h: Mapping[str, Tensor]) -> Tensor:
        return (((p["w"] * x).sum(1) - y) ** 2).mean() / 2

    def press(h: Mapping[str, Tensor]) -> TensorDict:
        c = h["log_decay"].detach().clone().requires_grad_()
        hat = x @ torch.linalg.solve(x.T @ x + c.exp() * eye, x.T)
        error = (y - hat @ y) / (1 - hat.diagonal())
        return {"log_decay": torch.autograd.grad(error.square().mean() / 2, c)[0]}

    return Problem(inner, outer, optimum, {"log_decay": torch.tensor(0.0, dtype=_F)}, press)


def logistic_regression(seed: int = 7) -> Problem:
    """Logistic regression with a decay per feature at a Newton optimum; differences of the solved problem."""
    x, y, x_val, y_val = _data(seed, n=24, d=3)
    labels, labels_val = (y > 0).to(_F), (y_val > 0).to(_F)
    loss = torch.nn.functional.binary_cross_entropy_with_logits

    def optimum(h: Mapping[str, Tensor]) -> TensorDict:
        w = torch.zeros(3, dtype=_F)
        for _ in range(30):
            p = (x @ w).sigmoid()
            grad = x.T @ (p - labels) / len(x) + h["log_decay"].exp() * w
            w = w - torch.linalg.solve((x.T * (p * (1 - p))) @ x / len(x) + torch.diag(h["log_decay"].exp()), grad)
        return {"w": w}

    def inner(p: Mapping[str, Tensor], h: Mapping[str, Tensor]) -> Tensor:
        return loss(x @ p["w"], labels) + (h["log_decay"].exp() * p["w"] ** 2).sum() / 2

    def outer(p: Mapping[str, Tensor], h: Mapping[str, Tensor]) -> Tensor:
        return loss(x_val @ p["w"], labels_val)

    def solved(h: Mapping[str, Tensor]) -> TensorDict:
        return central_differences(lambda moved: outer(optimum(moved), moved), h)

    return Problem(inner, outer, optimum, {"log_decay": torch.tensor([-2.0, -1.0, -1.5], dtype=_F)}, solved)


def quadratic(eigenvalues: Sequence[float] = (1.0, 2.0, 5.0), seed: int = 8) -> Problem:
    """``f = w' H w / 2 - w' B h`` with the spectrum of H given, ``g = |w - t|^2 / 2 + |h|^2 / 20``.

    ``w* = H^-1 B h`` and ``dg/dh = B' H^-1 (w* - t) + h / 10``: a direct term and an implicit one.
    """
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.tensor(list(eigenvalues), dtype=_F)
    n = len(spectrum)
    q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=_F)).Q
    hessian, inverse = (q * spectrum) @ q.T, (q / spectrum) @ q.T
    mixed = torch.randn(n, 2, generator=generator, dtype=_F)
    target = torch.randn(n, generator=generator, dtype=_F)
    hparams = {"h": torch.randn(2, generator=generator, dtype=_F)}

    def optimum(h: Mapping[str, Tensor]) -> TensorDict:
        return {"w": inverse @ (mixed @ h["h"])}

    def inner(p: Mapping[str, Tensor], h: Mapping[str, Tensor]) -> Tensor:
        w = p["w"]
        return w.dot(hessian @ w) / 2 - w.dot(mixed @ h["h"])

    def outer(p: Mapping[str, Tensor], h: Mapping[str, Tensor]) -> Tensor:
        return (p["w"] - target).square().sum() / 2 + h["h"].square().sum() / 20

    def formula(h: Mapping[str, Tensor]) -> TensorDict:
        return {"h": mixed.T @ inverse @ (optimum(h)["w"] - target) + h["h"] / 10}

    return Problem(inner, outer, optimum, hparams, formula)


def first_order_sign_error() -> Problem:
    """``H = diag(1, 0.01)``: the hypergradient is -1, and the first-order method says +0.98.

    ``f = w' H w / 2 - h c' w`` and ``g = a' w``, so ``dg/dh = a' H^-1 c`` and first-order gives ``a' c``.
    """
    spectrum = torch.tensor([1.0, 0.01], dtype=_F)
    a, c = torch.tensor([1.0, -0.1], dtype=_F), torch.tensor([1.0, 0.2], dtype=_F)
    return Problem(
        inner_loss=lambda p, h: (spectrum * p["w"] ** 2).sum() / 2 - h["h"] * (c @ p["w"]),
        outer_loss=lambda p, h: a @ p["w"],
        optimum=lambda h: {"w": h["h"] * c / spectrum},
        hparams={"h": torch.tensor(0.7, dtype=_F)},
        gradient=lambda h: {"h": torch.tensor(-1.0, dtype=_F)},
    )


#: Every problem by name, at its default size: what a test can be parametrised over.
PROBLEMS: dict[str, Callable[[], Problem]] = {
    "ridge": ridge,
    "ridge_raw": lambda: ridge(log=False),
    "ridge_per_feature": ridge_per_feature,
    "sample_weights": sample_weights,
    "elastic_net": elastic_net,
    "leave_one_out": leave_one_out,
    "logistic_regression": logistic_regression,
    "noise_augmentation": noise_augmentation,
    "feature_dropout": feature_dropout,
    "quadratic": quadratic,
    "first_order_sign_error": first_order_sign_error,
}
