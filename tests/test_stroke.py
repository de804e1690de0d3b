import math

import pyro.distributions as pyro_distributions
import pytest
import torch
from cases import (
    CASES,
    cells,
    chi_square,
    generator,
    mixture_parameters,
    normal,
    output_case,
    output_size,
    parameter_case,
    parameters_of_outputs,
    stock_log_prob,
)
from scipy import stats
from torch.distributions import Bernoulli, Categorical, OneHotCategorical
from torch.func import vmap
from torch.testing import assert_close

from mdn_dist import GaussianMixture, StrokeDistribution

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
SOURCES = {"parameters": parameter_case, "outputs": output_case}
CHANGES = {
    "plain": lambda d: d,
    "biased": lambda d: d.biased(0.7),
    "tempered": lambda d: d.tempered(0.6),
}
STROKES = {name: case for name, case in CASES.items() if case.pen is not None}


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot"])
@pytest.mark.parametrize("source", SOURCES)
def test_log_prob_is_stocks_for_every_size_and_pen(source, pen, size):
    case = SOURCES[source](pen, size=size)
    tensors = case.tensors((2, 3))
    value = case.points(5, 2, 3)
    assert_close(case.build(*tensors).log_prob(value), case.stock(*tensors, value), **CLOSE)


def test_offset_and_pen_are_the_two_factors():
    for case in STROKES.values():
        d, value = case.make((4,)), case.points(4)
        pen = value[:, case.size :] if case.pen == "one_hot" else value[:, case.size]
        assert isinstance(d.offset, GaussianMixture)
        assert isinstance(d.pen, OneHotCategorical if case.pen == "one_hot" else Bernoulli)
        both = d.offset.log_prob(value[:, : case.size]) + d.pen.log_prob(pen)
        assert_close(d.log_prob(value), both, **CLOSE)
        assert torch.equal(d.mean[:, : case.size], d.offset.mean)
        assert torch.equal(d.mean[:, case.size :].squeeze(-1), d.pen.mean)
        assert torch.equal(d.variance[:, : case.size], d.offset.variance)
        assert torch.equal(d.variance[:, case.size :].squeeze(-1), d.pen.variance)


def test_offset_and_pen_broadcast_against_each_other():
    offset = GaussianMixture(*mixture_parameters((4, 1)))
    d = StrokeDistribution(offset, Bernoulli(logits=normal(3, seed=1)))
    assert d.batch_shape == d.offset.batch_shape == d.pen.batch_shape == (4, 3)
    assert d.sample().shape == (4, 3, 3)


def paper_loss_and_gradient(outputs, points):
    """Equations 26 to 37 in plain numbers: `outputs[t]` scores `points[t + 1]`."""
    k = (len(outputs[0]) - 1) // 6
    loss, gradients = 0.0, []
    for row, (x1, x2, flag) in zip(outputs, points[1:], strict=True):
        e = 1 / (1 + math.exp(row[0]))
        pi_hat, mu1, mu2, s1, s2, r = (row[1 + i * k : 1 + (i + 1) * k] for i in range(6))
        total = sum(map(math.exp, pi_hat))
        pi = [math.exp(p) / total for p in pi_hat]
        share, derivatives = [], []
        for j in range(k):
            sigma1, sigma2, rho = math.exp(s1[j]), math.exp(s2[j]), math.tanh(r[j])
            z1, z2, c = (x1 - mu1[j]) / sigma1, (x2 - mu2[j]) / sigma2, 1 / (1 - rho**2)
            z = z1**2 + z2**2 - 2 * rho * z1 * z2
            normaliser = 2 * math.pi * sigma1 * sigma2 / math.sqrt(c)
            share.append(pi[j] * math.exp(-c * z / 2) / normaliser)
            derivatives.append(
                (
                    c / sigma1 * (z1 - rho * z2),
                    c / sigma2 * (z2 - rho * z1),
                    c * z1 * (z1 - rho * z2) - 1,
                    c * z2 * (z2 - rho * z1) - 1,
                    z1 * z2 + rho * (1 - c * z),
                )
            )
        gamma = [s / sum(share) for s in share]
        loss -= math.log(sum(share)) + math.log(e if flag == 1 else 1 - e)
        gradient = [flag - e, *(pi[j] - gamma[j] for j in range(k))]
        for i in range(5):
            gradient += [-gamma[j] * derivatives[j][i] for j in range(k)]
        gradients.append(gradient)
    return loss, torch.tensor(gradients, dtype=torch.float64)


