"""Draws of every component, and bounds of the evidence by them, where modes are apart."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import generator, mixture_parameters, normal, output_case, stock_mixture
from pyro.infer import SVI
from torch.distributions import Distribution, MultivariateNormal, constraints
from torch.func import grad, vmap
from torch.testing import assert_close

from mdn_dist import GaussianMixture

BATCHES = [(), (4,), (2, 3), (2, 1, 3)]
SIZES = pytest.mark.parametrize("size", [1, 2, 6])
EVIDENCE = -2.5


@pytest.fixture(autouse=True)
def fresh_pyro():
    yield
    pyro.clear_param_store()


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


# Draws


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("batch", BATCHES)
@SIZES
def test_a_draw_has_a_point_of_each_component(size, batch, sample_shape):
    leaves = [p.requires_grad_() for p in mixture_parameters(batch, size)]
    d = GaussianMixture(*leaves)
    points = d.rsample_components(sample_shape, generator(1))
    assert points.shape == (*sample_shape, *batch, 3, size)
    assert torch.equal(points, d.rsample_components(sample_shape, generator(1)))
    _, by_loc, by_factor = torch.autograd.grad(points.sum(), leaves, allow_unused=True)
    count = math.prod(sample_shape)
    assert_close(by_loc, torch.full_like(by_loc, count))
    noise = torch.linalg.solve_triangular(
        leaves[2].detach(), (points - leaves[1]).detach().unsqueeze(-1), upper=False
    )
    summed = noise.squeeze(-1).reshape(count, *batch, 3, size).sum(0)
    assert_close(by_factor, summed.unsqueeze(-2).expand_as(by_factor), rtol=1e-7, atol=1e-9)


# 9 means and 27 covariances within 4.5 standard errors: a false alarm at a rate of 2e-4 over seeds.
def test_the_points_have_the_moments_of_their_components():
    _, loc, scale_tril = mixture_parameters((), 3)
    points = GaussianMixture(torch.zeros(3), loc, scale_tril).rsample_components(
        (20_000,), generator(2)
    )
    apart = points - loc
    assert (apart.mean(0).abs() < 4.5 * apart.std(0) / len(points) ** 0.5).all()
    products = apart.unsqueeze(-1) * apart.unsqueeze(-2)
    error = products.std(0) / len(points) ** 0.5
    assert ((products.mean(0) - scale_tril @ scale_tril.mT).abs() < 4.5 * error).all()


# Gradients of an average, where pathwise ones by the logits have heavy tails


def apart():
    """Three components in six coordinates, scales 0.3 to 1.3, means some five apart."""
    scale = 0.3 + torch.rand(3, 6, dtype=torch.float64, generator=generator(3))
    lower = normal(3, 6, 6, seed=4, scale=0.1).tril(-1)
    return normal(3, seed=5), normal(3, 6, seed=6, scale=2.0), lower + scale.diag_embed()


MATRIX = normal(6, 6, seed=7)


def quadratic(x):
    return ((x @ MATRIX) * x).sum(-1)


def exact_gradients(leaves):
    logits, loc, scale_tril = leaves
    second = scale_tril @ scale_tril.mT + loc.unsqueeze(-1) * loc.unsqueeze(-2)
    average = (logits.softmax(-1) * (MATRIX * second).sum((-2, -1))).sum(-1)
    return torch.autograd.grad(average, leaves)


def stratified(d):
    return (d.logits.softmax(-1) * quadratic(d.rsample_components(generator=generator(8)))).sum(-1)


def pathwise(d):
    return quadratic(d.rsample(generator=generator(9)))


def gradients(estimate, count=20_000):
    """Gradients by every parameter, of each of as many estimates ``(count, ...)``."""
    leaves = [p.expand(count, *p.shape).clone().requires_grad_() for p in apart()]
    return torch.autograd.grad(estimate(GaussianMixture(*leaves)).sum(), leaves)


# 84 derivatives within 4.5 standard errors, two-sided: a false alarm at 6e-4 over seeds.
def test_stratified_gradients_are_exact_on_average():
    exact = exact_gradients([p.requires_grad_() for p in apart()])
    lower = torch.ones(3, 6, 6).tril().bool()
    pairs = zip(gradients(stratified), exact, (slice(None), slice(None), lower), strict=True)
    for found, wanted, counted in pairs:
        error = found.std(0) / len(found) ** 0.5
        assert ((found.mean(0) - wanted).abs() < 4.5 * error)[counted].all()


def test_only_pathwise_gradients_by_the_logits_have_heavy_tails():
    """The share of the sum of squares that the largest of 20,000 has, and the kurtosis."""
    shares, kurtosis = [], []
    for estimate in (stratified, pathwise):
        found = gradients(estimate)[0]
        apart = (found - found.mean(0)).square()
        shares.append((apart.amax(0) / apart.sum(0)).max())
        kurtosis.append((apart.square().mean(0) / apart.mean(0).square()).max())
    assert shares[0] < 0.01
    assert shares[1] > 0.1
    assert kurtosis[0] < 20
    assert kurtosis[1] > 500


def test_pathwise_gradients_miss_the_weights_of_distant_modes_and_stratified_ones_do_not():
    loc = double(-30.0, 30.0).view(2, 1).expand(500, 2, 1)
    leaves = [torch.zeros(500, 2).double(), loc.clone(), torch.ones(500, 2, 1, 1).double()]
    d = GaussianMixture(*[p.requires_grad_() for p in leaves])
    right = d.logits.softmax(-1) * (d.rsample_components() + 30).squeeze(-1)
    by_strata = torch.autograd.grad(right.sum(), leaves[0])[0]
    by_paths = torch.autograd.grad((d.rsample() + 30).sum(), leaves[0])[0]
    # a quarter of sixty; each a difference of two normal numbers over four
    assert (by_strata - double(-15.0, 15.0)).abs().max() < 2
    assert by_paths.median(0).values.abs().max() < 1
    assert by_paths.mean(0).abs().max() < 5


# Bounds of the evidence


def target(size, batch=()):
    logits, loc, scale_tril = mixture_parameters(batch, size, 2, seed=40)
    posterior = stock_mixture(logits, loc, scale_tril)
    return lambda x: posterior.log_prob(x) + EVIDENCE


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
@SIZES
def test_the_exact_posterior_gives_the_evidence_at_every_draw(size, batch, weighted):
    d = GaussianMixture(*mixture_parameters(batch, size, 2, seed=40))
    found = d.elbo(target(size, batch), 3, importance_weighted=weighted)
    assert found.shape == batch
    assert_close(found, torch.full(batch, EVIDENCE).double())


def guide(size=1, components=2):
    return mixture_parameters((), size, components, seed=50)


def quadrature(logits, loc, scale_tril):
    """The bound, differentiable, by a sum over a line."""
    axis = torch.linspace(-15, 15, 20_001, dtype=torch.float64).unsqueeze(-1)
    log_q = stock_mixture(logits, loc, scale_tril).log_prob(axis)
    return (log_q.exp() * (target(1)(axis) - log_q)).sum() * 30 / 20_000


# 9 statistics within 4.5 standard errors, two-sided: a false alarm at a rate of 6e-5 over seeds.
def test_the_stratified_bound_and_its_gradient_are_quadratures():
    leaves = [p.requires_grad_() for p in guide()]
    exact = quadrature(*leaves)
    wanted = torch.autograd.grad(exact, leaves)
    many = [p.detach().expand(20_000, *p.shape).clone().requires_grad_() for p in leaves]
    found = GaussianMixture(*many).elbo(target(1), generator=generator(10))
    assert exact < EVIDENCE
    assert (found.mean() - exact).abs() < 4.5 * found.std() / len(found) ** 0.5
    for each, expected in zip(torch.autograd.grad(found.sum(), many), wanted, strict=True):
        error = each.std(0) / len(each) ** 0.5
        assert ((each.mean(0) - expected).abs() < 4.5 * error).all()


def weighted_by_quadrature(logits, loc, scale_tril):
    """The weighted bound from one point of each of two components, by Gauss and Hermite."""
    node, weight = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(200))
    points = loc + scale_tril.squeeze(-1) * node  # (2, 200)
    q = stock_mixture(logits, loc, scale_tril)
    log_ratio = target(1)(points.unsqueeze(-1)) - q.log_prob(points.unsqueeze(-1))
    first, second = (logits.log_softmax(-1).unsqueeze(-1) + log_ratio).unbind()
    both = torch.logaddexp(first.unsqueeze(1), second.unsqueeze(0))
    return (weight.unsqueeze(1) * weight * both).sum() / weight.sum() ** 2


# 4.5 standard errors, two-sided: 7e-6 over seeds.
def test_the_weighted_bound_is_quadratures():
    many = [p.expand(50_000, *p.shape) for p in guide()]
    found = GaussianMixture(*many).elbo(
        target(1), importance_weighted=True, generator=generator(11)
    )
    exact = weighted_by_quadrature(*guide())
    assert quadrature(*guide()) < exact < EVIDENCE
    assert (found.mean() - exact).abs() < 4.5 * found.std() / len(found) ** 0.5


def test_the_weighted_bound_tightens_with_the_number_of_points():
    many = [p.expand(20_000, *p.shape) for p in guide()]
    bounds = [
        GaussianMixture(*many)
        .elbo(target(1), n, importance_weighted=True, generator=generator(12))
        .mean()
        for n in (1, 4, 16)
    ]
    assert bounds[0] < bounds[1] < bounds[2] < EVIDENCE + 0.01


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_kind_of_mixture_transform_and_precision(size, weighted):
    outputs = output_case(None, size=size).tensors((4,))[0].requires_grad_()

    def loss(outputs, **options):
        d = GaussianMixture.from_outputs(outputs, 3, event_size=size)
        return d.elbo(target(size), 2, importance_weighted=weighted, **options)

    found = loss(outputs, generator=generator(13))
    (gradient,) = torch.autograd.grad(found.sum(), outputs)
    assert gradient.isfinite().all()
    assert found.shape == (4,)
    d = GaussianMixture.from_outputs(outputs.detach(), 3, event_size=size)
    same = GaussianMixture(d.logits, d.loc, d.scale_tril).elbo(
        target(size), 2, importance_weighted=weighted, generator=generator(13)
    )
    assert_close(found.detach(), same)
    mapped = vmap(grad(loss), randomness="different")(outputs.detach())
    assert mapped.shape == outputs.shape
    assert mapped.isfinite().all()
    single = d.to(torch.float32).elbo(lambda x: -x.square().sum(-1), importance_weighted=weighted)
    assert single.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiler_makes_one_graph(monkeypatch):
    # torch's first compilation turns the validation of distributions off
    monkeypatch.setattr(Distribution, "_validate_args", Distribution._validate_args)
    torch._dynamo.reset()
    outputs = output_case(None).tensors((4,))[0]

    def found(outputs):
        d = GaussianMixture.from_outputs(outputs, 3)
        return (
            d.elbo(lambda x: -x.square().sum(-1), 2),
            d.rsample_components((3,)),
            *d.entropy_estimate(5),
        )

    results = []
    for function in (torch.compile(found, backend="aot_eager", fullgraph=True), found):
        torch.manual_seed(15)
        results.append(function(outputs))
    assert_close(*results)
    torch._dynamo.reset()


@pytest.mark.parametrize("weighted", [False, True])
def test_a_component_without_weight_counts_for_nothing(weighted):
    logits, loc, scale_tril = guide(components=3)
    logits[1], scale_tril[1] = -math.inf, 1e-12
    leaves = [p.requires_grad_() for p in (logits, loc, scale_tril)]

    def support(x):  # where the dead component has no density at all
        far = (x.squeeze(-1) - loc[1].detach()).abs() < 1e-9
        return torch.where(far, -math.inf, target(1)(x))

    found = GaussianMixture(*leaves).elbo(
        support, 5, importance_weighted=weighted, generator=generator(14)
    )
    gradients = torch.autograd.grad(found, leaves)
    assert found.isfinite()
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[0][1], gradients[1][1].item()) == (0, 0)


def test_the_weighted_bound_takes_no_notice_of_the_weights_of_distant_modes():
    """They cancel: from each component comes what its own density divides."""
    _, loc, scale_tril = mixture_parameters((), 2, 2)
    loc = loc + double(-50.0, 50.0).view(2, 1)
    joint = stock_mixture(double(0.0, 1.0), loc, scale_tril).log_prob
    by_weight = []
    for weighted in (False, True):
        logits = double(2.0, 0.0).requires_grad_()
        d = GaussianMixture(logits, loc, scale_tril)
        found = d.elbo(joint, 4, importance_weighted=weighted)
        by_weight.append(torch.autograd.grad(found, logits)[0].abs().max())
    assert by_weight[0] > 0.1
    assert by_weight[1] < 1e-12


def test_what_a_log_joint_must_be():
    d = GaussianMixture(*mixture_parameters((4,)))
    with pytest.raises(ValueError, match=r"log_joint must return shape \(3, 2, 4\), got \(\)"):
        d.elbo(lambda x: x.sum(), 2)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        d.elbo(lambda x: x.sum(-1), 0)
    with pytest.raises(TypeError, match="samples must be an integer"):
        d.elbo(lambda x: x.sum(-1), 1.5)


# In Pyro, whose SVI takes any function as its loss


MODES = double(-8.0, 8.0)
WEIGHTS = double(0.8, 0.2)
NOISE = 0.6


def model():
    """A prior of two distant modes and one measurement: the posterior is a mixture again."""
    prior = dist.MixtureSameFamily(
        dist.Categorical(WEIGHTS), dist.Normal(MODES.unsqueeze(-1), double(1.0)).to_event(1)
    )
    z = pyro.sample("z", prior)
    pyro.sample("measured", dist.Normal(z.squeeze(-1).abs(), NOISE), obs=double(7.5).squeeze())


def posterior():
    variance = NOISE**2 / (1 + NOISE**2)
    loc = MODES - MODES.sign() * 0.5 / (1 + NOISE**2)
    evidence = MultivariateNormal(double(8.0), double(1 + NOISE**2).view(1, 1)).log_prob(
        double(7.5)
    )
    return evidence, WEIGHTS, loc, math.sqrt(variance)


def log_joint(z):
    trace = pyro.poutine.trace(pyro.condition(model, {"z": z})).get_trace()
    trace.compute_log_prob()
    return sum(site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample")


def test_svi_finds_the_weights_of_distant_modes():
    pyro.set_rng_seed(0)

    def mixture_guide():
        start = double(-6.0, 9.0).view(2, 1)
        factors = torch.ones(2, 1, 1).double()
        logits = pyro.param("logits", torch.zeros(2).double())
        factors = pyro.param("scale_tril", factors, constraints.lower_cholesky)
        pyro.sample("z", GaussianMixture(logits, pyro.param("loc", start), factors))

    def loss(_, guide):
        q = pyro.poutine.trace(guide).get_trace().nodes["z"]["fn"]
        return -q.elbo(log_joint, 8)

    optimizer = pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.02 ** (1 / 300)})
    svi = SVI(model, mixture_guide, optimizer, loss)
    losses = [float(svi.step()) for _ in range(300)]
    evidence, weight, loc, scale = posterior()
    assert -sum(losses[-20:]) / 20 == pytest.approx(evidence.item(), abs=0.02)
    assert_close(pyro.param("logits").softmax(-1), weight, rtol=0, atol=0.01)
    assert_close(pyro.param("loc").squeeze(-1), loc, rtol=0, atol=0.05)
    found = pyro.param("scale_tril").flatten()
    assert_close(found, torch.full_like(found, scale), rtol=0.1, atol=0)
