"""Faster AutoAugment: a policy learnt by matching the density of augmented images to that of natural ones."""

import copy
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hypergrad import keys
from hypergrad.augment.checks import check_images
from hypergrad.augment.density import CriticLoss, check_critic, critic_loss, policy_losses, score_function_surrogate
from hypergrad.augment.policy import Policy
from hypergrad.batches import KeyedBatches
from hypergrad.errors import InvalidInputError, NonFiniteError
from hypergrad.interruption import poll
from hypergrad.optimizers import OptimizerLike, resolve
from hypergrad.progress import Progress
from hypergrad.tree import TensorDict


@dataclass(frozen=True)
class FasterRecord:
    """One step of critic and policy, in plain numbers.

    Attributes:
        step: from 0.
        critic_loss: of the critic before its update.
        wasserstein: mean score of the natural images minus that of the augmented ones.
        penalty: the gradient penalty, without its weight.
        policy_loss: of the policy before its update, against the updated critic.
        gradient: norm of the policy's gradient.
        accuracy: of the critic's classifier on the natural images; None where it has none.
    """

    step: int
    critic_loss: float
    wasserstein: float
    penalty: float
    policy_loss: float
    gradient: float
    accuracy: float | None


@dataclass(frozen=True)
class FasterResult:
    """What the search found.

    Attributes:
        policy: the learnt policy, on the critic's device.
        history: one record a step.
    """

    policy: Policy
    history: list[FasterRecord]


