"""What every rank runs: each check returns numbers by name; those compared with one process are relative errors."""

import contextlib
import functools
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import hypergrad
from hypergrad import curvature, estimators, interruption, keyed_objective, shards, solvers, stepper
from hypergrad.checkpoint import digest
from hypergrad.curvature.over_ranks import OverRanks
from hypergrad.distributed import alone, barrier, differing, gather, rank, world_size
from hypergrad.estimators import implicit
from hypergrad.estimators.implicit import Implicit
from hypergrad.estimators.inner_optimizers import SGD, Adam
from hypergrad.estimators.penalty import Penalty
from hypergrad.estimators.unroll import Unrolled
from hypergrad.keys import derive, preserved_rng
from hypergrad.reductions import MeanOverRanks
from hypergrad.solvers.conjugate_gradient import ConjugateGradient
from hypergrad.solvers.neumann import Neumann
from hypergrad.solvers.nystrom import Nystrom
from hypergrad.solvers.preconditioners import HutchinsonDiagonal, NystromSketch
from tests.distributed._problems import INNER, OUTER, cut, functions, images, problem

SOLVERS = {
    **{name: solvers.get(name) for name in solvers.names()},
    "neumann-8": Neumann(num_hvps=8, alpha=0.3),
    "nystrom-3": Nystrom(rank=3, rho=0.1),
    "cg-hutchinson": ConjugateGradient(preconditioner=HutchinsonDiagonal()),
    "cg-sketch": ConjugateGradient(preconditioner=NystromSketch(rank=3)),
}
ESTIMATORS = {
    "penalty": Penalty(steps=4),
    "unrolled-sgd": Unrolled(optimizer=SGD(lr=lambda h: 0.1 * h["scale"].sum(), momentum=0.5), steps=4),
    "unrolled-adam": Unrolled(optimizer=Adam(lr=lambda h: 0.01 * h["unused"]), steps=3),
    "control:flipped": estimators.get("control:flipped"),
    "control:random": estimators.get("control:random"),
    "residual, damping": Implicit(damping=0.1, residual=True),
    "memory low": Implicit(memory="low", micro_batch=2),
    "finite-difference": Implicit(solver="cg", curvature="finite-difference"),
}
CURVATURES = {
    "hessian": {},
    "gauss-newton": {"curvature": "gauss-newton"},
    "memory low": {"memory": "low", "micro_batch": 2},
    "low, gauss-newton": {"memory": "low", "curvature": "gauss-newton"},
}

#: Families with less than all of them, for time.
FAMILIES = {"weight_decay": ("hessian", "gauss-newton"), "sample_weights": ("hessian", "memory low")}


def error(found, wanted):
    """The largest relative error of the parts of two hypergradients."""
    worst = 0.0
    for part in ("grads", "direct", "implicit"):
        for key, value in getattr(wanted, part).items():
            worst = max(worst, distance(getattr(found, part)[key], value))
    for part in ("inner_loss", "outer_loss", "stationarity"):
        worst = max(worst, distance(getattr(found, part), getattr(wanted, part)))
    return worst


def distance(a, b):
    return float((a - b).detach().norm() / b.detach().norm().clamp_min(1e-12))


def counts():
    return INNER[world_size()], OUTER[world_size()]


def against_joint(estimator, inner, outer, params, hparams, train, val, pair=None):
    """The estimate of the shards, and one process's on the joint batch."""
    with alone():
        wanted = estimator.estimate(inner, outer, params, hparams, inner_batch=train, outer_batch=val)
    few, many = counts()
    own = cut(train, few, rank()), cut(val, many, rank())
    found = estimator.estimate(inner, outer, params, hparams, inner_batch=own[0], outer_batch=own[1])
    agree = not differing({"grads": digest(*found.grads.values())})
    return error(found, wanted) if agree else float("inf")


def solver():
    return {name: against_joint(Implicit(solver=s, on_failure="ignore"), *functions()) for name, s in SOLVERS.items()}


def estimator():
    return {name: against_joint(e, *functions()) for name, e in ESTIMATORS.items()}


