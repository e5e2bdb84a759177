"""Inner optimizers as differentiable functions: torch's update rules, without in-place writes."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.tree import Layout, TensorDict

#: A number, or a function of the hyperparameters that gives a scalar: ``lambda h: h["log_lr"].exp()``.
Option = float | Tensor | Callable[[TensorDict], Tensor]


@runtime_checkable
class InnerOptimizer(Protocol):
    """A frozen dataclass whose :data:`Option` fields may depend on the hyperparameters."""

    def start(self) -> Any:
        """The state of one parameter before its first step."""
        ...

    def step(self, w: Tensor, grad: Tensor, state: Any, options: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """One parameter and its state after one step, out of place; ``options`` are the fields' values."""
        ...


@dataclass(frozen=True, kw_only=True)
class SGD:
    """The update of ``torch.optim.SGD``.

    ``buf = momentum buf + (1 - dampening) grad`` (``buf = grad`` at first), then ``w - lr buf``, or with Nesterov's
    momentum ``w - lr (grad + momentum buf)``. Weight decay belongs into the inner loss.

    Args:
        lr: learning rate.
        momentum: in [0, 1).
        dampening: of the momentum.
        nesterov: use Nesterov's momentum.
    """

    lr: Option
    momentum: Option = 0.0
    dampening: Option = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check_number("SGD", "lr", self.lr, 0.0, math.inf)
        _check_number("SGD", "momentum", self.momentum, 0.0, math.inf)
        _check_number("SGD", "dampening", self.dampening, -math.inf, math.inf)
        plain = _is_zero(self.momentum) or not _is_zero(self.dampening)
        if self.nesterov and plain:
            raise InvalidInputError(
                "SGD with nesterov=True needs momentum > 0 and dampening = 0; "
                f"got momentum={self.momentum!r}, dampening={self.dampening!r}."
            )

    def start(self) -> Tensor | None:
        """No momentum yet."""
        return None

    def step(
        self, w: Tensor, grad: Tensor, state: Tensor | None, options: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """One step; the state is the momentum buffer."""
        if _is_zero(self.momentum):
            return w - options["lr"] * grad, None
        momentum = options["momentum"]
        buffer = grad if state is None else momentum * state + (1 - options["dampening"]) * grad
        return w - options["lr"] * (grad + momentum * buffer if self.nesterov else buffer), buffer


@dataclass(frozen=True, kw_only=True)
class Adam:
    """The update of ``torch.optim.Adam``: ``w - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)``.

    Args:
        lr: learning rate.
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        eps: >= 0. The derivative of a step with respect to a gradient near 0 is as large as ``lr / eps``.
    """

    lr: Option
    beta1: Option = 0.9
    beta2: Option = 0.999
    eps: Option = 1e-8

    def __post_init__(self) -> None:
        _check_number("Adam", "lr", self.lr, 0.0, math.inf)
        _check_number("Adam", "beta1", self.beta1, 0.0, 1.0)
        _check_number("Adam", "beta2", self.beta2, 0.0, 1.0)
        _check_number("Adam", "eps", self.eps, 0.0, math.inf)

    def start(self) -> tuple[int, Tensor | float, Tensor | float]:
        """Step 0, moments 0."""
        return 0, 0.0, 0.0

    def step(
        self, w: Tensor, grad: Tensor, state: tuple[int, Any, Any], options: Mapping[str, Any]
    ) -> tuple[Tensor, tuple[int, Tensor, Tensor]]:
        """One step; the state is the number of steps taken and both moments."""
        beta1, beta2 = options["beta1"], options["beta2"]
        t = state[0] + 1
        m = beta1 * state[1] + (1 - beta1) * grad
        v = beta2 * state[2] + (1 - beta2) * grad * grad
        # sqrt has an infinite derivative at 0, and infinity times 0 is NaN. Where v = 0 every gradient so far was 0,
        # and the derivative of m / (sqrt(v) + eps) is dm / eps: that of sqrt(v) counts as 0.
        positive = v > 0
        root = torch.where(positive, torch.where(positive, v, 1.0).sqrt(), 0.0)
        denominator = root / (1 - beta2**t) ** 0.5 + options["eps"]
        return w - options["lr"] / (1 - beta1**t) * m / denominator, (t, m, v)


@dataclass(frozen=True)
class Plan:
    """For each parameter, by key: its update rule, and the state it starts from."""

    rules: dict[str, InnerOptimizer]
    states: dict[str, Any]

    def bind(self, hparams: TensorDict) -> Callable[..., tuple[Tensor, Any]]:
        """``advance(key, w, grad, state) -> (w, state)`` at these hyperparameters."""
        # Rules are few (one a parameter group): evaluate each one's options once and not once a parameter.
        options = {id(rule): _evaluate(rule, hparams) for rule in self.rules.values()}

        def advance(key: str, w: Tensor, grad: Tensor, state: Any) -> tuple[Tensor, Any]:
            rule = self.rules[key]
            return rule.step(w, grad, state, options[id(rule)])

        return advance


def plan(optimizer: InnerOptimizer | torch.optim.Optimizer, layout: Layout) -> Plan:
    """How each parameter of ``layout`` is stepped.

    Args:
        optimizer: one rule for all parameters, or a ``torch.optim`` SGD, Adam or AdamW over the parameters in the
            order of the layout: its options (per group) and its present state (momentum, moments) are taken as
            constants, and it is left as it is.
        layout: of ``params``.

    Raises:
        InvalidInputError: another optimizer, an option that has no differentiable counterpart, or other parameters.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        return _from_torch(optimizer, layout)
    if isinstance(optimizer, type) or not isinstance(optimizer, InnerOptimizer):
        raise InvalidInputError(
            f"optimizer must be SGD(...) or Adam(...) of hypergrad.estimators.inner_optimizers, or a torch.optim SGD, "
            f"Adam or AdamW instance over the parameters; got {optimizer!r}."
        )
    return Plan(dict.fromkeys(layout.keys, optimizer), {key: optimizer.start() for key in layout.keys})


#: Options of torch.optim that change the update in a way that is not reproduced here.
_REFUSED = ("maximize", "amsgrad")


def _from_torch(optimizer: torch.optim.Optimizer, layout: Layout) -> Plan:
    kind = type(optimizer)
    # Exactly these classes: a subclass may step otherwise.
    if kind not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        raise InvalidInputError(
            f"{kind.__name__} cannot be differentiated through; supported are torch.optim.SGD, Adam and AdamW. "
            "For another rule write a dataclass with the methods start and step (see InnerOptimizer)."
        )
    owned = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    if [p.shape for p, _ in owned] != list(layout.shapes):
        raise InvalidInputError(
            f"The {kind.__name__} holds parameters of shapes {[tuple(p.shape) for p, _ in owned]}; params have "
            f"{[tuple(s) for s in layout.shapes]}. Both must list the same parameters in the same order."
        )
    rules: dict[int, InnerOptimizer] = {id(group): _rule(kind, group) for group in optimizer.param_groups}
    return Plan(
        {key: rules[id(group)] for key, (_, group) in zip(layout.keys, owned, strict=True)},
        {
            key: _state(rules[id(group)], optimizer.state.get(p, {}))
            for key, (p, group) in zip(layout.keys, owned, strict=True)
        },
    )


def _rule(kind: type[torch.optim.Optimizer], group: dict[str, Any]) -> InnerOptimizer:
    if group["weight_decay"] != 0:
        raise InvalidInputError(
            f"{kind.__name__} has weight_decay={group['weight_decay']}, which would be missing from the inner loss. "
            "Set it to 0 and add the decay to the loss (the weight_decay family, or 0.5 * decay * sum(p**2))."
        )
    for name in _REFUSED:
        if group.get(name):
            raise InvalidInputError(f"{kind.__name__} with {name}={group[name]} is not supported; set it to False.")
    if kind is torch.optim.SGD:
        return SGD(
            lr=_constant(group["lr"]),
            momentum=_constant(group["momentum"]),
            dampening=_constant(group["dampening"]),
            nesterov=group["nesterov"],
        )
    beta1, beta2 = group["betas"]
    return Adam(lr=_constant(group["lr"]), beta1=_constant(beta1), beta2=_constant(beta2), eps=_constant(group["eps"]))


def _state(rule: InnerOptimizer, held: Mapping[str, Any]) -> Any:
    """The state of one parameter in a torch optimizer, as a constant."""
    if isinstance(rule, Adam) and held:
        return int(held["step"]), held["exp_avg"].detach().clone(), held["exp_avg_sq"].detach().clone()
    if isinstance(rule, SGD) and held.get("momentum_buffer") is not None:
        return held["momentum_buffer"].detach().clone()
    return rule.start()


def _constant(value: float | Tensor) -> float | Tensor:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _evaluate(rule: InnerOptimizer, hparams: TensorDict) -> dict[str, Any]:
    """The rule's fields, with functions of the hyperparameters replaced by their values."""
    fields: Sequence[Any] = dataclasses.fields(rule) if dataclasses.is_dataclass(rule) else ()
    options = {f.name: getattr(rule, f.name) for f in fields}
    for name, value in options.items():
        if callable(value):
            got = value(dict(hparams))
            if not isinstance(got, Tensor) or got.numel() != 1:
                shown = f"shape {tuple(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
                raise InvalidInputError(f"The function given as {name} must return a scalar tensor; got {shown}.")
            options[name] = got.reshape(())
    return options


def _is_zero(value: Option) -> bool:
    return isinstance(value, int | float) and value == 0


def _check_number(kind: str, name: str, value: Option, low: float, high: float) -> None:
    """Refuse what is neither a function, nor a scalar tensor, nor a number in ``[low, high)``."""
    if callable(value):  # a Tensor is not
        return
    if isinstance(value, Tensor) and value.numel() == 1:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
        raise InvalidInputError(
            f"{kind}: {name} must be a number in [{low:g}, {high:g}) or a function of the hyperparameters; "
            f"got {value!r}."
        )
