"""One table of cases, every contract: a mixture and strokes, from outputs and from parameters."""

import copy
import math
import pickle
from functools import partial
from types import SimpleNamespace

import numpy as np
import pyro
import pytest
import torch
from cases import CASES, generator, mixture_parameters, normal, output_size
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from torch.autograd import forward_ad
from torch.autograd.functional import jacobian
from torch.distributions import Distribution, OneHotCategorical
from torch.testing import assert_close
from torch.utils._pytree import tree_map

from mdn_dist import GaussianMixture, StrokeDistribution

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
EXACT = {"rtol": 1e-12, "atol": 1e-12}
YES, NO = torch.tensor([True, False])
BATCHES = [(), (4,), (2, 3), (2, 1, 3)]

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_batch = pytest.mark.parametrize("batch", BATCHES, ids=str)


@every_batch
@every_case
def test_shapes_follow_the_sample_batch_event_rule(case, batch):
    d = case.make(batch)
    event = (case.event,)
    assert d.batch_shape == batch
    assert d.event_shape == event
    assert d.event_dim == 1
    assert d.mean.shape == d.variance.shape == (*batch, *event)
    for sample_shape in ((), (5,), (2, 5)):
        points = d.sample(torch.Size(sample_shape))
        assert points.shape == (*sample_shape, *batch, *event)
        assert d.log_prob(points).shape == (*sample_shape, *batch)
        assert d.shape(sample_shape) == points.shape
    assert d.log_prob(d.sample()[..., :1, :] if batch else d.sample()).shape == batch


@every_batch
@every_case
def test_scores_and_gradients_are_the_stock_twins(case, batch):
    tensors = [t.requires_grad_() for t in case.tensors(batch)]
    for shape in (batch, (5, *batch)):
        value = case.points(*shape).requires_grad_()
        ours, expected = case.build(*tensors).log_prob(value), case.stock(*tensors, value)
        assert_close(ours, expected, **CLOSE)
        weights = normal(*shape, seed=200)
        gradients = torch.autograd.grad(ours, [*tensors, value], weights)
        expected_gradients = torch.autograd.grad(expected, [*tensors, value], weights)
        for gradient, expected_gradient, n in zip(
            gradients[:-1], expected_gradients, case.event_dims, strict=False
        ):
            # stock solves with the lower triangle, but lets a gradient into the upper one
            wanted = expected_gradient.tril() if n == 3 else expected_gradient
            assert_close(gradient, wanted, **CLOSE)
        # the pen's value is discrete: only the offset has a derivative
        offsets = (g[..., : case.size] for g in (gradients[-1], expected_gradients[-1]))
        assert_close(*offsets, **CLOSE)


@settings(max_examples=40, deadline=None)
@given(
    shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3),
    name=st.sampled_from(sorted(CASES)),
)
def test_values_broadcast_against_the_batch(shapes, name):
    case = CASES[name]
    batch, value_batch = shapes.input_shapes
    tensors, value = case.tensors(batch), case.points(*value_batch)
    score = case.build(*tensors).log_prob(value)
    full_value = value.expand(*shapes.result_shape, case.event)
    assert score.shape == shapes.result_shape
    assert_close(score, case.stock(*tensors, full_value), **CLOSE)


@every_case
def test_expanded_distributions_score_like_the_original(case):
    for batch in ((), (3,), (1, 3)):
        d = case.make(batch)
        expanded = d.expand(torch.Size([2, 3]))
        assert type(expanded) is type(d)
        assert expanded.batch_shape == (2, 3)
        assert expanded.event_shape == d.event_shape
        value = case.points(2, 3)
        assert_close(expanded.log_prob(value), d.log_prob(value), **EXACT)
        assert expanded.sample((4,)).shape == (4, 2, 3, case.event)


@every_case
def test_expanded_batches_are_sampled_independently(case):
    points = case.make(()).expand((50,)).sample()
    assert len(points[:, 0].unique()) == 50


MASK = torch.tensor([[True, False, True], [False, True, True]])
INDICES = {
    "int": 1,
    "last": (..., 1),
    "both": (0, 2),
    "slice": (slice(None), slice(0, 2)),
    "none": None,
    "list": (slice(None), [2, 0]),
    "tensor": torch.tensor([1, 0, 1]),
    "mask": MASK,
    "row mask": torch.tensor([False, True]),
    "nothing": torch.zeros(2, 3, dtype=torch.bool),
    "everything": ...,
}


