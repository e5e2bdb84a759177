"""What each rank does for tests/distributed/test_train.py: `hypergrad train` on its part, against one process."""

import copy
import dataclasses
import hashlib
import os
import signal
import tempfile
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from hypergrad.checkpoint import digest
from hypergrad.distributed import alone, barrier, differing, from_first, is_writer, rank, world_size
from hypergrad.errors import HypergradError, HypergradWarning
from hypergrad.interruption import Stopped
from hypergrad.keys import derive
from hypergrad.vision import inner_loop, method_loop
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.data.base import Dataset, ImageSet
from hypergrad.vision.evaluation import evaluate
from hypergrad.vision.inner_loop import InnerLoop
from hypergrad.vision.recording import train_and_record
from hypergrad.vision.resuming import has_checkpoint
from hypergrad.vision.splits import Part, make_splits
from hypergrad.vision.training import train

PLACE = ["Rotate", "Invert"]
#: By name; batches of 11 are cut unequally over two and three ranks.
METHODS = {
    "standard": {"name": "standard"},
    "trivialaugment": {"name": "trivialaugment"},
    "madao": {"name": "madao", "every": 2, "warmup": 0.0, "operations": PLACE},
    "relaxed cg": {
        "name": "madao", "every": 1, "warmup": 0.0, "operations": PLACE, "selection": "relaxed", "solver": "cg",
        "solver_options": {"max_steps": 3}, "optimizer": "sgd", "lr": 0.1, "outer_batch_size": 8, "val_batch_size": 5,
    },
    "unrolled": {
        "name": "madao", "every": 4, "warmup": 0.0, "operations": PLACE, "solver": "unrolled",
        "solver_options": {"steps": 2},
    },
    "ohl": {
        "name": "ohl-autoaugment", "operations": PLACE, "every": 2, "trajectories": 2, "draws": 2, "reward_images": 6,
        "lr": 1.0,
    },
    "faster": {
        "name": "faster-autoaugment", "operations": PLACE, "search_epochs": 1, "search_batch_size": 16, "subset": 32,
    },
}  # fmt: skip