def families():
    """Through the stepper, whose noise is keyed; madao's score-function term has the joint batch's baseline."""
    results = {}
    train, val = images()
    few, many = counts()
    for name in ("weight_decay", "sample_weights", "madao"):
        made = problem(name)
        options = {
            kind: Implicit(solver=Neumann(num_hvps=5, alpha=0.3), on_failure="ignore", **o)
            for kind, o in CURVATURES.items()
            if kind in FAMILIES.get(name, CURVATURES)
        }
        options["penalty"] = Penalty(steps=3)
        options["unrolled"] = Unrolled(optimizer=SGD(lr=0.3, momentum=0.5), steps=3)
        for kind, method in options.items():
            for index in (True, False):
                if name != "madao" and not index:
                    continue
                batch = train if index else train[:2]
                with alone():
                    wanted = made.stepper(torch.optim.SGD, estimator=method).hypergradient(batch, val)
                own = cut(batch, few, rank()), cut(val, many, rank())
                found = made.stepper(torch.optim.SGD, estimator=method).hypergradient(*own)
                results[f"{name}, {kind}, {'index' if index else 'places'}"] = error(found, wanted)
    return results


def batch_norm():
    """BatchNorm and dropout against one process that sums the shards' losses, each with its own noise."""
    made = problem("weight_decay", norm=True, dropout=0.3)
    train, val = images()
    few, many = counts()
    few = [max(2, c) - (max(few) == c and min(few) == 1) for c in few]  # BatchNorm needs two samples a shard
    steps = made.stepper(torch.optim.SGD, Neumann(num_hvps=5, alpha=0.3), on_failure="ignore")
    before = [b.clone() for b in shards.statistics(made.objective)]
    found = steps.hypergradient(cut(train, few, rank()), cut(val, many, rank()))
    changed = max(float((a - b).abs().max()) for a, b in zip(before, shards.statistics(made.objective), strict=True))
    with alone():
        key = derive(0, "outer", 0)
        f, g = made.objective.losses(key)

        def inner(w, h):
            total = 0.0
            for r, count in enumerate(few):
                with preserved_rng(torch.device("cpu"), derive(key, "rank", r) if r else key):
                    total = total + f(w, h, *cut(train, few, r)) * count / sum(few)
            return total

        wanted = hypergrad.hypergradient(
            inner,
            lambda w, h: g(w, h, *val),
            made.params,
            made.hparams,
            solver=Neumann(num_hvps=5, alpha=0.3),
            on_failure="ignore",
        )
        running = [torch.zeros_like(b) for b in before]
        for r, count in enumerate(few):
            other = problem("weight_decay", norm=True, dropout=0.3)
            other.objective.training_loss(cut(train, few, r), 0)
            for total, b in zip(running, shards.statistics(other.objective), strict=True):
                total += b * count / sum(few)
    steps.loss(cut(train, few, rank())).backward()
    steps.reduce_gradients(cut(train, few, rank()))
    kept = shards.statistics(made.objective)
    return {
        "hypergradient": error(found, wanted),
        "left alone": changed,
        "running statistics": max(distance(a, b) for a, b in zip(kept, running, strict=True)),
        "equal": float(bool(differing({"statistics": digest(*kept)}))),
    }


def solve_with(made, **options):
    return made.solve(
        Neumann(num_hvps=4, alpha=0.3),
        outer_steps=3,
        inner_steps=3,
        inner_optimizer=functools.partial(torch.optim.SGD, lr=0.2, momentum=0.9),
        outer_optimizer=functools.partial(torch.optim.Adam, lr=0.05),
        progress=False,
        on_failure="ignore",
        **options,
    )


def moved(found, wanted):
    """Of two results of solve: relative distance of parameters and hyperparameters."""
    pairs = [(getattr(found, part)[k], v) for part in ("params", "hparams") for k, v in getattr(wanted, part).items()]
    return max(distance(a, b) for a, b in pairs)


def solve():
    results = {}
    for name in ("weight_decay", "sample_weights", "madao"):
        with alone():
            wanted = solve_with(problem(name, keyed=True))
        found = solve_with(problem(name, keyed=True))
        results[name] = moved(found, wanted)
        times = [r.outer_loss for r in found.history], [r.outer_loss for r in wanted.history]
        results[f"{name}, records"] = distance(*(torch.tensor(t, dtype=torch.float64) for t in times))
    return results


