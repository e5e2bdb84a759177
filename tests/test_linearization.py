"""The kept graph against torch's own Hessian, and what it must leave alone."""

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

import hypergrad
from hypergrad.errors import InvalidInputError
from hypergrad.linearization import DENSE_LIMIT, Linearization
from hypergrad.memory import peak_memory

torch.manual_seed(0)
X = torch.randn(6, 3, dtype=torch.float64)
Y = torch.randn(6, dtype=torch.float64)


def loss(w, h):
    hidden = torch.tanh(X @ w["first"] + w["bias"])
    return ((hidden @ w["second"] - Y).square() * h["weights"].exp()).mean() + h["decay"] * w["first"].square().sum()


PARAMS = {
    "first": torch.randn(3, 4, dtype=torch.float64),
    "bias": torch.randn(4, dtype=torch.float64),
    "second": torch.randn(4, dtype=torch.float64),
}
HPARAMS = {"weights": torch.randn(6, dtype=torch.float64), "decay": torch.tensor(0.3, dtype=torch.float64)}
SIZES = [p.numel() for p in PARAMS.values()]


def flat_loss(vector, weights, decay):
    parts = [v.view(p.shape) for v, p in zip(vector.split(SIZES), PARAMS.values(), strict=True)]
    return loss(dict(zip(PARAMS, parts, strict=True)), {"weights": weights, "decay": decay})


FLAT = torch.cat([p.reshape(-1) for p in PARAMS.values()])
HESSIAN = torch.autograd.functional.hessian(lambda v: flat_loss(v, *HPARAMS.values()), FLAT)


def test_value_gradient_and_products_equal_torchs_own():
    A = Linearization(loss, PARAMS, HPARAMS, damping=0.5)
    torch.testing.assert_close(A.value, loss(PARAMS, HPARAMS), rtol=1e-14, atol=0)
    gradient = torch.autograd.functional.jacobian(lambda v: flat_loss(v, *HPARAMS.values()), FLAT)
    torch.testing.assert_close(A.gradient, gradient, rtol=1e-12, atol=1e-14)
    v = torch.randn(A.shape[0], dtype=torch.float64)
    torch.testing.assert_close(A @ v, HESSIAN @ v + 0.5 * v, rtol=1e-12, atol=1e-13)
    assert A.matvecs == 1
    torch.testing.assert_close(A.dense(), HESSIAN + 0.5 * torch.eye(20), rtol=1e-12, atol=1e-13)
    assert A.matvecs == 21


def test_cross_vjp_equals_the_mixed_derivative():
    A = Linearization(loss, PARAMS, HPARAMS)
    x = torch.randn(20, dtype=torch.float64)

    def directional(weights, decay):
        vector = FLAT.clone().requires_grad_()
        (g,) = torch.autograd.grad(flat_loss(vector, weights, decay), vector, create_graph=True)
        return g @ x

    expected = torch.autograd.functional.jacobian(directional, tuple(HPARAMS.values()))
    for got, want in zip(A.cross_vjp(x).values(), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


def test_entries_that_are_linear_count_as_zero():
    params = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}
    A = Linearization(lambda w, h: h["h"] * w["a"].square().sum() + w["b"], params, {"h": torch.tensor(2.0)})
    assert torch.equal(A.dense(), torch.diag(torch.tensor([4.0, 4.0, 0.0])))
    everything_linear = Linearization(lambda w, h: w["b"] + 0 * h["h"], params, {"h": torch.tensor(2.0)})
    assert torch.equal(everything_linear @ torch.ones(3), torch.zeros(3))
    assert everything_linear.cross_vjp(torch.ones(3)) == {"h": None}


def test_products_repeat_bitwise_and_are_symmetric_with_noise_in_the_loss():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    call = hypergrad.functional(model)
    x, y = torch.randn(12, 5, dtype=torch.float64), torch.randint(0, 3, (12,))
    params = {k: p.detach() for k, p in model.named_parameters()}
    A = Linearization(
        lambda w, h: nn.functional.cross_entropy(call(w, x) * h["scale"], y),
        params,
        {"scale": torch.tensor(1.5, dtype=torch.float64)},
    )
    u, v = torch.randn(2, A.shape[0], dtype=torch.float64)
    assert torch.equal(A @ v, A @ v)
    torch.testing.assert_close(u @ (A @ v), v @ (A @ u), rtol=1e-12, atol=1e-13)


