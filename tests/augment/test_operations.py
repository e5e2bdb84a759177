"""The fourteen operations against Pillow, against central differences, and on awkward inputs."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor

from hypergrad.augment import PAPER_OPERATIONS, get_operation, operation_names, register_operation
from hypergrad.errors import InvalidInputError, UnknownNameError

AFFINE = Image.Transform.AFFINE
GEOMETRIC = PAPER_OPERATIONS[:5]
EXACT = [name for name in PAPER_OPERATIONS if get_operation(name).gradient == "exact"]
MAGNITUDES = [k / 8 for k in range(9)]


def photograph() -> np.ndarray:
    """A colour photograph, 40 x 53 (odd, not square)."""
    return np.ascontiguousarray(load_sample_image("china.jpg")[::10, ::12][:40, :53])


def grey() -> np.ndarray:
    """Handwritten digits, enlarged without smoothing and tiled to 33 x 48 in 17 grey values."""
    digits = (load_digits().images[:6] / 16 * 255).round().astype(np.uint8)
    return np.concatenate([np.kron(d, np.ones((4, 1), np.uint8)) for d in digits], 1)[:33]


FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")


def fashion() -> np.ndarray:
    """Six garments of Fashion-MNIST, 56 x 84, where Debian's package is installed."""
    if not FASHION.is_file():
        return grey()
    pixels = np.frombuffer(gzip.decompress(FASHION.read_bytes()), np.uint8, offset=16)[: 6 * 784]
    return np.ascontiguousarray(pixels.reshape(2, 3, 28, 28).swapaxes(1, 2).reshape(56, 84))


IMAGES = {"photograph": photograph(), "digits": grey(), "fashion": fashion()}


def test_fashion_mnist_is_among_the_images() -> None:
    if not FASHION.is_file():
        pytest.skip("Fashion-MNIST is not installed (apt-get install dataset-fashion-mnist): digits stand in for it")
    assert len(np.unique(IMAGES["fashion"])) > 100


