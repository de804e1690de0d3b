"""The Rosenblatt transform and its inverse, against integrals, SciPy, mpmath and each other."""

import mpmath
import numpy as np
import pytest
import torch
from cases import generator, mixture_parameters, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from torch.func import grad, jacfwd, jacrev, vmap
from torch.quasirandom import SobolEngine
from torch.special import ndtri
from torch.testing import assert_close

from mdn_dist import GaussianMixture
from mdn_dist._maths import rosenblatt as rosenblatt_module
from mdn_dist._maths.rosenblatt import inverse_rosenblatt, rosenblatt

SIZES = pytest.mark.parametrize("size", [1, 2, 3, 6])


def uniform(*shape, seed):
    return torch.rand(shape, dtype=torch.float64, generator=generator(seed))


def wall(*places, scale=1.0, dtype=torch.float64):
    """Equal components in one coordinate at `places`."""
    loc = torch.tensor(places, dtype=dtype).unsqueeze(-1)
    return GaussianMixture(loc.new_zeros(len(places)), loc, loc.new_full((1, 1, 1), scale))


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=str)
@SIZES
def test_it_is_scipys_conditional_distribution_function(size, batch):
    parameters = mixture_parameters(batch, size)
    d = GaussianMixture(*parameters)
    points = d.sample((5,), generator(1))
    found = d.rosenblatt(points)
    assert found.shape == points.shape
    for index in np.ndindex(*batch):
        logits, loc, factor = (p[index].numpy() for p in parameters)
        covariance = factor @ factor.swapaxes(-1, -2)
        for x, u in zip(points[:, *index].numpy(), found[:, *index].numpy(), strict=True):
            weight = special.softmax(logits)
            for i in range(size):
                # the normal distribution conditioned by the inverse of its covariance
                parts = [np.linalg.inv(c[: i + 1, : i + 1]) for c in covariance]
                scale = [1 / np.sqrt(p[i, i]) for p in parts]
                mean = [
                    m[i] - p[i, :i] @ (x[:i] - m[:i]) / p[i, i]
                    for p, m in zip(parts, loc, strict=True)
                ]
                prior = [
                    stats.multivariate_normal(m[:i], c[:i, :i]).pdf(x[:i]) if i else 1.0
                    for m, c in zip(loc, covariance, strict=True)
                ]
                share = weight * prior / (weight * prior).sum()
                assert u[i] == pytest.approx(share @ stats.norm.cdf(x[i], mean, scale), abs=1e-11)


def test_it_is_the_integral_of_the_density():
    d = GaussianMixture(*mixture_parameters((), 2))
    points = d.sample((6,), generator(2))
    step = 0.02
    axis = torch.arange(-9, 9, step, dtype=torch.float64) + step / 2
    plane = d.log_prob(torch.cartesian_prod(axis, axis)).exp().view(len(axis), len(axis))
    columns = torch.stack([points[:, :1].expand(-1, len(axis)), axis.expand(6, -1)], -1)
    beside = d.log_prob(columns.transpose(0, 1)).exp().T  # (6, steps)
    for x, u, density in zip(points, d.rosenblatt(points), beside, strict=True):
        covered = ((x.unsqueeze(-1) - axis) / step + 0.5).clamp(0, 1)  # of each step, by [-9, x]
        first = (plane.sum(1) * covered[0]).sum() * step**2
        second = (density * covered[1]).sum() / density.sum()
        assert_close(u, torch.stack([first, second]), rtol=0, atol=1e-4)


@SIZES
def test_own_samples_are_uniform(size):
    d = GaussianMixture(*mixture_parameters((), size))
    u = d.rosenblatt(d.sample((20_000,), generator(3))).numpy()
    # false-alarm rate 1e-3 over seeds for each of the 12 coordinates
    assert all(stats.kstest(column, "uniform").pvalue > 1e-3 for column in u.T)
    other = d.rosenblatt(d.biased(0.2).sample((20_000,), generator(3))).numpy()
    assert any(stats.kstest(column, "uniform").pvalue < 1e-9 for column in other.T)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=str)
