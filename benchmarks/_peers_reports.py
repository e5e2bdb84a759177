"""What we would report to the peers' authors: a question with a known answer, in one line, and what was printed.

Each is run in the library's own environment when the benchmark is, so that a version that answers otherwise shows.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from _peers_pool import Place


@dataclass(frozen=True)
class Report:
    """A library, what its answer should be and why, and the line to run."""

    library: str
    about: str
    expected: str
    code: str


_BETTY = (
    "import torch; from types import SimpleNamespace as N; from betty.hypergradient import cg; "
    "d = torch.tensor([1., 2., 3.]); w, h = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True); "
    "inner = N(paths=[], cur_batch=None, config=N(cg_iterations=3, cg_alpha={alpha}), parameters=lambda: [w], "
    "trainable_parameters=lambda: [w], training_step_exec=lambda b: (d * w**2).sum() / 2 - (h * w).sum()); "
    "print([round(v, 4) for v in cg([torch.ones(3)], inner, N(trainable_parameters=lambda: [h]), False)[0].tolist()])"
)

REPORTS = (
    Report(
        "betty",
        "CG, 3 steps on diag(1, 2, 3): a new direction is built on the residual before the step, not after it, so "
        "directions are not conjugate",
        "[1.0, 0.5, 0.3333]",
        _BETTY.format(alpha="1.0"),
    ),
    Report(
        "moskomule",
        "the same in CG of the distribution `hypergrad`",
        "[1.0, 0.5, 0.3333]",
        "import torch; from hypergrad.approx_hypergrad import conjugate_gradient as cg; "
        "d = torch.tensor([1., 2., 3.]); "
        "z = (torch.zeros(3),); print([round(v, 4) for v in cg(lambda w, h: (d * w[0]**2).sum() / 2 "
        "- (h[0] * w[0]).sum(), lambda w, h: w[0].sum(), z, z, 3, 1.0)[0].tolist()])",
    ),
    Report(
        "hypertorch",
        "CG on the identity, default tolerance: when the residual is small enough, the iterate before the last step is "
        "returned",
        "[1.0, 1.0]",
        "import torch; from hypergrad.CG_torch import cg; print(cg(lambda v: v, [torch.ones(2)])[0].tolist())",
    ),
    Report(
        "boat",
        "CG on the identity, default tolerance: the same",
        "[1.0, 1.0]",
        "import torch; from boat_torch.utils.op_utils import cg_step; "
        "print(cg_step(lambda v: v, [torch.ones(2)])[0].tolist())",
    ),
    Report(
        "torchopt",
        "one budget, two series: `ns` sums maxiter + 1 terms and `ns_inv` maxiter",
        "equal numbers",
        "import torch; from torchopt.linalg import ns, ns_inv; A = torch.tensor([[0.5]]); "
        "print(ns(A, torch.ones(1), maxiter=2).tolist(), (ns_inv(A, maxiter=2) @ torch.ones(1)).tolist())",
    ),
    Report(
        "torchopt",
        "CG for a scalar unknown",
        "0.5",
        "import torch; from torchopt.linear_solve import solve_cg; "
        "print(float(solve_cg()(lambda v: 2 * v, torch.tensor(1.0))))",
    ),
)


def reports(places: Mapping[str, Place]) -> list[dict[str, Any]]:
    """Every report whose library is there, with what its line prints."""
    rows = []
    for report in REPORTS:
        if report.library not in places:
            continue
        place = places[report.library]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        env = kept | {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": place.checkout} if place.checkout else {})
        command = [place.python, "-W", "ignore", "-c", report.code]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd="/", timeout=120)
        said = done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
        row = {"library": report.library, "about": report.about, "expected": report.expected}
        rows.append(row | {"printed": said, "code": report.code})
    return rows