def as_tensor(array: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:  # (1, C, H, W)
    array = array[..., None] if array.ndim == 2 else array
    return (torch.from_numpy(array.copy()).to(dtype) / 255).permute(2, 0, 1)[None]


def as_levels(images: Tensor) -> np.ndarray:
    array = (images[0].permute(1, 2, 0) * 255).round().numpy().astype(np.int64)
    return array[..., 0] if array.shape[2] == 1 else array


def full(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([value], dtype=dtype)


def pillow(name: str, image: Image.Image, m: float, sign: int) -> np.ndarray:
    """What Pillow gives, for the operations that it has."""
    factor = 1 + 0.9 * m * sign
    result = {
        "Invert": lambda: ImageOps.invert(image),
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Solarize": lambda: ImageOps.solarize(image, int(256 * (1 - m))),
        "Posterize": lambda: ImageOps.posterize(image, round(8 - 4 * m)),
        "Color": lambda: ImageEnhance.Color(image).enhance(factor),
        "Contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "Brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "Sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
    }[name]()
    return np.asarray(result).astype(np.int64)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name", ["Color", "Contrast", "Brightness", "Sharpness"])
def test_colour_equals_pillow(name: str, image: str) -> None:
    # Pillow rounds the degenerate image and cuts off the result: one level at most.
    for m in MAGNITUDES:
        for sign in (-1, 1):
            ours = as_levels(get_operation(name)(as_tensor(IMAGES[image]), full(m), full(sign)))
            assert np.abs(ours - pillow(name, Image.fromarray(IMAGES[image]), m, sign)).max() <= 1


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name", ["Solarize", "Posterize"])
def test_thresholds_equal_pillow(name: str, image: str) -> None:
    for m in MAGNITUDES:
        ours = as_levels(get_operation(name)(as_tensor(IMAGES[image]), full(m)))
        assert np.array_equal(ours, pillow(name, Image.fromarray(IMAGES[image]), m, 1)), m


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize(("name", "levels"), [("Invert", 0), ("AutoContrast", 1), ("Equalize", 0)])
def test_blended_at_full_strength_equal_pillow(name: str, levels: int, image: str) -> None:
    # Pillow's autocontrast cuts off instead of rounding.
    ours = as_levels(get_operation(name)(as_tensor(IMAGES[image]), full(1)))
    assert np.abs(ours - pillow(name, Image.fromarray(IMAGES[image]), 1, 1)).max() <= levels


def test_equalize_equals_pillow_at_every_step_size() -> None:
    # Few pixels, few levels, one level, and a brightest level that holds nearly all.
    rng = np.random.default_rng(0)
    cases = [rng.integers(0, high, (side, side)) for side in (8, 16, 17, 23, 45) for high in (1, 2, 5, 60, 256)]
    cases += [np.where(rng.random((32, 32)) < p, 255, 3) for p in (0.5, 0.74, 0.76, 0.99)]
    for case in cases:
        array = case.astype(np.uint8)
        ours = as_levels(get_operation("Equalize")(as_tensor(array), full(1)))
        assert np.array_equal(ours, np.asarray(ImageOps.equalize(Image.fromarray(array))))


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("image", IMAGES)
def test_geometry_equals_pillow_inside(name: str, image: str) -> None:
    array = IMAGES[image].reshape(*IMAGES[image].shape[:2], -1)
    height, width, channels = array.shape
    for m in MAGNITUDES:
        for sign in (-1, 1):
            v = get_operation(name).strongest * m * sign
            affine = {
                "ShearX": (1, v, -v * height / 2, 0, 1, 0),
                "ShearY": (1, 0, 0, v, 1, -v * width / 2),
                "TranslateX": (1, 0, v * width, 0, 1, 0),
                "TranslateY": (1, 0, 0, 0, 1, v * height),
            }
            theirs = np.stack(
                [
                    np.asarray(
                        plane.rotate(v, Image.Resampling.BILINEAR)
                        if name == "Rotate"
                        else plane.transform(plane.size, AFFINE, affine[name], Image.Resampling.BILINEAR)
                    )
                    for plane in (Image.fromarray(array[..., c].astype(np.float32)) for c in range(channels))
                ]
            )
            ours = get_operation(name)(as_tensor(array, torch.float64), full(m), full(sign))[0]
            # Inside: where all four neighbours lie in the image. Pillow repeats the border, the warp fades to black.
            inside = get_operation(name)(torch.ones(1, 1, height, width, dtype=torch.float64), full(m), full(sign))[
                0, 0
            ]
            inside = inside > 1 - 1e-9
            assert inside.double().mean() > 0.4
            # Pillow computes rotations in 16.16 fixed point or float32: far below one level, not exactly.
            assert (ours * 255 - torch.from_numpy(theirs))[:, inside].abs().max() < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PAPER_OPERATIONS)
def test_magnitude_zero_is_the_identity(name: str, dtype: torch.dtype) -> None:
    images = torch.rand(3, 3, 17, 20, dtype=dtype)
    images[0, :, :4] = 1
    images[0, :, 4:8] = 0
    tolerance = 1e-5 if name in GEOMETRIC and dtype == torch.float32 else 1e-12 if name in GEOMETRIC else 0
    for sign in (None, torch.ones(3), -torch.ones(3)):
        assert (get_operation(name)(images, torch.zeros(3), sign) - images).abs().max() <= tolerance


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", PAPER_OPERATIONS)
def test_strength_grows_with_magnitude(name: str, sign: int) -> None:
    images = (0.1 + 0.7 * as_tensor(photograph())).expand(9, -1, -1, -1)  # leaves AutoContrast something to do
    result = get_operation(name)(images, torch.tensor(MAGNITUDES), torch.full((9,), float(sign)))
    change = (result - images).abs().mean((1, 2, 3))
    assert (change.diff() >= 0).all()
    assert change[-1] > 0.02
    assert change[4] < change[-1]


def central(f, x: Tensor, direction: Tensor, eps: float = 1e-6) -> Tensor:
    return (f(x + eps * direction) - f(x - eps * direction)) / (2 * eps)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", EXACT)
def test_exact_gradients_equal_central_differences(name: str, channels: int) -> None:
    torch.manual_seed(2)  # a draw in which no pixel lies within the step of a kink (a clamp, a pixel's edge)
    images = torch.rand(6, channels, 9, 12, dtype=torch.float64) * 0.9 + 0.05
    magnitude = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    sign = torch.tensor([1.0, -1.0] * 3, dtype=torch.float64)
    weight = torch.randn_like(images)

    def loss(x: Tensor, m: Tensor) -> Tensor:
        return (weight * (3 * get_operation(name)(x, m, sign)).sin()).sum()

    x, m = images.requires_grad_(), magnitude.requires_grad_()
    to_image, to_magnitude = torch.autograd.grad(loss(x, m), (x, m))
    with torch.no_grad():
        for i, direction in enumerate(torch.eye(6, dtype=torch.float64)):
            wanted = central(lambda v: loss(x, v), m, direction)
            assert torch.allclose(to_magnitude[i], wanted, rtol=1e-6, atol=1e-7)
        for _ in range(3):
            direction = torch.randn_like(images)
            wanted = central(lambda v: loss(v, m), x, direction)
            assert torch.allclose((to_image * direction).sum(), wanted, rtol=1e-6, atol=1e-6)


def test_equalize_is_exact_in_its_magnitude() -> None:
    images = torch.rand(4, 1, 20, 20, dtype=torch.float64)
    magnitude = torch.linspace(0.1, 0.9, 4, dtype=torch.float64).requires_grad_()

    def loss(m: Tensor) -> Tensor:
        return (3 * get_operation("Equalize")(images, m)).sin().sum()

    (grad,) = torch.autograd.grad(loss(magnitude), magnitude)
    with torch.no_grad():
        wanted = [central(loss, magnitude, e) for e in torch.eye(4, dtype=torch.float64)]
    assert torch.allclose(grad, torch.stack(wanted), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "half"), [("Solarize", 0.05), ("Posterize", 0.25)])