def normed(num_classes, channels):
    """A network with batch normalisation; named by its import path."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, num_classes)
    )


def dataset():
    g = torch.Generator().manual_seed(0)
    targets = torch.arange(66) % 2
    images = (torch.rand((66, 1, 8, 8), generator=g) * 200 + 50 * targets.view(-1, 1, 1, 1)).to(torch.uint8)
    part = ImageSet(images, targets)
    return Dataset(
        name="light",
        classes=("dark", "bright"),
        train=part.take(torch.arange(50)),
        test=part.take(torch.arange(50, 66)),
        val=None,
        mean=(0.5,),
        std=(0.25,),
        flip=True,
    )


def config(method="standard", **changes):
    settings = {
        "method": METHODS[method] if isinstance(method, str) else method,
        "epochs": 2, "batch_size": 11, "eval_batch_size": 3, "device": "cpu", "threads": 1,
        "data": {"validation": 13}, "standard": {"crop": 1},
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def relative(found, wanted):
    return float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30))


def flat(network):
    return torch.cat([t.detach().reshape(-1).double() for t in (*network.parameters(), *network.buffers())])


def policies_apart(found, wanted):
    if wanted.policy is None:
        return 0.0
    held, other = ((*r.policy.parameters(), *r.policy.buffers()) for r in (found, wanted))
    pairs = [(a.detach(), b.detach()) for a, b in zip(held, other, strict=True) if a.is_floating_point()]
    return max(relative(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)  # NaN: an operation without magnitude


def apart(found, wanted):
    """The largest relative difference of the networks and of what was recorded."""
    pairs = [(flat(found.model), flat(wanted.model))]
    for a, b in zip(found.history, wanted.history, strict=True):
        pairs += [(torch.tensor(getattr(a, n)), torch.tensor(getattr(b, n))) for n in ("train_loss", "val_loss")]
        assert (a.val_error, a.updates, a.step) == (b.val_error, b.updates, b.step)
    assert found.test.confusion == wanted.test.confusion
    assert found.passes == wanted.passes
    return max(relative(a, b) for a, b in pairs)


def equal():
    """Methods, in float32."""
    found = {}
    for name in METHODS:
        result = train(config(name), dataset=dataset(), progress=False)
        with alone():
            wanted = train(config(name), dataset=dataset(), progress=False)
        found[name], found[f"policy of {name}"] = apart(result, wanted), policies_apart(result, wanted)
    return found


def evaluations():
    """Parts with fewer images than ranks, and other sizes."""
    network = InnerLoop(config(), splits := make_splits(config().data, 0, dataset())).network
    found = {}
    for count in (1, 2, 7, 13):
        part = dataclasses.replace(splits.val, rows=splits.val.rows[:count])
        for size in (2, 100):
            joint = evaluate(network, part, splits.classes, batch_size=size)
            with alone():
                whole = evaluate(network, part, splits.classes, batch_size=size)
            assert [m.position for m in joint.mistakes] == [m.position for m in whole.mistakes]
            assert (joint.confusion, joint.error, joint.count) == (whole.confusion, whole.error, whole.count)
            found[f"{count} by {size}"] = abs(joint.loss - whole.loss) / whole.loss
    many = Part(torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8), torch.arange(60) % 2, torch.arange(60))
    many.images.copy_(torch.randint(0, 256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(1)))
    joint = evaluate(network, many, splits.classes, batch_size=7)
    with alone():
        whole = evaluate(network, many, splits.classes, batch_size=7)
    assert [m.position for m in joint.mistakes] == [m.position for m in whole.mistakes]
    assert len(joint.mistakes) == 16
    return found


def batch_norm():
    """Against one process that normalises each shard by its own statistics."""
    settings = config(epochs=1, model={"name": "tests.distributed._train_checks:normed"})
    result, count = train(settings, dataset=dataset(), progress=False), world_size()
    with alone():
        splits = make_splits(settings.data, derive(settings.seed, "data"), dataset())
        loop = InnerLoop(settings, splits)
        sgd = loop.optimizer()
        norm = next(m for m in loop.network.modules() if isinstance(m, nn.BatchNorm2d))
        statistics = [norm.running_mean, norm.running_var]
        loop.network.train()
        for step in range(loop.steps):
            for group in sgd.param_groups:
                group["lr"] = settings.lr * loop._lr_factor(step)
            images, targets, _ = loop._batch(step)
            before, means = [s.clone() for s in statistics], [torch.zeros_like(s) for s in statistics]
            sgd.zero_grad()
            for x, y in zip(images.tensor_split(count), targets.tensor_split(count), strict=True):
                for s, b in zip(statistics, before, strict=True):
                    s.data.copy_(b)
                share = len(y) / len(targets)
                squares = sum(p.square().sum() for p in loop.network.parameters())
                (share * (F.cross_entropy(loop.network(x), y) + 0.5 * settings.weight_decay * squares)).backward()
                for m, s in zip(means, statistics, strict=True):
                    m += share * s
            for s, m in zip(statistics, means, strict=True):
                s.data.copy_(m)
            sgd.step()
        norm.num_batches_tracked.fill_(loop.steps)
        found = {"network": relative(flat(result.model), flat(loop.network))}
        found["loss"] = abs(loop._evaluate(splits.val).loss - result.val.loss) / result.val.loss
    madao = config("madao", model={"name": "tests.distributed._train_checks:normed"})
    train(madao, dataset=dataset(), progress=False)  # its ranks are compared at each outer step
    return found


def common():
    """A folder that all ranks know, with a name of each rank's own beside it."""
    return Path(from_first(tempfile.mkdtemp()))


def stop():
    """A signal to one rank in the middle: all stop, go on, and have the bits of the uninterrupted run."""
    folder, happened = common(), {}
    other = 1
    for name, at in (("madao", 5), ("ohl", 3), ("standard", 0)):
        whole, broken = folder / f"whole {name}", folder / f"broken {name}"
        train_and_record(config(name), folder / f"own {rank()}" / name, dataset=dataset(), progress=False)
        if is_writer():
            (folder / "own 0" / name).rename(whole)
        calls = iter(range(10**6))
        between = method_loop.MethodLoop._between

        def counting(self, between=between, calls=calls, at=at):
            if next(calls) == at and rank() == other:
                os.kill(os.getpid(), signal.SIGTERM)
            between(self)

        method_loop.MethodLoop._between = counting
        try:
            run(name, broken)
            happened[f"{name} stopped"] = 0
        except Stopped:
            happened[f"{name} stopped"] = 1
        finally:
            method_loop.MethodLoop._between = between
        happened[f"{name} checkpoint"] = int(has_checkpoint(broken))
        if name == "madao":
            if is_writer():
                copy_folder(broken, folder / "elastic")
            barrier()
        run(name, broken)
        happened[f"{name} same bits"] = int(hashed(broken) == hashed(whole))
        again = run(name, broken)  # finished: returned as it is
        happened[f"{name} finished"] = int(torch.equal(flat(again.model), flat(run(name, whole).model)))
    happened["only the first one wrote"] = int(sorted(p.name for p in folder.glob("own *")) == ["own 0"])
    if is_writer():
        with alone(), warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            resumed = run("madao", folder / "elastic")
        texts = [str(w.message) for w in seen if issubclass(w.category, HypergradWarning)]
        happened["world size warned of"] = int(f"made by {world_size()} ranks, and there is 1 now" in "".join(texts))
        with alone():
            happened["equal to rounding"] = int(apart(resumed, run("madao", folder / "whole madao")) < 1e-5)
    barrier()
    return happened


