"""One cell of a study: a network trained with one row's policy on one seed, and everything worth recording of it."""

import functools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _recipe import Recipe
from _rows import Row
from torch import nn

from hypergrad import keys
from hypergrad.errors import NonFiniteError
from hypergrad.memory import peak_memory
from hypergrad.objective import ModelObjective
from hypergrad.stepper import HyperStepper
from hypergrad.vision import policies
from hypergrad.vision.config import DataConfig, Fixed, Madao, ModelConfig, Standard, StandardConfig, TrainConfig
from hypergrad.vision.data import Dataset, read_dataset
from hypergrad.vision.models import build_model
from hypergrad.vision.models.normalised import Normalised
from hypergrad.vision.splits import Part, Splits, make_splits
from hypergrad.vision.training import train

NETWORK = "small-cnn"

#: Called with the number of steps that were done since the last call.
Report = Callable[[int], None]


def read_images(recipe: Recipe, seed: int, directory: Path | None) -> Dataset:
    """The data set; of the digits, which have no published test images, as many as the recipe tests are drawn."""
    name = recipe.data.partition(":")[0]
    if name == "digits":
        return read_dataset(name, test_share=recipe.sizes[2], split_seed=seed)
    return read_dataset(name, directory)


def cell_config(recipe: Recipe, row: Row, seed: int) -> TrainConfig:
    """The run of a cell; the rows of a seed differ in the method alone."""
    train_size, validation, test_size = recipe.sizes
    space: dict[str, Any] = {"stages": recipe.stages, "operations": recipe.operations}
    method: Standard | Fixed | Madao
    if row.name == "none":
        method = Standard()
    elif row.name == "fixed":
        method = Fixed(**space)
    else:
        method = row.madao(
            **space,
            temperature=recipe.temperature,
            every=recipe.every,
            warmup=recipe.warmup_fraction,
            optimizer="rmsprop",
            lr=recipe.outer_lr,
            val_batch_size=recipe.val_batch_size,
        )
    return TrainConfig(
        data=DataConfig(
            name=recipe.data.partition(":")[0],
            train_size=train_size,
            validation=validation,
            test_size=test_size,
            shift_degrees=recipe.max_angle,
            workers=0,
        ),
        model=ModelConfig(name=NETWORK),
        standard=StandardConfig(crop=0, flip=False),
        method=method,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=True,
        weight_decay=recipe.weight_decay,
        device="cpu",
        seed=seed,
    )


def split(config: TrainConfig, dataset: Dataset) -> Splits:
    """The splits that the run of ``config`` has.

    Raises:
        InvalidInputError: there are too few images.
    """
    return make_splits(config.data, keys.derive(config.seed, "data"), dataset)


def network(splits: Splits, **options: Any) -> nn.Module:
    """The study's network, with normalisation; weights are a function of torch's global random state."""
    size = {"num_classes": len(splits.classes), "channels": splits.channels, "image_size": splits.side}
    return Normalised(build_model(NETWORK, **size, **options), splits.mean, splits.std)


@dataclass
class _Outer:
    """What the outer steps of a run add up to."""

    recipe: Recipe
    updates: int = 0
    matvecs: int = 0
    residuals: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    trace: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: Any, policy: Any) -> None:
        self.updates += 1
        self.matvecs += record.matvecs
        if record.residual is not None and math.isfinite(record.residual):
            self.residuals.append(record.residual)
        if record.status is not None:
            self.statuses[record.status.value] += 1
        watched = self.recipe.watched
        if watched is not None and record.outer_step % 8 == 0:
            pi = policy.values()["pi"].mean(dim=0)
            at = self.recipe.operations.index(watched)
            self.trace.append({"step": record.inner_step, "pi": round(float(pi[at]), 4)})


def train_cell(
    recipe: Recipe, row: Row, seed: int, dataset: Dataset, report: Report = lambda done: None
) -> dict[str, Any]:
    """Train one network and describe the run in plain values.

    A run whose losses stop being finite is a result: it has ``"failure"`` with the message, and no test error, time or
    final policy.
    """
    config = cell_config(recipe, row, seed)
    outer, result, failure = _Outer(recipe), None, None
    memory = _memory(config, split(config, dataset)) if row.learns else {"plain": None, "outer": None}
    try:
        result = train(
            config,
            dataset=dataset,
            progress=False,
            on_epoch=lambda epoch: report(recipe.steps // recipe.epochs),
            on_update=outer.add,
        )
    except NonFiniteError as error:
        failure = str(error)
    return {
        "row": row.label,
        "seed": seed,
        "test_error": result.test.error if result else None,
        "val_error": result.val.error if result else None,
        "train_loss": result.history[-1].train_loss if result else None,
        "failure": failure,
        "steps": recipe.steps,
        "updates": outer.updates,
        "matvecs": outer.matvecs,
        "residual": sum(outer.residuals) / len(outer.residuals) if outer.residuals else None,
        "statuses": dict(outer.statuses),
        "policy": {k: _plain(v) for k, v in result.policy.values().items()} if result and result.policy else None,
        "trace": outer.trace,
        "seconds": result.seconds if result else None,
        "cpu_seconds": result.cpu_seconds if result else None,
        "memory": memory,
    }


def _plain(value: torch.Tensor) -> list[list[float]]:
    return [[round(x, 4) for x in stage] for stage in value.double().tolist()]


def first_batch(part: Part, size: int, seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Images in [0, 1], targets and positions of a part's first batch."""
    (positions,) = part.order(size, seed).batch(0)
    images, targets = part.draw(positions)
    return images.to(dtype) / 255, targets, positions


def _memory(config: TrainConfig, splits: Splits) -> dict[str, int | None]:
    """Peak bytes of one plain training step (forward and backward) and of one outer step, counted the same way."""
    method = config.method
    assert isinstance(method, Madao) and method.val_batch_size is not None
    family = policies.learned_policy(method, splits.channels)
    with keys.preserved_rng(torch.device("cpu"), config.seed):
        objective = ModelObjective(network(splits), family, weight_decay=config.weight_decay)
    stepper = HyperStepper(
        objective,
        functools.partial(torch.optim.SGD, lr=config.lr),
        estimator=policies.estimator(method, config.lr, config.seed),
    )
    batch = first_batch(splits.train, config.batch_size, config.seed)
    with peak_memory() as plain:
        stepper.loss(batch).backward()
    objective.model.zero_grad()
    larger = (
        batch if method.outer_batch_size is None else first_batch(splits.train, method.outer_batch_size, config.seed)
    )
    val = first_batch(splits.val, method.val_batch_size, config.seed)
    return {"plain": plain.bytes, "outer": stepper.preflight(larger, val).memory}