@pytest.mark.parametrize("name", INDICES)
@every_case
def test_indexed_distributions_score_like_the_original(case, name):
    if name == "nothing" and case.pen == "one_hot":
        pytest.skip("torch cannot make an empty OneHotCategorical")
    index = INDICES[name]
    d, value = case.make((2, 3)), case.points(2, 3)
    score = d.log_prob(value)
    chosen = d[index]
    assert type(chosen) is type(d)
    assert chosen.batch_shape == score[index].shape
    row = (*index, slice(None)) if isinstance(index, tuple) else (index, ..., slice(None))
    row = index if index is ... else row
    assert_close(chosen.log_prob(value[row]), score[index], **EXACT)


@every_case
def test_an_index_reaches_no_further_than_the_batch(case):
    with pytest.raises(IndexError):
        case.make((4,))[0, 0]
    with pytest.raises(IndexError):
        case.make(())[0]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
@pytest.mark.parametrize("used", [False, True])
@every_case
def test_copies_score_and_sample_the_same(case, duplicate, used):
    d, value = case.make((4,), validate_args=True), case.points(4)
    score = d.log_prob(value)
    if used:
        assert d.sample().isfinite().all()
        assert d.mean.isfinite().all()
    else:
        d = case.make((4,), validate_args=True)
    same = duplicate(d)
    assert type(same) is type(d)
    assert repr(same) == repr(d)
    assert torch.equal(same.log_prob(value), score)
    samples = (x.sample(generator=generator(1)) for x in (same, d))
    assert torch.equal(*samples)
    with pytest.raises(ValueError, match="finite"):
        same.log_prob(torch.full_like(value, math.nan))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_case
def test_precision_is_kept(case, dtype):
    tensors, value = case.tensors((4,)), case.points(4)
    d = case.build(*[t.to(dtype) for t in tensors])
    assert d.sample().dtype == dtype
    assert d.mean.dtype == d.variance.dtype == dtype
    score = d.log_prob(value.to(dtype))
    assert score.dtype == dtype
    relative = 1e-4 if dtype == torch.float32 else 1e-10
    assert_close(score.double(), case.stock(*tensors, value), rtol=relative, atol=relative)


@every_case
def test_parameters_of_several_types_take_the_widest(case):
    tensors, value = case.tensors((4,)), case.points(4)
    for i in range(min(len(tensors), 3)):
        mixed = [t.float() if j == i and len(tensors) > 1 else t for j, t in enumerate(tensors)]
        d = case.build(*mixed)
        assert d.sample().dtype == d.mean.dtype == d.log_prob(value).dtype == torch.float64
        expected = case.stock(*(t.double() for t in mixed), value)
        assert_close(d.log_prob(value), expected, **CLOSE)
    half = value.bfloat16()
    single = case.build(*(t.float() for t in tensors))
    assert_close(single.log_prob(half), single.log_prob(half.float()), rtol=0, atol=0)
    assert single.log_prob(value).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
@every_case
def test_integers_and_booleans_are_points_too(case, dtype):
    d = case.make((4,))
    value = torch.cat([torch.zeros(5, 4, case.size), case.points(5, 4)[..., case.size :]], -1)
    value[0, :, 0] = 1
    expected = case.stock(*case.tensors((4,)), value)
    assert_close(d.log_prob(value.to(dtype)), expected, **CLOSE)
    mask = torch.tensor([True, False, True, True])
    assert_close(d.log_prob(value.to(dtype), mask=mask), expected * mask, **CLOSE)
    assert_close(d.responsibilities(value.to(dtype)), d.responsibilities(value.double()), **CLOSE)
    if case.pen is None:
        assert_close(d.rosenblatt(value.to(dtype)), d.rosenblatt(value.double()), **CLOSE)


