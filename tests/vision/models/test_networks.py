"""The networks: parameter counts, slow twins by definition, map sizes, second derivatives, initialisation, errors."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hypergrad.errors import InvalidInputError
from hypergrad.vision.models import build_model
from hypergrad.vision.models.densenet import DenseNet
from hypergrad.vision.models.layers import norm_layer
from hypergrad.vision.models.resnet import ResNet
from hypergrad.vision.models.small_cnn import SmallCNN
from hypergrad.vision.models.wide_resnet import WideResNet

# One of each kind, as small as its kind goes: name, image size and how it is made.
TINY: dict[str, tuple[int, Callable[..., nn.Module]]] = {
    "wide resnet": (8, lambda channels, norm: WideResNet(10, 1, 4, channels, norm)),
    "densenet-bc": (8, lambda channels, norm: DenseNet(16, 6, 4, channels, norm=norm)),
    "densenet": (8, lambda channels, norm: DenseNet(10, 4, 4, channels, 1.0, False, norm)),
    "resnet, basic": (32, lambda channels, norm: ResNet("basic", (1, 1, 1, 1), 4, channels, norm)),
    "resnet, bottleneck": (32, lambda channels, norm: ResNet("bottleneck", (1, 1, 1, 1), 4, channels, norm)),
    "small cnn": (9, lambda channels, norm: SmallCNN(4, channels, 9, widths=(4, 5, 6))),
}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [
        ("wrn-28-2", 10, 1.468),
        ("wrn-40-2", 10, 2.244),
        ("wrn-28-10", 10, 36.479),
        ("densenet-bc-40-12", 10, 0.176),
        ("resnet18", 1000, 11.690),
        ("resnet50", 1000, 25.557),
    ],
)
def test_published_parameter_counts(name: str, classes: int, millions: float) -> None:
    with torch.device("meta"):
        model = build_model(name, num_classes=classes, channels=3, image_size=224)
    assert round(count(model) / 1e6, 3) == millions


def test_parameter_counts_in_closed_form() -> None:
    # 3x3 kernels with biases, and a linear layer over ceil(28 / 8)^2 = 16 places.
    assert count(SmallCNN()) == 16 * 10 + 32 * (9 * 16 + 1) + 16 * (9 * 32 + 1) + 10 * (16 * 16 + 1) == 11_994
    assert count(SmallCNN(7, 3, 33, widths=(2, 3, 5))) == 2 * 28 + 3 * 19 + 5 * 28 + 7 * (5 * 25 + 1)

    # WRN-16-k: per group one block that widens (with a 1x1 shortcut) and one that does not.
    def wrn_16(k: int, channels: int) -> int:
        total, inputs = 9 * 16 * channels, 16
        for outputs in (16 * k, 32 * k, 64 * k):
            shortcut = 0 if inputs == outputs else inputs * outputs
            total += 9 * inputs * outputs + shortcut + 27 * outputs**2 + 2 * inputs + 6 * outputs
            inputs = outputs
        return total + 2 * inputs + 10 * (inputs + 1)

    assert count(WideResNet(16, 1)) == wrn_16(1, 3)
    assert count(WideResNet(16, 3, channels=1)) == wrn_16(3, 1)

    # Plain DenseNet-40, growth 12: twelve layers a block, from 16 maps, transitions that keep all maps.
    total, maps = 9 * 3 * 16, 16
    for block in range(3):
        if block:
            total += 2 * maps + maps * maps
        for _ in range(12):
            total, maps = total + 2 * maps + 9 * maps * 12, maps + 12
    assert maps == 448
    assert count(DenseNet(40, 12, compression=1.0, bottleneck=False)) == total + 2 * maps + 10 * (maps + 1)


def normed(x: Tensor, p: dict[str, Tensor], name: str, groups: int) -> Tensor:
    """Norm by definition, from its parameters; group norm where there are no running statistics."""
    shape = (1, -1, 1, 1)
    if f"{name}.running_mean" in p:
        mean, var = p[f"{name}.running_mean"].view(shape), p[f"{name}.running_var"].view(shape)
        x = (x - mean) / (var + 1e-5).sqrt()
    else:
        grouped = x.view(len(x), groups, -1)
        mean, var = grouped.mean(2, True), grouped.var(2, correction=0, keepdim=True)
        x = ((grouped - mean) / (var + 1e-5).sqrt()).view(x.shape)
    return x * p[f"{name}.weight"].view(shape) + p[f"{name}.bias"].view(shape)


def conv(x: Tensor, p: dict[str, Tensor], name: str, stride: int = 1) -> Tensor:
    weight = p[f"{name}.weight"]
    return F.conv2d(x, weight, p.get(f"{name}.bias"), stride, padding=weight.shape[2] // 2)


def twin_wide_resnet(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    x = conv(x, p, "stem")
    for block, stride in enumerate((1, 2, 2)):
        b = f"blocks.{block}"
        h = normed(x, p, f"{b}.norm1", 8).relu()
        x = conv(h, p, f"{b}.shortcut", stride) if f"{b}.shortcut.weight" in p else x
        x = x + conv(normed(conv(h, p, f"{b}.conv1", stride), p, f"{b}.norm2", 8).relu(), p, f"{b}.conv2")
    return normed(x, p, "norm", 8).relu().mean((2, 3)) @ p["linear.weight"].T + p["linear.bias"]


def twin_densenet_bc(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    # Depth 16, growth 6: two layers a block, maps 12, 18, 24 | 12, 18, 24 | 12, 18, 24; groups divide them.
    x = conv(x, p, "stem")
    for position in range(8):
        b = f"blocks.{position}"
        if position in (2, 5):
            x = conv(normed(x, p, f"{b}.norm", 8).relu(), p, f"{b}.conv")
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        else:
            h = conv(normed(x, p, f"{b}.norm1", 6).relu(), p, f"{b}.conv1")
            x = torch.cat([x, conv(normed(h, p, f"{b}.norm2", 8).relu(), p, f"{b}.conv2")], 1)
    return normed(x, p, "norm", 8).relu().mean((2, 3)) @ p["linear.weight"].T + p["linear.bias"]


def twin_resnet(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    x = normed(conv(x, p, "conv1", 2), p, "bn1", 32).relu()
    x = F.unfold(F.pad(x, (1, 1, 1, 1)), 3, stride=2).view(len(x), 64, 9, -1).amax(2).view(len(x), 64, 8, 8)
    for group in range(1, 5):
        b, stride = f"layer{group}.0", 1 if group == 1 else 2
        deep = f"{b}.conv3.weight" in p
        h = normed(conv(x, p, f"{b}.conv1", 1 if deep else stride), p, f"{b}.bn1", 32).relu()
        h = normed(conv(h, p, f"{b}.conv2", stride if deep else 1), p, f"{b}.bn2", 32)
        if deep:
            h = normed(conv(h.relu(), p, f"{b}.conv3"), p, f"{b}.bn3", 32)
        if f"{b}.downsample.0.weight" in p:
            x = normed(conv(x, p, f"{b}.downsample.0", stride), p, f"{b}.downsample.1", 32)
        x = (x + h).relu()
    return x.mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"]


def twin_small_cnn(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    for name in ("conv1", "conv2", "conv3"):
        x = conv(x, p, name, 2).relu()
    return x.flatten(1) @ p["linear.weight"].T + p["linear.bias"]


TWINS = {
    "wide resnet": twin_wide_resnet,
    "densenet-bc": twin_densenet_bc,
    "resnet, basic": twin_resnet,
    "resnet, bottleneck": twin_resnet,
    "small cnn": twin_small_cnn,
}


def made(name: str, channels: int, norm: str) -> tuple[nn.Module, Tensor]:
    """A tiny network in float64 whose norms are not the identity, and three images."""
    size, make = TINY[name]
    model = make(channels, norm).double().eval()
    for key, tensor in model.state_dict().items():
        if "norm" in key or "bn" in key or "downsample.1" in key:
            if key.endswith("running_var") or key.endswith("weight"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.1)
    return model, torch.randn(3, channels, size, size, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", TWINS)
def test_a_network_equals_its_definition(name: str, norm: str) -> None:
    model, images = made(name, 3, norm)
    with torch.no_grad():
        expected = TWINS[name](images, model.state_dict())
        scale = expected.abs().max()
        assert (model(images) - expected).abs().max() < 1e-10 * scale


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", TINY)
def test_hessian_vector_products_equal_central_differences(name: str, norm: str) -> None:
    model, images = made(name, 1, norm)
    targets = torch.tensor([0, 1, 2])
    params = {key: p.detach() for key, p in model.named_parameters()}
    vector = {key: torch.randn_like(p) * p.abs().mean() for key, p in params.items()}

    def loss(at: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(model, at, (images,)), targets)

    def gradient(at: dict[str, Tensor], graph: bool = False) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        at = {key: p.requires_grad_() for key, p in at.items()}
        return at, torch.autograd.grad(loss(at), tuple(at.values()), create_graph=graph)

    at, first = gradient({key: p.clone() for key, p in params.items()}, graph=True)
    product = torch.autograd.grad(first, tuple(at.values()), tuple(vector.values()))
    step = 1e-7
    up, down = ([p + s * step * vector[k] for k, p in params.items()] for s in (1, -1))
    plus = gradient(dict(zip(params, up, strict=True)))[1]
    minus = gradient(dict(zip(params, down, strict=True)))[1]
    numeric = [(a - b) / (2 * step) for a, b in zip(plus, minus, strict=True)]
    size = math.sqrt(sum(float(n.square().sum()) for n in numeric))
    error = math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(product, numeric, strict=True)))
    assert size > 1e-3
    assert error < 1e-5 * size

    reverse_over_reverse = torch.func.vjp(torch.func.grad(loss), params)[1](vector)[0]
    for a, b in zip(product, reverse_over_reverse.values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10 * size)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "sizes", "options"),
    [
        ("wide_resnet", (8, 28, 32, 33, 64), {"depth": 10, "width": 1}),
        ("wrn-16-1", (28, 32), {}),
        ("densenet", (8, 28, 32, 33, 64), {"depth": 10, "growth": 4}),
        ("densenet-bc-40-12", (32,), {}),
        ("resnet18", (17, 32, 64), {}),
        ("small-cnn", (8, 9, 16, 28, 32, 64), {"activation": "silu"}),
    ],
)
def test_every_size_and_number_of_channels_gives_scores(
    name: str, sizes: tuple[int, ...], options: dict[str, object], channels: int, training: bool
) -> None:
    for size in sizes:
        model = build_model(name, num_classes=7, channels=channels, image_size=size, **options).train(training)
        scores = model(torch.randn(2, channels, size, size))
        assert scores.shape == (2, 7)
        assert bool(scores.isfinite().all())


def map_sizes(model: nn.Module, size: int, parts: list[str]) -> list[tuple[int, int]]:
    """Channels and side of what the named parts give, by a run without values."""
    found: list[tuple[int, int]] = []
    for part in parts:
        model.get_submodule(part).register_forward_hook(lambda m, i, out: found.append((out.shape[1], out.shape[2])))
    with torch.device("meta"):
        model.to("meta")(torch.empty(2, 3, size, size))
    return found


def test_map_sizes() -> None:
    wide = WideResNet(28, 2)
    parts = ["stem", "blocks.0", "blocks.3", "blocks.4", "blocks.7", "blocks.8", "blocks.11"]
    assert map_sizes(wide, 32, parts) == [(16, 32), (32, 32), (32, 32), (64, 16), (64, 16), (128, 8), (128, 8)]
    dense = DenseNet(40, 12)
    parts = ["stem", "blocks.5", "blocks.6", "blocks.12", "blocks.13", "blocks.19"]
    # 24 + 6 x 12 = 96, half is 48; + 72 = 120, half is 60; + 72 = 132.
    assert map_sizes(dense, 32, parts) == [(24, 32), (96, 32), (48, 16), (120, 16), (60, 8), (132, 8)]
    parts = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    assert map_sizes(ResNet("basic", (2, 2, 2, 2)), 224, parts) == [(64, 112), (64, 56), (128, 28), (256, 14), (512, 7)]
    deep = ResNet("bottleneck", (3, 4, 6, 3))
    assert map_sizes(deep, 224, parts) == [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)]


def test_strides_are_in_the_3x3_convolutions() -> None:
    deep = ResNet("bottleneck", (3, 4, 6, 3))
    strided = {n for n, m in deep.named_modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)}
    groups = {f"layer{g}.0.{part}" for g in (2, 3, 4) for part in ("conv2", "downsample.0")}
    assert strided == {"conv1"} | groups
    wide = WideResNet(16, 2)
    strided = {n for n, m in wide.named_modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)}
    assert strided == {f"blocks.{b}.{part}" for b in (2, 4) for part in ("conv1", "shortcut")}


def test_torchvision_s_parameter_names() -> None:
    own = build_model("resnet50", num_classes=10, channels=3, image_size=32).state_dict()
    expected = {"conv1.weight", "fc.weight", "fc.bias"}
    norms = ["bn1"]
    for group, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            prefix = f"layer{group}.{block}"
            expected |= {f"{prefix}.conv{i}.weight" for i in (1, 2, 3)}
            norms += [f"{prefix}.bn{i}" for i in (1, 2, 3)]
        expected.add(f"layer{group}.0.downsample.0.weight")
        norms.append(f"layer{group}.0.downsample.1")
    entries = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert set(own) == expected | {f"{norm}.{entry}" for norm in norms for entry in entries}


def test_shortcuts() -> None:
    x = torch.randn(2, 16, 8, 8)
    plain, widening = WideResNet(16, 1).eval().blocks[1], WideResNet(16, 2).eval().blocks[0]
    for block in (plain, widening):
        nn.init.zeros_(block.conv2.weight)
    assert plain.shortcut is None
    assert torch.equal(plain(x), x)
    # Where the width changes, the shortcut sees the activation, not the input.
    assert torch.equal(widening(x), widening.shortcut(F.relu(widening.norm1(x))))
    assert not torch.allclose(widening(x), widening.shortcut(x))


@pytest.mark.parametrize(("block", "width"), [("basic", 64), ("bottleneck", 256)])
def test_zero_init_last_makes_a_block_the_identity(block: str, width: int) -> None:
    x = torch.rand(2, width, 8, 8)
    for zero in (True, False):
        model = ResNet(block, (2, 1, 1, 1), zero_init_last=zero)
        assert torch.equal(model.layer1[1](x), x) is zero


@pytest.mark.parametrize("name", TINY)
def test_every_corner_of_the_image_and_every_parameter_counts(name: str) -> None:
    model, images = made(name, 3, "batch")
    images.requires_grad_()
    model(images).square().sum().backward()
    for row in (0, -1):
        for column in (0, -1):
            assert bool((images.grad[:, :, row, column] != 0).any(0).all())
    for key, p in model.named_parameters():
        assert bool((p.grad != 0).any()), key


@pytest.mark.parametrize("name", TINY)
def test_the_seed_determines_the_weights(name: str) -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in TINY[name][1](3, "batch").parameters()])

    first = weights(3)
    assert torch.equal(first, weights(3))
    assert not torch.equal(first, weights(4))


@pytest.mark.parametrize(
    "make", [lambda: WideResNet(10, 4), lambda: DenseNet(16, 12), lambda: ResNet("basic", (1, 1, 1, 1), 10)]
)
def test_initialisation(make: Callable[[], nn.Module]) -> None:
    model = make()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            n = module.weight.numel()
            std = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            # The sample's standard deviation has the relative error 1 / sqrt(2 n); five of them.
            assert abs(float(module.weight.detach().std()) / std - 1) < 5 / math.sqrt(2 * n)
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all()) and bool((module.bias == 0).all())
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            assert 0.9 * bound < float(module.weight.detach().abs().max()) <= bound
            assert bool((module.bias == 0).all()) is not isinstance(model, ResNet)


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_autocast(name: str) -> None:
    model, images = made(name, 3, "group")
    model, images = model.float(), images.float()
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = model(images)
    assert scores.dtype == torch.bfloat16
    assert 0 < float((scores.float() - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("name", [name for name in TINY if name != "small cnn"])
def test_group_norm_ignores_the_rest_of_the_batch(name: str) -> None:
    for norm in ("group", "batch"):
        model, images = made(name, 3, norm)
        alone, together = model.train()(images[:2])[0], model(images)[0]
        assert torch.allclose(alone, together, rtol=1e-9) is (norm == "group")


@pytest.mark.parametrize(("channels", "groups"), [(16, 8), (12, 6), (24, 8), (7, 7), (11, 1), (4, 4)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    assert norm_layer("group", channels).num_groups == groups


def test_dropout_is_for_training_only() -> None:
    model = WideResNet(10, 1, dropout=0.3)
    images = torch.randn(4, 3, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))
    # It acts behind the second activation: at probability nearly 1 a block is its shortcut.
    block = WideResNet(16, 1, dropout=1 - 1e-12).blocks[1]
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(x), x)


def test_the_small_cnn_s_activation() -> None:
    relu, silu = (SmallCNN(10, 1, 8, activation=a).double() for a in ("relu", "silu"))
    silu.load_state_dict(relu.state_dict())
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    x = images
    for layer in (relu.conv1, relu.conv2, relu.conv3):
        x = layer(x)
        x = x * torch.sigmoid(x)
    assert torch.allclose(silu(images), relu.linear(x.flatten(1)), rtol=1e-12)
    assert not torch.allclose(relu(images), silu(images))


def network(name: str, size: int = 32, **options: object) -> nn.Module:
    return build_model(name, num_classes=10, channels=3, image_size=size, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WideResNet(27, 2), r"6 n \+ 4, at least 10 .*; got 27"),
        (lambda: WideResNet(4, 2), "at least 10 .*; got 4"),
        (lambda: WideResNet(28, 0), "width must be an integer of at least 1; got 0"),
        (lambda: WideResNet(28, 2.5), "width must be an integer .*; got 2.5"),
        (lambda: WideResNet(10, 1, 0), "num_classes must be an integer of at least 1; got 0"),
        (lambda: WideResNet(10, 1, channels=0), "channels must be an integer of at least 1; got 0"),
        (lambda: WideResNet(10, 1, channels=True), "channels must be .*; got True"),
        (lambda: WideResNet(10, 1, norm="layer"), "norm must be 'batch' or 'group'; got 'layer'"),
        (lambda: WideResNet(10, 1, dropout=1), r"dropout must be a probability in \[0, 1\); got 1"),
        (lambda: network("wrn-28-2", 7), "at least 8 pixels for a wide residual network, because it halves .* got 7"),
        (lambda: DenseNet(41, 12), r"with bottlenecks is 6 n \+ 4, at least 10 .*; got 41"),
        (lambda: DenseNet(42, 12, bottleneck=False), r"without bottlenecks is 3 n \+ 4, at least 7 .*; got 42"),
        (lambda: DenseNet(40, -1), "growth must be .*; got -1"),
        (lambda: DenseNet(40, 12, channels=0), "channels must be .*; got 0"),
        (lambda: DenseNet(40, 12, compression=0), r"compression must be a share in \(0, 1\]; got 0"),
        (lambda: DenseNet(40, 12, bottleneck="no"), "bottleneck must be true or false; got 'no'"),
        (lambda: DenseNet(40, 12, norm="none"), "norm must be .*; got 'none'"),
        (lambda: network("densenet-bc-40-12", 4), "at least 8 pixels for a DenseNet, .* got 4"),
        (lambda: ResNet("wide", (2, 2, 2, 2)), "block must be 'basic' or 'bottleneck'; got 'wide'"),
        (lambda: ResNet("basic", (2, 2, 2)), r"blocks must be four integers.*; got \(2, 2, 2\)"),
        (lambda: ResNet("basic", (2, 2, 0, 2)), "each of blocks must be an integer of at least 1; got 0"),
        (lambda: ResNet("basic", (1, 1, 1, 1), channels=0), "channels must be .*; got 0"),
        (lambda: ResNet("basic", (1, 1, 1, 1), norm=None), "norm must be .*; got None"),
        (lambda: ResNet("basic", (1, 1, 1, 1), zero_init_last=1), "zero_init_last must be true or false; got 1"),
        (lambda: network("resnet18", 16), "at least 17 pixels for a ResNet, .* single pixel; got 16. Enlarge or pad"),
        (lambda: SmallCNN(channels=0), "channels must be .*; got 0"),
        (lambda: SmallCNN(image_size=7), "at least 8 pixels for the small CNN, .* got 7"),
        (lambda: SmallCNN(widths=(16, 32)), r"widths must be three integers.*; got \(16, 32\)"),
        (lambda: SmallCNN(widths=(16, 0, 16)), "each of widths must be .*; got 0"),
        (lambda: SmallCNN(activation="tanh"), "activation must be 'relu' or 'silu'; got 'tanh'"),
        (lambda: SmallCNN(image_size=28)(torch.rand(1, 1, 33, 28)), "for images of 25 to 32 pixels .* got 33 x 28"),
    ],
)
def test_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call()
