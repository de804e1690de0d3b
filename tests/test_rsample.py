"""Pathwise derivatives of samples, against exact ones of expectations known in closed form."""

import math

import mpmath
import pyro
import pytest
import torch
from cases import generator, mixture_parameters, normal
from pyro.distributions import MixtureOfDiagNormals
from torch.autograd import forward_ad
from torch.autograd.functional import jacobian
from torch.distributions import Distribution
from torch.func import grad, vmap
from torch.special import ndtr
from torch.testing import assert_close

from mdn_dist import GaussianMixture
from mdn_dist._maths import pathwise
from mdn_dist._maths.draw import draw_offset
from mdn_dist._maths.rosenblatt import reparameterize

SIZES = pytest.mark.parametrize("size", [1, 2, 3, 6])


def overlapping(size):
    return mixture_parameters((), size)


def unequal(size):
    logits, loc, scale_tril = mixture_parameters((), size, seed=10)
    factor = torch.tensor([0.4, 1.0, 2.0], dtype=torch.float64).view(3, 1, 1)
    return logits + torch.tensor([1.0, 0.0, -1.0]), loc, factor * scale_tril


def degenerate(size):
    """Correlations of 0.999 and more, and a component 1e-3 wide in its last coordinate."""
    logits, loc, scale_tril = mixture_parameters((), size, seed=20)
    scale_tril = scale_tril.clone()
    scale_tril[0, -1, -1] = 1e-3
    scale_tril[1, -1, 0] = 1.0
    scale_tril[1, -1, -1] = 0.03 if size > 1 else 1.0
    return logits, loc, scale_tril


def distant(size):
    """Components 20 deviations apart in the first coordinate."""
    logits, loc, scale_tril = mixture_parameters((), size, seed=30)
    loc = loc.clone()
    loc[:, 0] = torch.tensor([-20.0, 0.0, 20.0])
    scale_tril = scale_tril.clone()
    scale_tril[:, 0, 0] = 1.0
    return logits, loc, scale_tril


FAMILIES = [overlapping, unequal, degenerate, distant]


def quadratic(size):
    matrix = normal(size, size, seed=40)

    def exact(logits, loc, scale_tril):
        second = scale_tril @ scale_tril.mT + loc.unsqueeze(-1) * loc.unsqueeze(-2)
        return (logits.softmax(-1) * (matrix * second).sum((-2, -1))).sum(-1)

    return lambda x: ((x @ matrix) * x).sum(-1), exact


def cosine(size):
    direction = normal(size, seed=41) / size**0.5

    def exact(logits, loc, scale_tril):
        spread = (direction @ scale_tril).square().sum(-1)
        return (logits.softmax(-1) * (loc @ direction).cos() * (-spread / 2).exp()).sum(-1)

    return lambda x: (x @ direction).cos(), exact


def distance(size):  # noqa: ARG001
    """Of the last coordinate from 0.3: not smooth, and a curve of every coordinate before it."""
    centre = 0.3

    def exact(logits, loc, scale_tril):
        mean, scale = loc[..., -1] - centre, scale_tril[..., -1, :].norm(dim=-1)
        z = mean / scale
        peak = scale * math.sqrt(2 / math.pi) * (-z.square() / 2).exp()
        return (logits.softmax(-1) * (peak + mean * (2 * ndtr(z) - 1))).sum(-1)

    return lambda x: (x[..., -1] - centre).abs(), exact


FUNCTIONS = [quadratic, cosine, distance]


def exact_gradients(exact, parameters):
    leaves = [p.clone().requires_grad_() for p in parameters]
    gradients = torch.autograd.grad(exact(*leaves), leaves)
    return [gradients[0], gradients[1], gradients[2].tril()]


def gradients_of_each(function, parameters, points, attach=reparameterize):
    """Derivatives of the function of each point ``(N, D)`` by every parameter, ``(N, ...)``."""
    leaves = [p.expand(len(points), *p.shape).clone().requires_grad_() for p in parameters]
    return torch.autograd.grad(function(attach(*leaves, points)).sum(), leaves)


def projected(gradients, seed=50):
    """Along one random direction a parameter, ``(N, 3)``."""
    directions = [normal(*g.shape[1:], seed=seed + i) for i, g in enumerate(gradients)]
    pairs = zip(gradients, directions, strict=True)
    return torch.stack([(g * d).flatten(1).sum(1) for g, d in pairs], -1)


