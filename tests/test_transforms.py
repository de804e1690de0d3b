"""Distributions under torch.func, as pytrees, through torch.export and on the move."""

import io
from functools import partial
from operator import is_

import pytest
import torch
from cases import CASES, generator, mixture_parameters, normal
from torch import nn
from torch.autograd import forward_ad
from torch.export import Dim, export
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, vmap
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from mdn_dist import Bounds, GaussianMixture, MixtureDensityHead, StrokeDistribution

CLOSE = {"rtol": 1e-9, "atol": 1e-9}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def stock(case, tensors, value):
    """The twin's score; torch's Cholesky factors are read in their lower triangle alone."""
    pairs = zip(tensors, case.event_dims, strict=True)
    return case.stock(*(t.tril() if n == 3 else t for t, n in pairs), value)


def explicit_pen_is_checked_by_torch(case):
    return len(case.tensors(())) == 4


def scorers(case):
    validate_args = not explicit_pen_is_checked_by_torch(case)

    def ours(tensors, value):
        return case.build(*tensors, validate_args=validate_args).log_prob(value)

    def theirs(tensors, value):
        return stock(case, tensors, value)

    return ours, theirs


@every_case
def test_vmap_is_the_batch(case):
    ours, theirs = scorers(case)
    tensors, value = case.tensors((6,)), case.points(6)
    if case.pen == "one_hot" and explicit_pen_is_checked_by_torch(case):
        pytest.skip("torch's own OneHotCategorical cannot be made under vmap")
    assert_close(vmap(ours)(tensors, value), theirs(tensors, value), **CLOSE)
    once = (None,) * len(tensors)
    first = tuple(t[0] for t in tensors)
    assert_close(vmap(ours, (once, 0))(first, value), theirs(first, value), **CLOSE)


@every_case
def test_derivatives_of_every_order_are_the_twins(case):
    ours, theirs = scorers(case)
    tensors, value = case.tensors(()), case.points()
    if case.pen == "one_hot" and explicit_pen_is_checked_by_torch(case):
        pytest.skip("torch's own OneHotCategorical cannot be made under these transforms")
    for transform in (grad, jacrev, jacfwd, hessian):
        found, expected = (transform(f)(tensors, value) for f in (ours, theirs))
        assert_close(found, expected, **CLOSE)
        assert any((x != 0).any() for x in pytree.tree_leaves(found))


@every_case
def test_second_derivatives_by_two_backward_passes(case):
    tensors = [t.requires_grad_() for t in case.tensors((2,))]
    value = case.points(2)
    offset = value[:, : case.size].clone().requires_grad_()

    def score(offset, *tensors):
        whole = torch.cat([offset, value[:, case.size :]], -1)
        # tanh keeps the score, and so the rounding of a difference, near 1
        return (case.build(*tensors, validate_args=False).log_prob(whole) / 10).tanh()

    assert torch.autograd.gradgradcheck(score, (offset, *tensors))


@pytest.mark.parametrize("clip", [None, 0.01])
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_gradients_of_every_point_by_itself(pen, clip):
    head = MixtureDensityHead(4, 3, pen=pen, clip_outputs=clip, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in head.named_parameters()}
    features, value = normal(5, 4, seed=1), points_for(pen, 5)

    def score(parameters, features, value):
        return functional_call(head, parameters, (features,)).log_prob(value)

    each = vmap(grad(score), (None, 0, 0))(parameters, features, value)
    for i in range(5):
        head.zero_grad()
        head(features[i]).log_prob(value[i]).backward()
        for name, parameter in head.named_parameters():
            assert_close(each[name][i], parameter.grad, **CLOSE)


def points_for(pen, *shape):
    names = {"bernoulli": "stroke from outputs", "one_hot": "pen states from outputs"}
    return CASES[names.get(pen, "mixture of 2")].points(*shape)


# Containers of tensors


@every_case
def test_taken_apart_and_put_together_it_is_the_same(case):
    d, value = case.make((4,), validate_args=True), case.points(4)
    score = d.log_prob(value)
    d.sample()
    leaves, structure = pytree.tree_flatten(d)
    assert leaves
    assert all(type(leaf) is torch.Tensor for leaf in leaves)
    same = pytree.tree_unflatten(leaves, structure)
    assert type(same) is type(d)
    assert repr(same) == repr(d)
    assert torch.equal(same.log_prob(value), score)
    for changed in (same.biased(0.5), same.tempered(0.5), same[1:], same.expand((2, 4))):
        assert changed.sample().isfinite().all()
    with pytest.raises(ValueError, match="finite"):
        same.log_prob(torch.full_like(value, torch.nan))
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(d)[0]]
    assert len(set(paths)) == len(leaves)
    for path, leaf in zip(paths, leaves, strict=True):
        found = d
        for name in path.removeprefix(".").split("."):
            found = getattr(found, name)
        assert found is leaf


@every_case
def test_a_container_holds_whatever_torch_puts_in(case):
    d = case.make((4,))
    leaves, structure = pytree.tree_flatten(d)
    for placeholder in (None, 0, object(), "x", torch.tensor(3), torch.zeros(0)):
        held = pytree.tree_unflatten([placeholder] * len(leaves), structure)
        assert type(held) is type(d)
        again, same = pytree.tree_flatten(held, is_leaf=partial(is_, placeholder))
        assert all(leaf is placeholder for leaf in again)
        assert same == structure


def test_structures_differ_in_what_is_static():
    def structure(*arguments, **named):
        return pytree.tree_structure(StrokeDistribution.from_outputs(*arguments, **named))

    outputs = torch.zeros(13)
    assert structure(outputs, 2) == structure(outputs + 1, 2)
    assert structure(outputs, 2) != structure(outputs, 2, bounds=None)
    assert structure(outputs, 2) != structure(outputs, 2, validate_args=False)


