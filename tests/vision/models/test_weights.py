"""Pretrained weights: what fits is loaded and reported, what does not fit changes nothing."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hypergrad.errors import InvalidInputError
from hypergrad.vision.models.normalised import Normalised
from hypergrad.vision.models.resnet import ResNet
from hypergrad.vision.models.small_cnn import SmallCNN
from hypergrad.vision.models.weights import load_weights
from hypergrad.vision.models.wide_resnet import WideResNet

Weights = dict[str, Tensor]


def wide(seed: int, classes: int = 5, norm: str = "batch", depth: int = 10) -> WideResNet:
    torch.manual_seed(seed)
    model = WideResNet(depth, 1, classes, norm=norm)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    return model


def copied(model: nn.Module) -> Weights:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def saved(tmp_path: Path, weights: Weights, suffix: str = ".safetensors") -> Path:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_every_tensor_is_loaded(tmp_path: Path, suffix: str) -> None:
    source, model = wide(1), wide(2)
    weights = copied(source)
    report = load_weights(model, saved(tmp_path, weights, suffix))
    assert report.loaded == tuple(weights) and report.left == report.unexpected == ()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(model.eval()(images), source.eval()(images))
    assert all(p.requires_grad for p in model.parameters())


def test_a_head_of_another_size_stays_as_it_is(tmp_path: Path) -> None:
    model, weights = wide(2, classes=7), copied(wide(1))
    before = copied(model)
    report = load_weights(model, saved(tmp_path, weights))
    assert report.left == ("linear.weight", "linear.bias")
    assert set(report.loaded) == set(weights) - set(report.left)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name in report.left else weights[name])
    assert "left as initialised: linear.weight, linear.bias; no place in the network: none" in str(report)


@pytest.mark.parametrize("dropped", [["linear.weight", "linear.bias"], ["linear.bias"]])
def test_a_head_that_is_not_in_the_file_stays_whole(tmp_path: Path, dropped: list[str]) -> None:
    model, weights = wide(2), copied(wide(1))
    for name in dropped:
        del weights[name]
    weights["classifier.3.weight"] = torch.ones(2)
    before = copied(model)
    report = load_weights(model, saved(tmp_path, weights))
    assert report.left == ("linear.weight", "linear.bias")
    assert report.unexpected == ("classifier.3.weight",)
    assert torch.equal(model.linear.weight, before["linear.weight"])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "_orig_mod.model."])
def test_prefixes_of_wrappers(tmp_path: Path, prefix: str) -> None:
    model, weights = wide(2), copied(wide(1))
    load_weights(model, saved(tmp_path, {prefix + name: tensor for name, tensor in weights.items()}))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())


def test_the_normalisation_of_a_saved_run_is_not_loaded_and_reported(tmp_path: Path) -> None:
    source, model = wide(1), wide(2)
    run = Normalised(source, [0.5] * 3, [0.25] * 3)
    report = load_weights(model, saved(tmp_path, copied(run)))
    assert report.unexpected == ("mean", "std") and report.left == ()
    assert torch.equal(model.linear.weight, source.linear.weight)


def test_a_nested_state_dict(tmp_path: Path) -> None:
    model, weights = wide(2), copied(wide(1))
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "checkpoint.pth")
    assert len(load_weights(model, tmp_path / "checkpoint.pth").loaded) == len(weights)


def test_old_files_without_batch_counters(tmp_path: Path) -> None:
    model = wide(2)
    weights = {name: t for name, t in copied(wide(1)).items() if not name.endswith("num_batches_tracked")}
    report = load_weights(model, saved(tmp_path, weights))
    assert set(report.loaded) == set(weights)
    assert report.left and all(name.endswith("num_batches_tracked") for name in report.left)


def test_other_precisions_are_converted(tmp_path: Path) -> None:
    model, weights = wide(2), copied(wide(1))
    load_weights(model, saved(tmp_path, {n: t.half() if t.is_floating_point() else t for n, t in weights.items()}))
    assert model.stem.weight.dtype == torch.float32
    assert torch.equal(model.stem.weight, weights["stem.weight"].half().float())


def test_a_linear_classifier_has_no_head_to_leave(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    path = saved(tmp_path, {"1.weight": torch.ones(2, 4), "1.bias": torch.zeros(2)})
    with pytest.raises(InvalidInputError, match="in 2 tensors"):
        load_weights(model, path)


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: tensor for name, tensor in weights.items() if name not in names}


def replaced(name: str, tensor: Tensor) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: tensor}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (without("stem.weight"), {}, r"WideResNet in 1 tensors: stem.weight is not in the file\. .*Nothing was loaded"),
        (without("norm.running_mean"), {}, "norm.running_mean is not in the file"),
        (
            replaced("stem.weight", torch.ones(16, 1, 3, 3)),
            {},
            r"stem.weight is \(16, 1, 3, 3\) in the file and \(16, 3, 3, 3\) in the network",
        ),
        (
            replaced("stem.weight", torch.ones(16, 3, 3, 3, dtype=torch.int8)),
            {},
            "stem.weight is torch.int8 in the file and torch.float32 in the network",
        ),
        (replaced("blocks.3.conv1.weight", torch.ones(2)), {}, "blocks.3.conv1.weight is in the file only"),
        (
            replaced("linear.weight", torch.ones(7, 64)),
            {"strict_head": True},
            r"linear.weight is \(7, 64\) in the file and \(5, 64\) in the network",
        ),
        (lambda weights: {"a": torch.ones(1)}, {}, r"in 3\d tensors: (\S+ is not in the file; ){5}\.\.\."),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_does_not_fit_changes_nothing(
    tmp_path: Path, change: Callable[[Weights], Weights], options: dict[str, bool], message: str, suffix: str
) -> None:
    model = wide(2)
    before = copied(model)
    with pytest.raises(InvalidInputError) as caught:
        load_weights(model, saved(tmp_path, change(copied(wide(1))), suffix), **options)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "weights" in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_deeper_network_s_weights_are_refused(tmp_path: Path) -> None:
    # Every tensor of the shallow network is in the deep one's file, in the same shape.
    path = saved(tmp_path, copied(ResNet("basic", (1, 1, 1, 2), 5)))
    with pytest.raises(InvalidInputError, match=r"layer4\.1\.\S+ is in the file only"):
        load_weights(ResNet("basic", (1, 1, 1, 1), 5), path)


def test_batch_norm_s_weights_are_refused_by_group_norm(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"running_mean is in the file only.* \(and its norm"):
        load_weights(wide(2, norm="group"), saved(tmp_path, copied(wide(1))))


class _Code:
    """Pickled, it would run code when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return print, ("run",)


