"""The log density where all points share the parameters, and where each has its own."""

import math

import pytest
import torch
from cases import mixture_parameters, normal, stock_mixture
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacrev, vmap
from torch.testing import assert_close

from mdn_dist._maths import density
from mdn_dist._maths.density import mixture_log_density, mixture_log_prob

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
SIZES = [1, 2, 3, 6, 8, 9, 32]
POINTS = [(), (1,), (7,), (0,), (4, 3), (2, 1, 3)]

every_size = pytest.mark.parametrize("size", SIZES)


@pytest.fixture(params=[1 << 16, 4])
def chunk(request, monkeypatch):
    """Points all at once, and one or two at a time."""
    monkeypatch.setattr(density, "CHUNK", request.param)


def stock(logits, loc, scale_tril, value):
    """Torch's own score, by the lower triangle alone."""
    return stock_mixture(logits, loc, scale_tril.tril()).log_prob(value)


def leaves(*tensors):
    return [t.detach().clone().requires_grad_() for t in tensors]


def assert_is_stocks(inputs, change=lambda *parameters: parameters):
    """Scores and all gradients, the parameters first changed, say broadcast."""
    found, expected = [], []
    for score, results in ((mixture_log_prob, found), (stock, expected)):
        given = leaves(*inputs)
        log_prob = score(*change(*given[:3]), given[3])
        weight = normal(*log_prob.shape, seed=77)
        results += [log_prob, *torch.autograd.grad(log_prob, given, weight)]
    assert_close(found, expected, **CLOSE)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("shape", POINTS, ids=str)
@every_size
def test_shared_parameters_score_like_stock(size, shape):
    assert_is_stocks([*mixture_parameters((), size), normal(*shape, size, seed=50)])


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("batch", [(1,), (1, 1), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("shape", [(7,), (4, 3), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 6, 9])
def test_a_batch_of_ones_is_shared(size, shape, batch):
    assert_is_stocks([*mixture_parameters(batch, size), normal(*shape, size, seed=51)])


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("shape", [(5,), (4, 5), (1, 4, 1)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 6, 9])
def test_expanded_parameters_score_like_stock(size, shape):
    inputs = [*mixture_parameters((), size), normal(*shape, size, seed=52)]

    def expanded(*parameters):
        return [p.expand(4, 5, *p.shape) for p in parameters]

    assert_is_stocks(inputs, expanded)
    with torch.no_grad():
        found = mixture_log_prob(*expanded(*inputs[:3]), inputs[3])
    assert_close(found, stock(*expanded(*inputs[:3]), inputs[3]), **CLOSE)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("batch", [(1,), (9,), (2, 3)], ids=str)
@every_size
def test_parameters_of_each_points_own_score_like_stock(size, batch):
    assert_is_stocks([*mixture_parameters(batch, size), normal(*batch, size, seed=53)])


@pytest.mark.parametrize("batch", [(0,), (2, 0)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 9])
def test_no_points_have_no_score_and_empty_gradients(size, batch):
    inputs = leaves(*mixture_parameters(batch, size), normal(*batch, size, seed=53))
    score = mixture_log_prob(*inputs)
    assert score.shape == batch
    gradients = torch.autograd.grad(score.sum(), inputs)
    assert [g.shape for g in gradients] == [t.shape for t in inputs]
    expanded = [p.expand(*batch, *p.shape) for p in mixture_parameters((), size)]
    assert mixture_log_prob(*expanded, inputs[3]).shape == batch


@pytest.mark.parametrize("size", [1, 2, 9])
def test_what_is_expanded_has_its_own_gradient_in_every_place(size):
    parameters = mixture_parameters((), size)
    value, weight = normal(5, size, seed=54), normal(5, seed=55)
    inputs = [p.expand(5, *p.shape).detach().requires_grad_() for p in parameters]
    assert all(p.stride(0) == 0 for p in inputs)
    found = torch.autograd.grad(mixture_log_prob(*inputs, value), inputs, weight)
    copied = leaves(*inputs)
    expected = torch.autograd.grad(stock(*copied, value), copied, weight)
    assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("wanted", [[0], [1], [2], [3], [0, 1], [1, 3]], ids=str)
@pytest.mark.parametrize("batch", [(), (5,)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 9])
def test_gradients_by_some_alone(size, batch, wanted):
    inputs = [*mixture_parameters(batch, size), normal(5, size, seed=56)]
    results = []
    for score in (mixture_log_prob, stock):
        given = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(inputs)]
        results.append(torch.autograd.grad(score(*given).sum(), [given[i] for i in wanted]))
    assert_close(*results, **CLOSE)


@pytest.mark.parametrize("size", [1, 2, pytest.param(9, marks=pytest.mark.slow)])
def test_shared_parameters_have_second_derivatives(size):
    inputs = leaves(*mixture_parameters((), size, components=2), normal(3, size, seed=57))

    def score(logits, loc, scale_tril, value):
        return mixture_log_prob(logits, loc, scale_tril.tril(), value)

    assert torch.autograd.gradcheck(score, inputs)
    assert torch.autograd.gradgradcheck(score, inputs)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_shared_parameters_under_transforms_are_the_twins(size):
    inputs = (*mixture_parameters((), size, components=2), normal(3, size, seed=58))
    every = (0, 1, 2, 3)
    for transform in (grad, hessian):
        found, expected = (
            transform(lambda *given, f=f: f(*given).sum(), every)(*inputs)
            for f in (mixture_log_prob, stock)
        )
        assert_close(found, expected, rtol=1e-9, atol=1e-9)
    found, expected = (jacrev(f, every)(*inputs) for f in (mixture_log_prob, stock))
    assert_close(found, expected, **CLOSE)
    each = vmap(mixture_log_prob, (None, None, None, 0))(*inputs)
    assert_close(each, stock(*inputs), **CLOSE)
    with forward_ad.dual_level():
        moved = [forward_ad.make_dual(t, torch.ones_like(t)) for t in inputs]
        found, expected = (forward_ad.unpack_dual(f(*moved)) for f in (mixture_log_prob, stock))
    assert_close(tuple(found), tuple(expected), **CLOSE)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_shared_parameters_under_a_vectorized_jacobian(size):
    inputs = tuple(mixture_parameters((), size))
    value = normal(3, size, seed=59)

    def jacobian(score, *, vectorize):
        return torch.autograd.functional.jacobian(
            lambda *given: score(*given, value), inputs, vectorize=vectorize
        )

    expected = jacobian(stock, vectorize=False)
    assert_close(jacobian(mixture_log_prob, vectorize=True), expected, **CLOSE)


@pytest.mark.parametrize("size", [1, 2, 6, 9])
def test_shared_parameters_on_the_meta_device_have_shapes(size):
    inputs = [t.to("meta").requires_grad_() for t in mixture_parameters((), size)]
    score = mixture_log_prob(*inputs, torch.empty(4, 3, size, device="meta", dtype=torch.double))
    assert score.shape == (4, 3)
    gradients = torch.autograd.grad(score.sum(), inputs)
    assert [g.shape for g in gradients] == [t.shape for t in inputs]


@pytest.mark.parametrize("batch", [(), (6,)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 9])
def test_a_point_without_weight_sends_nothing_back(size, batch):
    inputs = leaves(*mixture_parameters(batch, size), normal(6, size, seed=60))
    weight = normal(6, seed=61)
    weight[2] = 0.0
    with torch.no_grad():
        inputs[3][2] = math.nan
    found = torch.autograd.grad(mixture_log_prob(*inputs), inputs, weight)
    rows = [0, 1, 3, 4, 5]
    parameters = [p[rows] if batch else p for p in inputs[:3]]
    expected = torch.autograd.grad(stock(*parameters, inputs[3][rows]), inputs[:3], weight[rows])
    assert_close(found[:3], expected, **CLOSE)
    assert (found[3][2] == 0).all()
    assert (found[3][rows] != 0).all()


@pytest.mark.parametrize("spoilt", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 2, 9])
def test_spoilt_shared_parameters_without_weight_get_no_gradient(size, spoilt):
    parameters = mixture_parameters((), size)
    parameters[spoilt][0] = math.nan
    inputs = leaves(*parameters, normal(6, size, seed=62))
    score = mixture_log_prob(*inputs)
    assert score.isnan().all()
    found = torch.autograd.grad(score, inputs, torch.zeros_like(score))
    assert all((g == 0).all() for g in found)


