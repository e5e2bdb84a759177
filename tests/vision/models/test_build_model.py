"""Networks by name and by import path, their options, and what is wrong with what cannot be built."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.vision.models import build_model, model_names, register_model
from hypergrad.vision.models.resnet import ResNet
from hypergrad.vision.models.wide_resnet import WideResNet

BUILT_IN = {
    "densenet", "densenet-bc-40-12", "resnet18", "resnet50", "small-cnn", "wide_resnet", "wrn-16-1", "wrn-28-10",
    "wrn-28-2", "wrn-40-2",
}  # fmt: skip

FOREIGN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, channels=3, scale=1.0):
        super().__init__()
        self.dropout = nn.Dropout()
        self.linear = nn.Linear(channels, num_classes)
        self.norm = nn.BatchNorm1d(channels)
        self.frozen = nn.BatchNorm1d(channels).eval()
        self.scale = scale
    def forward(self, x):
        return self.linear(self.frozen(self.norm(self.dropout((x + 0 * torch.rand(())).mean((2, 3)))))) * self.scale

def sized(num_classes, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(image_size**2, num_classes))

def anything(**kwargs):
    assert set(kwargs) == {"num_classes", "flavour"}, kwargs
    return Net(kwargs["num_classes"])

def needs(num_classes, depth): return Net(num_classes)
def picky(num_classes): raise ValueError("num_classes must be even")
def no_module(num_classes): return [num_classes]
def nothing(): return Net(10)
def colour(num_classes): return nn.Sequential(nn.Conv2d(3, num_classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
def maps(num_classes): return nn.Conv2d(1, num_classes, 1)
def pair(num_classes):
    class Pair(nn.Module):
        def forward(self, x): return x, x
    return Pair()
made = Net(10)
number = 3
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module with networks of somebody else's."""
    (tmp_path / "networks_of_a_test.py").write_text(FOREIGN)
    (tmp_path / "broken_networks.py").write_text("import a_library_that_nobody_has")
    (tmp_path / "syntax_networks.py").write_text("def net(:")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "networks_of_a_test"


def test_names() -> None:
    assert set(model_names()) >= BUILT_IN
    assert model_names() == sorted(model_names())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wide_resnet", {"depth": 10, "width": 1, "norm": "group", "dropout": 0.3}),
        ("wrn-28-2", {"norm": "group"}),
        ("wrn-40-2", {"dropout": 0.3}),
        ("wrn-16-1", {}),
        ("densenet", {"depth": 10, "growth": 4, "compression": 1, "bottleneck": False}),
        ("densenet-bc-40-12", {"norm": "group"}),
        ("small-cnn", {"widths": [4, 4, 4], "activation": "silu"}),  # a list, as a config file has it
        ("resnet18", {"zero_init_last": True}),
    ],
)
def test_options_reach_the_network(name: str, options: dict[str, object]) -> None:
    model = build_model(name, num_classes=6, channels=1, image_size=32, **options)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 6)
    norms = {type(m) for m in model.modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm2d)}
    assert norms == (set() if name == "small-cnn" else {nn.GroupNorm} if "norm" in options else {nn.BatchNorm2d})
    if "dropout" in options:
        assert model.blocks[0].dropout == options["dropout"]


def test_names_and_classes_make_the_same_network() -> None:
    def weights(make: Callable[[], nn.Module]) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        return make().state_dict()

    for name, by_class in {
        "wrn-28-2": lambda: WideResNet(28, 2, 5, 1),
        "resnet18": lambda: ResNet("basic", (2, 2, 2, 2), 5, 1),
    }.items():
        one = weights(lambda name=name: build_model(name, num_classes=5, channels=1, image_size=32))
        other = weights(by_class)
        assert list(one) == list(other)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_registration() -> None:
    @register_model("test-linear")
    def linear(num_classes: int, image_size: int, *, bias: bool = True) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(image_size**2, num_classes, bias))

    assert "test-linear" in model_names()
    assert build_model("test-linear", num_classes=3, channels=1, image_size=4, bias=False)[1].bias is None
    with pytest.raises(InvalidInputError, match="'test-linear' is already taken"):
        register_model("test-linear")(WideResNet)


@pytest.mark.parametrize(
    ("name", "thing", "message"),
    [
        ("", WideResNet, "non-empty string"),
        (3, WideResNet, "non-empty string; got 3"),
        ("a:b", WideResNet, "has no colon, .* got 'a:b'"),
        ("wrn-28-2", WideResNet, "'wrn-28-2' is already taken"),
        ("test-number", 3, "a class or a function; got 3"),
    ],
)
def test_refused_registrations(name: str, thing: object, message: str) -> None:
    before = model_names()
    with pytest.raises(InvalidInputError, match=message):
        register_model(name)(thing)
    assert model_names() == before