@every_case
def test_distributions_go_into_vmap_and_come_out(case):
    d, value = case.make((6,), validate_args=True), case.points(6)
    expected = d.log_prob(value)
    score = vmap(lambda d, value: d.log_prob(value))(d, value)
    assert_close(score, expected, **CLOSE)
    biased = vmap(lambda d: d.biased(0.5))(d)
    assert type(biased) is type(d)
    assert biased.batch_shape == (6,)
    assert_close(biased.log_prob(value), d.biased(0.5).log_prob(value), **CLOSE)
    with pytest.raises(ValueError, match="finite"):
        biased.log_prob(torch.full_like(value, torch.nan))


# On the move


@every_case
def test_to_changes_the_precision(case):
    d, value = case.make((4,), validate_args=True), case.points(4)
    d.log_prob(value)
    single = d.to(torch.float32)
    assert type(single) is type(d)
    assert d.sample().dtype == torch.float64
    assert single.sample().dtype == single.mean.dtype == torch.float32
    expected = case.build(*(t.float() for t in case.tensors((4,))))
    assert_close(single.log_prob(value.float()), expected.log_prob(value.float()))
    assert single.to(value).log_prob(value).dtype == torch.float64
    with pytest.raises(ValueError, match="finite"):
        single.log_prob(torch.full_like(value, torch.nan))


@every_case
def test_to_moves_every_tensor_to_the_device(case):
    moved = case.make((4,)).to("meta")
    assert moved.batch_shape == (4,)
    assert {leaf.device.type for leaf in pytree.tree_leaves(moved)} == {"meta"}
    assert moved.log_prob(case.points(4).to("meta")).shape == (4,)


@every_case
def test_detach_cuts_the_gradient_and_copies_nothing(case):
    tensors = [t.requires_grad_() for t in case.tensors((4,))]
    d, value = case.build(*tensors), case.points(4)
    d.sample()
    cut = d.detach()
    assert d.log_prob(value).requires_grad
    assert not cut.log_prob(value).requires_grad
    assert not cut.mean.requires_grad
    assert torch.equal(cut.log_prob(value), d.log_prob(value))
    for ours, theirs in zip(pytree.tree_leaves(cut), pytree.tree_leaves(d), strict=True):
        assert ours.data_ptr() == theirs.data_ptr()


# torch.export


class Parameters(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, features):
        d = self.head(features)
        if isinstance(d, GaussianMixture):
            return d.logits, d.loc, d.scale_tril
        return d.pen.logits, d.offset.logits, d.offset.loc, d.offset.scale_tril


class LogDensity(Parameters):
    def forward(self, features, value):
        return self.head(features).log_prob(value)


def saved_and_loaded(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


def exported(module, *inputs):
    sizes = {0: Dim("batch"), 1: Dim("time")}
    program = export(module, inputs, dynamic_shapes=tuple(sizes for _ in inputs))
    return saved_and_loaded(program)


def head_of(pen, size=2):
    bounds = Bounds(min_scale=0.01)
    return MixtureDensityHead(
        4, 3, size, pen, bounds=bounds, validate_args=True, dtype=torch.float64
    )


@pytest.mark.slow
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_parameters_and_log_density_are_exported_for_every_shape(pen):
    head, features, value = head_of(pen), normal(2, 9, 4, seed=2), points_for(pen, 2, 9)
    parameters = Parameters(head)
    program = exported(parameters, normal(4, 7, 4, seed=1))
    assert_close(program(features), parameters(features), **CLOSE)
    log_density = LogDensity(head)
    program = exported(log_density, normal(4, 7, 4, seed=1), points_for(pen, 4, 7))
    assert_close(program(features, value), log_density(features, value), **CLOSE)


@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_an_exported_head_gives_the_distribution(pen):
    head, features, value = head_of(pen), normal(2, 9, 4, seed=2), points_for(pen, 2, 9)
    found, expected = exported(head, normal(4, 7, 4, seed=1))(features), head(features)
    assert repr(found) == repr(expected)
    for change in (lambda d: d, lambda d: d.biased(0.5), lambda d: d[:, 0]):
        ours, theirs = change(found), change(expected)
        row = value if ours.batch_shape == (2, 9) else value[:, 0]
        assert_close(ours.log_prob(row), theirs.log_prob(row), **CLOSE)
        samples = (d.sample(generator=generator(3)) for d in (ours, theirs))
        assert_close(*samples, **CLOSE)
    with pytest.raises(ValueError, match="finite"):
        found.log_prob(torch.full_like(value, torch.nan))


def test_a_pen_with_a_single_state_is_refused():
    offset = GaussianMixture(*mixture_parameters((4,)))
    pen = torch.distributions.OneHotCategorical(logits=torch.zeros(4, 1))
    with pytest.raises(ValueError, match="pen must have two states or more, got one"):
        StrokeDistribution(offset, pen)


@every_case
def test_forward_derivatives_by_the_point_alone_are_the_gradients(case):
    d, value = case.make((3,)), case.points(3)
    offset = value[:, : case.size].clone().requires_grad_()
    direction = normal(3, case.size, seed=20)

    def score(offset):
        return d.log_prob(torch.cat([offset, value[:, case.size :]], -1))

    (gradient,) = torch.autograd.grad(score(offset).sum(), offset)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(offset.detach(), direction)
        tangent = forward_ad.unpack_dual(score(dual)).tangent
    assert_close(tangent, (gradient * direction).sum(-1), **CLOSE)