@pytest.mark.parametrize("reach", [1e30, 3e38])
@pytest.mark.parametrize("size", [1, 2, 6, 9, 32])
def test_one_far_point_leaves_the_others_of_shared_parameters_alone(size, reach):
    inputs = [t.float() for t in (*mixture_parameters((), size), normal(6, size, seed=63))]
    inputs[2] /= 8
    inputs[3][2], inputs[3][4] = reach, math.nan
    inputs = leaves(*inputs)
    score = mixture_log_prob(*inputs)
    rows = [0, 1, 3, 5]
    assert score[2] == -math.inf
    assert score[4].isnan()
    expected = stock(*(t.double() for t in inputs))
    assert_close(score[rows].double(), expected[rows], rtol=1e-5, atol=1e-5)
    weight = torch.ones(6)
    weight[4] = 0.0
    gradients = torch.autograd.grad(score, inputs, weight)
    assert all(g.isfinite().all() for g in gradients)
    kept = leaves(*inputs[:3], inputs[3][rows])
    expected = torch.autograd.grad(stock(*(t.double() for t in kept)).sum(), kept[1:3])
    assert_close(gradients[1:3], expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("size", [2, 9])
def test_shared_gradients_are_in_full_precision_inside_autocast(size):
    inputs = leaves(*(t.float() for t in (*mixture_parameters((), size), normal(9, size, seed=64))))
    results = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            score = mixture_log_prob(*inputs)
            results.append([score, *torch.autograd.grad(score.sum(), inputs)])
    assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("batch", [(), (9,)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 6, 32])
def test_rounding_is_that_of_the_plain_form(size, batch):
    inputs = [*mixture_parameters(batch, size, seed=9), normal(9, size, seed=65, scale=3.0)]
    single = [t.float() for t in inputs]
    exact = stock(*(t.double() for t in single))
    errors = [
        (score(*single).double() - exact).abs().max()
        for score in (mixture_log_prob, mixture_log_density)
    ]
    assert errors[0] <= 4 * errors[1] + 1e-6 * exact.abs().max()
