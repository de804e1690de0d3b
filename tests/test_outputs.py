import math

import mpmath
import pytest
import torch
from cases import PEN_SIZE, normal, output_size
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mdn_dist import GaussianMixture, StrokeDistribution
from mdn_dist._maths.maps import maps_from_scale_tril
from mdn_dist.outputs import Bounds, OutputMap, Parameters


def paper_log_density(outputs, point, components):
    """PAPER.md equations 17 to 25, a number at a time, in 50 digits."""
    with mpmath.workdps(50):
        row = [mpmath.mpf(number) for number in outputs]
        x1, x2, flag = (mpmath.mpf(number) for number in point)
        k = components
        assert len(row) == 6 * k + 1
        e = 1 / (1 + mpmath.exp(row[0]))
        pi_hat = row[1 : 1 + k]
        mu1, mu2 = row[1 + k : 1 + 2 * k], row[1 + 2 * k : 1 + 3 * k]
        sigma1 = [mpmath.exp(s) for s in row[1 + 3 * k : 1 + 4 * k]]
        sigma2 = [mpmath.exp(s) for s in row[1 + 4 * k : 1 + 5 * k]]
        rho = [mpmath.tanh(r) for r in row[1 + 5 * k :]]
        total = mpmath.fsum(mpmath.exp(p) for p in pi_hat)
        density = mpmath.mpf(0)
        for j in range(k):
            a, b = (x1 - mu1[j]) / sigma1[j], (x2 - mu2[j]) / sigma2[j]
            rest = 1 - rho[j] ** 2
            z = a**2 + b**2 - 2 * rho[j] * a * b
            normaliser = 2 * mpmath.pi * sigma1[j] * sigma2[j] * mpmath.sqrt(rest)
            density += mpmath.exp(pi_hat[j]) / total * mpmath.exp(-z / (2 * rest)) / normaliser
        return mpmath.log(density) + mpmath.log(e if flag == 1 else 1 - e)


def documented_log_density(outputs, point, components, size, pen):
    """The order and the maps of OutputMap's docstring for any D and pen, in 50 digits."""
    with mpmath.workdps(50):
        row = [mpmath.mpf(number) for number in outputs]

        def take(count):
            taken = row[:count]
            del row[:count]
            return taken

        pen_outputs = take(PEN_SIZE[pen])
        weights = [mpmath.exp(p) for p in take(components)]
        mu = [take(components) for _ in range(size)]
        log_sigma = [take(components) for _ in range(size)]
        r = {(i, j): take(components) for i in range(size) for j in range(i)}
        assert not row
        density = mpmath.mpf(0)
        for k in range(components):
            factor = mpmath.zeros(size, size)
            for i in range(size):
                v = [mpmath.sinh(r[i, j][k]) for j in range(i)] + [mpmath.mpf(1)]
                norm = mpmath.sqrt(mpmath.fsum(entry**2 for entry in v))
                for j, entry in enumerate(v):
                    factor[i, j] = mpmath.exp(log_sigma[i][k]) * entry / norm
            covariance = factor * factor.T
            difference = mpmath.matrix([point[i] - mu[i][k] for i in range(size)])
            distance = (difference.T * covariance**-1 * difference)[0]
            volume = mpmath.sqrt((2 * mpmath.pi) ** size * mpmath.det(covariance))
            density += weights[k] / sum(weights) * mpmath.exp(-distance / 2) / volume
        score = mpmath.log(density)
        if pen == "bernoulli":
            e = 1 / (1 + mpmath.exp(pen_outputs[0]))
            score += mpmath.log(e if point[size] == 1 else 1 - e)
        elif pen == "one_hot":
            states = [mpmath.exp(logit) for logit in pen_outputs]
            score += mpmath.log(states[list(point[size:]).index(1)] / sum(states))
        return score