def assert_exact(found, exact, columns=slice(None)):
    expected = projected([g.unsqueeze(0) for g in exact])[0]
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - expected).abs() < 4 * error)[columns].all()


# 4 standard errors, two-sided: each of the 264 statistics of the two tests below raises a false
# alarm at a rate of 6e-5 over seeds, all together at 1.7 %.


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("family", FAMILIES)
@SIZES
def test_the_average_gradient_is_the_gradient_of_the_average(size, family, function):
    parameters, (evaluate, exact) = family(size), function(size)
    leaves = [p.expand(20_000, *p.shape).clone().requires_grad_() for p in parameters]
    points = GaussianMixture(*leaves, validate_args=False).rsample(generator=generator(1))
    gradients = torch.autograd.grad(evaluate(points).sum(), leaves)
    # of components far apart the weights' derivative lies in the gaps, where hardly a point falls
    columns = slice(1, None) if family in (distant, unequal) else slice(None)
    assert_exact(projected(gradients), exact_gradients(exact, parameters), columns)


def bridged(logits, loc, scale_tril):
    """A mixture that covers the gaps between the components too."""
    middle = [loc + t * (loc.roll(1, 0) - loc) for t in torch.linspace(0, 0.9, 10).tolist()]
    wide = 2 * scale_tril.abs().amax(0) * torch.eye(loc.shape[-1], dtype=torch.float64)
    count = len(loc) * len(middle)
    return GaussianMixture(
        torch.cat([logits.log_softmax(-1), logits.new_full((count,), -math.log(count))]),
        torch.cat([loc, *middle]),
        torch.cat([scale_tril, wide.expand(count, -1, -1)]),
    )


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("family", FAMILIES)
@SIZES
def test_derivatives_are_right_in_the_gaps_too(size, family, function):
    parameters, (evaluate, exact) = family(size), function(size)
    proposal = bridged(*parameters)
    points = proposal.sample((20_000,), generator(2))
    weight = (GaussianMixture(*parameters).log_prob(points) - proposal.log_prob(points)).exp()
    gradients = gradients_of_each(lambda x: evaluate(x) * weight, parameters, points)
    assert_exact(projected(gradients), exact_gradients(exact, parameters))


def test_the_comparison_notices_a_derivative_by_the_drawn_component_alone():
    # what autograd makes of a draw: the weights do not move the points
    parameters, (evaluate, exact) = overlapping(2), quadratic(2)
    leaves = [p.expand(20_000, *p.shape).clone().requires_grad_() for p in parameters]
    points = draw_offset(*leaves, torch.Size(), generator(1))
    by_loc, by_scale_tril = torch.autograd.grad(evaluate(points).sum(), leaves[1:])
    with pytest.raises(AssertionError):
        assert_exact(
            projected([torch.zeros_like(leaves[0]), by_loc, by_scale_tril]),
            exact_gradients(exact, parameters),
        )


@pytest.mark.parametrize("on_a_line", [True, False])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_pyros_mixture_of_diagonal_normals_has_the_same_average(function, on_a_line):
    logits, loc, scale_tril = overlapping(2)
    scale = scale_tril.diagonal(dim1=-2, dim2=-1).clone()
    # by the weights, Pyro 1.9.2's derivative is exact only for unit scales and means on one line
    # through the origin
    if on_a_line:
        loc, scale = loc[:, :1] * torch.tensor([1.0, -0.5]), torch.ones_like(scale)
    evaluate, exact = function(2)
    wanted = [p.clone().requires_grad_() for p in (logits, loc, scale)]
    average = exact(*wanted[:2], torch.diag_embed(wanted[2]))
    expected = torch.autograd.grad(average, wanted)
    leaves = [p.expand(20_000, *p.shape).clone().requires_grad_() for p in (logits, loc, scale)]
    theirs = MixtureOfDiagNormals(leaves[1], leaves[2], leaves[0]).rsample()
    ours = GaussianMixture(*leaves[:2], torch.diag_embed(leaves[2])).rsample()
    variances = []
    for points, columns in ((theirs, slice(int(not on_a_line), None)), (ours, slice(None))):
        found = projected(torch.autograd.grad(evaluate(points).sum(), leaves))
        assert_exact(found, expected, columns)  # false-alarm rate 6e-5 for each of 33
        variances.append(found.var(0)[1:])
    ratio = variances[1] / variances[0]  # by means and scales
    assert ((ratio > 0.5) & (ratio < 2)).all()


