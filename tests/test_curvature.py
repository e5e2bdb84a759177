"""Every cheaper curvature against its slow twin or a dense oracle, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import hypergrad
from hypergrad import families
from hypergrad.curvature import linearize
from hypergrad.curvature.base import drawn_rows
from hypergrad.errors import InvalidInputError
from hypergrad.estimators.implicit import Implicit
from hypergrad.families import HyperparameterFamily
from hypergrad.keys import derive, uniform
from hypergrad.linearization import Linearization
from hypergrad.memory import peak_memory
from hypergrad.objective import ModelObjective
from hypergrad.solvers.neumann import Neumann

DOUBLE = torch.float64
B = 7
EXACT = {"rtol": 1e-11, "atol": 1e-13}


class Picks(HyperparameterFamily):
    """Scales each image by one of two factors: pathwise through the factors, by log-probability for the pick."""

    def __init__(self):
        super().__init__()
        self.factors = nn.Parameter(torch.tensor([0.5, 1.7], dtype=DOUBLE))
        self.logit = nn.Parameter(torch.tensor(0.3, dtype=DOUBLE))

    def transform(self, inputs, targets, ctx):
        index = torch.arange(len(inputs)) if ctx.index is None else ctx.index
        second = uniform(derive(ctx.key, "picks"), index, 1, dtype=DOUBLE)[:, 0] < self.logit.sigmoid()
        scale = torch.where(second, self.factors[1], self.factors[0])
        log_prob = torch.where(second, F.logsigmoid(self.logit), F.logsigmoid(-self.logit))
        return inputs * scale[:, None], targets, log_prob


def network(*, norm=None):
    torch.manual_seed(3)
    middle = {None: nn.Identity, "batch": lambda: nn.BatchNorm1d(5), "dropout": lambda: nn.Dropout(0.4)}[norm]()
    return nn.Sequential(nn.Linear(4, 5), middle, nn.Tanh(), nn.Linear(5, 3)).double()


def objective(*kinds, model=None, loss=F.cross_entropy, weight_decay=0.02):
    model = network() if model is None else model
    made = {
        "decay": lambda: families.get("weight_decay", model=model, per="parameter", initial=0.05),
        "weights": lambda: families.get("sample_weights", num_samples=20).double(),
        "picks": Picks,
    }
    return ModelObjective(model, [made[k]() for k in kinds], loss=loss, weight_decay=weight_decay)


def batch(size=B, index=True):
    torch.manual_seed(5)
    x, y = torch.randn(size, 4, dtype=DOUBLE), torch.randint(3, (size,))
    return (x, y, torch.randperm(20)[:size]) if index else (x, y)


def vector(like, seed=0):
    return torch.randn(like.shape[0], generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


def both(problem, data, v=None, *, inner=None, **options):
    """The whole exact linearisation, and the one with options."""
    inner = problem.losses(11)[0] if inner is None else inner
    exact = Linearization(lambda w, h: inner(w, h, *data), problem.params, problem.hparams, damping=0.1)
    return exact, linearize(inner, problem.params, problem.hparams, data, damping=0.1, **options)


def assert_same_but_products(a, b, **tolerance):
    torch.testing.assert_close(a.value, b.value, **tolerance)
    torch.testing.assert_close(a.gradient, b.gradient, **tolerance)
    x = vector(a, 1)
    assert_same_entries(a.cross_vjp(x), b.cross_vjp(x), **tolerance)


def assert_same_entries(a, b, **tolerance):
    assert list(a) == list(b)
    for key, left in a.items():
        torch.testing.assert_close(left, b[key], **tolerance)
        assert left.norm() > 1e-6, f"{key} has no signal, so the comparison is empty"


def test_gauss_newton_is_the_dense_product_and_the_rest_is_exact():
    problem, data = objective("decay", "weights", "picks"), batch()
    exact, gn = both(problem, data, curvature="gauss-newton")
    assert_same_but_products(exact, gn, **EXACT)
    # The dense form, from the definition: outputs as a function of w, the loss as a function of the outputs.
    family, (x, y, index) = problem.family, data
    ctx = hypergrad.families.Context(key=derive(11, "inner"), index=index, soft=True, training=True)
    x, *_ = family.transform(x, y, ctx)
    shapes = {k: p.shape for k, p in problem.params.items()}
    sizes = [s.numel() for s in shapes.values()]
    flat = torch.cat([p.detach().reshape(-1) for p in problem.params.values()])

    def outputs(w):
        parts = dict(
            zip(shapes, (v.view(s) for v, s in zip(w.split(sizes), shapes.values(), strict=True)), strict=True)
        )
        return functional_call(problem.model, parts, (x.detach(),)).reshape(-1)

    weights = F.softplus(family.members.sample_weights.raw[index]).detach()

    def data_loss(z):
        return (weights * F.cross_entropy(z.view(B, 3), y, reduction="none")).mean()

    dense = torch.autograd.functional
    jacobian, middle = dense.jacobian(outputs, flat), dense.hessian(data_loss, outputs(flat))
    decay = torch.cat([torch.full((n,), 0.05 + 0.02, dtype=DOUBLE) for n in sizes])
    want = jacobian.T @ middle @ jacobian + torch.diag(decay + 0.1)
    torch.testing.assert_close(gn.dense().detach(), want.detach(), **EXACT)
    assert gn.matvecs == gn.shape[0]
    assert torch.linalg.eigvalsh(want).min() > 0.1
    assert torch.linalg.eigvalsh(exact.dense()).min() < 0.1  # here the Hessian has negative curvature


def test_gauss_newton_is_the_hessian_of_a_linear_model_and_leaves_out_a_linear_loss():
    torch.manual_seed(0)
    exact, gn = both(objective("decay", model=nn.Linear(4, 3).double()), batch(), curvature="gauss-newton")
    v = vector(exact)
    torch.testing.assert_close(gn @ v, exact @ v, **EXACT)
    linear = objective("decay", loss=lambda z, y: z.gather(1, y[:, None])[:, 0])
    _, gn = both(linear, batch(), curvature="gauss-newton")
    torch.testing.assert_close(gn @ vector(gn), 0.17 * vector(gn), rtol=1e-6, atol=0)  # decays and damping


def test_gauss_newton_refuses_outputs_that_are_no_tensor():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return self.inner(x), x

    problem = objective("decay", model=Two(), loss=lambda z, y: F.cross_entropy(z[0], y, reduction="none"))
    with pytest.raises(InvalidInputError, match=r"one tensor; got tuple"):
        both(problem, batch(), curvature="gauss-newton")


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("size", [1, 3, 7, 20])
@pytest.mark.parametrize("index", [True, False])
def test_accumulated_equals_whole(kind, size, index):
    problem = objective("decay", "picks", *(["weights"] if index else []))
    data = batch(index=index)
    inner = problem.losses(11)[0]
    options = {"damping": 0.1, "curvature": kind}
    fast = linearize(inner, problem.params, problem.hparams, data, **options)
    low = linearize(inner, problem.params, problem.hparams, data, memory="low", micro_batch=size, **options)
    assert_same_but_products(fast, low, **EXACT)
    v = vector(fast)
    torch.testing.assert_close(low @ v, fast @ v, **EXACT)
    assert torch.equal(low @ v, low @ v)


def test_accumulated_without_a_penalty_and_of_losses_with_a_time_axis():
    def loss(z, y):
        return torch.stack([F.cross_entropy(z, y, reduction="none"), z.square().sum(1)], 1)  # (B, 2)

    problem = objective("picks", loss=loss, weight_decay=0.0)
    exact, low = both(problem, batch(), memory="low", micro_batch=2)
    assert_same_but_products(exact, low, **EXACT)
    torch.testing.assert_close(low @ vector(low), exact @ vector(low), **EXACT)
    exact, low = both(problem, batch(1), memory="low", micro_batch=2)  # a single sample has no baseline
    assert_same_but_products(exact, low, **EXACT)


def weighted(w, h, x, y, name):
    assert name == "not a tensor"
    return (F.softplus(h["a"]) * (torch.tanh(x @ w["w"]) - y) ** 2).mean() + h["c"].exp() * (w["w"] ** 4).sum()


def plain_problem():
    torch.manual_seed(1)
    params = {"w": torch.randn(4, dtype=DOUBLE)}
    hparams = {"a": torch.tensor(0.4, dtype=DOUBLE), "c": torch.tensor(-1.0, dtype=DOUBLE)}
    data = (torch.randn(B, 4, dtype=DOUBLE), torch.randn(B, dtype=DOUBLE), "not a tensor")
    return params, hparams, data


@pytest.mark.parametrize("size", [2, 7])
def test_functions_are_accumulated_as_means(size):
    params, hparams, data = plain_problem()
    fast = linearize(weighted, params, hparams, data)
    low = linearize(weighted, params, hparams, data, memory="low", micro_batch=size)
    assert_same_but_products(fast, low, **EXACT)
    torch.testing.assert_close(low @ vector(low), fast @ vector(low), **EXACT)


@pytest.mark.parametrize("options", [{}, {"memory": "low"}, {"memory": "low", "micro_batch": 2}])
def test_finite_differences_agree_with_the_graph(options):
    exact, differences = both(objective("decay", "weights", "picks"), batch(), curvature="finite-difference", **options)
    x = vector(exact, 1)
    for seed, scale in ((0, 1.0), (1, 1e-6), (2, 1e6)):
        v = scale * vector(exact, seed)
        torch.testing.assert_close(differences @ v, exact @ v, rtol=1e-7, atol=1e-8 * scale)
    torch.testing.assert_close(exact.gradient, differences.gradient, **EXACT)
    assert_same_entries(exact.cross_vjp(x), differences.cross_vjp(x), rtol=1e-6, atol=1e-9)
    zero = torch.zeros_like(v)
    assert torch.equal(differences @ zero, zero)
    assert not any(bool(g.any()) for g in differences.cross_vjp(zero).values())


def test_finite_differences_in_single_precision():
    problem = objective("decay", model=network().float())
    data = (batch()[0].float(), *batch()[1:])
    exact, differences = both(problem, data, curvature="finite-difference")
    v = vector(exact)
    error = (differences @ v - exact @ v).norm() / (exact @ v).norm()
    assert error < 3e-3


class Cube(torch.autograd.Function):
    """A hand-written backward pass that cannot be differentiated again."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