@every_case
def test_biases_and_temperatures_may_be_tensors_with_gradients(case):
    d, value = case.make((4,)), case.points(4)
    rows = torch.tensor([0.0, 0.3, 1.0, 4.0], dtype=torch.float64)
    for name, numbers in (("biased", rows), ("tempered", rows + 0.1)):
        found = getattr(d, name)(numbers)
        assert found.batch_shape == (4,)
        for i, number in enumerate(numbers.tolist()):
            expected = getattr(d[i], name)(number)
            assert_close(found[i].log_prob(value[i]), expected.log_prob(value[i]), **CLOSE)
            assert_close(found[i].mean, expected.mean, **CLOSE)
        one = numbers[1].clone().requires_grad_()
        step = 1e-6
        up, down = (getattr(d, name)(one.item() + s).log_prob(value).sum() for s in (step, -step))
        (slope,) = torch.autograd.grad(getattr(d, name)(one).log_prob(value).sum(), one)
        assert slope.item() == pytest.approx((up - down).item() / (2 * step), rel=1e-6, abs=1e-6)
        assert getattr(d, name)(numbers.view(4, 1)).batch_shape == (4, 4)
        with pytest.raises(ValueError, match=r"must broadcast against batch shape \(4,\), got"):
            getattr(d, name)(numbers[:3])
        with pytest.raises(ValueError, match="must be finite and "):
            getattr(d, name)(-numbers - 0.1)


@every_case
def test_forward_mode_and_batched_backward_give_the_jacobian(case):
    tensors, value = case.tensors((3,)), case.points(3)

    def score(*tensors):
        return case.build(*tensors, validate_args=False).log_prob(value)

    expected = jacobian(score, tensors)
    assert any((part != 0).any() for part in expected)
    assert_close(jacobian(score, tensors, vectorize=True), expected, **CLOSE)
    forward = jacobian(score, tensors, vectorize=True, strategy="forward-mode")
    assert_close(forward, expected, **CLOSE)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, torch.ones_like(t)) for t in tensors]
        tangent = forward_ad.unpack_dual(score(*duals)).tangent
    assert_close(tangent, sum(part.flatten(1).sum(1) for part in expected), **CLOSE)


def maker_of_none(case):
    """torch itself cannot make an empty OneHotCategorical."""
    if case is CASES["pen states from parameters"]:
        pytest.skip("torch cannot make an empty OneHotCategorical")
    return case.make((4,))[torch.zeros(4, dtype=torch.bool)]


@every_case
def test_an_empty_batch_is_a_batch(case):
    none, value = maker_of_none(case), case.points(0)
    event = (case.event,)
    assert none.batch_shape == (0,)
    assert none.sample().shape == none.mean.shape == none.variance.shape == (0, *event)
    assert none.sample((3,)).shape == (3, 0, *event)
    assert none.log_prob(value).shape == (0,)
    assert none.log_prob(value, mask=torch.zeros(0, dtype=torch.bool)).shape == (0,)
    assert none.mode.shape == none.component_mode.shape == (0, *event)
    assert none.biased(0.5).tempered(0.5).sample().shape == (0, *event)
    assert none.expand((2, 0)).sample().shape == (2, 0, *event)
    assert none.responsibilities(value).shape[0] == 0
    assert none.marginal(0).sample().shape[0] == 0
    if case.pen is None:
        assert none.rsample().shape == none.rosenblatt(value).shape == (0, *event)
        assert none.inverse_rosenblatt(value).shape == (0, *event)
    leaves = [t.requires_grad_() for t in case.tensors((0,))]
    gradients = torch.autograd.grad(case.build(*leaves).log_prob(value).sum(), leaves)
    assert [g.shape for g in gradients] == [t.shape for t in leaves]


@every_case
def test_what_has_no_rsample_any_more_has_none_in_any_copy(case):
    d = case.make((4,), validate_args=True)
    if not d.has_rsample:
        pytest.skip("it has none")
    d.has_rsample_(value=False)
    changes = [lambda d: d.biased(0.5), lambda d: d.tempered(0.5), lambda d: d.to(torch.float32)]
    changes += [lambda d: d.detach(), lambda d: d[1:], lambda d: d.expand((2, 4)), copy.deepcopy]
    changes += [lambda d: d.affine(0.0, 2.0), lambda d: d.marginal(0), copy.copy]
    changes += [lambda d: pickle.loads(pickle.dumps(d)), lambda d: d.mask(mask=True)]
    changes += [lambda d: tree_map(torch.clone, d)]
    for change in changes:
        assert change(d).has_rsample is False
        assert change(change(d)).has_rsample is False
    assert case.make((4,)).has_rsample is True


