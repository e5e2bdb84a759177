"""One step of SGD on augmented images, the same for every method, and what it needs: network, data, schedule."""

import json
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergrad.augment import FixedPolicy, Policy
from hypergrad.batches import KeyedBatches
from hypergrad.distributed import from_first, gather, rank, world_size
from hypergrad.errors import InvalidInputError, NonFiniteError
from hypergrad.failures import Failure
from hypergrad.failures.guard import Copies, Guard
from hypergrad.failures.inner_steps import InnerSteps
from hypergrad.failures.tracing import blamed, trace
from hypergrad.keys import derive, preserved_rng
from hypergrad.reductions import MeanOverRanks, mean_gradients
from hypergrad.shards import rank_key, running_statistics
from hypergrad.vision import policies
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.evaluation import Evaluation, evaluate
from hypergrad.vision.models import build_model
from hypergrad.vision.models.normalised import Normalised
from hypergrad.vision.models.weights import load_weights
from hypergrad.vision.splits import Part, Splits


class InnerLoop:
    """Network, data and noise of the inner problem.

    Where ``torch.distributed`` runs, each rank has its part of every batch, and gradients, losses and the running
    statistics of batch normalisation are averaged over the ranks in each step.

    Args:
        config: of the run.
        splits: what it runs on.

    Attributes:
        augmentation: what augments the images of a step after the standard augmentation; None: nothing does.
        per_epoch, steps: inner steps in an epoch, and in the run.
        passes: forward and backward passes over ``batch_size`` images so far.
        guard: what is done about steps that are not finite; ``looks`` looks at them.
        whole: no inner step has been begun and not ended; what an exception amid one leaves is not to be gone on from.

    Raises:
        InvalidInputError, UnknownNameError: the configuration does not fit the data or the machine.
    """

    def __init__(self, config: TrainConfig, splits: Splits) -> None:
        if config.batch_size > len(splits.train):
            raise InvalidInputError(
                f"batch_size={config.batch_size} is larger than the {len(splits.train)} training images; give at most "
                "that."
            )
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.config, self.splits = config, splits
        self.device = resolve_device(config.device)
        self.format = torch.channels_last if config.channels_last else torch.contiguous_format
        network, self.weights = _network(config, splits)
        self.network = network.to(self.device, memory_format=self.format)  # type: ignore[call-overload]
        self.forward = torch.compile(self.network) if config.compile else self.network
        self.standard = policies.standard(config.standard, splits)
        self.augmentation: Policy | FixedPolicy | None = None
        self.after = policies.after(config.standard)
        self.train_order = cut(splits.train.order(config.batch_size, derive(config.seed, "order")), "batch_size")
        # No gather: the order says how many images each rank has.
        self.ranks = shares(self.train_order)
        self.per_epoch = len(self.train_order)
        self.steps = config.epochs * self.per_epoch
        self.passes = 0.0
        self.guard = Guard(
            config.on_nonfinite,
            f"A lower lr ({config.lr} now), a warm-up (warmup_epochs) or precision='float32' may help.",
        )
        self.looks = InnerSteps(self.guard, self.device, self._traced)
        self.whole = True

    def optimizer(self) -> torch.optim.Optimizer:
        """SGD on the network as the configuration has it; the weight decay is part of the loss."""
        config = self.config
        return torch.optim.SGD(
            self.network.parameters(), lr=config.lr, momentum=config.momentum, nesterov=config.nesterov
        )

    def _inner_step(self, step: int, optimizer: torch.optim.Optimizer) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Step number ``step``, from 0; the cross-entropy, 0-d, without a graph, and the batch before the policy.

        A step that is left out has the loss 0.

        Raises:
            NonFiniteError: loss or gradient are not finite, and ``on_nonfinite`` has it so.
        """
        batch = self._drawn(step)
        self.looks.begin(self.network.buffers())
        self.whole = False
        loss, total = self._losses(step, batch)
        optimizer.zero_grad()
        total.backward()
        try:
            taken = self.looks.accepts(step, batch, total, self.network.parameters())
        except NonFiniteError as error:
            self.whole = not getattr(error.failure, "late", False)
            raise
        value = torch.zeros((), device=self.device)
        if taken:
            value = self._reduced(loss.detach())
            optimizer.step()
        self.whole = True
        self.passes += 1
        return value, batch

    def _reduced(self, loss: Tensor) -> Tensor:
        """The mean loss over the ranks; gradients and running statistics are averaged in place."""
        if self.ranks.single:
            return loss
        loss = loss.clone()
        mean_gradients(dict(self.network.named_parameters()), [*running_statistics(self.network), loss], self.ranks)
        return loss

    def _losses(self, step: int, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The cross-entropy on the augmented images, and with the weight decay; 0-d."""
        images, targets, index = batch
        key = derive(derive(self.config.seed, "policy"), "inner", step)
        with preserved_rng(self.device, rank_key(key)):
            augmented = self._augmented(images, index, derive(key, "inner"))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                outputs = self.forward(augmented)
            loss = F.cross_entropy(outputs.float(), targets)
            squares = torch.stack([p.square().sum() for p in self.network.parameters()]).sum()
            return loss, loss + 0.5 * self.config.weight_decay * squares

    def _traced(self, step: int, batch: Any, late: bool) -> Failure:
        """The same step again, watched."""
        modules = {"network": self.network, "policy": self.augmentation, "after": self.after}
        copies, forward = Copies(self.network.buffers()), self.forward
        self.forward = self.network  # not the compiled one, which has no operations to watch
        try:
            found = trace(
                lambda: self._losses(step, batch)[1],
                dict(self.network.named_parameters()),
                batch,
                level="inner",
                step=step,
                number=step,
                names=("images", "targets", "index"),
                others={f"buffer {name}": b for name, b in self.network.named_buffers()},
                modules={name: m for name, m in modules.items() if isinstance(m, nn.Module)},
            )
        finally:
            self.forward = forward
            copies.restore()
        if not late:  # else the ranks are not at the same place
            found = _of_any_rank(found)
        return blamed("inner", step, found) if found is None or late else found

    def _drawn(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        try:
            return self._batch(step)
        except Exception as error:
            error.add_note(f"This was batch {step} of the training images.")
            raise

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of a step before the policy, of which a rank has its part: a function of the seed and the step."""
        (positions,) = self.train_order.batch(step)
        return self._prepared(self.splits.train, positions, derive(self.config.seed, "crop", step))

    def _prepared(self, part: Part, positions: Tensor, key: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images in [0, 1] after the standard augmentation, targets, and the images' positions, on the device."""
        images, targets = part.draw(positions)
        index = positions.to(self.device)
        images = self.standard(images.to(self.device), key=key, index=index)
        return self._as_floats(images), targets.to(self.device), index

    def _augmented(self, images: Tensor, index: Tensor, key: int) -> Tensor:
        """The images under the policy, drawn as the objective's inner loss draws them."""
        with torch.no_grad():
            if self.augmentation is not None:
                images = self.augmentation(images, soft=False, key=derive(key, "madao"), index=index)
            if self.after is not None:
                # The key that a second member of a composition of families has.
                images = self.after(images, key=derive(derive(key, "compose", 1), "after"), index=index)
        return images

    def _as_floats(self, images: Tensor) -> Tensor:
        return (images.float() / 255).contiguous(memory_format=self.format)

    def _central(self, images: Tensor) -> Tensor:
        side = self.config.standard.resized_crop
        if side is None:
            return images
        top, left = (images.shape[2] - side) // 2, (images.shape[3] - side) // 2
        return images[..., top : top + side, left : left + side]

    def _evaluate(self, part: Part) -> Evaluation:
        return evaluate(
            self.network,
            part,
            self.splits.classes,
            batch_size=self.config.eval_batch_size,
            crop=self.config.standard.resized_crop,
        )

    def _lr_factor(self, step: int) -> float:
        """Linear warm-up, then cosine to zero."""
        warmup = self.config.warmup_epochs * self.per_epoch
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(self.steps - warmup, 1)))


