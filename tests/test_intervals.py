"""Quantiles, intervals and regions against SciPy's distribution functions and plain counts."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from cases import CASES, generator, mixture_parameters
from scipy import optimize, special, stats
from torch.func import grad, vmap
from torch.testing import assert_close

from mdn_dist import GaussianMixture, HighestDensityRegion

BATCHES = pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 1, 2)], ids=str)
SIZES = pytest.mark.parametrize("size", [1, 2, 6])


def tails(logits, loc, scale_tril, value):
    """Mass of each coordinate below and above `value`, ``(*, D)``, by SciPy."""
    logits, loc, factor, value = (t.double().numpy() for t in (logits, loc, scale_tril, value))
    deviation = np.sqrt((factor @ factor.swapaxes(-1, -2)).diagonal(0, -2, -1))
    weight = special.softmax(logits, -1)[..., None]
    z = (value[..., None, :] - loc) / deviation
    masses = (((weight * tail(z)).sum(-2)) for tail in (stats.norm.cdf, stats.norm.sf))
    return [torch.from_numpy(mass) for mass in masses]


def gaussian(size, dtype=torch.float64):
    factor = torch.eye(size, dtype=dtype).expand(1, size, size)
    return GaussianMixture(factor.new_zeros(1), factor.new_zeros(1, size), factor)


def apart(distance=6.0):
    """Two equal components in one coordinate."""
    one = torch.ones(2, 1, 1, dtype=torch.float64)
    return GaussianMixture(one.new_zeros(2), distance * (one.view(2, 1).cumsum(0) - 1), one)


@BATCHES
@SIZES
def test_quantiles_have_the_mass_below_them(size, batch):
    parameters = mixture_parameters(batch, size)
    d = GaussianMixture(*parameters)
    q = torch.tensor([1e-9, 0.02, 0.5, 0.7, 1 - 1e-6], dtype=torch.float64)
    found = d.quantile(q)
    assert found.shape == (5, *batch, size)
    for wanted, each in zip(q, found, strict=True):
        below, above = tails(*parameters, each)
        assert_close(below, wanted.expand_as(below), rtol=1e-10, atol=0)
        assert_close(above, (1 - wanted).expand_as(below), rtol=1e-8, atol=0)
        for alone in (d.quantile(wanted), d.quantile(wanted.item())):
            assert_close(alone, each)
            assert alone.shape == (*batch, size)


def test_quantiles_are_roots_that_scipy_finds():
    logits, loc, factor = mixture_parameters((), 1, scale=3.0)
    weight, mean, scale = (t.flatten().numpy() for t in (logits.softmax(-1), loc, factor))
    q = torch.tensor([0.01, 0.4, 0.99], dtype=torch.float64)
    found = GaussianMixture(logits, loc, factor).quantile(q).squeeze(-1)
    for wanted, each in zip(q.tolist(), found.tolist(), strict=True):

        def missed(x, wanted=wanted):
            return stats.norm.cdf(x, mean, scale) @ weight - wanted

        assert each == pytest.approx(optimize.brentq(missed, -50, 50, xtol=1e-13), abs=1e-11)


@SIZES
def test_quantiles_in_float32(size):
    parameters = [p.float() for p in mixture_parameters((50,), size)]
    q = torch.tensor([1e-6, 0.3, 0.5, 0.9])
    for wanted, found in zip(q, GaussianMixture(*parameters).quantile(q), strict=True):
        assert found.dtype == torch.float32
        below, _ = tails(*parameters, found)
        # a rounding of the point by a part in 1e7, where the density is highest beside the mass
        assert_close(below, wanted.double().expand_as(below), rtol=1e-5, atol=0)


def test_far_from_the_origin_quantiles_are_precise():
    parameters = [p.float() for p in mixture_parameters((), 2)]
    parameters[1] = parameters[1] + 1e3
    found = GaussianMixture(*parameters).quantile(0.3)
    expected = GaussianMixture(*(p.double() for p in parameters)).quantile(0.3)
    assert_close(found.double(), expected, rtol=1.5e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.float32, torch.float64])
def test_probabilities_of_another_type(dtype):
    d = GaussianMixture(*(p.float() for p in mixture_parameters((), 2)))
    q = torch.tensor([0.25, 0.5]).to(dtype)  # 0, for integers
    found = d.quantile(q)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    single = d.quantile(q.float())  # at 0 and 1, types differ in the nearest number
    assert_close(found.double(), single.double(), rtol=1e-6, atol=1e-6)
    assert found.isfinite().all()


@pytest.mark.parametrize("size", [1, 2])
def test_derivatives_are_those_of_the_quantiles_found(size):
    parameters = [p.requires_grad_() for p in mixture_parameters((), size, components=2)]
    q = torch.tensor([0.1, 0.6], dtype=torch.float64, requires_grad=True)

    def quantile(logits, loc, scale_tril, q):
        return GaussianMixture(logits, loc, scale_tril.tril()).quantile(q)

    def interval(logits, loc, scale_tril, level):
        return GaussianMixture(logits, loc, scale_tril.tril()).interval(level)

    assert torch.autograd.gradcheck(quantile, (*parameters, q), check_forward_ad=True)
    assert torch.autograd.gradcheck(interval, (*parameters, q))
    one = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(quantile, (*parameters, one))


@BATCHES
@SIZES
def test_an_interval_leaves_as_much_below_as_above(size, batch):
    parameters = mixture_parameters(batch, size)
    d = GaussianMixture(*parameters)
    levels = torch.tensor([0.1, 0.5, 0.99], dtype=torch.float64)
    lower, upper = d.interval(levels)
    assert lower.shape == upper.shape == (3, *batch, size)
    for level, low, high in zip(levels.tolist(), lower, upper, strict=True):
        tail = torch.full((*batch, size), (1 - level) / 2, dtype=torch.float64)
        assert_close(tails(*parameters, low)[0], tail, rtol=1e-10, atol=0)
        assert_close(tails(*parameters, high)[1], tail, rtol=1e-10, atol=0)
        assert_close(d.interval(level), (low, high))


def test_both_ends_are_exact_in_float32():
    parameters = [p.float() for p in mixture_parameters((20,), 2)]
    low, high = GaussianMixture(*parameters).interval(1 - 1e-9)
    tail = torch.full((20, 2), 5e-10, dtype=torch.float64)
    assert_close(tails(*parameters, low)[0], tail, rtol=3e-5, atol=0)
    assert_close(tails(*parameters, high)[1], tail, rtol=3e-5, atol=0)
    rounded = tails(*parameters, GaussianMixture(*parameters).quantile(1 - 5e-10))[1]
    assert not torch.allclose(rounded, tail, rtol=0.1)


def test_the_ends_of_levels():
    d = GaussianMixture(*mixture_parameters((3,), 2))
    low, high = d.interval(0.0)
    assert_close(low, high, rtol=1e-12, atol=1e-12)
    low, high = d.interval(1.0)
    assert (low.isfinite() & high.isfinite() & (low < -30) & (high > 30)).all()


def test_vmap_and_grad_are_the_batch():
    tensors = mixture_parameters((6,), 2)
    q = torch.tensor([0.1, 0.6], dtype=torch.float64)

    def quantile(logits, loc, scale_tril):
        return GaussianMixture(logits, loc, scale_tril, validate_args=False).quantile(q)

    assert_close(vmap(quantile, out_dims=1)(*tensors), quantile(*tensors))
    found = vmap(grad(lambda *t: quantile(*t).sum(), argnums=(0, 1, 2)))(*tensors)
    leaves = [t.clone().requires_grad_() for t in tensors]
    expected = torch.autograd.grad(quantile(*leaves).sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-12)
    over = vmap(lambda q: GaussianMixture(*tensors, validate_args=False).quantile(q))(q)
    assert_close(over, quantile(*tensors))
    region = vmap(
        lambda *t: GaussianMixture(*t, validate_args=False).hdr(0.5, 100).log_density,
        randomness="different",
    )(*tensors)
    assert region.shape == (6,)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning",
    # the root finder is not compiled, and what is handed over to it has a gradient
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)
def test_a_compiled_function_may_take_quantiles(monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    torch._dynamo.reset()

    def width(outputs):
        lower, upper = GaussianMixture.from_outputs(outputs, 3).interval(0.9)
        return (upper - lower).sum()

    outputs = torch.zeros(4, 18, dtype=torch.float64).requires_grad_()
    found, expected = torch.compile(width, backend="eager")(outputs), width(outputs)
    assert_close(found, expected)
    assert_close(*(torch.autograd.grad(x, outputs) for x in (found, expected)))
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "name", ["mixture of 1 from outputs", "mixture from outputs", "diagonal mixture from outputs"]
)
def test_what_comes_from_outputs_has_the_quantiles_of_its_parameters(name):
    d = CASES[name].make((4,))
    below, _ = tails(d.logits, d.loc, d.scale_tril, d.quantile(0.3))
    assert_close(below, torch.full_like(below, 0.3), rtol=1e-10, atol=0)
    region = d.hdr(0.5, 500, generator(1))
    held = region.contains(d.sample((2000,), generator(2))).double().mean(0)
    assert ((held - 0.5).abs() < 0.11).all()  # 4.4 deviations, false-alarm rate 4e-5 over seeds


@pytest.mark.parametrize("level", [0.1, 0.5, 0.95])
@SIZES
def test_the_region_of_a_gaussian_is_a_ball(size, level):
    """Whose mass the chi-square distribution gives: right on average, and spread as is said."""
    d = gaussian(size)
    peak = d.log_prob(torch.zeros(size, dtype=torch.float64))
    region = d.expand((400,)).hdr(level, 200, generator(size))
    mass = stats.chi2.cdf(2 * (peak - region.log_density).numpy(), size)
    error = region.standard_error
    assert error.shape == region.log_density.shape == (400,)
    z = (mass.mean() - level) / error[0].item() * 20
    assert abs(z) < 4  # false-alarm rate 6e-5 over seeds, for each of nine cases
    spread = (mass.std() / error[0].item()) ** 2 * 400
    assert 1e-5 < stats.chi2.sf(spread, 399) < 1 - 1e-5  # 2e-5, likewise


def test_the_threshold_of_many_draws_is_the_chi_square_quantile():
    for size in (1, 2, 6):
        region = gaussian(size).hdr(0.9, 100_000, generator(3))
        exact = -stats.chi2.ppf(0.9, size) / 2 - size / 2 * math.log(2 * math.pi)
        # six errors of mass, over the density of what is sorted
        slack = 6 * 1e-3 / (2 * stats.chi2.pdf(stats.chi2.ppf(0.9, size), size))
        assert region.log_density.item() == pytest.approx(exact, abs=slack)


@pytest.mark.parametrize("distance", [2.0, 6.0])
@pytest.mark.parametrize("level", [0.3, 0.8])
def test_the_region_of_two_components_holds_its_mass_on_a_grid(level, distance):
    d = apart(distance)
    region = d.hdr(level, 20_000, generator(4))
    x = np.linspace(-9, distance + 9, 200_001)
    density = (stats.norm.pdf(x) + stats.norm.pdf(x, distance)) / 2
    inside = region.contains(torch.from_numpy(x).unsqueeze(-1)).numpy()
    mass = density[inside].sum() * (x[1] - x[0])
    # false-alarm rate 6e-5 over seeds, for each of four cases
    assert abs(mass - level) < 4 * region.standard_error.item()
    assert density[inside].min() >= density[~inside].max()
    assert inside[np.searchsorted(x, distance / 2)] == (distance == 2.0)


@BATCHES
@SIZES
def test_regions_of_a_batch(size, batch):
    d = GaussianMixture(*mixture_parameters(batch, size))
    region = d.hdr(0.8, 1000, generator(5))
    assert region.log_density.shape == region.standard_error.shape == batch
    points = d.sample((3000,), generator(6))
    inside = region.contains(points)
    assert inside.dtype == torch.bool
    assert inside.shape == (3000, *batch)
    error = (region.standard_error.square() + 0.16 / 3000).sqrt()
    held = inside.double().mean(0)
    assert ((held - 0.8).abs() < 5 * error).all()  # 6e-7 over seeds, for each of the batch
    assert torch.equal(inside, d.log_prob(points) >= region.log_density)


def test_no_mixtures_have_no_quantiles_and_no_regions():
    d = GaussianMixture(*mixture_parameters((2, 0), 2))
    assert d.quantile(torch.tensor([0.1, 0.9])).shape == (2, 2, 0, 2)
    assert d.hdr(0.5, 10).contains(torch.zeros(2, 0, 2)).shape == (2, 0)
    one = GaussianMixture(*mixture_parameters((), 2))
    assert one.quantile(torch.zeros(0)).shape == (0, 2)


def test_a_region_is_the_generators_has_no_gradient_and_stays():
    leaves = [p.requires_grad_() for p in mixture_parameters((), 2)]
    d = GaussianMixture(*leaves)
    first, second, other = (d.hdr(0.5, 100, generator(s)) for s in (1, 1, 2))
    assert isinstance(first, HighestDensityRegion)
    assert torch.equal(first.log_density, second.log_density)
    assert first.log_density != other.log_density
    assert not first.log_density.requires_grad
    with pytest.raises(FrozenInstanceError):
        first.log_density = torch.zeros(())


@pytest.mark.parametrize("samples", [1, 9, 10, 99])
def test_few_draws_are_enough_for_levels_between_them(samples):
    least = 1 / (samples + 1)
    for level in (least * (1 + 1e-9), 1 - least * (1 + 1e-9)):
        if least < 0.5:
            assert gaussian(2).hdr(level, samples).log_density.isfinite()
    for level in (0.9 * least, 1 - 0.9 * least):
        with pytest.raises(ValueError, match=f"samples must be enough .* got {samples}"):
            gaussian(2).hdr(level, samples)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "q must be a number or a tensor, got list", lambda d: d.quantile([0.5])),
        (ValueError, "q must be from 0 to 1, got 1.5", lambda d: d.quantile(1.5)),
        (ValueError, "q must be from 0 to 1, got nan", lambda d: d.quantile(math.nan)),
        (ValueError, "q must be from 0 to 1", lambda d: d.quantile(torch.tensor([0.5, -1]))),
        (TypeError, "q must be a tensor of real", lambda d: d.quantile(torch.tensor(1j))),
        (
            ValueError,
            r"q must have at most one dimension, got \(1, 2\)",
            lambda d: d.quantile(torch.zeros(1, 2)),
        ),
        (TypeError, "level must be a number or a tensor, got str", lambda d: d.interval("0.9")),
        (ValueError, "level must be from 0 to 1, got -0.1", lambda d: d.interval(-0.1)),
        (TypeError, "level must be a number, got Tensor", lambda d: d.hdr(torch.tensor(0.5))),
        (ValueError, "level must be between 0 and 1, got 1", lambda d: d.hdr(1)),
        (TypeError, "samples must be an integer, got 9.5", lambda d: d.hdr(0.5, 9.5)),
        (ValueError, "samples must be enough .* level 0.9, got 8", lambda d: d.hdr(0.9, 8)),
        (ValueError, "must end in 2 values", lambda d: d.hdr(0.9, 9).contains(torch.zeros(3))),
    ],
)
def test_wrong_arguments_are_named(error, message, call):
    with pytest.raises(error, match=message):
        call(GaussianMixture(*mixture_parameters((3,), 2), validate_args=True))