@SIZES
def test_the_inverse_returns_the_point(size, batch):
    d = GaussianMixture(*mixture_parameters(batch, size))
    for shape in (batch, (5, *batch)):
        u = uniform(*shape, size, seed=5)
        assert_close(d.rosenblatt(d.inverse_rosenblatt(u)), u, rtol=1e-13, atol=1e-14)
        x = d.sample(shape[: len(shape) - len(batch)], generator(6))
        assert_close(d.inverse_rosenblatt(d.rosenblatt(x)), x, rtol=1e-9, atol=1e-9)


@SIZES
def test_the_inverse_returns_the_point_in_float32(size):
    d = GaussianMixture(*(p.float() for p in mixture_parameters((300,), size)))
    u = uniform(300, size, seed=5).float()
    assert_close(d.rosenblatt(d.inverse_rosenblatt(u)), u, rtol=2e-5, atol=1e-6)


@settings(deadline=None, max_examples=100)
@given(
    size=st.integers(1, 3),
    components=st.integers(1, 4),
    seed=st.integers(0, 2**20),
    apart=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    thin=st.sampled_from([1.0, 1e-2, 1e-5]),
    u=st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
def test_the_inverse_is_one_for_any_mixture(size, components, seed, apart, thin, u):
    logits, loc, scale_tril = mixture_parameters((), size, components, seed=seed)
    factor = torch.ones(components, 1, 1, dtype=torch.float64)
    factor[0] = thin
    d = GaussianMixture(3 * logits, apart * loc, factor * scale_tril)
    wanted = torch.tensor(u[:size], dtype=torch.float64)
    point = d.inverse_rosenblatt(wanted)
    assert point.isfinite().all()
    # a step of rounding to either side of the point encloses the number asked for
    step = 1e-14 * (apart * loc.abs().max() + scale_tril.abs().max() + point.abs())
    for i in range(size):
        around = torch.stack([point, point])
        around[0, i] -= step[i]
        around[1, i] += step[i]
        low, high = d.rosenblatt(around)[:, i]
        assert low * (1 - 1e-12) - 1e-300 <= wanted[i] <= high + 1e-12 * min(wanted[i], 1)


@pytest.mark.parametrize("transform", [rosenblatt, inverse_rosenblatt])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_first_and_second_derivatives(transform, size):
    inputs = [p.requires_grad_() for p in mixture_parameters((), size, components=2)]
    inputs.append(uniform(size, seed=7).requires_grad_())

    def function(logits, loc, scale_tril, value):
        return transform(logits, loc, scale_tril.tril(), value)

    # for the inverse, these are differences of what the root finder finds
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("place", [-36.0, -30.0, -20.0, -10.0, -5.0, 0.0, 3.0])
def test_the_lower_tail_is_mpmaths_and_comes_back(place):
    d = wall(0.0, 1.0)
    u = d.rosenblatt(torch.tensor([place], dtype=torch.float64))
    with mpmath.workdps(40):
        exact = (mpmath.ncdf(place) + mpmath.ncdf(place - 1)) / 2
        assert abs(u.item() / exact - 1) < 1e-11
    assert d.inverse_rosenblatt(u).item() == pytest.approx(place, rel=1e-13, abs=1e-13)


@pytest.mark.parametrize(
    ("dtype", "last", "rounded"), [(torch.float32, 5.2, 5.6), (torch.float64, 8.0, 8.4)]
)
def test_the_upper_tail_is_rounded_where_it_is_said_to_be(dtype, last, rounded):
    below, above = wall(0.0, dtype=dtype).rosenblatt(torch.tensor([[last], [rounded]], dtype=dtype))
    assert below < 1
    assert above == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_have_finite_points(dtype):
    d = GaussianMixture(*(p.to(dtype) for p in mixture_parameters((), 3)))
    ends = torch.tensor([0.0, 1.0, 1e-40, 0.5], dtype=dtype)
    u = torch.cartesian_prod(ends, ends, ends)
    points = d.inverse_rosenblatt(u)
    assert points.isfinite().all()
    assert points.dtype == dtype
    first = d.inverse_rosenblatt(u).view(4, 16, 3)[:, 0, 0]
    assert first[0] <= first[2] < first[3] < first[1]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16, torch.float32])