@every_case
def test_a_copy_is_taken_of_a_used_distribution_of_leaves(case):
    tensors = [t.requires_grad_() for t in case.tensors((4,))]
    if case.pen:
        pytest.skip("torch copies no tensor with a history, as a pen's logits have")
    d, value = case.build(*tensors), case.points(4)
    _ = d.mean, d.biased(0.5).mean, d.mode
    same = copy.deepcopy(d)
    assert torch.equal(same.log_prob(value), d.log_prob(value))
    assert same.sample().shape == d.sample().shape


ARRAYS = {
    "log_prob": lambda d, x: d.log_prob(x),
    "mask": lambda d, x: d.mask(x),
    "log_prob(mask=)": lambda d, x: d.log_prob(torch.zeros(d.event_shape), mask=x),
    "responsibilities": lambda d, x: d.responsibilities(x),
    "biased": lambda d, x: d.biased(x if not isinstance(x, float) else "0.5"),
}


@pytest.mark.parametrize("method", ARRAYS)
@pytest.mark.parametrize("given", [[0.0, 1.0], (0.0,), np.zeros((4, 3)), 0.5, None, "x"], ids=str)
@every_case
def test_what_is_no_tensor_is_named(case, given, method):
    if method == "log_prob(mask=)" and given is None:
        pytest.skip("no mask")
    got = "str" if method == "biased" and isinstance(given, float) else type(given).__name__
    with pytest.raises(TypeError, match=rf"^\w+ must be .* got {got}$"):
        ARRAYS[method](case.make((4,)), given)


@every_case
def test_an_entropy_is_refused_with_what_to_do_instead(case):
    with pytest.raises(NotImplementedError, match=r"no closed form; entropy_bounds\(\)"):
        case.make((4,)).entropy()


@every_case
def test_a_generator_makes_samples_reproducible_and_leaves_torchs_own_alone(case):
    d = case.make((4,))
    state = torch.get_rng_state()
    first, second, other = (d.sample((3,), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    first = d.sample((3,))
    torch.manual_seed(5)
    assert torch.equal(d.sample((3,)), first)
    assert not torch.equal(torch.get_rng_state(), state)


@every_case
def test_biased_and_tempered_are_of_the_same_class_and_neutral_at_0_and_1(case):
    d, value = case.make((4,)), case.points(4)
    for changed in (d.biased(1), d.tempered(0.5), d.biased(1).tempered(2)):
        assert type(changed) is type(d)
        assert changed.batch_shape == d.batch_shape
        assert not torch.equal(changed.log_prob(value), d.log_prob(value))
    for same in (d.biased(0), d.tempered(1)):
        assert torch.equal(same.log_prob(value), d.log_prob(value))


@pytest.mark.parametrize("number", [-1e-9, -math.inf, math.inf, math.nan])
@every_case
def test_invalid_biases_and_temperatures_are_refused(case, number):
    with pytest.raises(ValueError, match="bias must be finite and at least 0, got"):
        case.make().biased(number)
    with pytest.raises(ValueError, match="temperature must be finite and positive, got"):
        case.make().tempered(number)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)], ids=str)
@every_case
def test_no_method_changes_the_tensors_it_was_given(case, batch):
    tensors, value = case.tensors(batch), case.points(*batch)
    before = [t.clone() for t in (*tensors, value)]
    leaves = [t.clone().requires_grad_() for t in tensors]
    for given_tensors in (tensors, leaves):
        d = case.build(*given_tensors)
        for changed in (d, d.biased(0.5), d.tempered(0.5), d.expand((2, *batch)), d[None]):
            changed.sample()
            changed.log_prob(value)
            changed.log_prob(value, mask=NO)
            _ = changed.mean, changed.variance
    for tensor, leaf, old in zip(tensors, leaves, before[:-1], strict=True):
        assert torch.equal(tensor, old)
        assert torch.equal(leaf, old)
    assert torch.equal(value, before[-1])