SHAPES = [((), ()), ((4,), ()), ((2, 3), (5,)), ((), (2, 7)), ((0,), ())]


@pytest.mark.parametrize(("batch", "sample_shape"), SHAPES)
@SIZES
def test_the_points_are_those_of_sample(size, batch, sample_shape):
    leaves = [p.requires_grad_() for p in mixture_parameters(batch, size)]
    d = GaussianMixture(*leaves)
    points = d.rsample(sample_shape, generator(3))
    assert points.requires_grad
    assert torch.equal(points, d.sample(sample_shape, generator(3)))
    assert points.shape == (*sample_shape, *batch, size)
    gradients = torch.autograd.grad(points.sum(), leaves)
    assert [g.shape for g in gradients] == [p.shape for p in leaves]
    with torch.no_grad():
        assert not d.rsample().requires_grad


def test_many_rows_are_pulled_back_like_few(monkeypatch):
    monkeypatch.setattr(pathwise, "PLANE", 3 * 1024)
    parameters = mixture_parameters((2500,), 3)
    points = GaussianMixture(*parameters).sample(generator=generator(4))

    def gradients(rows):
        leaves = [p[rows].clone().requires_grad_() for p in parameters]
        return torch.autograd.grad(reparameterize(*leaves, points[rows]).square().sum(), leaves)

    whole = gradients(slice(None))
    for i in (0, 1023, 1024, 2499):
        assert_close([g[i] for g in whole], list(gradients(i)), rtol=1e-11, atol=1e-11)


def seen_near(monkeypatch):
    """A list to which every few rows that are pulled back add whether all of them are near."""
    near, pull_back = [], pathwise._pull_back_near

    def noted(*tensors):
        found = pull_back(*tensors)
        near.append(found is not None)
        return found

    monkeypatch.setattr(pathwise, "_pull_back_near", noted)
    return near


def both_ways(monkeypatch, parameters, points, pull):
    """Derivatives as they are found, and by the way that is exact for points however far."""
    found = pathwise._pull_back_rows(*parameters, points, pull)
    with monkeypatch.context() as patch:
        patch.setattr(pathwise, "_pull_back_near", lambda *_: None)
        return found, pathwise._pull_back_rows(*parameters, points, pull)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 2, 3, 6, 20])
def test_draws_are_near_where_both_ways_agree(monkeypatch, size, family, dtype):
    parameters = [p.to(dtype).expand(5000, *p.shape) for p in family(size)]
    points = GaussianMixture(*parameters).sample(generator=generator(10))
    near = seen_near(monkeypatch)
    pairs = both_ways(monkeypatch, parameters, points, torch.ones_like(points))
    assert near == [True]
    for found, exact in zip(*pairs, strict=True):
        largest = exact.flatten(1).abs().amax(1)
        error = (found - exact).flatten(1).abs().amax(1) / largest.clamp_min(1e-30)
        assert error.quantile(0.9) < 200 * torch.finfo(dtype).eps
        assert error.max() < 2e4 * torch.finfo(dtype).eps


