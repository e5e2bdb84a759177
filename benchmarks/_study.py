"""One cell of a study: a network trained with one row's policy on one seed, and everything worth recording of it."""

import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _images import FASHION_DIRECTORY, Part, Splits, load
from _models import SmallCNN, parameter_count
from _recipe import Recipe
from _rows import Row
from torch import nn

import hypergrad
from hypergrad.estimators.implicit import Implicit
from hypergrad.linearization import Linearization
from hypergrad.memory import peak_memory

#: Called with the number of steps that were done since the last call.
Report = Callable[[int], None]


def _build(recipe: Recipe, row: Row, seed: int, channels: tuple[int, int, int], **model: Any) -> tuple[nn.Module, Any]:
    """Network and policy; the same initial network for every row of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hypergrad.keys.derive(seed, "init"))
        network = SmallCNN(channels, recipe.side, mean=recipe.mean, std=recipe.std, **model)
    family = hypergrad.families.get(
        "madao",
        stages=recipe.stages,
        operations=list(recipe.operations),
        temperature=recipe.temperature,
        selection=row.selection,
    )
    return network, family


def _batches(part: Part, size: int, seed: int, stream: str) -> Any:
    return hypergrad.KeyedBatches(part.images, part.labels, batch_size=size, seed=hypergrad.keys.derive(seed, stream))


def _plain_loss(model: nn.Module, weight_decay: float) -> Callable[[Any], torch.Tensor]:
    """The training loss without augmentation, with the weight decay that ``for_model`` adds."""

    def loss(batch: Any) -> torch.Tensor:
        inputs, targets = batch[:2]
        decay = torch.stack([p.square().sum() for p in model.parameters()]).sum()
        return F.cross_entropy(model(inputs), targets) + 0.5 * weight_decay * decay

    return loss


def _stepper(recipe: Recipe, row: Row, seed: int, problem: Any, estimator: Any = None) -> Any:
    return problem.stepper(
        functools.partial(torch.optim.RMSprop, lr=recipe.outer_lr),
        estimator=estimator or (row.estimator(recipe.lr, seed) if row.learns else "implicit"),
        every=recipe.every,
        # The references go through the same loop and never reach an update.
        warmup=recipe.warmup if row.learns else recipe.steps + 1,
        seed=hypergrad.keys.derive(seed, "policy"),
    )


@torch.no_grad()
def test_error(model: nn.Module, part: Part) -> float:
    """Share of wrong answers in percent, in eval mode, without augmentation."""
    model.eval()
    wrong = sum(
        int((model(images).argmax(dim=1) != labels).sum())
        for images, labels in zip(part.images.split(1000), part.labels.split(1000), strict=True)
    )
    model.train()
    return 100 * wrong / len(part.labels)


@dataclass
class _Outer:
    """What the outer steps of a run add up to."""

    matvecs: int = 0
    residuals: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    trace: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: Any, family: Any, recipe: Recipe) -> None:
        self.matvecs += record.matvecs
        if record.residual is not None and math.isfinite(record.residual):
            self.residuals.append(record.residual)
        if record.status is not None:
            self.statuses[record.status.value] += 1
        if recipe.watched is not None and record.outer_step % 8 == 0:
            pi = family.values()["pi"].mean(dim=0)
            self.trace.append(
                {"step": record.inner_step, "pi": round(float(pi[recipe.operations.index(recipe.watched)]), 4)}
            )


def train_cell(
    recipe: Recipe, row: Row, seed: int, splits: Splits, report: Report = lambda done: None
) -> dict[str, Any]:
    """Train one network and describe the run in plain values.

    A run whose losses stop being finite is a result: it has ``"failure"`` with the message, and no test error.
    """
    model, family = _build(recipe, row, seed, recipe.channels)
    problem = hypergrad.BilevelProblem.for_model(model, family, weight_decay=recipe.weight_decay)
    stepper = _stepper(recipe, row, seed, problem)
    train = _batches(splits.train, recipe.batch_size, seed, "train")
    val = _batches(splits.val, recipe.val_batch_size, seed, "val")
    # By default an outer step differentiates the inner loss of the last inner step's batch.
    larger = None if row.outer_batch is None else _batches(splits.train, row.outer_batch, seed, "outer")
    inner_loss = _plain_loss(model, recipe.weight_decay) if row.name == "none" else stepper.loss
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)

    model.train()
    memory = (
        _memory(stepper, inner_loss, train, larger or train, val, optimizer)
        if row.learns
        else {"plain": None, "outer": None}
    )
    outer, failure, updates = _Outer(), None, 0
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        for step in range(recipe.steps):
            batch = train.batch(step)
            optimizer.zero_grad()
            loss = inner_loss(batch)
            loss.backward()
            optimizer.step()
            scheduler.step()
            if row.learns:
                # Bound now: the batches of an update are those of its number, whatever the row.
                outer_batch = batch if larger is None else functools.partial(larger.batch, updates)
                record = stepper.step(outer_batch, functools.partial(val.batch, updates))
                if record is not None:
                    updates += 1
                    outer.add(record, family, recipe)
            if step % 20 == 19:
                report(20)
    except hypergrad.NonFiniteError as error:
        failure = str(error)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    report(recipe.steps % 20)
    final_loss = float(loss.detach())
    if failure is None and not math.isfinite(final_loss):
        failure = f"The training loss ended as {final_loss}."
    return {
        "row": row.label,
        "seed": seed,
        "test_error": test_error(model, splits.test) if failure is None else None,
        "val_error": test_error(model, splits.val) if failure is None else None,
        "train_loss": final_loss if failure is None else None,
        "failure": failure,
        "steps": recipe.steps,
        "updates": updates,
        "matvecs": outer.matvecs,
        "residual": sum(outer.residuals) / len(outer.residuals) if outer.residuals else None,
        "statuses": dict(outer.statuses),
        "policy": {name: _plain(value) for name, value in family.values().items()} if row.name != "none" else None,
        "trace": outer.trace,
        "seconds": wall,
        "cpu_seconds": cpu,
        "memory": memory,
    }


def _plain(value: torch.Tensor) -> Any:
    return [[round(x, 4) for x in stage] for stage in value.detach().double().reshape(len(value), -1).tolist()]


def _memory(stepper: Any, inner_loss: Any, train: Any, outer: Any, val: Any, optimizer: Any) -> dict[str, int | None]:
    """Peak bytes of one plain training step (forward and backward) and of one outer step, counted the same way."""
    batch, val_batch = train.batch(0), val.batch(0)
    optimizer.zero_grad()
    with peak_memory() as plain:
        inner_loss(batch).backward()
    optimizer.zero_grad()
    return {"plain": plain.bytes, "outer": stepper.preflight(outer.batch(0), val_batch).memory}


def _flat(grads: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([grads[key].reshape(-1) for key in sorted(grads)])


#: The oracle's damping, the same as the default of the CG row.
PROBE_DAMPING = 0.01

#: Of the sub-problem: strong enough for L-BFGS to reach a minimum.
PROBE_WEIGHT_DECAY = 0.0015


def probe_cells(recipe: Recipe, rows: list[Row], directory: Path = FASHION_DIRECTORY) -> Iterator[dict[str, Any]]:
    """The cosine of every row's hypergradient to that of the ``dense`` solver, where that one is affordable.

    The same network cut to some hundred parameters and made smooth (SiLU), in float64, at a minimum of the inner loss
    of one batch under one draw of the policy's noise: there the Hessian has no negative eigenvalue to speak of, and
    the exact hypergradient is defined.
    (At a point of a running training it is not: with eigenvalues on both sides of 0 the dense solve has any sign.)
    Rows differ in the solve alone: the same batches and noise, the row's own selection gradient on both sides.
    """
    splits = load(recipe.data, 0, recipe.sizes, recipe.max_angle, directory)
    key = hypergrad.keys.derive("table5", "probe")
    inner_batch, outer_batch = (
        _batches(Part(part.images.double(), part.labels), recipe.probe_batch, 0, name).batch(0)
        for part, name in ((splits.train, "train"), (splits.val, "val"))
    )
    weights: dict[str, torch.Tensor] = {}
    point: dict[str, float] = {}
    oracles: dict[str, torch.Tensor] = {}
    for row in rows:
        if not row.learns:
            continue
        model, family = _build(recipe, row, 0, recipe.probe_channels, activation=F.silu)
        model.double(), family.double()
        objective = hypergrad.ModelObjective(model, family, weight_decay=PROBE_WEIGHT_DECAY)
        inner, outer = objective.losses(key)
        if not weights:
            point = _minimise(inner, objective, inner_batch, recipe.probe_steps)
            weights = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(weights)

        def grads(estimator: Any, objective: Any = objective, inner: Any = inner, outer: Any = outer) -> torch.Tensor:
            found = estimator.estimate(
                inner, outer, objective.params, objective.hparams, inner_batch=inner_batch, outer_batch=outer_batch
            )
            return _flat(found.grads)

        if row.selection not in oracles:
            oracles[row.selection] = grads(Implicit(solver="dense", damping=PROBE_DAMPING, on_failure="ignore"))
        found = grads(row.estimator(recipe.lr, 0))
        yield {
            "row": row.label,
            "cosine": float(F.cosine_similarity(found, oracles[row.selection], dim=0)),
            **point,
            "parameters": parameter_count(model),
            "hyperparameters": len(found),
        }


def _minimise(inner: Callable[..., torch.Tensor], objective: Any, batch: Any, steps: int) -> dict[str, float]:
    """Bring the parameters to a minimum of the frozen inner loss by L-BFGS; what kind of point that is."""
    params = list(objective.params.values())
    hparams = {name: value.detach() for name, value in objective.hparams.items()}
    optimizer = torch.optim.LBFGS(
        params, max_iter=steps, history_size=50, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = inner(objective.params, hparams, *batch)
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.zero_grad()
    A = Linearization(lambda w, h: inner(w, h, *batch), objective.params, hparams)
    curvature = torch.linalg.eigvalsh(A.dense())
    return {
        "inner_gradient_norm": float(A.gradient.norm()),
        "lambda_min": float(curvature[0]),
        "lambda_max": float(curvature[-1]),
    }
