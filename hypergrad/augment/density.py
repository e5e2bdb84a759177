"""The critic that Faster AutoAugment plays against: its two heads, its loss, and the loss of the policy."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergrad.errors import InvalidInputError
from hypergrad.modules import check_model


class TwoHeads(nn.Module):
    """A critic made of any backbone, with a score and class logits over the same features.

    The logits are linear, the score has one hidden layer of as many units as there are features, as in the code of
    Faster AutoAugment's authors.

    Args:
        backbone: images ``(B, C, H, W)`` to features ``(B, features)``; more dimensions are flattened.
        features: how many there are.
        classes: of the classifier.

    Raises:
        InvalidInputError: the backbone is no module, or a number is no integer of at least 1.

    Example:
        >>> import torch
        >>> critic = TwoHeads(torch.nn.AdaptiveAvgPool2d(2), features=12, classes=10)
        >>> score, logits = critic(torch.rand(4, 3, 8, 8))
        >>> score.shape, logits.shape
        (torch.Size([4]), torch.Size([4, 10]))
    """

    def __init__(self, backbone: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise InvalidInputError(f"backbone must be a torch.nn.Module; got {type(backbone).__name__}.")
        for name, value in (("features", features), ("classes", classes)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInputError(f"{name} must be an integer of at least 1; got {value!r}.")
        self.backbone = backbone
        self.score = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 1))
        self.logits = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The score ``(B,)``, high for natural images, and the logits ``(B, classes)``."""
        features = self.backbone(images).flatten(1)
        return self.score(features)[:, 0], self.logits(features)


def check_critic(critic: nn.Module) -> None:
    """Refuse what cannot be trained as a critic.

    Raises:
        InvalidInputError: no module, nothing in it to train, or parameters of half precision.
        UnsupportedModelError: a module that cannot be differentiated twice.
    """
    if not isinstance(critic, nn.Module) or not any(p.requires_grad for p in critic.parameters()):
        raise InvalidInputError(
            f"critic must be a torch.nn.Module with parameters to train; got {type(critic).__name__}. "
            "TwoHeads(backbone, features, classes) makes one."
        )
    check_model(critic)
    dtype = next(critic.parameters()).dtype
    if dtype not in (torch.float32, torch.float64):
        raise InvalidInputError(
            f"The critic's parameters must be float32 or float64, because the penalty differentiates it twice; "
            f"got {dtype}. For speed keep them in float32 and call this under torch.autocast."
        )


