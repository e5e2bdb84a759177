"""Problems of two kinds whose batches are cut unequally over the ranks, in float64."""

import torch
from torch import nn

import hypergrad
from hypergrad.augment.madao import Madao
from hypergrad.families.sample_weights import SampleWeights
from hypergrad.families.weight_decay import WeightDecay

D = torch.float64
#: Samples of each rank's shard, by the number of ranks; those of the inner batch differ from those of the outer.
INNER = {2: (9, 5), 3: (7, 1, 6)}
OUTER = {2: (4, 7), 3: (2, 6, 3)}


def cut(batch, counts, rank):
    start = sum(counts[:rank])
    return tuple(part[start : start + counts[rank]] for part in batch)


def functions(seed=0):
    """``(inner, outer, params, hparams, inner batch, outer batch)``: softmax regression, weighted and decayed."""
    torch.manual_seed(seed)
    inputs, targets = torch.randn(14, 4, dtype=D), torch.randint(0, 3, (14,))
    seen, labels = torch.randn(11, 4, dtype=D), torch.randint(0, 3, (11,))

    def inner(w, h, x, y):
        losses = nn.functional.cross_entropy(torch.tanh(x * h["scale"]) @ w["a"] + w["b"], y, reduction="none")
        decay = h["log_decay"].exp() * (w["a"].square().sum() + w["b"].square().sum())
        return losses.mean() + 0.5 * decay

    def outer(w, h, x, y):
        losses = nn.functional.cross_entropy(x @ w["a"] + w["b"], y, reduction="none")
        return (losses * (1 + x[:, 0] * h["scale"][0])).mean() + 0.1 * h["unused"].square()

    params = {"a": 0.3 * torch.randn(4, 3, dtype=D), "b": torch.zeros(3, dtype=D)}
    hparams = {
        "scale": torch.tensor([1.1, 0.9, 0.8, 1.2], dtype=D),
        "log_decay": torch.tensor(-1.0, dtype=D),
        "unused": torch.tensor(0.5, dtype=D),
    }
    return inner, outer, params, hparams, (inputs, targets), (seen, labels)


def network(norm=False, dropout=0.0):
    torch.manual_seed(1)
    middle = [nn.BatchNorm1d(6)] if norm else []
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 6 * 6, 6), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 3)
    ).double()


def family(name, model):
    torch.manual_seed(2)
    if name == "weight_decay":
        return WeightDecay(model, per="layer", initial=0.05).double()
    if name == "sample_weights":
        return SampleWeights(14).double()
    return Madao(stages=2, operations=["Rotate", "Solarize", "Brightness"]).double()


def images():
    torch.manual_seed(3)
    train = (torch.rand(14, 3, 6, 6, dtype=D), torch.randint(0, 3, (14,)), torch.randperm(14))
    val = (torch.rand(11, 3, 6, 6, dtype=D), torch.randint(0, 3, (11,)))
    return train, val


def problem(name, *, keyed=False, **options):
    model = network(**options)
    train, val = images()
    if keyed:
        data = hypergrad.KeyedBatches(*train[:2], batch_size=11, seed=4), hypergrad.KeyedBatches(*val, batch_size=7)
        return hypergrad.BilevelProblem.for_model(model, family(name, model), train_data=data[0], val_data=data[1])
    # A fixed decay, too: the baseline of the score-function term is of the loss without the penalty.
    return hypergrad.BilevelProblem.for_model(model, family(name, model), weight_decay=0.05)
