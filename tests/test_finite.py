"""Finite, and right, everywhere: wild outputs, far points, spoilt rows, degenerate data."""

import math

import mpmath
import pytest
import torch
from cases import CASES, K, generator, mixture_parameters, normal, output_size, stock_mixture
from torch.func import vmap
from torch.testing import assert_close

from mdn_dist import Bounds, GaussianMixture, MixtureDensityHead, StrokeDistribution

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

# Wild outputs: 6 * 4 combinations of 4,000 rows.

OUTPUT_SCALES = [1.0, 5.0, 20.0, 100.0, 1e3, 1e4]
TARGET_SCALES = [1.0, 1e2, 1e4, 1e6]
ROWS, COMPONENTS = 4000, 20


def wild(scale, reach):
    seed = OUTPUT_SCALES.index(scale) * 10 + TARGET_SCALES.index(reach)
    outputs = normal(ROWS, output_size(COMPONENTS), seed=seed, scale=scale).float()
    value = normal(ROWS, 3, seed=seed + 100, scale=reach).float()
    value[:, 2] = (value[:, 2] > 0).float()
    return outputs.requires_grad_(), value.requires_grad_()


def finite_rows(*tensors):
    return torch.stack([t.isfinite().flatten(1).all(1) for t in tensors]).all(0)


@pytest.mark.parametrize("reach", TARGET_SCALES)
@pytest.mark.parametrize("scale", OUTPUT_SCALES)
def test_wild_outputs_and_targets_stay_finite(scale, reach):
    outputs, value = wild(scale, reach)
    d = StrokeDistribution.from_outputs(outputs, COMPONENTS)
    score = d.log_prob(value)
    gradients = torch.autograd.grad(score.sum(), (outputs, value))
    sample = d.sample(generator=generator(1))
    assert score.dtype == torch.float32
    assert finite_rows(score[:, None], *gradients, sample, d.mean, d.variance).all()


def stock_rows(outputs, value):
    """Torch's own mixture of the paper's equations 17 to 25, row by row."""
    logits, m_1, m_2, s_1, s_2, r = outputs[:, 1:].chunk(6, -1)
    rho, sigma_1, sigma_2 = r.tanh(), s_1.exp(), s_2.exp()
    rows = [
        torch.stack([sigma_1, torch.zeros_like(rho)], -1),
        torch.stack([rho * sigma_2, sigma_2 * (1 - rho**2).sqrt()], -1),
    ]
    mixture = stock_mixture(logits, torch.stack([m_1, m_2], -1), torch.stack(rows, -2))
    return mixture.log_prob(value[:, :2])


def test_most_of_these_rows_are_not_finite_in_stock_torch():
    # what the bounds are for: if this fails, the test above tests little
    count = 0
    for scale in OUTPUT_SCALES:
        for reach in TARGET_SCALES:
            outputs, value = wild(scale, reach)
            score = stock_rows(outputs, value)
            gradients = torch.autograd.grad(score.sum(), (outputs, value))
            count += int((~finite_rows(score[:, None], *gradients)).sum())
    assert count > 0.5 * ROWS * len(OUTPUT_SCALES) * len(TARGET_SCALES)


# Far points. `deviations` counts standard deviations of the nearest component.

ROUNDING = 2.0**-24  # of float32, half a unit in the last place


