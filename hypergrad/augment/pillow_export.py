"""A policy as a callable on Pillow images, for a loader's workers: plain numbers, Pillow, and Python's ``random``."""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor

from hypergrad.augment.operations import Operation
from hypergrad.errors import InvalidInputError
from hypergrad.optional import require

#: An image of Pillow; not named by its type, because Pillow is optional.
Picture = Any
#: Operations that were drawn, in order: name, and amount in the operation's unit.
Drawn = Sequence[tuple[str, float]]
_Function = Callable[[Picture, float], Picture]


def pillow_functions(operations: Iterable[Operation]) -> dict[str, _Function]:
    """What applies each operation to an image of Pillow.

    Raises:
        InvalidInputError: an operation has nothing of that kind.
    """
    functions = {}
    for operation in operations:
        if operation.pillow is None:
            raise InvalidInputError(
                f"The operation {operation.name!r} has no Pillow function, so it cannot be applied to Pillow images. "
                "Give register_operation one by pillow=, or leave the operation out."
            )
        functions[operation.name] = operation.pillow
    return functions


def apply_to_pillow(image: Picture, drawn: Drawn, functions: dict[str, _Function]) -> Picture:
    """The image after the operations that were drawn; see :meth:`PillowPolicy.apply`."""
    pil = require("PIL.Image", "Augmenting Pillow images", "images")
    if not isinstance(image, pil.Image):
        raise InvalidInputError(
            f"Expected an image of Pillow; got {type(image).__name__}. Arrays: PIL.Image.fromarray(array); tensors: "
            "the policy itself, or to_torchvision()."
        )
    if image.mode not in ("L", "RGB"):
        raise InvalidInputError(
            f'The image has mode {image.mode!r}; the operations are made for "L" and "RGB". '
            'Use image.convert("RGB") before.'
        )
    for name, amount in drawn:
        if name not in functions:
            raise InvalidInputError(f"The policy has no operation {name!r}. It has: {', '.join(functions)}.")
        image = functions[name](image, amount)
    return image


class PillowPolicy:
    """A policy with nothing to learn, on one image of Pillow at a time.

    It draws what a :class:`~hypergrad.augment.FixedPolicy` draws: one of the equally likely sub-policies; in each stage
    an operation by pi, which is applied with probability p at one of the equally likely magnitudes, in a random
    direction where it has two. An operation's result is within one 8-bit level of the one on tensors, except at the
    border: Pillow repeats the outermost pixel where the tensor version fades to black. Pillow rounds after each
    operation; a second one may stretch that, most where the first leaves little contrast (Invert near the strength
    0.7, then AutoContrast or Equalize).

    It can be pickled when its operations' Pillow functions can (they are functions of a module).

    Args:
        operations: N of them, each with a Pillow function.
        pi: probability of each pick, ``(S, K, N)``.
        p: probability that the pick is applied, ``(S, K, N)``.
        mu: magnitudes in [0, 1], L equally likely ones, ``(S, K, N, L)``.
        seed: None draws from Python's global ``random``, which torch's ``DataLoader`` seeds in each worker from its own
            seed. An integer gives the policy a stream of its own; each worker then starts with a copy of it and all
            draw the same, so it is for use without workers.

    Raises:
        InvalidInputError: an operation without a Pillow function, or a seed that is no integer.
        MissingLibraryError: there is no Pillow.

    Example:
        >>> from PIL import Image
        >>> from hypergrad.augment import rand_augment
        >>> policy = rand_augment(num_operations=1, magnitude=9).to_pillow(seed=0)
        >>> policy(Image.new("RGB", (32, 32))).size
        (32, 32)
    """

    def __init__(
        self, operations: Sequence[Operation], *, pi: Tensor, p: Tensor, mu: Tensor, seed: int | None = None
    ) -> None:
        require("PIL.Image", "Exporting a policy to Pillow", "images")
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
            raise InvalidInputError(f"seed must be an integer or None (Python's global random); got {seed!r}.")
        self._functions = pillow_functions(operations)
        self._operations = [(o.name, float(o.identity), float(o.strongest), o.signed) for o in operations]
        # By sub-policy and stage: cumulative pi, p, and magnitudes.
        self._subs = [
            [(list(accumulate(row)), *others) for row, *others in zip(*sub, strict=True)]
            for sub in zip(pi.double().tolist(), p.double().tolist(), mu.double().tolist(), strict=True)
        ]
        self._random = None if seed is None else random.Random(seed)

    def draw(self) -> tuple[tuple[str, float], ...]:
        """The operations that one image gets: name, and amount in the operation's unit.

        Those that were picked and not applied are left out.
        """
        uniform = random.random if self._random is None else self._random.random
        drawn = []
        for cumulative, applied, levels in self._subs[int(uniform() * len(self._subs))]:
            # The first whose cumulative probability is above the number: one of probability 0 is never that. The
            # sum may be off 1 by rounding, so the number is scaled by it and stays below.
            pick = bisect_right(cumulative, uniform() * cumulative[-1])
            # Every stage takes as many numbers whatever it draws, as it does on tensors.
            is_applied, level, sign = uniform() < applied[pick], uniform(), -1 if uniform() < 0.5 else 1
            if is_applied:
                name, identity, strongest, signed = self._operations[pick]
                magnitude = levels[pick][int(level * len(levels[pick]))] * (sign if signed else 1)
                drawn.append((name, identity + (strongest - identity) * magnitude))
        return tuple(drawn)

    def apply(self, image: Picture, drawn: Drawn) -> Picture:
        """The image after operations that were drawn.

        Args:
            image: of mode "L" or "RGB".
            drawn: as :meth:`draw` gives it.

        Raises:
            InvalidInputError: not an image of Pillow, of another mode, or an operation that the policy does not have.
        """
        return apply_to_pillow(image, drawn, self._functions)

    def __call__(self, image: Picture) -> Picture:
        """The image after what is drawn for it.

        Raises:
            InvalidInputError: not an image of Pillow, or of another mode than "L" and "RGB".
        """
        return self.apply(image, self.draw())

    def __repr__(self) -> str:
        names = [name for name, *_ in self._operations]
        return f"PillowPolicy(sub_policies={len(self._subs)}, stages={len(self._subs[0])}, operations={names})"
