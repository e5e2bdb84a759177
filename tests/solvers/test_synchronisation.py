"""Fixed-budget solvers do not wait for the device: under fake CUDA tensors every hidden read by the host raises."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from hypergrad import solvers
from hypergrad.solvers import conjugate_gradient, krylov, lanczos, minres, neumann, nystrom
from hypergrad.solvers.preconditioners import HutchinsonDiagonal, NystromSketch
from hypergrad.testing import DenseOperator

FIXED = [
    ("neumann", {"num_hvps": 7, "alpha": 0.1}, 1),
    ("neumann", {"num_hvps": 7, "alpha": "auto"}, 1),
    ("cg", {"max_steps": 7, "tol": 0.0}, 1),
    ("minres", {"max_steps": 7, "tol": 0.0}, 1),
    ("nystrom", {"rank": 3}, 1),
    ("first_order", {}, 0),
    ("auto", {"max_hvps": 7, "tol": 0.0}, 1),
    ("auto", {"max_hvps": 7, "tol": 0.0, "max_basis": 0}, 1),
    ("neumann", {"num_hvps": 7, "alpha": 0.1, "preconditioner": HutchinsonDiagonal(samples=2)}, 1),
    ("cg", {"max_steps": 7, "tol": 0.0, "preconditioner": HutchinsonDiagonal(samples=2)}, 1),
]


@pytest.fixture
def reads(monkeypatch):
    """The products made before each permitted read."""
    made = []

    def read(*values):
        made.append(read.operator.matvecs)
        return [1.0] * len(values)

    for module in (neumann, conjugate_gradient, minres, nystrom, krylov, lanczos):
        monkeypatch.setattr(module, "to_host", read)
    read.made = made
    return read


def test_the_method_sees_a_hidden_read():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        bool(torch.empty(3, device="cuda").sum() > 0)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(("name", "options", "count"), FIXED)
def test_a_fixed_budget_reads_once_and_after_the_last_product(name, options, count, warm, reads):
    with FakeTensorMode():
        reads.operator = DenseOperator(torch.empty(9, 9, device="cuda"))
        b = torch.empty(9, device="cuda")
        solution = solvers.get(name, **options).solve(reads.operator, b, x0=torch.empty_like(b) if warm else None)
        assert solution.x.device.type == "cuda"
    assert reads.made == [solution.matvecs] * count


@pytest.mark.parametrize(("name", "limit"), [("cg", "max_steps"), ("minres", "max_steps"), ("auto", "max_hvps")])
@pytest.mark.parametrize(("check_every", "made"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6])])
def test_a_tolerance_reads_every_check_every_steps(name, limit, check_every, made, reads):
    with FakeTensorMode():
        reads.operator = DenseOperator(torch.empty(9, 9, device="cuda"))
        solver = solvers.get(name, check_every=check_every, **{limit: 7})
        solver.solve(reads.operator, torch.empty(9, device="cuda"))
    assert reads.made == [*made, 7]


def test_a_sketch_for_a_preconditioner_reads_once_when_it_is_drawn(reads):
    with FakeTensorMode():
        reads.operator = DenseOperator(torch.empty(9, 9, device="cuda"))
        b = torch.empty(9, device="cuda")
        solver = solvers.get("cg", max_steps=7, tol=0.0, preconditioner=NystromSketch(rank=3))
        first = solver.solve(reads.operator, b)
        solver.solve(reads.operator, b, state=first.state)
    assert reads.made == [3, 10, 17]
