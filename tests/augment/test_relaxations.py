"""Distributions and gradients of the relaxed choices, from noise that the tests choose."""

import math

import pytest
import torch
from torch import Tensor

from hypergrad.augment.relaxations import (
    bernoulli,
    relaxed_bernoulli,
    relaxed_selection,
    select,
    straight_through,
    within_unit,
)


def grid(n: int) -> Tensor:  # (n,)
    """Uniform numbers without randomness: the midpoints of n equal parts of (0, 1)."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other() -> None:
    x = torch.tensor([0.1, 0.7, 1e8], requires_grad=True)
    y = straight_through(x.round(), 3 * x)
    assert torch.equal(y, x.round())
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.full((3,), 3.0))
    z = within_unit(x)
    assert torch.equal(z, torch.tensor([0.1, 0.7, 1.0]))
    assert torch.equal(torch.autograd.grad(z.sum(), x)[0], torch.ones(3))


def test_selection_has_the_probabilities_asked_for() -> None:
    pi = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    n = 100_000
    uniform = torch.rand(n, 4, dtype=torch.float64)
    pick = select(pi.log(), uniform)
    count = torch.bincount(pick, minlength=4).double()
    chi2 = ((count - n * pi) ** 2 / (n * pi)).sum()
    assert chi2 < 16.3  # 99.9 % quantile with 3 degrees of freedom
    same, factor = relaxed_selection(pi.log(), uniform, 0.3)
    assert torch.equal(pick, same)
    assert torch.equal(factor, torch.ones(n, dtype=torch.float64))


def test_factor_carries_the_gradient_of_log_u() -> None:
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    uniform = torch.rand(1, 3, dtype=torch.float64)
    pick, factor = relaxed_selection(torch.log_softmax(logits, -1), uniform, 0.7)
    (grad,) = torch.autograd.grad(factor.sum(), logits)
    g = -torch.log(-torch.log(uniform))
    u = torch.softmax((torch.log_softmax(logits, -1) + g) / 0.7, -1)[0, pick[0]]
    (wanted,) = torch.autograd.grad(u.log(), logits)
    assert torch.allclose(grad, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("loss", "outputs", "truth", "eq9"),
    [
        (lambda y: 2 * y, (1.0, 3.0), -1.0, -math.log(2)),  # linear: ln 2 of the truth
        (lambda y: (y - 1) ** 2, (1.0, 0.0), -0.25, 0.0),  # vanishes
        (lambda y: (y - 2) ** 2, (1.0, 3.0), 0.0, -2 * math.log(2)),  # invented: both outputs lose the same
    ],
)
def test_bias_of_eq_9_and_its_absence_in_the_score(loss, outputs, truth: float, eq9: float) -> None:
    n, temperature = 1 << 19, 0.02
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    log_pi = torch.log_softmax(logits, -1)
    images = torch.tensor(outputs, dtype=torch.float64)
    enumerated = (log_pi.exp() * loss(images)).sum()
    assert torch.autograd.grad(enumerated, logits, retain_graph=True)[0][0].item() == pytest.approx(truth, abs=1e-12)

    uniform = torch.rand(n, 2, dtype=torch.float64)
    pick, factor = relaxed_selection(log_pi, uniform, temperature)
    (relaxed,) = torch.autograd.grad(loss(factor * images[pick]).mean(), logits, retain_graph=True)
    assert relaxed[0].item() == pytest.approx(eq9, abs=0.06)

    losses = loss(images[pick])
    baseline = (losses.sum() - losses) / (n - 1)  # leave one out
    (score,) = torch.autograd.grad(((losses - baseline) * log_pi[pick]).mean(), logits)
    assert score[0].item() == pytest.approx(truth, abs=0.01)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_relaxed_bernoulli_distribution(p: float, temperature: float) -> None:
    n = 10_000
    u = grid(n)
    logits = torch.logit(torch.tensor(p, dtype=torch.float64)).expand(n)
    b = relaxed_bernoulli(logits, u, temperature)
    assert torch.equal(b > 0.5, bernoulli(logits, u))
    assert bernoulli(logits, u).double().mean().item() == pytest.approx(p, abs=1e-4)
    for t in (0.05, 0.3, 0.6, 0.95):  # P(b <= t) = sigmoid(temperature * logit(t) - logit(p))
        wanted = torch.sigmoid(temperature * torch.logit(torch.tensor(t)) - logits[0]).item()
        assert (b <= t).double().mean().item() == pytest.approx(wanted, abs=2e-4)


def test_relaxed_bernoulli_gradient_at_small_temperatures() -> None:
    # At p = 0.5 and temperature 0.1, 52 % of the samples have |db/dp| < 1e-3; at 0.5 2 %, and the mean is 0.86.
    p = torch.full((100_000,), 0.5, dtype=torch.float64, requires_grad=True)
    share, mean = {}, {}
    for temperature in (0.1, 0.5):
        b = relaxed_bernoulli(torch.logit(p), grid(len(p)), temperature)
        (grad,) = torch.autograd.grad(b.sum(), p)
        share[temperature], mean[temperature] = (grad < 1e-3).double().mean().item(), grad.mean().item()
    assert share[0.1] == pytest.approx(0.52, abs=0.01)
    assert share[0.5] == pytest.approx(0.02, abs=0.005)
    assert mean[0.5] == pytest.approx(0.86, abs=0.01)
