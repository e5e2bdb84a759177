"""benchmarks/selection.py: its draws and estimates are the package's own, and its files say what was measured."""

import json
import math
from pathlib import Path

import pytest
import selection
import torch
from _images import Part
from _selection_estimates import Moments, draw, measure, relaxed, slots, unbiased
from _selection_problems import (
    MAGNITUDE,
    OPERATIONS,
    UNEQUAL,
    Problem,
    cross_derivative,
    cross_entropy,
    digit_problems,
    image_problem,
    initial_weights,
    scalar_problem,
    scalar_problems,
)
from _selection_table import bias_outweighs_from, closer_from, markdown
from torch import Tensor

from hypergrad import keys
from hypergrad.augment import Madao, Policy
from hypergrad.families.base import Context
from hypergrad.objective import score_weights

KEY = 11


def _loss(images: Tensor, labels: Tensor) -> Tensor:
    """Not linear in the image, and different for every image."""
    return (images * torch.linspace(0, 1, images[0].numel(), dtype=images.dtype).view(images.shape[1:])).sum(
        (1, 2, 3)
    ).square() * (1 + labels)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(8, 1, 6, 6, dtype=torch.float64)


@pytest.fixture
def problem(images: Tensor) -> Problem:
    return image_problem("test", _loss, Part(images, torch.arange(8)), torch.tensor(UNEQUAL, dtype=torch.float64))


def _prepared(policy: Policy, magnitude: float = MAGNITUDE) -> Policy:
    """At the problem's pi and magnitude, always applied: sigmoid(40 / 0.5) is 1 in float64."""
    policy = policy.double()
    with torch.no_grad():
        policy.pi.copy_(torch.tensor(UNEQUAL, dtype=torch.float64))
        policy.mu.fill_(math.log(magnitude / (1 - magnitude)))
        policy.p.fill_(40)
    return policy


def _noise(batch: int) -> Tensor:
    """The policy's own noise for KEY, in this benchmark's layout: image i first, then its numbers without "applied"."""
    size = len(OPERATIONS)
    uniform = keys.uniform(KEY, torch.arange(batch), 2 * (size + 2), torch.float64).view(batch, 2, size + 2)
    stage = torch.cat([uniform[:, :, :size], uniform[:, :, size + 1 :]], 2)
    # The policy takes the sign -1 below one half; here the first state of an operation is the sign +1.
    stage[:, :, -1] = 1 - stage[:, :, -1]
    image = (torch.arange(batch, dtype=torch.float64)[:, None] + 0.5) / batch
    return torch.cat([image, stage.flatten(1)], 1)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_relaxed_estimate_is_the_gradient_through_the_policy(
    problem: Problem, images: Tensor, temperature: float
) -> None:
    policy = _prepared(Policy(2, OPERATIONS, selection="relaxed", selection_temperature=temperature))
    losses = _loss(policy(images, soft=True, key=KEY), torch.arange(8))
    (wanted,) = torch.autograd.grad(losses.mean(), policy.pi)
    sample = draw(problem, _noise(8))
    assert torch.allclose(sample.losses, losses.detach(), rtol=1e-12)
    found = relaxed(problem, sample, temperature).mean(0)
    assert found.norm() > 0.1
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("group_size", [1, 4])
def test_the_unbiased_estimate_is_the_gradient_of_the_family(
    problem: Problem, images: Tensor, group_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = Madao(stages=2, operations=OPERATIONS, group_size=group_size)
    _prepared(family.policy)
    monkeypatch.setattr(keys, "derive", lambda *parts: KEY)  # the family derives a key of its own
    ctx = Context(key=KEY, index=None, soft=True, training=True)
    augmented, labels, log_prob = family.transform(images, torch.arange(8), ctx)
    losses = _loss(augmented.detach(), labels)
    (wanted,) = torch.autograd.grad((losses * score_weights(log_prob, 8)).mean(), family.policy.pi)
    sample = draw(problem, _noise(8), group_size)
    assert torch.allclose(sample.losses, losses, rtol=1e-12)
    found = unbiased(problem, sample, 8, group_size)[0]
    assert found.norm() > 0.1
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("at", "truth"), [(0, [-1.0, 1.0]), (1, [-0.25, 0.25]), (2, [0.0, 0.0]), (3, [0.0, 0.0])])
def test_the_enumerated_truth_is_the_closed_form(at: int, truth: list[float]) -> None:
    found = scalar_problems()[at].truth()
    assert torch.allclose(found, torch.tensor([truth], dtype=torch.float64), atol=1e-15)


