"""Losses of an augmented image whose expectation over all selections, and its gradient, can be enumerated."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from _images import Part, read_digits
from torch import Tensor

from hypergrad import augment, keys

#: Rotate, TranslateX and Brightness have a random sign, the others none: 8 states a stage, 64 sequences of two.
OPERATIONS = ("Rotate", "TranslateX", "Brightness", "Invert", "Solarize")
STAGES = 2
MAGNITUDE = 0.5
UNEQUAL = ((1.0, 0.0, -1.0, 0.5, -0.5), (-0.5, 1.0, 0.0, -1.0, 0.5))
HIDDEN = 32


@dataclass(frozen=True)
class Problem:
    """A loss for every image and every sequence of states; a state is an operation and, where it has one, a sign.

    Attributes:
        name: what it is called in tables.
        logits: of the selection probabilities, ``(K, N)``.
        states: the operation of each state, ``(S,)``.
        losses: of each image after each sequence of K states, ``(M, S**K)``, the last stage running fastest.
        slopes: their derivatives with respect to a factor of 1 in front of each stage's output, ``(M, S**K, K)``: what
            eq. (9) sends its gradient through.
    """

    name: str
    logits: Tensor
    states: Tensor
    losses: Tensor
    slopes: Tensor

    def expected_loss(self, logits: Tensor) -> Tensor:
        """The mean over images and draws, by summing all of them."""
        joint = logits.new_ones(1)
        for probabilities in torch.softmax(logits, -1):
            state = probabilities[self.states] / torch.bincount(self.states)[self.states]  # both signs alike
            joint = (joint[:, None] * state).flatten()
        return (self.losses.mean(0) * joint).sum()

    def truth(self) -> Tensor:  # (K, N)
        """The gradient of the expected loss with respect to the logits."""
        logits = self.logits.clone().requires_grad_()
        return torch.autograd.grad(self.expected_loss(logits), logits)[0]


def scalar_problem(
    name: str, loss: Callable[[Tensor], Tensor], outputs: Sequence[float], pi: Sequence[float] = (0.5, 0.5)
) -> Problem:
    """One stage whose operations give the numbers ``outputs``, whatever the image."""
    factor = torch.ones(1, len(outputs), 1, dtype=torch.float64, requires_grad=True)
    losses = loss(factor[..., 0] * torch.tensor(outputs, dtype=torch.float64))
    (slopes,) = torch.autograd.grad(losses.sum(), factor)
    logits = torch.tensor([pi], dtype=torch.float64).log()
    return Problem(name, logits, torch.arange(len(outputs)), losses.detach(), slopes)


def image_problem(name: str, loss: Callable[[Tensor, Tensor], Tensor], part: Part, logits: Tensor) -> Problem:
    """Two stages of :data:`OPERATIONS`, always applied at magnitude 0.5, on images.

    Args:
        name: in tables.
        loss: ``(images (M, 1, H, W), labels (M,)) -> losses (M,)``.
        part: the images and labels.
        logits: of the selection, ``(2, N)``.
    """
    operations = [augment.get_operation(o) for o in OPERATIONS]
    states = [(i, sign) for i, o in enumerate(operations) for sign in ((1.0, -1.0) if o.signed else (1.0,))]
    ones = torch.ones(len(part.labels), dtype=part.images.dtype)
    losses, slopes = [], []
    for sequence in itertools.product(states, repeat=STAGES):
        factor = torch.ones(len(ones), STAGES, dtype=ones.dtype, requires_grad=True)
        images = part.images
        for stage, (operation, sign) in enumerate(sequence):
            images = operations[operation](images, MAGNITUDE * ones, sign * ones)
            images = images * factor[:, stage, None, None, None]
        loss_of_each = loss(images, part.labels)
        slopes.append(torch.autograd.grad(loss_of_each.sum(), factor)[0])
        losses.append(loss_of_each.detach())
    return Problem(name, logits, torch.tensor([i for i, _ in states]), torch.stack(losses, 1), torch.stack(slopes, 1))


Weights = dict[str, Tensor]


def initial_weights(seed: int) -> Weights:
    """Of a network with one hidden layer for 8x8 images and 10 classes; normal, by fan-in."""
    draw = keys.generator(keys.derive(seed, "network"))
    first = torch.randn(HIDDEN, 64, generator=draw, dtype=torch.float64) / 8
    second = torch.randn(10, HIDDEN, generator=draw, dtype=torch.float64) / HIDDEN**0.5
    zeros = {"b1": torch.zeros(HIDDEN, dtype=torch.float64), "b2": torch.zeros(10, dtype=torch.float64)}
    return {"w1": 2 * first, "w2": 2 * second, **zeros}


def cross_entropy(weights: Weights, images: Tensor, labels: Tensor) -> Tensor:  # (B,)
    """Of the network, one value an image."""
    hidden = torch.tanh(F.linear(images.flatten(1), weights["w1"], weights["b1"]))
    return F.cross_entropy(F.linear(hidden, weights["w2"], weights["b2"]), labels, reduction="none")


def trained_weights(weights: Weights, part: Part, steps: int = 100, lr: float = 0.5) -> Weights:
    """After some steps of gradient descent on the whole of ``part``, without augmentation."""
    for _ in range(steps):
        held = {k: w.requires_grad_() for k, w in weights.items()}
        grads = torch.autograd.grad(cross_entropy(held, part.images, part.labels).mean(), list(held.values()))
        weights = {k: w.detach() - lr * g for (k, w), g in zip(held.items(), grads, strict=True)}
    return weights


def cross_derivative(weights: Weights, val: Part) -> Callable[[Tensor, Tensor], Tensor]:
    """Minus the product of each image's loss gradient with the validation gradient.

    Its derivative with respect to the policy is the implicit term of the hypergradient with the inverse Hessian
    replaced by the identity, so this is the "loss" whose selection gradient an outer step really needs.
    """
    held = {k: w.clone().requires_grad_() for k, w in weights.items()}
    direction = torch.autograd.grad(cross_entropy(held, val.images, val.labels).mean(), list(held.values()))

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        # All the products at once: sum_i c_i l_i is linear in c, and so is its gradient's product with the direction.
        c = torch.ones(len(images), dtype=images.dtype, requires_grad=True)
        total = (c * cross_entropy(held, images, labels)).sum()
        grads = torch.autograd.grad(total, list(held.values()), create_graph=True)
        product = torch.stack([(g * d).sum() for g, d in zip(grads, direction, strict=True)]).sum()
        return -torch.autograd.grad(product, c, create_graph=True)[0]

    return loss


def scalar_problems() -> list[Problem]:
    """Four in which the answer is known in closed form."""
    return [
        scalar_problem("2 y, O = (1, 3)", lambda y: 2 * y, (1.0, 3.0)),
        scalar_problem("(y - 1)^2, O = (1, 0)", lambda y: (y - 1) ** 2, (1.0, 0.0)),
        scalar_problem("(y - 2)^2, O = (1, 3)", lambda y: (y - 2) ** 2, (1.0, 3.0)),
        scalar_problem("y, O = (1, 1), pi = (0.8, 0.2)", lambda y: y, (1.0, 1.0), (0.8, 0.2)),
    ]


def digit_problems(seed: int, images: int) -> list[Problem]:
    """Four on scikit-learn's digits.

    Args:
        seed: of the network's weights and of the digits.
        images: how many digits are augmented; as many again are the validation images.
    """
    digits = read_digits()
    order = torch.randperm(len(digits.labels), generator=keys.generator(keys.derive(seed, "split")))
    digits = Part(digits.images.double(), digits.labels)
    part, val = digits.take(order[:images]), digits.take(order[images : 2 * images])
    random = initial_weights(seed)
    trained = trained_weights(random, digits.take(torch.cat([order[:images], order[2 * images :]])))
    equal = torch.zeros(STAGES, len(OPERATIONS), dtype=torch.float64)
    unequal = torch.tensor(UNEQUAL, dtype=torch.float64)

    def fitted(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(trained, x, y)

    return [
        image_problem("random network, equal pi", lambda x, y: cross_entropy(random, x, y), part, equal),
        image_problem("trained network, equal pi", fitted, part, equal),
        image_problem("trained network, unequal pi", fitted, part, unequal),
        image_problem("cross derivative, equal pi", cross_derivative(trained, val), part, equal),
    ]