@pytest.mark.parametrize("components", [1, 4, 20])
def test_loss_and_gradient_are_the_papers(components):
    steps = 6
    outputs = normal(2, steps, output_size(components), seed=1, scale=0.8).requires_grad_()
    points = CASES["stroke from outputs"].points(2, steps + 1)
    d = StrokeDistribution.from_outputs(outputs, components, bounds=None)
    losses = -d.log_prob(points[:, 1:]).sum(-1)
    (gradient,) = torch.autograd.grad(losses.sum(), outputs)
    for i in range(2):
        loss, expected = paper_loss_and_gradient(outputs[i].tolist(), points[i].tolist())
        assert losses[i].item() == pytest.approx(loss, rel=1e-10)
        assert_close(gradient[i], expected, **CLOSE)


# The traps of a loss written by hand. Each check must pass for ours and for a small loss without
# the trap, and fail for the same small loss with it.


def our_loss(outputs, points):
    components = (outputs.shape[-1] - 1) // 6
    return -StrokeDistribution.from_outputs(outputs, components).log_prob(points).sum()


def small_loss(outputs, points, trap=None):
    k = (outputs.shape[-1] - 1) // 6
    pi_hat, mu1, mu2, s1, s2, r = outputs[..., 1:].split(k, -1)
    x1, x2, flag = (points[..., i : i + 1] for i in range(3))
    if trap == "softmax without the exponential":
        pi = pi_hat / pi_hat.sum(-1, keepdim=True)
    else:
        pi = pi_hat.softmax(-1)
    if trap == "in-place changes":
        s1.exp_(), s2.exp_()
        sigma1, sigma2 = s1, s2
    else:
        sigma1, sigma2 = s1.exp(), s2.exp()
    rho, e = r.tanh(), 1 / (1 + outputs[..., :1].exp())
    z1, z2 = (x1 - mu1) / sigma1, (x2 - mu2) / sigma2
    z = (z1**2 + z2**2 - 2 * rho * z1 * z2) / (1 - rho**2)
    normaliser = 2 * math.pi * sigma1 * sigma2 * (1 - rho**2).sqrt()
    density = (pi * (-z / 2).exp() / normaliser).sum(-1, keepdim=True)
    density = density * torch.where(flag == 1, e, 1 - e)
    if trap == "a probability floor":
        density = density.clamp_min(1e-20)
    if trap == "a sum over the batch inside the logarithm":
        return -density.sum().log()
    return -density.log().sum()


def check_weights_do_not_change_with_a_common_shift(loss):
    outputs, points = normal(5, 19, seed=2), CASES["stroke from outputs"].points(5)
    outputs[:, 1:4] = torch.tensor([1.0, 2.0, 0.5])
    shifted = outputs.clone()
    shifted[:, 1:4] += 3
    assert_close(loss(shifted, points), loss(outputs, points), **CLOSE)


def check_the_loss_adds_up_over_points(loss):
    outputs, points = normal(2, 4, 19, seed=3), CASES["stroke from outputs"].points(2, 4)
    alone = [loss(outputs[i, t], points[i, t]) for i in range(2) for t in range(4)]
    assert_close(loss(outputs, points), torch.stack(alone).sum(), **CLOSE)


