import math
from functools import partial

import mpmath
import numpy as np
import pytest
import torch
from cases import (
    CASES,
    generator,
    mixture_parameters,
    normal,
    output_size,
    parameters_of_outputs,
    stock_mixture,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from torch.distributions import AffineTransform, TransformedDistribution
from torch.func import vmap
from torch.testing import assert_close

from mdn_dist import GaussianMixture
from mdn_dist._maths.algebra import reorder
from mdn_dist.data import Normalization

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
BATCHES = [(), (4,), (2, 3), (2, 1, 3)]
DIMS = {1: [[0]], 2: [[0], [1], [1, 0]], 3: [[2], [0, 2], [1, 0], [2, 0, 1]], 6: [[4, 1, 3], [5]]}
SOME = [(size, dims) for size, several in DIMS.items() for dims in several]
GIVEN = [(size, dims) for size, dims in SOME if len(dims) < size]
STROKES = {name: case for name, case in CASES.items() if case.pen is not None}
every_batch = pytest.mark.parametrize("batch", BATCHES, ids=str)


def from_parameters(batch, size, seed=0):
    return mixture_parameters(batch, size, seed=seed)


def from_outputs(batch, size, seed=0):
    """What outputs mean by the documented order and the exact maps."""
    outputs = normal(*batch, output_size(3, size, None), seed=seed, scale=0.7)
    return parameters_of_outputs(outputs, 3, size, None)[1:]


def make(source, batch, size):
    if source is from_parameters:
        return GaussianMixture(*from_parameters(batch, size))
    outputs = normal(*batch, output_size(3, size, None), seed=0, scale=0.7)
    return GaussianMixture.from_outputs(outputs, 3, event_size=size)


def stock_marginal(logits, loc, scale_tril, dims):
    """By rows and columns of covariances."""
    covariance = scale_tril @ scale_tril.mT
    kept = covariance[..., dims, :][..., dims]
    return stock_mixture(logits, loc[..., dims], torch.linalg.cholesky(kept))


def remaining(size, dims):
    return [d for d in range(size) if d not in dims]


def stock_conditional_score(parameters, dims, value):
    """The joint density over the marginal one."""
    whole = stock_mixture(*parameters).log_prob(value)
    return whole - stock_marginal(*parameters, dims).log_prob(value[..., dims])


def assert_valid(d):
    GaussianMixture(d.logits, d.loc, d.scale_tril, validate_args=True)


# Marginals


@pytest.mark.parametrize("source", [from_parameters, from_outputs])
@pytest.mark.parametrize(("size", "dims"), SOME)
@every_batch
def test_a_marginal_is_stocks_with_rows_and_columns_left_out(batch, size, dims, source):
    found = make(source, batch, size).marginal(dims)
    assert found.batch_shape == batch
    assert found.event_shape == (len(dims),)
    assert_valid(found)
    value = normal(5, *batch, len(dims), seed=10)
    expected = stock_marginal(*source(batch, size), dims).log_prob(value)
    assert_close(found.log_prob(value), expected, **CLOSE)


def test_a_marginal_is_the_integral_over_the_other_coordinates():
    d = GaussianMixture(*mixture_parameters((), 2))
    axis = torch.arange(-9, 9, 0.05, dtype=torch.float64)
    for kept in (0, 1):
        at = normal(7, 1, 1, seed=11).expand(7, len(axis), 1)
        columns = [axis.expand(7, -1).unsqueeze(-1)] * 2
        columns[kept] = at
        integral = d.log_prob(torch.cat(columns, -1)).exp().sum(-1) * 0.05
        assert_close(d.marginal(kept).log_prob(at[:, 0]).exp(), integral, **CLOSE)


def test_dims_may_be_one_integer_and_count_from_the_end():
    d = GaussianMixture(*mixture_parameters((4,), 3))
    for one, several in ((2, [2]), (-1, (2,)), ([-3, -1], (0, 2)), (range(2), [0, 1])):
        assert torch.equal(d.marginal(one).loc, d.marginal(several).loc)
        assert torch.equal(d.marginal(one).scale_tril, d.marginal(several).scale_tril)


def test_leading_coordinates_keep_their_numbers():
    d = GaussianMixture(*mixture_parameters((4,), 3))
    assert torch.equal(d.marginal([0, 1]).scale_tril, d.scale_tril[..., :2, :2])
    assert torch.equal(d.marginal([0, 1, 2]).scale_tril, d.scale_tril)


# Conditionals


@pytest.mark.parametrize("source", [from_parameters, from_outputs])
@pytest.mark.parametrize(("size", "dims"), GIVEN)
@every_batch
def test_a_conditional_is_the_joint_over_the_marginal(batch, size, dims, source):
    d = make(source, batch, size)
    others = remaining(size, dims)
    for shape in (batch, (5, *batch), (2, 1, *batch)):
        value = normal(*shape, size, seed=12, scale=1.5)
        found = d.condition(dims, value[..., dims])
        assert found.batch_shape == shape
        assert found.event_shape == (len(others),)
        assert_valid(found)
        expected = stock_conditional_score(source(batch, size), dims, value)
        assert_close(found.log_prob(value[..., others]), expected, **CLOSE)


def test_values_and_batch_broadcast():
    parameters = mixture_parameters((4, 1), 3)
    values = normal(5, 1, 3, 1, seed=13)
    found = GaussianMixture(*parameters).condition(1, values)
    assert found.batch_shape == (5, 4, 3)
    value = normal(5, 4, 3, 3, seed=14)
    value[..., 1] = values.squeeze(-1)
    expected = stock_conditional_score(parameters, [1], value)
    assert_close(found.log_prob(value[..., [0, 2]]), expected, **CLOSE)


def test_a_conditional_is_scipys():
    logits, loc, scale_tril = mixture_parameters((), 3)
    covariance, centres = (scale_tril @ scale_tril.mT).numpy(), loc.numpy()
    points = normal(20, 3, seed=15).numpy()

    def score(dims):
        log_weights = special.log_softmax(logits.numpy())
        shares = [
            w + stats.multivariate_normal(c[dims], s[np.ix_(dims, dims)]).logpdf(points[:, dims])
            for w, c, s in zip(log_weights, centres, covariance, strict=True)
        ]
        return special.logsumexp(shares, axis=0)

    expected = torch.from_numpy(score([0, 1, 2]) - score([2, 0]))
    value = torch.from_numpy(points)
    found = GaussianMixture(logits, loc, scale_tril).condition([2, 0], value[:, [2, 0]])
    assert_close(found.log_prob(value[:, [1]]), expected, **CLOSE)


def test_a_component_without_weight_stays_without():
    logits, loc, scale_tril = mixture_parameters((5,))
    shut = logits.index_fill(-1, torch.tensor([1]), -math.inf)
    values = normal(5, 1, seed=16).requires_grad_()
    found = GaussianMixture(shut, loc, scale_tril).condition(0, values)
    assert (found.logits[:, 1] == -math.inf).all()
    two = GaussianMixture(logits[:, ::2], loc[:, ::2], scale_tril[:, ::2]).condition(0, values)
    at = normal(5, 1, seed=17)
    assert_close(found.log_prob(at), two.log_prob(at), **CLOSE)
    (gradient,) = torch.autograd.grad(found.log_prob(at).sum(), values)
    assert gradient.isfinite().all()


def test_values_are_brought_to_the_parameters_precision():
    d = GaussianMixture(*mixture_parameters((4,)))
    values = normal(4, 1, seed=18).float()
    found, expected = d.condition(0, values), d.condition(0, values.double())
    assert torch.equal(found.loc, expected.loc)
    single = d.to(torch.float32)
    for known in (values, values.double(), 2, 2.0):
        found = single.condition(0, known)
        for parameter in (found.logits, found.loc, found.scale_tril, found.sample()):
            assert parameter.dtype == torch.float32


def test_one_number_conditions_every_coordinate_given():
    d, stroke = three(), CASES["stroke of 3 from outputs"].make((4,))
    for made in (d, stroke):
        found, same = made.condition([2, 0], -0.5), made.condition([2, 0], torch.full((2,), -0.5))
        assert torch.equal(found.mean, same.mean)


# Precision


def deviation_given_others(factor, i):
    """In fifty digits, by inverting the covariance."""
    with mpmath.workdps(50):
        exact = mpmath.matrix(factor.tolist())
        return float(1 / mpmath.sqrt(((exact * exact.T) ** -1)[i, i]))


def deviation_by_covariance(factor, i):
    try:
        return (factor @ factor.mT).inverse()[i, i].rsqrt().item()
    except torch.linalg.LinAlgError:  # float32 may round the covariance to a singular one
        return math.inf


@pytest.mark.parametrize("size", [2, 3, 5])
def test_narrow_correlated_components_stay_accurate_in_single_precision(size):
    # standard deviations over six orders, correlations of 1 - 1e-8 and less
    lower = torch.randn(20, size, size, generator=generator(19)).tril(-1)
    factors = lower + torch.diag_embed(10.0 ** -torch.arange(size).mul(4 / (size - 1)))
    factors = factors * 10.0 ** (torch.rand(20, size, 1, generator=generator(20)) * 6 - 5)
    naive = []
    for factor in factors:
        d = GaussianMixture(torch.zeros(1), torch.zeros(1, size), factor.unsqueeze(0))
        for i in range(size):
            others = remaining(size, [i])
            found = d.condition(others, torch.zeros(size - 1)).scale_tril.item()
            expected = deviation_given_others(factor, i)
            assert found == pytest.approx(expected, rel=3e-6)
            naive.append(abs(deviation_by_covariance(factor, i) / expected - 1))
            alone = d.marginal(i).scale_tril.item()
            assert alone == pytest.approx(factor[i].double().norm().item(), rel=1e-6)
    assert not np.nanmedian(naive) < 1e-3  # the usual way fails here


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales_whose_squares_are_no_numbers_are_reordered(scale):
    factor = mixture_parameters((7,), 3)[2]
    found = reorder(scale * factor.float(), [2, 0])
    expected = torch.linalg.cholesky((factor @ factor.mT)[..., [2, 0], :][..., [2, 0]])
    assert_close(found.double() / scale, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [[1], [2, 0], [0, 1, 2]])
def test_no_rounding_is_left_above_the_diagonal(dims):
    factor = mixture_parameters((7,), 3)[2].float()
    found = reorder(factor, dims)
    assert torch.equal(found, found.tril())
    assert (found.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_nothing_above_the_diagonal_is_read():
    logits, loc, scale_tril = mixture_parameters((4,), 3)
    junk = scale_tril + normal(3, 3, seed=34).triu(1)
    ours, theirs = (
        GaussianMixture(logits, loc, f, validate_args=False) for f in (junk, scale_tril)
    )
    values = normal(4, 1, seed=35)
    for change in (lambda d: d.marginal([2, 0]), lambda d: d.condition(1, values)):
        assert torch.equal(change(ours).logits, change(theirs).logits)
        assert torch.equal(change(ours).loc, change(theirs).loc)
        assert torch.equal(change(ours).scale_tril, change(theirs).scale_tril)


# Units


FACTORS = {
    "number": (2.0, -0.5),
    "vector": ([1.0, -2.0, 0.5], [3.0, 0.25, 8.0]),
    "negative": ([0.0, 0.0, 0.0], [-3.0, 0.25, -1.0]),
}


@pytest.mark.parametrize("name", FACTORS)
@every_batch
def test_an_affine_change_is_stocks_transform(batch, name):
    loc, scale = FACTORS[name]
    if name != "number":
        loc, scale = torch.tensor(loc).double(), torch.tensor(scale).double()
    parameters = mixture_parameters(batch, 3)
    found = GaussianMixture(*parameters).affine(loc, scale)
    assert found.batch_shape == batch
    assert_valid(found)
    transform = AffineTransform(loc, scale, event_dim=1)
    stock = TransformedDistribution(stock_mixture(*parameters), [transform], validate_args=False)
    value = normal(5, *batch, 3, seed=21, scale=3)
    assert_close(found.log_prob(value), stock.log_prob(value), **CLOSE)


def test_each_batch_element_may_have_its_own_units():
    parameters = mixture_parameters((4,), 2)
    loc, scale = normal(4, 2, seed=22), normal(5, 1, 2, seed=23)
    found = GaussianMixture(*parameters).affine(loc, scale)
    assert found.batch_shape == (5, 4)
    value = normal(5, 4, 2, seed=24)
    expected = stock_mixture(*parameters).log_prob((value - loc) / scale)
    assert_close(found.log_prob(value), expected - scale.abs().log().sum(-1), **CLOSE)


@pytest.mark.parametrize("name", ["stroke from parameters", "stroke from outputs"])
def test_points_are_scored_and_drawn_in_the_units_of_the_data(name):
    d = CASES[name].make((4,))
    units = Normalization(torch.tensor([8.0, -3.0]), torch.tensor([40.0, 20.0]))
    in_data_units = d.affine(units.loc, units.scale)
    drawn, normalised = (x.sample((6,), generator(25)) for x in (in_data_units, d))
    assert_close(drawn, units.denormalize(normalised), **CLOSE)
    expected = d.log_prob(units.normalize(drawn)) - math.log(40 * 20)
    assert_close(in_data_units.log_prob(drawn), expected, **CLOSE)


# Gradients and transforms


@pytest.mark.parametrize(("size", "dims"), [(2, [1]), (3, [0, 2]), (3, [2, 1])])
def test_gradients_of_the_algebra(size, dims):
    inputs = [p.requires_grad_() for p in mixture_parameters((), size, components=2)]
    values = normal(len(dims), seed=26).requires_grad_()
    units = [normal(size, seed=seed).requires_grad_() for seed in (27, 28)]

    def numbers(d):
        return d.logits.softmax(-1), d.loc, d.scale_tril

    def run(change, logits, loc, scale_tril, *rest):
        d = GaussianMixture(logits, loc, scale_tril.tril(), validate_args=False)
        return numbers(change(d, *rest))

    for change, rest in (
        (lambda d: d.marginal(dims), []),
        (lambda d, values: d.condition(dims, values), [values]),
        (lambda d, loc, scale: d.affine(loc, scale), units),
    ):
        assert torch.autograd.gradcheck(partial(run, change), [*inputs, *rest])
        assert torch.autograd.gradgradcheck(partial(run, change), [*inputs, *rest])


def test_a_diagonal_factor_has_finite_gradients():
    scale_tril = torch.eye(3, dtype=torch.float64).expand(2, 3, 3).clone().requires_grad_()
    d = GaussianMixture(torch.zeros(2).double(), torch.zeros(2, 3).double(), scale_tril)
    score = d.condition([2, 1], torch.ones(2).double()).log_prob(torch.ones(1).double())
    score = score + d.marginal([2, 0]).log_prob(torch.ones(2).double())
    (gradient,) = torch.autograd.grad(score, scale_tril)
    assert gradient.isfinite().all()


CHANGES = {
    "marginal": lambda d, _: d.marginal(1),
    "condition": lambda d, value: d.condition(1, value),
    "affine": lambda d, _: d.affine(1.0, -2.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(
    "name",
    ["mixture of 2", "mixture from outputs", "stroke from parameters", "stroke from outputs"],
)
def test_vmap_and_expand_and_index_are_the_batch(name, change):
    case = CASES[name]
    d, values = case.make((6,), validate_args=True), normal(6, 1, seed=29)
    expected = change(d, values)
    found = vmap(change)(d, values)
    assert type(found) is type(expected)
    assert found.event_shape == expected.event_shape
    assert found.batch_shape == (6,)
    value = expected.sample(generator=generator(30))
    score = expected.log_prob(value)
    assert_close(found.log_prob(value), score, **CLOSE)
    wide = change(d.expand((2, 6)), values)
    assert_close(wide.log_prob(value), score.expand(2, 6), **CLOSE)
    assert_close(change(d[3], values[3]).log_prob(value[3]), score[3], **CLOSE)
    with pytest.raises(ValueError, match="finite"):
        found.log_prob(torch.full_like(value, math.nan))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(half):
    d = GaussianMixture(*mixture_parameters((4,), 3)).to(torch.float32)
    values = normal(4, 2, seed=31).float()
    expected = d.condition([2, 0], values), d.marginal([2, 0])
    with torch.autocast("cpu", half):
        found = d.condition([2, 0], values), d.marginal([2, 0])
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.loc, theirs.loc)
        assert torch.equal(ours.scale_tril, theirs.scale_tril)


# What must hold for every mixture


@st.composite
def mixtures(draw):
    """A mixture in two to four coordinates, a point, and some of the coordinates."""
    size, components = draw(st.integers(2, 4)), draw(st.integers(1, 4))
    seed, batch = draw(st.integers(0, 10**6)), draw(st.sampled_from(BATCHES))
    scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))
    parameters = mixture_parameters(batch, size, components, scale, seed)
    point = normal(*batch, size, seed=seed + 7, scale=scale)
    order = draw(st.permutations(range(size)))
    return parameters, point, order[: draw(st.integers(1, size - 1))]


every_mixture = given(mixtures())
few = settings(max_examples=40, deadline=None)


def same_density(ours, theirs, point):
    assert_close(ours.log_prob(point), theirs.log_prob(point), rtol=1e-9, atol=1e-9)


@every_mixture
@few
def test_chain_rule(example):
    parameters, point, dims = example
    d, others = GaussianMixture(*parameters), remaining(point.shape[-1], dims)
    first = d.marginal(dims).log_prob(point[..., dims])
    second = d.condition(dims, point[..., dims]).log_prob(point[..., others])
    assert_close(first + second, stock_mixture(*parameters).log_prob(point), rtol=1e-9, atol=1e-9)


@every_mixture
@few
def test_neither_order_of_components_nor_a_shift_of_logits_matters(example):
    (logits, loc, scale_tril), point, dims = example
    d = GaussianMixture(logits, loc, scale_tril)
    same = GaussianMixture(logits.flip(-1) + 5, loc.flip(-2), scale_tril.flip(-3))
    others = remaining(point.shape[-1], dims)
    same_density(d.marginal(dims), same.marginal(dims), point[..., dims])
    ours, theirs = (x.condition(dims, point[..., dims]) for x in (d, same))
    same_density(ours, theirs, point[..., others])
    same_density(d.affine(2, -3), same.affine(2, -3), point)


@every_mixture
@few
def test_a_change_of_units_goes_through_every_operation(example):
    parameters, point, dims = example
    d, others = GaussianMixture(*parameters), remaining(point.shape[-1], dims)
    loc, scale = normal(2, point.shape[-1], seed=33).unbind()
    moved, there = d.affine(loc, scale), loc + scale * point
    assert_close(
        moved.log_prob(there), d.log_prob(point) - scale.abs().log().sum(), rtol=1e-9, atol=1e-9
    )
    same_density(
        moved.marginal(dims), d.marginal(dims).affine(loc[dims], scale[dims]), there[..., dims]
    )
    same_density(
        moved.condition(dims, there[..., dims]),
        d.condition(dims, point[..., dims]).affine(loc[others], scale[others]),
        there[..., others],
    )
    same_density(moved.affine(-loc / scale, 1 / scale), d, point)


@every_mixture
@few
def test_marginals_and_conditionals_commute(example):
    parameters, point, dims = example
    d, others = GaussianMixture(*parameters), remaining(point.shape[-1], dims)
    kept, values = others[-1], point[..., dims]
    one_way = d.condition(dims, values).marginal(-1)
    other_way = d.marginal([*dims, kept]).condition(range(len(dims)), values)
    same_density(one_way, other_way, point[..., [kept]])
    if len(dims) > 1:  # and given one by one, from the last to the first
        steps = d
        for dim in sorted(dims, reverse=True):
            steps = steps.condition(dim, point[..., [dim]])
        same_density(d.condition(dims, values), steps, point[..., others])


# Strokes


@pytest.mark.parametrize("name", STROKES)
def test_a_stroke_keeps_its_pen(name):
    case = STROKES[name]
    d, value = case.make((4,)), case.points(5, 4)
    last = case.size - 1
    pen = value[..., case.size :]
    pen_score = d.log_prob(value) - d.offset.log_prob(value[..., : case.size])
    coordinate = d.marginal(last)
    assert coordinate.event_shape == (1 + pen.shape[-1],)
    score = d.offset.marginal(last).log_prob(value[..., [last]]) + pen_score
    found = coordinate.log_prob(torch.cat([value[..., [last]], pen], -1))
    assert_close(found, score, **CLOSE)
    if case.size > 1:
        known = value[..., [last]]
        rest = d.condition(-1, known)
        assert rest.batch_shape == (5, 4)
        assert_close(
            rest.log_prob(torch.cat([value[..., :last], pen], -1)) + score,
            d.log_prob(value) + pen_score,
            **CLOSE,
        )
    doubled = torch.cat([2 * value[..., : case.size] + 1, pen], -1)
    expected = d.log_prob(value) - case.size * math.log(2)
    assert_close(d.affine(1.0, 2.0).log_prob(doubled), expected, **CLOSE)
    for changed in (coordinate, d.affine(1.0, 2.0)):
        assert type(changed.pen) is type(d.pen)
        assert changed.sample((3,)).shape == (3, 4, *changed.event_shape)
        assert changed.support.check(changed.sample()).all()
        assert changed.biased(0.5).tempered(0.5)[1:].batch_shape == (3,)


@pytest.mark.parametrize("name", STROKES)
def test_responsibilities_are_those_of_the_offset(name):
    case = STROKES[name]
    d, value = case.make((4,)), case.points(5, 4)
    expected = d.offset.responsibilities(value[..., : case.size])
    assert torch.equal(d.responsibilities(value), expected)
    with pytest.raises(ValueError, match="pen in value must be"):
        case.make((4,), validate_args=True).responsibilities(value + 0.5)


# Errors


def three():
    return GaussianMixture(*mixture_parameters((4,), 3), validate_args=True)


def stroke():
    return CASES["stroke from outputs"].make((4,), validate_args=True)


ERRORS = {
    "no dims": (
        lambda: three().marginal([]),
        ValueError,
        "dims must name at least one of 3 coordinates, got none",
    ),
    "out of range": (
        lambda: three().marginal([0, 3]),
        ValueError,
        r"dims must be at least -3 and less than 3, got \[0, 3\]",
    ),
    "below range": (lambda: three().marginal(-4), ValueError, "at least -3 .* got -4"),
    "twice": (
        lambda: three().condition([1, -2], torch.zeros(2)),
        ValueError,
        r"dims must name each coordinate once, got \[1, -2\]",
    ),
    "not an integer": (
        lambda: three().marginal(0.5),
        TypeError,
        "dims must be an integer or a sequence of integers, got 0.5",
    ),
    "letters": (lambda: three().marginal("xy"), TypeError, "sequence of integers, got xy"),
    "nothing left": (
        lambda: three().condition([0, 1, 2], torch.zeros(3)),
        ValueError,
        r"dims must leave at least one of 3 coordinates, got \[0, 1, 2\]",
    ),
    "values of another size": (
        lambda: three().condition([0, 1], torch.zeros(4, 3)),
        ValueError,
        r"values must end in 2 values, got shape \(4, 3\)",
    ),
    "values of another batch": (
        lambda: three().condition(0, torch.zeros(3, 1)),
        ValueError,
        r"values must broadcast against batch shape \(4,\), got shape \(3, 1\)",
    ),
    "values not finite": (
        lambda: three().condition(0, torch.tensor([math.nan])),
        ValueError,
        "values must be finite, got nan",
    ),
    "scale zero": (
        lambda: three().affine(0.0, 0.0),
        ValueError,
        "scale must be finite and not zero, got 0.0",
    ),
    "a scale zero": (
        lambda: three().affine(0.0, torch.tensor([1.0, 0.0, 1.0])),
        ValueError,
        r"scale must be finite and not zero, got 0.0 at index \(1,\)",
    ),
    "scale infinite": (lambda: three().affine(0.0, math.inf), ValueError, "scale must be finite"),
    "loc NaN": (lambda: three().affine(math.nan, 1.0), ValueError, "loc must be finite, got nan"),
    "scale of another size": (
        lambda: three().affine(0.0, torch.ones(2)),
        ValueError,
        r"scale must end in 3 values, got shape \(2,\)",
    ),
    "loc of another batch": (
        lambda: three().affine(torch.ones(3, 3), 1.0),
        ValueError,
        r"loc must broadcast against batch shape \(4,\), got shape \(3, 3\)",
    ),
    "the pen is no coordinate": (
        lambda: stroke().marginal(2),
        ValueError,
        "dims must be at least -2 and less than 2, got 2",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_argument_and_what_was_expected(name):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()