def judge(critic: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:  # (B,), (B, classes)
    """The critic's score of each image, and its logits where it classifies, in the images' dtype.

    Raises:
        InvalidInputError: the critic returned something else.
    """
    output = critic(images)
    score, logits = output if isinstance(output, tuple | list) and len(output) == 2 else (output, None)
    batch = len(images)
    if not isinstance(score, Tensor) or score.shape not in ((batch,), (batch, 1)):
        raise InvalidInputError(
            f"The critic must return a score for each of {batch} images, shape ({batch},) or ({batch}, 1), alone or "
            f"as (score, logits); got {_shown(output)}. TwoHeads(backbone, features, classes) makes such a critic."
        )
    if logits is not None and (not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != batch):
        raise InvalidInputError(f"The critic's logits must have the shape ({batch}, classes); got {_shown(logits)}.")
    return score.reshape(batch).to(images.dtype), None if logits is None else logits.to(images.dtype)


def _shown(output: object) -> str:
    if isinstance(output, tuple | list):
        return f"({', '.join(_shown(o) for o in output)})"
    return f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__


def slope_penalty(critic: nn.Module, images: Tensor) -> Tensor:
    """The gradient penalty of WGAN-GP, ``mean over images of (||dD/dx|| - 1)^2``, 0-d, with a graph to the critic.

    The norm runs over the whole image, all of C, H and W. It is computed outside autocast.

    Args:
        critic: must be twice differentiable, as the usual layers are.
        images: ``(B, C, H, W)``, the points at which the slope is measured.

    References:
        Gulrajani et al., "Improved Training of Wasserstein GANs", NIPS 2017, eq. (3) and section 4.
    """
    with torch.autocast(images.device.type, enabled=False):
        points = images.detach().requires_grad_()
        score, _ = judge(critic, points)
        (slope,) = torch.autograd.grad(score.sum(), points, create_graph=True)
    norm: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return (norm - 1).square().mean()


@dataclass(frozen=True)
class CriticLoss:
    """The critic's loss and its parts, 0-d tensors; only ``total`` has a graph.

    Attributes:
        total: ``-wasserstein + gradient_penalty * penalty + classification * cross-entropy of the natural images``.
        wasserstein: mean score of the natural images minus that of the augmented ones, the critic's estimate of the
            distance between the two densities (up to the slope that it reaches).
        penalty: see :func:`slope_penalty`.
        accuracy: of the classifier on the natural images; None where it has none.
    """

    total: Tensor
    wasserstein: Tensor
    penalty: Tensor
    accuracy: Tensor | None


def critic_loss(
    critic: nn.Module,
    natural: Tensor,
    targets: Tensor,
    augmented: Tensor,
    mix: Tensor,
    *,
    gradient_penalty: float,
    classification: float,
) -> CriticLoss:
    """What the critic minimises: it scores natural images high and augmented ones low, with a slope of about 1.

    Args:
        critic: see :func:`judge`.
        natural: ``(B, C, H, W)``.
        targets: classes of the natural images, integers ``(B,)``.
        augmented: ``(B, C, H, W)``; nothing flows back to the policy.
        mix: in [0, 1], ``(B,)``: the penalty is taken at ``mix * natural + (1 - mix) * augmented``.
        gradient_penalty: weight of the penalty.
        classification: weight of the cross-entropy.
    """
    augmented = augmented.detach()
    score, logits = judge(critic, natural)
    wasserstein = score.mean() - judge(critic, augmented)[0].mean()
    total = -wasserstein
    penalty = torch.zeros_like(wasserstein)
    if gradient_penalty:
        penalty = slope_penalty(critic, torch.lerp(augmented, natural, mix[:, None, None, None]))
        total = total + gradient_penalty * penalty
    if classification:
        total = total + classification * _cross_entropy(logits, targets).mean()
    accuracy = None if logits is None else (logits.detach().argmax(1) == targets).to(score.dtype).mean()
    return CriticLoss(total, wasserstein.detach(), penalty.detach(), accuracy)


def policy_losses(critic: nn.Module, augmented: Tensor, targets: Tensor, *, classification: float) -> Tensor:  # (B,)
    """What the policy minimises, for each image: ``-score + classification * cross-entropy``.

    Args:
        critic: see :func:`judge`.
        augmented: ``(B, C, H, W)``, with a graph to the policy.
        targets: classes, integers ``(B,)``.
        classification: weight of the cross-entropy.
    """
    score, logits = judge(critic, augmented)
    return -score + classification * _cross_entropy(logits, targets) if classification else -score


def _cross_entropy(logits: Tensor | None, targets: Tensor) -> Tensor:  # (B,)
    if logits is None:
        raise InvalidInputError(
            "The critic returned scores only, but it must classify as well, (score, logits). "
            "TwoHeads(backbone, features, classes) makes such a critic; without a classifier use classification=0."
        )
    return F.cross_entropy(logits, targets, reduction="none")


def score_function_surrogate(losses: Tensor, log_prob: Tensor, group_size: int) -> Tensor:
    """A value of 0 (0-d) whose gradient is the unbiased one of ``losses.mean()`` to pi, by the score function.

    The baseline of an image is the mean loss of the images that do not share its picks (leave one group out), so the
    estimate stays unbiased. With all images in a single group there is no baseline to take.

    Args:
        losses: ``(B,)``; their own graph is not followed.
        log_prob: of the picks, ``(B,)``, see :meth:`hypergrad.augment.Policy.draw`.
        group_size: of the policy, below B.

    References:
        Kool, van Hoof, Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!", 2019.
    """
    losses = losses.detach()
    group = torch.arange(len(losses), device=losses.device) // group_size
    sums, sizes = (
        torch.zeros_like(losses).index_add(0, group, v)[group] for v in (losses, torch.ones_like(losses))
    )  # of each image's own group
    baseline = (losses.sum() - sums) / (len(losses) - sizes)
    return ((losses - baseline) * (log_prob - log_prob.detach())).mean()
