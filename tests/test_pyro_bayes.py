"""A head with priors over its weights, held against posteriors that are known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import CASES, normal, parameters_of_outputs, stock_log_prob
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import (
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_sample,
)
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from pyro.optim import ClippedAdam
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.testing import assert_close

from mdn_dist import MixtureDensityHead

FEATURES = 2
GUIDES = [AutoNormal, AutoMultivariateNormal, AutoLaplaceApproximation]
PENS = {None: "mixture from outputs", "bernoulli": "stroke from outputs"}
PENS["one_hot"] = "pen states from outputs"
COMPONENTS = 2
PRIOR_SCALE = 0.3

every_guide = pytest.mark.parametrize("kind", GUIDES)
every_pen = pytest.mark.parametrize("pen", PENS)


@pytest.fixture(autouse=True)
def fresh_pyro():
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()


def model_of(head):
    def model(features, points=None):
        d = head(features)  # outside the plate: one draw of the weights serves every sequence
        with pyro.plate("sequences", len(features)):
            return pyro.sample("points", d.to_event(1), obs=points)

    return model


def train(model, guide, *data, steps=300, lr=0.1):
    optim = ClippedAdam({"lr": lr, "lrd": 0.02 ** (1 / steps)})
    svi = SVI(model, guide, optim, Trace_ELBO())
    return [svi.step(*data) for _ in range(steps)]


def run_nuts(model, *data, samples, warmup):
    mcmc = MCMC(NUTS(model), samples, warmup, disable_progbar=True)
    mcmc.run(*data)
    return mcmc


def every_weight_latent(pen):
    head = MixtureDensityHead(FEATURES, COMPONENTS, pen=pen, bounds=None, dtype=torch.float64)
    to_pyro_module_(head)
    for name, parameter in list(head.linear.named_parameters()):
        prior = dist.Normal(torch.zeros_like(parameter), PRIOR_SCALE).to_event(parameter.dim())
        setattr(head.linear, name, PyroSample(prior))
    return head


def some_data(pen):
    return normal(4, 5, FEATURES, seed=3), CASES[PENS[pen]].points(4, 5)


@every_guide
@every_pen
def test_svi_learns_and_predicts_whole_sequences(pen, kind):
    model, (features, points) = model_of(every_weight_latent(pen)), some_data(pen)
    guide = kind(model)
    losses = train(model, guide, features, points, steps=40)
    assert sum(losses[-10:]) < sum(losses[:10])
    predict = Predictive(model, guide=guide, num_samples=6)
    assert predict(features)["points"].shape == (6, *points.shape)
    more = predict(normal(7, 9, FEATURES, seed=4))["points"]  # other sequences than it learned from
    assert more.shape == (6, 7, 9, points.shape[-1])
    assert len(more[:, 0, 0, 0].unique()) == 6


@every_pen
def test_nuts_runs_and_predicts(pen):
    model, (features, points) = model_of(every_weight_latent(pen)), some_data(pen)
    mcmc = MCMC(NUTS(model, max_tree_depth=3), 4, 4, disable_progbar=True)
    mcmc.run(features, points)
    draws = mcmc.get_samples()
    outputs = draws["linear.bias"].shape[-1]
    assert draws["linear.weight"].shape == (4, outputs, FEATURES)
    drawn = Predictive(model, draws)(features)["points"]
    assert drawn.shape == (4, *points.shape)
    again = Predictive(model, draws, return_sites=("_RETURN",))(features)["_RETURN"]
    assert again.shape == (4, *points.shape)


@every_pen
def test_laplace_has_the_curvature_of_torchs_own_classes(pen):
    model, (features, points) = model_of(every_weight_latent(pen)), some_data(pen)
    # from the prior's median, where all components are alike, they would stay alike: a saddle
    guide = AutoLaplaceApproximation(model, init_loc_fn=init_to_sample)
    train(model, guide, features, points, steps=150)
    found = guide.laplace_approximation(features, points).get_posterior()

    def joint(latent):
        weight = latent[: latent.numel() * FEATURES // (FEATURES + 1)].view(-1, FEATURES)
        outputs = features @ weight.T + latent[weight.numel() :]
        parameters = parameters_of_outputs(outputs, COMPONENTS, 2, pen)
        return (
            Normal(0, PRIOR_SCALE).log_prob(latent).sum()
            + stock_log_prob(*parameters, points).sum()
        )

    curvature = -torch.autograd.functional.hessian(joint, guide.loc.detach())
    assert_close(found.precision_matrix, curvature, rtol=1e-6, atol=1e-6)


# One component in one coordinate, of a fixed scale, is linear regression: with the mean's weights
# latent, the posterior is normal.

SCALE = 0.7
FEATURE = normal(30, 1, FEATURES, seed=1) @ torch.tensor([[1.0, 0.6], [0.0, 0.8]]).double()
POINT = (FEATURE @ torch.tensor([0.8, -0.5]).double()).unsqueeze(-1)
POINT = POINT + SCALE * normal(30, 1, 1, seed=2)


def regression():
    head = MixtureDensityHead(FEATURES, 1, 1, pen=None, dtype=torch.float64)
    to_pyro_module_(head)
    linear = head.linear
    linear.slope = PyroSample(dist.Normal(torch.zeros(FEATURES).double(), 1.0).to_event(1))
    # outputs: the weight of the component, its mean, its log scale
    linear.weight = PyroSample(
        lambda linear: torch.nn.functional.pad(linear.slope.unsqueeze(0), (0, 0, 1, 1))
    )
    linear.bias = PyroSample(
        lambda _: torch.tensor([0.0, 0.0, math.log(SCALE)], dtype=torch.float64)
    )
    return model_of(head)


def exact_posterior():
    features = FEATURE.squeeze(1)
    precision = torch.eye(FEATURES).double() + features.T @ features / SCALE**2
    mean = torch.linalg.solve(precision, features.T @ POINT.flatten() / SCALE**2)
    return MultivariateNormal(mean, precision_matrix=precision)


def exact_evidence():
    features = FEATURE.squeeze(1)
    covariance = features @ features.T + SCALE**2 * torch.eye(len(features)).double()
    return MultivariateNormal(torch.zeros(len(features)).double(), covariance).log_prob(
        POINT.flatten()
    )


def learned_posterior(kind, model):
    guide = kind(model)
    train(model, guide, FEATURE, POINT)
    if kind is AutoLaplaceApproximation:
        return guide.laplace_approximation(FEATURE, POINT).get_posterior()
    if kind is AutoMultivariateNormal:
        return guide.get_posterior()
    scales = guide.scales.linear.slope
    return MultivariateNormal(guide.locs.linear.slope, scale_tril=scales.diag_embed())


@every_guide
def test_svi_finds_the_known_posterior(kind):
    exact = exact_posterior()
    best = 0.0
    if kind is AutoNormal:  # mean field: the right mean, the diagonal of the precision
        scales = exact.precision_matrix.diagonal().rsqrt()
        field = MultivariateNormal(exact.mean, scale_tril=scales.diag_embed())
        best = kl_divergence(field, exact).item()
        assert best > 0.2
    found = kl_divergence(learned_posterior(kind, regression()), exact).item()
    tolerance = 1e-4 if kind is AutoLaplaceApproximation else 0.05  # SVI is noisy to its end
    assert found - best < tolerance


def test_the_elbo_at_the_known_posterior_is_the_evidence():
    model, exact = regression(), exact_posterior()

    def guide(*_):
        pyro.sample("linear.slope", dist.MultivariateNormal(exact.mean, exact.covariance_matrix))

    losses = [Trace_ELBO().loss(model, guide, FEATURE, POINT) for _ in range(3)]
    assert losses == pytest.approx([-exact_evidence().item()] * 3, rel=1e-10)


def assert_moments_agree(mcmc, name, mean, variance):
    """Within five standard errors each: a false alarm in a million moments."""
    draws, effective = mcmc.get_samples()[name], mcmc.diagnostics()[name]["n_eff"]
    assert ((draws.mean(0) - mean).abs() < 5 * (variance / effective).sqrt()).all()
    error = variance * (2 / effective).sqrt()
    assert ((draws.var(0) - variance).abs() < 5 * error).all()


@pytest.mark.slow
def test_nuts_finds_the_known_posterior_and_svi_agrees():
    model, exact = regression(), exact_posterior()
    mcmc = run_nuts(model, FEATURE, POINT, samples=1000, warmup=200)
    assert_moments_agree(mcmc, "linear.slope", exact.mean, exact.variance)
    draws = mcmc.get_samples()["linear.slope"]
    scales = exact.stddev
    error = (draws.T.cov() - exact.covariance_matrix) / torch.outer(scales, scales)
    assert error.abs().max() < 0.3
    pyro.clear_param_store()
    learned = learned_posterior(AutoMultivariateNormal, model)
    drawn = MultivariateNormal(draws.mean(0), draws.T.cov())
    assert kl_divergence(learned, drawn) < 0.06


@pytest.mark.slow
def test_nuts_finds_the_posterior_of_mean_and_scale_by_quadrature():
    """All of the bias latent: the mean, the log scale, and a weight that says nothing."""
    head = MixtureDensityHead(FEATURES, 1, 1, pen=None, dtype=torch.float64)
    torch.nn.init.zeros_(head.linear.weight)
    head.linear.weight.requires_grad_(requires_grad=False)
    to_pyro_module_(head)
    head.linear.bias = PyroSample(dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
    points = 0.5 + 1.5 * normal(6, 1, 1, seed=5)
    mcmc = run_nuts(model_of(head), FEATURE[:6], points, samples=1000, warmup=200)
    axis = torch.linspace(-5, 5, 801).double()
    loc, log_scale = torch.meshgrid(axis, axis, indexing="ij")
    joint = Normal(0.0, 1.0).log_prob(loc) + Normal(0.0, 1.0).log_prob(log_scale)
    joint = joint + Normal(loc, log_scale.exp()).log_prob(points.view(-1, 1, 1)).sum(0)
    mass = (joint - joint.logsumexp((0, 1))).exp()
    values = torch.stack([loc, log_scale])
    mean = (mass * values).sum((1, 2))
    variance = (mass * values.square()).sum((1, 2)) - mean.square()
    mean = torch.cat([torch.zeros(1).double(), mean])
    variance = torch.cat([torch.ones(1).double(), variance])
    assert_moments_agree(mcmc, "linear.bias", mean, variance)


def test_weights_drawn_inside_a_plate_or_side_by_side_are_refused():
    head, (features, points) = every_weight_latent(None), some_data(None)

    def inside():
        with pyro.plate("sequences", len(features)):
            pyro.sample("points", head(features).to_event(1), obs=points)

    with pytest.raises(RuntimeError, match="expects a tensor with <= 2 dimensions"):
        pyro.poutine.trace(inside).get_trace()
    model = model_of(head)
    with pytest.raises(RuntimeError, match="expects a tensor with <= 2 dimensions"):
        Predictive(model, guide=AutoNormal(model), num_samples=3, parallel=True)(features)
