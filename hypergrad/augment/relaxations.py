"""Discrete choices with a gradient: selection, application, straight-through. All noise comes in as uniform numbers."""

import torch
from torch import Tensor


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard`` (bitwise) with the gradient of ``soft``."""
    # Without gradients (the mode, which torch.func.grad switches on again), what would carry them is not computed.
    return hard.detach() + (soft - soft.detach()) if torch.is_grad_enabled() else hard


def within_unit(values: Tensor) -> Tensor:
    """``values`` clamped to [0, 1] with the gradient uncut: for results that only rounding can push out."""
    return straight_through(values.clamp(0, 1), values)


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise ``-log(-log(u))`` from uniform numbers in the open interval (0, 1), any shape."""
    return -torch.log(-torch.log(uniform))


def select(log_pi: Tensor, uniform: Tensor) -> Tensor:  # (B,)
    """Draw one of N with probabilities pi: ``argmax(log pi + gumbel)``. Integers, no gradient.

    Args:
        log_pi: logarithms of the probabilities, ``(N,)``.
        uniform: numbers in (0, 1), ``(B, N)``.
    """
    return (log_pi.detach() + gumbel(uniform)).argmax(-1)


def relaxed_selection(log_pi: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:  # (B,), (B,)
    """Eq. (9) of the paper: the pick ``i = argmax u`` and the factor ``u_i / SG(u_i)``.

    ``u = softmax((log pi + gumbel) / temperature)``. The factor is 1 in value; multiplied with the picked operation's
    output it carries the gradient ``grad log u_i``. The resulting gradient with respect to pi is biased: for a loss
    linear in the image and two equal probabilities it tends to ln 2 times the truth as the temperature falls; for
    other losses it may vanish or have any size. The unbiased alternative is the log-probability of :func:`select`.

    Args:
        log_pi: logarithms of the probabilities, ``(N,)``.
        uniform: numbers in (0, 1), ``(B, N)``.
        temperature: of the softmax, positive.

    Returns:
        The pick, integers ``(B,)`` (the same as :func:`select` draws), and the factor ``(B,)``.
    """
    perturbed = log_pi + gumbel(uniform)
    pick = perturbed.detach().argmax(-1)
    log_u = torch.log_softmax(perturbed / temperature, -1).gather(-1, pick[:, None])[:, 0]
    return pick, torch.exp(log_u - log_u.detach())


def bernoulli(logits: Tensor, uniform: Tensor) -> Tensor:
    """True with probability ``sigmoid(logits)``: the sign of the relaxed draw before its temperature. No gradient."""
    return logits.detach() + torch.logit(uniform) > 0


def relaxed_bernoulli(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """``sigmoid((logits + logit(u)) / temperature)`` in (0, 1): above one half exactly where :func:`bernoulli` is True.

    Args:
        logits: of the probability, any shape.
        uniform: numbers in (0, 1) of the same shape.
        temperature: positive; small means close to 0 or 1, and a gradient that is mostly zero and rarely large.
    """
    return torch.sigmoid((logits + torch.logit(uniform)) / temperature)