def test_finite_differences_need_no_double_backward():
    params, hparams, data = plain_problem()

    def loss(w, h, x, y, name):
        return (
            h["a"].exp() * (checkpoint(Cube.apply, x @ w["w"], use_reentrant=False) - y).square().mean() + h["c"] ** 2
        )

    def twin(w, h, x, y, name):
        return h["a"].exp() * ((x @ w["w"]) ** 3 - y).square().mean() + h["c"] ** 2 + 0 * w["w"].sum() * h["c"]

    exact = linearize(twin, params, hparams, data)
    differences = linearize(loss, params, hparams, data, curvature="finite-difference")
    v = vector(exact)
    torch.testing.assert_close(differences @ v, exact @ v, rtol=1e-6, atol=1e-8)
    a = differences.cross_vjp(v)["a"]
    torch.testing.assert_close(a, exact.cross_vjp(v)["a"], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("options", [{"curvature": "finite-difference"}, {"memory": "low", "micro_batch": 3}])
def test_noise_inside_the_model_is_the_same_in_every_product(options):
    problem = objective("decay", model=network(norm="dropout"))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    _, A = both(problem, batch(), **options)
    assert not torch.equal(before, torch.get_rng_state())  # by the exact one, which draws on
    before = torch.get_rng_state()
    v, x = vector(A), vector(A, 1)
    assert torch.equal(A @ v, A @ v)
    torch.testing.assert_close(x @ (A @ v), v @ (A @ x), rtol=1e-6, atol=1e-9)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton", "finite-difference"])
@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("index", [True, False])
def test_a_sub_batch_has_the_operator_of_its_samples(kind, memory, index):
    problem = objective("decay", "picks", *(["weights"] if index else []))
    data, inner = batch(index=index), problem.losses(11)[0]
    torch.manual_seed(2)
    rows = drawn_rows(torch.device("cpu"), B, 0.4)
    assert len(rows) == 3 and len(set(rows.tolist())) == 3
    place = data[2][rows] if index else rows  # a sample keeps the noise that it has in the whole batch
    few = (data[0][rows], data[1][rows], place)
    at = (problem.params, problem.hparams)
    part = linearize(inner, *at, few, damping=0.1, curvature=kind)
    whole = linearize(inner, *at, data, curvature=kind)
    A = linearize(inner, *at, data, damping=0.1, curvature=kind, share=0.4, memory=memory)
    v = vector(A)
    tolerance = {"rtol": 1e-6, "atol": 1e-8} if kind == "finite-difference" else EXACT
    torch.testing.assert_close(A @ v, part @ v, **tolerance)
    assert (A @ v - whole @ v).norm() > 1e-3 * v.norm()
    assert_same_but_products(A, whole, **tolerance)
    assert A.matvecs == 2


def test_products_on_sub_batches_are_unbiased_and_inverses_too_long():
    torch.manual_seed(0)
    problem, data = objective("decay", model=nn.Linear(4, 3).double()), batch(16)
    inner = problem.losses(0)[0]
    exact = linearize(inner, problem.params, problem.hparams, data, damping=0.2)
    v, b = vector(exact), vector(exact, 3)
    products, lengths = [], []
    truth = b @ torch.linalg.solve(exact.dense(), b)
    for seed in range(150):
        torch.manual_seed(seed)
        A = linearize(inner, problem.params, problem.hparams, data, damping=0.2, share=0.25)
        products.append(A @ v)
        lengths.append(b @ torch.linalg.solve(A.dense(), b))
    stacked = torch.stack(products)
    error = (stacked.mean(0) - exact @ v) / (stacked.std(0) / 150**0.5)
    assert error.abs().max() < 4.5
    assert stacked.std(0).max() > 1e-2
    # Jensen: b' A^-1 b is convex in A.
    lengths = torch.stack(lengths)
    assert (lengths.mean() - truth) / (lengths.std() / 150**0.5) > 3


def test_a_sub_batch_repeats_its_noise_and_keeps_one_graph_at_a_time():
    problem, data = objective("decay", model=network(norm="dropout")), batch(20, index=False)
    inner = problem.losses(11)[0]
    A = linearize(inner, problem.params, problem.hparams, data, share=0.4)
    v = vector(A)
    before = torch.get_rng_state()
    product, value, cross = A @ v, A.value, A.cross_vjp(v)
    assert torch.equal(A @ v, product) and torch.equal(A.value, value)  # each made again
    assert_same_entries(A.cross_vjp(v), cross, rtol=0, atol=0)
    assert torch.equal(before, torch.get_rng_state())

    x, y = torch.randn(64, 4, dtype=DOUBLE), torch.randint(3, (64,))
    wide = objective("decay", model=nn.Sequential(nn.Linear(4, 500), nn.Tanh(), nn.Linear(500, 3)).double())

    def peak(share):
        with peak_memory() as counted:
            Implicit(curvature_share=share).estimate(
                *wide.losses(0), wide.params, wide.hparams, inner_batch=(x, y), outer_batch=(x[:2], y[:2])
            )
        return counted.bytes

    assert peak(0.25) < 0.9 * peak(1.0)


def test_a_sample_that_is_not_finite_is_reported_wherever_it_is():
    problem, (x, y) = objective("decay"), batch(20, index=False)
    for row in range(0, 20, 4):
        bad = x.clone()
        bad[row, 0] = float("nan")
        with pytest.raises(hypergrad.NonFiniteError, match=r"inner_loss is nan: .*argument 0 has 1 NaN"):
            Implicit(curvature_share=0.2).estimate(
                *problem.losses(0), problem.params, problem.hparams, inner_batch=(bad, y), outer_batch=(x, y)
            )


def test_a_sub_batch_follows_the_key():
    problem = hypergrad.BilevelProblem.for_model(network(), families.get("weight_decay", model=network()))
    data = {"batch": batch(20, index=False), "val": batch(6, index=False)}
    estimator = Implicit(curvature_share=0.2)
    a, b, other = (problem.hypergradient(estimator=estimator, seed=s, **data).grads["log_decay"] for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_half_precision_is_in_the_forward_pass_only(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3))
    problem = hypergrad.BilevelProblem.for_model(model, families.get("weight_decay", model=model, per="parameter"))
    data = {
        "batch": (torch.randn(32, 4), torch.randint(3, (32,))),
        "val": (torch.randn(32, 4), torch.randint(3, (32,))),
    }
    solver = Neumann(num_hvps=5, alpha=0.1)
    exact, half = (
        problem.hypergradient(estimator=Implicit(solver=solver, curvature=kind, precision=p), **data)
        for p in ("float32", "bfloat16")
    )
    a, b = exact.grads["log_decay"], half.grads["log_decay"]
    assert half.solution.x.dtype == b.dtype == half.inner_loss.dtype == torch.float32
    assert 1e-7 < (a - b).norm() / a.norm() < 0.03
    assert torch.cosine_similarity(a, b, dim=0) > 0.999


def convolutions(norm=nn.Identity):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), norm(), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))