class Square(torch.autograd.Function):
    """A legacy Function, which torch.func refuses."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


@pytest.mark.parametrize("square", [Square.apply, lambda x: checkpoint(torch.square, x, use_reentrant=False)])
def test_what_torch_func_refuses_is_differentiated_all_the_same(square):
    params, hparams = (
        {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"h": torch.tensor(3.0, dtype=torch.float64)},
    )
    A = Linearization(lambda w, h: h["h"] * square(square(w["w"])).sum(), params, hparams)
    torch.testing.assert_close(A.dense(), torch.diag(36.0 * params["w"] ** 2))
    torch.testing.assert_close(A.cross_vjp(torch.ones(2, dtype=torch.float64))["h"], (4 * params["w"] ** 3).sum())


def test_an_error_of_the_loss_itself_is_the_users_own():
    with pytest.raises(RuntimeError, match="must match"):
        Linearization(lambda w, h: (w["w"] + torch.ones(3)).sum(), {"w": torch.ones(2)}, {"h": torch.ones(1)})


def test_attention_is_differentiated_twice():
    attention = nn.MultiheadAttention(4, 2, batch_first=True).double()
    call = hypergrad.functional(attention)
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    params = {k: p.detach() for k, p in attention.named_parameters()}
    A = Linearization(
        lambda w, h: (call(w, x, x, x, need_weights=False)[0] * h["h"]).square().sum(),
        params,
        {"h": torch.tensor(1.0, dtype=torch.float64)},
    )
    v = torch.randn(A.shape[0], dtype=torch.float64)
    v /= v.norm()
    step = 1e-5

    def gradient(sign):
        moved = A.layout.to_dict(A.layout.flatten(list(params.values())) + sign * step * v)
        return Linearization(
            lambda w, h: call(w, x, x, x, need_weights=False)[0].square().sum() + 0 * h["h"],
            moved,
            {"h": torch.tensor(1.0, dtype=torch.float64)},
        ).gradient

    torch.testing.assert_close(A @ v, (gradient(1) - gradient(-1)) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda w, h: w["w"], r"must return a floating-point scalar.*got shape \(2,\)"),
        (lambda w, h: 1.0, "must return a scalar tensor; got float"),
        (lambda w, h: h["h"].sum(), "does not depend on params"),
        (lambda w, h: w["w"].detach().sum() * h["h"].sum(), "does not depend on params"),
    ],
)
def test_bad_losses_are_refused(bad, message):
    with pytest.raises(hypergrad.InvalidInputError, match=message):
        Linearization(bad, {"w": torch.ones(2)}, {"h": torch.ones(1)})


def test_a_dense_matrix_that_is_too_large_is_refused():
    size = DENSE_LIMIT + 1
    A = Linearization(lambda w, h: (w["w"] ** 2).sum() * h["h"], {"w": torch.ones(size)}, {"h": torch.tensor(1.0)})
    with pytest.raises(hypergrad.InvalidInputError, match=f"dense Hessian of {size} parameters"):
        A.dense()


def test_peak_memory_counts_what_a_graph_keeps_and_repeats_exactly():
    x = torch.ones(1000, dtype=torch.float64, requires_grad=True)

    def chain():
        with peak_memory() as peak:
            y = x
            for _ in range(10):
                y = y.sin()  # saves its input
        return peak.bytes

    assert chain() == chain() == 10 * 8000
    with peak_memory() as peak, torch.no_grad():
        y = x
        for _ in range(10):
            y = y.sin()
    assert peak.bytes == 2 * 8000
    with peak_memory() as peak:
        x.detach().view(10, 100)[0].t()
    assert peak.bytes == 0


class Cube(torch.autograd.Function):
    """Differentiable once, with the interface that torch.func takes."""

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


class OldCube(torch.autograd.Function):
    """The same with the interface that torch.func refuses."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    backward = Cube.backward


@pytest.mark.parametrize("cube", [Cube, OldCube])
def test_a_backward_pass_that_is_differentiable_once_is_refused_and_gives_no_silent_zero(cube):
    at = ({"w": torch.ones(3)}, {"h": torch.tensor(1.0)})
    with pytest.raises(InvalidInputError, match=r"once_differentiable.*curvature='finite-difference'"):
        Linearization(lambda w, h: h["h"] * cube.apply(w["w"]).sum() + w["w"].square().sum(), *at)


def test_what_reaches_only_the_hyperparameters_may_be_differentiable_once():
    at = ({"w": torch.tensor(2.0)}, {"h": torch.tensor(3.0)})
    A = Linearization(lambda w, h: Cube.apply(h["h"]) * w["w"].square(), *at)
    assert A @ torch.ones(1) == 2 * 27
    assert A.cross_vjp(torch.ones(1))["h"] == 3 * 9 * 2 * 2
