"""A run of ``solve`` broken off at any place goes on to the same bits: parameters, hyperparameters, history, state."""

import copy
import functools
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hypergrad
from hypergrad import families, interruption, solvers
from hypergrad.checkpoint import Checkpoints
from hypergrad.checkpoint.encoding import equal
from hypergrad.estimators.implicit import Implicit
from hypergrad.result import StepRecord
from hypergrad.solvers import Status
from hypergrad.solving import Run

ADAM = functools.partial(torch.optim.Adam, lr=0.05)
SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
FEATURES = torch.randn(24, 4, generator=torch.Generator().manual_seed(3))
LABELS = (FEATURES.sum(1) > 0).long()
IMAGES = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(4))
QUICK = {"inner_optimizer": SGD, "outer_optimizer": ADAM, "outer_steps": 2, "inner_steps": 2, "progress": False}


class Counting(nn.Module):
    """A buffer that no ``state_dict`` holds and that every training step changes and uses."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = self.seen + 1
        return x * (1 + 0.1 * self.seen)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Tanh(), Counting(), nn.Linear(5, 2)
    )  # fmt: skip


def keyed(seed: int, count: int = 24) -> hypergrad.KeyedBatches:
    return hypergrad.KeyedBatches(FEATURES[:count], LABELS[:count], batch_size=8, seed=seed)


def decay(model=network, **data):
    module = model()
    if isinstance(module, nn.Sequential):
        module[3].eval()  # a flag of one's own
    family = families.get("weight_decay", model=module, per="layer", initial=0.05)
    return hypergrad.BilevelProblem.for_model(module, family, **{"train_data": keyed(0), "val_data": keyed(1), **data})


def shuffled():
    data = TensorDataset(FEATURES, LABELS)
    own = torch.Generator().manual_seed(8)
    return decay(
        train_data=DataLoader(data, batch_size=8, shuffle=True),
        val_data=DataLoader(data, batch_size=12, shuffle=True, generator=own),
    )


def weights():
    return hypergrad.BilevelProblem.for_model(
        nn.Linear(4, 2), families.get("sample_weights", num_samples=24), train_data=keyed(0), val_data=keyed(1)
    )


def madao():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    data = hypergrad.KeyedBatches(IMAGES, LABELS[:12], batch_size=4)
    return hypergrad.BilevelProblem.for_model(model, families.get("madao", stages=1), train_data=data, val_data=data)


def functions():
    return hypergrad.BilevelProblem(
        lambda w, h: ((w["a"] - 3) ** 2).sum() + h["d"].exp() * (w["a"] ** 2).sum() + (w["a"] * torch.rand(3)).sum(),
        lambda w, h: ((w["a"] - torch.arange(3.0)) ** 2).sum(),
        {"a": torch.zeros(3)},
        {"d": torch.zeros(())},
    )


def step_lr(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)


def sequence(optimizer):
    milestones = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3], gamma=0.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    return torch.optim.lr_scheduler.ChainedScheduler([milestones, cosine])


CG2 = solvers.get("cg", max_steps=2)
CASES = {
    "neumann": (decay, {"solver": solvers.get("neumann", num_hvps=2)}),
    "neumann, alpha from power iterations": (
        decay, {"solver": solvers.get("neumann", num_hvps=2, alpha="auto"), "inner_optimizer": ADAM, "outer_steps": 3}
    ),
    "cg, warm": (decay, {"solver": solvers.get("cg", max_steps=3), "damping": 1.0, "warm_start": True}),
    "minres": (decay, {"solver": solvers.get("minres", max_steps=2), "outer_optimizer": SGD, "warm_start": True}),
    "auto": (decay, {"solver": solvers.get("auto", max_hvps=2, probe_every=2), "warm_start": True, "outer_steps": 3}),
    "nystrom": (decay, {"solver": solvers.get("nystrom", rank=2, rho=0.1, refresh_every=2), "outer_steps": 4}),
    "first order": (decay, {"solver": "first_order", "scheduler": step_lr, "warmup_steps": 1}),
    "unrolled": (decay, {"estimator": "unrolled", "scheduler": step_lr}),
    "unrolled, Adam": (decay, {"estimator": "unrolled", "inner_optimizer": ADAM}),
    "penalty": (decay, {"estimator": "penalty", "scheduler": sequence}),
    "gauss-newton": (
        decay, {"estimator": Implicit(curvature="gauss-newton", curvature_share=0.5, solver=CG2)}
    ),
    "tied weights": (functools.partial(decay, Tied), {"solver": solvers.get("neumann", num_hvps=1)}),
    "sample weights": (weights, {"solver": solvers.get("neumann", num_hvps=1), "scheduler": sequence}),
    "madao": (madao, {"solver": solvers.get("neumann", num_hvps=1), "inner_optimizer": ADAM, "inner_steps": 1}),
    "functions, no data": (functions, {"solver": CG2, "damping": 1.0}),
    "shuffling loaders": (shuffled, {"solver": solvers.get("neumann", num_hvps=1), "outer_steps": 4}),
}  # fmt: skip


class Signals:
    """``interruption.asked``, which says SIGTERM at the n-th question."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.count = at, 0

    def __call__(self):
        self.count += 1
        return signal.SIGTERM if self.count == self.at else None


