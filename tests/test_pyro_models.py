"""Inside Pyro models: plates, subsampling, effect handlers, partial observation, ragged batches."""

import itertools

import pyro
import pytest
import torch
from cases import CASES, K, normal
from pyro import poutine
from pyro.infer import JitTrace_ELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch.testing import assert_close

from mdn_dist import MixtureDensityHead

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
SEQUENCES, STEPS, FEATURES = 4, 3, 5
SHAPE = (SEQUENCES, STEPS)
PENS = {None: "mixture from outputs", "bernoulli": "stroke from outputs"}
PENS["one_hot"] = "pen states from outputs"

every_pen = pytest.mark.parametrize("pen", PENS)


@pytest.fixture(autouse=True)
def fresh_pyro():
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()


class Scene:
    """A head, features, points, and the score of each point by torch's own classes."""

    def __init__(self, pen):
        self.case = CASES[PENS[pen]]
        # no limits, as in the stock twin; outputs of moderate size
        self.head = MixtureDensityHead(FEATURES, K, pen=pen, bounds=None, dtype=torch.float64)
        self.features = normal(*SHAPE, FEATURES, seed=1)
        self.points = self.case.points(*SHAPE)

    def stock(self):
        return self.case.stock(self.head.linear(self.features), self.points)


@pytest.fixture(params=PENS, ids=str)
def scene(request):
    return Scene(request.param)


def sequences(scene, points=None, index=None, subsample_size=None):
    """Time inside the event."""
    pyro.module("head", scene.head)
    with pyro.plate(
        "sequences", SEQUENCES, subsample=index, subsample_size=subsample_size
    ) as chosen:
        obs = None if points is None else points[chosen]
        return pyro.sample("x", scene.head(scene.features[chosen]).to_event(1), obs=obs)


def nested(scene, points=None, rows=None, columns=None):
    """A plate over sequences, and one over time."""
    outer = pyro.plate("sequences", SEQUENCES, subsample=rows, dim=-2)
    inner = pyro.plate("steps", STEPS, subsample=columns, dim=-1)
    with outer as i, inner as j:
        obs = None if points is None else points[i][:, j]
        return pyro.sample("x", scene.head(scene.features[i][:, j]), obs=obs)


def guide(*_):
    """There is nothing to guess."""


def log_prob(model, *args, **kwargs):
    return poutine.trace(model).get_trace(*args, **kwargs).log_prob_sum()


def test_plates_over_sequences_and_over_time_score_every_point_once(scene):
    expected = scene.stock().sum()
    for model in (sequences, nested):
        assert_close(log_prob(model, scene, scene.points), expected, **CLOSE)
        trace = poutine.trace(model).get_trace(scene)
        x = trace.nodes["x"]["value"]
        assert x.shape == scene.points.shape
        assert_close(trace.log_prob_sum(), log_prob(model, scene, x), **CLOSE)


def test_one_event_holds_it_all(scene):
    def model():
        pyro.sample("x", scene.head(scene.features).to_event(2), obs=scene.points)

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == ()
    assert_close(trace.log_prob_sum(), scene.stock().sum(), **CLOSE)


def test_a_subsample_is_scaled_up_and_right_on_average(scene):
    score = scene.stock()
    found = []
    for pair in itertools.combinations(range(SEQUENCES), 2):
        index = torch.tensor(pair)
        found.append(log_prob(sequences, scene, scene.points, index))
        assert_close(found[-1], score[index].sum() * SEQUENCES / 2, **CLOSE)
    assert_close(torch.stack(found).mean(), score.sum(), **CLOSE)
    drawn = log_prob(sequences, scene, scene.points, subsample_size=2)
    assert any(torch.isclose(drawn, value, rtol=1e-12) for value in found)


def test_nested_subsamples_multiply_their_scales(scene):
    rows, columns = torch.tensor([3, 1]), torch.tensor([2])
    found = log_prob(nested, scene, scene.points, rows, columns)
    expected = scene.stock()[rows][:, columns].sum() * (SEQUENCES / 2) * (STEPS / 1)
    assert_close(found, expected, **CLOSE)


MASK = torch.tensor([[True, True, False], [True] * 3, [False] * 3, [True, False, False]])