def left_out():
    """Each of the five reductions made the identity: the results must be wrong, and by how much."""
    results = {}
    arguments = functions()
    method = Implicit(solver=Neumann(num_hvps=6, alpha=0.3), on_failure="ignore")
    real = implicit.mean_derivatives
    product, cross = OverRanks.product, OverRanks.cross_vjp

    def wrong(name):
        return against(name, method, *arguments)

    def against(name, *given):
        inner, outer, params, hparams, train, val = given[1:]
        few, many = counts()
        with alone():
            wanted = method.estimate(inner, outer, params, hparams, inner_batch=train, outer_batch=val)
        own = cut(train, few, rank()), cut(val, many, rank())
        found = method.estimate(inner, outer, params, hparams, inner_batch=own[0], outer_batch=own[1])
        results[name] = max(distance(found.grads[k], wanted.grads[k]) for k in hparams)

    def local_vector(ranks, value, b, direct, like):
        mean, _, averaged = real(ranks, value, b, direct, like)
        return mean, b, averaged

    def local_direct(ranks, value, b, direct, like):
        mean, averaged, _ = real(ranks, value, b, direct, like)
        return mean, averaged, direct

    try:
        implicit.mean_derivatives = local_vector
        wrong("outer vector")
        implicit.mean_derivatives = local_direct
        wrong("direct term")
        implicit.mean_derivatives = real
        OverRanks.product = lambda self, v: self._local.product(v)
        wrong("product")
        OverRanks.product = product
        OverRanks.cross_vjp = lambda self, x: self._local.cross_vjp(x)
        wrong("cross term")
    finally:
        implicit.mean_derivatives, OverRanks.product, OverRanks.cross_vjp = real, product, cross
    with alone():
        wanted = solve_with(problem("weight_decay", keyed=True))
    held = stepper.mean_gradients, keyed_objective.check_equal
    try:
        stepper.mean_gradients = lambda *given: None
        try:
            solve_with(problem("weight_decay", keyed=True))
            results["inner gradient, found"] = 0.0
        except hypergrad.RankError as raised:
            results["inner gradient, found"] = float("stepper.reduce_gradients(batch)" in str(raised))
        keyed_objective.check_equal = lambda *given: None
        results["inner gradient"] = moved(solve_with(problem("weight_decay", keyed=True)), wanted)
    finally:
        stepper.mean_gradients, keyed_objective.check_equal = held
    wrong("none")  # and with all of them in place again it is right
    return results


def sub_batch():
    """Each shard gives its own part of the products; the mean of these operators, formed in one process."""
    inner, outer, params, hparams, train, val = functions()
    few, many = counts()
    torch.manual_seed(rank())
    method = Implicit(solver=Neumann(num_hvps=5, alpha=0.3), curvature_share=0.5, on_failure="ignore")
    own = cut(train, few, rank()), cut(val, many, rank())
    found = method.estimate(inner, outer, params, hparams, inner_batch=own[0], outer_batch=own[1])
    with alone():
        rows = []
        for r in range(len(few)):
            torch.manual_seed(r)
            rows.append(curvature.base.drawn_rows(torch.device("cpu"), few[r], 0.5))

        class Oracle(OverRanks):
            def __init__(self):
                curvature.Curvature.__init__(self, params, hparams, 0.0)
                self.entire = curvature.linearize(inner, params, hparams, train)
                self._value, self._gradient, self.cross_vjp = self.entire.value, self.entire.gradient, None
                self.parts = []
                for r, chosen in enumerate(rows):
                    shard = cut(train, few, r)
                    part = curvature.linearize(inner, params, hparams, tuple(p[chosen] for p in shard))
                    self.parts.append((few[r] / sum(few), part))

            def product(self, v):
                return sum(share * part.product(v) for share, part in self.parts)

        A = Oracle()
        _, b, direct = implicit.outer_gradient(outer, params, hparams, val)
        cross = A.entire.cross_vjp(method.solver.solve(A, b).x)
        zero = {k: torch.zeros_like(v) for k, v in hparams.items()}
        wanted = {
            k: (zero if direct[k] is None else direct)[k] - (zero if cross[k] is None else cross)[k] for k in zero
        }
    return {"share 0.5": max(distance(found.grads[k], wanted[k]) for k in wanted)}


