"""The picture of a policy: what it shows is what the policy does, nothing overlaps, and the bytes repeat."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor

from hypergrad import keys
from hypergrad.augment import Policy, auto_augment, get_operation, register_operation, trivial_augment_wide
from hypergrad.augment import operations as operations_module
from hypergrad.augment.pictures import stage_means
from hypergrad.errors import InvalidInputError, MissingLibraryError

MAGNITUDES = (0, 0.25, 0.5, 0.75, 1)


def digits(count: int) -> Tensor:  # (B, 1, 8, 8)
    return torch.from_numpy(load_digits().images[:count]).float()[:, None] / 16


def photographs() -> Tensor:  # (2, 3, 54, 80)
    return torch.stack(
        [
            torch.from_numpy(np.ascontiguousarray(load_sample_image(name)[:-3:8, ::8])).permute(2, 0, 1) / 255
            for name in ("china.jpg", "flower.jpg")
        ]
    )


def learned(*args: Any, **options: Any) -> Policy:
    """A policy whose values all differ."""
    policy = Policy(*args, **options)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_()
    return policy


def shown(axes: Any) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in axes.images]


def as_array(image: Tensor) -> np.ndarray:
    array = image.detach().float().permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] == 1 else array


@pytest.mark.parametrize("images", [digits(3), photographs()], ids=["grey", "colour"])
def test_originals_and_draws_are_the_policy_s_own(images: Tensor) -> None:
    policy = learned(2)
    figure = policy.preview(images, key=5, samples=2)
    wanted = [images, *(policy(images, soft=False, key=keys.derive("preview", 5, row)) for row in range(2))]
    for array, image in zip(shown(figure.axes[0]), torch.cat(wanted), strict=True):
        assert np.array_equal(array, as_array(image))


def test_the_grid_is_each_operation_on_the_first_image() -> None:
    names, images = ["Rotate", "Solarize", "Brightness"], photographs()
    figure = learned(2, names).preview(images)
    wanted = []
    for name in names:
        operation = get_operation(name)
        for amount in ((-1,) if operation.signed else ()) + MAGNITUDES:
            magnitude, sign = torch.tensor([abs(float(amount))]), torch.tensor([-1.0 if amount < 0 else 1.0])
            wanted.append(operation(images[:1], magnitude, sign)[0])
    arrays = shown(figure.axes[1])
    assert len(arrays) == 6 + 5 + 6
    for array, image in zip(arrays, wanted, strict=True):
        assert np.array_equal(array, as_array(image))


def test_heat_maps_and_marks_hold_the_values() -> None:
    policy = learned(3, ["Rotate", "Solarize", "Color", "Equalize"])
    figure = policy.preview(digits(2))
    for axes, name in zip(figure.axes[2::2], ("pi", "mu", "p"), strict=True):  # each is followed by its colour bar
        values = policy.values()[name].T
        assert np.array_equal(shown(axes)[0], values.numpy())
        texts = [t.get_text() for t in axes.texts]
        assert all(f"{v:.2f}" in texts for v in values.flatten().tolist())
    # A triangle stands where the grid has its magnitude: between the centres of the images at 0 and at 1.
    grid = figure.axes[1]
    images = [image.get_extent() for image in grid.images]
    first, last = ((images[i][0] + images[i][1]) / 2 for i in (1, 5))
    x = [line.get_xdata()[0] for line in grid.lines if line.get_marker() == "^"]
    marks = (torch.tensor(x, dtype=torch.float64) - first) / (last - first)
    assert torch.allclose(marks[:12].view(4, 3), policy.values()["mu"].T.double(), atol=1e-6)


def overlaps(figure: Any) -> list[tuple[str, str]]:
    """Pairs of texts that touch, and texts that leave the figure or cover an image."""
    figure.canvas.draw()
    texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts]
    found = [(a, b) for (a, x), (b, y) in itertools.combinations(boxes, 2) if x.overlaps(y)]
    found += [(t, "the edge") for t, x in boxes if not _inside(x, figure.bbox)]
    images = [image.get_window_extent() for axes in figure.axes[:2] for image in axes.images]
    return found + [(t, "an image") for t, x in boxes for image in images if x.overlaps(image)]


def _inside(box: Any, page: Any) -> bool:
    return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1


CASES = {
    "digits": lambda: (learned(2), digits(9)),
    "photographs": lambda: (learned(2), photographs()),
    "three operations": lambda: (learned(3, ["Rotate", "Color", "AutoContrast"]), digits(8)),
    "one image, one operation": lambda: (learned(1, ["TranslateX"]), photographs()[:1]),
    "a tall image": lambda: (learned(2, ["Rotate", "Color"]), photographs().transpose(2, 3)[:, :, :, :30]),
    "a wide image": lambda: (learned(2, ["Rotate", "Color"]), photographs()[:, :, :20]),
    "five stages": lambda: (learned(5, ["Rotate", "Color"]), digits(2)),
    "long names": lambda: (
        learned(
            2, ["Rotate", replace(get_operation("Color"), name="ElasticDeformation", unit="darkening at the corners")]
        ),
        digits(8),
    ),
    "bfloat16": lambda: (learned(2, ["Rotate", "Color"]), digits(2).bfloat16()),
    "auto_augment": lambda: (auto_augment("svhn"), photographs()),
    "trivial_augment_wide": lambda: (trivial_augment_wide(), digits(4)),
}


@pytest.mark.parametrize("case", CASES)
def test_no_text_overlaps_or_leaves_the_page(case: str) -> None:
    policy, images = CASES[case]()
    figure = policy.preview(images, samples=2 if case != "digits" else None)
    assert overlaps(figure) == []
    width, height = figure.get_size_inches()
    assert 6 < width < 16
    assert 2 < height < 12


def luminance(colour: Any) -> float:
    """Relative luminance by WCAG 2.1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_every_number_is_readable_on_its_cell() -> None:
    policy = learned(2)
    with torch.no_grad():
        policy.mu.copy_(torch.linspace(-4, 4, 28).view(2, 14))  # from one end of the map to the other
    axes = policy.preview(digits(1), samples=1).axes[4]
    (heat,) = axes.images
    numbers = [t for t in axes.texts if "." in t.get_text()]
    assert len(numbers) == 28
    for text, value in zip(numbers, np.asarray(heat.get_array()).flatten(), strict=True):
        low, high = sorted((luminance(text.get_color()), luminance(heat.cmap(heat.norm(value)))))
        assert (high + 0.05) / (low + 0.05) > 4.5, value  # WCAG's level AA


