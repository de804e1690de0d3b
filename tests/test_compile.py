"""Under torch.compile: one whole graph, for every batch and time, whatever torch validates."""

import pytest
import torch
from cases import CASES, generator, normal, output_size
from torch.distributions import Distribution
from torch.testing import assert_close

from mdn_dist import GaussianMixture, MixtureDensityHead, StrokeDistribution
from mdn_dist._maths import modes

# torch.compile makes one of its own and hides what that warns of, unless warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

SHAPES = [(4, 7), (3, 5), (6, 11), (2, 9)]
SLOW = pytest.mark.slow
FLAGS = [True, pytest.param(None, marks=SLOW), pytest.param(False, marks=SLOW)]


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch):
    # torch's first compilation turns the validation of distributions off
    monkeypatch.setattr(Distribution, "_validate_args", Distribution._validate_args)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(
    params=[
        pytest.param(True, id="torch validates"),
        pytest.param(False, id="torch does not", marks=SLOW),
    ]
)
def validation(request, monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", request.param)


def outputs(*batch, pen="bernoulli", seed=0):
    return normal(*batch, output_size(3, 2, pen), seed=seed).requires_grad_()


def points(*batch, pen="bernoulli"):
    name = {"bernoulli": "stroke from outputs", "one_hot": "pen states from outputs"}
    return CASES[name.get(pen, "mixture of 2")].points(*batch)


def build(outputs, pen, *, validate_args):
    if pen is None:
        return GaussianMixture.from_outputs(outputs, 3, validate_args=validate_args)
    return StrokeDistribution.from_outputs(outputs, 3, pen=pen, validate_args=validate_args)


def check_against_eager(function, make, backend):
    """The third and the fourth shape run the program compiled for the first two."""
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for i, shape in enumerate(SHAPES):
        inputs = make(*shape)
        with torch._dynamo.config.patch(error_on_recompile=i > 1):
            found = compiled(*inputs)
        expected = function(*inputs)
        assert_close(found, expected, rtol=1e-10, atol=1e-10)
        gradients = (torch.autograd.grad(x.sum(), inputs[0])[0] for x in (found, expected))
        assert_close(*gradients, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("validation")
@pytest.mark.parametrize("validate_args", FLAGS)
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_the_loss_is_one_graph_for_every_shape(pen, validate_args):
    def loss(outputs, value):
        return -build(outputs, pen, validate_args=validate_args).log_prob(value).mean()

    def make(*shape):
        return outputs(*shape, pen=pen), points(*shape, pen=pen)

    check_against_eager(loss, make, "aot_eager")


@pytest.mark.slow
def test_a_recompilation_is_noticed():
    def trap(outputs, value):
        return build(outputs, "bernoulli", validate_args=None).log_prob(value).sum() * int(
            outputs.shape[0]
        )

    def specialised(outputs, value):
        return trap(outputs, value) + len(set(range(outputs.shape[1])))

    with pytest.raises(torch._dynamo.exc.RecompileError):
        check_against_eager(specialised, lambda *shape: (outputs(*shape), points(*shape)), "eager")


@SLOW
@pytest.mark.usefixtures("validation")
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_mask_bias_temperature_and_mean_are_one_graph(pen):
    def loss(outputs, value):
        d = build(outputs, pen, validate_args=True).biased(0.5).tempered(0.8)
        return d.log_prob(value, mask=value[..., 0] > 0).sum() + d.mean.sum() + d.variance.sum()

    def make(*shape):
        return outputs(*shape, pen=pen), points(*shape, pen=pen)

    check_against_eager(loss, make, "eager")


@SLOW
@pytest.mark.usefixtures("validation")
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_marginals_conditionals_and_units_are_one_graph(pen):
    def loss(outputs, value):
        d = build(outputs, pen, validate_args=True)
        changed = [d.marginal(-1), d.condition(1, value[..., :1]), d.affine(1.0, -2.0)]
        chosen = [d.component_mode.sum()]
        return sum([c.mean.sum() + c.variance.sum() for c in changed] + chosen)

    def make(*shape):
        return outputs(*shape, pen=pen), points(*shape, pen=pen)

    check_against_eager(loss, make, "eager")


@SLOW
def test_the_mode_is_one_graph(monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", True)
    monkeypatch.setattr(modes, "LIMIT", 20)  # steps are unrolled; a hundred take long to compile

    def mode(outputs):
        return build(outputs, "bernoulli", validate_args=True).mode

    compiled = torch.compile(mode, fullgraph=True, backend="eager")
    rows = outputs(2, 3)
    assert_close(compiled(rows), mode(rows), rtol=1e-6, atol=1e-6)


@SLOW
# torch's tracer makes an instance of every autograd.Function that it meets
@pytest.mark.usefixtures("validation")
@pytest.mark.parametrize("clip", [None, 1e-3])
@pytest.mark.parametrize("pen", ["bernoulli", None])
def test_the_head_is_one_graph(pen, clip):
    head = MixtureDensityHead(5, 3, pen=pen, clip_outputs=clip, dtype=torch.float64)

    def loss(features, value):
        return -head(features).log_prob(value).mean()

    def make(*shape):
        return normal(*shape, 5, seed=3).requires_grad_(), points(*shape, pen=pen)

    check_against_eager(loss, make, "aot_eager")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name)
        for name, case in CASES.items()
        if not name.endswith(("from parameters", "from probabilities"))  # there torch makes the pen
    ],
)
def test_every_case_compiles_and_checks_nothing(case):
    def score(tensors, value):
        return case.build(*tensors, validate_args=True).log_prob(value)

    def checked(tensors, value):
        return case.build(*tensors, validate_args=True).expand((5, 4)).log_prob(value)

    tensors, value = case.tensors((4,)), case.points(5, 4)
    for function in (score, checked):
        compiled = torch.compile(function, fullgraph=True, backend="eager")
        assert_close(compiled(tensors, value), function(tensors, value), rtol=1e-10, atol=1e-10)
    spoilt = value.clone()
    spoilt[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"finite, got nan at index \(1, 2, 0\)"):
        score(tensors, spoilt)
    assert torch.compile(score, fullgraph=True, backend="eager")(tensors, spoilt)[1, 2].isnan()