def check_a_far_point_still_pulls(loss):
    # one standard normal and a fair flag, 30 deviations away
    outputs = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    value = loss(outputs, torch.tensor([30.0, 0.0, 1.0], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value, outputs)
    assert value.item() == pytest.approx(450 + math.log(2 * math.pi) + math.log(2), rel=1e-12)
    expected = torch.tensor([0.5, 0, -30, 0, 1 - 900, 1, 0], dtype=torch.float64)
    assert_close(gradient, expected, **CLOSE)


def check_the_outputs_stay_as_they_were(loss):
    for batch in ((), (1,), (5,), (1, 1), (2, 3)):
        outputs, points = normal(*batch, 19, seed=4), CASES["stroke from outputs"].points(*batch)
        before = outputs.clone()
        loss(outputs, points)
        assert torch.equal(outputs, before)


TRAPS = {
    "softmax without the exponential": check_weights_do_not_change_with_a_common_shift,
    "a sum over the batch inside the logarithm": check_the_loss_adds_up_over_points,
    "a probability floor": check_a_far_point_still_pulls,
    "in-place changes": check_the_outputs_stay_as_they_were,
}


@pytest.mark.parametrize("loss", [our_loss, small_loss])
@pytest.mark.parametrize("trap", TRAPS)
def test_our_loss_avoids_the_trap(trap, loss):
    TRAPS[trap](loss)


@pytest.mark.parametrize("trap", TRAPS)
def test_the_check_catches_the_trap(trap):
    with pytest.raises(AssertionError):
        TRAPS[trap](lambda outputs, points: small_loss(outputs, points, trap))


def make(source, pen, size=2, scale=1.0):
    if source == "parameters":
        parameter = normal(3 if pen == "one_hot" else 1, seed=5)
        kind = OneHotCategorical if pen == "one_hot" else Bernoulli
        parameter = parameter if pen == "one_hot" else parameter.squeeze()
        offset = GaussianMixture(*mixture_parameters((), size, scale=scale))
        return StrokeDistribution(offset, kind(logits=parameter))
    k = 3
    outputs = normal(output_size(k, size, pen), seed=6, scale=0.3)
    start = output_size(0, size, pen) + k
    outputs[start : start + size * k] *= 4 * scale
    outputs[start + size * k : start + 2 * size * k] += math.log(0.8 * scale)
    return StrokeDistribution.from_outputs(outputs, k, event_size=size, pen=pen)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot"])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("source", SOURCES)
def test_density_sums_and_integrates_to_one(source, size, pen, change, scale):
    d = CHANGES[change](make(source, pen, size, scale))
    step = 0.14 if size == 2 else 0.005
    axis = scale * torch.arange(-9, 9, step, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * size).view(-1, size)
    states = torch.eye(3) if pen == "one_hot" else torch.tensor([[0.0], [1.0]])
    total = 0.0
    for state in states.double():
        points = torch.cat([grid, state.expand(len(grid), -1)], -1)
        total += d.log_prob(points).exp().sum().item() * (step * scale) ** size
    assert total == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot"])
@pytest.mark.parametrize("source", SOURCES)
def test_samples_fit_the_density_of_offset_and_pen_together(source, pen, change):
    d = CHANGES[change](make(source, pen))
    # false-alarm rate 1e-3 each over seeds
    assert chi_square(d, d.sample((20_000,), generator(1)), 2).pvalue > 1e-3


@pytest.mark.parametrize("source", SOURCES)
def test_the_goodness_of_fit_notices_a_pen_that_is_off(source):
    d = make(source, "bernoulli")
    wrong = StrokeDistribution(d.offset, Bernoulli(logits=d.pen.logits + 0.2))
    assert chi_square(d, wrong.sample((20_000,), generator(1)), 2).pvalue < 1e-9
    assert cells(d, 2).sum().item() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", STROKES)
def test_pen_samples_stay_within_a_binomial_interval(name, change):
    case = STROKES[name]
    d = CHANGES[change](case.make((2,)))
    draws = 10_000
    count = d.sample((draws,), generator(2))[..., case.size :].sum(0)  # (2, pen)
    # the probability of each flag or state, from the density: the offset cancels
    states = torch.eye(case.states) if case.pen == "one_hot" else torch.tensor([[0.0], [1.0]])
    offset = torch.zeros(len(states), case.size, dtype=torch.float64)
    scores = d.log_prob(torch.cat([offset, states.double()], -1).unsqueeze(1))  # (states, 2)
    probability = scores.softmax(0).mT[:, -case.event + case.size :]
    # false-alarm rate 1e-4 for each of at most six counts over seeds
    low, high = (torch.from_numpy(stats.binom.ppf(q, draws, probability)) for q in (5e-5, 1 - 5e-5))
    assert ((low <= count) & (count <= high)).all()


@pytest.mark.parametrize("pen", ["bernoulli", "one_hot"])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    ("change", "bias", "temperature"),
    [
        (lambda d: d.biased(0.7), 0.7, 1.0),
        (lambda d: d.tempered(0.6), 0.0, 0.6),
        (lambda d: d.biased(0.7).tempered(0.6), 0.7, 0.6),
        (lambda d: d.tempered(1.5).biased(0.7).tempered(0.4), 0.7, 0.6),
    ],
)
@pytest.mark.parametrize("source", SOURCES)
def test_bias_and_temperature_are_the_documented_rules(
    source, change, bias, temperature, size, pen
):
    case = SOURCES[source](pen, size=size)
    tensors = case.tensors((4,))
    if source == "outputs":
        pen_logits, logits, loc, scale_tril = parameters_of_outputs(*tensors, 3, size, pen)
    else:
        logits, loc, scale_tril, pen_logits = tensors
        pen_logits = pen_logits if pen == "one_hot" else pen_logits.unsqueeze(-1)
    logits = logits * (1 + bias) / temperature
    scale_tril = scale_tril * math.exp(-bias) * math.sqrt(temperature)
    d = case.build(*tensors)
    changed = change(d)
    value = case.points(4)
    expected = stock_log_prob(pen_logits / temperature, logits, loc, scale_tril, value)
    assert_close(changed.log_prob(value), expected, **CLOSE)
    assert type(changed) is type(d)