def test_import_paths(foreign: str) -> None:
    model = build_model(f"{foreign}:Net", num_classes=5, channels=1, image_size=8, scale=2.0)
    assert (model.linear.in_features, model.linear.out_features, model.scale) == (1, 5, 2.0)
    sized = build_model(f"{foreign}:sized", num_classes=5, channels=1, image_size=6)
    assert sized[1].in_features == 36
    assert build_model(f"{foreign}:anything", num_classes=5, channels=3, image_size=6, flavour=1).scale == 1.0


def test_the_trial_run_leaves_no_trace(foreign: str) -> None:
    def build(path: str) -> tuple[nn.Module, float]:
        torch.manual_seed(0)
        model = build_model(path, num_classes=5, channels=3, image_size=8)
        return model, float(torch.rand(()))

    model, drawn = build(f"{foreign}:Net")
    assert model.training and model.dropout.training and not model.frozen.training
    assert int(model.norm.num_batches_tracked) == 0
    torch.manual_seed(0)
    twin = type(model)(5, 3)
    assert torch.equal(model.linear.weight, twin.linear.weight)
    assert drawn == float(torch.rand(()))


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "wrn-28-3",
            {},
            UnknownNameError,
            r"Unknown network 'wrn-28-3'. Did you mean 'wrn-28-2'\? .*resnet50.*module:N",
        ),
        (None, {}, UnknownNameError, "Unknown network None"),
        (
            "wide_resnet",
            {"depth": 28},
            InvalidInputError,
            "needs the option 'width', .* Options: depth, width, norm, d",
        ),
        ("wrn-28-2", {"depth": 40}, InvalidInputError, r"no option 'depth' \(got depth=40\). Options: norm, dropout"),
        ("wrn-28-2", {"drop": 0.1}, InvalidInputError, r"no option 'drop' .*Did you mean 'dropout'\?"),
        ("small-cnn", {"widths": 16}, InvalidInputError, "widths must be three integers.*; got 16"),
        ("resnet18", {"norm": "layer"}, InvalidInputError, "norm must be 'batch' or 'group'; got 'layer'"),
        ("Net:", {}, InvalidInputError, "'package.module:Name', .* got 'Net:'"),
        (":Net", {}, InvalidInputError, "got ':Net'"),
        ("a:b:c", {}, InvalidInputError, "got 'a:b:c'"),
        ("networks/mine.py:Net", {}, InvalidInputError, "got 'networks/mine.py:Net'"),
        ("no_such_module.here:Net", {}, InvalidInputError, "there is no such module .*no_such_module.* PYTHONPATH"),
        (
            "broken_networks:Net",
            {},
            InvalidInputError,
            "importing it failed .*a_library_that_nobody_has.* Try it alone",
        ),
        ("syntax_networks:Net", {}, InvalidInputError, r"importing it failed \(SyntaxError"),
        ("networks_of_a_test:Nett", {}, InvalidInputError, r"has no 'Nett'. Did you mean 'Net'\?"),
        ("networks_of_a_test:number", {}, InvalidInputError, "is of type int; give a class"),
        ("networks_of_a_test:made", {}, InvalidInputError, "is a network already; give a class"),
        ("networks_of_a_test:nothing", {}, InvalidInputError, r"takes no argument num_classes \(it takes: none\)"),
        ("networks_of_a_test:needs", {}, InvalidInputError, "needs the option 'depth'"),
        ("networks_of_a_test:needs", {"dept": 1}, InvalidInputError, r"no option 'dept' .* Did you mean 'depth'\?"),
        (
            "networks_of_a_test:picky",
            {},
            InvalidInputError,
            r"refused its arguments \(num_classes=10\): num_classes mu",
        ),
        ("networks_of_a_test:no_module", {}, InvalidInputError, "made an object of type list, and must make a torch"),
        (
            "networks_of_a_test:colour",
            {},
            InvalidInputError,
            r"failed on an image of shape \(1, 1, 8, 8\) \(RuntimeErr",
        ),
        ("networks_of_a_test:maps", {}, InvalidInputError, r"scores of shape \(1, 10\) .*; got \(1, 10, 8, 8\)"),
        ("networks_of_a_test:pair", {}, InvalidInputError, "for one image; got tuple"),
    ],
)
def test_errors(foreign: str, name: str, options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        build_model(name, num_classes=10, channels=1, image_size=8 if name != "resnet18" else 32, **options)
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


@pytest.mark.parametrize("argument", ["num_classes", "channels", "image_size"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "3", True, None])
def test_refused_shapes_of_the_data(argument: str, value: object) -> None:
    given = {"num_classes": 10, "channels": 1, "image_size": 32} | {argument: value}
    with pytest.raises(InvalidInputError, match=f"{argument} must be an integer of at least 1; got {value!r}"):
        build_model("small-cnn", **given)