def exact(outputs, value):
    """The log density by the paper's equations in 60 digits, and all its derivatives."""
    with mpmath.workdps(60):
        x = [mpmath.mpf(v) for v in (*outputs, *value[:2])]

        def log_density(*x):
            *row, x_1, x_2 = x
            k = len(row) // 6
            pi_hat, m_1, m_2, s_1, s_2, r = (row[1 + i * k : 1 + (i + 1) * k] for i in range(6))
            shares = []
            for j in range(k):
                rho = mpmath.tanh(r[j])
                z_1 = (x_1 - m_1[j]) * mpmath.exp(-s_1[j])
                z_2 = (x_2 - m_2[j]) * mpmath.exp(-s_2[j])
                z = (z_1**2 + z_2**2 - 2 * rho * z_1 * z_2) / (1 - rho**2)
                determinant = mpmath.exp(s_1[j] + s_2[j]) * mpmath.sqrt(1 - rho**2)
                shares.append(mpmath.exp(pi_hat[j] - z / 2) / (2 * mpmath.pi * determinant))
            weight = mpmath.fsum(mpmath.exp(p) for p in pi_hat)
            end = 1 / (1 + mpmath.exp(row[0]))
            pen = end if value[2] == 1 else 1 - end
            return mpmath.log(mpmath.fsum(shares) / weight) + mpmath.log(pen)

        step = mpmath.mpf(10) ** -25
        score = log_density(*x)
        slopes = []
        for i in range(len(x)):
            moved = [v + step * (abs(v) + 1) * (i == j) for j, v in enumerate(x)]
            slopes.append(float((log_density(*moved) - score) / (step * (abs(x[i]) + 1))))
        return score, slopes


@pytest.mark.parametrize("rho", [0.0, 0.9, -0.999])
@pytest.mark.parametrize("deviations", [100, 1e4, 1e6])
def test_far_away_the_error_is_that_of_rounding_the_inputs(rho, deviations):
    k = 2
    outputs = normal(output_size(k), seed=3, scale=0.5).float()
    outputs[1 + 5 * k :] = math.atanh(rho)
    angles = torch.arange(8) * math.pi / 4 + 0.1
    value = torch.zeros(8, 3)
    value[:, 0], value[:, 1] = deviations * angles.cos(), deviations * angles.sin()
    value[::2, 2] = 1
    found = StrokeDistribution.from_outputs(outputs, k).log_prob(value)
    for score, point in zip(found.tolist(), value.tolist(), strict=True):
        expected, slopes = exact(outputs.tolist(), point)
        inputs = (*outputs.tolist(), *point[:2])
        moved = sum(abs(s * x) for s, x in zip(slopes, inputs, strict=True))
        allowed = ROUNDING * moved + 1e-6 * abs(expected)
        assert abs(score - expected) <= allowed


def rays(count, length):
    angle = torch.rand(count, generator=generator(5)) * 2 * math.pi
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    return direction, torch.logspace(1, math.log10(length), 61)


