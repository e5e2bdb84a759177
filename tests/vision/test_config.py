"""The settings: strict, bounded, documented, and the named recipes."""

import typing

import pytest
from pydantic import BaseModel, ValidationError

from hypergrad.errors import UnknownNameError
from hypergrad.vision.config import RECIPES, Madao, Section, TrainConfig, recipe


def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    """The model and every model below it."""
    found = {model}
    for field in model.model_fields.values():
        for part in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= sections(part)
    return found


def test_every_field_is_documented_and_every_section_is_strict() -> None:
    models = sections(TrainConfig)
    assert {m.__name__ for m in models} >= {"DataConfig", "ModelConfig", "StandardConfig", "Madao", "RandAugment"}
    for model in models:
        assert issubclass(model, Section)
        assert model.__doc__
        for name, field in model.model_fields.items():
            nested = name in ("data", "model", "standard", "method") and model is TrainConfig
            assert nested or name == "name" or field.description, f"{model.__name__}.{name} says nothing"
            assert field.description is None or field.description.endswith(".")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid(name: str) -> None:
    assert TrainConfig(**recipe(name)).epochs >= 1


def test_the_paper_s_recipe_has_the_paper_s_numbers() -> None:
    config = TrainConfig(**recipe("paper-cifar10"))
    assert isinstance(config.method, Madao)
    assert config.method.solver_options == {"alpha": 1e-3, "num_hvps": 5}
    # 30 of 300 epochs without an update, then one every 60 steps; a tenth is validation; RMSprop at 1e-2.
    assert config.method.warmup * config.epochs == pytest.approx(30)
    assert (config.method.every, config.method.lr, config.method.optimizer) == (60, 1e-2, "rmsprop")
    assert (config.data.validation, config.method.stages, config.method.selection) == (0.1, 2, "relaxed")
    assert TrainConfig(**recipe("paper-svhn")).epochs == 160
    imagenet = TrainConfig(**recipe("paper-imagenet"))
    assert (imagenet.epochs, imagenet.data.validation, imagenet.model.name) == (180, 0.01, "resnet50")


def test_it_survives_json() -> None:
    for name in RECIPES:
        config = TrainConfig(**recipe(name))
        assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"epoch": 3}, ("epoch",)),
        ({"epochs": 0}, ("epochs",)),
        ({"lr": -1}, ("lr",)),
        ({"data": {"validation": 0}}, ("data", "validation")),
        ({"data": {"nmae": "digits"}}, ("data", "nmae")),
        ({"model": {"options": {"channels": 3}}}, ("model", "options")),
        ({"method": {"name": "madoa"}}, ("method",)),
        ({"method": {"name": "madao", "warmup": 1.0}}, ("method", "madao", "warmup")),
        ({"method": {"name": "randaugment", "magnitude": 30}}, ("method", "randaugment")),
        ({"momentum": 0}, ()),
        ({"epochs": 3, "warmup_epochs": 4}, ()),
    ],
)
def test_what_is_refused(settings: dict[str, object], place: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainConfig(**settings)
    assert caught.value.errors()[0]["loc"] == place


def test_a_configuration_does_not_change() -> None:
    config = TrainConfig()
    with pytest.raises(ValidationError):
        config.epochs = 3


def test_an_unknown_recipe() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'paper-cifar10'"):
        recipe("paper-cifar")