def test_straight_through_follows_the_secant(name: str, half: float) -> None:
    # A smooth loss of the image's mean; the secant spans a step of the hard operation.
    cases = 200
    images = as_tensor(photograph(), torch.float64)[:, :, :32, :32]
    images = (images + 0.3 * torch.rand(cases, 1, 1, 1, dtype=torch.float64)).remainder(1)
    magnitude = (half + (1 - 2 * half) * torch.rand(cases, dtype=torch.float64)).requires_grad_()
    target = torch.rand(cases, dtype=torch.float64)

    def losses(m: Tensor) -> Tensor:
        return (get_operation(name)(images, m).mean((1, 2, 3)) - target).square()

    (grad,) = torch.autograd.grad(losses(magnitude).sum(), magnitude)
    with torch.no_grad():
        secant = (losses(magnitude + half) - losses(magnitude - half)) / (2 * half)
    assert (grad.sign() == secant.sign()).double().mean() >= 0.9
    assert 0.5 < (grad / secant).median() < 2


@pytest.mark.parametrize("name", PAPER_OPERATIONS)
def test_no_operation_cuts_the_image_gradient(name: str) -> None:
    images = (torch.rand(8, 3, 16, 16) * 0.8 + 0.1).requires_grad_()
    for m in (0.0, 0.5, 1.0):
        result = get_operation(name)(images, torch.full((8,), m))
        (grad,) = torch.autograd.grad((result * torch.rand_like(result)).sum(), images)
        assert (grad != 0).double().mean() > 0.4  # translation by 0.45 and clamping lose some
    if name in ("Equalize", "Posterize"):
        assert torch.equal(
            torch.autograd.grad(get_operation(name)(images, torch.ones(8)).sum(), images)[0], torch.ones_like(images)
        )