def test_numbers_of_another_type_join_the_mixtures(dtype):
    d = GaussianMixture(*mixture_parameters())
    u = torch.tensor([[0.25, 0.5], [0.0, 1.0]]).to(dtype)
    found = d.inverse_rosenblatt(u)
    assert found.dtype == torch.float64
    assert torch.equal(found, d.inverse_rosenblatt(u.double()))
    assert torch.equal(d.rosenblatt(u), d.rosenblatt(u.double()))


def test_in_a_gap_the_weight_is_met():
    d = wall(-1e3, 1e3)
    for q in (0.3, 0.5 - 1e-9, 0.5, 0.5 + 1e-9, 0.7):
        u = torch.tensor([q], dtype=torch.float64)
        assert_close(d.rosenblatt(d.inverse_rosenblatt(u)), u, rtol=0, atol=1e-13)


def test_components_without_weight_do_not_count():
    logits, loc, scale_tril = mixture_parameters((), 2)
    logits[1], u = -torch.inf, uniform(20, 2, seed=8)
    kept = [0, 2]
    d, without = (
        GaussianMixture(*p)
        for p in ((logits, loc, scale_tril), (logits[kept], loc[kept], scale_tril[kept]))
    )
    assert_close(d.inverse_rosenblatt(u), without.inverse_rosenblatt(u), rtol=1e-12, atol=1e-12)
    points = d.sample((20,), generator(8))
    assert_close(d.rosenblatt(points), without.rosenblatt(points), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reach", [1.0, 1e2, 1e4])
def test_derivatives_are_finite_far_away(reach):
    leaves = [p.float().requires_grad_() for p in mixture_parameters((), 2)]
    value = (reach * uniform(50, 2, seed=9) - reach / 2).float().requires_grad_()
    gradients = torch.autograd.grad(rosenblatt(*leaves, value).sum(), [*leaves, value])
    assert all(g.isfinite().all() for g in gradients)


def test_sobol_points_beat_random_ones():
    d = GaussianMixture(*mixture_parameters((), 3))
    count = 1024
    errors = {"sobol": [], "random": []}
    for seed in range(8):
        sobol = SobolEngine(3, scramble=True, seed=seed).draw(count, dtype=torch.float64)
        points = {
            "sobol": d.inverse_rosenblatt(sobol),
            "random": d.sample((count,), generator(seed)),
        }
        for name, drawn in points.items():
            errors[name].append((drawn.mean(0) - d.mean).square().sum())
    squared = {name: torch.stack(error).mean() for name, error in errors.items()}
    # 24 squares of normal errors around 1: below 0.3 at a rate of 1e-5
    assert squared["random"] > 0.3 * d.variance.sum() / count
    assert squared["sobol"] < squared["random"] / 20


def test_cdf_and_icdf_are_those_of_one_coordinate():
    logits, loc, scale_tril = mixture_parameters((4,), 1)
    d = GaussianMixture(logits, loc, scale_tril)
    value = d.sample((6,), generator(10))
    weight = special.softmax(logits.numpy(), -1)
    mean, scale = loc.squeeze(-1).numpy(), scale_tril.squeeze((-1, -2)).numpy()
    expected = (weight * stats.norm.cdf(value.numpy(), mean, scale)).sum(-1)
    assert d.cdf(value).shape == (6, 4)
    assert_close(d.cdf(value), torch.from_numpy(expected), rtol=1e-12, atol=1e-13)
    assert d.icdf(d.cdf(value)).shape == (6, 4, 1)
    assert_close(d.icdf(d.cdf(value)), value, rtol=1e-10, atol=1e-10)


def test_one_component_is_scipys_normal():
    d = GaussianMixture(
        *(p.double() for p in (torch.zeros(1), torch.ones(1, 1), torch.full((1, 1, 1), 2.0)))
    )
    q = torch.tensor([1e-300, 1e-20, 0.01, 0.5, 0.99, 1 - 1e-12], dtype=torch.float64)
    expected = torch.from_numpy(stats.norm.ppf(q.numpy(), 1, 2)).unsqueeze(-1)
    assert_close(d.icdf(q), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["cdf", "icdf"])
def test_there_is_no_cdf_of_more_coordinates(name):
    d = GaussianMixture(*mixture_parameters((), 2))
    message = rf"{name} is for one coordinate, got 2; .*rosenblatt takes any number"
    with pytest.raises(NotImplementedError, match=message):
        getattr(d, name)(torch.zeros(2))


def test_errors_name_the_argument():
    d = GaussianMixture(*mixture_parameters((4,)), validate_args=True)
    with pytest.raises(ValueError, match=r"value must end in 2 values, got shape \(4, 3\)"):
        d.rosenblatt(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="value must be finite, got nan"):
        d.rosenblatt(torch.full((4, 2), torch.nan))
    with pytest.raises(ValueError, match=r"uniform must broadcast .* \(4,\), got shape \(3, 2\)"):
        d.inverse_rosenblatt(torch.zeros(3, 2))
    with pytest.raises(
        ValueError, match=r"uniform must be from 0 to 1, got -1.0 at index \(0, 0\)"
    ):
        d.inverse_rosenblatt(torch.full((4, 2), -1.0))


def test_torch_func_transforms_both():
    parameters, u = mixture_parameters((4,)), uniform(4, 2, seed=11)
    for transform in (rosenblatt, inverse_rosenblatt):
        assert_close(vmap(transform)(*parameters, u), transform(*parameters, u))

        def total(loc, row, transform=transform):
            return transform(parameters[0][0], loc, parameters[2][0], row).square().sum()

        found = vmap(grad(total))(parameters[1], u)
        loc = parameters[1].clone().requires_grad_()
        whole = transform(parameters[0][:1], loc, parameters[2][:1], u).square().sum()
        assert_close(found, torch.autograd.grad(whole, loc)[0])


# Far away, and side by side with what is far away


def test_a_quantile_is_sought_at_the_scale_of_what_is_there():
    d = wall(0.0, 5000.0, dtype=torch.float32)
    d = GaussianMixture(d.logits, d.loc, torch.tensor([1e-4, 1.0]).view(2, 1, 1))
    q = torch.tensor([0.1, 0.25, 0.4, 0.5 + 1e-3, 0.9])
    expected = GaussianMixture(*(p.double() for p in (d.logits, d.loc, d.scale_tril))).icdf(q)
    nearby = torch.tensor([1e-4, 1e-4, 1e-4, 5000, 5000]).unsqueeze(-1)
    assert ((d.icdf(q).double() - expected).abs() < 1e-6 * nearby).all()
    exact = 1e-4 * special.ndtri(2 * q[:3].double().numpy())
    assert_close(expected[:3, 0], torch.from_numpy(exact), rtol=1e-7, atol=1e-15)


def test_quantiles_come_back_as_likely_in_float32_as_in_float64():
    factor = torch.stack([1e-4 * torch.eye(2), torch.eye(2)])
    loc = torch.tensor([[0.0, 0.0], [5000.0, 3.0]])
    u = uniform(2000, 2, seed=12)
    scores = []
    for dtype in (torch.float32, torch.float64):
        d = GaussianMixture(torch.zeros(2, dtype=dtype), loc.to(dtype), factor.to(dtype))
        scores.append(d.log_prob(d.inverse_rosenblatt(u.to(dtype))).mean().item())
    assert scores[0] == pytest.approx(scores[1], abs=1e-2)


FAR = [(torch.float32, reach) for reach in (3e3, 1e4, 1e9, 1e19)]
FAR += [(torch.float64, reach) for reach in (1e4, 1e8, 1e30, 1e200)]


@pytest.mark.parametrize(("dtype", "reach"), FAR, ids=str)
def test_weights_add_up_however_far_an_earlier_coordinate_is(dtype, reach):
    """The first coordinate tells nothing of the components, which differ in the second."""
    weights = torch.tensor([0.7, 0.3], dtype=dtype)
    loc = torch.tensor([[0.0, 0.0], [0.0, 5.0]], dtype=dtype)
    d = GaussianMixture(weights.log(), loc, torch.eye(2, dtype=dtype).expand(2, 2, 2))
    point = torch.tensor([reach, 2.5], dtype=dtype)
    expected = 0.7 * stats.norm.cdf(2.5) + 0.3 * stats.norm.cdf(-2.5)
    assert d.rosenblatt(point)[1].item() == pytest.approx(expected, rel=1e-5)
    given_first = d.condition(0, point[:1])
    assert given_first.cdf(point[1:]).item() == pytest.approx(expected, rel=1e-5)
    shares = 0.7 * stats.norm.pdf(2.5), 0.3 * stats.norm.pdf(-2.5)
    assert d.responsibilities(point)[0].item() == pytest.approx(shares[0] / sum(shares), rel=1e-5)


@pytest.mark.parametrize("size", [2, 3])
def test_far_weights_are_those_of_more_digits(size):
    """Scales and correlations differ too: float32, of numbers that it holds, beside 60 digits."""
    logits, loc, scale_tril = (p.float() for p in mixture_parameters((), size, components=2))
    loc = loc[:1] + torch.tensor([[0.0], [1e-2]])
    scale_tril = scale_tril[:1] * torch.tensor([1.0, 1.00001]).view(2, 1, 1)
    point = torch.tensor([300.0, -200.0, 100.0])[:size]
    d = GaussianMixture(logits, loc, scale_tril)
    with mpmath.workdps(60):
        shares = []
        for k in range(2):
            factor = mpmath.matrix(scale_tril[k].tolist())
            gap = mpmath.matrix((point.double() - loc[k].double()).tolist())
            y = mpmath.lu_solve(factor, gap)
            log_share = mpmath.mpf(logits[k].item()) - mpmath.log(mpmath.det(factor))
            shares.append(log_share - mpmath.fsum(v**2 for v in y) / 2)
        ratio = float(shares[0] - shares[1])
    found = d.responsibilities(point).double().log()
    assert (found[0] - found[1]).item() == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("shape", [(100, 2, 1), (7, 1), (2, 1), (3,), (2, 3), (1,)], ids=str)
def test_a_quantile_per_point_is_refused_not_broadcast(shape):
    d = GaussianMixture(*mixture_parameters((2,), 1))
    with pytest.raises(ValueError, match=r"q must end in the batch shape \(2,\), without"):
        d.icdf(torch.full(shape, 0.3))


@pytest.mark.parametrize("shape", [(), (2,), (5, 2), (3, 5, 2)], ids=str)
def test_quantiles_and_probabilities_share_their_shapes(shape):
    d = GaussianMixture(*mixture_parameters((2,), 1))
    q = torch.full(shape, 0.3, dtype=torch.float64)
    found = d.icdf(q)
    assert found.shape == (*torch.broadcast_shapes(shape, (2,)), 1)
    assert_close(d.cdf(found), q.expand(found.shape[:-1]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("transform", [rosenblatt, inverse_rosenblatt])
@pytest.mark.parametrize("size", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_forward_and_batched_derivatives(transform, size):
    inputs = [p.requires_grad_() for p in mixture_parameters((), size, components=2)]
    inputs.append(uniform(size, seed=7).requires_grad_())

    def function(logits, loc, scale_tril, value):
        return transform(logits, loc, scale_tril.tril(), value)

    assert torch.autograd.gradcheck(
        function,
        inputs,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@pytest.mark.slow
def test_second_derivatives_are_right_or_refused():
    logits, loc, scale_tril = mixture_parameters((), 2, components=2)
    value = uniform(2, seed=7)

    def function(loc):
        return inverse_rosenblatt(logits, loc, scale_tril, value).sum()

    expected = torch.autograd.functional.hessian(function, loc)
    assert_close(jacfwd(jacrev(function))(loc), expected)
    assert_close(jacrev(jacfwd(function))(loc), expected)
    with pytest.raises(NotImplementedError, match="take one of the two backward"):
        jacfwd(jacfwd(function))(loc)


def test_a_quantile_is_found_though_the_librarys_normal_quantile_is_rounded(monkeypatch):
    """On some machine it is rounded otherwise; the bracket that it makes leaves room for that."""
    d = GaussianMixture(*mixture_parameters((), 1))
    one = wall(0.0)
    q = torch.tensor([1e-9, 0.1, 0.5, 0.9, 1 - 1e-9], dtype=torch.float64)
    expected, alone = d.icdf(q), one.icdf(q)
    for error in (1e-3, -1e-3):
        monkeypatch.setattr(rosenblatt_module, "ndtri", lambda u, e=error: ndtri(u) + e)
        assert_close(d.icdf(q), expected, rtol=1e-9, atol=1e-9)
        assert_close(one.icdf(q), alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("far", [1e300, -1e300])
def test_a_component_without_weight_is_not_searched_for_however_far(far):
    places = torch.tensor([[-1e3], [1e3], [far]], dtype=torch.float64)
    logits = torch.tensor([0.0, 0.0, -torch.inf], dtype=torch.float64)
    d = GaussianMixture(logits, places, torch.ones(3, 1, 1, dtype=torch.float64))
    q = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    assert_close(d.icdf(q), wall(-1e3, 1e3).icdf(q), rtol=1e-12, atol=0)


def test_a_narrow_component_is_found_beside_one_far_away():
    places = torch.tensor([[0.0], [1e8]], dtype=torch.float64)
    scale = torch.tensor([1e-12, 1.0], dtype=torch.float64).view(2, 1, 1)
    q = torch.tensor([0.1, 0.3, 0.4], dtype=torch.float64)
    found = GaussianMixture(torch.zeros(2).double(), places, scale).icdf(q)
    expected = torch.from_numpy(stats.norm.ppf(2 * q.numpy(), 0, 1e-12)).unsqueeze(-1)
    assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_count_as_the_nearest_numbers(dtype):
    kind = torch.finfo(dtype)
    found = wall(0.0, dtype=dtype).icdf(torch.tensor([0.0, 1.0], dtype=dtype))
    assert found[0].item() == pytest.approx(stats.norm.ppf(kind.tiny), rel=1e-4)
    assert found[1].item() == pytest.approx(stats.norm.isf(kind.eps / 2), rel=1e-4)


def test_weights_that_round_to_more_than_1_leave_the_cube_closed():
    logits = normal(1000, 20, seed=13).float()
    d = GaussianMixture(logits, torch.zeros(20, 1), torch.ones(20, 1, 1))
    assert (d.rosenblatt(torch.full((1000, 1), 9.0)) <= 1).all()


def test_numbers_of_a_wider_type_keep_it():
    leaves = [p.float().requires_grad_() for p in mixture_parameters((4,))]
    u = uniform(4, 2, seed=14)
    found = inverse_rosenblatt(*leaves, u)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = inverse_rosenblatt(*wide, u)
    assert_close(found, expected, rtol=0, atol=1e-5)
    exact = torch.autograd.grad(expected.sum(), wide)
    for single, double in zip(torch.autograd.grad(found.sum(), leaves), exact, strict=True):
        assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("u", [1e-300, 0.05, 0.3, 0.8])
@pytest.mark.parametrize("apart", [3.0, 100.0])
@pytest.mark.parametrize("unit", [1.0, 1e20])
def test_second_derivatives_are_right_in_the_tail_and_beside_a_far_component(unit, apart, u):
    logits = torch.tensor([0.1, 0.9], dtype=torch.float64).log().requires_grad_()
    number = torch.tensor([u], dtype=torch.float64)

    def function(logits, loc, scale):
        return inverse_rosenblatt(logits, unit * loc, unit * scale, number) / unit

    loc = torch.tensor([[0.0], [apart]], dtype=torch.float64, requires_grad=True)
    scale = torch.ones(2, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(function, (logits, loc, scale))