SOURCES = {
    "outputs": lambda seed: StrokeDistribution.from_outputs(
        normal(output_size(5), seed=seed).float(), 5
    ),
    "mixture": lambda seed: GaussianMixture(
        *(t.float() for t in mixture_parameters((), 2, 5, seed=seed))
    ),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("seed", range(5))
def test_the_density_falls_along_a_ray_and_its_gradient_points_home(source, seed):
    d = SOURCES[source](seed)
    direction, distance = rays(8, 1e6)
    offset = (distance[:, None, None] * direction).requires_grad_()  # (61, 8, 2)
    pen = d.event_shape[0] - 2
    value = torch.cat([offset, torch.zeros(61, 8, pen)], -1)
    score = d.log_prob(value)
    (gradient,) = torch.autograd.grad(score.sum(), offset)
    assert score.isfinite().all()
    assert (score.diff(dim=0) < 0).all()
    assert ((gradient * direction).sum(-1) < 0).all()


# Spoilt rows


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@every_case
def test_an_error_names_what_is_spoilt_and_where(case, number):
    tensors, value = case.tensors((4,)), case.points(4)
    d = case.build(*tensors, validate_args=True)
    value[2, 0] = number
    with pytest.raises(ValueError, match=rf"value must be finite, got {number} at index \(2, 0\)"):
        d.log_prob(value)
    names = ["outputs"] if len(tensors) == 1 else ["logits", "loc", "scale_tril"]
    for i, name in enumerate(names):
        spoilt = [t.clone() for t in tensors]
        first = (0,) * (spoilt[i].dim() - 1)
        spoilt[i][(2, *first)] = number
        if name == "logits" and number == -math.inf:
            continue  # a component of weight zero
        where = ", ".join(map(str, (2, *first)))
        with pytest.raises(ValueError, match=rf"{name} must be finite, got .* \({where}\)"):
            case.build(*spoilt, validate_args=True)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@every_case
def test_without_validation_only_the_rows_concerned_are_spoilt(case, number):
    tensors, value = case.tensors((4,)), case.points(4)
    count = len(tensors)
    if count == 4 and case.pen == "one_hot":
        count = 3  # torch's own constructor refuses to make such a pen
    kept = torch.tensor([0, 1, 3])

    def everything(tensors, value):
        leaves = [t.clone().requires_grad_() for t in (*tensors, value)]
        d = case.build(*leaves[:-1], validate_args=False)
        score = d.log_prob(leaves[-1])
        gradients = torch.autograd.grad(score.sum(), leaves)
        return score, *gradients, d.sample(generator=generator(1)), d.mean

    expected = everything(tensors, value)
    for place in (*range(count), -1):
        spoilt = [t.clone() for t in (*tensors, value)]
        spoilt[place][2] = number
        found = everything(spoilt[:-1], spoilt[-1])
        if math.isnan(number):
            assert found[0][2].isnan()
        for ours, wanted in zip(found, expected, strict=True):
            assert_close(ours[kept], wanted[kept], rtol=1e-12, atol=1e-12)


# A likelihood without a limit


def lattice(count):
    steps = torch.randint(-2, 3, (count, 2), generator=generator(2)).double()
    return torch.cat([steps, (steps[:, :1] > 1).double()], -1)


def normal_points(count):
    return torch.cat([normal(count, 2, seed=3), torch.zeros(count, 1)], -1)


DATA = {  # and whether components collapse there
    "equal points": (torch.tensor([0.5, -0.25, 0.0]).double().expand(400, -1), True),
    "a lattice": (lattice(400), True),
    "a vertical line": (normal_points(400) * torch.tensor([0.0, 1.0, 0.0]), True),
    "a cloud": (normal_points(2000), False),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("data", DATA)
def test_training_on_degenerate_data_ends_at_the_floor(data, dtype):
    bounds = Bounds(min_scale=0.01)
    head = MixtureDensityHead(3, 6, bounds=bounds, dtype=dtype)
    points, collapses = DATA[data][0].to(dtype), DATA[data][1]
    features = normal(len(points), 3, seed=6).to(dtype)
    assert (head.at_floor(features) == 0).all()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)  # to come to rest
    losses = []
    for _ in range(300):
        loss = -head(features).log_prob(points).mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in head.parameters())
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    count = head.at_floor(features).double().mean()
    assert count > 0.4 if collapses else count < 0.1
    assert head(features).offset.component_distribution.stddev.min() >= 0.01


@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_at_floor_counts_components_that_ask_for_less(size, pen):
    head = MixtureDensityHead(2, K, size, pen, bounds=Bounds(min_scale=0.1), dtype=torch.float64)
    features = normal(50, 2, seed=8)
    with torch.no_grad():
        head.linear.weight.mul_(3)
        head.linear.bias.fill_(math.log(0.1) + 0.5)
    free = MixtureDensityHead(2, K, size, pen, bounds=None, dtype=torch.float64)
    free.load_state_dict(head.state_dict())
    made = free(features)
    mixture = made if pen is None else made.offset
    expected = (mixture.component_distribution.stddev < 0.1).any(-1).sum(-1)
    found = head.at_floor(features)
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)
    assert 0 < found.double().mean() < K
    assert head.at_floor(features.view(5, 10, 2)).shape == (5, 10)
    assert (free.at_floor(features) == 0).all()
    packed = torch.nn.utils.rnn.pack_sequence([features[:3], features[3:5]])
    assert torch.equal(head.at_floor(packed), head.at_floor(packed.data))
    with pytest.raises(ValueError, match="features must end in 2 values"):
        head.at_floor(features[:, :1])