def written(name: str, content: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        return path

    return write


def cut_off(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = saved(folder, copied(SmallCNN()), suffix)
        path.write_bytes(path.read_bytes()[:-100])
        return path

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: folder / "none.safetensors", r"none.safetensors do not exist"),
        (lambda folder: folder, "do not exist, or are no file"),
        (written("weights.npz", b"x"), r"read from .safetensors, .pt, .pth and .bin files; got .*weights.npz"),
        (written("weights.safetensors", b"x"), r"weights.safetensors cannot be read \(Safetensor.*damaged or cut off"),
        (written("weights.safetensors", b""), "cannot be read"),
        (cut_off(".safetensors"), "cannot be read .*cut off"),
        (written("weights.pth", b"x"), r"weights.pth cannot be read"),
        (written("weights.pth", b""), r"weights.pth cannot be read"),
        (cut_off(".pth"), "cannot be read .*cut off"),
        (written("weights.pth", {"x": _Code()}), r"cannot be read .* more than tensors: save model.state_dict\(\)"),
        (written("weights.pth", [torch.ones(1)]), "names and tensors, .* got list"),
        (written("weights.pth", {}), "got a dictionary with nothing"),
        (written("weights.pth", {"epoch": 3, "net": {}}), "got a dictionary with 'epoch', 'net'"),
    ],
)
def test_unreadable_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path], Path], message: str
) -> None:
    path = write(tmp_path)
    with pytest.raises(InvalidInputError) as caught:
        load_weights(SmallCNN(), path)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "run" not in capsys.readouterr().out
