"""The page of ``auto.py`` says which cells are not met, and why."""

import pytest
import torch
from _auto_table import _misses, _time
from _auto_time import Logistic

from hypergrad import solvers


def row(kind, name, auto, best, seed=0):
    return {
        "kind": kind, "spectrum": "s", "b": "any", "budget": 2, "seed": seed,
        "single": {"auto": auto, "best": best, "name": name}, "sequence": {"auto": auto, "best": best, "name": name},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "kind", "name", "why"),
    [
        ("single", "low rank", "nystrom, rho = 0.1", "rho is the smallest eigenvalue, by hindsight"),
        ("sequence", "low rank", "nystrom, rho = 0.1", "As in a single solve"),
        ("single", "indefinite", "cg", "Where the products show no negative curvature yet"),
        ("sequence", "indefinite", "minres", "The fixed choice has one more product"),
        ("single", "low rank", "cg", "Not understood."),
    ],
)
def test_a_miss_has_its_reason(mode, kind, name, why):
    lines = _misses([row(kind, name, 0.6, 0.4), row(kind, name, 0.8, 0.4, seed=3)], mode)
    assert len(lines) == 4  # an empty line, the head, and one group
    assert lines[-1].startswith(f"| s | any | 2 | 0, 3 | 2.00 | 0.8, 0.4 | {name} | {why}")
    assert _misses([], mode) == []


def test_the_time_is_compared_with_the_quickest_fixed_solver():
    rows = [
        {
            "condition": 1e3,
            "seed": 0,
            "accuracy": 0.1,
            "best": {"auto": (0.02, 7), "cg": (0.01, 9), "minres": (0.04, 9)},
        },
        {"condition": 1e3, "seed": 0, "accuracy": 0.01, "best": {"auto": (0.03, 8)}},
    ]
    page = _time(rows)
    assert "| 1e+03 | auto | 20 (7) | 30 (8) |" in page and "| 1e+03 | cg | 10 (9) | - |" in page
    assert "between 2.00 and 2.00 times" in page and "1 of 2 cells" in page


def test_the_logistic_regression_is_at_its_optimum_with_the_wanted_condition():
    problem = Logistic(1e3, 0)
    hessian = problem._newton()
    values = torch.linalg.eigvalsh(hessian)
    assert 900 < float(values[-1] / values[0]) < 1100
    _, error, products = problem.run(solvers.get("auto", tol=1e-11, max_hvps=300))
    assert error < 1e-8 and products < 150
