"""The rows of a study: ``NAME:option=value[,option=value]``, what they mean, and the controls among them."""

import difflib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import hypergrad
from hypergrad.vision.config import Madao
from hypergrad.vision.policies import estimator

#: Rows that are no solver: what they are, for messages.
REFERENCES = {
    "fixed": "the initial policy, never updated",
    "none": "no augmentation",
    "unrolled": "back-propagation through the last inner steps (option steps, 1)",
}
CONTROLS = ("control:random", "control:flipped")

#: Options that belong to the study and not to the solver, and their names in the method's configuration.
STUDY_OPTIONS = {"selection": "selection", "damping": "damping", "outer_batch": "outer_batch_size"}

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

    def madao(self, **settings: Any) -> Madao:
        """The method of a row that learns.

        Args:
            settings: what the row says nothing about.
        """
        control = self.name in CONTROLS
        return Madao(
            solver="neumann" if control else self.name,
            solver_options={key: value for key, value in self.options.items() if key not in STUDY_OPTIONS},
            control=self.name.partition(":")[2] if control else "none",
            **{STUDY_OPTIONS[key]: value for key, value in self.options.items() if key in STUDY_OPTIONS},
            **settings,
        )


def known_names() -> list[str]:
    """Every name that a row may start with."""
    return sorted({*REFERENCES, *CONTROLS, *hypergrad.solvers.names()})


def _value(text: str) -> bool | int | float | str:
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
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
    if row.name == "unrolled" and "damping" in row.options:
        raise RowError(f"The row 'unrolled' solves no linear system, so it has no damping (in --row {text}).")
    if row.learns:
        try:
            estimator(row.madao(), lr=0.1, seed=0)
        except ValidationError as error:
            wrong = error.errors()[0]
            key = {name: option for option, name in STUDY_OPTIONS.items()}.get(str(wrong["loc"][0]), "an option")
            raise RowError(f"--row {text}: {key}: {wrong['msg']}; got {wrong['input']!r}.") from error
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
