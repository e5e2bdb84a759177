"""Policies with nothing to learn: RandAugment, TrivialAugment, AutoAugment, and a learned policy that was frozen."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from hypergrad.augment import policy_file
from hypergrad.augment.autoaugment import SUB_POLICIES
from hypergrad.augment.checks import check_images, working_dtype
from hypergrad.augment.mixture import Choice, Mixture, noise, resolve_operations
from hypergrad.augment.operations import PAPER_OPERATIONS, Operation
from hypergrad.augment.pictures import draw_policy, stage_means
from hypergrad.augment.pillow_export import PillowPolicy
from hypergrad.augment.torchvision_export import TorchvisionPolicy
from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.files import Pathlike
from hypergrad.registry import closest

#: RandAugment's and TrivialAugment's operations: the paper's without Invert, and Identity.
COMMON_OPERATIONS = ("Identity", *(name for name in PAPER_OPERATIONS if name != "Invert"))


class FixedPolicy(nn.Module):
    """S equally likely sub-policies of K stages; a stage picks one of N operations for each image.

    Args:
        operations: N names, or :class:`~hypergrad.augment.Operation` records.
        pi: probability of each pick, ``(S, K, N)``; every row sums to 1.
        p: probability that the pick is applied, ``(S, K, N)``.
        mu: magnitudes in [0, 1], L equally likely ones, ``(S, K, N, L)``.
        ranges: of the amounts, for operations given by name.

    Raises:
        InvalidInputError: a shape or a value that cannot be.
        UnknownNameError: an operation or a range that does not exist.

    Example:
        >>> import torch
        >>> policy = rand_augment(num_operations=2, magnitude=9)
        >>> policy(torch.rand(4, 3, 8, 8), key=0).shape
        torch.Size([4, 3, 8, 8])
    """

    def __init__(
        self, operations: Sequence[str | Operation], *, pi: Tensor, p: Tensor, mu: Tensor, ranges: str = "madao"
    ) -> None:
        super().__init__()
        table = resolve_operations(operations, ranges)
        for name, value in (("pi", pi), ("p", p), ("mu", mu)):
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise InvalidInputError(
                    f"{name} must be a tensor of floats; got {value!r}. From a list: torch.tensor(values)."
                )
        if pi.ndim != 3 or 0 in pi.shape or pi.shape[2] != len(table):
            raise InvalidInputError(
                f"pi must have the shape (sub-policies, stages, {len(table)} operations); got {tuple(pi.shape)}."
            )
        if p.shape != pi.shape or mu.shape[:-1] != pi.shape or mu.shape[-1] == 0:
            raise InvalidInputError(
                f"p must have pi's shape {tuple(pi.shape)}, and mu one more dimension for the equally likely "
                f"magnitudes; got {tuple(p.shape)} and {tuple(mu.shape)}."
            )
        for name, value in (("pi", pi), ("p", p), ("mu", mu)):
            if not bool(((value >= 0) & (value <= 1)).all()):  # written so that NaN fails
                raise InvalidInputError(
                    f"{name} must lie in [0, 1]; got values from {value.min():.4g} to {value.max():.4g}."
                )
        if not bool(((pi.sum(-1) - 1).abs() < 1e-4).all()):
            raise InvalidInputError(f"Every row of pi must sum to 1; got sums {pi.sum(-1).flatten().tolist()}.")
        self.operations = tuple(o.name for o in table)
        self.mixture = Mixture(table)
        # Plain values, not parameters: nothing here is learned. Not saved with a model: the policy is an argument.
        self.register_buffer("pi", pi.detach().clone(), persistent=False)
        self.register_buffer("p", p.detach().clone(), persistent=False)
        self.register_buffer("mu", mu.detach().clone(), persistent=False)
        cumulative = pi.detach().double().cumsum(-1)
        self.register_buffer("_cumulative", cumulative / cumulative[..., -1:], persistent=False)

    def forward(
        self, images: Tensor, *, soft: bool = False, key: int | None = None, index: Tensor | None = None
    ) -> Tensor:
        """Augmented images.

        Args:
            images: ``(B, C, H, W)``, floats in [0, 1] (the range is checked on the CPU only).
            soft: has no effect; here because a :class:`~hypergrad.augment.Policy` has it.
            key: of the noise, from :func:`hypergrad.keys.derive`; None takes one from torch's global generator.
            index: the samples' indices, integers ``(B,)``; None numbers the batch from 0.

        Returns:
            Images of the same shape and dtype.

        Raises:
            InvalidInputError: images or indices that cannot be used.
        """
        check_images(images)
        choices = self.choose(noise(images, key, index, self.slots))
        result = images.to(working_dtype(images), copy=True)
        for groups in self.mixture.group(choices):
            result = self.mixture(result, groups, in_place=True)
        return result.to(images.dtype)

    @property
    def slots(self) -> int:
        """How many uniform numbers an image needs."""
        return 1 + 4 * self.get_buffer("pi").shape[1]

    def choose(self, uniform: Tensor) -> list[Choice]:
        """What each stage does to each image, from uniform numbers in (0, 1), ``(B, slots)``."""
        pi, p, mu = self.get_buffer("pi"), self.get_buffer("p"), self.get_buffer("mu")
        subs, stages, size = pi.shape
        cumulative = self.get_buffer("_cumulative").to(uniform.dtype)
        sub = (uniform[:, 0] * subs).long().clamp(max=subs - 1)
        choices = []
        for k in range(stages):
            selection, applied, level, sign = uniform[:, 1 + 4 * k : 5 + 4 * k].unbind(1)
            # Where the cumulative probability first reaches the number; one of probability 0 is never that.
            pick = (cumulative[sub, k] < selection[:, None]).sum(1).clamp(max=size - 1)
            levels = mu.shape[-1]
            magnitude = mu[sub, k, pick, (level * levels).long().clamp(max=levels - 1)].to(uniform.dtype)
            kept = torch.where(applied < p[sub, k, pick], pick, size)
            choices.append(Choice(kept, magnitude, torch.where(sign < 0.5, -1.0, 1.0).to(uniform.dtype)))
        return choices

    def preview(self, images: Tensor, path: Pathlike | None = None, *, key: int = 0, samples: int | None = None) -> Any:
        """A picture, as :meth:`hypergrad.augment.Policy.preview` makes it; pi, mu and p are means by stage."""
        pi, p, mu = self.get_buffer("pi"), self.get_buffer("p"), self.get_buffer("mu")
        subs, stages, size = pi.shape
        title = f"Fixed policy (stages: {stages}, operations: {size})"
        return draw_policy(
            images,
            lambda x, draw_key: self(x, key=draw_key),
            self.mixture.operations,
            stage_means(pi, p, mu),
            title=title if subs == 1 else f"{title}: means of {subs} sub-policies",
            path=path,
            key=key,
            samples=samples,
        )

    def save(self, path: Pathlike) -> None:
        """Write the policy as a readable JSON file, see :mod:`hypergrad.augment.policy_file`.

        Raises:
            InvalidInputError: an operation that could not be read back, or a place that cannot be written.
        """
        pi, p, mu = self.get_buffer("pi"), self.get_buffer("p"), self.get_buffer("mu")
        policy_file.write_fixed(path, policy_file.Fixed(operations=self.mixture.operations, pi=pi, p=p, mu=mu))

    @classmethod
    def load(cls, path: Pathlike) -> Self:
        """Read a policy that :meth:`save` wrote, bit-equal, or one that was written by hand.

        Raises:
            InvalidInputError: no such file, or a field that cannot be; the message names file, field and value.
            UnknownNameError: an operation that is not registered.
        """
        held = policy_file.read_fixed(path)
        return cls(held.operations, pi=held.pi, p=held.p, mu=held.mu)

    def to_pillow(self, seed: int | None = None) -> PillowPolicy:
        """The policy as a callable on Pillow images, for a loader's workers.

        Args:
            seed: None draws from Python's global ``random``, which torch's loaders seed in each worker; an integer
                gives a stream of its own, see :class:`~hypergrad.augment.pillow_export.PillowPolicy`.

        Raises:
            InvalidInputError: an operation has no Pillow function.
            MissingLibraryError: there is no Pillow.
        """
        pi, p, mu = self.get_buffer("pi"), self.get_buffer("p"), self.get_buffer("mu")
        return PillowPolicy(self.mixture.operations, pi=pi, p=p, mu=mu, seed=seed)

    def to_torchvision(self) -> TorchvisionPolicy:
        """The policy as a transform for ``torchvision.transforms.v2``."""
        return TorchvisionPolicy(self)

    def extra_repr(self) -> str:
        """The sizes, for ``print``."""
        subs, stages, _, levels = self.get_buffer("mu").shape
        return f"sub_policies={subs}, stages={stages}, operations={list(self.operations)}, magnitudes={levels}"


def _bin(value: int, bins: int, name: str) -> float:
    if not isinstance(bins, int) or isinstance(bins, bool) or bins < 2:
        raise InvalidInputError(f"bins must be an integer of at least 2; got {bins!r}. RandAugment counts in 30.")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < bins:
        raise InvalidInputError(f"{name} must be an integer from 0 to {bins - 1} (bins={bins}); got {value!r}.")
    return value / (bins - 1)


def rand_augment(
    num_operations: int = 2,
    magnitude: int = 9,
    *,
    bins: int = 30,
    operations: Sequence[str | Operation] = COMMON_OPERATIONS,
    ranges: str = "randaugment",
) -> FixedPolicy:
    """RandAugment (Cubuk et al., NeurIPS 2020): N operations, uniformly with replacement, at one magnitude M.

    Args:
        num_operations: N.
        magnitude: M, the bin: 0 is no change for operations with a strength, ``bins - 1`` the strongest.
        bins: how many there are.
        operations: to choose from; by default the fourteen of the paper.
        ranges: of the amounts.

    Raises:
        InvalidInputError: N below 1, or M outside the bins.
    """
    if not isinstance(num_operations, int) or isinstance(num_operations, bool) or num_operations < 1:
        raise InvalidInputError(
            f"num_operations must be an integer of at least 1; got {num_operations!r}. The paper uses 1 to 3."
        )
    table = resolve_operations(operations, ranges)
    shape = (1, num_operations, len(table))
    return FixedPolicy(
        table,
        pi=torch.full(shape, 1 / len(table)),
        p=torch.ones(shape),
        mu=torch.full((*shape, 1), _bin(magnitude, bins, "magnitude")),
    )


def trivial_augment_wide(
    *, bins: int = 31, operations: Sequence[str | Operation] = COMMON_OPERATIONS, ranges: str = "trivialaugment-wide"
) -> FixedPolicy:
    """TrivialAugment, wide (Müller and Hutter, ICCV 2021): one operation, and one magnitude, both uniformly.

    Args:
        bins: of the magnitude.
        operations: to choose from; by default the fourteen of the paper.
        ranges: of the amounts.

    Raises:
        InvalidInputError: fewer than two bins.
    """
    _bin(0, bins, "magnitude")
    table = resolve_operations(operations, ranges)
    shape = (1, 1, len(table))
    return FixedPolicy(
        table,
        pi=torch.full(shape, 1 / len(table)),
        p=torch.ones(shape),
        mu=torch.linspace(0, 1, bins).expand(*shape, bins),
    )


def auto_augment(name: str = "cifar10", *, ranges: str = "autoaugment") -> FixedPolicy:
    """AutoAugment's published policies (Cubuk et al., CVPR 2019, appendix): one of 25 pairs of operations an image.

    Args:
        name: "cifar10", "svhn" or "imagenet".
        ranges: of the amounts.

    Raises:
        UnknownNameError: no policy of that name.
    """
    if not isinstance(name, str) or name not in SUB_POLICIES:
        raise UnknownNameError(
            f"Unknown AutoAugment policy {name!r}.{closest(str(name), list(SUB_POLICIES))} "
            f"Published: {', '.join(SUB_POLICIES)}."
        )
    subs = SUB_POLICIES[name]
    names = [operation for operation in PAPER_OPERATIONS if any(operation == s[0] for sub in subs for s in sub)]
    shape = (len(subs), 2, len(names))
    pi, p, mu = torch.zeros(shape), torch.zeros(shape), torch.zeros(*shape, 1)
    for s, sub in enumerate(subs):
        for k, (operation, probability, magnitude) in enumerate(sub):
            place = s, k, names.index(operation)
            pi[place], p[place], mu[place] = 1, probability, _bin(magnitude, 10, "magnitude")
    return FixedPolicy(names, pi=pi, p=p, mu=mu, ranges=ranges)