@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_a_distribution_leaves_a_compiled_function_whole(pen):
    compiled = torch.compile(
        lambda outputs: build(outputs, pen, validate_args=True), fullgraph=True, backend="eager"
    )
    given, value = outputs(4, 7, pen=pen), points(4, 7, pen=pen)
    d, expected = compiled(given), build(given, pen, validate_args=True)
    assert type(d) is type(expected)
    assert repr(d) == repr(expected)
    assert torch.equal(d.log_prob(value), expected.log_prob(value))
    samples = (x.sample(generator=generator(1)) for x in (d, expected))
    assert torch.equal(*samples)
    with pytest.raises(ValueError, match="finite"):
        d.log_prob(torch.full_like(value, torch.nan))


@pytest.mark.slow
@pytest.mark.usefixtures("validation")
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_sampling_is_one_graph_for_every_shape(pen):
    def draw(outputs):
        return build(outputs, pen, validate_args=True).biased(0.5).sample()

    compiled = torch.compile(draw, fullgraph=True, backend="eager")
    for i, shape in enumerate(SHAPES):
        given = outputs(*shape, pen=pen)
        torch.manual_seed(i)
        with torch._dynamo.config.patch(error_on_recompile=i > 1):
            found = compiled(given)
        torch.manual_seed(i)
        assert_close(found, draw(given), rtol=1e-10, atol=1e-10)


@SLOW
# torch's lowering of `diagonal` uses a function that torch has deprecated
@pytest.mark.filterwarnings("ignore:`torch._prims_common.check` is deprecated:FutureWarning")
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_compiled_code_gives_the_numbers(pen):
    def loss(outputs, value):
        return -build(outputs, pen, validate_args=None).log_prob(value).mean()

    def make(*shape):
        return outputs(*shape, pen=pen), points(*shape, pen=pen)

    check_against_eager(loss, make, "inductor")


@pytest.mark.slow
@pytest.mark.usefixtures("validation")
def test_compiled_transforms_differentiate_twice():
    outputs = torch.randn(6 * 2 + 1, dtype=torch.float64) * 4  # some are saturated
    point = torch.tensor([0.1, 0.2, 1.0], dtype=torch.float64)

    def score(outputs):
        return StrokeDistribution.from_outputs(outputs, 2, validate_args=False).log_prob(point)

    for transform in (torch.func.grad, torch.func.hessian):
        wanted = transform(score)(outputs)
        compiled = torch.compile(transform(score), fullgraph=True, backend="aot_eager")
        assert_close(compiled(outputs), wanted)
