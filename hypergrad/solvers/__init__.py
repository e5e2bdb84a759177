"""Inverse-Hessian solvers: ``get(name, **options)``, ``names()``, and the registration of new ones."""

from typing import Any

from hypergrad.errors import InvalidInputError
from hypergrad.registry import Registry
from hypergrad.solvers.base import LinearOperator, Solution, Solver, Status

_registry: Registry[Solver] = Registry(
    "solver",
    {
        "neumann": "hypergrad.solvers.neumann:Neumann",
        "cg": "hypergrad.solvers.conjugate_gradient:ConjugateGradient",
        "first_order": "hypergrad.solvers.first_order:FirstOrder",
        "nystrom": "hypergrad.solvers.nystrom:Nystrom",
        "minres": "hypergrad.solvers.minres:Minres",
        "dense": "hypergrad.solvers.dense:Dense",
    },
)

#: ``@register_solver("name")`` on a frozen dataclass that satisfies :class:`~hypergrad.solvers.base.Solver`.
register_solver = _registry.register
names = _registry.names


def get(solver: str | Solver, **options: Any) -> Solver:
    """A solver by its registered name and options, or the object itself.

    Args:
        solver: a registered name, or a solver object (then no options).
        options: fields of the solver's class.

    Raises:
        UnknownNameError: no such name.
        InvalidInputError: an option that the class does not have (the message lists those it has), or a value that
            its constructor refuses, or something that is no solver.

    Example:
        >>> import hypergrad
        >>> hypergrad.solvers.get("neumann", num_hvps=3).num_hvps
        3
    """
    if isinstance(solver, str):
        return _registry.make(solver, options)
    if not isinstance(solver, Solver) or isinstance(solver, type):
        raise InvalidInputError(
            f"A solver is a registered name ({', '.join(names())}) or an object with a solve method; got {solver!r}."
        )
    return _registry.refuse_options(solver, options)


__all__ = ["LinearOperator", "Solution", "Solver", "Status", "get", "names", "register_solver"]
