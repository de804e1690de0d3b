import math

import mpmath
import numpy as np
import pytest
import torch
from cases import CASES, mixture_parameters, normal, stock_mixture
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch.distributions import Bernoulli, OneHotCategorical
from torch.func import vmap
from torch.testing import assert_close

from mdn_dist import GaussianMixture, StrokeDistribution
from mdn_dist._maths.modes import LIMIT, TOLERANCE, Mixture, at_largest, climb, starts

BATCHES = [(), (4,), (2, 3), (2, 1, 3)]
STROKES = {name: case for name, case in CASES.items() if case.pen is not None}


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def crossing():
    """Two long thin Gaussians, whose highest mode is where they cross and near neither mean."""
    loc = torch.stack([double(4.0, 0.0), double(0.0, 4.0)])
    scale_tril = torch.stack([double(4.0, 0.2).diag(), double(0.2, 4.0).diag()])
    return double(0.0, 0.0), loc, scale_tril


def long_and_thin(size, components, seed):
    """A mixture with standard deviations over two orders in all directions."""
    logits, loc, _ = mixture_parameters((), size, components, seed=seed)
    rotation = torch.linalg.qr(normal(components, size, size, seed=seed + 8)).Q
    covariance = rotation * normal(components, 1, size, seed=seed + 9, scale=1.5).exp()
    return logits, 1.5 * loc, torch.linalg.cholesky(covariance @ rotation.mT)


def nearly_equal(size, components, seed):
    """Components far apart in a row, whose peaks differ in height by millionths of a nat."""
    logits = 1e-6 * normal(components, seed=seed)
    loc = normal(components, size, seed=seed + 3) + 12 * torch.arange(components).view(-1, 1)
    scale_tril = torch.eye(size, dtype=torch.float64).expand(components, size, size)
    return logits, loc, scale_tril


def moved(spread, scale=1.0):
    def make(size, components, seed):
        logits, loc, scale_tril = mixture_parameters((), size, components, seed=seed)
        return logits, scale * spread * loc, scale * scale_tril

    return make


FAMILIES = {
    "apart": moved(10.0),
    "overlapping": moved(1.0),
    "about to merge": moved(0.6),
    "narrow": moved(2.0, 1e-4),
    "wide": moved(2.0, 1e4),
    "long and thin": long_and_thin,
    "nearly equal": nearly_equal,
}
SIZES = [(1, 20), (2, 1), (2, 2), (2, 12), (3, 6), (6, 5), (10, 3)]


def highest_by_scipy(parameters, seed=0):
    """The best of BFGS from the means and from a hundred draws."""
    stock = stock_mixture(*parameters)
    size = parameters[1].shape[-1]

    def fall(x):
        x = torch.from_numpy(x).requires_grad_()
        loss = -stock.log_prob(x)
        return loss.item(), torch.autograd.grad(loss, x)[0].numpy()

    noise = normal(100, size, seed=seed)
    loc, scale_tril = parameters[1], parameters[2]
    component = torch.arange(100) % len(loc)
    drawn = loc[component] + (scale_tril[component] @ noise.unsqueeze(-1)).squeeze(-1)
    given = torch.cat([loc, drawn])
    best = given[stock.log_prob(given).topk(15).indices]
    return max(-optimize.minimize(fall, x.numpy(), jac=True).fun for x in [*loc, *best])


# The ascent


def climbed_to_the_end(mixture, points, steps=LIMIT):
    for _ in range(steps):
        points, height, _ = climb(mixture, points)
    return points, height


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_step_leads_down(size):
    rows = [long_and_thin(size, 4, seed) for seed in range(0, 400, 20)]
    parameters = [torch.stack(p) for p in zip(*rows, strict=True)]
    stock = stock_mixture(*(p.unsqueeze(1) for p in parameters))
    mixture = Mixture.of(*parameters)
    points = torch.cat([parameters[1], normal(20, 30, size, seed=1, scale=4)], -2)
    height, constant = stock.log_prob(points), size / 2 * math.log(2 * math.pi)
    climbed = 0
    for _ in range(30):
        points, claimed, _ = climb(mixture, points)
        after = stock.log_prob(points)
        assert (after >= height - 1e-13 * (1 + height.abs())).all()
        assert_close(claimed - constant, after, rtol=1e-9, atol=1e-9)
        climbed += (after > height).sum().item()
        height = after
    assert climbed > 1000


