"""What a run's records must look like: whoever reads them may rely on it, whoever wrote them."""

from collections.abc import Callable, Mapping

from hypergrad.files import Field

#: More images or steps than anybody has; and a percentage.
_MANY, _PERCENT = 1e15, 100.0


def check_result(held: Field) -> None:
    """Check ``result.json``; what an earlier version did not write may be missing, what is unknown is left alone.

    Raises:
        InvalidInputError: a value is of the wrong kind; the message names the file, the field and the value.
    """
    part = {"count": _count, "loss": _number, "error": _percent, "top5_error": _percent}
    numbers = ("seconds", "cpu_seconds", "search_seconds", "passes", "search_passes", "wall_seconds")
    for name in ("val", "test"):
        if held.value.get(name) is not None:
            _check(held.member(name), part, needed=("error",))
    _check(
        held,
        {
            "method": lambda f: f.text(),
            "classes": lambda f: [one.text() for one in f.items()],
            "confusion": _matrix,
            "val_confusion": _matrix,
            "images": lambda f: [_count(one) for one in f.fields(*_names(f)).values()],
            "search_notes": lambda f: _names(f),
            **dict.fromkeys(("epochs", "steps", "updates"), _count),
            **dict.fromkeys(numbers, lambda f: f.number(0)),
        },
    )


def check_epoch(held: Field) -> None:
    """Check a line of the metrics of the kind ``epoch``.

    Raises:
        InvalidInputError: as :func:`check_result`.
    """
    numbers = ("train_loss", "val_loss", "val_error", "lr", "policy_entropy", "hypergradient", "seconds")
    statuses = {"statuses": lambda f: [_count(one) for one in f.fields(*_names(f)).values()]}
    counts = dict.fromkeys(("epoch", "step", "updates"), _count)
    _check(held, {**counts, **dict.fromkeys(numbers, _number), **statuses}, needed=("epoch", "step"))


def check_update(held: Field) -> None:
    """Check a line of the metrics of an update of the policy.

    Raises:
        InvalidInputError: as :func:`check_result`.
    """
    for name, value in held.value.items():
        if isinstance(value, float):
            held.member(name).number()
    _check(held, {"status": lambda f: f.text(), "inner_step": _count, "grad_norm": _number, "residual": _number})


def check_environment(held: Field) -> None:
    """Check ``environment.json``.

    Raises:
        InvalidInputError: as :func:`check_result`.
    """
    texts = ("hypergrad", "commit", "torch", "python", "system", "processor", "gpu", "started")
    arguments: dict[str, Callable[[Field], object]] = {
        "arguments": lambda f: [one.text() for one in f.items()] if f.value else f.one_of([])  # type: ignore[arg-type]
    }
    _check(
        held, {**arguments, **dict.fromkeys(texts, Field.text), **dict.fromkeys(("cores", "threads", "ranks"), _count)}
    )


def _check(held: Field, checks: Mapping[str, Callable[[Field], object]], needed: tuple[str, ...] = ()) -> None:
    found = held.fields(*needed, optional=_names(held))
    for name, check in checks.items():
        if name in found and found[name].value is not None:
            check(found[name])


def _names(held: Field) -> tuple[str, ...]:
    if not isinstance(held.value, dict):
        raise held.error("an object")
    return tuple(held.value)


def _number(held: Field) -> float:
    return held.number()


def _percent(held: Field) -> float:
    return held.number(0, _PERCENT)


def _count(held: Field) -> int:
    held.number(0, _MANY)
    return held.integer(0)


def _matrix(held: Field) -> None:
    rows = held.items()
    for row in rows:
        for one in row.items(len(rows)):
            _count(one)
