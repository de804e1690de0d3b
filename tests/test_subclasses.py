"""Subclasses: of tensors, which follow every operation, and of the distributions, by users."""

import copy
import pickle
from dataclasses import is_dataclass

import pytest
import torch
from cases import CASES, generator, mixture_parameters, normal
from torch.func import vmap
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from mdn_dist import Bounds, GaussianMixture, MixtureDensityHead, StrokeDistribution
from mdn_dist._fused import row_log_prob
from mdn_dist._maths.density import mixture_log_prob
from mdn_dist._maths.gradients import clip_gradient
from mdn_dist._maths.rosenblatt import inverse_rosenblatt, reparameterize
from mdn_dist.outputs import OutputMap

CLOSE = {"rtol": 1e-11, "atol": 1e-11}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


class Recording(torch.Tensor):
    """Remembers what was done to it, and so do the results."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        found = super().__torch_function__(func, types, args, kwargs or {})
        before = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, cls)]
        for each in pytree.tree_leaves(found):
            if isinstance(each, cls):
                each.history = {func.__name__}.union(*(getattr(x, "history", ()) for x in before))
        return found


class Wrapped(torch.Tensor):
    """Pyro's way: every operation is done to what is inside, and its result wrapped again."""

    @staticmethod
    def __new__(cls, inner):
        found = inner.as_subclass(cls)
        found.inner = inner
        return found

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        def inner(x):
            return x.inner if isinstance(x, cls) else x

        args, kwargs = pytree.tree_map(inner, (args, kwargs or {}))
        return pytree.tree_map_only(torch.Tensor, cls, func(*args, **kwargs))


KINDS = {"records": lambda t: t.as_subclass(Recording), "wraps": Wrapped}
every_kind = pytest.mark.parametrize("kind", KINDS)

OUTPUT_MAP = OutputMap(3, bounds=Bounds())


def parameters():
    return [p.requires_grad_() for p in mixture_parameters((4,))]


# The hand-written functions, each with the inputs by which it has a gradient.
FUNCTIONS = {
    "mixture_log_prob": (
        lambda *p: mixture_log_prob(*p, normal(4, 2, seed=5)),
        parameters,
    ),
    "row_log_prob": (
        lambda o: row_log_prob(o, normal(4, 2, seed=5), None, OUTPUT_MAP),
        lambda: [normal(4, OUTPUT_MAP.size, seed=6).requires_grad_()],
    ),
    "reparameterize": (
        lambda *p: reparameterize(*p, normal(4, 2, seed=7)),
        parameters,
    ),
    "inverse_rosenblatt": (
        lambda *p: inverse_rosenblatt(*p, torch.full((4, 2), 0.3).double()),
        parameters,
    ),
    "clip_gradient": (
        lambda x: clip_gradient(x, 0.5),
        lambda: [normal(4, 2, seed=8).requires_grad_()],
    ),
}


def plain(tensor):
    return tensor.inner if isinstance(tensor, Wrapped) else tensor.as_subclass(torch.Tensor)


@every_kind
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_hides_from_a_subclass(name, kind):
    function, make = FUNCTIONS[name]
    expected = function(*make())
    weight = normal(*expected.shape, seed=9)
    leaves, wanted = make(), make()
    found = function(*(KINDS[kind](leaf) for leaf in leaves))
    assert type(found) is type(KINDS[kind](leaves[0]))
    assert_close(plain(found), expected, **CLOSE)
    gradients = torch.autograd.grad(plain(found), leaves, weight)
    exact = torch.autograd.grad(function(*wanted), wanted, weight)
    assert_close([plain(g) for g in gradients], list(exact), **CLOSE)


@every_kind
@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives_pass_too(name, kind):
    function, make = FUNCTIONS[name]

    def twice(leaves, wrap):
        found = function(*(wrap(leaf) for leaf in leaves))
        total = (found if type(found) is torch.Tensor else plain(found)).square().sum()
        gradients = torch.autograd.grad(total, leaves, create_graph=True)
        total = sum(plain(g).square().sum() for g in gradients)
        return [plain(g) for g in torch.autograd.grad(total, leaves)]

    assert_close(twice(make(), KINDS[kind]), twice(make(), lambda leaf: leaf), **CLOSE)