def stop():
    """A signal to the last rank alone: all ranks stop at the same step, in their own loop and in solve."""
    made = problem("weight_decay", keyed=True)
    steps = made.stepper(torch.optim.SGD, every=4, on_failure="ignore")
    optimizer = torch.optim.SGD(made.params.values(), lr=0.1)
    seen = 0
    with interruption.graceful() as asked:
        try:
            for t in range(50):
                interruption.poll()
                batch = made._train(t)
                optimizer.zero_grad()
                steps.loss(batch).backward()
                if t == 6 and rank() == world_size() - 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                steps.reduce_gradients(batch)
                optimizer.step()
                steps.step(batch, made._val(t))
        except interruption.Stopped as stopped:
            seen = stopped.signal
        mine = asked.signal
    rows = gather([steps.inner_step, steps.outer_step, seen, int(mine is not None)])
    agreed = not differing({"params": digest(*made.params.values())})
    wanted = [[7, 1, signal.SIGTERM, int(r == world_size() - 1)] for r in range(world_size())]
    return {"stopped": float(rows == wanted and agreed)}


def resume():
    """solve with checkpoints: one rank is signalled, all stop, and the resumed run has the same bits."""
    folder, results = Path(sys.argv[3]), {}
    options = {"norm": True, "dropout": 0.3, "keyed": True}
    wanted = solve_with(problem("weight_decay", **options), warm_start=True)
    product, calls = OverRanks.product, 0

    def killing(self, v):
        nonlocal calls
        calls += 1
        if calls == 15 and rank() == world_size() - 1:  # amid the second outer step, after the preflight's two
            os.kill(os.getpid(), signal.SIGTERM)
        return product(self, v)

    def kill(record):
        if record.outer_step == 2 and rank() == world_size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    for where in ("in a product", "in a step"):
        path, calls = folder / where, 0
        callbacks = [kill] if where == "in a step" else []
        OverRanks.product = killing if where == "in a product" else product
        broken = solve_with(problem("weight_decay", **options), warm_start=True, checkpoint=path, callbacks=callbacks)
        OverRanks.product = product
        stopped = len(broken.history) == (2 if callbacks else 1) and broken.status == "interrupted"
        results[f"{where}, stopped"] = float(stopped and broken.signal == signal.SIGTERM)
        results[f"{where}, one writes"] = float((broken.checkpoint is None) == (rank() > 0))
        found = solve_with(problem("weight_decay", **options), warm_start=True, checkpoint=path)
        pairs = [(found.params, wanted.params), (found.hparams, wanted.hparams)]
        same = all(torch.equal(a[k], b[k]) for a, b in pairs for k in b)
        losses = [r.outer_loss for r in found.history] == [r.outer_loss for r in wanted.history]
        results[f"{where}, same bits"] = float(same and losses and found.status == "finished")
    made, model = {}, {"keyed": True}
    for ranks in ("several", "one"):
        path = folder / "other ranks"
        callbacks = [kill] if ranks == "several" else []
        with contextlib.nullcontext() if ranks == "several" or rank() else alone():
            if ranks == "one" and rank():
                break
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                made[ranks] = solve_with(problem("madao", **model), checkpoint=path, callbacks=callbacks)
    barrier()
    if rank() == 0:
        with alone():
            told = any("saved with" in str(w.message) for w in warned)
            close = moved(made["one"], solve_with(problem("madao", **model))) < 1e-10
        results["other number of ranks"] = float(told and close and len(made["one"].history) == 3)
    other = problem("weight_decay", keyed=True)
    if rank() == 1:
        other._train.data.tensors[0][3, 0, 0, 0] += 1e-6
    try:
        solve_with(other)
        results["other data"] = 0.0
    except hypergrad.RankError as raised:
        results["other data"] = float("settings or data of rank 1 differ" in str(raised))
    return results