@every_case
def test_validation_is_torchs_default_and_ones_own_choice_overrules_it(case, monkeypatch):
    spoilt = torch.full((case.event,), math.nan, dtype=torch.float64)
    assert case.make((), validate_args=False).log_prob(spoilt).isnan()
    with pytest.raises(ValueError, match="finite"):
        case.make(()).log_prob(spoilt)
    monkeypatch.setattr(Distribution, "_validate_args", False)
    assert case.make(()).log_prob(spoilt).isnan()
    d = case.make((), validate_args=True)
    for derived in (d, d.biased(0.5), d.tempered(0.5), d.expand((2,)), d[None]):
        with pytest.raises(ValueError, match="finite"):
            derived.log_prob(spoilt)


# Padding. Three sequences of lengths 4, 2 and 1 are scored alone, then side by side in a batch of
# (3, 4) with everything beyond their ends spoilt. Loss and gradients must be the same.

LENGTHS = (4, 2, 1)
KEPT = torch.arange(4) < torch.tensor(LENGTHS).unsqueeze(-1)  # (3, 4)


def pyro_model(d, value, mask):
    def model():
        with pyro.plate("sequences", 3, dim=-2), pyro.plate("points", 4, dim=-1):
            pyro.sample("point", d.mask(mask), obs=value)

    return pyro.poutine.trace(model).get_trace().log_prob_sum()


def pyro_event(d, value, mask):
    def model():
        pyro.sample("point", d.mask(mask).to_event(2), obs=value)

    return pyro.poutine.trace(model).get_trace().log_prob_sum()


def twice(d, value, mask):
    checkered = torch.arange(12).view(3, 4) % 2 == 0
    return d.mask(mask | checkered).mask(mask | ~checkered).log_prob(value).sum()


SCORERS = {
    "log_prob(mask=)": lambda d, value, mask: d.log_prob(value, mask=mask).sum(),
    "mask()": lambda d, value, mask: d.mask(mask).log_prob(value).sum(),
    "masked twice": twice,
    "masked by True, too": lambda d, value, mask: (
        d.mask(mask=True).mask(mask).mask(mask=True).log_prob(value).sum()
    ),
    "mask, then expand": lambda d, value, mask: (
        d.mask(mask).expand((2, 3, 4)).log_prob(value).sum() / 2
    ),
    "expand, then mask": lambda d, value, mask: (
        d.expand((2, 3, 4)).mask(mask).log_prob(value).sum() / 2
    ),
    "sample-shaped value": lambda d, value, mask: (
        d.log_prob(value.expand(2, *value.shape), mask=mask).sum() / 2
    ),
    "to_event(1)": lambda d, value, mask: d.mask(mask).to_event(1).log_prob(value).sum(),
    "score_parts": lambda d, value, mask: d.mask(mask).score_parts(value).log_prob.sum(),
    "in a model": pyro_model,
    "in a model, to_event(2)": pyro_event,
}
# On a density composed of torch's operations these let NaN into the gradients.
TRAPS = {
    "torch.where around": lambda d, value, mask: torch.where(mask, d.log_prob(value), 0.0).sum(),
    "times the mask": lambda d, value, mask: (d.log_prob(value) * mask).sum(),
}


def garbage(case, tensors):
    """Parameters that pass validation, and no network should ever give."""
    if len(tensors) == 1:  # outputs
        return [torch.full_like(tensors[0], 60.0)]
    eye = torch.eye(case.size, dtype=torch.float64)
    found = [torch.tensor(500.0), torch.tensor(1e8), 1e-9 * eye, torch.tensor(1.0)]
    return [x.double().expand_as(t) for x, t in zip(found, tensors, strict=False)]


def spoil(case, tensors, kind):
    if kind == "garbage":
        return garbage(case, tensors)
    number = {"NaN": math.nan, "inf": math.inf}[kind]
    spoilt = [torch.full_like(t, number) for t in tensors]
    if case.pen == "one_hot" and len(tensors) == 4:
        spoilt[3] = torch.zeros_like(tensors[3])  # torch's own constructor refuses NaN here
    return spoilt