def begin(make, seed: int = 0):
    torch.manual_seed(seed)
    return make()


def solve(problem, folder: Path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hypergrad.SolverWarning)
        return problem.solve(**{**QUICK, **options}, checkpoint=folder)


#: In place of the preflight, which takes half of the time of so short a run.
NO_PREFLIGHT = StepRecord(0, 0, 0.5, 0.5, Status.MAX_STEPS, float("nan"), 0, 0.0, float("inf"), 0.1, memory=7)


def saved(folder: Path):
    """The whole state of the newest checkpoint, without times."""
    store = Checkpoints(folder, kind="solve")
    found = store.load(force=True)
    assert found is not None and not found.skipped
    for row in [*found.state["history"], found.state["preflight"]]:
        row["seconds"] = row["memory"] = 0
    return found.state


@pytest.mark.parametrize("case", CASES)
def test_interrupted_at_every_place(case, tmp_path, monkeypatch):
    make, options = CASES[case]
    monkeypatch.setattr(hypergrad.HyperStepper, "preflight", lambda *_: NO_PREFLIGHT)
    monkeypatch.setattr(interruption, "asked", whole := Signals())
    expected = solve(begin(make), tmp_path / "whole", **options)
    assert expected.status == "finished" and expected.signal is None and expected.checkpoint is not None
    state, history = saved(tmp_path / "whole"), expected.history
    pendings = 0
    for place in range(1, whole.count + 1):
        folder = tmp_path / str(place)
        monkeypatch.setattr(interruption, "asked", Signals(place))
        broken = solve(begin(make), folder, **options)
        assert (broken.status, broken.signal) == ("interrupted", signal.SIGTERM)
        assert broken.checkpoint is not None and broken.checkpoint.is_dir()
        pendings += saved(folder)["parts"]["stepper"]["pending"]
        monkeypatch.setattr(interruption, "asked", Signals())
        result = solve(begin(make, seed=99), folder, **options)  # what it starts from does not matter
        assert equal(saved(folder), state), f"{case}, broken off at place {place}"
        assert equal(result.params, expected.params) and equal(result.hparams, expected.hparams)
        assert [r.inner_step for r in result.history] == [r.inner_step for r in history]
        assert repr(result.preflight) == repr(NO_PREFLIGHT)
    # Every product of a solve is such a place, and so is every inner step.
    assert pendings == sum(r.matvecs for r in history)
    assert whole.count == pendings + history[-1].inner_step


def test_interrupted_in_the_preflight_nothing_was_done(tmp_path, monkeypatch):
    make, options = CASES["neumann"]
    monkeypatch.setattr(interruption, "asked", Signals(2))
    problem = begin(make)
    before = {k: p.detach().clone() for k, p in problem.params.items()}
    with pytest.raises(interruption.Stopped):
        solve(problem, tmp_path, **options)
    assert Checkpoints(tmp_path, kind="solve").empty()
    assert equal(before, {k: p.detach() for k, p in problem.params.items()})


RICH = {
    "solver": solvers.get("auto", max_hvps=2, probe_every=2),
    "warm_start": True,
    "outer_steps": 4,
    "scheduler": step_lr,
    "inner_optimizer": ADAM,
}
ENTRIES = [
    "parts.inner_optimizer", "parts.scheduler", "parts.model.tensors", "parts.model.buffers", "parts.model.training",
    "parts.stepper.inner_step", "parts.stepper.outer_step", "parts.stepper.pending", "parts.stepper.hparams+family",
    "parts.stepper.outer_optimizer", "parts.stepper.x", "parts.stepper.solver_state", "generators", "data.train",
    "data.val", "history", "preflight",
]  # fmt: skip


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory):
    """A folder broken off within the second outer step, and the state at the end of the whole run."""
    folder = tmp_path_factory.mktemp("rich")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interruption, "asked", counter := Signals())
        solve(begin(shuffled), folder / "whole", **RICH)
        total = counter.count
        for place in range(total - 1, 0, -1):  # the last place of the second outer step
            patch.setattr(interruption, "asked", Signals(place))
            solve(begin(shuffled), folder / str(place), **RICH)
            held = saved(folder / str(place))["parts"]["stepper"]
            if held["pending"] and held["outer_step"] == 1:
                return folder / str(place), saved(folder / "whole")
    raise AssertionError("no outer step was broken off")


