import math

import mpmath
import pytest
import torch
from cases import mixture_parameters, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.testing import assert_close

from mdn_dist._maths.density import component_log_density, whiten
from mdn_dist._maths.gradients import clip_gradient
from mdn_dist._maths.maps import maps_from_scale_tril, saturate, scale_tril_from_maps, unsaturate

LIMITS = (-3.0, 5.0)
EDGES = (-2.0, 4.0)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_saturate_is_the_identity_away_from_its_limits():
    inside = torch.linspace(*EDGES, 101, dtype=torch.float64)
    assert torch.equal(saturate(inside, *LIMITS), inside)


def test_saturate_is_the_documented_map_and_its_derivative_beyond():
    beyond = [-1e9, -40.0, -3.5, -2.1, 4.001, 5.0, 17.0, 1e9]
    x = double(*beyond).requires_grad_()
    y = saturate(x, *LIMITS)
    (slope,) = torch.autograd.grad(y.sum(), x)
    for i, number in enumerate(beyond):
        with mpmath.workdps(50):
            edge = mpmath.mpf(EDGES[number > 0])
            excess = mpmath.mpf(number) - edge
            expected = edge + excess / mpmath.sqrt(1 + excess**2)
            expected_slope = (1 + excess**2) ** mpmath.mpf("-1.5")
        assert y[i].item() == pytest.approx(float(expected), rel=1e-15)
        assert slope[i].item() == pytest.approx(float(expected_slope), rel=1e-6, abs=1e-17)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturate_never_decreases_nor_passes_a_limit(dtype):
    low, high = LIMITS
    far = torch.logspace(-3, 18, 400, dtype=dtype)
    y = saturate(torch.cat([-far.flip(0), far]), *LIMITS)
    assert (y.diff() >= 0).all()
    rounding = 4 * torch.finfo(dtype).eps
    assert y.min().item() == pytest.approx(low, rel=rounding)
    assert y.max().item() == pytest.approx(high, rel=rounding)
    near = saturate(torch.linspace(-10, 10, 2001, dtype=dtype), low, high)
    assert (near.diff() > 0).all()


def test_saturate_has_two_continuous_derivatives():
    x = double(*EDGES)
    for shift in (-1e-7, 1e-7):
        at = (x + shift).requires_grad_()
        (first,) = torch.autograd.grad(saturate(at, *LIMITS).sum(), at, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), at)
        assert_close(first, torch.ones_like(first), rtol=0, atol=1e-12)
        assert_close(second, torch.zeros_like(second), rtol=0, atol=1e-6)


@given(st.floats(-9, 9))
def test_unsaturate_inverts_saturate(number):
    x = double(number)
    assert_close(unsaturate(saturate(x, *LIMITS), *LIMITS), x, rtol=1e-9, atol=1e-9)


def test_unsaturate_answers_a_limit_with_a_finite_number_on_its_side():
    low, high = LIMITS
    x = unsaturate(double(low, low - 1, high, high + 1e6), *LIMITS)
    assert x.isfinite().all()
    assert (x[:2] < low).all()
    assert (x[2:] > high).all()


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_scale_tril_from_maps_has_the_standard_deviations_asked_for(size):
    log_scale = normal(4, size, 5, seed=1, scale=2)
    pairs = size * (size - 1) // 2
    factor = scale_tril_from_maps(log_scale, normal(4, pairs, 5, seed=2))
    assert factor.shape == (4, 5, size, size)
    assert torch.equal(factor, factor.tril())
    assert (factor.diagonal(dim1=-2, dim2=-1) > 0).all()
    variance = (factor @ factor.mT).diagonal(dim1=-2, dim2=-1)  # (4, 5, D)
    assert_close(variance, (2 * log_scale).exp().mT, rtol=1e-12, atol=0)


def test_two_coordinates_have_the_papers_correlation():
    r = torch.linspace(-4, 4, 33, dtype=torch.float64).unsqueeze(0)
    factor = scale_tril_from_maps(torch.zeros(2, 33, dtype=torch.float64), r)
    assert_close((factor @ factor.mT)[:, 1, 0], r[0].tanh(), rtol=1e-12, atol=1e-14)


def test_scale_tril_from_maps_holds_no_cancellation():
    # 1 - tanh(9)^2 is 0 in float32; the diagonal is 1 / cosh(9)
    factor = scale_tril_from_maps(torch.zeros(2, 1), torch.tensor([[9.0]]))
    assert factor[0, 1, 1].item() == pytest.approx(1 / math.cosh(9), rel=1e-6)


@given(
    st.lists(st.floats(-8, 8), min_size=3, max_size=3),
    st.lists(st.floats(-3, 3), min_size=3, max_size=3),
)
def test_maps_from_scale_tril_inverts(log_scales, correlations):
    log_scale, correlation = double(log_scales).mT, double(correlations).mT  # (3, 1)
    inverse = maps_from_scale_tril(scale_tril_from_maps(log_scale, correlation))
    assert_close(inverse, (log_scale, correlation), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_whiten_solves_the_triangular_system(size):
    _, loc, scale_tril = mixture_parameters((4,), size)
    value = normal(4, size, seed=9, scale=3)
    right = (value.unsqueeze(-2) - loc).unsqueeze(-1)
    expected = torch.linalg.solve_triangular(scale_tril, right, upper=False).squeeze(-1)
    assert_close(whiten(loc, scale_tril, value), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_component_log_density_is_scipys(size):
    logits, loc, scale_tril = mixture_parameters((), size)
    value = normal(size, seed=9, scale=3)
    shares = component_log_density(logits, loc, scale_tril, value)
    weights = logits.exp() / logits.exp().sum()
    for k in range(len(logits)):
        covariance = (scale_tril[k] @ scale_tril[k].T).numpy()
        normal_density = stats.multivariate_normal(loc[k].numpy(), covariance)
        expected = math.log(weights[k]) + normal_density.logpdf(value.numpy())
        assert shares[k].item() == pytest.approx(expected, rel=1e-10)


def test_component_log_density_has_first_and_second_derivatives():
    logits, loc, scale_tril = mixture_parameters((), 2, components=2)
    inputs = [p.requires_grad_() for p in (logits, loc, scale_tril, normal(2, seed=9))]
    assert torch.autograd.gradcheck(component_log_density, inputs)
    assert torch.autograd.gradgradcheck(component_log_density, inputs)


def test_clip_gradient_clips_only_on_the_way_back():
    x = double(1.0, 2.0, 3.0).requires_grad_()
    y = clip_gradient(x, 10.0)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad(y, x, double(-1e6, 9.5, 11.0))
    assert torch.equal(gradient, double(-10.0, 9.5, 10.0))


@settings(max_examples=20)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.floats(1e-3, 1e3))
def test_clip_gradient_is_a_clamp(gradients, limit):
    x = torch.zeros(len(gradients), dtype=torch.float64, requires_grad=True)
    (clipped,) = torch.autograd.grad(clip_gradient(x, limit), x, double(*gradients))
    assert clipped.tolist() == [min(max(g, -limit), limit) for g in gradients]