def check_padding(case, scorer, kind, build):
    tensors, value = case.tensors((3, 4)), case.points(3, 4)
    loss, expected = 0.0, [torch.zeros_like(t) for t in (*tensors, value)]
    for i, length in enumerate(LENGTHS):
        inputs = [t[i, :length].clone().requires_grad_() for t in (*tensors, value)]
        alone = case.build(*inputs[:-1]).log_prob(inputs[-1]).sum()
        loss += alone.item()
        for whole, part in zip(expected, torch.autograd.grad(alone, inputs), strict=True):
            whole[i, :length] = part
    bad_value = math.inf if kind == "inf" else math.nan
    bad = [*spoil(case, tensors, kind), torch.full_like(value, bad_value)]
    padded = []
    for good, wrong in zip((*tensors, value), bad, strict=True):
        kept = KEPT.view(3, 4, *[1] * (good.dim() - 2))
        padded.append(torch.where(kept, good, wrong).requires_grad_())
    score = scorer(build(*padded[:-1]), padded[-1], KEPT)
    assert score.item() == pytest.approx(loss, rel=1e-12)
    assert_close(list(torch.autograd.grad(score, padded)), expected, **EXACT)


@pytest.mark.parametrize("kind", ["NaN", "inf", "garbage"])
@pytest.mark.parametrize("scorer", SCORERS)
@every_case
def test_padding_changes_neither_loss_nor_gradient(case, scorer, kind):
    check_padding(case, SCORERS[scorer], kind, partial(case.build, validate_args=False))


@pytest.mark.parametrize("scorer", SCORERS)
@every_case
def test_padding_changes_neither_loss_nor_gradient_under_validation(case, scorer):
    check_padding(case, SCORERS[scorer], "garbage", partial(case.build, validate_args=True))


@pytest.mark.parametrize("trap", TRAPS)
@every_case
def test_the_check_catches_the_usual_masks(case, trap):
    def build(*tensors):
        return SimpleNamespace(log_prob=partial(case.stock, *tensors))

    with pytest.raises(AssertionError):
        check_padding(case, TRAPS[trap], "NaN", build)


@pytest.mark.parametrize(
    "name", ["mixture of 2", "mixture of 3", "stroke from outputs", "pen states from outputs"]
)
def test_scores_that_are_dropped_pass_on_no_nan(name):
    # composed of torch's operations, the density of a NaN row would send back 0 * NaN
    case = CASES[name]
    tensors = [t.requires_grad_() for t in case.tensors((3, 4))]
    expected = torch.autograd.grad(case.build(*tensors).log_prob(case.points(3, 4)).sum(), tensors)
    padded = [torch.where(KEPT.view(3, 4, *[1] * (t.dim() - 2)), t, math.nan) for t in tensors]
    score = case.build(*padded, validate_args=False).log_prob(case.points(3, 4))
    for gradient, wanted in zip(
        torch.autograd.grad(score[KEPT].sum(), padded), expected, strict=True
    ):
        assert_close(gradient[KEPT], wanted[KEPT], **EXACT)
        assert (gradient[~KEPT] == 0).all()


@pytest.mark.parametrize("validate_args", [True, False])
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_padded_features_leave_a_layer_the_gradient_of_the_sequences(pen, validate_args):
    layer = torch.nn.Linear(5, output_size(2, 2, pen), dtype=torch.float64)
    features, value = normal(3, 4, 5, seed=1), CASES["stroke from outputs"].points(3, 4)
    if pen != "bernoulli":
        value = torch.cat([value[..., :2], torch.eye(3)[:1].double().expand(3, 4, 3)], -1)
    value = value if pen else value[..., :2]

    def build(outputs):
        if pen is None:
            return GaussianMixture.from_outputs(outputs, 2, validate_args=validate_args)
        return StrokeDistribution.from_outputs(outputs, 2, pen=pen, validate_args=validate_args)

    alone = sum(
        build(layer(features[i, :n])).log_prob(value[i, :n]).sum() for i, n in enumerate(LENGTHS)
    )
    expected = torch.autograd.grad(alone, list(layer.parameters()))
    features = torch.where(KEPT.unsqueeze(-1), features, 1e3).requires_grad_()
    value = torch.where(KEPT.unsqueeze(-1), value, math.nan)
    score = build(layer(features)).log_prob(value, mask=KEPT).sum()
    *gradients, by_features = torch.autograd.grad(score, [*layer.parameters(), features])
    assert score.item() == pytest.approx(alone.item(), rel=1e-12)
    assert_close(tuple(gradients), expected, **EXACT)
    assert (by_features[~KEPT] == 0).all()
    assert (by_features[KEPT] != 0).any()


