"""What Pyro asks of a distribution, asked of every way to make ours, in batches of rank 0 to 3."""

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pytest
import torch
from cases import CASES, chi_square, mixture_parameters, normal
from pyro.distributions import MaskedDistribution
from pyro.infer.inspect import get_dependencies
from torch.testing import assert_close

from mdn_dist import GaussianMixture, StrokeDistribution

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
BATCHES = [(), (4,), (2, 3), (2, 1, 3)]
SAMPLES = [(), (5,), (2, 5)]

every_batch = pytest.mark.parametrize("batch", BATCHES, ids=str)
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def mask_of(batch):
    return torch.arange(torch.Size(batch).numel()).reshape(batch) % 2 == 0


def masked(d):
    return d.mask(mask_of(d.batch_shape))


class Wrapping(NamedTuple):
    """Some of Pyro's wrappers around a distribution, and what they are to make of it."""

    wrap: Callable[[Any], Any]
    added: tuple[int, ...] = ()  # batch dimensions in front
    events: int = 0  # at most so many of the batch dimensions become event dimensions
    kept: Callable[[tuple[int, ...]], Any] = torch.ones  # of the batch: which points count


WRAPPINGS = {
    "none": Wrapping(lambda d: d),
    "expand_by": Wrapping(lambda d: d.expand_by((2, 3)), added=(2, 3)),
    "expand": Wrapping(
        lambda d: d.expand((2, *d.batch_shape)).expand((3, 2, *d.batch_shape)), added=(3, 2)
    ),
    "to_event": Wrapping(lambda d: d.to_event(), events=3),
    "to_event(1)": Wrapping(lambda d: d.to_event(min(1, len(d.batch_shape))), events=1),
    "to_event and back": Wrapping(lambda d: d.to_event().to_event(-len(d.batch_shape))),
    "mask": Wrapping(masked, kept=mask_of),
    "mask False": Wrapping(lambda d: d.mask(mask=False), kept=torch.zeros),
    "mask, to_event, expand_by": Wrapping(
        lambda d: masked(d).to_event().expand_by((2,)), (2,), 3, mask_of
    ),
    "expand_by, mask, to_event": Wrapping(
        lambda d: d.expand_by((2,)).mask(mask_of(d.batch_shape)).to_event(len(d.batch_shape)),
        (2,),
        3,
        mask_of,
    ),
}


@pytest.mark.parametrize("name", WRAPPINGS)
@every_batch
@every_case
def test_wrapped_distributions_have_the_shapes_and_scores_that_they_should(case, batch, name):
    wrapping, tensors = WRAPPINGS[name], case.tensors(batch)
    d = wrapping.wrap(case.build(*tensors, validate_args=True))
    first_event = len(batch) - min(wrapping.events, len(batch))
    batch_shape = (*wrapping.added, *batch[:first_event])
    event_shape = (*batch[first_event:], case.event)
    assert d.batch_shape == batch_shape
    assert d.event_shape == event_shape
    assert d.event_dim == len(event_shape)
    for sample_shape in SAMPLES:
        value = d(torch.Size(sample_shape))
        assert value.shape == (*sample_shape, *batch_shape, *event_shape)
        assert d.shape(sample_shape) == value.shape
        points = case.stock(*tensors, value) * wrapping.kept(batch)
        expected = points.reshape(*sample_shape, *batch_shape, -1).sum(-1)
        score = d.log_prob(value)
        # of "mask False" Pyro makes zeros in torch's default type
        assert_close(score, expected, **CLOSE, check_dtype=name != "mask False")
        assert_close(d.score_parts(value).log_prob, score, **CLOSE)


@every_case
def test_batch_dimensions_that_are_not_there_become_no_event(case):
    d = case.make((2, 3))
    for undo in (lambda: d.to_event(3), lambda: d.to_event(-1), lambda: d.to_event(1).to_event(-2)):
        with pytest.raises(ValueError, match=r"(?i)event|reinterpreted"):
            undo()


@every_batch
@every_case
def test_support_holds_the_samples_and_nothing_outside(case, batch):
    d = case.make(batch)
    assert d.support.event_dim == type(d).support.event_dim == d.event_dim == 1
    assert d.support.is_discrete == (case.pen is not None)
    value = d.sample((3,))
    valid = d.support.check(value)
    assert valid.shape == (3, *batch)
    assert valid.all()
    spoilt = [value.clone()]
    spoilt[0][..., 0] = torch.nan
    if case.pen:
        spoilt.append(value.clone())
        spoilt[1][..., case.size :] = 0.5
    if case.pen == "one_hot":
        spoilt.append(value.clone())
        spoilt[2][..., case.size :] = 1
    for wrong in spoilt:
        assert not d.support.check(wrong).any()
    event = d.to_event()
    assert event.support.event_dim == event.event_dim == 1 + len(batch)
    assert event.support.check(value).shape == (3,)
    assert not event.support.check(spoilt[0]).any()


@every_batch
@pytest.mark.parametrize("size", [1, 2, 3])
def test_shapes_are_inferred_from_those_of_the_parameters(batch, size):
    logits, loc, scale_tril = mixture_parameters(batch, size)
    choices = [(logits, loc, scale_tril)]
    choices.append((logits, *mixture_parameters((), size)[1:]))
    choices.append((*mixture_parameters((7, *[1] * len(batch)), size)[:2], scale_tril))
    for parameters in choices:
        d = GaussianMixture(*parameters)
        shapes = dict(
            zip(("logits", "loc", "scale_tril"), (p.shape for p in parameters), strict=True)
        )
        inferred = GaussianMixture.infer_shapes(**shapes)
        assert inferred == (d.batch_shape, d.event_shape)
        assert all(isinstance(shape, torch.Size) for shape in inferred)
        tuples = {name: tuple(shape) for name, shape in shapes.items()}
        assert GaussianMixture.infer_shapes(**tuples) == inferred


