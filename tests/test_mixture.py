import math

import numpy as np
import pyro.distributions as pyro_distributions
import pytest
import torch
from cases import cells, chi_square, generator, mixture_parameters, normal, stock_mixture
from pyro.distributions.torch_distribution import TorchDistributionMixin
from scipy import special, stats
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, constraints
from torch.testing import assert_close

from mdn_dist import GaussianMixture

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
CHANGES = {
    "plain": lambda d: d,
    "biased": lambda d: d.biased(0.7),
    "tempered": lambda d: d.tempered(0.6),
}


def standard(size=2, components=1):
    eye = torch.eye(size, dtype=torch.float64).expand(components, size, size)
    return eye.new_zeros(components), eye.new_zeros(components, size), eye


def assert_scores_and_gradients_match_stock(parameters, value):
    parameters = [p.clone().requires_grad_() for p in parameters]
    value = value.clone().requires_grad_()
    ours = GaussianMixture(*parameters).log_prob(value)
    expected = stock_mixture(*parameters).log_prob(value)
    assert ours.shape == expected.shape
    assert_close(ours, expected, **CLOSE)
    weights = normal(*expected.shape, seed=77)
    inputs = [*parameters, value]
    gradients = torch.autograd.grad((weights * ours).sum(), inputs)
    expected_gradients = list(torch.autograd.grad((weights * expected).sum(), inputs))
    expected_gradients[2] = expected_gradients[2].tril()  # stock solves with the lower triangle
    assert_close(list(gradients), expected_gradients, **CLOSE)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_log_prob_and_every_gradient_are_stocks(size, batch):
    parameters = mixture_parameters(batch, size)
    for shape in (batch, (5, *batch), (2, 1, *batch)):
        value = normal(*shape, size, seed=50, scale=1.5)
        assert_scores_and_gradients_match_stock(parameters, value)


@pytest.mark.parametrize("size", [9, 12])
def test_many_coordinates_score_like_stock(size):
    value = normal(4, size, seed=59)
    assert_scores_and_gradients_match_stock(mixture_parameters((4,), size), value)


def test_many_rows_score_like_stock():
    value = normal(9000, 2, seed=60)
    assert_scores_and_gradients_match_stock(mixture_parameters((9000,)), value)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_log_prob_has_first_and_second_derivatives(size):
    inputs = [p.requires_grad_() for p in mixture_parameters((), size, components=2)]
    inputs.append(normal(size, seed=61).requires_grad_())

    def score(logits, loc, scale_tril, value):
        return GaussianMixture(logits, loc, scale_tril.tril(), validate_args=False).log_prob(value)

    assert torch.autograd.gradcheck(score, inputs)
    assert torch.autograd.gradgradcheck(score, inputs)