@pytest.mark.parametrize("entry", ["nothing", *ENTRIES])
def test_every_entry_of_the_state_is_needed(entry, broken_off, tmp_path, monkeypatch):
    folder, expected = broken_off
    here = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(folder), str(here)], check=True)
    problem = begin(shuffled, seed=99)
    problem.objective.model[3].train()
    load = Run._load

    def forgetful(self, found, *, force):
        fresh = copy.deepcopy(self._state())
        paths = ["parts.stepper.hparams", "parts.family"] if "+" in entry else [entry]
        for path in paths if entry != "nothing" else []:
            *ways, last = path.split(".")
            old, new = found.state, fresh
            for way in ways:
                old, new = old[way], new[way]
            assert not equal(old[last], new[last]), f"{path} is as at the start: nothing is tested"
            old[last] = new[last]
        if entry == "preflight":
            found.state["preflight"] = found.state["history"][0] | {"memory": 1}
        if entry == "data.val":
            found.state["data"]["val"]["last"] = None
        load(self, found, force=force)

    monkeypatch.setattr(Run, "_load", forgetful)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solve(problem, here, **RICH)
        assert equal(saved(here), expected) == (entry == "nothing")
    except (hypergrad.InvalidInputError, TypeError):  # it fails loudly: as well
        assert entry != "nothing"


def run_of(folder, problem=None, **options):
    return solve(problem or begin(functools.partial(decay, Tied)), folder, **{"solver": "first_order", **options})


def test_a_finished_run_returns_what_it_had_and_may_become_longer(tmp_path, monkeypatch):
    first = run_of(tmp_path / "a", outer_steps=2)
    again = begin(functools.partial(decay, Tied), seed=5)
    called = []
    monkeypatch.setattr(hypergrad.HyperStepper, "loss", lambda *a: called.append(a))
    result = run_of(tmp_path / "a", again, outer_steps=2)
    monkeypatch.undo()
    assert not called and equal(result.params, first.params) and result.history == first.history
    assert (result.status, result.checkpoint, result.preflight) == ("finished", first.checkpoint, first.preflight)
    assert equal({k: p.detach() for k, p in again.params.items()}, first.params)
    longer = run_of(tmp_path / "a", outer_steps=5)
    whole = run_of(tmp_path / "b", outer_steps=5)
    assert equal(longer.params, whole.params) and equal(longer.hparams, whole.hparams)
    assert len(longer.history) == 5
    with pytest.raises(hypergrad.InvalidInputError, match=r"outer_steps=5; it may become longer, but outer_steps is 3"):
        run_of(tmp_path / "a", outer_steps=3)