# Any number of coordinates

SIZES = [1, 2, 3, 4, 5, 6, 10, 24, 64]


def wild_mixture(size, scale, reach, pen):
    seed = size + OUTPUT_SCALES.index(scale) * 10 + TARGET_SCALES.index(reach)
    rows = 60 if size < 20 else 12
    outputs = normal(rows, output_size(2, size, pen), seed=seed, scale=scale).float()
    value = normal(rows, size + int(pen is not None), seed=seed + 100, scale=reach).float()
    if pen is None:
        make = GaussianMixture.from_outputs
    else:
        value[:, size] = (value[:, size] > 0).float()
        make = StrokeDistribution.from_outputs
    return outputs.requires_grad_(), value.requires_grad_(), make


@pytest.mark.parametrize("reach", [1.0, 1e6])
@pytest.mark.parametrize("scale", OUTPUT_SCALES[::2])
@pytest.mark.parametrize("size", SIZES)
def test_wild_outputs_stay_finite_in_any_number_of_coordinates(size, scale, reach):
    for pen in (None, "bernoulli"):
        outputs, value, make = wild_mixture(size, scale, reach, pen)
        d = make(outputs, 2, event_size=size)
        score = d.log_prob(value)
        gradients = torch.autograd.grad(score.sum(), (outputs, value))
        sample = d.sample(generator=generator(1))
        assert finite_rows(score[:, None], *gradients, sample, d.mean, d.variance).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_the_whole_grid_stays_finite_in_any_number_of_coordinates(size):
    for scale in (*OUTPUT_SCALES, 3.0, 10.0, 1e6):
        for reach in (0.0, *TARGET_SCALES):
            count = 200 if size < 20 else 20
            outputs = normal(count, output_size(1, size, None), seed=size, scale=scale).float()
            outputs.requires_grad_()
            value = normal(count, size, seed=size + 1, scale=reach).float()
            score = GaussianMixture.from_outputs(outputs, 1, event_size=size).log_prob(value)
            (gradient,) = torch.autograd.grad(score.sum(), outputs)
            assert finite_rows(score[:, None], gradient).all()


# Huge points and narrow scales


@pytest.mark.parametrize("reach", [1e20, 9.97e36, 3e38])
@every_case
def test_a_point_too_far_for_its_type_has_no_density(case, reach):
    d = case.build(*(t.float() for t in case.tensors((4,))))
    value = case.points(4).float()
    for direction in ((1.0, 1.0, 1.0), (-1.0, 1.0, 0.0), (-1.0, -1.0, 1.0)):
        value[:, : case.size] = reach * torch.tensor(direction[: case.size])
        assert (d.log_prob(value) == -math.inf).all()
    value[0] = case.points()
    score = d.log_prob(value)
    assert score[0].isfinite()
    assert (score[1:] == -math.inf).all()


def test_a_far_point_of_a_narrow_component_leaves_a_wide_one_its_score():
    scale = torch.tensor([1e-30, 1.0]).view(2, 1, 1) * torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    d = GaussianMixture(torch.zeros(2), torch.zeros(2, 2), scale)
    wide = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), scale[1:])
    point = torch.tensor([1e9, -1e9])
    assert_close(d.log_prob(point), wide.log_prob(point) - math.log(2))


