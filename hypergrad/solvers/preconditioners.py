"""Preconditioners: a diagonal, the inner optimizer's second moments, and a Nystrom sketch that is kept."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.registry import Registry
from hypergrad.solvers.base import LinearOperator
from hypergrad.solvers.nystrom import draw_sketch
from hypergrad.solvers.options import check_integer, check_real

Apply = Callable[[Tensor], Tensor]  # (P,) -> (P,)

_PREFIX = "preconditioner_"


@runtime_checkable
class Preconditioner(Protocol):
    """``M``, symmetric, positive definite and close to ``A``, known by ``M^-1 v``."""

    def apply(self, v: Tensor) -> Tensor:  # (P,) -> (P,)
        """``M^-1 v``. Where it returns ``v`` itself, M is taken for the identity."""
        ...


@runtime_checkable
class PreconditionerRecipe(Protocol):
    """What makes a preconditioner from products with ``A`` and keeps it for several solves."""

    def build(self, A: LinearOperator, state: Mapping[str, Any]) -> "Prepared":
        """The preconditioner for this solve, from ``state`` where that is young enough."""
        ...


@dataclass(frozen=True)
class Prepared:
    """A preconditioner ready to use.

    Attributes:
        apply: ``M^-1 v``.
        state: what the next solve should be given; tensors and plain numbers.
        matvecs: products with ``A`` spent on it.
    """

    apply: Apply
    state: Mapping[str, Any] = field(default_factory=dict)
    matvecs: int = 0


_registry: Registry[Preconditioner | PreconditionerRecipe] = Registry(
    "preconditioner",
    {
        "adam": "hypergrad.solvers.second_moments:SecondMoments",
        "diagonal": "hypergrad.solvers.preconditioners:Diagonal",
        "hutchinson": "hypergrad.solvers.preconditioners:HutchinsonDiagonal",
        "nystrom": "hypergrad.solvers.preconditioners:NystromSketch",
    },
)

names = _registry.names

#: What a solver's option ``preconditioner`` may be.
Option = str | Mapping[str, Any] | Preconditioner | PreconditionerRecipe | None


def resolve(
    value: Option,
) -> Preconditioner | PreconditionerRecipe | None:
    """A preconditioner as a solver's option states it.

    Args:
        value: None; a name (:func:`names`); a mapping with a name and options, ``{"name": "nystrom", "rank": 20}``; or
            an object with ``apply`` or ``build``, which is returned as it is.

    Raises:
        UnknownNameError: no such name.
        InvalidInputError: an option that is unknown, missing or refused; or something else.
    """
    if isinstance(value, str):
        return _registry.make(value, {})
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return _registry.make(value["name"], {k: v for k, v in value.items() if k != "name"})
    if value is None:
        return None
    if isinstance(value, type) or not isinstance(value, Preconditioner | PreconditionerRecipe):
        raise InvalidInputError(
            f"preconditioner must be None, a name ({', '.join(names())}), a mapping with a name and options, or an "
            "object with apply(v), such as those of hypergrad.solvers.preconditioners (Diagonal, HutchinsonDiagonal, "
            f"NystromSketch); got {value!r}."
        )
    return value


def prepare(preconditioner: Option, A: LinearOperator, state: Mapping[str, Any] | None) -> Prepared:
    """For a solver: what it applies, the state with its keys marked as the preconditioner's, the products spent."""
    if preconditioner is None:
        return Prepared(lambda v: v)
    assert not isinstance(preconditioner, str | Mapping)  # the solver looked it up
    if isinstance(preconditioner, PreconditionerRecipe):
        own = {k.removeprefix(_PREFIX): v for k, v in (state or {}).items() if k.startswith(_PREFIX)}
        made = preconditioner.build(A, own)
        return Prepared(made.apply, {_PREFIX + k: v for k, v in made.state.items()}, made.matvecs)
    return Prepared(preconditioner.apply)