OTHER = {
    "solver.num_hvps was 2 and is 3": {"solver": solvers.get("neumann", num_hvps=3)},
    "solver.class was 'Neumann' and is 'FirstOrder'": {"solver": "first_order"},
    "estimator.damping was 0.0 and is 0.5": {"damping": 0.5},
    "estimator.class was 'Implicit' and is 'Penalty'": {"estimator": "penalty", "solver": "neumann"},
    "inner_optimizer.groups.0.lr was 0.1 and is 0.2": {"inner_optimizer": functools.partial(SGD, lr=0.2)},
    "outer_optimizer.class was 'Adam' and is 'SGD'": {"outer_optimizer": SGD},
    "scheduler was None and is": {"scheduler": step_lr},
    "every was 2 and is 3": {"inner_steps": 3},
    "warmup was 0 and is 1": {"warmup_steps": 1},
    "seed was 0 and is 1": {"seed": 1},
    "warm_start was False and is True": {"warm_start": True},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    solve(begin(decay), folder, solver=solvers.get("neumann", num_hvps=2))
    return folder


@pytest.mark.parametrize("message", OTHER)
def test_another_run_is_refused_with_the_difference(message, finished):
    with pytest.raises(hypergrad.InvalidInputError, match=f"belongs to another run: .*{message}"):
        solve(begin(decay), finished, **{"solver": solvers.get("neumann", num_hvps=2), **OTHER[message]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (functools.partial(decay, Tied), r"params.0.weight was 'float32 \(5, 4\)' and is absent"),
        (functools.partial(decay, train_data=keyed(7)), "train_data.seed was 0 and is 7"),
        (functools.partial(decay, val_data=keyed(1, 23)), "val_data.sha256 was"),
        (functools.partial(decay, val_data=[(FEATURES, LABELS)]), "val_data.class was 'KeyedBatches' and is 'list'"),
    ],
)
def test_another_problem_is_refused_with_the_difference(make, message, finished):
    with pytest.raises(hypergrad.InvalidInputError, match=f"belongs to another run: .*{message}"):
        solve(begin(make), finished, solver=solvers.get("neumann", num_hvps=2))


def test_force_and_never(tmp_path):
    run_of(tmp_path, outer_steps=2)
    result = run_of(tmp_path, outer_steps=3, seed=1, resume="force")
    assert len(result.history) == 3
    with pytest.raises(hypergrad.InvalidInputError, match="has checkpoints, and resume='never'"):
        run_of(tmp_path, resume="never")
    assert run_of(tmp_path / "new", resume="never").status == "finished"
    with pytest.raises(hypergrad.InvalidInputError, match=r"does not fit the state|Give those it was made of"):
        solve(begin(decay), tmp_path, solver="first_order", outer_steps=3, resume="force")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": True}, r"resume must be one of \('auto', 'never', 'force'\); got True"),
        ({"checkpoint_every": -1}, "checkpoint_every must be a number of seconds, at least 0; got -1"),
        ({"checkpoint_every": float("nan")}, "checkpoint_every must be a number of seconds.*got nan"),
    ],
)
def test_error_table(options, message, tmp_path):
    with pytest.raises(hypergrad.InvalidInputError, match=message):
        run_of(tmp_path, **options)


def test_a_file_in_the_place_of_the_folder_and_a_folder_in_use(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(hypergrad.InvalidInputError, match="is a file; checkpoints need a folder"):
        run_of(tmp_path / "file")
    with pytest.raises(hypergrad.InvalidInputError, match="Cannot make the folder .*Not a directory"):
        run_of(tmp_path / "file" / "below")
    seen = []

    def second(record):
        with pytest.raises(hypergrad.InvalidInputError, match=r"in use by process \d+"):
            run_of(tmp_path / "c")
        seen.append(record)

    run_of(tmp_path / "c", callbacks=[second])
    assert len(seen) == 2


def test_what_cannot_be_saved_is_refused_before_the_first_step(tmp_path):
    class Odd(torch.optim.SGD):
        def state_dict(self):
            return {**super().state_dict(), "odd": object()}

    with pytest.raises(hypergrad.InvalidInputError, match=r"inner_optimizer.odd is of type object"):
        run_of(tmp_path, inner_optimizer=functools.partial(Odd, lr=0.1))


def test_a_disk_that_fails_warns_and_the_training_goes_on(tmp_path, monkeypatch):
    saving, calls = Checkpoints.save, []

    def save(self, state, *, step):
        calls.append(step)
        if step == 1:
            raise OSError(28, "No space left on device")
        return saving(self, state, step=step)

    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.warns(hypergrad.CheckpointWarning, match=r"Step 1 could not be saved .*No space left"):
        result = run_of(tmp_path, checkpoint_every=0)
    assert calls == [0, 0, 1, 2, 3, 4] and result.checkpoint is not None
    monkeypatch.setattr(Checkpoints, "save", lambda *a, **k: (_ for _ in ()).throw(OSError(30, "Read-only")))
    with pytest.warns(hypergrad.CheckpointWarning):
        result = run_of(tmp_path, outer_steps=3)
    assert result.status == "finished" and result.checkpoint is None and len(result.history) == 3


def test_saving_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("hypergrad.checkpoint.saving.time.monotonic", lambda: now[0])
    saving = hypergrad.checkpoint.Saving(Checkpoints(tmp_path, kind="x"), 10)
    monkeypatch.setattr(Checkpoints, "save", lambda *a, **k: now.__setitem__(0, now[0] + 1))
    assert not saving.due()
    now[0] = 10
    assert saving.due()
    saving.save(dict, step=1)
    now[0] = 60.9
    assert not saving.due()
    now[0] = 61
    assert saving.due()


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path):
    expected = run_of(tmp_path, checkpoint_every=0)
    (expected.checkpoint / "state.json").write_text("{}")
    with pytest.warns(hypergrad.CheckpointWarning, match="Passed over a damaged checkpoint"):
        result = run_of(tmp_path)
    assert equal(result.params, expected.params)