@pytest.mark.parametrize("name", PAPER_OPERATIONS)
@given(
    batch=st.integers(0, 3),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    content=st.sampled_from(["random", "zeros", "ones", "constant"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_any_images(
    name: str, batch: int, channels: int, height: int, width: int, content: str, dtype: torch.dtype, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    shape = (batch, channels, height, width)
    level = {"random": torch.rand(shape, generator=g), "zeros": 0.0, "ones": 1.0, "constant": 0.37}[content]
    images = (torch.zeros(shape) + level).to(dtype).requires_grad_()
    before = images.detach().clone()
    magnitude = torch.rand(batch, generator=g).round(decimals=1).to(dtype).requires_grad_()
    sign = torch.randint(2, (batch,), generator=g) * 2.0 - 1
    result = get_operation(name)(images, magnitude, sign)
    assert result.shape == images.shape
    assert result.dtype == dtype
    assert ((result >= 0) & (result <= 1)).all()
    for grad in torch.autograd.grad(result.sum(), (images, magnitude), allow_unused=True):
        assert grad is None or grad.isfinite().all()
    assert torch.equal(images.detach(), before)


@pytest.mark.parametrize("name", PAPER_OPERATIONS)
def test_images_do_not_see_each_other(name: str) -> None:
    images, magnitude = torch.rand(4, 3, 17, 17), torch.rand(4)
    sign = torch.tensor([1.0, -1, -1, 1])
    together = get_operation(name)(images, magnitude, sign)
    alone = [get_operation(name)(images[i : i + 1], magnitude[i : i + 1], sign[i : i + 1]) for i in range(4)]
    assert torch.allclose(together, torch.cat(alone), rtol=0, atol=1e-6)


def test_an_operation_from_outside() -> None:
    @register_operation("TestGamma", unit="exponent", identity=1.0, strongest=3.0)
    def gamma(images: Tensor, amount: Tensor) -> Tensor:
        return images ** amount[:, None, None, None]

    images = torch.rand(2, 1, 4, 4)
    assert torch.equal(get_operation("TestGamma")(images, torch.tensor([0.0, 0.5]))[1], images[1] ** 2)
    assert "TestGamma" in operation_names()
    register_operation("TestGamma", unit="exponent", identity=1.0, strongest=2.0)(gamma)  # a cell run twice
    assert get_operation("TestGamma").strongest == 2.0


OK = torch.zeros(2, 3, 4, 4)
HALF = torch.full((2,), 0.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: get_operation("Rotat"), UnknownNameError, "Unknown operation 'Rotat'. Did you mean 'Rotate'?"),
        (lambda: get_operation(3), UnknownNameError, "Unknown operation 3"),
        (lambda: get_operation("Rotate")([1.0], HALF), InvalidInputError, "got list"),
        (lambda: get_operation("Rotate")(OK.byte(), HALF), InvalidInputError, "dtype torch.uint8"),
        (lambda: get_operation("Rotate")(OK[0], HALF), InvalidInputError, "(3, 4, 4)"),
        (lambda: get_operation("Rotate")(OK + 1.5, HALF), InvalidInputError, "from 1.5 to 1.5"),
        (lambda: get_operation("Rotate")(OK - 1, HALF), InvalidInputError, "from -1 to -1"),
        (lambda: get_operation("Rotate")(OK * float("nan"), HALF), InvalidInputError, "from nan to nan"),
        (lambda: get_operation("Rotate")(OK, 0.5), InvalidInputError, "shape (2,); got 0.5"),
        (lambda: get_operation("Rotate")(OK, HALF[:1]), InvalidInputError, "got (1,)"),
        (lambda: get_operation("Rotate")(OK, HALF * 3), InvalidInputError, "magnitude must lie in [0, 1]"),
        (lambda: get_operation("Rotate")(OK, HALF, HALF * 4), InvalidInputError, "sign must lie in [-1, 1]"),
        (lambda: get_operation("Color")(OK[:, :2], HALF), InvalidInputError, "1 or 3 channels; got 2"),
        (lambda: get_operation("Contrast")(OK[:, :2], HALF), InvalidInputError, "1 or 3 channels; got 2"),
        (lambda: register_operation("", unit="", identity=0, strongest=1), InvalidInputError, "non-empty"),
        (
            lambda: register_operation("A", unit="", identity=0, strongest=1, kind="odd"),
            InvalidInputError,
            "got 'odd'",
        ),
        (
            lambda: register_operation("A", unit="", identity=0, strongest=1, gradient="nothing"),
            InvalidInputError,
            "got 'nothing'",
        ),
        (
            lambda: register_operation("Rotate", unit="", identity=0, strongest=1)(lambda images, amount: images),
            InvalidInputError,
            "'Rotate' is already taken by hypergrad.augment.affine:rotate",
        ),
    ],
)
def test_errors(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