def test_scoring_changes_none_of_its_arguments():
    for batch in ((), (1,), (4,)):
        arguments = [*mixture_parameters(batch, components=1), normal(*batch, 2, seed=62)]
        before = [a.clone() for a in arguments]
        d = GaussianMixture(*arguments[:3])
        d.log_prob(arguments[3])
        d.responsibilities(arguments[3])
        assert all(torch.equal(*pair) for pair in zip(arguments, before, strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_batch_dimensions_of_the_parameters_and_the_value_broadcast(size):
    logits, _, _ = mixture_parameters((), size)
    _, loc, _ = mixture_parameters((4, 3), size)
    _, _, scale_tril = mixture_parameters((4, 1), size)
    d = GaussianMixture(logits, loc, scale_tril)
    assert d.batch_shape == (4, 3)
    assert d.event_shape == (size,)
    for shape in ((), (3,), (4, 1), (2, 1, 1)):
        full = (*torch.broadcast_shapes(shape, (4, 3)), size)
        value = normal(*shape, size, seed=51)
        expanded = [logits.expand(4, 3, 3), loc, scale_tril.expand(4, 3, 3, size, size)]
        expected = stock_mixture(*expanded).log_prob(value.expand(full))
        assert_close(d.log_prob(value), expected, **CLOSE)


def test_gradients_reach_broadcast_parameters():
    logits, loc, scale_tril = mixture_parameters((4,))
    inputs = [logits[0].clone(), loc.clone(), scale_tril[:1].clone()]
    inputs = [p.requires_grad_() for p in inputs]
    value = normal(4, 2, seed=52)
    ours = GaussianMixture(*inputs).log_prob(value).sum()
    full = (inputs[0].expand(4, 3), inputs[1], inputs[2].expand(4, 3, 2, 2))
    expected = stock_mixture(*full).log_prob(value).sum()
    gradients = torch.autograd.grad(ours, inputs)
    expected_gradients = list(torch.autograd.grad(expected, inputs))
    expected_gradients[2] = expected_gradients[2].tril()
    assert_close(list(gradients), expected_gradients, **CLOSE)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_log_prob_is_scipys(size):
    logits, loc, scale_tril = mixture_parameters((), size)
    values = normal(20, size, seed=53, scale=2)
    covariance = (scale_tril @ scale_tril.mT).numpy()
    shares = [
        np.log(weight) + stats.multivariate_normal(loc[k].numpy(), covariance[k]).logpdf(values)
        for k, weight in enumerate(special.softmax(logits.numpy()))
    ]
    expected = torch.from_numpy(special.logsumexp(shares, axis=0))
    assert_close(GaussianMixture(logits, loc, scale_tril).log_prob(values), expected, **CLOSE)


def test_a_component_of_weight_zero_changes_nothing():
    logits, loc, scale_tril = mixture_parameters((5,))
    value = normal(5, 2, seed=54)
    shut = torch.full((5, 1), -torch.inf, dtype=torch.float64)
    with_shut = [
        torch.cat([logits, shut], -1),
        torch.cat([loc, loc[:, :1] + 1], -2),
        torch.cat([scale_tril, scale_tril[:, :1]], -3),
    ]
    with_shut = [p.requires_grad_() for p in with_shut]
    score = GaussianMixture(*with_shut).log_prob(value)
    assert_close(score, GaussianMixture(logits, loc, scale_tril).log_prob(value), **CLOSE)
    gradients = torch.autograd.grad(score.sum(), with_shut)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[1][:, -1] == 0).all()


def test_it_is_torchs_and_pyros_mixture():
    d = GaussianMixture(*mixture_parameters((4,)))
    assert isinstance(d, MixtureSameFamily)
    assert isinstance(d, pyro_distributions.MixtureSameFamily)
    assert isinstance(d, TorchDistributionMixin)
    assert type(d.mixture_distribution).__mro__[1] is Categorical
    assert type(d.component_distribution).__mro__[1] is MultivariateNormal


def test_its_parts_make_a_stock_mixture_that_scores_the_same():
    d = GaussianMixture(*mixture_parameters((2, 3)))
    assert d.mixture_distribution.batch_shape == (2, 3)
    assert d.component_distribution.batch_shape == (2, 3, 3)
    stock = MixtureSameFamily(d.mixture_distribution, d.component_distribution)
    value = normal(2, 3, 2, seed=55)
    assert_close(stock.log_prob(value), d.log_prob(value), **CLOSE)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_mean_variance_and_covariance(size):
    logits, loc, scale_tril = mixture_parameters((2, 3), size)
    d = GaussianMixture(logits, loc, scale_tril)
    stock = stock_mixture(logits, loc, scale_tril)
    assert_close(d.mean, stock.mean, **CLOSE)
    assert_close(d.variance, stock.variance, **CLOSE)
    assert_close(d.stddev, stock.variance.sqrt(), **CLOSE)
    assert d.covariance_matrix.shape == (2, 3, size, size)
    for i, j in np.ndindex(2, 3):
        weights = special.softmax(logits[i, j].numpy())
        centres, factors = loc[i, j].numpy(), scale_tril[i, j].numpy()
        second = sum(
            w * (f @ f.T + np.outer(c, c))
            for w, c, f in zip(weights, centres, factors, strict=True)
        )
        mean = weights @ centres
        expected = torch.from_numpy(second - np.outer(mean, mean))
        assert_close(d.covariance_matrix[i, j], expected, **CLOSE)


def test_responsibilities_are_bayes_rule():
    logits, loc, scale_tril = mixture_parameters((4,), 3)
    value = normal(5, 4, 3, seed=56)
    joint = torch.stack(
        [
            logits.softmax(-1)[:, k]
            * MultivariateNormal(loc[:, k], scale_tril=scale_tril[:, k]).log_prob(value).exp()
            for k in range(3)
        ],
        -1,
    )
    responsibilities = GaussianMixture(logits, loc, scale_tril).responsibilities(value)
    assert_close(responsibilities, joint / joint.sum(-1, keepdim=True), **CLOSE)


def test_responsibilities_far_away_still_add_up_to_one():
    d = GaussianMixture(*mixture_parameters(()))
    far = torch.tensor([[1e6, 0.0], [-1e6, 1e6]], dtype=torch.float64)
    assert_close(d.responsibilities(far).sum(-1), torch.ones(2, dtype=torch.float64), **CLOSE)


def test_repr_says_what_it_is():
    d = GaussianMixture(*mixture_parameters((4, 7), 3))
    assert repr(d) == (
        "GaussianMixture(batch_shape=(4, 7), components=3, event_size=3, dtype=float64)"
    )


def test_support_and_sampling_flags():
    d = GaussianMixture(*mixture_parameters((4,)))
    assert d.support is constraints.real_vector
    assert d.support.event_dim == 1
    assert not d.support.is_discrete
    assert d.support.check(d.sample()).all()
    assert d.has_rsample


def change_by_hand(logits, scale_tril, bias=0.0, temperature=1.0):
    return (
        logits * (1 + bias) / temperature,
        scale_tril * math.exp(-bias) * math.sqrt(temperature),
    )


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    ("change", "knobs"),
    [
        (lambda d: d.biased(0.7), {"bias": 0.7}),
        (lambda d: d.tempered(0.6), {"temperature": 0.6}),
        (lambda d: d.tempered(1.7), {"temperature": 1.7}),
        (lambda d: d.biased(0.7).tempered(0.6), {"bias": 0.7, "temperature": 0.6}),
        (lambda d: d.tempered(0.6).biased(0.7), {"bias": 0.7, "temperature": 0.6}),
        (lambda d: d.tempered(0.5).tempered(0.6), {"temperature": 0.3}),
    ],
)
def test_bias_and_temperature_are_the_papers(change, knobs, size):
    logits, loc, scale_tril = mixture_parameters((4,), size)
    changed = change(GaussianMixture(logits, loc, scale_tril))
    assert type(changed) is GaussianMixture
    new_logits, new_scale_tril = change_by_hand(logits, scale_tril, **knobs)
    value = normal(4, size, seed=57)
    expected = stock_mixture(new_logits, loc, new_scale_tril).log_prob(value)
    assert_close(changed.log_prob(value), expected, **CLOSE)


