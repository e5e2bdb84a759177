"""A sub-problem small enough for the ``dense`` solver, on which the rows' hypergradients are compared with it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _models import parameter_count
from _recipe import Recipe
from _rows import Row
from _study import cell_config, first_batch, network, read_images, split

from hypergrad import keys
from hypergrad.estimators.implicit import Implicit
from hypergrad.linearization import Linearization
from hypergrad.objective import ModelObjective
from hypergrad.vision.policies import estimator, learned_policy

#: The oracle's damping, the same as the default of the CG row.
PROBE_DAMPING = 0.01

#: Of the sub-problem: strong enough for L-BFGS to reach a minimum.
PROBE_WEIGHT_DECAY = 0.0015

#: Norm of the gradient at which a point passes for a minimum.
PROBE_GRADIENT = 1e-3


def probe_cells(recipe: Recipe, rows: Sequence[Row], directory: Path | None = None) -> Iterator[dict[str, Any]]:
    """The cosine of every row's hypergradient to that of the ``dense`` solver, where that one is affordable.

    The same network cut to some hundred parameters and made smooth (SiLU), in float64, at a minimum of the inner loss
    of one batch under one draw of the policy's noise: there the Hessian has no negative eigenvalue to speak of, and
    the exact hypergradient is defined.
    (At a point of a running training it is not: with eigenvalues on both sides of 0 the dense solve has any sign.)
    Rows differ in the solve alone: the same batches and noise, the row's own selection gradient on both sides.

    Args:
        recipe: of the study.
        rows: those that learn.
        directory: of the data set's files.
    """
    if not rows:
        return
    key = keys.derive("table5", "probe")
    splits = split(cell_config(recipe, rows[0], key), read_images(recipe, key, directory))
    batches = [first_batch(part, recipe.probe_batch, key, torch.float64) for part in (splits.train, splits.val)]
    weights: dict[str, torch.Tensor] = {}
    point: dict[str, float] = {}
    oracles: dict[str, torch.Tensor] = {}
    for row in rows:
        method = row.madao(stages=recipe.stages, operations=recipe.operations, temperature=recipe.temperature)
        with keys.preserved_rng(torch.device("cpu"), key):
            model = network(splits, widths=recipe.probe_widths, activation="silu").double()
        family = learned_policy(method, splits.channels).double()
        objective = ModelObjective(model, family, weight_decay=PROBE_WEIGHT_DECAY)
        if not weights:
            point = _minimise(objective, key, batches[0], recipe.probe_steps, recipe.probe_rounds)
            weights = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(weights)
        if method.selection not in oracles:
            dense = Implicit(solver="dense", damping=PROBE_DAMPING, on_failure="ignore")
            oracles[method.selection] = _hypergradient(dense, objective, key, batches)
        found = _hypergradient(estimator(method, recipe.lr, 0), objective, key, batches)
        yield {
            "row": row.label,
            "cosine": float(F.cosine_similarity(found, oracles[method.selection], dim=0)),
            **point,
            "parameters": parameter_count(model),
            "hyperparameters": len(found),
        }


def _hypergradient(estimator: Any, objective: ModelObjective, key: int, batches: Sequence[Any]) -> torch.Tensor:
    inner, outer = objective.losses(key)
    found = estimator.estimate(
        inner, outer, objective.params, objective.hparams, inner_batch=batches[0], outer_batch=batches[1]
    )
    return torch.cat([found.grads[name].reshape(-1) for name in sorted(found.grads)])


def _minimise(objective: ModelObjective, key: int, batch: Any, steps: int, rounds: int) -> dict[str, float]:
    """Bring the parameters to a minimum of the frozen inner loss by L-BFGS; what kind of point that is.

    L-BFGS is started anew, up to ``rounds`` times, until the gradient is small: with an old history it can stall beside
    a saddle.
    """
    inner, _ = objective.losses(key)
    params = list(objective.params.values())
    hparams = {name: value.detach() for name, value in objective.hparams.items()}

    def closure() -> torch.Tensor:
        objective.model.zero_grad()
        loss = inner(objective.params, hparams, *batch)
        loss.backward()
        return loss

    for _ in range(rounds):
        optimizer = torch.optim.LBFGS(
            params, max_iter=steps, history_size=50, tolerance_grad=1e-9, tolerance_change=0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip
        optimizer.step(closure)
        closure()
        if torch.cat([p.grad.flatten() for p in params]).norm() < PROBE_GRADIENT:
            break
    objective.model.zero_grad()
    A = Linearization(lambda w, h: inner(w, h, *batch), objective.params, hparams)
    curvature = torch.linalg.eigvalsh(A.dense())
    return {
        "inner_gradient_norm": float(A.gradient.norm()),
        "lambda_min": float(curvature[0]),
        "lambda_max": float(curvature[-1]),
    }