def test_costs_of_a_product_and_of_memory():
    model = convolutions()
    problem = hypergrad.BilevelProblem.for_model(model, families.get("weight_decay", model=model))
    data = (torch.randn(16, 3, 12, 12), torch.randint(3, (16,)))
    inner = problem.objective.losses(0)[0]

    def flops(**options):
        A = linearize(inner, problem.params, problem.hparams, data, **options)
        A @ torch.ones(A.shape[0])  # makes what is made on demand
        with FlopCounterMode(display=False) as counter:
            A @ torch.ones(A.shape[0])
        return counter.get_total_flops()

    assert flops(share=0.25) == flops() / 4
    # Of each layer four convolutions and not six.
    assert flops(curvature="gauss-newton") < 0.69 * flops()

    def peak(run):
        with peak_memory() as counted:
            run()
        return counted.bytes

    plain = peak(lambda: problem.objective.training_loss(data, 0).backward())
    low, fast = (
        peak(lambda m=m: problem.hypergradient(estimator=Implicit(memory=m), batch=data, val=data))
        for m in ("low", "fast")
    )
    assert low < 1.15 * plain < fast


REFUSED = [
    ({"curvature": "fisher"}, r"curvature must be one of .*gauss-newton.*; got 'fisher'"),
    ({"curvature_share": 0}, r"curvature_share must be a number in \(0, 1\].* got 0"),
    ({"curvature_share": 1.5}, r"got 1.5"),
    ({"curvature_share": True}, r"got True"),
    ({"memory": "tiny"}, r"memory must be one of \('fast', 'low'\); got 'tiny'"),
    ({"micro_batch": 8}, r"micro_batch=8 has no effect with memory='fast'"),
    ({"memory": "low", "micro_batch": 0}, r"micro_batch must be a positive integer.* got 0"),
    ({"precision": "float16"}, r"precision must be 'float32' or 'bfloat16'; got 'float16'"),
    ({"precision": "bfloat16", "curvature": "finite-difference"}, r"rounding of 8-bit mantissas"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_impossible_options(options, message):
    with pytest.raises(InvalidInputError, match=message):
        Implicit(**options)


def test_options_that_do_not_fit_the_loss():
    params, hparams, data = plain_problem()
    for options, given, message in (
        ({"curvature": "gauss-newton"}, data, r"needs the network's outputs apart.*for_model"),
        ({"memory": "low"}, (), r"memory='low' needs an inner batch of tensors.*got 0 arguments"),
        ({"share": 0.5}, (3,), r"curvature_share=0.5 needs .*got 1 arguments"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            linearize(weighted, params, hparams, given, **options)
    coupled = objective("decay", model=network(norm="batch"))
    with pytest.raises(InvalidInputError, match=r"1 is a BatchNorm1d that normalises by the batch's own.*GroupNorm"):
        both(coupled, batch(), memory="low")
    coupled.model[1].eval()
    exact, low = both(coupled, batch(), memory="low")
    torch.testing.assert_close(low @ vector(low), exact @ vector(low), **EXACT)
    grouped = ModelObjective(convolutions(), families.get("madao", operations=["Rotate"], group_size=2))
    with pytest.raises(InvalidInputError, match=r"groups of 2 share a pick of the Policy"):
        both(grouped, (torch.rand(8, 3, 8, 8), torch.zeros(8, dtype=torch.long)), memory="low")


def test_a_policy_is_accumulated_exactly():
    model = convolutions().double()
    family = families.get("madao", operations=["Rotate", "Solarize", "Brightness"], mean=0.5, std=0.3).double()
    problem = ModelObjective(model, family)
    data = ((torch.rand(9, 3, 8, 8, dtype=DOUBLE) - 0.5) / 0.3, torch.randint(3, (9,)))
    exact, low = both(problem, data, memory="low", micro_batch=4)
    torch.testing.assert_close(low @ vector(low), exact @ vector(low), **EXACT)
    assert_same_entries(exact.cross_vjp(vector(low)), low.cross_vjp(vector(low)), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_the_estimator_says_whose_loss_does_not_reach_params(memory):
    estimator = Implicit(memory=memory)
    params, hparams, (x, y, _) = plain_problem()

    def good(w, h, x, y):
        return (h["a"].exp() * (x @ w["w"] - y) ** 2).mean() + h["c"] * w["w"].sum()

    def bad(w, h, x, y):
        return (h["a"] * y).mean() + h["c"]

    for inner, outer, name in ((good, bad, "outer_loss"), (bad, good, "inner_loss")):
        with pytest.raises(InvalidInputError, match=f"{name} does not depend on params"):
            estimator.estimate(inner, outer, params, hparams, inner_batch=(x, y), outer_batch=(x, y))


class Layers(nn.Module):
    """Convolutions of every kind, between two nonlinear layers whose tangents they must carry."""

    def __init__(self, dims):
        super().__init__()
        torch.manual_seed(4)
        conv = {1: nn.Conv1d, 2: nn.Conv2d}[dims]
        self.first = conv(2, 4, 3, stride=2, padding=1)
        self.grouped = conv(4, 4, 3, groups=2, padding=1, bias=False)
        self.named = conv(4, 3, 3, padding="same", dilation=2)
        self.point = conv(3, 3, 1, dilation=1)

    def forward(self, x):
        x = torch.tanh(self.grouped(torch.tanh(self.first(x))))
        x = torch.tanh(self.named(x))
        alone = torch.stack([self.point(one) for one in x])  # without a batch axis
        return (x + alone).flatten(2).mean(2)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("memory", ["fast", "low"])
def test_gauss_newton_of_convolutions_is_the_dense_product(dims, memory):
    model = Layers(dims).double()
    torch.manual_seed(1)
    x, y = torch.randn(4, 2, *[6] * dims, dtype=DOUBLE), torch.randint(3, (4,))
    family = families.get("weight_decay", model=model, per="parameter")
    problem = ModelObjective(model, [family, PixelShift()])
    exact, gn = both(problem, (x, y), curvature="gauss-newton", memory=memory)
    assert_same_but_products(exact, gn, **EXACT)
    x = x + problem.family.members.pixel_shift.shift.detach()
    shapes = {k: p.shape for k, p in problem.params.items()}
    sizes = [s.numel() for s in shapes.values()]
    flat = torch.cat([p.detach().reshape(-1) for p in problem.params.values()])

    def outputs(w):
        parts = dict(
            zip(shapes, (v.view(s) for v, s in zip(w.split(sizes), shapes.values(), strict=True)), strict=True)
        )
        return functional_call(model, parts, (x,)).reshape(-1)

    jacobian = torch.autograd.functional.jacobian(outputs, flat)
    middle = torch.autograd.functional.hessian(lambda z: F.cross_entropy(z.view(4, 3), y), outputs(flat))
    v = vector(gn)
    torch.testing.assert_close(gn @ v, jacobian.T @ (middle @ (jacobian @ v)) + (5e-4 + 0.1) * v, rtol=1e-7, atol=1e-11)


class PixelShift(HyperparameterFamily):
    """A hyperparameter that reaches the inner gradient through the network."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.2, dtype=DOUBLE))

    def transform(self, inputs, targets, ctx):
        return inputs + self.shift, targets
