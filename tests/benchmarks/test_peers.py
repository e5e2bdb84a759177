"""benchmarks/peers.py: its problems have the answers it says, its processes answer, its page says what was measured."""

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(name)


@pytest.fixture
def logistic(module, tmp_path):
    problems = module("_peers_problems")
    path = tmp_path / "logistic.npz"
    about = problems.make_logistic(path, condition=100, seed=0, samples=60, features=8)
    return path, about


def test_the_closed_form_is_the_hypergradient_of_the_losses(module, logistic):
    path, about = logistic
    problem = module("_peers_problems").Problem(path)
    (w,), (h,) = problem.params, problem.hparams
    assert about["condition"] == pytest.approx(100, rel=1e-3)
    (gradient,) = torch.autograd.grad(problem.inner([w], [h]), [w])
    assert gradient.norm() < 1e-12
    hessian = torch.autograd.functional.hessian(lambda v: problem.inner([v], [h.detach()]), w.detach())
    assert torch.linalg.eigvalsh(hessian)[-1].item() == pytest.approx(problem.top)
    x = torch.linalg.solve(hessian, torch.autograd.grad(problem.outer([w], [h]), [w])[0])
    (kept,) = torch.autograd.grad(problem.inner([w], [h]), [w], create_graph=True)
    (cross,) = torch.autograd.grad(kept, [h], [x])
    assert torch.allclose(-cross, torch.tensor(about["exact"], dtype=torch.float64), rtol=1e-9)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_network_is_that_of_the_package(module, norm):
    from hypergrad.vision.models import build_model

    ours = build_model("wrn-16-1", num_classes=10, channels=3, image_size=32, norm=norm)
    theirs = module("_peers_problems").network(f"wrn-16-1 {norm}")
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("solver", "options", "least", "most"),
    [
        ("cg", {"budget": 10}, 0, 1e-10),
        ("minres", {"budget": 10}, 0, 1e-10),
        ("auto", {"budget": 10}, 0, 1e-10),
        ("dense", {}, 0, 1e-10),
        ("neumann", {"budget": 2}, 0.1, 1),
        ("first-order", {}, 0.5, 100),
    ],
)
def test_our_solvers_answer_as_their_theory_says(module, logistic, solver, options, least, most):
    path, about = logistic
    problem = module("_peers_problems").Problem(path)
    if solver == "neumann":
        options = {**options, "alpha": 1 / problem.top}
    call = module("_peers_libraries").ours(problem)[solver](**options)
    assert least <= module("_peers_measure").error(call()[0].tolist(), about["exact"]) <= most


@pytest.mark.parametrize("kind", ["softmax", "wrn-10-1 batch"])
@pytest.mark.parametrize("solver", ["neumann", "cg"])
def test_ours_and_by_hand_have_one_answer(module, kind, solver, tmp_path):
    problems, libraries = module("_peers_problems"), module("_peers_libraries")
    path = tmp_path / "problem.npz"
    problems.make(kind, path, seed=0, batch=3, log_decay=problems.LOG_DECAY[solver])
    options = {"budget": 3, **({"alpha": 0.1} if solver == "neumann" else {})}
    found = [make(problems.Problem(path))[solver](**options)()[0] for make in (libraries.ours, libraries.by_hand)]
    assert torch.allclose(*found, rtol=1e-3, atol=1e-7 * found[1].norm().item())


def test_a_worker_answers_and_says_what_went_wrong(module, logistic):
    pool, libraries = module("_peers_pool"), module("_peers_libraries")
    path, about = logistic
    with pool.workers({"by hand": pool.Place(sys.executable), "betty": pool.Place(sys.executable)}) as workers:
        hand = workers["by hand"]
        assert hand.ask("load", path=str(path))["solvers"] == ["neumann", "cg"]
        question = {"solver": "cg", "options": json.dumps({"budget": 10})}
        assert np.allclose(hand.ask("answer", **question)["answer"], about["exact"], rtol=1e-6)
        assert hand.ask("time", **question, repeats=1, floors=1)["floor"] > 0
        assert hand.ask("memory", **question)["call"]["live"] > 0
        assert hand.ask("answer", solver="none", options="{}")["error"].startswith("KeyError")
        assert "betty" in workers["betty"].ask("load", path=str(path))["error"]  # it is not installed here
    assert set(libraries.PEERS) < set(libraries.LIBRARIES)


def test_a_process_that_ends_is_an_answer(module):
    pool = module("_peers_pool")
    worker = pool.Worker("no such library", pool.Place(sys.executable))
    assert "error" in worker.ask("load", path="none.npz")
    worker.close()