def test_shapes_that_make_no_mixture_are_refused():
    with pytest.raises(ValueError, match=r"scale_tril must end in \(2, 2\), as loc ends in 2"):
        GaussianMixture.infer_shapes(logits=(3,), loc=(3, 2), scale_tril=(3, 3, 3))
    with pytest.raises(ValueError, match="batch and component dimensions must broadcast"):
        GaussianMixture.infer_shapes(logits=(4, 3), loc=(5, 3, 2), scale_tril=(3, 2, 2))


@every_case
def test_a_joint_of_distributions_infers_no_shapes_like_pyros_own(case):
    d = case.make((4,))
    if isinstance(d, StrokeDistribution):
        with pytest.raises(NotImplementedError):
            type(d).infer_shapes(offset=(4, 2), pen=(4,))


@pytest.fixture(params=[name for name, case in CASES.items() if case.size < 3])
def flat(request):
    return CASES[request.param]


def many_points(d):
    with pyro.plate("points", 20_000):
        return pyro.sample("x", d)


# Nine cases at p > 1e-5: a correct sampler fails one choice of the seed in 10,000.
def test_samples_of_a_plate_fit_the_density(flat):
    d = flat.make(())
    trace = pyro.poutine.trace(many_points).get_trace(d)
    assert chi_square(d, trace.nodes["x"]["value"], flat.size).pvalue > 1e-5


def test_the_fit_notices_another_density(flat):
    d = flat.make(())
    value = pyro.poutine.trace(many_points).get_trace(d).nodes["x"]["value"]
    assert chi_square(d.tempered(0.9), value, flat.size).pvalue < 1e-5


@every_case
def test_pickled_wrappers_score_the_same(case):
    d, value = case.make((2, 3), validate_args=True), case.points(2, 3)
    for wrapped in (
        d.to_event(1),
        masked(d),
        masked(d).to_event(2),
        d.to_event(1).expand_by((4,)),
    ):
        same = pickle.loads(pickle.dumps(wrapped))
        assert type(same) is type(wrapped)
        assert torch.equal(same.log_prob(value), wrapped.log_prob(value))
        assert same.sample().shape == wrapped.sample().shape
        with pytest.raises(ValueError, match="finite"):
            same.log_prob(value * torch.nan)


@every_case
def test_pyros_validation_is_heeded_and_ones_own_choice_overrules_it(case):
    wrong = torch.full((4, case.event), torch.nan, dtype=torch.float64)

    def score(validate_args):
        def model():
            with pyro.plate("points", 4):
                pyro.sample("x", case.make((4,), validate_args=validate_args), obs=wrong)

        return pyro.poutine.trace(model).get_trace().log_prob_sum()

    for on, validate_args in ((True, None), (True, True), (False, True)):
        with pyro.validation_enabled(on), pytest.raises(ValueError, match=r"finite, got nan"):
            score(validate_args)
    for on, validate_args in ((False, None), (False, False)):
        with pyro.validation_enabled(on):
            assert score(validate_args).isnan()
    with pyro.validation_enabled(is_validate=True), pytest.warns(UserWarning, match="NaN"):
        assert score(validate_args=False).isnan()


def whole(d):
    """Without its mask, which concerns what is summed, not what a score function multiplies."""
    return d.base_dist if isinstance(d, MaskedDistribution) else d


@every_case
def test_samples_carry_a_gradient_exactly_where_has_rsample_says_so(case):
    tensors = [t.requires_grad_() for t in case.tensors((4,))]
    d = case.build(*tensors)
    for wrapped in (d, d.to_event(1), masked(d), d.expand_by((2,))):
        assert wrapped.has_rsample == d.has_rsample
        assert wrapped().requires_grad == wrapped.has_rsample
        assert not wrapped.sample().requires_grad
        value = wrapped.sample()
        _, score_function, entropy_term = wrapped.score_parts(value)
        score = wrapped.log_prob(value)
        if wrapped.has_rsample:
            assert score_function == 0
            assert_close(entropy_term, score, **CLOSE)
        else:
            assert entropy_term == 0
            assert_close(score_function, whole(wrapped).log_prob(value), **CLOSE)
            with pytest.raises(NotImplementedError):
                wrapped.rsample()


@every_case
def test_neither_support_nor_entropy_is_enumerated(case):
    d = case.make((4,))
    assert not d.has_enumerate_support
    for method in (d.enumerate_support, d.entropy):
        with pytest.raises(NotImplementedError):
            method()


@every_case
def test_dependencies_are_traced_through_parameters_and_values(case):
    shapes = [t.shape for t in case.tensors((2,))]

    def model():
        first = pyro.sample("z", pyro.distributions.Normal(torch.zeros(shapes[0]), 1).to_event())
        rest = case.tensors((2,))[1:]
        x = pyro.sample("x", case.build(first.double(), *rest).to_event(1))
        pyro.sample("y", pyro.distributions.Normal(x.sum(), 1), obs=normal(seed=1))

    found = get_dependencies(model)["prior_dependencies"]
    assert {name: set(ups) for name, ups in found.items()} == {
        "z": {"z"},
        "x": {"z", "x"},
        "y": {"x", "y"},
    }
