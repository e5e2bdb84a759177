"""Fast AutoAugment on the training images of a run, and the policy that it is trained under afterwards."""

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergrad.augment import FixedPolicy
from hypergrad.baselines import Attempt, search
from hypergrad.errors import InvalidInputError
from hypergrad.interruption import poll
from hypergrad.keys import derive, generator
from hypergrad.optional import require
from hypergrad.vision.config import FastAutoAugment, TrainConfig
from hypergrad.vision.data.base import ImageSet
from hypergrad.vision.policy_search.base import Found
from hypergrad.vision.policy_search.proxy_training import FORWARD, ProxyTraining, central, some
from hypergrad.vision.policy_search.sub_policy_space import SubPolicySpace, best_attempts, in_words, joined
from hypergrad.vision.splits import Splits


def fast_policy(config: TrainConfig, splits: Splits, device: torch.device) -> Found:
    """Search by density matching: which augmentations leave unseen images recognisable to a trained network?

    The training images (a subset of them) are split into stratified folds. For each fold a network of the run's
    architecture is trained, once, on the others under the standard augmentation. Then TPE searches policies by that
    network's mean cross-entropy on the augmented fold; nothing is trained again. Each of ``rounds`` searches on a fold
    begins anew with another seed, and the sub-policies of the ``top`` best policies of every search are joined, equally
    likely: ``folds * rounds * top * sub_policies`` of them. No validation image takes part.

    This is Algorithm 1 of the paper, in the search space of :class:`SubPolicySpace`. Where it leaves room: the fold is
    augmented by the policy alone, without random crops and flips, each image by one sub-policy drawn at random; all
    policies of a search meet the same draws, so that they are compared on equal terms. (Its authors' code holds out
    40 % of the images, drawn anew each time; here the folds are those of the algorithm, disjoint.) As in the paper,
    nothing but the search's chance keeps a policy from doing nothing, which leaves a network's loss about lowest.

    Raises:
        InvalidInputError: fewer images than folds, or an option that does not fit.
        UnknownNameError: an operation or a range that does not exist.
        MissingLibraryError: there is no Optuna.

    References:
        Lim et al., "Fast AutoAugment", NeurIPS 2019, section 3.2 and Algorithm 1.
    """
    method = config.method
    assert isinstance(method, FastAutoAugment)
    # What can be refused is refused before a network is trained.
    require("optuna", "Fast AutoAugment's search", "search")
    space = SubPolicySpace.of(method, splits.channels)
    seed = derive(config.seed, "fast-autoaugment")
    images = some(splits.train, method.subset, seed)
    kept: list[FixedPolicy] = []
    folds: list[dict[str, Any]] = []
    passes, training, searching = 0.0, 0.0, 0.0
    for number, rows in enumerate(stratified_folds(images.targets, method.folds, seed=derive(seed, "folds"))):
        fold, fold_seed = images.take(rows), derive(seed, "fold", number)
        start = time.perf_counter()
        proxy = ProxyTraining(
            config, splits, _others(images, rows), fold, epochs=method.fold_epochs, seed=derive(fold_seed, "network")
        )
        trained = proxy.train({"name": "standard"})
        training += time.perf_counter() - start
        held_out = ImageSet(central(fold.images, config.standard.resized_crop).to(device), fold.targets.to(device))
        best: list[list[float]] = []
        start = time.perf_counter()
        for turn in range(method.rounds):
            key = derive(fold_seed, "round", turn)
            loss = AugmentedLoss(trained.model, held_out, space, config.eval_batch_size, key)
            found = search(loss, space.space(), method="tpe", trials=method.trials, seed=key, progress=False)
            attempts = best_attempts(found.attempts, method.top, f"Fast AutoAugment, fold {number}")
            kept += [space.policy(a.params) for a in attempts]
            best.append([a.value for a in attempts if a.value is not None])
            passes += len(found.attempts) * FORWARD * len(fold) / config.batch_size
        searching += time.perf_counter() - start
        passes += proxy.passes
        folds.append({"images": len(fold), "error": trained.val.error, "loss": trained.val.loss, "best": best})
    policy = joined(kept)
    notes = {
        "trials": method.trials * method.rounds * method.folds,
        "folds": folds,  # error in percent and loss on the images as they are; the losses of the best policies
        "seconds": {"training": training, "search": searching},
        "sub_policies": in_words(policy),
    }
    return Found(policy.to(device), passes, notes)


def stratified_folds(targets: Tensor, folds: int, *, seed: int) -> list[Tensor]:
    """Rows of each fold, ascending, drawn by key: each row is in one fold.

    The folds' sizes differ by at most 1, and so do the numbers that they have of a class.

    Args:
        targets: class numbers, ``(N,)``.
        folds: how many.
        seed: of the draw.

    Raises:
        InvalidInputError: fewer than two folds, or more than there are images.
    """
    if not 2 <= folds <= len(targets):
        raise InvalidInputError(
            f"{len(targets)} training images cannot be split into method.folds={folds} parts; give 2 to that many."
        )
    by_class = []
    for label in targets.unique().tolist():
        rows = (targets == label).nonzero().flatten()
        by_class.append(rows[torch.randperm(len(rows), generator=generator(derive(seed, label)))])
    order = torch.cat(by_class)
    # Dealt out like cards: neighbours, which are of one class, go to different folds.
    return [order[fold::folds].sort().values for fold in range(folds)]


def _others(images: ImageSet, rows: Tensor) -> ImageSet:
    kept = torch.ones(len(images), dtype=torch.bool)
    kept[rows] = False
    return images.take(kept.nonzero().flatten())


@dataclass(frozen=True)
class AugmentedLoss:
    """Mean cross-entropy of a network on images that a policy has augmented: what the search minimises.

    Attributes:
        network: in eval mode, takes images in [0, 1].
        images: on the network's device.
        space: of the policies.
        batch_size: images at a time; it does not change the draws.
        key: of the policies' noise.
    """

    network: nn.Module
    images: ImageSet
    space: SubPolicySpace
    batch_size: int
    key: int

    def __call__(self, params: dict[str, Any], attempt: Attempt) -> float:
        """At a point of the space."""
        return self.of(self.space.policy(params))

    @torch.no_grad()
    def of(self, policy: FixedPolicy) -> float:
        """Under a policy, which moves to the images' device."""
        pixels, targets = self.images.images, self.images.targets
        policy.to(pixels.device)
        total = 0.0
        for index in torch.arange(len(targets), device=pixels.device).split(self.batch_size):
            poll()
            augmented = policy(pixels[index].float() / 255, key=self.key, index=index)
            total += float(F.cross_entropy(self.network(augmented).float(), targets[index], reduction="sum"))
        return total / len(targets)
