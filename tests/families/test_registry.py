"""Families by name, and a third party's family in one file from outside the package."""

import importlib.util
import sys
import textwrap

import pytest
import torch
from torch import nn

from hypergrad import families
from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.families import Context, HyperparameterFamily
from hypergrad.families.sample_weights import SampleWeights
from hypergrad.families.weight_decay import WeightDecay
from hypergrad.testing.families import check_family

THIRD_PARTY = '''
"""A learned scale and shift of the inputs, by somebody else."""
import torch
from torch import nn

from hypergrad.families import HyperparameterFamily, register_family


@register_family("affine_inputs")
class AffineInputs(HyperparameterFamily):
    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.shift = nn.Parameter(torch.tensor(shift))

    def transform(self, inputs, targets, ctx):
        return inputs * self.log_scale.exp() + self.shift, targets
'''


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """The family's module, imported from a file, and forgotten afterwards."""
    monkeypatch.setattr(families._registry, "_entries", dict(families._registry._entries))
    path = tmp_path / "affine_inputs_of_a_stranger.py"
    path.write_text(textwrap.dedent(THIRD_PARTY))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def test_a_third_party_family_is_one_file(third_party):
    family = families.get("affine_inputs", shift=0.25)
    assert type(family) is third_party.AffineInputs
    assert family.values()["shift"].item() == 0.25
    assert "affine_inputs" in families.names()
    check_family(family, torch.randn(4, 3), torch.tensor([0, 1, 1, 0]), model=nn.Linear(3, 2), value_range=(-9, 9))
    with pytest.raises(InvalidInputError, match=r"no option 'shfit'.*Did you mean 'shift'.*Options: shift"):
        families.get("affine_inputs", shfit=1.0)


def test_builtins_are_found_by_name():
    assert {"madao", "sample_weights", "weight_decay"} <= set(families.names())
    assert type(families.get("weight_decay", model=nn.Linear(2, 1), per="layer")) is WeightDecay
    assert type(families.get("sample_weights", num_samples=3)) is SampleWeights


def test_an_object_passes_through():
    family = SampleWeights(3)
    assert families.get(family) is family


class _NoConstructor(HyperparameterFamily):
    def penalty(self, params):
        return super().penalty(params)


class _TakesAnything(HyperparameterFamily):
    def __init__(self, **options):
        super().__init__()
        self.options = options


@pytest.fixture
def extra(monkeypatch):
    monkeypatch.setattr(families._registry, "_entries", dict(families._registry._entries))
    families.register_family("no_constructor")(_NoConstructor)
    families.register_family("takes_anything")(_TakesAnything)


def test_a_family_without_a_constructor_has_no_options(extra):
    assert isinstance(families.get("no_constructor"), _NoConstructor)
    with pytest.raises(InvalidInputError, match=r"no option 'rate'.*Options: none"):
        families.get("no_constructor", rate=1)


def test_keyword_arguments_stay_open(extra):
    assert families.get("takes_anything", depth=3).options == {"depth": 3}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: families.get("weight_decya"), UnknownNameError, r"Did you mean 'weight_decay'.*Registered: .*madao"),
        (
            lambda: families.get("weight_decay", model=nn.Linear(1, 1), prr="layer"),
            InvalidInputError,
            r"no option 'prr' \(got prr='layer'\).*Did you mean 'per'.*Options: model, per, initial, skip_1d",
        ),
        (lambda: families.get("sample_weights"), InvalidInputError, "needs the option 'num_samples'"),
        (lambda: families.get(SampleWeights), InvalidInputError, "instance of a HyperparameterFamily"),
        (lambda: families.get(nn.Linear(1, 1)), InvalidInputError, "instance of a HyperparameterFamily"),
        (
            lambda: families.get(SampleWeights(2), initial=1.0),
            InvalidInputError,
            r"\['initial'\] were given beside the family SampleWeights",
        ),
        (lambda: families.register_family("linear")(nn.Linear), InvalidInputError, "subclass of HyperparameterFamily"),
        (lambda: families.register_family("weight_decay")(SampleWeights), InvalidInputError, "already taken"),
        (lambda: families.register_family(""), InvalidInputError, "non-empty string"),
    ],
)
def test_error_inputs(call, error, message):
    with pytest.raises(error, match=message):
        call()
    assert "linear" not in families.names()


def test_a_misspelt_hook_is_refused_when_the_class_is_defined():
    with pytest.raises(
        InvalidInputError, match=r"Typo\.transfrom is not a hook.*Did you mean 'transform'.*Hooks: transform"
    ):

        class Typo(HyperparameterFamily):
            def transfrom(self, inputs, targets, ctx):
                return inputs, targets


def test_the_context_is_frozen():
    ctx = Context(key=1, index=None, soft=True, training=True)
    with pytest.raises(AttributeError):
        ctx.key = 2