def test_means_of_sub_policies() -> None:
    # Two sub-policies of one stage; the second operation is picked by the second only, the third never.
    pi = torch.tensor([[[1.0, 0, 0]], [[0.25, 0.75, 0]]])
    p = torch.tensor([[[0.2, 0.9, 0.9]], [[1.0, 0.4, 0.9]]])
    mu = torch.tensor([[[[0.0, 1.0], [1, 1], [1, 1]]], [[[1, 1], [0.1, 0.3], [1, 1]]]])
    means = stage_means(pi, p, mu)
    assert torch.allclose(means["pi"], torch.tensor([[0.625, 0.375, 0.0]]))
    assert torch.allclose(means["p"], torch.tensor([[0.36, 0.4, float("nan")]]), equal_nan=True)
    assert torch.allclose(means["mu"], torch.tensor([[0.6, 0.2, float("nan")]]), equal_nan=True)


def test_an_operation_without_a_magnitude_is_shown_once() -> None:
    figure = auto_augment("cifar10").preview(digits(2), samples=1)
    grid = [t.get_text() for t in figure.axes[1].texts]
    assert grid.count("no magnitude") == 3  # Invert, AutoContrast, Equalize
    assert len(figure.axes[1].images) == 6 * 8 + 5 * 2 + 3
    # NaN where nothing is picked, and where a magnitude means nothing.
    assert np.isnan(np.asarray(figure.axes[4].images[0].get_array(), dtype=float).T[0, [4, 5, 6]]).all()


def test_amounts_are_in_the_operation_s_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations_module, "_operations", dict(operations_module._operations))

    @register_operation("PreviewGamma", unit="exponent", identity=1.0, strongest=0.25)
    def gamma(images: Tensor, amount: Tensor) -> Tensor:
        return images ** amount[:, None, None, None]

    names = ["Rotate", "Solarize", "Color", "Posterize", "PreviewGamma"]
    texts = [t.get_text() for t in learned(1, names).preview(digits(1), samples=1).axes[1].texts]
    for wanted in ("±30 degrees", "1 … 0 threshold", "1 ± 0.9 factor", "8 … 4 bits", "1 … 0.25 exponent"):
        assert wanted in texts


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_files_repeat_byte_for_byte(tmp_path: Path, suffix: str, magic: bytes) -> None:
    policy, images = learned(1, ["Rotate", "Solarize"]), digits(2)
    state = torch.get_rng_state()
    first, second, other = (tmp_path / f"{name}.{suffix}" for name in "abc")
    policy.preview(images, first, key=3)
    with matplotlib.rc_context({"font.size": 30, "text.color": "red", "image.origin": "lower"}):
        policy.preview(images, str(second), key=3)
    policy.preview(images, other, key=4)
    assert first.read_bytes().startswith(magic)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != other.read_bytes()
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(tmp_path.iterdir()) == [first, second, other]


def test_a_failed_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy.png"
    path.write_bytes(b"old")

    def fail(self: object, target: Any, **options: Any) -> None:
        target.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
    with pytest.raises(KeyboardInterrupt):
        learned(1, ["Rotate"]).preview(digits(1), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(MissingLibraryError, match=r"A preview needs matplotlib.*\[plot\]"):
        Policy(1, ["Rotate"]).preview(digits(1))


OK = torch.zeros(2, 1, 4, 4)
POLICY = Policy(1, ["Rotate", "Color"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: POLICY.preview(OK, "policy.jpg"),
            "written as .png, .svg, .pdf, by the path's suffix; got 'policy.jpg'",
        ),
        (lambda: POLICY.preview(OK, "policy"), "got 'policy'"),
        (lambda: POLICY.preview(OK, "no/such/folder/policy.png"), "no/such/folder does not exist"),
        (lambda: POLICY.preview(OK[:0]), "at least one image; got the shape (0, 1, 4, 4)"),
        (lambda: POLICY.preview(OK, samples=0), "samples must be an integer of at least 1; got 0"),
        (lambda: POLICY.preview(OK, samples=1.5), "got 1.5"),
        (lambda: POLICY.preview(OK.byte()), "dtype torch.uint8"),
        (lambda: POLICY.preview(OK + 2), "from 2 to 2"),
        (lambda: POLICY.preview(OK[0]), "(1, 4, 4)"),
        (lambda: POLICY.preview(OK.expand(2, 2, 4, 4)), "Color needs images with 1 or 3 channels; got 2"),
        (lambda: Policy(1, ["Rotate"]).preview(OK.expand(2, 2, 4, 4)), "shows images with 1 or 3 channels; got 2"),
        (lambda: auto_augment().preview(OK, "policy.gif"), "got 'policy.gif'"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(InvalidInputError) as info:
        call()
    assert message in str(info.value)