@every_case
def test_a_mask_broadcasts(case):
    d, value = case.make((2, 3)), case.points(2, 3)
    mask = torch.tensor([True, False, True])
    expected = torch.where(mask, d.log_prob(value), 0.0)
    assert_close(d.log_prob(value, mask=mask), expected, **EXACT)
    assert_close(d.mask(mask).log_prob(value), expected, **EXACT)
    assert_close(d.log_prob(value, mask=YES), d.log_prob(value), **EXACT)
    assert (d.log_prob(value, mask=NO) == 0).all()


@every_case
def test_pyros_boolean_masks(case):
    d, value = case.make((4,)), case.points(4)
    assert torch.equal(d.mask(mask=True).log_prob(value), d.log_prob(value))
    assert torch.equal(d.mask(mask=False).log_prob(value), torch.zeros(4))
    assert (
        d.mask(torch.tensor([True, False, True, True])).mask(mask=False).log_prob(value) == 0
    ).all()


@every_case
def test_values_that_the_mask_leaves_out_are_not_validated_and_others_are(case):
    d, value = case.make((4,), validate_args=True), case.points(4)
    value[1] = math.nan
    mask = torch.tensor([True, False, True, True])
    assert d.log_prob(value, mask=mask)[1] == 0
    value[2] = math.nan
    for call in (lambda: d.log_prob(value, mask=mask), lambda: d.mask(mask).log_prob(value)):
        with pytest.raises(ValueError, match=r"finite, got nan at index \(2, 0\)"):
            call()


@every_case
def test_masks_that_do_not_fit_are_refused(case):
    d, value = case.make((4,)), case.points(4)
    for mask in (torch.ones(4), torch.full((4,), 0.5), torch.ones(4, dtype=torch.uint8)):
        for call in (lambda m: d.log_prob(value, mask=m), d.mask):
            with pytest.raises(TypeError, match=rf"mask must be boolean, got {mask.dtype}"):
                call(mask)
    with pytest.raises(ValueError, match=r"mask must be broadcastable to \(4,\), got \(3,\)"):
        d.log_prob(value, mask=torch.ones(3, dtype=torch.bool))


@every_case
def test_masked_distributions_sample_like_the_original(case):
    d = case.make((4,))
    masked = d.mask(torch.tensor([True, False, True, True]))
    assert masked.sample((5,)).shape == (5, 4, case.event)
    assert masked.batch_shape == d.batch_shape
    assert masked.event_shape == d.event_shape
    assert torch.equal(masked.mean, d.mean)


@every_case
def test_it_is_sampled_and_scored_inside_a_pyro_model(case):
    def model(value=None):
        with pyro.plate("points", 4):
            return pyro.sample("point", case.make(()), obs=value)

    trace = pyro.poutine.trace(model).get_trace()
    value = trace.nodes["point"]["value"]
    assert value.shape == (4, case.event)
    assert len(value[:, 0].unique()) == 4
    expected = case.stock(*case.tensors(()), value).sum()
    assert_close(trace.log_prob_sum(), expected, **CLOSE)
    loss = pyro.infer.Trace_ELBO().loss(model, lambda value: None, value)  # noqa: ARG005
    assert loss == pytest.approx(-expected.item(), rel=1e-10)


def test_pen_states_by_probabilities_score_like_their_logits():
    offset = GaussianMixture(*mixture_parameters((4,)))
    logits, value = normal(4, 3, seed=3), CASES["pen states from parameters"].points(4)
    by_logits, by_probs = (
        StrokeDistribution(offset, OneHotCategorical(**{name: parameter}))
        for name, parameter in (("logits", logits), ("probs", logits.softmax(-1)))
    )
    by_probs.sample()
    for change in (lambda d: d, lambda d: d.tempered(0.5), lambda d: d[1:]):
        first, second = (change(d).log_prob(value[-1]) for d in (by_logits, by_probs))
        assert_close(first, second, **CLOSE)