def steps_of_an_ascent(mixture, points):
    height = torch.full(points.shape[:-1], -math.inf, dtype=torch.float64)
    for steps in range(LIMIT):
        before = height
        points, height, _ = climb(mixture, points)
        if not (height - before > TOLERANCE).any():
            return steps
    return LIMIT


def test_ascents_end_long_before_the_limit():
    rows = [mixture_parameters((), 1, 20, seed=seed) for seed in range(0, 800, 20)]
    logits, loc, scale_tril = (torch.stack(p) for p in zip(*rows, strict=True))
    mixture = Mixture.of(logits, 2 * loc, scale_tril)
    assert steps_of_an_ascent(mixture, 2 * loc) < LIMIT / 3


def test_an_ascent_ends_where_the_gradient_vanishes():
    parameters = long_and_thin(3, 4, seed=3)
    points, height = climbed_to_the_end(Mixture.of(*parameters), normal(50, 3, seed=2, scale=4))
    points.requires_grad_()
    score = stock_mixture(*parameters).log_prob(points)
    assert_close(score, height - 1.5 * math.log(2 * math.pi))
    (gradient,) = torch.autograd.grad(score.sum(), points)
    assert gradient.abs().max() < 1e-4  # the least standard deviation is about 1e-1


def test_a_step_that_cannot_climb_is_not_taken():
    logits, loc, scale_tril = mixture_parameters((), 2)
    mixture = Mixture.of(logits, loc, scale_tril)
    top, _ = climbed_to_the_end(mixture, loc)
    again, _, _ = climb(mixture, top)
    assert_close(again, top, rtol=0, atol=1e-8)
    lost = torch.full((1, 2), math.nan, dtype=torch.float64)
    assert climb(mixture, lost)[0].isnan().all()


def test_a_plateau_is_crossed_before_the_steps_run_out():
    # two components about to part: the density is flat to the fourth order between them
    mixture = Mixture.of(
        double(0.0, 0.0), double(-0.9999, 0.9999).view(2, 1), torch.ones(2, 1, 1).double()
    )
    points, before = double(-3.0, 0.9999, 20.0).view(3, 1), None
    for _ in range(LIMIT):
        before, (points, _, _) = points, climb(mixture, points)
    assert_close(points, before, rtol=0, atol=1e-7)
    assert_close(points, torch.zeros_like(points), rtol=0, atol=1e-3)


# The mode


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("size", [1, 2])
def test_the_mode_is_the_top_of_a_fine_grid(size, batch):
    d = GaussianMixture(*mixture_parameters(batch, size))
    mode = d.mode
    assert mode.shape == (*batch, size)
    assert mode.dtype == torch.float64
    step = 0.002 if size == 1 else 0.04
    axis = torch.arange(-5, 5, step, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * size).view(-1, size)
    scores = d.log_prob(grid[(slice(None), *[None] * len(batch))])
    top, index = scores.max(0)
    height = d.log_prob(mode)
    assert (height >= top).all()
    assert (height <= top + 10 * step**2).all()
    assert (mode - grid[index]).abs().max() < 3 * step


def test_a_large_batch_has_the_modes_of_its_elements():
    d = GaussianMixture(*mixture_parameters((100, 3)))
    mode = d.mode
    for i, j in ((0, 0), (42, 1), (43, 2), (99, 2)):
        assert_close(mode[i, j], d[i, j].mode, rtol=0, atol=1e-8)
    assert d[:0].mode.shape == (0, 3, 2)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_mode_is_as_high_as_scipy_gets(size):
    for seed in range(0, 160, 20):
        parameters = long_and_thin(size, 3, seed)
        height = GaussianMixture(*parameters).log_prob(GaussianMixture(*parameters).mode).item()
        assert height >= highest_by_scipy(parameters, seed) - 1e-8


