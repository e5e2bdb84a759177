"""The augmentation policy: K stages that each pick one operation per image, and apply it or not."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from hypergrad.augment import policy_file, relaxations
from hypergrad.augment.checks import check_images, column, working_dtype
from hypergrad.augment.fixed import FixedPolicy
from hypergrad.augment.mixture import Choice, Mixture, noise, resolve_operations
from hypergrad.augment.operations import PAPER_OPERATIONS, Operation, StraightThrough
from hypergrad.augment.pictures import draw_policy
from hypergrad.augment.pillow_export import PillowPolicy
from hypergrad.augment.torchvision_export import TorchvisionPolicy
from hypergrad.errors import InvalidInputError
from hypergrad.files import Pathlike

Selection = Literal["unbiased", "relaxed"]


class Policy(nn.Module):
    """A distribution over augmentations with the learnable values pi, mu and p, each ``(K, N)``.

    Each of the K stages picks for every image one of N operations with probabilities pi (eq. (9) of the paper, or the
    log-probability of the pick), and applies it with probability p at magnitude mu, ``b O(x; mu) + (1 - b) x`` (eq.
    (8)). The parameters are raw: ``pi = softmax``, ``mu = sigmoid``, ``p = sigmoid``; they start at equal
    probabilities and at 0.5.

    Args:
        stages: K.
        operations: names, the paper's fourteen by default, or :class:`~hypergrad.augment.Operation` records.
        ranges: of the amounts that magnitude 1 stands for, see :data:`hypergrad.augment.ranges.RANGES`.
        group_size: so many consecutive images of a batch share a pick (not the application, nor the sign); 1: every
            image has its own, the paper authors' code: 4. A shard of a batch draws what the whole batch would when it
            begins at a multiple of the group size.
        selection: where the gradient to pi comes from when ``soft``. "unbiased": from the log-probability that
            :meth:`draw` returns (the images carry none). "relaxed": eq. (9), through the images, which is biased.
        temperature: of the relaxed Bernoulli of eq. (8) and, unless told otherwise, of the selection.
        selection_temperature: of the softmax in eq. (9); used by ``selection="relaxed"`` only.
        straight_through: the gradient to the magnitudes of discrete operations: "surrogate", each by its own rule, or
            "unit", 1 for every pixel, as in the authors' code.

    Raises:
        InvalidInputError: an option of a wrong type or range.
        UnknownNameError: an operation that is not registered.

    Example:
        >>> import torch
        >>> policy = Policy(stages=2)
        >>> policy(torch.rand(4, 3, 8, 8), soft=False, key=0).shape
        torch.Size([4, 3, 8, 8])
    """

    def __init__(
        self,
        stages: int = 2,
        operations: Sequence[str | Operation] = PAPER_OPERATIONS,
        *,
        ranges: str = "madao",
        group_size: int = 1,
        selection: Selection = "unbiased",
        temperature: float = 0.5,
        selection_temperature: float | None = None,
        straight_through: StraightThrough = "surrogate",
    ) -> None:
        super().__init__()
        if not isinstance(stages, int) or isinstance(stages, bool) or stages < 1:
            raise InvalidInputError(f"stages must be an integer of at least 1; got {stages!r}. The paper uses 2.")
        if not isinstance(group_size, int) or isinstance(group_size, bool) or group_size < 1:
            raise InvalidInputError(
                f"group_size must be an integer of at least 1; got {group_size!r}. 1: every image has its own pick."
            )
        if straight_through not in ("surrogate", "unit"):
            raise InvalidInputError(f"straight_through must be 'surrogate' or 'unit'; got {straight_through!r}.")
        if selection not in ("unbiased", "relaxed"):
            raise InvalidInputError(
                f"selection must be 'unbiased' (log-probability) or 'relaxed' (eq. (9)); got {selection!r}."
            )
        selection_temperature = temperature if selection_temperature is None else selection_temperature
        for name, value in (("temperature", temperature), ("selection_temperature", selection_temperature)):
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
                raise InvalidInputError(f"{name} must be a positive number; got {value!r}. Common values are 0.1 to 1.")
        table = resolve_operations(operations, ranges)
        self.stages = stages
        self.operations = tuple(o.name for o in table)
        self.group_size = group_size
        self.selection: Selection = selection
        self.temperature = float(temperature)
        self.selection_temperature = float(selection_temperature)
        self.mixture = Mixture(table, straight_through)
        shape = (stages, len(table))
        self.pi = nn.Parameter(torch.zeros(shape))
        self.mu = nn.Parameter(torch.zeros(shape))
        self.p = nn.Parameter(torch.zeros(shape))

    def values(self) -> dict[str, Tensor]:
        """The constrained values ``pi``, ``mu`` and ``p``, each ``(K, N)``, detached."""
        return {
            "pi": torch.softmax(self.pi.detach(), -1),
            "mu": torch.sigmoid(self.mu.detach()),
            "p": torch.sigmoid(self.p.detach()),
        }

    def forward(self, images: Tensor, *, soft: bool, key: int | None = None, index: Tensor | None = None) -> Tensor:
        """Augmented images; like :meth:`draw`, without the log-probability."""
        return self.draw(images, soft=soft, key=key, index=index)[0]

    def draw(
        self, images: Tensor, *, soft: bool, key: int | None = None, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Augmented images, and the log-probability of the operations that were picked.

        Args:
            images: ``(B, C, H, W)``, floats in [0, 1] (the range is checked on the CPU only).
            soft: True for the outer step: relaxed application, with a graph to the parameters. False for use: hard
                choices, without a graph to the parameters. The same key picks the same operations in both.
            key: of the noise, from :func:`hypergrad.keys.derive`; None takes one from torch's global generator.
            index: the samples' indices, integers ``(B,)``; a sample's noise depends on the key and its index only (a
                group's pick on the index of its first). None numbers the batch from 0.

        Returns:
            Images of the same shape and dtype, and ``sum over stages of log pi[pick]``, ``(B,)``, which carries a
            gradient to pi exactly when ``soft`` and ``selection="unbiased"``.

        Raises:
            InvalidInputError: images or indices that cannot be used.
        """
        check_images(images)
        size = len(self.operations)
        # Per stage: N numbers for the selection, one for the application, one for the sign.
        uniforms = noise(images, key, index, self.stages * (size + 2)).view(len(images), self.stages, size + 2)
        dtype = working_dtype(images)
        raw = (self.pi, self.mu, self.p) if soft else (self.pi.detach(), self.mu.detach(), self.p.detach())
        pi_logits, mu_logits, p_logits = (value.to(dtype) for value in raw)
        log_pi, mu = torch.log_softmax(pi_logits, -1), torch.sigmoid(mu_logits)
        result = images.to(dtype) if soft else images.to(dtype, copy=True)  # hard stages write into it
        log_prob = result.new_zeros(len(images))
        # No stage's choices depend on the images, so all are made before the first: the host then waits only once.
        choices: list[Choice] = []
        blends: list[Tensor] = []
        factors: list[Tensor] = []
        for k in range(self.stages):
            selection, applied = self._shared(uniforms[:, k, :-2]), uniforms[:, k, -2]
            sign = torch.where(uniforms[:, k, -1] < 0.5, -1.0, 1.0).to(dtype)
            if soft and self.selection == "relaxed":
                pick, factor = relaxations.relaxed_selection(log_pi[k], selection, self.selection_temperature)
                factors.append(factor)
            else:
                pick = relaxations.select(log_pi[k], selection)
            log_prob = log_prob + log_pi[k][pick]
            magnitude, logits = mu[k][pick], p_logits[k][pick]
            if soft:
                blends.append(relaxations.relaxed_bernoulli(logits, applied, self.temperature))
            else:
                # An operation that is not applied need not be computed: those images go to a group of their own.
                pick = torch.where(relaxations.bernoulli(logits, applied), pick, size)
            choices.append(Choice(pick, magnitude, sign))
        for k, groups in enumerate(self.mixture.group(choices)):
            changed = self.mixture(result, groups, in_place=not soft)
            result = torch.lerp(result, changed, column(blends[k])) if soft else changed
            if factors:
                result = result * column(factors[k])  # 1 in value
        if self.selection == "relaxed":
            log_prob = log_prob.detach()
        return result.to(images.dtype), log_prob

    def _shared(self, uniform: Tensor) -> Tensor:  # (B, N)
        """Each group of images gets the numbers of its first."""
        if self.group_size == 1:
            return uniform
        rows = torch.arange(len(uniform), device=uniform.device)
        return uniform[rows - rows % self.group_size]

    def freeze(self) -> FixedPolicy:
        """The policy as it stands, with nothing left to learn: what is exported, and cheaper to draw from."""
        held = {name: value[None] for name, value in self.values().items()}
        return FixedPolicy(self.mixture.operations, pi=held["pi"], p=held["p"], mu=held["mu"][..., None])

    def preview(self, images: Tensor, path: Pathlike | None = None, *, key: int = 0, samples: int | None = None) -> Any:
        """A picture: what the policy does to images, each operation by magnitude, and pi, mu and p.

        Args:
            images: ``(B, C, H, W)``, floats in [0, 1], 1 or 3 channels; the first eight are shown.
            path: where to write it (PNG, SVG or PDF, by suffix); None: it is only returned.
            key: of the draws.
            samples: how many (hard) draws of each image; None: as many as fit beside the operations.

        Returns:
            The ``matplotlib.figure.Figure``.

        Raises:
            InvalidInputError: images that cannot be shown, or a path that cannot be written.
            MissingLibraryError: matplotlib cannot be imported.
        """
        title = f"Policy (stages: {self.stages}, operations: {len(self.operations)})"
        return draw_policy(
            images,
            lambda x, draw_key: self(x, soft=False, key=draw_key),
            self.mixture.operations,
            self.values(),
            title=title,
            path=path,
            key=key,
            samples=samples,
        )

    def save(self, path: Pathlike) -> None:
        """Write the policy as a readable JSON file, see :mod:`hypergrad.augment.policy_file`.

        Raises:
            InvalidInputError: a parameter that is not finite, an operation that could not be read back, or a place
                that cannot be written.
        """
        held = policy_file.Learned(
            operations=self.mixture.operations,
            pi=self.pi,
            mu=self.mu,
            p=self.p,
            group_size=self.group_size,
            selection=self.selection,
            temperature=self.temperature,
            selection_temperature=self.selection_temperature,
            straight_through=self.mixture.straight_through,
        )
        policy_file.write_learned(path, held)

    @classmethod
    def load(cls, path: Pathlike) -> Self:
        """Read a policy that :meth:`save` wrote, with bit-equal parameters, or one that was written by hand.

        Raises:
            InvalidInputError: no such file, or a field that cannot be; the message names file, field and value.
            UnknownNameError: an operation that is not registered.
        """
        held = policy_file.read_learned(path)
        policy = cls(
            len(held.pi),
            held.operations,
            group_size=held.group_size,
            selection=held.selection,
            temperature=held.temperature,
            selection_temperature=held.selection_temperature,
            straight_through=held.straight_through,
        )
        policy.pi, policy.mu, policy.p = nn.Parameter(held.pi), nn.Parameter(held.mu), nn.Parameter(held.p)
        return policy

    def to_pillow(self, seed: int | None = None) -> PillowPolicy:
        """The policy as it stands, as a callable on Pillow images; see :meth:`FixedPolicy.to_pillow`."""
        return self.freeze().to_pillow(seed)

    def to_torchvision(self) -> TorchvisionPolicy:
        """The policy as it stands, as a transform for ``torchvision.transforms.v2``."""
        return self.freeze().to_torchvision()

    def extra_repr(self) -> str:
        """The options, for ``print``."""
        return (
            f"stages={self.stages}, operations={list(self.operations)}, group_size={self.group_size}, "
            f"selection={self.selection!r}, temperature={self.temperature}, "
            f"selection_temperature={self.selection_temperature}, straight_through={self.mixture.straight_through!r}"
        )
