"""A mixture squashed into a box by torch's own transform, as bounded actions are."""

import math

import mpmath
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import mixture_parameters, stock_mixture
from scipy import stats
from torch.distributions import TanhTransform, TransformedDistribution
from torch.testing import assert_close

from mdn_dist import GaussianMixture

SIZES = pytest.mark.parametrize("size", [1, 2, 6])
KINDS = pytest.mark.parametrize("kind", [TransformedDistribution, dist.TransformedDistribution])


def squashed(mixture, kind=TransformedDistribution):
    return kind(mixture, [TanhTransform(cache_size=1)])


def by_hand(parameters, x):
    """The log density of tanh(x), the slope by its own definition."""
    return stock_mixture(*parameters).log_prob(x) + 2 * x.cosh().log().sum(-1)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (2, 1, 3)])
@SIZES
@KINDS
def test_points_score_as_the_change_of_variables_says(kind, size, batch):
    parameters = mixture_parameters(batch, size)
    d = squashed(GaussianMixture(*parameters), kind)
    assert (d.batch_shape, d.event_shape, d.has_rsample) == (batch, (size,), True)
    points = d.sample((5,))
    assert (points.abs() <= 1).all()
    assert points.shape == (5, *batch, size)
    assert_close(d.log_prob(points.clone()), by_hand(parameters, points.atanh()))


def test_the_density_adds_up_to_one():
    d = squashed(GaussianMixture(*mixture_parameters((), 1)))
    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    edges = x.tanh()
    middle = (edges[1:] + edges[:-1]) / 2
    mass = d.log_prob(middle.unsqueeze(-1)).exp() * edges.diff()
    assert mass.sum() == pytest.approx(1, abs=1e-5)


def test_samples_are_those_of_the_density():
    mixture = GaussianMixture(*mixture_parameters((), 1))
    torch.manual_seed(1)
    points = squashed(mixture).sample((20_000,))
    # false-alarm rate 1e-3 over seeds
    assert stats.kstest(mixture.cdf(points.atanh()).numpy(), "uniform").pvalue > 1e-3


# 9 derivatives within 4.5 standard errors, two-sided: a false alarm at 6e-5 over seeds.
def test_pathwise_gradients_of_an_average_are_quadratures():
    leaves = [p.requires_grad_() for p in mixture_parameters((), 1)]
    axis = torch.linspace(-12, 12, 20_001, dtype=torch.float64).unsqueeze(-1)
    average = (stock_mixture(*leaves).log_prob(axis).exp() * axis.squeeze(-1).tanh()).sum()
    exact = torch.autograd.grad(average * 24 / 20_000, leaves)
    many = [p.detach().expand(20_000, *p.shape).clone().requires_grad_() for p in leaves]
    torch.manual_seed(2)
    points = squashed(GaussianMixture(*many)).rsample()
    for found, wanted in zip(torch.autograd.grad(points.sum(), many), exact, strict=True):
        error = found.std(0) / len(found) ** 0.5
        assert ((found.mean(0) - wanted).abs() < 4.5 * error).all()


# Near the walls, where a float32 value is 1


def saturated(dtype=torch.float32):
    loc = torch.tensor([[9.5, -9.0], [12.0, -11.0]], dtype=dtype)
    factor = torch.tensor([[0.5, 0.0], [0.2, 0.4]], dtype=dtype).expand(2, 2, 2)
    return torch.tensor([0.3, -0.2], dtype=dtype), loc, factor


def exact_log_prob(x):
    """Of tanh(x), by 50 digits."""
    logits, loc, factor = saturated(torch.float64)
    with mpmath.workdps(50):
        total = mpmath.mpf(0)
        weights = [mpmath.exp(w) for w in logits.tolist()]
        for k in range(2):
            ((a, _), (b, c)) = factor[k].tolist()
            first = (mpmath.mpf(x[0]) - loc[k, 0].item()) / a
            second = (mpmath.mpf(x[1]) - loc[k, 1].item() - b * first) / c
            bump = mpmath.exp(-(first**2 + second**2) / 2) / (2 * mpmath.pi * a * c)
            total += weights[k] / sum(weights) * bump
        slope = mpmath.fprod(1 - mpmath.tanh(mpmath.mpf(v)) ** 2 for v in x)
        return float(mpmath.log(total / slope))