def run(name, path):
    return train_and_record(config(name), path, dataset=dataset(), progress=False, resume="auto")


def hashed(path):
    names = ["model.safetensors"] + (["policy.json"] if (path / "policy.json").exists() else [])
    return [hashlib.sha256((path / n).read_bytes()).hexdigest() for n in names]


def copy_folder(source, target):
    target.mkdir()
    for file in source.rglob("*"):
        if file.is_file():
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(source)).write_bytes(file.read_bytes())


def refused():
    """The same sentence on all ranks."""
    happened, folder = {}, common()

    def says(text, act):
        try:
            act()
        except HypergradError as error:
            return int(text in str(error))
        return 0

    def small(**changes):
        return lambda: train(config(**changes), dataset=dataset(), progress=False)

    happened["batch"] = says("cannot be cut among", small(batch_size=1))
    madao = {**METHODS["madao"], "val_batch_size": 1}
    happened["validation batch"] = says("validation images of an outer step: a batch of 1", small(method=madao))
    groups = {**METHODS["madao"], "group_size": 2}
    happened["groups"] = says("group_size=1", small(method=groups))
    own = config(lr=0.1 * (1 + rank()))
    happened["settings"] = says(
        "settings of rank 1", lambda: train_and_record(own, folder / "a", dataset=dataset(), progress=False)
    )
    data = dataset()
    data.train.images[0] += rank()
    happened["images"] = says(
        "images of rank 1", lambda: train_and_record(config(), folder / "b", dataset=data, progress=False)
    )
    happened["nothing written"] = int(not any(folder.iterdir()))
    return happened


def left_out():
    """Without a reduction: found, or another result."""
    happened = {}
    kept = inner_loop.mean_gradients
    inner_loop.mean_gradients = lambda params, statistics, ranks: kept({}, statistics, ranks)
    try:
        train(config(), dataset=dataset(), progress=False)
        happened["gradient"] = 0
    except HypergradError as error:
        happened["gradient"] = int("networks of rank 1" in str(error))
    finally:
        inner_loop.mean_gradients = kept
    shares = inner_loop.shares
    inner_loop.shares = lambda order: dataclasses.replace(shares(order), counts=(1,) * world_size())
    try:
        unweighted = train(config(), dataset=dataset(), progress=False)
    finally:
        inner_loop.shares = shares
    result = train(config(), dataset=dataset(), progress=False)
    happened["weights"] = int(relative(flat(unweighted.model), flat(result.model)) > 1e-4)
    searched = method_loop.find_policy

    def differs(*arguments):
        found = searched(*arguments)
        policy = copy.deepcopy(found.policy)
        policy.get_buffer("pi")[0] = policy.get_buffer("pi")[0].roll(rank())
        return dataclasses.replace(found, policy=policy)

    method_loop.find_policy = differs
    try:
        result = train(config("faster"), dataset=dataset(), progress=False)
    finally:
        method_loop.find_policy = searched
    happened["the first one's policy is taken"] = int(not differing({"pi": digest(result.policy.pi)}))
    return happened


def nonfinite():
    """On one rank only: all raise the same, or all leave the step out and stay equal."""
    happened, augmented = {}, InnerLoop._augmented
    for policy in ("raise", "skip"):
        calls = iter(range(10**6))

        def spoilt(self, images, index, key, calls=calls):
            images = augmented(self, images, index, key)
            # The second step; tracing its cause, the same again.
            return images / 0 if next(calls) in (1, 2) and rank() == 1 else images

        InnerLoop._augmented = spoilt
        try:
            result = train(config(on_nonfinite=policy), dataset=dataset(), progress=False)
            text, whole = "left out", not differing({"network": digest(flat(result.model))})
            happened["the loss of the step is not counted"] = int(result.history[0].train_loss < 1)
        except HypergradError as error:
            text, whole = str(error), True
        finally:
            InnerLoop._augmented = augmented
        same = not differing({"text": hashlib.sha256(text.encode()).hexdigest()})
        happened[policy] = int(same and whole and ("left out" if policy == "skip" else "step 1") in text)
    return happened


CHECKS = {f.__name__: f for f in (equal, evaluations, batch_norm, stop, refused, left_out, nonfinite)}