def faster_auto_augment(
    images: Tensor,
    targets: Tensor,
    critic: nn.Module,
    *,
    policy: Policy | None = None,
    epochs: int = 20,
    batch_size: int = 128,
    subset: int | None = 4000,
    gradient_penalty: float = 10.0,
    classification: float = 0.1,
    critic_optimizer: OptimizerLike | None = None,
    policy_optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> FasterResult:
    """Learn a policy whose augmented images a critic cannot tell from natural ones, and classifies alike.

    The policy is the generator of a Wasserstein GAN. Each step takes a batch of different images: one half stays
    natural, the other half is augmented (softly, with a fresh draw for each of the two updates). The critic D minimises

        mean D(augmented) - mean D(natural) + gradient_penalty * mean (||dD/dx|| - 1)^2
            + classification * CE(natural),

    the slope being taken between the two halves, over the whole image; then the policy minimises

        -mean D(augmented) + classification * CE(augmented),

    by the gradients that :class:`Policy` has: to pi through the images where ``selection="relaxed"``, by the score
    function with a leave-one-out baseline where it is "unbiased".

    The density is matched, not the validation loss: an operation that leaves the data's density is given up even
    where it would help, and nothing keeps the policy from doing nothing, which matches best. Few steps of a slow
    optimizer are part of the recipe.

    BatchNorm in the critic mixes the images of a batch, so that its slope at one image is not defined by that image,
    which the penalty takes for granted; and the halves pass through it apart. The authors of WGAN-GP advise
    LayerNorm (section 4); GroupNorm serves as well.

    Args:
        images: ``(N, C, H, W)``, floats in [0, 1], or 8-bit integers, which are converted batch by batch.
        targets: classes, integers ``(N,)``.
        critic: images to ``(score (B,) or (B, 1), logits (B, classes))``, see
            :class:`~hypergrad.augment.density.TwoHeads`; with ``classification=0`` the score alone will do. It is
            trained in place, in train mode, and batches go to its device and dtype.
        policy: where to start; it stays as it is, a copy is trained. None: ``Policy(selection="relaxed",
            temperature=0.05)`` with two stages.
        epochs: passes over the subset.
        batch_size: images a step, even; half of them are augmented. A rest that fills no batch is dropped.
        subset: so many images, the same share of each class, are drawn at the start and no others are used; None, or
            a number above N: all.
        gradient_penalty: weight of the penalty; 0 leaves it out.
        classification: weight of the cross-entropy; 0 leaves it out.
        critic_optimizer, policy_optimizer: factories such as ``functools.partial(torch.optim.Adam, lr=1e-3)``; the
            critic's may be an instance. None: Adam at 1e-3 with betas (0, 0.999).
        mean, std: by which images are normalised before the critic sees them, one number or one per channel; the
            slope is that to the normalised images. The authors' code: 0.5 and 0.5.
        seed: of everything random; the same seed, critic and data give the same policy (on a GPU up to the order of
            sums). torch's global generators are left as they were.
        progress: show progress on stderr.

    Returns:
        The policy, and one record a step.

    Raises:
        InvalidInputError: an argument cannot be used; the message says why.
        UnsupportedModelError: a critic that cannot be differentiated twice.
        NonFiniteError: a loss or the policy's gradient became NaN or infinite.

    References:
        Hataya et al., "Faster AutoAugment: Learning Augmentation Strategies using Backpropagation", ECCV 2020. The
        defaults are those of its authors' code, but for the policy's form, two stages with the selection of eq. (9) in
        Hataya et al., "Meta Approach to Data Augmentation Optimization", WACV 2022, which compares with it this way,
        and for the norm in the penalty, which that code takes over the channels of each pixel.
        Gulrajani et al., "Improved Training of Wasserstein GANs", NIPS 2017 (the critic's loss).
    """
    _check_data(images, targets)
    check_critic(critic)
    for name, value in (("gradient_penalty", gradient_penalty), ("classification", classification)):
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise InvalidInputError(f"{name} must be a finite number of at least 0; got {value!r}. 0 leaves it out.")
    if not isinstance(epochs, int) or epochs < 1:
        raise InvalidInputError(f"epochs must be an integer of at least 1; got {epochs!r}.")
    rows = torch.arange(len(images))
    if subset is not None:
        rows = stratified_subset(targets, subset, keys.derive(seed, "faster", "subset"))
    half = _half(batch_size, len(rows))
    policy = _copied(policy, half)

    like = next(critic.parameters())
    device = like.device
    policy.to(device)
    learnt: TensorDict = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    weights: TensorDict = {name: p for name, p in critic.named_parameters() if p.requires_grad}
    adam = functools.partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.999))
    critic_steps = resolve(adam if critic_optimizer is None else critic_optimizer, weights, "critic_optimizer")
    policy_steps = resolve(adam if policy_optimizer is None else policy_optimizer, learnt, "policy_optimizer")
    offset, scale = _statistics(mean, std, images.shape[1], like)
    batches = KeyedBatches(rows, batch_size=batch_size, seed=keys.derive(seed, "faster", "order"), index=False)
    total = epochs * len(batches)
    history: list[FasterRecord] = []
    critic.train()
    # The critic may have noise of its own (dropout), which comes from the global generators.
    with (
        keys.preserved_rng(device, keys.derive(seed, "faster", "critic")),
        torch.enable_grad(),
        Progress(total, "Faster AutoAugment", enabled=progress) as shown,
    ):
        for t in range(total):
            poll()
            (chosen,) = batches.batch(t)
            x, y = images[chosen.to(images.device)].to(device), targets[chosen.to(targets.device)].to(device)
            x = x.to(like.dtype) if x.is_floating_point() else x.to(like.dtype) / 255
            natural, original = x[:half], x[half:]

            with torch.no_grad():
                augmented = policy(original, soft=True, key=keys.derive(seed, "faster", "critic step", t))
            mix = keys.uniform(keys.derive(seed, "faster", "mix", t), torch.arange(half, device=device), 1)[:, 0]
            loss = critic_loss(
                critic,
                (natural - offset) / scale,
                y[:half],
                (augmented - offset) / scale,
                mix.to(x.dtype),
                gradient_penalty=gradient_penalty,
                classification=classification,
            )
            critic_steps.zero_grad()
            loss.total.backward()
            critic_steps.step()

            augmented, log_prob = policy.draw(original, soft=True, key=keys.derive(seed, "faster", "policy step", t))
            losses = policy_losses(critic, (augmented - offset) / scale, y[half:], classification=classification)
            objective = losses.mean()
            if policy.selection == "unbiased":
                objective = objective + score_function_surrogate(losses, log_prob, policy.group_size)
            policy_steps.zero_grad()
            # Only the policy's: the critic's parameters are held, and get no gradient.
            objective.backward(inputs=list(learnt.values()))
            history.append(_record(t, loss, objective, learnt.values()))
            policy_steps.step()
            shown.update(t + 1, f"Wasserstein estimate {history[-1].wasserstein:.4g}")
    critic_steps.zero_grad()
    policy_steps.zero_grad()
    return FasterResult(policy, history)