@dataclass(frozen=True, kw_only=True, eq=False)
class Diagonal:
    """``M = diag(values)``.

    Solves in one step where ``A`` is that diagonal, and helps where the parameters are of different scales. On a matrix
    whose eigenvectors have nothing to do with the coordinates it does nothing.

    Args:
        values: ``(P,)``, positive and finite. The tensor is not copied, so a training loop can write the newest
            estimate into it.

    Raises:
        InvalidInputError: not flat, or an entry that is not positive and finite.

    Example:
        >>> import torch, hypergrad
        >>> from hypergrad.testing import DenseOperator
        >>> scales = torch.tensor([1.0, 100.0])
        >>> solver = hypergrad.solvers.get("cg", preconditioner=Diagonal(values=scales))
        >>> solution = solver.solve(DenseOperator(torch.diag(scales)), torch.ones(2))
        >>> solution.x, solution.matvecs
        (tensor([1.0000, 0.0100]), 1)
    """

    values: Tensor

    def __post_init__(self) -> None:
        check_positive("values", self.values, zero=False)

    @classmethod
    def from_second_moments(cls, second_moments: Tensor, *, eps: float = 1e-8, damping: float = 0.0) -> "Diagonal":
        """``M = diag(sqrt(v) + eps + damping)`` with Adam's ``exp_avg_sq``, flat, in the order of the parameters.

        Adam takes ``sqrt(v)`` for the curvature of each coordinate. It is the root of the mean squared gradient, which
        has another unit, so only its shape counts: CG does not see the scale, and Neumann's alpha absorbs it.

        Args:
            second_moments: ``(P,)``, at least 0; divided by ``1 - beta2**t`` if the run is young.
            eps: Adam's.
            damping: added as well; a larger one makes M less unlike the identity.

        Raises:
            InvalidInputError: a vector that is not flat, or an entry that is negative or not finite.

        Reference:
            Kingma and Ba, "Adam", ICLR 2015, section 2.
        """
        check_positive("second_moments", second_moments, zero=True)
        check_real("eps", eps, above=0.0, below=math.inf)
        check_real("damping", damping, low=0.0, below=math.inf)
        return cls(values=second_moments.sqrt() + eps + damping)

    def apply(self, v: Tensor) -> Tensor:  # (P,) -> (P,)
        """``v / values``.

        Raises:
            InvalidInputError: ``v`` has another shape, dtype or device than ``values``.
        """
        if v.shape != self.values.shape or v.dtype != self.values.dtype or v.device != self.values.device:
            raise InvalidInputError(
                f"The preconditioner's values must be {tuple(v.shape)} in {v.dtype} on {v.device}; got "
                f"{tuple(self.values.shape)} in {self.values.dtype} on {self.values.device}."
            )
        return v / self.values


def check_positive(name: str, values: Any, *, zero: bool) -> None:
    """Refuse anything but a flat tensor of finite entries above 0 (or at least 0 with ``zero``).

    Raises:
        InvalidInputError: says what was seen.
    """
    if not isinstance(values, Tensor) or values.dim() != 1 or not values.is_floating_point():
        seen = f"{values.dtype}, {tuple(values.shape)}" if isinstance(values, Tensor) else repr(values)
        raise InvalidInputError(f"{name} must be a flat floating-point tensor (P,); got {seen}.")
    fits = values.isfinite() & ((values >= 0) if zero else (values > 0))
    if not bool(fits.all()):
        wrong = int((~fits).sum())
        raise InvalidInputError(
            f"{name} must be {'at least' if zero else 'above'} 0 and finite; {wrong} of {len(values)} entries are not "
            f"(smallest {float(values.min()):.3g}). Clamp them to a small positive number."
        )


@dataclass(frozen=True, kw_only=True)
class HutchinsonDiagonal:
    """``M = diag(|d|)`` with Hutchinson's estimate ``d = mean(z * A z)``, z of random signs, kept for several solves.

    Entry i has the variance ``sum_(j != i) A_ij^2 / samples``: good where the diagonal dominates. Entries below
    ``floor`` times the mean are raised to that.

    Args:
        samples: products a new estimate costs.
        refresh_every: solves that share one.
        floor: relative, in (0, 1].
        seed: of the signs; each estimate draws anew.

    Raises:
        InvalidInputError: an option out of its range.

    Reference:
        Bekas, Kokiopoulou and Saad, "An estimator for the diagonal of a matrix", 2007, section 2; Yao et al.,
        "ADAHESSIAN", AAAI 2021, section 3.2.
    """

    samples: int = 5
    refresh_every: int = 10
    floor: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("samples", self.samples, minimum=1)
        check_integer("refresh_every", self.refresh_every, minimum=1)
        check_real("floor", self.floor, above=0.0, below=1.0)
        check_integer("seed", self.seed, minimum=0)

    def build(self, A: LinearOperator, state: Mapping[str, Any]) -> Prepared:
        """Estimate, unless ``state`` holds an estimate that is young enough.

        Raises:
            InvalidInputError: the estimate in ``state`` does not fit ``A``.
        """
        held: dict[str, Any] = dict(state) if "diagonal" in state else {"draws": 0, "age": self.refresh_every}
        matvecs = 0
        if held["age"] >= self.refresh_every:
            matvecs = self.samples
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + held["draws"]) % 2**63)
            total = torch.zeros(A.shape[0], dtype=A.dtype, device=A.device)
            for _ in range(self.samples):
                signs = (2 * torch.randint(0, 2, (A.shape[0],), generator=generator) - 1).to(total)
                total = total + signs * (A @ signs)
            size = (total / self.samples).abs()
            size = torch.where(size.isfinite(), size, torch.zeros_like(size))
            mean = size.mean()
            size = torch.where(mean > 0, torch.maximum(size, self.floor * mean), torch.ones_like(size))
            held = {"diagonal": size, "draws": held["draws"] + 1, "age": 0}
        diagonal = held["diagonal"]
        _check_kept("diagonal", diagonal, A)
        return Prepared(lambda v: v / diagonal, {**held, "age": held["age"] + 1}, matvecs)