def test_the_cache_keeps_the_score_of_a_value_that_is_one():
    leaves = [p.requires_grad_() for p in saturated()]
    mixture = GaussianMixture(*leaves)
    d = squashed(mixture)
    torch.manual_seed(3)
    points = d.rsample((64,))
    assert (points.abs() == 1).any()
    score = d.log_prob(points)
    torch.manual_seed(3)
    x = mixture.rsample((64,))
    expected = torch.tensor([exact_log_prob(row) for row in x.tolist()])
    assert_close(score.detach(), expected, rtol=1e-4, atol=1e-3)
    gradients = torch.autograd.grad(score.sum(), leaves)
    assert all(g.isfinite().all() for g in gradients)
    # the recipe without a cache: keep x, and score it
    transform = TanhTransform()
    kept = mixture.log_prob(x) - transform.log_abs_det_jacobian(x, x.tanh()).sum(-1)
    assert_close(kept, score)
    again = torch.autograd.grad(kept.sum(), leaves)
    assert_close(again, gradients)


def test_without_the_cache_a_value_of_one_is_lost():
    """If this fails, torch does better now, and the documentation may say so."""
    d = TransformedDistribution(GaussianMixture(*saturated()), [TanhTransform()])
    torch.manual_seed(3)
    points = d.sample((64,))
    one = (points.abs() == 1).any(-1)
    score = TransformedDistribution(
        GaussianMixture(*saturated(), validate_args=False), [TanhTransform()], validate_args=False
    ).log_prob(points)
    assert one.any()
    assert not score[one].isfinite().any()


def test_the_gradient_of_a_saturated_value_by_its_parameters_is_the_slope():
    loc = torch.tensor([[9.0]], dtype=torch.float64, requires_grad=True)
    d = squashed(GaussianMixture(torch.zeros(1), loc, 1e-6 * torch.ones(1, 1, 1)))
    (found,) = torch.autograd.grad(d.rsample().sum(), loc)
    assert found.item() == pytest.approx(1 / math.cosh(9.0) ** 2, rel=1e-4)


# Pyro


def test_pyro_samples_scores_and_masks_it():
    parameters = mixture_parameters((6,), 2)
    mask = torch.tensor([True, True, False, True, False, True])
    actions = squashed(GaussianMixture(*parameters)).sample()
    padded = torch.where(mask.unsqueeze(-1), actions, 0.0)

    def policy(observed=None):
        with pyro.plate("states", 6):
            d = squashed(GaussianMixture(*parameters), dist.TransformedDistribution)
            return pyro.sample("action", d.mask(mask), obs=observed)

    trace = pyro.poutine.trace(policy).get_trace()
    assert trace.nodes["action"]["value"].shape == (6, 2)
    assert trace.log_prob_sum().isfinite()
    observed = pyro.poutine.trace(policy).get_trace(padded)
    expected = by_hand(parameters, actions.atanh())[mask].sum()
    assert_close(observed.log_prob_sum(), expected)


def test_padding_has_no_gradient():
    parameters = [p.requires_grad_() for p in mixture_parameters((3,), 2)]
    mask = torch.tensor([True, False, True])
    points = squashed(GaussianMixture(*mixture_parameters((3,), 2, seed=9))).sample()
    points = torch.where(mask.unsqueeze(-1), points, 0.0)
    d = squashed(GaussianMixture(*parameters), dist.TransformedDistribution).mask(mask)
    score = d.log_prob(points)
    assert score[1] == 0
    for gradient in torch.autograd.grad(score.sum(), parameters):
        assert (gradient[1] == 0).all()
        assert gradient.isfinite().all()


def test_a_guide_of_bounded_latents_trains_by_pathwise_gradients():
    """Pyro's ELBO of a squashed guide has the gradient of the bound, by both of its ways."""
    parameters = [p.requires_grad_() for p in mixture_parameters((), 1, 2)]

    def model():
        pyro.sample("action", dist.Uniform(-torch.ones(1).double(), 1.0).to_event(1))

    def guide():
        d = squashed(GaussianMixture(*parameters), dist.TransformedDistribution)
        pyro.sample("action", d)

    pyro.set_rng_seed(5)
    elbo = pyro.infer.Trace_ELBO(4000, vectorize_particles=True, max_plate_nesting=0)
    found = -elbo.differentiable_loss(model, guide)
    axis = torch.linspace(-12, 12, 20_001, dtype=torch.float64).unsqueeze(-1)
    score = stock_mixture(*parameters).log_prob(axis)
    each = score + 2 * axis.squeeze(-1).cosh().log()
    exact = (score.exp() * (-math.log(2) - each)).sum() * 24 / 20_000
    # a tenth of a nat: some five standard errors of 4000 draws
    assert abs(found.item() - exact.item()) < 0.1
    ours = torch.autograd.grad(found, parameters)
    theirs = torch.autograd.grad(exact, parameters)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, rtol=0.15, atol=0.1)
