"""The rows of a study: ``NAME:option=value[,option=value]``, what they mean, and the controls among them."""

import difflib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypergrad
from hypergrad.estimators.controls import Flipped, Random
from hypergrad.estimators.implicit import Implicit
from hypergrad.estimators.inner_optimizers import SGD
from hypergrad.estimators.unroll import Unrolled

#: Rows that are no solver: what they are, for messages.
REFERENCES = {
    "fixed": "the initial policy, never updated",
    "none": "no augmentation",
    "unrolled": "back-propagation through the last inner steps (option steps, 1)",
}
CONTROLS = ("control:random", "control:flipped")

#: Options that belong to the study and not to the solver.
STUDY_OPTIONS = ("selection", "damping", "outer_batch")

#: What a row means where it says nothing else. The paper's J and alpha; CG gets as many products as Neumann.
DEFAULTS: dict[str, dict[str, Any]] = {
    "neumann": {"alpha": 1e-3, "num_hvps": 5},
    "cg": {"max_steps": 5, "tol": 0, "damping": 0.01},
    "unrolled": {"steps": 1},
}

DEFAULT_ROWS = (
    "fixed",
    "none",
    "neumann",
    "neumann:selection=relaxed",
    "neumann:alpha=0.05",
    "neumann:alpha=0.3",
    "neumann:alpha=auto",
    "cg",
    "first_order",
    "unrolled",
    "control:random",
    "control:flipped",
)

#: Rows that answer a question of one data set. Where Rotate should be found: does a quieter hypergradient find it?
EXTRA_ROWS = {"fashion-mnist:rotated": ("neumann:outer_batch=256",)}


class RowError(Exception):
    """A row cannot be understood; the message says which part, and what is allowed."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        label: how it was asked for, options sorted: the row's identity.
        name: a reference, a control, or a registered solver's name.
        options: every option with its value, defaults included; the study's own among them.
    """

    label: str
    name: str
    options: dict[str, Any]

    @property
    def learns(self) -> bool:
        """Whether the row updates the policy."""
        return self.name not in ("fixed", "none")

    @property
    def selection(self) -> str:
        """How the choice of an operation is differentiated: "unbiased" or "relaxed" (the paper's eq. (9))."""
        return str(self.options.get("selection", "unbiased"))

    @property
    def damping(self) -> float:
        """What is added to the diagonal of the inner Hessian."""
        return float(self.options.get("damping", 0.0))

    @property
    def outer_batch(self) -> int | None:
        """Training images in the inner loss of an outer step; None: the batch of the last inner step."""
        return self.options.get("outer_batch")

    def estimator(self, lr: float, seed: int) -> Any:
        """The estimator of this row.

        Args:
            lr: the inner learning rate, which the unrolled steps use.
            seed: of the random control.
        """
        given = {key: value for key, value in self.options.items() if key not in STUDY_OPTIONS}
        if self.name == "unrolled":
            return Unrolled(optimizer=SGD(lr=lr), **given)
        name = "neumann" if self.name in CONTROLS else self.name
        # A failed solve is a result of the study: it is recorded, and the row is marked.
        implicit = Implicit(solver=hypergrad.solvers.get(name, **given), damping=self.damping, on_failure="ignore")
        if self.name == "control:flipped":
            return Flipped(inner=implicit)
        if self.name == "control:random":
            return Random(inner=implicit, seed=seed)
        return implicit


def known_names() -> list[str]:
    """Every name that a row may start with."""
    return sorted({*REFERENCES, *CONTROLS, *hypergrad.solvers.names()})


def _value(text: str) -> Any:
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    if lowered == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _split(text: str) -> tuple[str, str]:
    """Name and options; a name may hold a colon itself, so the longest known name wins."""
    for name in sorted(known_names(), key=len, reverse=True):
        if text == name:
            return name, ""
        if text.startswith(name + ":"):
            return name, text[len(name) + 1 :]
    # "control:rnadom" should be compared with the controls and not be read as the options of "control".
    wrong = text if text.startswith("control:") else text.partition(":")[0]
    close = difflib.get_close_matches(wrong, known_names(), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise RowError(
        f"Unknown row {wrong!r} (in --row {text}).{hint} Rows: {', '.join(known_names())}. "
        "A solver of your own comes in with --import FILE."
    )


def parse_row(text: str) -> Row:
    """A row from ``NAME:option=value[,option=value]``.

    Raises:
        RowError: an unknown name, an option that is not ``name=value`` or given twice, one that the solver does not
            have, or a value that it refuses.
    """
    name, rest = _split(text.strip())
    given: dict[str, Any] = {}
    for part in rest.split(",") if rest else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise RowError(f"{part!r} in --row {text} is not option=value; write {name}:option=value[,option=value].")
        if key in given:
            raise RowError(f"The option {key!r} is given twice in --row {text}.")
        given[key] = _value(value)
    label = name + (":" + ",".join(f"{key}={given[key]}" for key in sorted(given)) if given else "")
    row = Row(label, name, {**DEFAULTS.get("neumann" if name in CONTROLS else name, {}), **given})
    _check(row, text)
    return row


def _check(row: Row, text: str) -> None:
    if not row.learns and row.options:
        raise RowError(f"The row {row.name!r} ({REFERENCES[row.name]}) takes no options; got {text!r}.")
    if row.selection not in ("unbiased", "relaxed"):
        raise RowError(f"selection must be 'unbiased' or 'relaxed' (eq. (9)); got {row.selection!r} in --row {text}.")
    if row.outer_batch is not None and (not isinstance(row.outer_batch, int) or row.outer_batch < 1):
        raise RowError(f"outer_batch counts training images, at least 1; got {row.outer_batch!r} in --row {text}.")
    if row.name == "unrolled" and "damping" in row.options:
        raise RowError(f"The row 'unrolled' solves no linear system, so it has no damping (in --row {text}).")
    if row.learns:
        try:
            row.estimator(lr=0.1, seed=0)
        except (hypergrad.HypergradError, TypeError, ValueError) as error:
            study = f" Options of the study itself: {', '.join(STUDY_OPTIONS)}." if row.name != "unrolled" else ""
            raise RowError(f"--row {text}: {error}{study}") from error


def parse_rows(texts: Sequence[str]) -> list[Row]:
    """Rows in the given order, ``fixed`` first (it is what the others are measured against, so it is always there).

    Raises:
        RowError: see :func:`parse_row`; or the same row twice.
    """
    rows = [parse_row(text) for text in texts]
    labels = [row.label for row in rows]
    for label in labels:
        if labels.count(label) > 1:
            raise RowError(f"The row {label!r} is asked for twice.")
    fixed = [row for row in rows if row.name == "fixed"] or [parse_row("fixed")]
    return fixed + [row for row in rows if row.name != "fixed"]


def import_files(paths: Sequence[str]) -> None:
    """Run Python files that register solvers, each under a module name of its own.

    Raises:
        RowError: a file does not exist or is no Python file.
    """
    for text in paths:
        path = Path(text).resolve()
        name = f"_table5_import_{hypergrad.keys.derive(str(path))}"
        spec = importlib.util.spec_from_file_location(name, path) if path.suffix == ".py" else None
        if spec is None or spec.loader is None or not path.is_file():
            raise RowError(
                f"--import {text}: no such Python file. Give a .py file that calls hypergrad.register_solver."
            )
        if name in sys.modules:
            continue
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