def mismatch():
    """Ranks that are not at the same point are told so, all of them, with the remedy."""
    results = {}
    train, val = images()
    few, many = counts()
    own = cut(train, few, rank()), cut(val, many, rank())
    for what in ("params", "hparams", "counters"):
        made = problem("weight_decay")
        steps = made.stepper(torch.optim.SGD)
        if rank() == 1 and what != "counters":
            with torch.no_grad():
                next(iter(getattr(made, what).values())).add_(1e-15 if what == "params" else 1e-12)
                next(iter(getattr(made, what).values())).view(-1)[0] += 1e-3
        elif rank() == 1:
            steps.inner_step = 3
        try:
            steps.hypergradient(*own)
            results[what] = 0.0
        except hypergrad.RankError as raised:
            results[what] = float("of rank 1 differ from those of rank 0" in str(raised))
    for name, batch in (
        ("empty", own[0] if rank() else tuple(p[:0] for p in own[0])),
        ("none", own[0] if rank() else None),
    ):
        try:
            MeanOverRanks.of(batch)
            results[name] = 0.0
        except hypergrad.RankError as raised:
            results[name] = float("Every rank needs its own part" in str(raised))
    return results


def nonfinite():
    """A bad sample in one shard is an error on all ranks, which says where to look."""
    train, val = images()
    few, many = counts()
    own = cut(train, few, rank()), cut(val, many, rank())
    if rank() == 1:
        own[0][0][0, 0, 2, 2] = float("nan")
    wanted = "argument 0 has 1 NaN" if rank() == 1 else "the batch of rank 1 has entries that are not finite"
    try:
        problem("weight_decay").stepper(torch.optim.SGD).hypergradient(*own)
    except hypergrad.NonFiniteError as raised:
        return {"found": float(wanted in str(raised))}
    return {"found": 0.0}


class Local:
    """An estimator that knows nothing of ranks."""

    def estimate(self, *given, **options):
        raise AssertionError


def refused():
    results = {}
    made = problem("weight_decay")
    grouped = hypergrad.augment.madao.Madao(group_size=2).double()
    for name, make, word in (
        ("estimator", lambda: made.stepper(torch.optim.SGD, estimator=Local()), "does not say that it reduces"),
        (
            "groups",
            lambda: hypergrad.BilevelProblem.for_model(made.objective.model, grouped).stepper(torch.optim.SGD),
            "groups are counted within a shard",
        ),
        (
            "ddp",
            lambda: hypergrad.BilevelProblem.for_model(
                DistributedDataParallel(made.objective.model), made.objective.family
            ),
            "Pass its .module",
        ),
    ):
        try:
            make()
            results[name] = 0.0
        except hypergrad.UnsupportedModelError as raised:
            results[name] = float(word in str(raised))
    return results


def ddp():
    """A loop of one's own around DistributedDataParallel, equal shards, against one process."""
    size = 12 // world_size()
    train, val = images()
    train, val = tuple(p[:12] for p in train), val

    def run(wrap, batch, val):
        made = problem("weight_decay", norm=False)
        net = wrap(made.objective.model)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
        steps = made.stepper(
            functools.partial(torch.optim.SGD, lr=0.5), Neumann(num_hvps=5, alpha=0.3), every=3, on_failure="ignore"
        )
        for _ in range(9):
            optimizer.zero_grad()
            decay = made.objective.family.penalty(made.params)
            (nn.functional.cross_entropy(net(batch[0]), batch[1]) + decay).backward()
            optimizer.step()
            steps.step(batch, val)
        assert min(distance(made.hparams[k], v) for k, v in problem("weight_decay").hparams.items()) > 1e-4
        return made

    with alone():
        wanted = run(lambda m: m, train, val)
    own = tuple(p[rank() * size : (rank() + 1) * size] for p in train)
    found = run(DistributedDataParallel, own, cut(val, counts()[1], rank()))
    return {
        "params": max(distance(found.params[k], v) for k, v in wanted.params.items()),
        "hparams": max(distance(found.hparams[k], v) for k, v in wanted.hparams.items()),
    }


CHECKS = {
    f.__name__: f
    for f in (
        solver,
        estimator,
        families,
        batch_norm,
        solve,
        left_out,
        sub_batch,
        stop,
        resume,
        mismatch,
        nonfinite,
        refused,
        ddp,
    )
}
