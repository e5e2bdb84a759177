"""What is trained on which images, for how long: one recipe a data set."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

#: Thirteen of the paper's fourteen: Color is left out, because on grey images it changes nothing.
GREY_OPERATIONS = (
    "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Invert", "AutoContrast", "Equalize", "Solarize",
    "Posterize", "Contrast", "Brightness", "Sharpness",
)  # fmt: skip

#: Raised when a change of the code changes what a cell means; finished cells of another version are done again.
VERSION = 2


@dataclass(frozen=True)
class Recipe:
    """Everything that the rows of a study share.

    Attributes:
        data: name of the study: of the data set, and after a colon of the variant.
        sizes: training, validation and test images.
        max_angle: validation and test images are rotated by up to this many degrees, training images are not.
        epochs, batch_size: the last, incomplete batch of an epoch is dropped.
        lr, momentum, weight_decay: SGD with Nesterov momentum, cosine to zero; the decay is part of the loss.
        operations, stages, temperature: the policy.
        every, warmup_fraction, outer_lr: a policy update by RMSprop every so many steps after the warm-up.
        val_batch_size: images in the outer loss of one update.
        watched: the operation that the policy ought to find, or None where no answer is known.
        seeds: how many by default.
        probe_widths, probe_steps, probe_rounds, probe_batch: the small sub-problem on which rows are compared with
            ``dense``: widths of the network, steps of L-BFGS between two restarts, how often it is started, images.
    """

    data: str
    sizes: tuple[int, int, int]
    operations: tuple[str, ...]
    max_angle: float = 0.0
    epochs: int = 40
    batch_size: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    stages: int = 2
    temperature: float = 0.5
    every: int = 5
    warmup_fraction: float = 0.1
    outer_lr: float = 0.03
    val_batch_size: int = 64
    watched: str | None = None
    seeds: int = 10
    probe_widths: tuple[int, int, int] = (4, 6, 4)
    probe_steps: int = 1000
    probe_rounds: int = 5
    probe_batch: int = 128

    @property
    def steps(self) -> int:
        """Inner steps of a run."""
        return self.epochs * (self.sizes[0] // self.batch_size)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON gives them back."""
        return dict(json.loads(json.dumps({**asdict(self), "version": VERSION})))

    def digest(self, **more: Any) -> str:
        """A hash of the recipe and ``more``: equal exactly when a finished cell can be used again."""
        # The number of seeds says how many cells there are, not what is in one; the sub-problem is no cell's.
        probe = more.get("probe", False)
        kept = {k: v for k, v in self.as_dict().items() if k != "seeds" and (probe or not k.startswith("probe_"))}
        content = kept | more
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


RECIPES = {
    "digits": Recipe(
        data="digits", sizes=(600, 400, 797), operations=GREY_OPERATIONS, epochs=30, seeds=5,
    ),
    "fashion-mnist": Recipe(
        data="fashion-mnist", sizes=(54_000, 6_000, 10_000), operations=GREY_OPERATIONS, epochs=10, batch_size=128,
        every=20, val_batch_size=128, seeds=3,
    ),
    # Upright training images, rotated validation and test images: the policy has to find Rotate. Shears are left out,
    # because two of them make a rotation, and pi then has no single right answer.
    "fashion-mnist:rotated": Recipe(
        data="fashion-mnist:rotated", sizes=(2_000, 1_000, 4_000), max_angle=25.0,
        operations=(
            "TranslateX", "TranslateY", "Rotate", "Invert", "Solarize", "Contrast", "Brightness", "Sharpness",
        ),
        val_batch_size=256, watched="Rotate",
    ),
}  # fmt: skip


def smoke(recipe: Recipe) -> Recipe:
    """The same code in seconds: too little training for the numbers to mean anything."""
    sizes = (min(recipe.sizes[0], 256), min(recipe.sizes[1], 128), min(recipe.sizes[2], 256))
    return replace(
        recipe, sizes=sizes, epochs=3, batch_size=64, val_batch_size=64, every=3, seeds=2,
        probe_steps=20, probe_rounds=1, probe_widths=(2, 3, 2), probe_batch=32,
    )  # fmt: skip