def test_bias_on_outputs_is_the_papers_to_the_letter():
    # (61) sigma = exp(sigma^ - b), (62) pi = softmax(pi^ (1 + b)); e, mu and rho stay
    outputs, bias = normal(7, 19, seed=7), 0.8
    hand = outputs.clone()
    hand[:, 1:4] *= 1 + bias
    hand[:, 10:16] -= bias
    value = CASES["stroke from outputs"].points(7)
    biased = StrokeDistribution.from_outputs(outputs, 3).biased(bias).log_prob(value)
    assert_close(biased, StrokeDistribution.from_outputs(hand, 3).log_prob(value), **CLOSE)


def test_the_flag_is_kept_under_a_bias_and_tempered_under_a_temperature():
    for case in STROKES.values():
        d = case.make((4,))
        assert_close(d.biased(2.0).pen.logits, d.pen.logits, **CLOSE)
        tempered = d.tempered(0.5).pen.probs
        squares = d.pen.probs**2
        rest = (1 - d.pen.probs) ** 2 if case.pen == "bernoulli" else 0
        total = squares + rest if case.pen == "bernoulli" else squares.sum(-1, keepdim=True)
        assert_close(tempered, squares / total, **CLOSE)


@pytest.mark.parametrize("pen", ["bernoulli", "one_hot"])
@pytest.mark.parametrize("scale", [0.7, 6.0])  # within the bounds, and beyond
def test_outputs_have_first_and_second_derivatives(pen, scale):
    outputs = normal(2, output_size(2, 2, pen), seed=9, scale=scale).requires_grad_()
    offset, state = output_case(pen).points(2).tensor_split([2], -1)

    def score(outputs, offset):
        d = StrokeDistribution.from_outputs(outputs, 2, pen=pen)
        # tanh keeps the score, and so the rounding of a difference, near 1
        return (d.log_prob(torch.cat([offset, state], -1)) / 100).tanh()

    inputs = (outputs, offset.clone().requires_grad_())
    assert torch.autograd.gradcheck(score, inputs)
    assert torch.autograd.gradgradcheck(score, inputs)


def test_many_rows_score_like_stock():
    case = output_case("bernoulli")
    (outputs,), value = case.tensors((9000,)), case.points(9000)
    outputs.requires_grad_()
    score, expected = case.build(outputs).log_prob(value), case.stock(outputs, value)
    assert_close(score, expected, **CLOSE)
    gradients = (torch.autograd.grad(x.sum(), outputs)[0] for x in (score, expected))
    assert_close(*gradients, **CLOSE)