def test_tails_are_told_apart_where_the_mean_is_far_from_the_median(monkeypatch):
    logits, loc = torch.tensor([[0.0, 0.0, -25.0]]), torch.tensor([[[0.0], [0.5], [1e15]]])
    near = seen_near(monkeypatch)
    for place in (-5.0, 0.0, 5.0):
        leaves = [p.requires_grad_() for p in (logits, loc, torch.ones(1, 3, 1, 1))]
        point = torch.tensor([[place]])
        single = torch.autograd.grad(reparameterize(*leaves, point), leaves)
        wide = [p.detach().double().requires_grad_() for p in leaves]
        double = torch.autograd.grad(reparameterize(*wide, point.double()), wide)
        assert_close([g.double() for g in single], list(double), rtol=1e-5, atol=1e-30)
    assert all(near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "change",
    [
        lambda logits, loc, scale_tril: (logits, loc + 1e4, scale_tril),
        lambda logits, loc, scale_tril: (logits, loc + 20, scale_tril),
        lambda logits, loc, scale_tril: (logits, loc, torch.nan * scale_tril),
    ],
    ids=["far", "tail", "nan"],
)
def test_a_row_that_is_not_near_is_pulled_back_the_exact_way(monkeypatch, change, dtype):
    parameters = [p.to(dtype) for p in mixture_parameters((9,))]
    points = GaussianMixture(*parameters).sample(generator=generator(11))
    changed = change(*(p[4] for p in parameters))
    for parameter, row in zip(parameters, changed, strict=True):
        parameter[4] = row
    near = seen_near(monkeypatch)
    found, exact = both_ways(monkeypatch, parameters, points, torch.ones_like(points))
    assert near == [False]
    assert_close(found, exact, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("logit", "loc", "scale", "place"),
    [
        (-1.0, [-1e4, 1e4], 1.0, 0.0),
        (-75.0, [0, 8e-10], 1e-10, 15e-10),
        (0.0, [0, 1e37], 3e37, 9e37),
    ],
    ids=["in a wide gap", "of hardly any weight", "whose inverse density overflows"],
)
def test_a_point_is_pulled_back_the_exact_way(monkeypatch, logit, loc, scale, place):
    parameters = (
        torch.tensor([[0.0, logit]]),
        torch.tensor(loc).view(1, 2, 1),
        torch.full((1, 2, 1, 1), scale),
    )
    near, found = seen_near(monkeypatch), []
    for dtype in (torch.float32, torch.float64):
        leaves = [p.to(dtype).requires_grad_() for p in parameters]
        moved = reparameterize(*leaves, torch.tensor([[place]]).to(dtype))
        gradients = torch.autograd.grad(moved, leaves)
        # in the gap those by logits are infinite
        found.append([g.double().nan_to_num(0, 0, 0) for g in gradients])
    assert not near[0]
    assert_close(*found, rtol=1e-4, atol=1e-30)


@SIZES
def test_float32_derivatives_are_float64_ones_rounded(size):
    parameters = [p.float() for p in mixture_parameters((2000,), size)]
    points = GaussianMixture(*parameters).sample(generator=generator(5))

    def gradients(dtype):
        leaves = [p.to(dtype).requires_grad_() for p in parameters]
        moved = reparameterize(*leaves, points.to(dtype))
        return torch.autograd.grad(moved.sum(), leaves)

    for single, double in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        largest = double.flatten(1).abs().amax(1)
        error = (single - double).flatten(1).abs().amax(1)
        assert (error / largest).quantile(0.9) < 1e-5
        assert (error / largest).max() < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 2, 6])
def test_a_million_derivatives_in_float32_are_finite(size, family):
    for i in range(10):
        leaves = [p.float().expand(100_000, *p.shape).clone() for p in family(size)]
        leaves = [p.requires_grad_() for p in leaves]
        points = GaussianMixture(*leaves, validate_args=False).rsample(generator=generator(i))
        gradients = torch.autograd.grad(points.sum(), leaves)
        assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", [-200.0, -50.0, -12.0, 0.7, 9.0, 30.0, 200.0])
def test_derivatives_in_the_tails_are_mpmaths(place, dtype):
    logits, loc, scale_tril = (p.to(dtype) for p in unequal(1))
    logits[1] = -torch.inf
    points = torch.tensor([[place]], dtype=dtype)
    by_logits, by_loc, by_scale = gradients_of_each(
        lambda x: x.sum(-1), (logits, loc, scale_tril), points
    )
    with mpmath.workdps(50):
        m, s = ([mpmath.mpf(v) for v in p.flatten().tolist()] for p in (loc, scale_tril))
        share = [mpmath.exp(v) for v in logits.tolist()]
        w = [v / mpmath.fsum(share) for v in share]
        y = [(place - m[k]) / s[k] for k in range(3)]
        side = -1 if place > 0 else 1
        tail = [side * mpmath.ncdf(side * z) for z in y]
        below = mpmath.fsum(w[k] * tail[k] for k in range(3))
        pull = [w[k] * mpmath.npdf(y[k]) / s[k] for k in range(3)]
        f = mpmath.fsum(pull)
        expected = [[w[k] * (below - tail[k]) / f for k in range(3)]]
        expected += [[p / f for p in pull], [p * z / f for p, z in zip(pull, y, strict=True)]]
    close = (
        {"rtol": 1e-3, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-5, "atol": 1e-30}
    )
    found = [g.flatten().double() for g in (by_logits, by_loc, by_scale)]
    assert_close(found, [torch.tensor(list(map(float, e))).double() for e in expected], **close)