@pytest.mark.parametrize("components", [1, 3, 20])
def test_outputs_have_the_papers_order_sign_and_exact_maps(components):
    outputs = normal(4, output_size(components), seed=1)
    points = torch.cat([normal(4, 2, seed=2), torch.tensor([[0.0], [1], [1], [0]])], -1).double()
    d = StrokeDistribution.from_outputs(outputs, components, bounds=None)
    expected = [
        float(paper_log_density(row, point, components))
        for row, point in zip(outputs.tolist(), points.tolist(), strict=True)
    ]
    assert d.log_prob(points).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_outputs_have_the_documented_order_for_every_size_and_pen(size, pen):
    components = 2
    outputs = normal(3, output_size(components, size, pen), seed=3, scale=0.7)
    offset = normal(3, size, seed=4)
    pen_values = {
        "bernoulli": [[1.0], [0], [1]],
        "one_hot": [[0.0, 1, 0], [1, 0, 0], [0, 0, 1]],
        None: [[]] * 3,
    }[pen]
    points = torch.cat([offset, torch.tensor(pen_values, dtype=torch.float64).view(3, -1)], -1)
    if pen is None:
        d = GaussianMixture.from_outputs(outputs, components, event_size=size, bounds=None)
    else:
        d = StrokeDistribution.from_outputs(
            outputs, components, event_size=size, pen=pen, bounds=None
        )
    expected = [
        float(documented_log_density(row, point, components, size, pen))
        for row, point in zip(outputs.tolist(), points.tolist(), strict=True)
    ]
    assert d.log_prob(points).tolist() == pytest.approx(expected, rel=1e-10)


def test_the_two_references_agree_where_both_apply():
    outputs, point = normal(19, seed=5).tolist(), [0.3, -0.2, 1.0]
    paper = paper_log_density(outputs, point, 3)
    general = documented_log_density(outputs, point, 3, 2, "bernoulli")
    assert abs(paper - general) < 1e-40