SUPPORT = {
    "stroke from parameters": (
        [[0.0, 1, 0], [0, 1, 1], [0, 1, 0.5], [0, 1, -1], [math.nan, 0, 1], [0, math.inf, 0]],
        [True, True, False, False, False, False],
    ),
    "pen states from parameters": (
        [
            [0.0, 1, 1, 0, 0],
            [0, 1, 0, 0, 1],
            [0, 1, 1, 1, 0],
            [0, 1, 0, 0, 0],
            [0, 1, 0.5, 0.5, 0],
            [math.nan, 1, 0, 1, 0],
            [0, 1, 2, -1, 0],
        ],
        [True, True, False, False, False, False, False],
    ),
    "stroke of 3 from outputs": ([[0.0, 1, 2, 1], [0, 1, 2, 3]], [True, False]),
}
SUPPORT["stroke from outputs"] = SUPPORT["stroke from parameters"]
SUPPORT["pen states from outputs"] = SUPPORT["pen states from parameters"]


@pytest.mark.parametrize("name", SUPPORT)
def test_support_tells_points_from_other_vectors(name):
    points, expected = (torch.tensor(column) for column in SUPPORT[name])
    d = CASES[name].make(())
    assert d.support.event_dim == 1
    assert d.support.is_discrete
    assert d.support.check(points.double()).tolist() == expected.tolist()
    assert d.support.check(points.double().expand(2, 1, -1, -1)).shape == (2, 1, len(points))
    assert d.support.check(d.sample((3, 2))).tolist() == [[True] * 2] * 3


@pytest.mark.parametrize("name", SUPPORT)
def test_validation_accepts_the_support_and_nothing_else(name):
    points, valid = (torch.tensor(column) for column in SUPPORT[name])
    validated, trusting = (CASES[name].make((), validate_args=flag) for flag in (True, False))
    for point, is_valid in zip(points.double(), valid.tolist(), strict=True):
        if is_valid:
            assert validated.log_prob(point).isfinite()
        else:
            with pytest.raises(ValueError, match="in value must be"):
                validated.log_prob(point)
        trusting.log_prob(point)


@pytest.mark.parametrize("name", ["stroke from parameters", "stroke from outputs"])
def test_a_flag_between_0_and_1_is_named_with_its_place(name):
    points = torch.zeros(2, 4, 3, dtype=torch.float64)
    points[1, 2, 2] = 0.5
    message = (
        r"pen in value must be 0 or 1, got 0\.5 at index \(1, 2, 0\) \(1 of 8 elements are wrong\)"
    )
    with pytest.raises(ValueError, match=message):
        CASES[name].make((4,), validate_args=True).log_prob(points)
    assert CASES[name].make((4,), validate_args=False).log_prob(points).isfinite().all()