class Unrepeatable:
    """Other batches each time."""

    def __init__(self) -> None:
        self.rounds = 0

    def __iter__(self):
        self.rounds += 1
        return iter([(FEATURES + self.rounds, LABELS)] * 3)


def test_data_that_does_not_repeat_its_order_warns(tmp_path):
    make = functools.partial(decay, Tied, train_data=Unrepeatable())
    run_of(tmp_path / "a", begin(make))
    with pytest.warns(hypergrad.InexactWarning, match="train_data does not repeat its order"):
        run_of(tmp_path / "a", begin(make), outer_steps=3)
    run_of(tmp_path / "b", begin(functools.partial(decay, Tied, val_data=[(FEATURES, LABELS)] * 3)), outer_steps=3)
    with pytest.raises(hypergrad.InvalidInputError, match=r"val_data has only 1 batches; 3 of them had been drawn"):
        run_of(
            tmp_path / "b", begin(functools.partial(decay, Tied, val_data=[(FEATURES, LABELS)])), outer_steps=4,
            resume="force",
        )  # fmt: skip


def test_an_outer_graceful_stops_a_run_without_checkpoints():
    def ask(record):
        os.kill(os.getpid(), signal.SIGTERM)

    with interruption.graceful():
        result = begin(decay).solve("first_order", **QUICK, callbacks=[ask])
    assert (result.status, result.signal, result.checkpoint) == ("interrupted", signal.SIGTERM, None)
    assert len(result.history) == 1


def test_an_exception_amid_a_step_leaves_the_checkpoint_before(tmp_path):
    class Breaking(torch.optim.SGD):
        left = 3

        def step(self, closure=None):
            type(self).left -= 1
            if type(self).left < 0:
                raise KeyboardInterrupt
            return super().step(closure)

    broken = run_of(tmp_path, inner_optimizer=functools.partial(Breaking, lr=0.1), checkpoint_every=0)
    assert (broken.status, broken.checkpoint, broken.signal) == ("interrupted", None, signal.SIGINT)
    assert saved(tmp_path)["parts"]["stepper"]["inner_step"] == 3
    Breaking.left = 99
    result = run_of(tmp_path, inner_optimizer=functools.partial(Breaking, lr=0.1))
    expected = run_of(tmp_path / "whole", inner_optimizer=functools.partial(Breaking, lr=0.1))
    assert equal(result.params, expected.params)


SCRIPT = """
import functools, os, random, signal, sys, threading
import torch
import hypergrad

def run(folder, end):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Dropout(0.3), torch.nn.Linear(5, 2))
    x = torch.randn(24, 4)
    data = hypergrad.KeyedBatches(x, (x.sum(1) > 0).long(), batch_size=8)
    family = hypergrad.families.get("weight_decay", model=model)
    problem = hypergrad.BilevelProblem.for_model(model, family, train_data=data, val_data=data)

    def signals(record):
        if end == "kill" and record.outer_step == 5:
            threading.Timer(random.random() * 0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()
        if end == "term" and record.outer_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    return problem.solve(
        "neumann", outer_steps=40 if end else 41, inner_steps=2, checkpoint=folder, checkpoint_every=0,
        inner_optimizer=functools.partial(torch.optim.Adam, lr=0.01), callbacks=[signals],
        outer_optimizer=functools.partial(torch.optim.Adam, lr=0.01), progress=False,
    )

if __name__ == "__main__":
    result = run(*sys.argv[1:])
    print(result.status, len(result.history))
    sys.exit(75 if result.status == "interrupted" and result.checkpoint else 0)
"""


def test_killed_for_good_and_resumed(tmp_path):
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    processes = {
        end: subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / end), end], text=True, stdout=subprocess.PIPE, env=environment
        )
        for end in ("kill", "term")
    }
    said = {end: p.communicate()[0].split() for end, p in processes.items()}
    assert said == {"kill": [], "term": ["interrupted", "5"]}
    assert {end: p.returncode for end, p in processes.items()} == {"kill": -signal.SIGKILL, "term": 75}
    names = {"__name__": "script"}
    exec(SCRIPT, names)
    names["run"](tmp_path / "whole", "")
    expected = saved(tmp_path / "whole")
    for end in processes:
        steps = saved(tmp_path / end)["parts"]["stepper"]["inner_step"]
        assert 9 <= steps < 80  # it saves after every inner step
        names["run"](tmp_path / end, "")  # and longer by one outer step
        assert equal(saved(tmp_path / end), expected)