@every_kind
@every_case
def test_scores_and_samples_of_every_class_are_of_the_subclass(case, kind):
    if len(case.tensors(())) > 3 and kind == "records":
        pytest.skip("torch's own pen loses what a tensor remembers")
    tensors, value = case.tensors((4,)), case.points(4)
    d = case.build(*(KINDS[kind](t) for t in tensors), validate_args=False)
    changed = [d, d.biased(0.5), d.tempered(0.5), d[1:], d.expand((2, 4)), d.marginal(0)]
    for each in changed:
        drawn = each.sample()
        assert type(drawn) is not torch.Tensor
        assert type(each.log_prob(plain(drawn))) is not torch.Tensor
    assert type(d.log_prob(value, mask=value[:, 0] > 0)) is not torch.Tensor
    assert_close(plain(d.log_prob(value)), case.stock(*tensors, value), rtol=1e-10, atol=1e-10)
    assert type(case.make((4,)).log_prob(KINDS[kind](value))) is not torch.Tensor


def test_what_is_recorded_goes_through_the_whole_way():
    head = MixtureDensityHead(5, 3, clip_outputs=1.0, dtype=torch.float64)
    features = normal(4, 5, seed=1).as_subclass(Recording)
    score = head(features).log_prob(CASES["stroke from outputs"].points(4))
    assert {"linear", "clip_gradient", "row_log_prob"} <= score.history


def test_a_mode_for_functions_sees_the_fast_way():
    """`torch.set_default_device` is such a mode: it must not cost the closed gradient."""
    outputs = normal(4, OUTPUT_MAP.size, seed=6).requires_grad_()
    value = normal(4, 2, seed=5)
    expected = row_log_prob(outputs, value, None, OUTPUT_MAP)
    with torch.device("cpu"):
        found = row_log_prob(outputs, value, None, OUTPUT_MAP)
    assert found.grad_fn.next_functions[0][0].name() == expected.grad_fn.next_functions[0][0].name()
    assert "RowLogProb" in found.grad_fn.next_functions[0][0].name()


def test_ddp_looks_into_a_users_own_mixture():
    assert is_dataclass(named())


# Classes of users


class Named(GaussianMixture):
    """A mixture with a constructor and a field of its own."""

    def __init__(self, name, *parameters):
        super().__init__(*parameters)
        self.name = name

    def nats(self, value):
        return -self.log_prob(value)


class Sketch(StrokeDistribution):
    """Strokes with a method of their own."""

    def nats(self, value):
        return -self.log_prob(value)


def named():
    return Named("mine", *mixture_parameters((4,)))


def sketch():
    offset = GaussianMixture(*mixture_parameters((4,)))
    return Sketch(offset, torch.distributions.Bernoulli(logits=normal(4, seed=5)))


USERS = {"mixture": named, "stroke": sketch}
every_user = pytest.mark.parametrize("make", USERS.values(), ids=USERS)

CHANGES = {
    "index": lambda d: d[1:][:2],
    "expand": lambda d: d.expand((2, 4)),
    "biased": lambda d: d.biased(0.5),
    "tempered": lambda d: d.tempered(0.5),
    "marginal": lambda d: d.marginal(0),
    "condition": lambda d: d.condition(0, 1.0),
    "affine": lambda d: d.affine(1.0, 2.0),
    "to": lambda d: d.to(torch.float32),
    "detach": lambda d: d.detach(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda d: pickle.loads(pickle.dumps(d)),
    "pytree": lambda d: pytree.tree_map(torch.clone, d),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@every_user
def test_what_is_made_of_a_users_own_is_a_users_own(make, change):
    changed = change(make())
    assert type(changed) is type(make())
    value = changed.sample(generator=generator(1))
    assert_close(changed.nats(value), -changed.log_prob(value))
    assert getattr(changed, "name", "mine") == "mine"


@every_user
def test_a_users_own_is_a_container_for_vmap_and_for_ddp(make):
    d = make()
    value = d.sample(generator=generator(1))
    assert_close(vmap(lambda d, v: d.nats(v))(d, value), d.nats(value))
    biased = vmap(lambda d: d.biased(0.5))(d)
    assert type(biased) is type(d)
    assert_close(biased.nats(value), d.biased(0.5).nats(value))
    leaves = pytree.tree_leaves(d)
    assert leaves
    assert all(type(leaf) is torch.Tensor for leaf in leaves)