def test_masks_and_scales_from_outside(scene):
    score = scene.stock()
    found = log_prob(poutine.mask(nested, mask=MASK), scene, scene.points)
    assert_close(found, (score * MASK).sum(), **CLOSE)
    assert log_prob(poutine.mask(nested, mask=False), scene, scene.points) == 0
    found = log_prob(poutine.scale(sequences, scale=0.25), scene, scene.points)
    assert_close(found, score.sum() / 4, **CLOSE)


def test_conditioning_and_its_undoing(scene):
    conditioned = poutine.condition(sequences, data={"x": scene.points})
    trace = poutine.trace(conditioned).get_trace(scene)
    assert trace.nodes["x"]["is_observed"]
    assert torch.equal(trace.nodes["x"]["value"], scene.points)
    assert_close(trace.log_prob_sum(), scene.stock().sum(), **CLOSE)
    freed = poutine.trace(poutine.uncondition(conditioned)).get_trace(scene)
    assert not freed.nodes["x"]["is_observed"]
    assert not torch.equal(freed.nodes["x"]["value"], scene.points)


def test_replay_repeats_and_block_hides(scene):
    first = poutine.trace(sequences).get_trace(scene)
    second = poutine.trace(poutine.replay(sequences, trace=first)).get_trace(scene)
    assert torch.equal(second.nodes["x"]["value"], first.nodes["x"]["value"])
    assert_close(second.log_prob_sum(), first.log_prob_sum(), **CLOSE)
    hidden = poutine.trace(poutine.block(sequences, hide=["x"])).get_trace(scene, scene.points)
    assert "x" not in hidden.nodes
    assert hidden.log_prob_sum() == 0


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO])
def test_every_elbo_has_the_loss_and_gradient_of_torch(scene, elbo):
    parameters = list(scene.head.parameters())
    expected = -scene.stock().sum()
    expected_gradients = torch.autograd.grad(expected, parameters)
    loss = elbo().loss_and_grads(sequences, guide, scene, scene.points)
    assert loss == pytest.approx(expected.item(), rel=1e-10)
    assert_close([p.grad for p in parameters], list(expected_gradients), **CLOSE)


def test_pyros_jit_keeps_loss_and_gradient_for_other_tensors_too(scene):
    def model(features, points):
        pyro.module("head", scene.head)
        with pyro.plate("sequences", SEQUENCES, dim=-2), pyro.plate("steps", STEPS, dim=-1):
            pyro.sample("x", scene.head(features), obs=points)

    elbo, parameters = JitTrace_ELBO(ignore_jit_warnings=True), list(scene.head.parameters())
    for features in (scene.features, 1.5 * scene.features):
        scene.head.zero_grad()
        loss = elbo.loss_and_grads(model, guide, features, scene.points)
        expected = -scene.case.stock(scene.head.linear(features), scene.points).sum()
        # the JIT holds numbers made of sizes in single precision
        assert loss == pytest.approx(expected.item(), rel=1e-6)
        gradients = torch.autograd.grad(expected, parameters)
        assert_close([p.grad for p in parameters], list(gradients), **CLOSE)


def test_points_observed_in_part_are_scored_there_and_drawn_elsewhere(scene):
    def model(points):
        with pyro.plate("sequences", SEQUENCES, dim=-2), pyro.plate("steps", STEPS, dim=-1):
            return pyro.sample("x", scene.head(scene.features), obs=points, obs_mask=MASK)

    points = torch.where(MASK.unsqueeze(-1), scene.points, scene.case.points(*SHAPE, seed=7))
    trace = poutine.trace(model).get_trace(points)
    x = trace.nodes["x"]["value"]
    assert torch.equal(x[MASK], scene.points[MASK])
    assert torch.equal(x[~MASK], trace.nodes["x_unobserved"]["value"][~MASK])
    trace.compute_log_prob()
    score = scene.stock()
    assert_close(trace.nodes["x_observed"]["log_prob"], score * MASK, **CLOSE)
    elsewhere = scene.case.stock(scene.head.linear(scene.features), x) * ~MASK
    assert_close(trace.nodes["x_unobserved"]["log_prob"], elsewhere, **CLOSE)


LENGTHS = (3, 2, 1, 3)
REAL = torch.arange(STEPS) < torch.tensor(LENGTHS).unsqueeze(-1)  # (sequences, steps)


def ragged_by_dist(scene, features, points):
    with pyro.plate("sequences", SEQUENCES):
        pyro.sample("x", scene.head(features).mask(REAL).to_event(1), obs=points)