@pytest.mark.parametrize("bias", [50.0, 90.0, 100.0])
@pytest.mark.parametrize(
    "name",
    ["mixture of 2", "mixture from outputs", "stroke from outputs", "stroke of 3 from outputs"],
)
def test_a_large_bias_scores_its_own_samples(name, bias):
    case = CASES[name]
    tensors = case.tensors((50,))
    d = case.build(*(t.float() for t in tensors)).biased(bias)
    score = d.log_prob(d.sample(generator=generator(2)))
    exact = case.build(*tensors).biased(bias)
    expected = exact.log_prob(exact.sample(generator=generator(2)))
    # a sample is rounded to the mean, where it differs from it at all; near 1e-45, scales too
    assert (score - expected).abs().mean() < 2 * case.size
    assert score.mean() > bias


@pytest.mark.parametrize("bias", [104.0, 200.0, 1e4, 1e30])
@every_case
def test_a_bias_beyond_all_numbers_still_is_a_distribution(case, bias):
    d = case.build(*(t.float() for t in case.tensors((4,))), validate_args=True)
    for changed in (d.biased(bias), d.biased(torch.tensor(bias))):
        value = changed.sample()
        assert changed.log_prob(value).isfinite().all()
        assert changed.mean.isfinite().all()
        assert changed.variance.isfinite().all()


@pytest.mark.parametrize("temperature", [1e-20, 1e-38, 1e-300])
@every_case
def test_a_temperature_near_0_draws_the_likeliest_component(case, temperature):
    d = case.build(*(t.float() for t in case.tensors((50,))))
    value = d.tempered(temperature).sample()
    assert_close(value[:, : case.size], d.component_mode[:, : case.size], rtol=1e-4, atol=1e-4)
    if case.pen:
        likeliest = d.component_mode[:, case.size :]
        assert torch.equal(value[:, case.size :], likeliest)


@pytest.mark.parametrize("bias", [50.0, 79.5, 100.0])
@pytest.mark.parametrize("way", ["eager", "vmap"])
def test_scales_below_float32_score_like_float64(way, bias):
    """Whose points are so near the means that only means of 0 tell them apart."""
    outputs = normal(4, output_size(), seed=3)
    outputs[:, 1 + K : 1 + 3 * K] = 0.0
    outputs[:, 1 + 3 * K : 1 + 5 * K] = -99.0  # scales as small as the bounds allow
    value = torch.tensor([2e-38, -3e-38, 1.0]).expand(4, 3)

    def score(outputs, value):
        return StrokeDistribution.from_outputs(outputs, K).biased(bias).log_prob(value)

    outputs = outputs.float()
    found = (vmap(score) if way == "vmap" else score)(outputs, value)
    expected = score(outputs.double(), value.double())
    assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_point_too_far_for_its_type_has_no_density_under_vmap():
    outputs = normal(4, output_size(), seed=3).float()
    outputs[:, 1 + 3 * K :] = 1.0
    outputs[:, 1 + 3 * K : 1 + 5 * K] = -9.0
    value = torch.tensor([[1.0, 1.0, 1.0], [-1, 1, 0], [-1, -1, 1], [1, -1, 0]])
    value[:, :2] *= 1e37
    score = vmap(lambda o, v: StrokeDistribution.from_outputs(o, K).log_prob(v))(outputs, value)
    assert (score == -math.inf).all()


@every_case
def test_a_point_too_far_for_its_type_sends_back_finite_gradients(case):
    tensors = [t.float().requires_grad_() for t in case.tensors((4,))]
    value = case.points(4).float()
    value[:, : case.size] = 1e30
    score = case.build(*tensors).log_prob(value)
    assert (score == -math.inf).all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(score.sum(), tensors))


@pytest.mark.parametrize("size", [2, 10])
def test_many_coordinates_tell_a_far_point_from_a_spoilt_one(size):
    _, loc, factor = (p.float() for p in mixture_parameters((3,), size))
    value = torch.zeros(3, size)
    value[0] = 1e38
    value[1, 0] = math.nan
    factor[2, :, 1, 0] = math.nan
    score = GaussianMixture(torch.zeros(K), loc, factor, validate_args=False).log_prob(value)
    assert score[0] == -math.inf
    assert score[1:].isnan().all()
