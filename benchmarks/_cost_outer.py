"""A clock around the parts of an outer step, for the time that it is watched."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from hypergrad.augment import Policy
from hypergrad.estimators import implicit

SOFT = "soft policy"
TRAINING = "training gradient with its graph"
VALIDATION = "validation gradient"
PRODUCTS = "products"
MIXED = "mixed derivative"
#: Disjoint; what else an outer step has (batches, checks, solver, optimizer) is the rest of it.
OUTER_PARTS = (VALIDATION, SOFT, TRAINING, PRODUCTS, MIXED)

Marks = list[tuple[str, Any, Any]]


@contextmanager
def outer_parts(policy: Policy, now: Callable[[], Any], marks: Marks) -> Iterator[None]:
    """Inside, the implicit estimator's outer steps add ``(part, start, end)`` to ``marks``.

    A part that runs within another one is taken out of it: the outer one is marked up to the inner one's start and from
    its end on. With a sub-batch the graphs are made where they are first needed: the sub-batch's belongs to the
    products, the whole batch's to the mixed derivative. Other estimators (unrolled steps) mark the soft policy only.

    Args:
        policy: that is learned.
        now: the moment.
        marks: list to add to.
    """
    open_parts: list[tuple[str, Any]] = []

    def timed(name: str, call: Callable[..., Any], then: Callable[[Any], None] = lambda result: None) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            if open_parts:
                around, began = open_parts[-1]
                marks.append((around, began, now()))
            open_parts.append((name, now()))
            try:
                result = call(*args, **options)
            finally:
                _, began = open_parts.pop()
                marks.append((name, began, now()))
                if open_parts:
                    open_parts[-1] = (open_parts[-1][0], now())
            then(result)
            return result

        return run

    def watch(operator: Any) -> None:
        operator.product = timed(PRODUCTS, operator.product)
        operator.cross_vjp = timed(MIXED, operator.cross_vjp)

    plain = policy.draw
    soft = timed(SOFT, plain)

    def draw(*args: Any, **options: Any) -> Any:
        return (soft if options.get("soft") else plain)(*args, **options)

    with (
        mock.patch.object(implicit, "linearize", timed(TRAINING, implicit.linearize, watch)),
        mock.patch.object(implicit, "outer_gradient", timed(VALIDATION, implicit.outer_gradient)),
        mock.patch.object(policy, "draw", draw),
    ):
        yield