def ragged_by_dist_in_plates(scene, features, points):
    with pyro.plate("sequences", SEQUENCES, dim=-2), pyro.plate("steps", STEPS, dim=-1):
        pyro.sample("x", scene.head(features).mask(REAL), obs=points)


def ragged_by_poutine(scene, features, points):
    outer = pyro.plate("sequences", SEQUENCES, dim=-2)
    with outer, pyro.plate("steps", STEPS, dim=-1), poutine.mask(mask=REAL):
        pyro.sample("x", scene.head(features), obs=points)


def ragged_by_obs_mask(scene, features, points):
    outer = pyro.plate("sequences", SEQUENCES, dim=-2)
    with outer, pyro.plate("steps", STEPS, dim=-1):
        pyro.sample("x", scene.head(features), obs=points, obs_mask=REAL)


def unpadded(scene):
    """One site for each sequence, of its own length."""
    for i, length in enumerate(LENGTHS):
        d = scene.head(scene.features[i, :length])
        pyro.sample(f"x_{i}", d.to_event(1), obs=scene.points[i, :length])


def gradients_of(scene, model, *args):
    trace = poutine.trace(model).get_trace(scene, *args)
    observed = [node for node in trace.nodes.values() if node.get("is_observed")]
    trace.compute_log_prob()
    loss = sum(node["log_prob_sum"] for node in observed)
    return [loss, *torch.autograd.grad(loss, list(scene.head.parameters()))]


@pytest.mark.parametrize("padding", [torch.nan, 1.0])
@pytest.mark.parametrize("model", [ragged_by_dist, ragged_by_dist_in_plates])
def test_ragged_sequences_by_mask_have_the_gradients_of_the_unpadded_ones(scene, model, padding):
    expected = gradients_of(scene, unpadded)
    features = torch.where(REAL.unsqueeze(-1), scene.features, 2.0)
    points = torch.where(REAL.unsqueeze(-1), scene.points, padding)
    assert_close(gradients_of(scene, model, features, points), expected, **CLOSE)


# Pyro masks these after scoring, so under validation the padding has to be points.
@pytest.mark.parametrize("model", [ragged_by_poutine, ragged_by_obs_mask])
def test_masks_of_pyros_own_have_the_gradients_of_the_unpadded_ones(scene, model):
    expected = gradients_of(scene, unpadded)
    points = torch.where(REAL.unsqueeze(-1), scene.points, scene.case.points(*SHAPE, seed=7))
    assert_close(gradients_of(scene, model, scene.features, points), expected, **CLOSE)


def test_a_ragged_subsample_is_scaled_by_sequences(scene):
    def model(points, index=None):
        with pyro.plate("sequences", SEQUENCES, subsample=index) as chosen:
            d = scene.head(scene.features[chosen]).mask(REAL[chosen])
            pyro.sample("x", d.to_event(1), obs=points[chosen])

    points = torch.where(REAL.unsqueeze(-1), scene.points, torch.nan)
    index = torch.tensor([1, 2])
    expected = (scene.stock() * REAL)[index].sum() * 2
    assert_close(log_prob(model, points, index), expected, **CLOSE)


def test_a_step_at_a_time_in_a_markov_chain(scene):
    """`pyro.markov` over time, each step's features made of the point before it."""
    head, event = scene.head, scene.case.event
    into = normal(event, FEATURES, seed=9)

    def model(points=None):
        last = torch.zeros(SEQUENCES, event, dtype=torch.float64)
        with pyro.plate("sequences", SEQUENCES):
            for t in pyro.markov(range(STEPS)):
                obs = None if points is None else points[:, t]
                last = pyro.sample(f"x_{t}", head((last @ into).tanh()), obs=obs)
        return last

    before = torch.cat([torch.zeros_like(scene.points[:, :1]), scene.points[:, :-1]], 1)
    expected = scene.case.stock(head.linear((before @ into).tanh()), scene.points).sum()
    assert_close(log_prob(model, scene.points), expected, **CLOSE)
    assert poutine.trace(model).get_trace().nodes["x_2"]["value"].shape == (SEQUENCES, event)


@every_pen
def test_a_plate_of_the_wrong_size_is_named(pen):
    scene = Scene(pen)

    def model():
        with pyro.plate("sequences", SEQUENCES + 1):
            pyro.sample("x", scene.head(scene.features).to_event(1), obs=scene.points)

    with pytest.raises(ValueError, match=r"Shape mismatch|must broadcast|at site \"x\""):
        Trace_ELBO().loss(model, lambda: None)