def test_peers_are_found_where_they_are(module, tmp_path):
    pool = module("_peers_pool")
    python = tmp_path / "betty" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    places = pool.find(tmp_path, {"torchopt": "/t/python"}, {"hypertorch": "/h", "torchopt": "/c"})
    assert list(places) == ["ours", "by hand", "betty", "torchopt", "hypertorch"]
    assert places["betty"] == pool.Place(str(python))
    assert places["torchopt"] == pool.Place("/t/python", "/c")
    assert places["hypertorch"] == pool.Place(sys.executable, "/h")


def test_settings(module):
    settings = module("_peers_measure").settings
    assert settings("dense", [1, 2], 2.0) == [[{}]]
    assert settings("cg", [1, 2], 2.0) == [[{"budget": 1}], [{"budget": 2}]]
    assert [o["alpha"] for o in settings("neumann", [1], 2.0)[0]] == [0.25, 0.5, 0.75, 0.95]
    assert [o["rho"] for o in settings("nystrom", [1], 2.0)[0]] == pytest.approx([2e-4, 2e-3, 2e-2, 2e-1])


def test_error_is_relative_and_infinite_for_no_number(module):
    error = module("_peers_measure").error
    assert error([3.0, 5.0], [3.0, 4.0]) == pytest.approx(0.2)
    assert error([math.nan, 4.0], [3.0, 4.0]) == math.inf


def _row(library, solver, budget, error, *times):
    return {
        "library": library, "solver": solver, "options": {"budget": budget}, "error": error,
        "cpu_seconds": list(times),
    }  # fmt: skip


def test_the_quickest_that_is_accurate_is_compared_round_by_round(module):
    measure, table = module("_peers_measure"), module("_peers_table")
    rows = [
        _row("ours", "cg", 5, 1e-3, 2.0, 4.0, 6.0),
        _row("ours", "cg", 50, 1e-9, 8.0, 8.0, 8.0),
        _row("ours", "auto", 5, 1e-3, 3.0, 8.0, 6.0),
        _row("torchopt", "cg", 5, 1e-3, 1.0, 4.0, 12.0),
        _row("betty", "cg", 5, 3.0, 0.1, 0.1, 0.1),
        _row("betty", "neumann", 5, None, 0.1, 0.1, 0.1),
    ]
    assert measure.best(rows, 1e-2, table.peer)["library"] == "torchopt"
    assert measure.best(rows, 1e-4, table.peer) is None
    assert measure.best(rows, 1e-4, table.our_fixed)["options"] == {"budget": 50}
    assert measure.ratio(rows[0], rows[3])[1] == 1.0
    assert table.unmet(rows, table.our_fixed, table.peer, 1.0) == []
    assert table.unmet(rows, table.our_fixed, table.peer, 0.9) == [0.1, 0.01, 1e-3]
    # Beyond the accuracy of auto it is never as good.
    assert table.unmet(rows, table.our_auto, table.our_fixed, 2.0) == pytest.approx([10.0**-k for k in range(4, 9)])


def test_smoke_is_written_and_rendered_again(module, tmp_path, capsys):
    peers, path = module("peers"), tmp_path / "results" / "peers.json"
    arguments = ["--smoke", "--parts", "reports,accuracy,softmax", "--output", str(path)]
    assert peers.main(arguments) == 0
    told = capsys.readouterr()
    assert "betty: not found" in told.err
    result = json.loads(path.read_text())
    assert result["softmax"]["made"]["command"].endswith(" ".join(arguments))
    assert result["softmax"]["made"]["peers"]["torchopt"] is None
    assert result["reports"]["rows"] == [] and result["accuracy"]["rows"][0]["failed"] == []
    page = path.with_suffix(".md").read_text()
    assert page.strip() == told.out.strip() and "smoke run" in page and "betty-ml (not found)" in page
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    path.with_suffix(".md").unlink()
    assert peers.main(["--render", str(path)]) == 0
    assert path.with_suffix(".md").read_text() == page


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (["--python", "nobody=/x"], "must be NAME=PATH with NAME one of betty"),
        (["--checkout", "betty"], "must be NAME=PATH"),
        (["--parts", "softmax,speed"], "must be of reports, accuracy, softmax, networks, memory; got speed"),
        (["--rounds", "0"], "must be at least 1; got 0"),
    ],
)
def test_arguments_are_checked(module, argument, message, capsys):
    with pytest.raises(SystemExit):
        module("peers").parser().parse_args(argument)
    assert message in capsys.readouterr().err