@pytest.mark.parametrize("name", ["pen states from parameters", "pen states from outputs"])
def test_pen_states_that_are_not_one_hot_are_named_with_their_place(name):
    points = torch.tensor([[0.0, 0, 1, 0, 0], [0, 0, 1, 0, 1]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"pen in value must be one-hot, got 1\.0 at index \(1, 0"):
        CASES[name].make((), validate_args=True).log_prob(points)


def test_offsets_that_are_not_finite_are_named_with_their_place():
    points = torch.tensor([[0.0, 0, 1], [0, math.inf, 1]], dtype=torch.float64)
    message = r"offset in value must be finite, got inf at index \(1, 1\)"
    with pytest.raises(ValueError, match=message):
        CASES["stroke from outputs"].make((), validate_args=True).log_prob(points)


def test_there_are_no_pathwise_samples():
    for case in STROKES.values():
        d = case.make(())
        assert not d.has_rsample
        for arguments in ((), ((2,),), ((2,), generator(0))):
            with pytest.raises(NotImplementedError, match=r"pen is discrete; offset.rsample"):
                d.rsample(*arguments)


def test_repr_says_what_it_is():
    assert repr(CASES["stroke from parameters"].make((4, 7))) == (
        "StrokeDistribution(batch_shape=(4, 7), components=3, event_size=2, dtype=float64, "
        "pen=bernoulli)"
    )
    assert repr(CASES["pen states from outputs"].make(())) == (
        "StrokeDistribution(batch_shape=(), components=3, event_size=2, dtype=float64, pen=one_hot)"
    )


def test_torchs_and_pyros_pens_are_both_taken():
    offset = GaussianMixture(*mixture_parameters((4,)))
    logits, value = normal(4, seed=8), CASES["stroke from parameters"].points(4)
    scores = [
        StrokeDistribution(offset, kind(logits=logits)).log_prob(value)
        for kind in (Bernoulli, pyro_distributions.Bernoulli)
    ]
    assert torch.equal(*scores)


@pytest.mark.parametrize("name", STROKES)
def test_use_without_gradients_does_not_cut_later_ones(name):
    case = STROKES[name]
    tensors = [t.requires_grad_() for t in case.tensors((4,))]
    d, value = case.build(*tensors), case.points(4)
    d.sample()
    with torch.no_grad():
        d.log_prob(value)
        assert d.mean.isfinite().all()
    gradients = torch.autograd.grad(d.log_prob(value).sum(), tensors, retain_graph=True)
    expected = torch.autograd.grad(case.stock(*tensors, value).sum(), tensors)
    assert_close(gradients, expected, **CLOSE)
    untouched = torch.autograd.grad(case.build(*tensors).mean.sum(), tensors, allow_unused=True)
    gradients = torch.autograd.grad(d.mean.sum(), tensors, allow_unused=True)
    assert_close(gradients[0], untouched[0], **CLOSE)
    assert (gradients[0] != 0).any()


def exact_pen(logits, value):
    return torch.nn.functional.logsigmoid(torch.where(value[:, 2] == 1, logits, -logits))


def test_sampling_first_does_not_round_the_pens_logits():
    logits = torch.tensor([60.0, -60.0], dtype=torch.float64)
    used_before = Bernoulli(logits=logits)
    assert used_before.mean.tolist() == [1.0, used_before.probs[1]]
    value = CASES["stroke from parameters"].points(2)
    for pen in (Bernoulli(logits=logits), used_before):
        d = StrokeDistribution(GaussianMixture(*mixture_parameters((2,))), pen)
        before = d.log_prob(value)
        assert_close(before, d.offset.log_prob(value[:, :2]) + exact_pen(logits, value), **CLOSE)
        d.sample()
        for same in (d[torch.tensor([0, 1])], d.expand((2,)), d.expand((2,)).biased(0.0)):
            assert torch.equal(same.log_prob(value), before)


def test_a_pens_own_validation_does_not_overrule_this_distributions():
    offset = GaussianMixture(*mixture_parameters(()), validate_args=True)
    pen = Bernoulli(logits=torch.tensor(0.3, dtype=torch.float64), validate_args=True)
    value = torch.tensor([0, 0, 0.5], dtype=torch.float64)
    d = StrokeDistribution(offset, pen, validate_args=False)
    for unchecked in (d, d.biased(0.1), d.expand((2,)), d[None]):
        assert unchecked.log_prob(value).isfinite().all()
    assert pen._validate_args


def stroke(offset=None, pen=None, **arguments):
    offset = GaussianMixture(*mixture_parameters((4,))) if offset is None else offset
    pen = Bernoulli(logits=torch.zeros(4).double()) if pen is None else pen
    return StrokeDistribution(offset, pen, **arguments)


ERRORS = {
    "offset of another class": (
        lambda: stroke(offset=torch.distributions.Normal(0.0, 1.0)),
        TypeError,
        "offset must be a GaussianMixture, got Normal",
    ),
    "pen of another class": (
        lambda: stroke(pen=Categorical(logits=torch.zeros(3))),
        TypeError,
        "pen must be a Bernoulli or a OneHotCategorical, got Categorical",
    ),
    "batches that do not broadcast": (
        lambda: stroke(pen=Bernoulli(logits=torch.zeros(3))),
        ValueError,
        r"offset and pen must have batch shapes that broadcast, got \(4,\) and \(3,\)",
    ),
    "outputs of another length": (
        lambda: StrokeDistribution.from_outputs(torch.zeros(4, 128), 20),
        ValueError,
        r"= 121 values \(pen, .*\) for components=20, event_size=2, .*; got shape \(4, 128\)",
    ),
    "integer outputs": (
        lambda: StrokeDistribution.from_outputs(torch.zeros(121, dtype=torch.int32)),
        TypeError,
        "outputs must be floating point, got torch.int32",
    ),
    "no pen": (
        lambda: StrokeDistribution.from_outputs(torch.zeros(120), pen=None),
        ValueError,
        "pen must be 'bernoulli', 'one_hot' or a class of pens, got None",
    ),
    "unknown pen": (
        lambda: StrokeDistribution.from_outputs(torch.zeros(120), pen="brush"),
        ValueError,
        "pen must be 'bernoulli', 'one_hot' or a class of pens, got 'brush'",
    ),
    "NaN outputs": (
        lambda: StrokeDistribution.from_outputs(torch.full((2, 121), math.nan), validate_args=True),
        ValueError,
        r"outputs must be finite, got nan at index \(0, 0\) \(242 of 242 elements are wrong\)",
    ),
    "value of another length": (
        lambda: stroke().log_prob(torch.zeros(4, 2)),
        ValueError,
        r"value must end in 3 values, got shape \(4, 2\)",
    ),
    "value of another batch": (
        lambda: stroke().log_prob(torch.zeros(5, 3)),
        ValueError,
        r"value must broadcast against batch shape \(4,\), got shape \(5, 3\)",
    ),
    "negative bias": (lambda: stroke().biased(-1.0), ValueError, "bias must be .*, got -1.0"),
    "temperature 0": (
        lambda: stroke().tempered(0.0),
        ValueError,
        "temperature must be finite and positive, got 0.0",
    ),
    "negative bias of outputs": (
        lambda: CASES["stroke from outputs"].make().biased(-1.0),
        ValueError,
        "bias must be finite and at least 0, got -1.0",
    ),
    "infinite temperature of outputs": (
        lambda: CASES["stroke from outputs"].make().tempered(math.inf),
        ValueError,
        "temperature must be finite and positive, got inf",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_argument_and_what_was_expected(name):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("pen", ["bernoulli", "one_hot"])
@pytest.mark.parametrize("validate_args", [True, False])
def test_what_is_derived_validates_as_the_whole_does(pen, validate_args):
    outputs = torch.zeros(4, output_size(2, 2, pen))
    d = StrokeDistribution.from_outputs(outputs, 2, pen=pen, validate_args=validate_args)
    for part in (d.offset, d.biased(0.5).offset, d[1:].offset, d.pen, d.marginal(0).offset):
        wrong = torch.full((*part.batch_shape, *part.event_shape), torch.nan)
        if validate_args:
            with pytest.raises(ValueError, match=r"finite|support"):
                part.log_prob(wrong)
        elif part is not d.pen:  # torch's own takes NaN for no state
            assert part.log_prob(wrong).isnan().all()


@pytest.mark.parametrize("types", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot"])
@pytest.mark.parametrize("source", SOURCES)
def test_outputs_and_points_of_two_types_score_in_the_wider(source, pen, types):
    case = SOURCES[source](pen)
    tensors = [t.to(types[0]) for t in case.tensors((4,))]
    value = case.points(4).to(types[1])
    score = case.build(*tensors, validate_args=False).log_prob(value)
    assert score.dtype == torch.float64
    expected = case.stock(*(t.double() for t in tensors), value.double())
    # torch normalises the logits of states in their own type
    rounded = (source, pen) == ("parameters", "one_hot")
    assert_close(score, expected, rtol=0, atol=1e-6 if rounded else 1e-10)


def test_a_pen_state_out_of_the_question_leaves_the_others_their_score():
    case = CASES["pen states from outputs"]
    outputs, value = case.tensors((3,))[0], case.points(3)
    outputs[:, 1], value[:, 2:] = -math.inf, torch.tensor([1.0, 0, 0])
    value.requires_grad_()
    score = vmap(lambda o, v: case.build(o, validate_args=False).log_prob(v))(outputs, value)
    assert_close(score, case.stock(outputs, value), **CLOSE)
    single = case.build(outputs, validate_args=False).log_prob(value)
    assert_close(single, score, **CLOSE)
    assert torch.autograd.grad(single.sum(), value)[0].isfinite().all()


@pytest.mark.parametrize("reach", [5.0, -8.0])
def test_correlations_beyond_their_bound_have_the_differences_as_gradients(reach):
    outputs = torch.full((2, 7), 0.1, dtype=torch.float64)
    outputs[:, -1] = reach
    value = torch.tensor([[0.11, 0.1, 1.0], [0.09, 0.12, 0.0]], dtype=torch.float64)

    def score(outputs):
        return (StrokeDistribution.from_outputs(outputs, 1).log_prob(value) / 100).tanh()

    assert torch.autograd.gradcheck(score, outputs.requires_grad_())