def test_a_spoilt_row_spoils_no_other():
    parameters = mixture_parameters((4,))
    points = GaussianMixture(*parameters).sample(generator=generator(6))
    clean = exact_gradients(lambda *p: reparameterize(*p, points).sum(), parameters)
    for parameter in parameters:
        parameter[2] = torch.nan
    spoilt = exact_gradients(lambda *p: reparameterize(*p, points).sum(), parameters)
    kept = [0, 1, 3]
    assert_close([g[kept] for g in spoilt], [g[kept] for g in clean], rtol=1e-12, atol=1e-12)


def test_torch_func_gives_the_same_derivatives():
    parameters = mixture_parameters((4,))
    points = GaussianMixture(*parameters).sample(generator=generator(7))

    def loss(logits, loc, scale_tril, point):
        return reparameterize(logits, loc, scale_tril, point).square().sum()

    expected = exact_gradients(lambda *p: loss(*p, points), parameters)
    found = vmap(grad(loss, argnums=(0, 1, 2)))(*parameters, points)
    assert_close(list(found), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_whole(monkeypatch):
    def loss(logits, loc, scale_tril):
        return GaussianMixture(logits, loc, scale_tril).rsample((5,)).square().sum()

    # torch's tracer would turn the validation of distributions off
    monkeypatch.setattr(Distribution, "_validate_args", False)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaves = [p.requires_grad_() for p in mixture_parameters((4,))]
    results = []
    for function in (compiled, loss):
        torch.manual_seed(0)
        results.append(torch.autograd.grad(function(*leaves), leaves))
    torch._dynamo.reset()
    assert_close(*results, rtol=1e-11, atol=1e-11)


def test_pyro_takes_pathwise_derivatives_through_an_independent_batch():
    leaves = [p.requires_grad_() for p in mixture_parameters((4,))]
    with pyro.plate("plate", 4):
        points = pyro.sample("points", GaussianMixture(*leaves))
    assert points.requires_grad
    assert GaussianMixture(*leaves).to_event(1).has_rsample


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("deviations", [3e3, 3e4, 1e5])
def test_a_component_far_off_leaves_the_derivatives_their_digits(deviations, size):
    logits, loc, scale_tril = (p.float() for p in mixture_parameters((), size, components=2))
    loc[1, 0] += deviations * scale_tril[0, 0, 0]
    points = GaussianMixture(logits, loc, scale_tril).sample((3000,), generator(8))

    def gradients(dtype):
        leaves = [p.to(dtype).expand(3000, *p.shape).clone() for p in (logits, loc, scale_tril)]
        leaves = [p.requires_grad_() for p in leaves]
        moved = reparameterize(*leaves, points.to(dtype))
        return torch.autograd.grad(moved.sum(), leaves)

    for single, double in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        assert single.isfinite().all()
        error = (single - double).flatten(1).abs().amax(1)
        assert (error < 1e-4 * double.flatten(1).abs().amax(1).clamp_min(1e-3)).all()


@SIZES
def test_forward_mode_and_batched_backward_of_samples(size):
    parameters = mixture_parameters((3,), size)
    points = GaussianMixture(*parameters).sample(generator=generator(9))

    def moved(*parameters):
        return reparameterize(*parameters, points)

    expected = jacobian(moved, parameters)
    assert_close(jacobian(moved, parameters, vectorize=True), expected, rtol=1e-10, atol=1e-10)
    forward = jacobian(moved, parameters, vectorize=True, strategy="forward-mode")
    assert_close(forward, expected, rtol=1e-10, atol=1e-10)

    def drawn(*parameters):
        return GaussianMixture(*parameters).rsample(generator=generator(9))

    assert_close(jacobian(drawn, parameters, vectorize=True), expected, rtol=1e-10, atol=1e-10)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(p, torch.ones_like(p)) for p in parameters]
        tangent = forward_ad.unpack_dual(drawn(*duals)).tangent
    assert_close(tangent, sum(e.flatten(2).sum(2) for e in expected), rtol=1e-10, atol=1e-10)


def test_points_made_to_move_are_not_the_ones_given():
    parameters = [p.requires_grad_() for p in mixture_parameters()]
    points = normal(5, 2, seed=50)
    before = points.clone()
    with torch.no_grad():
        reparameterize(*parameters, points).zero_()
    assert torch.equal(points, before)
