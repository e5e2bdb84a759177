"""Layers with a double backward of our own against torch's, in float64; torch's is used by hand here."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import hypergrad
from hypergrad.linearization import Linearization, leaves
from hypergrad.second_order import Towards, replaced

DOUBLE = torch.float64
EXACT = {"rtol": 1e-9, "atol": 1e-11}

LAYERS = {
    "batch norm": lambda: [nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 4, 3)],
    "batch norm, 1d": lambda: [nn.Flatten(2), nn.Conv1d(3, 4, 5, dilation=2), nn.BatchNorm1d(4), nn.Tanh()],
    "batch norm of features": lambda: [nn.Flatten(), nn.Linear(243, 5), nn.BatchNorm1d(5), nn.Tanh()],
    "batch norm, eval": lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval(), nn.Tanh()],
    "batch norm, no statistics": lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Tanh()],
    "batch norm, not affine": lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Tanh()],
    "group norm": lambda: [nn.Conv2d(3, 4, 3, groups=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.Conv2d(4, 4, 3, groups=2)],
    "group norm, one group": lambda: [nn.Conv2d(3, 4, 3, bias=False), nn.GroupNorm(1, 4, eps=0.1), nn.Tanh()],
    "layer norm": lambda: [nn.Conv2d(3, 4, (3, 1), padding=(1, 0)), nn.LayerNorm(9), nn.Tanh()],
    "first": lambda: [nn.BatchNorm2d(3), nn.Tanh(), nn.GroupNorm(3, 3), nn.Tanh()],
    "channels last": lambda: [nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.Tanh()],
}


def case(name):
    torch.manual_seed(0)
    model = nn.Sequential(*LAYERS[name](), nn.Flatten(), nn.LazyLinear(3)).double()
    x, y = torch.randn(5, 3, 9, 9, dtype=DOUBLE), torch.randint(3, (5,))
    model(x)
    for p in model.parameters():
        p.data = 0.7 * torch.randn_like(p)
    if name == "channels last":
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    call = hypergrad.functional(model)

    def loss(w, h):
        return F.cross_entropy(call(w, x + h["shift"] * x.square()), y)

    return loss, {k: p.detach() for k, p in model.named_parameters()}, {"shift": torch.tensor(0.3, dtype=DOUBLE)}


def by_hand(loss, params, hparams):
    w, h = leaves(params), leaves(hparams)
    value = loss(w, h)
    return w, h, value, torch.autograd.grad(value, list(w.values()), create_graph=True)


@pytest.mark.parametrize("name", LAYERS)
def test_values_gradients_products_and_cross_terms_are_torchs(name):
    loss, params, hparams = case(name)
    A = Linearization(loss, params, hparams)
    w, h, value, grads = by_hand(loss, params, hparams)
    v = torch.randn(A.shape[0], dtype=DOUBLE)
    parts = A.layout.unflatten(v)
    torch.testing.assert_close(A.value, value.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(A.gradient, A.layout.flatten(grads).detach(), **EXACT)
    want = torch.autograd.grad(grads, [*w.values(), h["shift"]], parts)
    assert want[-1].abs() > 1e-6
    torch.testing.assert_close(A @ v, A.layout.flatten(want[:-1]), **EXACT)
    torch.testing.assert_close(A.cross_vjp(v)["shift"], want[-1], **EXACT)
    torch.testing.assert_close(Linearization(loss, params, hparams, products=False) @ v, A @ v, **EXACT)


@pytest.mark.parametrize("name", ["batch norm", "group norm"])
def test_layers_of_ours_are_in_the_graph_and_only_where_wanted(name):
    loss, params, hparams = case(name)

    def functions(products):
        A = Linearization(loss, params, hparams, products=products)
        left, seen = [A._flat.grad_fn], set()
        while left:
            node = left.pop()
            if node is not None and node not in seen:
                seen.add(node)
                left += [after for after, _ in node.next_functions]
        return {node.name() for node in seen}

    assert {"_NormBackward", "_ConvolutionBackward", "_BackwardBackward"} <= functions(True)
    assert not any(f.startswith("_") for f in functions(False))


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.BatchNorm2d(3), (4, 3, 5, 5)),
        (nn.GroupNorm(2, 4), (3, 4, 6)),
        (nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), (3, 2, 7, 7)),
        (nn.Conv1d(2, 3, 3, dilation=2, padding=2), (2, 2, 8)),
    ],
)
def test_each_input_of_a_second_backward_pass_by_finite_differences(layer, x):
    torch.manual_seed(0)
    layer = layer.double()
    x = torch.randn(x, dtype=DOUBLE, requires_grad=True)
    names, values = zip(*layer.named_parameters(), strict=True)

    def call(x, *values):
        with replaced(Towards()):
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    values = tuple((0.5 + torch.rand_like(v)).requires_grad_() for v in values)
    assert torch.autograd.gradcheck(call, (x, *values))
    assert torch.autograd.gradgradcheck(call, (x, *values))


def test_running_statistics_move_as_in_torch():
    ours, theirs = (nn.BatchNorm2d(3) for _ in range(2))
    x = torch.randn(4, 3, 5, 5)
    with replaced(Towards()):
        ours(x)
    theirs(x)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.equal(a, b)


def test_losses_with_checkpointing_or_transforms_inside_have_torchs_layers():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Tanh()).double()
    x = torch.randn(4, 3, 6, 6, dtype=DOUBLE)
    params = {k: p.detach() for k, p in block.named_parameters()}
    hparams = {"h": torch.tensor(1.5, dtype=DOUBLE)}
    call = hypergrad.functional(block)

    def plain(w, h):
        return (h["h"] * call(w, x)).square().mean()

    def checkpointed(w, h):
        return (h["h"] * checkpoint(lambda t: call(w, t), x, use_reentrant=False)).square().mean()

    def mapped(w, h):
        return (h["h"] * torch.vmap(lambda t: call(w, t[None])[0])(x)).square().mean()

    reference = Linearization(plain, params, hparams)
    v = torch.randn(reference.shape[0], dtype=DOUBLE)
    for loss in (checkpointed, mapped):
        A = Linearization(loss, params, hparams)
        torch.testing.assert_close(A @ v, reference @ v, **EXACT)
        torch.testing.assert_close(A.cross_vjp(v), reference.cross_vjp(v), **EXACT)
