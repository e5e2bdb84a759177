"""The conformance suite for hyperparameter families: run it on your own in a test of your own.

from hypergrad.testing.families import check_family

def test_my_family():
check_family(MyFamily(...), images, labels, model=small_model)
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from hypergrad.families.base import Context, HyperparameterFamily
from hypergrad.keys import derive, generator
from hypergrad.tree import TensorDict

SampleLoss = Callable[[Any, Tensor], Tensor]  # (outputs, targets) -> (B,) or (B, T)


def check_family(
    family: HyperparameterFamily,
    inputs: Tensor,
    targets: Tensor,
    *,
    model: nn.Module,
    index: Tensor | None = None,
    loss: SampleLoss | None = None,
    key: int = 0,
    value_range: tuple[float, float] | None = None,
    surrogate: Sequence[str] = (),
    shardable: bool = True,
    step: float = 1e-5,
    tolerance: float = 1e-6,
) -> None:
    """Check that a family keeps its contract; everything runs in float64, on copies.

    - No hook changes its arguments or the global random state; the same key draws the same noise; with an index, half
      a batch is transformed as it is within the whole one.
    - Inner steps (detached hyperparameters, ``soft=False``) get finite data of the same shape, inside ``value_range``.
    - ``log_prob`` has shape ``(B,)``, is at most 0, and its gradient equals central differences.
    - Every hyperparameter has an effect, and ``d/dh [<df/dw, v>]`` (the cross derivative, through ``torch.func.grad``
      and ``functional_call``) and ``dg/dh`` equal central differences along a random direction, at the draws of
      ``key``.
    - ``values()`` are detached, finite tensors that do not share memory with the parameters.

    Args:
        family: the family; its hooks are called by ``model``'s loss as the engine calls them.
        inputs: one batch, ``(B, ...)``.
        targets: ``(B, ...)``; integers for classes.
        model: small and smooth enough to be differentiated twice; ``penalty`` sees its parameters.
        index: the samples' indices, ``(B,)``.
        loss: per-sample losses; the default is cross-entropy for integer targets, else the squared error.
        key: of the noise. Choose another where a discrete draw happens to lie on a boundary.
        value_range: bounds that transformed inputs must respect, ``(0, 1)`` for images.
        surrogate: names of the family's parameters whose gradient is a surrogate by design (straight-through), so
            that only its presence is checked.
        shardable: check the transform of half a batch (needs ``index``).
        step: of the central differences.
        tolerance: relative, of the comparison with central differences.

    Raises:
        AssertionError: the first point that does not hold, in one sentence.
    """
    check = _Check(family, model, inputs, targets, Context(key=key, index=index, soft=True, training=True), loss)
    known = list(check.hparams)
    unknown = [name for name in surrogate if name not in known]
    _require(not unknown, f"surrogate names {unknown} are no parameters of the family; it has {known}")
    _check_values(check.family)
    _check_purity(check)
    _check_inner_step(check, value_range)
    if index is not None and shardable:
        _check_shard(check)
    _check_derivatives(check, frozenset(surrogate), step, tolerance)


def _require(condition: bool, message: str) -> None:
    # Not an assert statement: those vanish under python -O, and a conformance suite must not.
    if not condition:
        raise AssertionError(message)


class _Whole(nn.Module):
    """Model and family in one module whose forward is the whole loss, so that one functional_call swaps everything."""

    def __init__(self, model: nn.Module, family: HyperparameterFamily, loss: SampleLoss) -> None:
        super().__init__()
        self.model, self.family, self.loss = model, family, loss

    def forward(self, inputs: Tensor, targets: Tensor, ctx: Context) -> tuple[Tensor, Tensor | None]:
        log_prob = None
        if ctx.training:
            inputs, targets, *rest = self.family.transform(inputs, targets, ctx)
            log_prob = rest[0] if rest else None
        losses = self.loss(self.family.predict(self.model, inputs, ctx), targets)
        if not ctx.training:
            return losses.mean(), None
        losses = self.family.weigh(losses, targets, ctx)
        return losses.mean() + self.family.penalty(dict(self.model.named_parameters())), log_prob


class _Check:
    """The family under test, in float64, and the pure functions of its parameters that are compared."""

    def __init__(
        self,
        family: HyperparameterFamily,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        ctx: Context,
        loss: SampleLoss | None,
    ) -> None:
        self.family, self.model = copy.deepcopy(family).double(), copy.deepcopy(model).double()
        self.inputs = inputs.detach().double() if inputs.is_floating_point() else inputs
        self.targets = targets.detach().double() if targets.is_floating_point() else targets
        self.ctx, self.loss = ctx, loss or _default_loss
        self.whole = _Whole(self.model, self.family, self.loss)
        self.params = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        self.hparams = {k: v.detach().clone() for k, v in self.family.named_parameters()}
        _require(bool(self.hparams), f"{type(family).__name__} has no nn.Parameter, so there is nothing to learn")

    def run(self, params: TensorDict, hparams: TensorDict, ctx: Context) -> tuple[Tensor, Tensor | None]:
        """The loss and the log-probability at these values; buffers are cloned, so that modules stay as they are."""
        values = {f"model.{k}": v for k, v in params.items()} | {f"family.{k}": v for k, v in hparams.items()}
        values |= {k: v.clone() for k, v in self.whole.named_buffers()}
        result: tuple[Tensor, Tensor | None] = functional_call(
            self.whole, values, (self.inputs.clone(), self.targets.clone(), ctx)
        )
        return result

    def with_hparams(self, hparams: TensorDict, hook: Callable[[], Any]) -> Any:
        """``hook()`` while the family holds ``hparams``."""
        caller = _Caller(self.family, hook)
        return functional_call(caller, {f"family.{k}": v for k, v in hparams.items()}, ())

    def transform(self, ctx: Context, rows: slice = slice(None)) -> tuple[Tensor, ...]:
        """The transformed batch at detached hyperparameters."""
        own = replace(ctx, index=None if ctx.index is None else ctx.index[rows])
        result: tuple[Tensor, ...] = self.with_hparams(
            self.hparams, lambda: self.family.transform(self.inputs[rows].clone(), self.targets[rows].clone(), own)
        )
        return result


class _Caller(nn.Module):
    def __init__(self, family: HyperparameterFamily, hook: Callable[[], Any]) -> None:
        super().__init__()
        self.family, self._hook = family, hook

    def forward(self) -> Any:
        return self._hook()


def _default_loss(outputs: Any, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        losses: Tensor = (outputs - targets.reshape(outputs.shape)).square().flatten(1).sum(1)
        return losses
    return functional.cross_entropy(outputs, targets, reduction="none")


def _check_values(family: HyperparameterFamily) -> None:
    values = family.values()
    _require(bool(values), "values() is empty, so nothing of this family would be logged")
    owned = {p.untyped_storage().data_ptr() for p in family.parameters()}
    for name, value in values.items():
        _require(isinstance(value, Tensor), f"values()[{name!r}] must be a tensor; got {type(value).__name__}")
        _require(not value.requires_grad, f"values()[{name!r}] requires grad; detach it")
        _require(bool(value.isfinite().all()), f"values()[{name!r}] is not finite: {value}")
        _require(
            value.untyped_storage().data_ptr() not in owned,
            f"values()[{name!r}] shares memory with a parameter, so a log would change under its reader; clone it",
        )


def _check_purity(check: _Check) -> None:
    family, ctx = check.family, check.ctx
    x, y = check.inputs.clone(), check.targets.clone()
    params = {k: v.clone() for k, v in check.params.items()}
    before = torch.get_rng_state()
    first = family.transform(x, y, ctx)
    outputs = family.predict(check.model, x, ctx)
    losses = check.loss(outputs, y).detach()
    given = losses.clone()
    family.weigh(losses, y, ctx)
    penalty = family.penalty(params)
    for name, now, was in (
        ("transform or predict changed the inputs", x, check.inputs),
        ("transform or weigh changed the targets", y, check.targets),
        ("weigh changed the losses", losses, given),
        *((f"penalty changed the parameter {k!r}", params[k], v) for k, v in check.params.items()),
    ):
        _require(torch.equal(now, was), f"{name} in place; hooks must not write to their arguments")
    _require(penalty.ndim == 0, f"penalty must be a scalar; got shape {tuple(penalty.shape)}")
    again = family.transform(x, y, ctx)
    _require(
        len(first) == len(again) and all(torch.equal(a, b) for a, b in zip(first, again, strict=True)),
        "transform gave two results for one key; draw all noise from ctx.key (hypergrad.keys.uniform)",
    )
    _require(
        torch.equal(check.loss(family.predict(check.model, x, ctx), y), check.loss(outputs, y)),
        "predict gave two results for one key; draw all noise from ctx.key (hypergrad.keys.uniform)",
    )
    _require(
        torch.equal(before, torch.get_rng_state()),
        "a hook drew from torch's global generator; draw from ctx.key (hypergrad.keys.uniform)",
    )


def _check_inner_step(check: _Check, value_range: tuple[float, float] | None) -> None:
    for soft in (False, True):
        x, y, *rest = check.transform(replace(check.ctx, soft=soft))
        shapes = f"{tuple(x.shape)} {x.dtype} from {tuple(check.inputs.shape)} {check.inputs.dtype} (soft={soft})"
        _require(x.shape == check.inputs.shape and x.dtype == check.inputs.dtype, f"transform gave inputs {shapes}")
        _require(y.shape[:1] == check.targets.shape[:1], f"transform gave {tuple(y.shape)} targets (soft={soft})")
        _require(bool(x.isfinite().all()), f"transform gave inputs that are not finite (soft={soft})")
        for log_prob in rest:
            wanted = check.inputs.shape[:1]
            _require(log_prob.shape == wanted, f"log_prob must have shape {tuple(wanted)}; got {tuple(log_prob.shape)}")
            _require(bool((log_prob <= 0).all()), f"log_prob exceeds 0, so it is no log-probability: {log_prob}")
        if value_range is not None:
            low, high, slack = *value_range, 1e-9
            _require(
                bool((x >= low - slack).all() and (x <= high + slack).all()),
                f"transform gave inputs in [{float(x.min()):.4g}, {float(x.max()):.4g}], outside {value_range} "
                f"(soft={soft})",
            )


def _check_shard(check: _Check) -> None:
    half = slice(check.inputs.shape[0] // 2, None)
    for soft in (False, True):
        ctx = replace(check.ctx, soft=soft)
        for whole, part in zip(check.transform(ctx), check.transform(ctx, half), strict=True):
            _require(
                torch.allclose(whole[half], part, rtol=1e-10, atol=1e-12),
                f"half a batch is transformed otherwise than within the whole batch (soft={soft}); draw each sample's "
                "noise from ctx.key and ctx.index (hypergrad.keys.uniform), or pass shardable=False",
            )


def _check_derivatives(check: _Check, surrogate: frozenset[str], step: float, tolerance: float) -> None:
    draw = generator(derive(check.ctx.key, "check_family"))

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=draw, dtype=torch.float64)

    probe = {k: noise(v) for k, v in check.params.items()}
    outer = replace(check.ctx, training=False)

    def slope(h: TensorDict) -> Tensor:  # <df/dw, v>
        grads = torch.func.grad(lambda w: check.run(w, h, check.ctx)[0])(check.params)
        total: Tensor = torch.stack([(grads[k] * probe[k]).sum() for k in probe]).sum()
        return total

    def validation(h: TensorDict) -> Tensor:
        return check.run(check.params, h, outer)[0]

    _, log_prob = check.run(check.params, check.hparams, check.ctx)
    weights = noise(log_prob) if log_prob is not None else None

    def score(h: TensorDict) -> Tensor:
        drawn = check.run(check.params, h, check.ctx)[1]
        if drawn is None or weights is None:
            raise AssertionError("transform returned log_prob in one call and not in another")
        return (weights * drawn).sum()

    functions = [("df/dw", slope, True), ("the outer loss", validation, True)]
    if log_prob is not None:
        functions.append(("log_prob", score, False))
    reached: set[str] = set()
    for what, function, may_be_surrogate in functions:
        leaves = {k: v.clone().requires_grad_() for k, v in check.hparams.items()}
        value = function(leaves)
        if not value.requires_grad:
            continue
        grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        for (name, at), grad in zip(check.hparams.items(), grads, strict=True):
            if grad is None:
                continue
            if bool((grad != 0).any()):
                reached.add(name)
            if may_be_surrogate and name in surrogate:
                continue
            along = noise(at)
            ends = [function(check.hparams | {name: at + sign * step * along}) for sign in (1, -1)]
            wanted = float((ends[0] - ends[1]).detach() / (2 * step))
            got = float((grad * along).sum())
            _require(
                # The second term is what rounding of the two values leaves in their difference.
                abs(got - wanted)
                <= tolerance * max(abs(wanted), abs(got)) + 1e-14 / step * max(1.0, abs(float(value.detach()))),
                f"the derivative of {what} with respect to {name!r} is {got:.8g} along a random direction, and "
                f"{wanted:.8g} by central differences; where that is meant, name it in surrogate",
            )
    dead = [name for name in check.hparams if name not in reached]
    _require(
        not dead,
        f"{dead} have no effect on df/dw, on the outer loss or on log_prob (a zero or missing gradient): a value was "
        "detached, a decision was taken by requires_grad, or a hook is never called",
    )
