"""Under torch.jit.trace: the same numbers and gradients, no warning, and programs to save."""

import io

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import CASES, mixture_parameters, normal
from pyro import infer
from torch.testing import assert_close

from mdn_dist import GaussianMixture, PredictionNetwork

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

# of strokes from parameters torch makes the pen, and warns of its own checks
OURS = [
    "mixture of 3",
    "mixture from outputs",
    "stroke of 3 from outputs",
    "pen states from outputs",
]
every_case = pytest.mark.parametrize("case", [CASES[name] for name in OURS], ids=OURS)

METHODS = {
    "log_prob": lambda d, value: d.log_prob(value),
    "log_prob(mask=)": lambda d, value: d.log_prob(value, mask=value[..., 0] > 0),
    "biased": lambda d, value: d.biased(0.5).tempered(0.4).log_prob(value),
    "expand": lambda d, value: d.expand((2, 4)).log_prob(value),
    "index": lambda d, value: d[1:].log_prob(value[1:]),
    "sample": lambda d, _: d.sample((3,)),
    "mean": lambda d, _: d.mean + d.variance,
    "marginal": lambda d, _: d.marginal(-1).mean,
    "affine": lambda d, _: d.affine(1.0, 2.0).variance,
    "component_mode": lambda d, _: d.component_mode,
    "responsibilities": lambda d, value: d.responsibilities(value),
}


def traced(function, *inputs):
    """What is traced, saved and loaded again."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(function, inputs, check_trace=False), file)
    file.seek(0)
    return torch.jit.load(file)


def at_one_seed(function, *inputs):
    torch.manual_seed(7)
    return function(*inputs)


def assert_traces(function, *inputs):
    program = traced(function, *inputs)
    found, expected = (at_one_seed(f, *inputs) for f in (program, function))
    assert_close(found, expected, rtol=1e-10, atol=1e-10)
    wanted = [x for x in inputs if x.requires_grad]
    if expected.requires_grad:
        gradients = [
            torch.autograd.grad(x.square().sum(), wanted, materialize_grads=True, allow_unused=True)
            for x in (found, expected)
        ]
        assert_close(*gradients, rtol=1e-9, atol=1e-9)
    else:
        assert not found.requires_grad


@pytest.mark.parametrize("method", METHODS)
@every_case
def test_methods_are_traced_without_a_warning(case, method):
    tensors = [t.requires_grad_() for t in case.tensors((4,))]

    def function(value, *tensors):
        return METHODS[method](case.build(*tensors), value)

    assert_traces(function, case.points(4), *tensors)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rsample", "rosenblatt", "inverse_rosenblatt"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_transforms_and_pathwise_samples_are_traced_and_saved(size, method):
    leaves = [p.requires_grad_() for p in mixture_parameters((4,), size)]
    uniform = torch.full((4, size), 0.3, dtype=torch.float64)

    def function(*leaves):
        argument = (5,) if method == "rsample" else uniform
        return getattr(GaussianMixture(*leaves), method)(argument)

    assert_traces(function, *leaves)


@pytest.mark.slow
def test_a_mode_is_traced():
    leaves = mixture_parameters((), 2)
    program = traced(lambda *leaves: GaussianMixture(*leaves).mode, *leaves)
    assert_close(program(*leaves), GaussianMixture(*leaves).mode, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of torch's LSTM
def test_a_network_is_traced_for_drawing():
    network, strokes = PredictionNetwork(6, 2, 2), torch.zeros(3, 5, 3)

    class Drawn(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, strokes):
            return self.network(strokes)[0].sample()

    with torch.no_grad():
        program = traced(Drawn(), strokes)
        assert torch.equal(*(at_one_seed(f, strokes) for f in (program, Drawn())))


SEEN = torch.tensor(0.3, dtype=torch.float64)


def latent(name):
    """A guide, a model that hangs on its draw, and the parameters of the guide."""
    case = CASES[name]
    start, prior = case.tensors(()), case.make((), seed=9)

    def guide():
        parameters = [pyro.param(f"p{i}", lambda t=t: t.clone()) for i, t in enumerate(start)]
        pyro.sample("x", case.build(*parameters))

    def model():
        x = pyro.sample("x", prior)
        pyro.sample("seen", dist.Normal(x.sum(), 1), obs=SEEN)

    return model, guide


def loss_and_gradients(elbo, model, guide, seed):
    pyro.set_rng_seed(seed)
    loss = elbo.loss_and_grads(model, guide)
    parameters = [p.unconstrained() for p in pyro.get_param_store().values()]
    found = [p.grad.clone() for p in parameters]
    for p in parameters:
        p.grad = None
    return loss, found


@pytest.mark.parametrize("kind", ["Trace_ELBO", "TraceGraph_ELBO"])
@pytest.mark.parametrize("name", ["stroke from outputs", "pen states from outputs", "mixture of 2"])
def test_elbos_are_compiled_with_such_a_latent(name, kind):
    pyro.clear_param_store()
    model, guide = latent(name)
    compiled = getattr(infer, f"Jit{kind}")(ignore_jit_warnings=True)
    loss_and_gradients(compiled, model, guide, 0)  # tracing draws as well
    for seed in range(3):
        found = loss_and_gradients(compiled, model, guide, seed)
        expected = loss_and_gradients(getattr(infer, kind)(), model, guide, seed)
        assert_close(found, expected, rtol=1e-8, atol=1e-8)
    pyro.clear_param_store()


def test_an_elbo_that_enumerates_is_compiled():
    pyro.clear_param_store()
    case = CASES["stroke from outputs"]
    (outputs,), value = case.tensors((3,)), case.points()
    weights = torch.ones(3, dtype=torch.float64) / 3

    @infer.config_enumerate
    def model():
        own = pyro.param("own", outputs.clone)
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", case.build(own[z]), obs=value)

    def guide():
        """There is nothing to guess."""

    kinds = infer.JitTraceEnum_ELBO(ignore_jit_warnings=True), infer.TraceEnum_ELBO()
    found, expected = (loss_and_gradients(elbo, model, guide, 0) for elbo in kinds)
    assert_close(found, expected, rtol=1e-8, atol=1e-8)
    score = case.stock(outputs, value).logsumexp(0) - torch.tensor(3.0).log()
    assert found[0] == pytest.approx(-score.item(), rel=1e-6)
    pyro.clear_param_store()


def test_a_warning_would_be_noticed():
    def careless(x):
        return x + len(x)

    with pytest.raises((torch.jit.TracerWarning, SystemError)):
        traced(careless, normal(3, seed=1))