def stratified_subset(targets: Tensor, size: int, key: int) -> Tensor:
    """Rows of ``size`` samples, ascending, with each class's share of them that of the whole (largest remainder).

    Args:
        targets: classes, integers ``(N,)``.
        size: how many; N or more gives all rows.
        key: from :func:`hypergrad.keys.derive`; which samples of a class are taken depends on it.

    Raises:
        InvalidInputError: the size is no integer of at least 1.
    """
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InvalidInputError(f"subset must be an integer of at least 1, or None for all images; got {size!r}.")
    n = len(targets)
    if size >= n:
        return torch.arange(n)
    _, label, counts = torch.unique(targets.cpu(), return_inverse=True, return_counts=True)
    quota, rest = counts * size // n, counts * size % n
    quota[torch.argsort(rest, descending=True, stable=True)[: size - int(quota.sum())]] += 1
    shuffled = torch.randperm(n, generator=keys.generator(key))
    by_class = shuffled[torch.argsort(label[shuffled], stable=True)]
    place = torch.arange(n) - (counts.cumsum(0) - counts)[label[by_class]]  # within its class
    return by_class[place < quota[label[by_class]]].sort().values


def _check_data(images: Tensor, targets: Tensor) -> None:
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        check_images(torch.empty(images.shape, device="meta"))  # the shape alone: no value of 8 bits is wrong
    else:
        check_images(images)
    if not isinstance(targets, Tensor) or targets.shape != images.shape[:1] or targets.dtype != torch.int64:
        shown = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise InvalidInputError(
            f"targets must hold one class per image, a torch.int64 tensor of shape ({len(images)},); got {shown}. "
            "For other integers: targets.long()."
        )
    if len(targets) and int(targets.min()) < 0:
        raise InvalidInputError(f"targets must be classes counted from 0; got {int(targets.min())}.")


def _half(batch_size: int, samples: int) -> int:
    if not isinstance(batch_size, int) or batch_size < 2 or batch_size % 2 or batch_size > samples:
        raise InvalidInputError(
            f"batch_size must be an even integer in 2..{samples} (the images in use), half of them to stay natural; "
            f"got {batch_size!r}."
        )
    return batch_size // 2


def _copied(policy: Policy | None, half: int) -> Policy:
    if policy is None:
        return Policy(stages=2, selection="relaxed", temperature=0.05)
    if not isinstance(policy, Policy) or not any(p.requires_grad for p in policy.parameters()):
        raise InvalidInputError(
            f"policy must be a hypergrad.augment.Policy with parameters to learn; got {type(policy).__name__}."
        )
    if policy.selection == "unbiased" and half <= policy.group_size:
        raise InvalidInputError(
            f"The unbiased selection gradient compares picks, but all {half} augmented images of a batch share theirs "
            f"(group_size={policy.group_size}). Use a larger batch_size, a smaller group_size, or selection='relaxed'."
        )
    return copy.deepcopy(policy)


def _statistics(
    mean: float | Sequence[float], std: float | Sequence[float], channels: int, like: Tensor
) -> tuple[Tensor, Tensor]:  # (1, C or 1, 1, 1) each
    try:
        offset, scale = (torch.as_tensor(v).to(like).reshape(1, -1, 1, 1) for v in (mean, std))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"mean and std must be numbers, or one per channel; got {mean!r}, {std!r}.") from error
    wrong = [v.shape[1] for v in (offset, scale) if v.shape[1] not in (1, channels)]
    if wrong or not bool((scale > 0).all()) or not bool((offset + scale).isfinite().all()):
        raise InvalidInputError(
            f"mean and std must be finite numbers, or one for each of the {channels} channels, and std positive; "
            f"got {mean!r}, {std!r}."
        )
    return offset, scale


def _record(step: int, critic: CriticLoss, policy: Tensor, learnt: Iterable[Tensor]) -> FasterRecord:
    norms = [torch.linalg.vector_norm(p.grad).to(policy) for p in learnt if p.grad is not None]
    gradient = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros_like(policy)
    accuracy = torch.zeros_like(policy) if critic.accuracy is None else critic.accuracy
    # All in one tensor: the host asks the device once.
    parts = (critic.total, critic.wasserstein, critic.penalty, policy, gradient, accuracy)
    values: list[float] = torch.stack([v.detach() for v in parts]).tolist()
    loss, wasserstein, penalty, policy_loss, norm, share = values
    if not all(map(math.isfinite, values)):
        raise NonFiniteError(
            f"Step {step}: the critic's loss is {loss:.4g}, the policy's {policy_loss:.4g}, its gradient's norm "
            f"{norm:.4g}. Lower the learning rates, e.g. critic_optimizer=functools.partial(torch.optim.Adam, "
            "lr=1e-4), and look for NaN in the critic's parameters before the start."
        )
    return FasterRecord(step, loss, wasserstein, penalty, policy_loss, norm, None if critic.accuracy is None else share)