@pytest.mark.parametrize(("size", "components"), SIZES)
@pytest.mark.parametrize("name", FAMILIES)
def test_no_ascent_left_behind_would_have_ended_higher(name, size, components):
    rows = [FAMILIES[name](size, components, seed) for seed in range(0, 400, 20)]
    parameters = [torch.stack(p) for p in zip(*rows, strict=True)]
    mixture = Mixture.of(*parameters)
    _, height = climbed_to_the_end(mixture, starts(mixture), 40)
    d = GaussianMixture(*parameters)
    highest = height.amax(-1) - size / 2 * math.log(2 * math.pi)
    assert_close(d.log_prob(d.mode), highest, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(("size", "components"), SIZES)
@pytest.mark.parametrize("name", FAMILIES)
def test_no_search_from_many_points_gets_higher(name, size, components):
    logits, loc, scale_tril = FAMILIES[name](size, components, seed=60)
    d = GaussianMixture(logits, loc, scale_tril)
    unit = scale_tril.diagonal(dim1=-2, dim2=-1).log().mean().exp()  # BFGS is not free of units
    best = highest_by_scipy((logits, loc / unit, scale_tril / unit)) - size * unit.log()
    assert d.log_prob(d.mode) >= best - 1e-6


def test_the_mode_may_be_where_components_cross():
    d = GaussianMixture(*crossing())
    mode = d.mode
    assert mode.norm() < 0.1
    assert d.log_prob(mode) > d.log_prob(d.loc).max() + 0.1
    grid = torch.cartesian_prod(*[torch.arange(-6, 6, 0.02, dtype=torch.float64)] * 2)
    assert d.log_prob(mode) >= d.log_prob(grid).max()
    from_means, _ = climbed_to_the_end(Mixture.of(*crossing()), d.loc)
    assert (from_means.norm(dim=-1) > 1).all()  # which alone would not do


@pytest.mark.parametrize("source", ["mixture of 3", "mixture from outputs"])
def test_the_mode_of_one_component_is_its_mean(source):
    d = CASES[source].make((4,))
    for k in range(3):
        alone = torch.full_like(d.logits, -math.inf).index_fill(-1, torch.tensor([k]), 0.0)
        single = GaussianMixture(alone, d.loc, d.scale_tril)
        assert_close(single.mode, d.loc[:, k], rtol=1e-10, atol=1e-10)
        assert torch.equal(single.component_mode, d.loc[:, k])


def test_a_component_without_weight_attracts_nothing():
    logits, loc, scale_tril = long_and_thin(2, 3, seed=5)
    dead = torch.cat([logits, double(-math.inf)])
    narrow = 1e-6 * torch.eye(2, dtype=torch.float64).unsqueeze(0)
    d = GaussianMixture(dead, torch.cat([loc, loc[:1] + 30]), torch.cat([scale_tril, narrow]))
    assert_close(d.mode, GaussianMixture(logits, loc, scale_tril).mode, rtol=0, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_mode_in_single_precision(scale):
    # a correlation of 1 - 1e-8, which the precision would square beyond single precision
    factor = scale * torch.tensor([[1.0, 0.0], [1.0, 1e-4]])
    loc = scale * torch.tensor([[0.0, 0.0], [3.0, -3.0], [1.0, 1.1]])
    d = GaussianMixture(torch.tensor([0.0, 1.0, 0.5]), loc, factor.expand(3, 2, 2))
    assert d.mode.dtype == torch.float32
    height = d.to(torch.float64).log_prob(d.mode.double())
    expected = d.to(torch.float64).log_prob(d.to(torch.float64).mode)
    assert_close(height, expected, rtol=0, atol=1e-5)
    assert_close(d.mode, loc[1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 5))
def test_the_mode_moves_with_its_units_and_not_with_the_order(seed, size, components):
    logits, loc, scale_tril = mixture_parameters((), size, components, seed=seed)
    d = GaussianMixture(logits, loc, scale_tril)
    shift, scale = normal(2, size, seed=seed + 5).unbind()
    height = d.log_prob(d.mode)
    moved = d.affine(shift, scale)
    flipped = GaussianMixture(logits.flip(-1) - 7, loc.flip(-2), scale_tril.flip(-3))
    at = (moved.mode - shift) / scale
    assert_close(d.log_prob(at), height, rtol=1e-9, atol=1e-9)
    assert_close(d.log_prob(flipped.mode), height, rtol=1e-9, atol=1e-9)
    assert_close(moved.component_mode, shift + scale * d.component_mode)
    assert (height >= d.log_prob(d.loc)).all()


def test_the_mode_carries_no_gradient_and_changes_nothing():
    parameters = [p.requires_grad_() for p in mixture_parameters((4,))]
    before = [p.detach().clone() for p in parameters]
    assert not GaussianMixture(*parameters).mode.requires_grad
    assert all(torch.equal(*pair) for pair in zip(parameters, before, strict=True))


@pytest.mark.parametrize("name", ["mixture of 2", "stroke from outputs", "pen states from outputs"])
def test_vmap_expand_and_autocast_give_the_same_modes(name):
    d = CASES[name].make((4,))
    for mode in (lambda d: d.mode, lambda d: d.component_mode):
        expected = mode(d)
        assert_close(vmap(mode)(d), expected, rtol=0, atol=1e-8)
        assert_close(mode(d.expand((2, 4))), expected.expand(2, 4, -1), rtol=0, atol=1e-8)
        single = d.to(torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            inside = mode(single)
        assert torch.equal(inside, mode(single))


# The component of the largest weight


@pytest.mark.parametrize("source", ["mixture of 2", "mixture from outputs", "stroke from outputs"])
def test_the_component_mode_is_the_limit_of_a_growing_bias(source):
    d = CASES[source].make((2, 3))
    mixture = d.offset if isinstance(d, StrokeDistribution) else d
    size = mixture.event_shape[0]
    distances = []
    for bias in (2.0, 20.0, 2000.0):
        biased = mixture.biased(bias)
        gap = (biased.mean - d.component_mode[..., :size]).square() + biased.variance
        distances.append(gap.sum(-1).sqrt())
    assert (distances[0] > 0.05).any()
    assert (distances[1] < distances[0]).all()
    assert (distances[2] < 1e-10).all()


def test_the_first_of_equal_components_is_taken():
    loc = torch.arange(8.0).view(4, 2)
    d = GaussianMixture(double(-1, 3, 3, 0).float(), loc, torch.eye(2).expand(4, 2, 2))
    assert torch.equal(d.component_mode, loc[1])
    # the limit of the mean lies between the two
    assert_close(d.biased(80.0).mean, (loc[1] + loc[2]) / 2)


def test_the_component_mode_has_its_means_gradient():
    logits, loc, scale_tril = mixture_parameters((4,))
    loc.requires_grad_()
    GaussianMixture(logits, loc, scale_tril).component_mode.sum().backward()
    chosen = torch.nn.functional.one_hot(logits.argmax(-1), 3).double()
    assert torch.equal(loc.grad, chosen.unsqueeze(-1).expand_as(loc))


def test_rows_are_selected_with_their_batch():
    rows = normal(2, 3, 5, 2, seed=6)
    score = normal(2, 3, 5, seed=7)
    found = at_largest(score, rows)
    for i, j in np.ndindex(2, 3):
        assert torch.equal(found[i, j], rows[i, j, score[i, j].numpy().argmax()])


# Strokes


@pytest.mark.parametrize("name", STROKES)
def test_the_mode_of_a_stroke_is_the_offsets_and_the_likeliest_pen(name):
    case = STROKES[name]
    d = case.make((6,))
    for mode, offset in ((d.mode, d.offset.mode), (d.component_mode, d.offset.component_mode)):
        assert mode.shape == (6, case.event)
        assert torch.equal(mode[:, : case.size], offset)
        assert d.support.check(mode).all()
        states = (
            torch.eye(case.states).double()
            if case.pen == "one_hot"
            else double(0.0, 1.0).unsqueeze(-1)
        )
        others = [torch.cat([offset, state.expand(6, -1)], -1) for state in states]
        best = torch.stack([d.log_prob(other) for other in others]).amax(0)
        assert_close(d.log_prob(mode), best)


def test_a_pen_in_doubt_takes_its_first_value():
    offset = GaussianMixture(*mixture_parameters((4,)))
    flag = StrokeDistribution(offset, Bernoulli(probs=torch.full((4,), 0.5)))
    state = StrokeDistribution(offset, OneHotCategorical(probs=torch.tensor([0.2, 0.4, 0.4])))
    assert (flag.mode[:, 2] == 0).all()
    assert torch.equal(state.mode[:, 2:], double(0.0, 1.0, 0.0).expand(4, 3))


@pytest.mark.parametrize("weight", [0.45, 0.499])
def test_a_nearly_flat_top_is_found_to_the_last_digits(weight):
    """Two bumps that have just parted: a step of expectation maximisation hardly moves there."""
    apart = 1.05
    loc = torch.tensor([[-apart], [apart]], dtype=torch.float64)
    logits = torch.tensor([weight, 1 - weight], dtype=torch.float64).log()
    found = GaussianMixture(logits, loc, torch.ones(2, 1, 1, dtype=torch.float64)).mode.item()
    with mpmath.workdps(40):

        def slope(x):
            bumps = ((weight, x + apart), (1 - weight, x - apart))
            return mpmath.fsum(w * y * mpmath.exp(-(y**2) / 2) for w, y in bumps)

        assert found == pytest.approx(float(mpmath.findroot(slope, 0.9)), abs=1e-8)