def test_the_cross_derivative_is_the_product_of_two_gradients() -> None:
    weights = initial_weights(3)
    x, y = torch.rand(5, 1, 8, 8, dtype=torch.float64), torch.arange(5)
    val = Part(torch.rand(4, 1, 8, 8, dtype=torch.float64), torch.arange(4))
    found = cross_derivative(weights, val)(x, y)
    held = [w.requires_grad_() for w in weights.values()]
    outer = torch.autograd.grad(cross_entropy(weights, val.images, val.labels).mean(), held)
    for i in range(5):
        inner = torch.autograd.grad(cross_entropy(weights, x[i : i + 1], y[i : i + 1]).sum(), held)
        wanted = -sum((a * b).sum() for a, b in zip(outer, inner, strict=True))
        assert found[i].item() == pytest.approx(wanted.item(), rel=1e-12)


def test_the_enumerated_truth_is_the_mean_over_the_draws(problem: Problem) -> None:
    n = 1 << 18
    sample = draw(problem, keys.uniform(5, torch.arange(n), slots(problem), torch.float64))
    expected = problem.expected_loss(problem.logits).item()
    assert sample.losses.mean().item() == pytest.approx(expected, abs=4 * sample.losses.std().item() / n**0.5)
    moments = Moments(problem.truth())
    moments.add(unbiased(problem, sample, 32))
    report = moments.report()
    assert report["bias"] < 2.5 * report["bias_error"] < 0.05 and report["cosine"] > 0.99


@pytest.mark.parametrize(("outputs", "loss", "factor"), [((1.0, 3.0), "linear", 0.5), ((1.0, 0.0), "square", 0.0)])
def test_eq_9_at_temperature_1_has_its_closed_form(outputs: tuple[float, float], loss: str, factor: float) -> None:
    # Linear, two equal probabilities: 4 int_0^1/2 u du = 1/2 of the truth.
    function = (lambda y: 2 * y) if loss == "linear" else (lambda y: (y - 1) ** 2)
    problem = scalar_problem(loss, function, outputs)
    found = measure(problem, seed=0, samples=1 << 15, temperatures=(1.0,), batches=(2,), group=4)
    cell = found["relaxed"]["1.0"]
    mean = torch.tensor(cell["mean"])
    assert torch.allclose(mean, factor * torch.tensor(found["truth"]), atol=4 * max(cell["standard_error"][0]) + 1e-12)
    assert cell["bias"] == pytest.approx(1 - factor, abs=0.03)


def test_moments() -> None:
    truth = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    estimates = truth + torch.randn(1000, 1, 2, dtype=torch.float64) + torch.tensor([1.0, 0.0])
    moments = Moments(truth)
    for part in estimates.split(300):
        moments.add(part)
    report = moments.report()
    flat = estimates[:, 0]
    variance = torch.cov(flat.T).trace().item()
    assert report["estimates"] == 1000
    assert report["bias"] == pytest.approx((flat.mean(0) - truth[0]).norm().item() / 5, rel=1e-12)
    assert report["variance"] == pytest.approx(variance / 25, rel=1e-12)
    assert report["bias_error"] == pytest.approx((variance / 1000) ** 0.5 / 5, rel=1e-12)
    assert report["rmse"] == pytest.approx((flat - truth[0]).square().sum(1).mean().sqrt().item() / 5, rel=1e-12)
    assert report["cosine"] == pytest.approx(torch.cosine_similarity(flat.mean(0), truth[0], 0).item(), rel=1e-12)
    assert report["signal"] == pytest.approx((flat.mean(0) @ truth[0]).item() / 5 / variance**0.5, rel=1e-12)


def test_where_the_estimators_cross() -> None:
    mine = {"2": {"rmse": 3.0}, "4": {"rmse": 2.0}, "8": {"rmse": 0.9}, "16": {"rmse": 0.6}}
    better_later = {"rmse_by_batch": {"2": 2.0, "4": 1.5, "8": 1.2, "16": 1.1}}
    always_better = {"rmse_by_batch": {"2": 0.5, "4": 0.5, "8": 0.5, "16": 0.5}}
    held = {"unbiased": mine, "relaxed": {"1.0": better_later, "2.0": always_better}}
    assert closer_from([held], "1.0") == 8 and closer_from([held], "2.0") is None
    assert bias_outweighs_from({"bias": 0.5, "bias_error": 0.0, "variance": 10.0}) == 41
    assert bias_outweighs_from({"bias": 0.01, "bias_error": 0.01, "variance": 10.0}) is None


def test_the_files_hold_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "selection.json"
    arguments = ["--smoke", "--output", str(path)]
    assert selection.main(arguments) == 0
    result = json.loads(path.read_text())
    assert result["command"] == f"python benchmarks/selection.py --smoke --output {path}"
    assert [p["name"] for p in result["problems"]] == [p.name for p in scalar_problems() + digit_problems(0, 2)]
    page = path.with_suffix(".md").read_text()
    assert page == markdown(result) and page.strip() in capsys.readouterr().out
    assert "(smoke run)" in page and "LOOK INTO IT" not in page
    rows = [line for line in page.splitlines() if line.startswith("| (y - 1)^2")]
    assert rows[0].count("1.000 ± 0.000") == 5  # eq. (9) is always zero there
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