def resolve_device(name: str) -> torch.device:
    """The device that a configuration names.

    Raises:
        InvalidInputError: torch knows no such device, or sees no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInputError(f"device={name!r} is none that torch knows; give auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInputError(f"device={name!r} was asked for, and torch sees no GPU. Give device=cpu, or auto.")
    if device.type == "cuda" and device.index is None and world_size() > 1:
        return torch.device("cuda", torch.cuda.current_device())  # this rank's own
    return device


def _of_any_rank(found: Failure | None) -> Failure | None:
    """The failure that the first rank has found that has found one; called by all ranks."""
    having = [number for number, (has,) in enumerate(gather([int(found is not None)])) if has]
    if world_size() == 1 or not having:
        return found
    row = json.loads(from_first("" if found is None else json.dumps(found.row()), having[0]))
    return Failure.of(row)


def cut(order: KeyedBatches, name: str) -> KeyedBatches:
    """This rank's part of the batches; all of them where there is one rank.

    Args:
        order: the whole batches.
        name: of the setting that says how large they are.

    Raises:
        InvalidInputError: they are smaller than the number of ranks.
    """
    if world_size() == 1:
        return order
    if order.batch_size < world_size():
        raise InvalidInputError(
            f"{name}: a batch of {order.batch_size} images cannot be cut among {world_size()} ranks, each of which "
            "needs one or more. Use larger batches or fewer ranks."
        )
    return order.shard(rank(), world_size())


def shares(order: KeyedBatches) -> MeanOverRanks:
    """How much each rank counts for one of its batches."""
    place, size = order.part
    if size == 1:
        return MeanOverRanks()
    parts = torch.arange(order.batch_size).tensor_split(size)
    return MeanOverRanks(tuple(len(part) for part in parts), place)


def _network(config: TrainConfig, splits: Splits) -> tuple[Normalised, str | None]:
    """The network that the seed initialises, whatever the method, normalisation in front; what was read into it."""
    side = config.standard.resized_crop or splits.side
    with preserved_rng(torch.device("cpu"), derive(config.seed, "init")):
        model = build_model(
            config.model.name,
            num_classes=len(splits.classes),
            channels=splits.channels,
            image_size=side,
            **config.model.options,
        )
    report = None if config.model.weights is None else str(load_weights(model, config.model.weights))
    return Normalised(model, splits.mean, splits.std), report
