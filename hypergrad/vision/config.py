"""What a training run is: one model of every setting, with unit and default, and the named recipes."""

from typing import Any, Literal

from pydantic import Field, model_validator

from hypergrad.errors import UnknownNameError
from hypergrad.failures import OnNonFinite
from hypergrad.registry import closest
from hypergrad.vision.methods import (
    AutoAugment,
    AutoAugmentSearch,
    FastAutoAugment,
    FasterAutoAugment,
    Fixed,
    Madao,
    Method,
    OhlAutoAugment,
    RandAugment,
    SavedPolicy,
    Space,
    Standard,
    TrivialAugment,
)
from hypergrad.vision.sections import DataConfig, ModelConfig, Section, StandardConfig, Value

__all__ = [
    "RECIPES",
    "AutoAugment",
    "AutoAugmentSearch",
    "DataConfig",
    "FastAutoAugment",
    "FasterAutoAugment",
    "Fixed",
    "Madao",
    "Method",
    "ModelConfig",
    "OhlAutoAugment",
    "RandAugment",
    "SavedPolicy",
    "Section",
    "Space",
    "Standard",
    "StandardConfig",
    "TrainConfig",
    "TrivialAugment",
    "Value",
    "recipe",
]


class TrainConfig(Section):
    """A training run."""

    recipe: str | None = Field(None, description="Named settings that this configuration starts from.")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    standard: StandardConfig = StandardConfig()
    method: Method = Madao()
    epochs: int = Field(30, ge=1, description="Passes over the training images.")
    batch_size: int = Field(64, ge=1, description="Images a step.")
    lr: float = Field(0.05, gt=0, description="Highest learning rate of SGD.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    nesterov: bool = Field(True, description="Nesterov's momentum.")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty, half of it times |w|^2 is part of the loss.")
    warmup_epochs: float = Field(0.0, ge=0, description="Passes in which the learning rate rises from 0.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the inner steps' forward pass (autocast); updates of the policy are in float32."
    )
    on_nonfinite: OnNonFinite = Field(
        "raise",
        description="At a NaN or an infinity: raise; skip: leave the step out; halve: skip, and alpha / 2 for a solve.",
    )
    channels_last: bool = Field(False, description="Memory format of images and network.")
    compile: bool = Field(False, description="torch.compile of the network in the inner steps.")
    device: str = Field("auto", description="cpu, cuda, cuda:1; auto: a GPU where there is one.")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; none: torch's choice.")
    eval_batch_size: int = Field(500, ge=1, description="Images at a time in evaluation.")
    seed: int = Field(0, ge=0, description="Of initialisation, split, order and noise.")

    @model_validator(mode="after")
    def _possible(self) -> "TrainConfig":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0; give nesterov: false")
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs must be at most epochs ({self.epochs}); got {self.warmup_epochs}")
        return self


_PAPER: dict[str, Any] = {
    "data": {"validation": 0.1},
    "model": {"name": "wrn-28-2"},
    "standard": {"crop": 4},
    "method": {
        "name": "madao", "selection": "relaxed", "every": 60, "warmup": 0.1, "lr": 1e-2, "optimizer": "rmsprop",
        "solver": "neumann", "solver_options": {"alpha": 1e-3, "num_hvps": 5},
    },
    "epochs": 300, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, "warmup_epochs": 5,
}  # fmt: skip
_FINE: dict[str, Any] = {
    **_PAPER,
    "data": {"validation": 0.1, "image_size": 256},
    "model": {"name": "resnet18"},
    "standard": {"crop": 0, "resized_crop": 224},
    "epochs": 200,
}

#: Name to settings. What the paper leaves open (marked) is taken from its authors' code.
RECIPES: dict[str, dict[str, Any]] = {
    # Section 5.1; batch size, learning rate, decay and learning-rate warm-up are the authors' code's.
    "paper-cifar10": {**_PAPER, "data": {"name": "cifar10", "validation": 0.1}},
    "paper-cifar100": {**_PAPER, "data": {"name": "cifar100", "validation": 0.1}},
    "paper-svhn": {**_PAPER, "data": {"name": "svhn", "validation": 0.1}, "epochs": 160},
    "paper-imagenet": {
        **_FINE,
        "data": {"name": "imagenet", "validation": 0.01, "image_size": 256},
        "model": {"name": "resnet50"},
        "epochs": 180,
        "weight_decay": 1e-4,
    },
    # Section 5.2 leaves the schedule open where it says "ImageNet preprocessing": learning rate and decay as above.
    "paper-flowers": {**_FINE, "data": {"name": "flowers102", "image_size": 256}},
    "paper-pets": {**_FINE, "data": {"name": "pets", "validation": 0.1, "image_size": 256}},
    "paper-aircraft": {**_FINE, "data": {"name": "aircraft", "image_size": 256}},
    "paper-cars": {**_FINE, "data": {"name": "cars", "validation": 0.1, "image_size": 256}},
    # Minutes on a CPU: the rotated study's settings of benchmarks/table5.py, on the digits.
    "cpu": {
        "data": {"name": "digits"},
        "model": {"name": "small-cnn"},
        "method": {"name": "madao", "every": 5, "lr": 0.03, "solver_options": {"alpha": "auto"}},
        "epochs": 60, "batch_size": 32, "lr": 0.05, "threads": 1,  # images this small: a second thread only waits
    },
    # A few thousand small images: benchmarks/study.py, whose settings of MADAO had the lowest validation error of seven
    # on rotated Fashion-MNIST, on two seeds of their own (benchmarks/results/recipe-fashion-mnist-rotated.md).
    "short": {
        "model": {"name": "small-cnn"},
        "method": {
            "name": "madao", "every": 3, "warmup": 0.1, "optimizer": "rmsprop", "lr": 0.03,
            "solver": "neumann", "solver_options": {"alpha": "auto", "num_hvps": 5},
        },
        "epochs": 40, "batch_size": 64, "lr": 0.05,
    },
}  # fmt: skip


def recipe(name: str) -> dict[str, Any]:
    """The settings of a named recipe.

    Raises:
        UnknownNameError: no recipe of that name.
    """
    if name not in RECIPES:
        raise UnknownNameError(
            f"Unknown recipe {name!r}.{closest(str(name), list(RECIPES))} There are: {', '.join(RECIPES)}."
        )
    return RECIPES[name]
