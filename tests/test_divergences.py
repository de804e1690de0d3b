"""Bounds and estimates of entropies and divergences, against integrals by quadrature."""

import math

import mpmath
import pytest
import torch
from cases import CASES, generator, mixture_parameters, normal, output_case, stock_mixture
from torch.autograd import gradcheck
from torch.distributions import Distribution, MultivariateNormal, kl_divergence
from torch.func import grad, vmap
from torch.testing import assert_close

from mdn_dist import GaussianMixture, StrokeDistribution
from mdn_dist._maths.divergences import joined_factor

BATCHES = [(), (4,), (2, 3), (2, 1, 3)]
SIZES = pytest.mark.parametrize("size", [1, 2, 6])
SLACK = 1e-9  # of an integral and of rounding
COUNT = {1: 60, 2: 3}


def spread(distance, least=1.0):
    """Mixtures whose means are `distance` times as far apart, some components narrower."""

    def make(count, size, components, seed):
        logits, loc, scale_tril = mixture_parameters((count,), size, components, seed=seed)
        narrower = least ** normal(count, components, 1, 1, seed=seed + 4).sigmoid()
        return logits, distance * loc, narrower * scale_tril

    return make


FAMILIES = {
    "overlapping": spread(0.3),
    "side by side": spread(1.0),
    "apart": spread(4.0),
    "narrow ones among wide": spread(1.0, 0.02),
    "narrow and apart": spread(3.0, 0.02),
}
PAIRS = [(1, 1), (3, 3), (2, 5), (4, 1), (1, 3)]


def grid_over(size, mixture):
    """Points ``(N, count, D)`` and the logarithm of the cell ``(count)``: all but 1e-20 of it."""
    _, loc, scale_tril = mixture
    reach = 10 * scale_tril.norm(dim=-1)
    low, high = (loc - reach).amin(-2), (loc + reach).amax(-2)
    steps = {1: 8001, 2: 351}[size]
    axis = torch.linspace(0, 1, steps, dtype=torch.float64)
    unit = torch.cartesian_prod(*[axis] * size).view(-1, 1, size)
    return low + unit * (high - low), ((high - low) / (steps - 1)).log().sum(-1)


def integrals(size, p, q):
    """Entropy of p and divergence from q ``(count)``, by sums over a grid."""
    points, log_cell = grid_over(size, p)
    log_p, log_q = (stock_mixture(*each).log_prob(points) for each in (p, q))
    mass = (log_p + log_cell).exp()
    assert_close(mass.sum(0), torch.ones_like(log_cell), rtol=0, atol=1e-10)
    return -(mass * log_p).sum(0), (mass * (log_p - log_q)).sum(0)


def pairs(size, family, components, seed=0):
    make, count = FAMILIES[family], COUNT[size]
    if size == 2 and "narrow" in family:
        make = spread(1.0, 0.5)  # as fine as the grid is
    return [make(count, size, k, seed + 50 * i) for i, k in enumerate(components)]


def within(bounds, exact):
    lower, upper = bounds
    slack = SLACK * (1 + exact.abs())
    return (lower <= exact + slack) & (exact <= upper + slack)


