"""The same mixture with its component as a latent variable, summed out or inferred by Pyro."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import CASES, K
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate, infer_discrete
from pyro.ops.indexing import Vindex
from pyro.optim import SGD
from scipy import stats
from torch.testing import assert_close

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
N = 6
NAMES = ["mixture of 1", "mixture of 2", "mixture of 3", "mixture from outputs"]
NAMES += ["stroke from parameters", "pen states from outputs", "stroke of 3 from outputs"]


@pytest.fixture(autouse=True)
def fresh_pyro():
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()


@pytest.fixture(params=NAMES)
def case(request):
    return CASES[request.param]


def mixture_of(d):
    return getattr(d, "offset", d)


@config_enumerate
def model(d, points):
    """Draw a component for each point, then the offset from it; the pen beside."""
    mixture, size = mixture_of(d), mixture_of(d).event_shape[0]
    with pyro.plate("points", len(points)):
        k = pyro.sample("component", mixture.mixture_distribution)
        loc, scale_tril = Vindex(mixture.loc)[..., k, :], Vindex(mixture.scale_tril)[..., k, :, :]
        offset = dist.MultivariateNormal(loc, scale_tril=scale_tril)
        pyro.sample("offset", offset, obs=points[:, :size])
        if mixture is not d:
            pen = points[:, size:] if d.pen.event_shape else points[:, size]
            pyro.sample("pen", d.pen, obs=pen)


def guide(*_):
    """There is nothing to guess: the component is summed out."""


@pytest.fixture(params=[(), (N,)], ids=["one mixture", "a mixture for each point"])
def batch(request):
    return request.param


def test_summed_out_it_scores_like_log_prob_and_has_its_gradient(case, batch):
    tensors = [t.requires_grad_() for t in case.tensors(batch)]
    points = case.points(N)
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(
        model, guide, case.build(*tensors), points
    )
    ours = -case.build(*tensors).log_prob(points).sum()
    assert_close(loss, ours, **CLOSE)
    gradients = [torch.autograd.grad(score, tensors) for score in (ours, loss)]
    for gradient, expected, n in zip(*gradients, case.event_dims, strict=True):
        # torch's normal solves with the lower triangle, but lets a gradient into the upper one
        assert_close(gradient, expected.tril() if n == 3 else expected, **CLOSE)


def test_its_posterior_is_the_responsibilities(case, batch):
    d, points = case.make(batch), case.points(N)
    found = TraceEnum_ELBO(max_plate_nesting=1).compute_marginals(model, guide, d, points)
    mixture = mixture_of(d)
    expected = mixture.responsibilities(points[:, : case.size])
    assert_close(found["component"].probs.expand(N, K), expected, **CLOSE)


def inferred(d, points, temperature):
    """Components drawn from the posterior, or at temperature 0 the most probable ones."""
    infer = infer_discrete(model, first_available_dim=-2, temperature=temperature)
    return poutine.trace(infer).get_trace(d, points).nodes["component"]["value"]


def test_the_most_probable_assignment_has_the_greatest_responsibility(case, batch):
    d, points = case.make(batch), case.points(N)
    expected = mixture_of(d).responsibilities(points[:, : case.size]).argmax(-1)
    assert torch.equal(inferred(d, points, temperature=0), expected)


# Seven cases of one test each at p > 1e-5: a false alarm in 14,000 choices of the seed.
def test_drawn_assignments_follow_the_responsibilities(case):
    d, point = case.make(), case.points()
    drawn = inferred(d, point.expand(5000, -1), temperature=1)
    expected = 5000 * mixture_of(d).responsibilities(point[: case.size])
    observed = drawn.bincount(minlength=K)
    assert stats.chisquare(observed.numpy(), expected.numpy()).pvalue > 1e-5


def test_svi_takes_the_same_step_as_the_mixtures_own_score():
    case = CASES["mixture of 2"]
    points = case.points(N)
    start = case.tensors(())[1]

    def latent(points):
        logits, _, scale_tril = case.tensors(())
        model(case.build(logits, pyro.param("loc", start.clone()), scale_tril), points)

    def summed(points):
        logits, _, scale_tril = case.tensors(())
        d = case.build(logits, pyro.param("loc", start.clone()), scale_tril)
        with pyro.plate("points", N):
            pyro.sample("x", d, obs=points)

    found = []
    for way in (latent, summed):
        pyro.clear_param_store()
        elbo = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
        svi = SVI(way, guide, SGD({"lr": 0.01}), elbo)
        losses = [svi.step(points) for _ in range(3)]
        found.append((torch.tensor(losses), pyro.param("loc").detach().clone()))
    assert_close(*found, **CLOSE)
    assert not torch.equal(found[0][1], start)