def test_biases_compose():
    # (61), (62) twice: scales shrink by exp(-b) each time, logits grow by 1 + b each time
    logits, loc, scale_tril = mixture_parameters((4,))
    twice = GaussianMixture(logits, loc, scale_tril).biased(0.3).biased(0.5)
    assert_close(twice.scale_tril, scale_tril * math.exp(-0.8), **CLOSE)
    assert_close(twice.logits.softmax(-1), (logits * 1.3 * 1.5).softmax(-1), **CLOSE)


def test_bias_zero_and_temperature_one_change_nothing():
    d = GaussianMixture(*mixture_parameters((4,)))
    value = normal(4, 2, seed=58)
    for same in (d.biased(0.0), d.tempered(1.0)):
        assert torch.equal(same.log_prob(value), d.log_prob(value))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("size", [1, 2])
def test_density_integrates_to_one(size, change, scale):
    d = change(GaussianMixture(*mixture_parameters((), size, scale=scale)))
    step = 0.14 if size == 2 else 0.005
    axis = scale * torch.arange(-9, 9, step, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * size).view(-1, size)
    integral = d.log_prob(grid).exp().sum() * (step * scale) ** size
    assert integral.item() == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("size", [1, 2])
def test_samples_fit_the_density(size, change):
    d = change(GaussianMixture(*mixture_parameters((), size)))
    # false-alarm rate 1e-3 each over seeds
    assert chi_square(d, d.sample((20_000,), generator(1)), size).pvalue > 1e-3


def test_the_goodness_of_fit_notices_a_small_bias():
    d = GaussianMixture(*mixture_parameters(()))
    assert chi_square(d, d.biased(0.1).sample((20_000,), generator(1)), 2).pvalue < 1e-9
    assert cells(d, 2).sum().item() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_samples_in_three_coordinates_pass_through_scipys_rosenblatt_transform(change):
    d = change(GaussianMixture(*mixture_parameters((), 3)))
    points = d.sample((8000,), generator(2)).numpy()
    uniform = rosenblatt(d, points)
    cell = np.floor(uniform * 4).clip(0, 3).astype(int) @ [16, 4, 1]
    # false-alarm rate 1e-3 each over seeds
    assert stats.chisquare(np.bincount(cell, minlength=64)).pvalue > 1e-3