@pytest.mark.parametrize("pen", ["bernoulli", "one_hot"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_moderate_outputs_score_the_same_with_and_without_bounds(size, pen):
    outputs = normal(200, output_size(4, size, pen), seed=6)
    bounded = StrokeDistribution.from_outputs(outputs, 4, event_size=size, pen=pen)
    exact = StrokeDistribution.from_outputs(outputs, 4, event_size=size, pen=pen, bounds=None)
    points = bounded.sample()
    assert_close(bounded.log_prob(points), exact.log_prob(points), rtol=1e-13, atol=1e-13)


@given(
    st.floats(math.log(2.8e-4), math.log(3.6e3)),
    st.floats(-math.atanh(0.9992), math.atanh(0.9992)),
)
def test_bounds_leave_the_documented_range_exact(log_scale, r):
    outputs = torch.tensor([0, 0, 0, log_scale, 0, r], dtype=torch.float64)
    bounded, exact = (OutputMap(1, 2, bounds=b).parameters(outputs) for b in (Bounds(), None))
    assert_close(bounded, exact, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_hold_for_wild_outputs(dtype):
    bounds = Bounds(min_scale=1e-2, max_scale=50.0, max_correlation=0.99)
    outputs = normal(500, output_size(3, pen=None), seed=7, scale=100).to(dtype)
    factor = OutputMap(3, bounds=bounds).parameters(outputs).scale_tril
    scale = (factor @ factor.mT).diagonal(dim1=-2, dim2=-1).sqrt()
    rounding = 100 * torch.finfo(dtype).eps
    assert 1e-2 * (1 - rounding) < scale.min() < 1.01e-2
    assert 49.5 < scale.max() < 50 * (1 + rounding)
    correlation = factor[..., 1, 0] / scale[..., 1]
    assert 0.98 < correlation.abs().max() < 0.99 * (1 + rounding)


@settings(max_examples=60)
@given(
    size=st.integers(1, 4),
    components=st.integers(1, 3),
    covariance=st.sampled_from(["full", "diagonal", "spherical"]),
    bounds=st.sampled_from([None, Bounds(), Bounds(0.01, 10.0, 0.95)]),
    bias=st.sampled_from([0.0, 0.7]),
    temperature=st.sampled_from([1.0, 0.3]),
    seed=st.integers(0, 999),
)
def test_outputs_inverts_parameters(size, components, covariance, bounds, bias, temperature, seed):
    output_map = OutputMap(components, size, covariance, bounds).biased(bias).tempered(temperature)
    outputs = normal(2, output_map.size, seed=seed, scale=1.5)
    inverse = output_map.outputs(output_map.parameters(outputs))
    assert_close(inverse, outputs, rtol=1e-8, atol=1e-8)


def test_outputs_of_a_parameter_beyond_its_bound_come_back_close_to_the_bound():
    output_map = OutputMap(1, 2, bounds=Bounds(0.1, 10.0))
    loc, narrow = torch.zeros(1, 2), torch.diag_embed(torch.tensor([[1e-3, 1e3]]))
    outputs = output_map.outputs(Parameters(torch.zeros(1), loc, narrow))
    assert outputs.isfinite().all()
    again = output_map.parameters(outputs).scale_tril
    assert_close(again.diagonal(dim1=-2, dim2=-1), torch.tensor([[0.1, 10.0]]), rtol=0.06, atol=0)


TAIL_ANGLES = torch.linspace(0, 2 * math.pi, 9)[:-1]


@pytest.mark.parametrize("log_scale", [math.log(1e-3), 0.0, math.log(1e3)])
@pytest.mark.parametrize("rho", [0.0, 0.9, -0.99, 0.999, -0.999])
@pytest.mark.parametrize("deviations", [0.1, 1, 5, 30])
def test_float32_is_right_far_from_the_means_and_at_strong_correlation(log_scale, rho, deviations):
    k = 2
    outputs = normal(output_size(k), seed=8, scale=0.5).float()
    outputs[1 + k : 1 + 3 * k] *= math.exp(log_scale)
    outputs[1 + 3 * k : 1 + 5 * k] = log_scale
    outputs[1 + 5 * k :] = math.atanh(rho)
    direction = torch.stack([TAIL_ANGLES.cos(), TAIL_ANGLES.sin()], -1)
    points = torch.zeros(8, 3)
    points[:, :2] = outputs[[1 + k, 1 + 2 * k]] + deviations * math.exp(log_scale) * direction
    points[::2, 2] = 1
    score = StrokeDistribution.from_outputs(outputs, k).log_prob(points)
    assert score.dtype == torch.float32
    for i in range(8):
        expected = paper_log_density(outputs.tolist(), points[i].tolist(), k)
        assert score[i].item() == pytest.approx(float(expected), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1e3, 1e4])
@pytest.mark.parametrize(("size", "pen"), [(2, "bernoulli"), (2, "one_hot"), (3, "bernoulli")])
def test_default_bounds_keep_wild_outputs_finite(scale, size, pen, dtype):
    outputs = normal(1500, output_size(5, size, pen), seed=9, scale=scale).to(dtype)
    outputs.requires_grad_()
    d = StrokeDistribution.from_outputs(outputs, 5, event_size=size, pen=pen)
    points = torch.cat([normal(1500, size, seed=10), d.sample()[:, size:].double()], -1)
    points = points.to(dtype).requires_grad_()
    for changed in (d, d.biased(1.0), d.tempered(0.4)):
        score = changed.log_prob(points)
        gradients = torch.autograd.grad(score.sum(), (outputs, points), retain_graph=True)
        assert score.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_without_bounds_wild_outputs_are_not_finite():
    # what the bounds are for; if this fails, the test above tests nothing
    outputs = normal(1500, output_size(5), seed=9, scale=100).float()
    d = StrokeDistribution.from_outputs(outputs, 5, bounds=None, validate_args=False)
    assert not d.log_prob(torch.zeros(3)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_are_computed_in_float32(dtype):
    outputs = normal(6, 121, seed=11).to(dtype).requires_grad_()
    d = StrokeDistribution.from_outputs(outputs)
    points = d.sample()
    score = d.log_prob(points)
    assert points.dtype == score.dtype == torch.float32
    assert torch.equal(score, StrokeDistribution.from_outputs(outputs.float()).log_prob(points))
    (gradient,) = torch.autograd.grad(score.sum(), outputs)
    assert gradient.dtype == dtype
    assert (gradient != 0).any()
    mixture = GaussianMixture.from_outputs(outputs[:, 1:])
    assert mixture.log_prob(points[:, :2]).dtype == torch.float32


def test_the_maps_of_bias_and_temperature_compose():
    plain = OutputMap(2, 3, bounds=None)
    outputs = normal(plain.size, seed=12)
    changed = plain.biased(0.5).tempered(0.6).biased(0.2)
    before, after = plain.parameters(outputs), changed.parameters(outputs)
    assert_close(after.logits, before.logits * 1.5 / 0.6 * 1.2, rtol=1e-13, atol=0)
    assert torch.equal(after.loc, before.loc)
    (scale, r), (new_scale, new_r) = (maps_from_scale_tril(p.scale_tril) for p in (before, after))
    assert_close(new_scale, scale - 0.7 + math.log(0.6) / 2, rtol=1e-12, atol=1e-12)
    assert_close(new_r, r, rtol=1e-12, atol=1e-12)


ERRORS = {
    "no components": (lambda: OutputMap(0), ValueError, "components must be at least 1, got 0"),
    "no coordinates": (
        lambda: OutputMap(2, 0),
        ValueError,
        "event_size must be at least 1, got 0",
    ),
    "unknown covariance": (
        lambda: OutputMap(covariance="round"),
        ValueError,
        "covariance must be 'full', 'diagonal' or 'spherical', got 'round'",
    ),
    "too many outputs": (
        lambda: OutputMap().accept(torch.zeros(3, 128)),
        ValueError,
        r"outputs must end in 20 \+ 40 \+ 40 \+ 20 = 120 values .*; got shape \(3, 128\)",
    ),
    "a scalar": (
        lambda: OutputMap().accept(torch.tensor(0.0)),
        ValueError,
        r"outputs must end in .* got shape \(\)",
    ),
    "integer outputs": (
        lambda: OutputMap().accept(torch.zeros(121, dtype=torch.int64)),
        TypeError,
        "outputs must be floating point, got torch.int64",
    ),
    "no positive floor": (
        lambda: Bounds(min_scale=0.0),
        ValueError,
        "min_scale must be positive and max_scale finite .*, got 0.0 and 10000.0",
    ),
    "infinite ceiling": (lambda: Bounds(max_scale=math.inf), ValueError, "max_scale finite"),
    "NaN floor": (lambda: Bounds(min_scale=math.nan), ValueError, "min_scale must be positive"),
    "no room between the scales": (
        lambda: Bounds(1.0, 7.0),
        ValueError,
        "more than 7.4 times as large, got 1.0 and 7.0",
    ),
    "correlation of 1": (
        lambda: Bounds(max_correlation=1.0),
        ValueError,
        "max_correlation must be between 0.7616 and 1, got 1.0",
    ),
    "no room for a correlation": (
        lambda: Bounds(max_correlation=0.5),
        ValueError,
        "max_correlation must be between",
    ),
    "negative bias": (
        lambda: OutputMap().biased(-0.1),
        ValueError,
        "bias must be finite and at least 0, got -0.1",
    ),
    "temperature 0": (
        lambda: OutputMap().tempered(0.0),
        ValueError,
        "temperature must be finite and positive, got 0.0",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_argument_and_what_was_expected(name):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()
