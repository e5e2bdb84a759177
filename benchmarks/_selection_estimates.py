"""The two estimators of the selection gradient on draws of a problem, and what many of their values look like."""

from dataclasses import dataclass
from typing import Any

import torch
from _selection_problems import Problem
from torch import Tensor

from hypergrad import keys
from hypergrad.augment.relaxations import relaxed_selection, select

#: Samples drawn at once; a multiple of every batch size.
CHUNK = 1 << 15


@dataclass(frozen=True)
class Draw:
    """n samples of a problem, each an image and a sequence of states.

    Attributes:
        uniform: what the selections were drawn from, ``(n, K, N)``.
        picks: operations, ``(n, K)``.
        losses: ``(n,)``.
        slopes: of the losses, to each stage's factor, ``(n, K)``.
    """

    uniform: Tensor
    picks: Tensor
    losses: Tensor
    slopes: Tensor


def slots(problem: Problem) -> int:
    """How many uniform numbers a sample needs: one for the image, N + 1 for each stage."""
    stages, size = problem.logits.shape
    return 1 + stages * (size + 1)


def draw(problem: Problem, uniform: Tensor, group_size: int = 1) -> Draw:
    """Samples from uniform numbers in (0, 1), ``(n, slots)``.

    Args:
        problem: what is drawn from.
        uniform: the noise.
        group_size: so many consecutive samples share the operations, though neither the images nor the signs.
    """
    stages, size = problem.logits.shape
    rows = torch.arange(len(uniform))
    stage = uniform[:, 1:].view(-1, stages, size + 1)
    selection, sign = stage[:, :, :-1][rows - rows % group_size], stage[:, :, -1]
    log_pi = torch.log_softmax(problem.logits, -1)
    picks = torch.stack([select(log_pi[k], selection[:, k]) for k in range(stages)], 1)
    count = torch.bincount(problem.states)  # states of each operation, which lie next to each other
    first = count.cumsum(0) - count
    state = first[picks] + (sign * count[picks]).long()
    sequence = torch.zeros_like(rows)
    for k in range(stages):
        sequence = sequence * len(problem.states) + state[:, k]
    image = (uniform[:, 0] * len(problem.losses)).long()
    return Draw(selection, picks, problem.losses[image, sequence], problem.slopes[image, sequence])


def relaxed(problem: Problem, sample: Draw, temperature: float) -> Tensor:  # (n, K, N)
    """Eq. (9), the estimate of each sample by itself; a batch's estimate is their mean."""
    logits = problem.logits.expand(len(sample.losses), -1, -1).clone().requires_grad_()
    log_pi = torch.log_softmax(logits, -1)
    total = sample.losses.new_zeros(())
    for k in range(logits.shape[1]):
        _, factor = relaxed_selection(log_pi[:, k], sample.uniform[:, k], temperature)
        total = total + (factor * sample.slopes[:, k]).sum()
    return torch.autograd.grad(total, logits)[0]


def unbiased(problem: Problem, sample: Draw, batch: int, group_size: int = 1) -> Tensor:  # (n / batch, K, N)
    """The log-probability's gradient with the leave-one-out baseline, one estimate a batch.

    ``1/B sum_i (l_i - b_i) d log_prob_i`` with ``b_i`` the mean loss of the others is the sample covariance of loss and
    score with the divisor ``B - 1``; with groups of G that share a selection the divisor is ``B - G``.
    """
    pi = torch.softmax(problem.logits, -1)
    score = torch.nn.functional.one_hot(sample.picks, pi.shape[-1]) - pi  # (n, K, N)
    score = score.view(-1, batch, *pi.shape)
    losses = sample.losses.view(-1, batch)
    centred = losses - losses.mean(1, keepdim=True)
    return torch.einsum("jb,jbkn->jkn", centred, score) / (batch - group_size)