def rosenblatt(d, points):
    """P(X_i < x_i | x_1 .. x_{i-1}) by conditioning each component's covariance."""
    logits, loc = d.logits.numpy(), d.loc.numpy()
    covariance = (d.scale_tril @ d.scale_tril.mT).numpy()
    uniform = np.empty_like(points)
    log_weights = np.tile(special.log_softmax(logits), (len(points), 1))  # (N, K)
    for i in range(points.shape[1]):
        weights = special.softmax(log_weights, axis=1)
        conditional = np.empty_like(weights)
        for k in range(len(logits)):
            known, cross = covariance[k, :i, :i], covariance[k, i, :i]
            slope = np.linalg.solve(known, cross) if i else np.zeros(0)
            mean = loc[k, i] + (points[:, :i] - loc[k, :i]) @ slope
            deviation = math.sqrt(covariance[k, i, i] - cross @ slope)
            conditional[:, k] = stats.norm.cdf(points[:, i], mean, deviation)
            log_weights[:, k] += stats.norm.logpdf(points[:, i], mean, deviation)
        uniform[:, i] = (weights * conditional).sum(1)
    return uniform


def test_each_batch_element_is_sampled_from_its_own_mixture():
    # weights, means and scales far apart: a mix-up of batch elements cannot pass
    logits = torch.tensor([[0.0, -40.0], [-40.0, 0.0]], dtype=torch.float64)
    loc = torch.tensor([[[0.0], [100.0]], [[200.0], [300.0]]], dtype=torch.float64)
    scale_tril = torch.tensor([0.1, 1.0, 0.5, 2.0], dtype=torch.float64).view(2, 2, 1, 1)
    points = GaussianMixture(logits, loc, scale_tril).sample((4000,), generator(3)).squeeze(-1)
    # five standard errors of a mean and of a deviation: false-alarm rate 2e-6 over seeds
    assert_close(points.mean(0), torch.tensor([0.0, 300.0]).double(), rtol=0, atol=5 * 2 / 63)
    relative = points.std(0) / torch.tensor([0.1, 2.0]).double()
    assert_close(relative, torch.ones_like(relative), rtol=0, atol=5 / 89)


def test_samples_carry_no_gradient():
    parameters = [p.requires_grad_() for p in mixture_parameters((4,))]
    assert not GaussianMixture(*parameters).sample().requires_grad


def bad(**changes):
    logits, loc, scale_tril = standard(components=2)
    arguments = {"logits": logits, "loc": loc, "scale_tril": scale_tril, **changes}
    return lambda: GaussianMixture(**arguments, validate_args=True)


def changed(tensor, index, number):
    tensor = tensor.clone()
    tensor[index] = number
    return tensor


