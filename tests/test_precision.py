"""Half precision reaches the density as rounded numbers, and no further."""

import pytest
import torch
from cases import CASES, generator, mixture_parameters, normal
from torch import nn
from torch.distributions import Bernoulli, OneHotCategorical
from torch.testing import assert_close

from mdn_dist import GaussianMixture, MixtureDensityHead, StrokeDistribution

HALVES = [torch.bfloat16, torch.float16]

every_half = pytest.mark.parametrize("half", HALVES, ids=str)
every_size = pytest.mark.parametrize("size", [1, 2, 3, 10])
every_pen = pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])


def points(pen, size, *shape):
    value = normal(*shape, size, seed=4).float()
    if pen is None:
        return value
    name = {"bernoulli": "stroke from outputs", "one_hot": "pen states from outputs"}[pen]
    return torch.cat([value, CASES[name].points(*shape)[..., 2:].float()], -1)


def model(pen, size):
    trunk = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
    return trunk, MixtureDensityHead(32, 3, size, pen)


def build(outputs, pen, size):
    if pen is None:
        return GaussianMixture.from_outputs(outputs, 3, event_size=size)
    return StrokeDistribution.from_outputs(outputs, 3, event_size=size, pen=pen)


@every_half
@every_size
@every_pen
def test_under_autocast_the_density_is_that_of_the_rounded_outputs(pen, size, half):
    trunk, head = model(pen, size)
    features, value = normal(40, 6, seed=5).float(), points(pen, size, 40)
    rounded = []
    head.linear.register_forward_hook(lambda *call: rounded.append(call[-1]))
    with torch.autocast("cpu", half):
        d = head(trunk(features))
        inside = d.log_prob(value)
        masked = d.log_prob(value, mask=value[:, 0] > 0)
    (outputs,) = rounded
    assert outputs.dtype == half
    expected = build(outputs.float(), pen, size)
    score = expected.log_prob(value)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, score)
    assert torch.equal(masked, torch.where(value[:, 0] > 0, score, 0.0))
    assert torch.equal(d.log_prob(value), score)
    assert not torch.equal(head(trunk(features)).log_prob(value), score)  # it did round
    inside.mean().backward()
    for parameter in (*trunk.parameters(), *head.parameters()):
        assert parameter.grad.isfinite().all()
        assert (parameter.grad != 0).any()


def offset(d):
    return d if isinstance(d, GaussianMixture) else d.offset


def moments(d):
    mixture = offset(d)
    whole = d.mean, d.variance, mixture.mean, mixture.covariance_matrix
    value = torch.zeros(mixture.event_shape)
    return *whole, mixture.responsibilities(value), mixture.biased(0.5).log_prob(value)


@every_half
@every_size
@every_pen
def test_moments_are_computed_in_float32_inside_autocast(pen, size, half):
    d = model(pen, size)[1](normal(40, 32, seed=6).float())
    expected = moments(d)
    with torch.autocast("cpu", half):
        found = moments(d)
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == half  # autocast is on
    for ours, wanted in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, wanted)


@every_half
@pytest.mark.parametrize("size", [2, 3, 10])
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot"])
def test_points_are_drawn_in_float32_inside_autocast(pen, size, half):
    check_samples(model(pen, size)[1](normal(40, 32, seed=6).float()), half)


@every_half
@every_size
def test_points_of_a_mixture_are_drawn_in_float32_inside_autocast(size, half):
    check_samples(model(None, size)[1](normal(40, 32, seed=6).float()), half)


def check_samples(d, half):
    expected = d.sample((50,), generator(7))
    with torch.autocast("cpu", half):
        found = d.sample((50,), generator(7))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@every_half
@pytest.mark.parametrize("kind", [Bernoulli, OneHotCategorical, None])
def test_parameters_in_half_precision_are_widened(kind, half):
    small = [t.to(half) for t in mixture_parameters((5,), seed=3)]
    wide = [t.float() for t in small]
    pen = {Bernoulli: "bernoulli", OneHotCategorical: "one_hot", None: None}[kind]
    # torch itself normalises the logits of states as it finds them; these are so already
    logits = normal(5, 3, seed=8).log_softmax(-1) if pen == "one_hot" else normal(5, seed=8)

    def made(tensors, logits):
        mixture = GaussianMixture(*tensors)
        if kind is None:
            return mixture
        return StrokeDistribution(mixture, kind(logits=logits, validate_args=False))

    d, value = made(small, logits.to(half)), points(pen, 2, 5)
    assert d.sample().dtype == d.mean.dtype == d.log_prob(value).dtype == torch.float32
    assert d.log_prob(value.to(half)).dtype == torch.float32
    parameter = logits.to(half)
    if pen == "one_hot":
        parameter = parameter - parameter.logsumexp(-1, keepdim=True)
    expected = made(wide, parameter.float())
    assert_close(d.log_prob(value), expected.log_prob(value), rtol=1e-5, atol=1e-5)


@every_size
@every_pen
def test_float64_stays_float64(pen, size):
    head = MixtureDensityHead(32, 3, size, pen, dtype=torch.float64)
    d, value = head(normal(40, 32, seed=6)), points(pen, size, 40).double()
    score = d.log_prob(value)
    everything = (score, d.mean, d.variance, d.sample(), d.biased(0.5).log_prob(value))
    assert {x.dtype for x in everything} == {torch.float64}
    single = d.to(torch.float32).log_prob(value.float())
    assert (single.double() - score).abs().max() > 1e-9  # so it was not float32 all along
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(d.log_prob(value), score)
        assert d.mean.dtype == offset(d).covariance_matrix.dtype == torch.float64