@pytest.mark.parametrize("components", PAIRS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 2])
def test_the_integrals_lie_within_the_bounds(size, family, components):
    p, q = pairs(size, family, components)
    entropy, divergence = integrals(size, p, q)
    ours, other = GaussianMixture(*p), GaussianMixture(*q)
    assert within(ours.entropy_bounds(), entropy).all()
    assert within(ours.kl_bounds(other), divergence).all()
    lower, upper = ours.entropy_bounds()
    within_log = -(p[0].softmax(-1) * p[0].log_softmax(-1)).sum(-1)
    # no worse than with no notice of how the components lie
    assert (upper - lower <= within_log + SLACK).all()
    assert (ours.kl_bounds(other)[0] >= 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bounds_tell_something(family):
    """Half the width of a trivial bound at the most, on average."""
    p, q = pairs(1, family, (3, 3))
    entropy, divergence = integrals(1, p, q)
    lower, upper = GaussianMixture(*p).entropy_bounds()
    trivial = -(p[0].softmax(-1) * p[0].log_softmax(-1)).sum(-1)
    assert (upper - lower).mean() < trivial.mean() / 2
    assert (upper - entropy).mean() < 0.2
    low, high = GaussianMixture(*p).kl_bounds(GaussianMixture(*q))
    assert (high - divergence).mean() < 0.15 + 0.4 * divergence.mean()
    if "overlap" not in family:
        assert low.mean() > 0.2 * divergence.mean()


def variational(p, q):
    """Hershey and Olsen's variational approximation, which is no bound."""
    (logits, loc, scale), (other_logits, other_loc, other_scale) = p, q

    def log_sum(weights, means, factors):
        of = MultivariateNormal(loc.unsqueeze(-2), scale_tril=scale.unsqueeze(-3))
        to = MultivariateNormal(means.unsqueeze(-3), scale_tril=factors.unsqueeze(-4))
        return (weights.log_softmax(-1).unsqueeze(-2) - kl_divergence(of, to)).logsumexp(-1)

    each = log_sum(logits, loc, scale) - log_sum(other_logits, other_loc, other_scale)
    return (logits.softmax(-1) * each).sum(-1)


def test_the_comparison_notices_what_is_no_bound():
    p, q = pairs(1, "side by side", (3, 3))
    _, divergence = integrals(1, p, q)
    approximate, exactly = variational(p, q), torch.full_like(divergence, math.inf)
    assert not within((approximate, exactly), divergence).all()
    assert not within((-exactly, approximate), divergence).all()


@pytest.mark.parametrize("batch", BATCHES)
@SIZES
def test_of_one_gaussian_both_bounds_are_exact(size, batch):
    p, q = (mixture_parameters(batch, size, 1, seed=seed) for seed in (0, 30))
    ours, other = GaussianMixture(*p), GaussianMixture(*q)
    theirs, others = (
        MultivariateNormal(each[1].squeeze(-2), scale_tril=each[2].squeeze(-3)) for each in (p, q)
    )
    for bound in ours.entropy_bounds():
        assert bound.shape == batch
        assert_close(bound, theirs.entropy())
    for bound in ours.kl_bounds(other):
        assert bound.shape == batch
        assert_close(bound, kl_divergence(theirs, others))


@SIZES
def test_the_bounds_meet_where_components_are_far_apart_or_alike(size):
    logits, loc, scale_tril = mixture_parameters((4,), size)
    far = loc + 1000 * torch.arange(3.0).view(3, 1)
    weight = logits.softmax(-1)
    own = MultivariateNormal(far, scale_tril=scale_tril).entropy()
    for bound in GaussianMixture(logits, far, scale_tril).entropy_bounds():
        assert_close(bound, (weight * (own - weight.log())).sum(-1))
    alike = loc[:, :1].expand(-1, 3, -1), scale_tril[:, :1].expand(-1, 3, -1, -1)
    for bound in GaussianMixture(logits, *alike).entropy_bounds():
        assert_close(bound, own[:, 0])


@SIZES
def test_the_divergence_from_itself_is_within(size):
    d = GaussianMixture(*mixture_parameters((4,), size))
    lower, upper = d.kl_bounds(d)
    assert (lower == 0).all()
    assert (upper >= -1e-12).all()


@pytest.mark.parametrize(("batch", "other_batch"), [((), (4,)), ((4,), ()), ((2, 1), (3,))])
def test_batches_broadcast(batch, other_batch):
    p, q = mixture_parameters(batch), mixture_parameters(other_batch, components=2, seed=30)
    shape = torch.broadcast_shapes(batch, other_batch)
    ours, other = GaussianMixture(*p), GaussianMixture(*q)
    both = ours.expand(shape), other.expand(shape)
    assert_close(ours.kl_bounds(other), both[0].kl_bounds(both[1]))
    for found in (*ours.kl_bounds(other), *ours.kl_estimate(other, 10)):
        assert found.shape == shape


def bounds_of(first, second):
    ours, other = GaussianMixture(*first), GaussianMixture(*second)
    return torch.stack([*ours.entropy_bounds(), *ours.kl_bounds(other)])


@SIZES
def test_derivatives_are_right(size):
    p = mixture_parameters((2,), size, seed=1)
    q = mixture_parameters((2,), size, 2, seed=30)
    q = (q[0], q[1] + 3, q[2])  # lest the lower bound of the divergence be 0
    leaves = [t.requires_grad_() for t in (*p, *q)]

    def free(*leaves):
        lower = [*leaves[:2], leaves[2].tril(), *leaves[3:5], leaves[5].tril()]
        return bounds_of(lower[:3], lower[3:])

    assert (free(*leaves)[2] > 0).all()
    assert gradcheck(free, leaves, fast_mode=size == 6)


@pytest.mark.parametrize("distance", [1e9, 1e25])  # the square of the second overflows float32
@SIZES
def test_a_component_without_weight_changes_nothing_and_has_no_gradient(size, distance):
    p, q = mixture_parameters((2,), size), mixture_parameters((2,), size, 2, seed=30)

    def with_dead(logits, loc, scale_tril):
        return (
            torch.cat([logits, torch.full((2, 1), -math.inf).double()], -1),
            torch.cat([loc, loc[:, :1] + distance], -2),
            torch.cat([scale_tril, 1e-9 * scale_tril[:, :1]], -3),
        )

    expected = bounds_of(p, q)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        leaves = [[t.to(dtype).requires_grad_() for t in with_dead(*each)] for each in (p, q)]
        found = bounds_of(*leaves)
        assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
        gradients = torch.autograd.grad(found.sum(), [t for each in leaves for t in each])
        for g in gradients:
            assert g.isfinite().all()
        for g in (*gradients[:2], *gradients[3:5]):
            assert (g[:, -1] == 0).all()


@SIZES
def test_single_precision_rounds_double(size):
    p, q = mixture_parameters((20,), size), mixture_parameters((20,), size, 2, seed=30)
    single = bounds_of([t.float() for t in p], [t.float() for t in q])
    assert single.dtype == torch.float32
    assert_close(single.double(), bounds_of(p, q), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_narrow_and_distant_components_leave_all_finite(dtype):
    logits = torch.zeros(3, dtype=dtype)
    loc = torch.tensor([[0.0, 0.0], [1e6, 0.0], [1e6, 1e-3]], dtype=dtype)
    scale = torch.tensor([1e-12, 1e3, 1e-3], dtype=dtype).view(3, 1, 1) * torch.eye(2, dtype=dtype)
    leaves = [t.requires_grad_() for t in (logits, loc, scale)]
    d = GaussianMixture(*leaves)
    bounds = torch.stack([*d.entropy_bounds(), *d.kl_bounds(d.affine(1e-3, 1.0))])
    assert bounds.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(bounds.sum(), leaves))
    assert (bounds[0] <= bounds[1]) & (bounds[2] <= bounds[3])


@pytest.mark.parametrize("narrow", [1e-3, 1e-7])
def test_a_factor_of_a_sum_keeps_thin_directions(narrow):
    """Which the sum of the covariances would have lost."""
    left, right = (
        torch.tensor([[1.0, 0.0], [b, narrow]], dtype=torch.float64) for b in (2.0, 2.0 + narrow)
    )
    found = joined_factor(left, right)
    with mpmath.workdps(60):
        exact = [mpmath.matrix(m.tolist()) for m in (left, right)]
        factor = mpmath.cholesky(exact[0] * exact[0].T + exact[1] * exact[1].T)
        expected = torch.tensor([[float(factor[i, j]) for j in range(2)] for i in range(2)])
    assert_close(found, expected.double(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_mixture_from_outputs_has_the_bounds_of_its_parameters(size):
    outputs = output_case(None, size=size).tensors((4,))[0].requires_grad_()
    d = GaussianMixture.from_outputs(outputs, 3, event_size=size)
    other = d.detach().affine(0.5, 2.0)
    same = GaussianMixture(d.logits, d.loc, d.scale_tril)
    found = torch.stack([*d.entropy_bounds(), *d.kl_bounds(other), *other.kl_bounds(d)])
    expected = torch.stack([*same.entropy_bounds(), *same.kl_bounds(other), *other.kl_bounds(same)])
    assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), outputs)
    assert gradient.isfinite().all()
    assert (gradient != 0).any(-1).all()


@SIZES
def test_transforms_give_the_same(size):
    p, q = mixture_parameters((4,), size), mixture_parameters((4,), size, 2, seed=30)

    def bounds(*tensors):
        return bounds_of(tensors[:3], tensors[3:])

    expected = bounds(*p, *q)
    assert_close(vmap(bounds, out_dims=-1)(*p, *q), expected)
    leaves = [t.clone().requires_grad_() for t in (*p, *q)]
    gradients = torch.autograd.grad(bounds(*leaves).sum(), leaves)
    found = vmap(grad(lambda *t: bounds(*t).sum(), tuple(range(6))))(*p, *q)
    assert_close(list(found), list(gradients))
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(bounds(*p, *q), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiler_makes_one_graph(monkeypatch):
    # torch's first compilation turns the validation of distributions off
    monkeypatch.setattr(Distribution, "_validate_args", Distribution._validate_args)
    torch._dynamo.reset()
    tensors = [*mixture_parameters((4,)), *mixture_parameters((4,), components=2, seed=30)]

    def bounds(*tensors):
        return bounds_of(tensors[:3], tensors[3:])

    compiled = torch.compile(bounds, backend="aot_eager", fullgraph=True)
    assert_close(compiled(*tensors), bounds(*tensors))
    torch._dynamo.reset()


# Estimates


# 126 statistics within 4.5 standard errors, two-sided: a false alarm at a rate of 9e-4 over seeds.
@pytest.mark.parametrize("size", [1, 2])
def test_estimates_are_the_integrals_within_their_errors(size):
    p, q = pairs(size, "side by side", (3, 3))
    exact = integrals(size, p, q)
    ours, other = GaussianMixture(*p), GaussianMixture(*q)
    found = (ours.entropy_estimate(4000, generator(1)), ours.kl_estimate(other, 4000, generator(2)))
    for (estimate, error), wanted in zip(found, exact, strict=True):
        assert ((estimate - wanted).abs() < 4.5 * error).all()
        assert (error < 0.2 * (1 + wanted)).all()
        assert not estimate.requires_grad


def test_the_standard_error_is_the_deviation_of_estimates():
    p = [t.expand(2000, *t.shape) for t in mixture_parameters()]
    q = GaussianMixture(*mixture_parameters(seed=30))
    for found in (
        GaussianMixture(*p).entropy_estimate(100, generator(3)),
        GaussianMixture(*p).kl_estimate(q, 100, generator(4)),
    ):
        ratio = found[0].std() / found[1].mean()
        assert 0.93 < ratio < 1.07  # four of its standard errors, and a per cent of bias


@pytest.mark.parametrize("name", ["stroke from outputs", "pen states from outputs", "mixture of 2"])
def test_every_distribution_has_estimates(name):
    d = CASES[name].make((2, 3))
    state = torch.get_rng_state()
    first, again = (d.entropy_estimate(50, generator(5)) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert_close(first, again, rtol=0, atol=0)
    estimate, error = d.kl_estimate(d, 50)
    assert estimate.shape == error.shape == (2, 3)
    assert (estimate == 0).all()
    torch.manual_seed(1)
    one, two = d.entropy_estimate(50), d.entropy_estimate(50)
    assert not torch.equal(one[0], two[0])


def test_a_divergence_from_any_distribution_is_estimated():
    p, q = mixture_parameters(components=1), mixture_parameters(components=1, seed=30)
    other = MultivariateNormal(q[1].squeeze(0), scale_tril=q[2].squeeze(0))
    estimate, error = GaussianMixture(*p).kl_estimate(other, 4000, generator(6))
    own = MultivariateNormal(p[1].squeeze(0), scale_tril=p[2].squeeze(0))
    assert (estimate - kl_divergence(own, other)).abs() < 4.5 * error  # false alarms: 7e-6


# Strokes


@pytest.mark.parametrize(
    "name", ["stroke from outputs", "pen states from outputs", "tools from outputs"]
)
def test_the_bounds_of_a_stroke_have_the_pens_entropy_exactly(name):
    case = CASES[name]
    d = case.make((4,))
    states = torch.eye(case.states) if case.pen == "one_hot" else torch.tensor([[0.0], [1.0]])
    here = d.offset.mean
    points = [torch.cat([here, s.double().expand(4, -1)], -1) for s in states]
    log_share = torch.stack([d.log_prob(x) - d.offset.log_prob(here) for x in points])
    pen = -(log_share.exp() * log_share).sum(0)
    for bound, offset in zip(d.entropy_bounds(), d.offset.entropy_bounds(), strict=True):
        assert_close(bound - offset, pen)


# Refusals


def test_what_does_not_fit_is_refused():
    d = GaussianMixture(*mixture_parameters((4,)))
    stroke = StrokeDistribution.from_outputs(torch.zeros(4, 121))
    with pytest.raises(TypeError, match="other must be a GaussianMixture, got Tensor"):
        d.kl_bounds(torch.zeros(2))
    with pytest.raises(TypeError, match="other must be a GaussianMixture, got StrokeDistribution"):
        d.kl_bounds(stroke)
    with pytest.raises(TypeError, match="other must be a distribution, got int"):
        d.kl_estimate(3)
    for method in (d.kl_bounds, d.kl_estimate):
        with pytest.raises(ValueError, match=r"other must have event shape \(2,\), got \(3,\)"):
            method(GaussianMixture(*mixture_parameters((4,), 3)))
        with pytest.raises(ValueError, match=r"other must broadcast against .* got \(3,\)"):
            method(GaussianMixture(*mixture_parameters((3,))))
    with pytest.raises(ValueError, match="samples must be at least 2, for a standard error"):
        d.entropy_estimate(1)
    with pytest.raises(TypeError, match="samples must be an integer"):
        d.kl_estimate(d, 2.5)


def test_no_rule_claims_an_exact_divergence():
    d = GaussianMixture(*mixture_parameters())
    with pytest.raises(NotImplementedError):
        kl_divergence(d, d)