EYE = standard(components=2)[2]
ERRORS = {
    "integer logits": (
        bad(logits=torch.zeros(2, dtype=torch.int64)),
        TypeError,
        "logits must be a floating-point tensor, got torch.int64",
    ),
    "loc is a list": (
        bad(loc=[[0.0, 0.0]]),
        TypeError,
        "loc must be a floating-point tensor, got list",
    ),
    "logits without components": (
        bad(logits=torch.tensor(0.0)),
        ValueError,
        r"logits must have at least 1 dimensions, got shape \(\)",
    ),
    "loc without components": (
        bad(loc=torch.zeros(2)),
        ValueError,
        r"loc must have at least 2 dimensions, got shape \(2,\)",
    ),
    "scale_tril without components": (
        bad(scale_tril=torch.eye(2)),
        ValueError,
        r"scale_tril must have at least 3 dimensions, got shape \(2, 2\)",
    ),
    "scale_tril of another size": (
        bad(scale_tril=torch.eye(3).expand(2, 3, 3)),
        ValueError,
        r"scale_tril must end in \(2, 2\), as loc ends in 2; got .*scale_tril \(2, 3, 3\)",
    ),
    "components that do not broadcast": (
        bad(loc=torch.zeros(3, 2)),
        ValueError,
        r"batch and component dimensions must broadcast; got logits \(2,\), loc \(3, 2\)",
    ),
    "logits of one component for two": (
        bad(logits=torch.zeros(1)),
        ValueError,
        "logits must end in the number of components 2; got",
    ),
    "no components": (
        bad(logits=torch.zeros(0), loc=torch.zeros(0, 2), scale_tril=torch.zeros(0, 2, 2)),
        ValueError,
        "there must be at least one component and one coordinate; got logits",
    ),
    "no coordinates": (
        bad(loc=torch.zeros(2, 0), scale_tril=torch.zeros(2, 0, 0)),
        ValueError,
        "there must be at least one component and one coordinate; got logits",
    ),
    "NaN logit": (
        bad(logits=torch.tensor([0.0, math.nan])),
        ValueError,
        "logits must be finite, got",
    ),
    "infinite logit": (
        bad(logits=torch.tensor([0.0, math.inf])),
        ValueError,
        "logits must be finite, got",
    ),
    "all weights zero": (
        bad(logits=torch.full((2,), -math.inf)),
        ValueError,
        "logits must be finite, got -inf",
    ),
    "NaN mean": (
        bad(loc=torch.tensor([[0.0, 0.0], [math.nan, 0.0]])),
        ValueError,
        r"loc must be finite, got nan at index \(1, 0\) \(1 of 4 elements are wrong\)",
    ),
    "infinite factor": (
        bad(scale_tril=changed(EYE, (1, 1, 0), math.inf)),
        ValueError,
        r"scale_tril must be finite, got inf at index \(1, 1, 0\)",
    ),
    "upper triangle": (
        bad(scale_tril=changed(EYE, (0, 0, 1), 0.25)),
        ValueError,
        r"scale_tril must be lower triangular, got 0.25 at index \(0, 0, 1\)",
    ),
    "zero on the diagonal": (
        bad(scale_tril=changed(EYE, (1, 0, 0), 0.0)),
        ValueError,
        r"diagonal of scale_tril must be positive, got 0.0 at index \(1, 0\)",
    ),
    "negative bias": (
        lambda: GaussianMixture(*standard()).biased(-0.5),
        ValueError,
        "bias must be finite and at least 0, got -0.5",
    ),
    "infinite bias": (lambda: GaussianMixture(*standard()).biased(math.inf), ValueError, "inf"),
    "NaN bias": (lambda: GaussianMixture(*standard()).biased(math.nan), ValueError, "bias .*nan"),
    "temperature 0": (
        lambda: GaussianMixture(*standard()).tempered(0.0),
        ValueError,
        "temperature must be finite and positive, got 0.0",
    ),
    "negative temperature": (
        lambda: GaussianMixture(*standard()).tempered(-1.0),
        ValueError,
        "temperature must be finite and positive, got -1.0",
    ),
    "NaN temperature": (
        lambda: GaussianMixture(*standard()).tempered(math.nan),
        ValueError,
        "temperature must be finite and positive, got nan",
    ),
    "outputs of another length": (
        lambda: GaussianMixture.from_outputs(torch.zeros(121), 20),
        ValueError,
        r"outputs must end in 20 \+ 40 \+ 40 \+ 20 = 120 values",
    ),
    "value of another size": (
        lambda: GaussianMixture(*standard()).log_prob(torch.zeros(3)),
        ValueError,
        r"value must end in 2 values, got shape \(3,\)",
    ),
    "scalar value": (
        lambda: GaussianMixture(*standard()).responsibilities(torch.tensor(0.0)),
        ValueError,
        r"value must end in 2 values, got shape \(\)",
    ),
    "value of another batch": (
        lambda: GaussianMixture(*mixture_parameters((4,))).log_prob(torch.zeros(3, 2)),
        ValueError,
        r"value must broadcast against batch shape \(4,\), got shape \(3, 2\)",
    ),
    "value not finite": (
        lambda: GaussianMixture(*standard(), validate_args=True).log_prob(
            torch.tensor([[0.0, 0.0], [0.0, math.inf]])
        ),
        ValueError,
        r"value must be finite, got inf at index \(1, 1\) \(1 of 4 elements are wrong\)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_argument_and_what_was_expected(name):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()


def test_values_are_not_checked_without_validation():
    _, loc, scale_tril = standard()
    d = GaussianMixture(torch.zeros(1), loc, -scale_tril, validate_args=False)
    assert d.log_prob(torch.full((2,), math.nan)).isnan()