@dataclass(frozen=True, kw_only=True)
class NystromSketch:
    """``M^-1 = U ((s_k + d) / (s + d) - 1) U^T + I`` with the Nystrom approximation ``U diag(s) U^T`` of ``A - d I``.

    d is the operator's damping (its attribute ``damping``, 0 where it has none). The large eigenvalues become about
    ``s_k + d``, so the condition number that counts is about that of what the sketch misses: with the rank at least
    twice the effective dimension of ``A - d I`` at d, a constant, on average. It helps after a few large eigenvalues
    have been removed from a flat rest, and is paid back when a sketch is kept for several solves.

    Args:
        rank: k, products a sketch costs; P where that is less.
        refresh_every: solves that share a sketch.
        seed: of the Gaussian sketches; each new one draws anew.

    Raises:
        InvalidInputError: an option out of its range.

    Reference:
        Frangella, Tropp and Udell, "Randomized Nystrom Preconditioning", SIAM Journal on Matrix Analysis and
        Applications 44 (2023), eq. (1.3), section 5.
    """

    rank: int = 10
    refresh_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("rank", self.rank, minimum=1)
        check_integer("refresh_every", self.refresh_every, minimum=1)
        check_integer("seed", self.seed, minimum=0)

    def build(self, A: LinearOperator, state: Mapping[str, Any]) -> Prepared:
        """Sketch, unless ``state`` holds a sketch that is young enough.

        Raises:
            InvalidInputError: the sketch in ``state`` does not fit ``A``.
        """
        held: dict[str, Any] = dict(state) if "basis" in state else {"sketches": 0, "age": self.refresh_every}
        damping, matvecs = float(getattr(A, "damping", 0.0)), 0
        if held["age"] >= self.refresh_every:
            matvecs = min(self.rank, A.shape[0])
            undamped = _Shifted(A, damping) if damping else A
            basis, values, lowest = draw_sketch(undamped, matvecs, seed=self.seed, count=held["sketches"])
            if not math.isfinite(lowest):
                return Prepared(lambda v: v * math.nan, {}, matvecs)
            held = {"basis": basis, "values": values, "sketches": held["sketches"] + 1, "age": 0}
        basis, values = held["basis"], held["values"]
        _check_kept("basis", basis, A)
        values = values + damping
        # A direction in which the sketch found no more than rounding is left alone.
        found = values > torch.finfo(values.dtype).eps * values.max()
        smallest = torch.where(found, values, values.max()).min()
        weight = torch.where(found, smallest / torch.where(found, values, 1.0), 1.0) - 1
        return Prepared(lambda v: v + basis @ (weight * (basis.T @ v)), {**held, "age": held["age"] + 1}, matvecs)


@dataclass(frozen=True)
class _Shifted:
    """``A - shift I``."""

    A: LinearOperator
    shift: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.A.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.A.dtype

    @property
    def device(self) -> torch.device:
        return self.A.device

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.A @ v - self.shift * v

    def dense(self) -> Tensor:
        return self.A.dense() - self.shift * torch.eye(self.shape[0], dtype=self.dtype, device=self.device)


def _check_kept(name: str, value: Tensor, A: LinearOperator) -> None:
    if value.shape[0] != A.shape[0] or value.dtype != A.dtype or value.device != A.device:
        raise InvalidInputError(
            f"state['{_PREFIX}{name}'] must have {A.shape[0]} rows in {A.dtype} on {A.device}; got "
            f"{tuple(value.shape)} in {value.dtype} on {value.device}. It comes from another problem: start from "
            "state=None."
        )