class Moments:
    """Mean of many independent estimates, how they scatter, and how far they are from the truth."""

    def __init__(self, truth: Tensor) -> None:
        self.truth = truth
        self.count = 0
        self._sum = torch.zeros_like(truth)
        self._squares = torch.zeros_like(truth)

    def add(self, estimates: Tensor) -> None:
        """Take in estimates ``(j, K, N)``; kept as differences from the truth, so that nothing cancels."""
        error = estimates - self.truth
        self.count += len(error)
        self._sum += error.sum(0)
        self._squares += error.square().sum(0)

    @property
    def variance(self) -> float:
        """The trace of the covariance of one estimate."""
        spread = self._squares - self._sum.square() / self.count
        return float(spread.sum() / (self.count - 1))

    @property
    def rmse(self) -> float:
        """The root of the mean squared distance between an estimate and the truth."""
        return float((self._squares.sum() / self.count).sqrt())

    def report(self) -> dict[str, Any]:
        """For the JSON; lengths are relative to the truth's, or absolute where the truth is zero.

        ``bias`` is the distance between mean and truth; ``bias_error`` what it would be, in the root mean square, of
        an estimator without bias, so a bias is shown only where it is well above its error. ``signal`` is the mean's
        component along the truth divided by the root of ``variance``, which no rescaling of the estimator changes.
        """
        bias = self._sum / self.count
        mean = self.truth + bias
        spread = (self._squares - self._sum.square() / self.count) / (self.count - 1)
        norm = float(self.truth.norm())
        known = norm > 1e-12
        unit = norm if known else 1.0
        product = float((mean * self.truth).sum()) / unit**2
        variance = self.variance / unit**2
        return {
            "estimates": self.count,
            "mean": _rounded(mean),
            "standard_error": _rounded((spread / self.count).sqrt()),
            "bias": float(bias.norm()) / unit,
            "bias_error": (self.variance / self.count) ** 0.5 / unit,
            "variance": variance,
            "rmse": self.rmse / unit,
            "cosine": product / (float(mean.norm()) / unit) if known and mean.any() else None,
            "signal": product / variance**0.5 if known and variance > 0 else None,
        }


def _rounded(values: Tensor) -> list[list[float]]:
    """Six digits: enough to read, and they keep the file small."""
    return [[float(f"{v:.6g}") for v in row] for row in values.tolist()]


def measure(
    problem: Problem, *, seed: int, samples: int, temperatures: tuple[float, ...], batches: tuple[int, ...], group: int
) -> dict[str, Any]:
    """Both estimators on the same draws.

    Args:
        problem: with its truth.
        seed: of the draws.
        samples: how many; rounded up to whole chunks of at most :data:`CHUNK`.
        temperatures: of eq. (9).
        batches: sizes, divisors of the chunk.
        group: the group size of the third row, for batches of more than one group.

    Returns:
        The truth, and for every estimator what :meth:`Moments.report` says.
    """
    truth = problem.truth()
    single = {t: Moments(truth) for t in temperatures}
    by_batch = {b: Moments(truth) for b in batches}
    grouped = {b: Moments(truth) for b in batches if b > group}
    chunk = min(CHUNK, samples)
    key = keys.derive(seed, "selection", problem.name)
    for start in range(0, samples, chunk):
        uniform = keys.uniform(key, torch.arange(start, start + chunk), slots(problem), torch.float64)
        sample = draw(problem, uniform)
        for temperature, moments in single.items():
            moments.add(relaxed(problem, sample, temperature))
        for batch, moments in by_batch.items():
            moments.add(unbiased(problem, sample, batch))
        sample = draw(problem, uniform, group)
        for batch, moments in grouped.items():
            moments.add(unbiased(problem, sample, batch, group))
    norm = float(truth.norm())
    return {
        "name": problem.name,
        "seed": seed,
        "pi": torch.softmax(problem.logits, -1).tolist(),
        "truth": truth.tolist(),
        "truth_norm": norm if norm > 1e-12 else 0.0,
        "unbiased": {str(b): m.report() for b, m in by_batch.items()},
        "grouped": {str(b): m.report() for b, m in grouped.items()},
        "relaxed": {str(t): {**m.report(), "rmse_by_batch": _by_batch(m, batches)} for t, m in single.items()},
    }


def _by_batch(moments: Moments, batches: tuple[int, ...]) -> dict[str, float]:
    """The root-mean-square error of means over batches: the bias stays, the variance falls as 1/B.

    The square of the measured bias exceeds the true one by variance / count in expectation, which is taken off.
    """
    report = moments.report()
    bias = max(report["bias"] ** 2 - report["bias_error"] ** 2, 0.0)
    return {str(b): (bias + report["variance"] / b) ** 0.5 for b in batches}
