import copy
import math

import numpy as np
import pytest
import torch
from cases import generator, normal, rows
from torch import nn
from torch.testing import assert_close

from mdn_dist import PredictionNetwork, StrokeDistribution, generate
from mdn_dist.networks import ClippedLSTM

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def network_of(layers=3, seed=0, **arguments):
    defaults = {"hidden_size": 5, "layers": layers, "components": 3, "dtype": torch.float64}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PredictionNetwork(**defaults | arguments)


def points(*shape, seed=0):
    value = torch.randn(*shape, 3, dtype=torch.float64, generator=generator(seed))
    value[..., 2] = (value[..., 2] > 0).double()
    return value


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in network.named_parameters()}


def assert_same_gradients(found, expected):
    """Within 1e-12, of the largest derivative where that is above 1."""
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name],
            gradient,
            rtol=1e-12,
            atol=1e-12 * max(1.0, largest),
            msg=lambda text, name=name: f"{name}: {text}",
        )


class Clamp:
    """Clip a tensor's derivative by a hook, and keep the derivatives seen."""

    def __init__(self, limit):
        self.limit = limit
        self.seen = []

    def on(self, tensor):
        tensor.register_hook(self.hook)
        return tensor

    def hook(self, gradient):
        self.seen.append(gradient)
        return gradient if self.limit is None else gradient.clamp(-self.limit, self.limit)


def unrolled(network, strokes, clip_lstm, clip_outputs):
    """The network's raw outputs, gate by gate from the equations, clipped by hooks."""
    activations, outputs_clamp = Clamp(clip_lstm), Clamp(clip_outputs)
    below, outputs = None, []
    for lstm in network.layers:
        hidden = cell = torch.zeros(len(strokes), lstm.hidden_size, dtype=strokes.dtype)
        steps = []
        for t in range(strokes.shape[1]):
            seen = strokes[:, t] if below is None else torch.cat([strokes[:, t], below[t]], 1)
            gates = seen @ lstm.weight_ih_l0.T + lstm.bias_ih_l0
            gates = gates + hidden @ lstm.weight_hh_l0.T + lstm.bias_hh_l0
            enter, forget, new, leave = gates.chunk(4, 1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = activations.on(leave.sigmoid() * cell.tanh())
            steps.append(hidden)
        below = steps
        outputs.append(torch.stack(steps, 1))
    linear = network.head.linear
    result = outputs_clamp.on(torch.cat(outputs, -1) @ linear.weight.T + linear.bias)
    return result, activations, outputs_clamp


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("recorded", [True, False])
def test_the_outputs_are_the_equations(layers, recorded):
    network, strokes = network_of(layers), points(2, 6)
    with torch.set_grad_enabled(recorded):
        distribution, _ = network(strokes)
    expected, *_ = unrolled(network, strokes, None, None)
    assert distribution.batch_shape == (2, 6)
    assert distribution.event_shape == (3,)
    torch.testing.assert_close(rows(distribution), expected, **EXACT)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_step_at_a_time_is_the_whole_sequence(layers, recorded):
    network, strokes = network_of(layers), points(2, 6)
    with torch.no_grad():
        whole, last = network(strokes)
    state = network.initial_state(2)
    with torch.set_grad_enabled(recorded):
        for t in range(6):
            one, state = network.step(strokes[:, t], state)
            assert one.batch_shape == (2,)
            torch.testing.assert_close(rows(one), rows(whole)[:, t], **EXACT)
    torch.testing.assert_close(state, last, **EXACT)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("split", [1, 4])
def test_the_state_carries_over_a_split(layers, split):
    network, strokes = network_of(layers), points(2, 6)
    whole, last = network(strokes)
    first, state = network(strokes[:, :split])
    kept = copy.deepcopy([[value.detach() for value in pair] for pair in state])
    second, end = network(strokes[:, split:], state)
    outputs = torch.cat([rows(first), rows(second)], 1)
    torch.testing.assert_close(outputs, rows(whole), **EXACT)
    torch.testing.assert_close(end, last, **EXACT)
    restarted, _ = network(strokes[:, split:])
    assert (rows(restarted) - rows(second)).abs().max() > 1e-3
    for pair, before in zip(state, kept, strict=True):
        assert torch.equal(pair[0], before[0])
        assert torch.equal(pair[1], before[1])
    loss = -first.log_prob(points(2, split)).sum() - second.log_prob(points(2, 6 - split)).sum()
    target = torch.cat([points(2, split), points(2, 6 - split)], 1)
    found = gradients(network, loss)
    assert_same_gradients(found, gradients(network, -whole.log_prob(target).sum()))


@pytest.mark.parametrize("changed", [0, 3, 5])
def test_a_point_changes_no_distribution_before_it(changed):
    network, strokes = network_of(3), points(2, 6)
    other = strokes.clone()
    other[:, changed] += 1
    before, after = rows(network(strokes)[0]), rows(network(other)[0])
    torch.testing.assert_close(before[:, :changed], after[:, :changed], **EXACT)
    moved = (before - after).abs().amax((0, 2))[changed:]
    assert (moved > 1e-6).all()


def test_sequences_of_a_batch_are_apart():
    network, strokes = network_of(3), points(3, 5)
    together = rows(network(strokes)[0])
    for row in range(3):
        alone = rows(network(strokes[row : row + 1])[0])
        torch.testing.assert_close(together[row : row + 1], alone, **EXACT)


@pytest.mark.parametrize(
    ("hidden_size", "layers", "weights"), [(900, 1, 3_367_021), (400, 3, 3_369_321)]
)
def test_the_papers_networks_have_about_3_4_million_weights(hidden_size, layers, weights):
    network = PredictionNetwork(hidden_size, layers, device="meta")
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == weights
    assert round(count / 1e6, 1) == 3.4
    assert network.head.linear.out_features == 121


def cut(network, layer):
    """Leave of the network only `layer`, its inputs from the point and its way to the outputs."""
    with torch.no_grad():
        for lstm in network.layers:
            lstm.weight_ih_l0[:, network.point_size :] = 0
        block = slice(5 * layer, 5 * layer + 5)
        kept = network.head.linear.weight[:, block].clone()
        network.head.linear.weight.zero_()
        network.head.linear.weight[:, block] = kept
    return network


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_every_layer_sees_the_point_and_is_seen_by_the_outputs(layer):
    network, strokes = cut(network_of(3), layer), points(2, 4)
    strokes.requires_grad_()
    rows(network(strokes)[0]).sum().backward()
    assert strokes.grad.abs().min() > 1e-6
    for index, lstm in enumerate(network.layers):
        used = lstm.weight_hh_l0.grad.abs().max() > 1e-6
        assert used == (index == layer)


@pytest.mark.parametrize("layer", [1, 2])
def test_every_layer_sees_the_one_below(layer):
    network, strokes = network_of(3), points(2, 4)
    below = network.layers[layer].weight_ih_l0.clone()
    strokes.requires_grad_()
    cut(network, layer)
    with torch.no_grad():
        network.layers[layer].weight_ih_l0.copy_(below)
        network.layers[layer].weight_ih_l0[:, :3] = 0  # only the layer below is left
    rows(network(strokes)[0]).sum().backward()
    assert strokes.grad.abs().min() > 1e-9
    assert network.layers[layer - 1].weight_hh_l0.grad.abs().max() > 1e-6


@pytest.mark.parametrize("clip", [None, 1e9])
def test_the_layer_is_torchs_while_nothing_is_clipped(clip):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = ClippedLSTM(4, 5, clip, dtype=torch.float64)
    stock = nn.LSTM(4, 5, batch_first=True, dtype=torch.float64)
    stock.load_state_dict(layer.state_dict())
    inputs, hidden, cell = (
        torch.randn(*shape, dtype=torch.float64, generator=generator(seed)).requires_grad_()
        for seed, shape in enumerate([(2, 6, 4), (2, 5), (2, 5)])
    )
    weight = torch.randn(2, 6, 5, dtype=torch.float64, generator=generator(9))
    output, (last_hidden, last_cell) = layer(inputs, (hidden, cell))
    expected, (stock_hidden, stock_cell) = stock(inputs, (hidden[None], cell[None]))
    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(last_hidden, stock_hidden[0], **EXACT)
    torch.testing.assert_close(last_cell, stock_cell[0], **EXACT)
    leaves = [inputs, hidden, cell]
    found = torch.autograd.grad(
        (weight * output).sum() + last_cell.square().sum(), [*leaves, *layer.parameters()]
    )
    wanted = torch.autograd.grad(
        (weight * expected).sum() + stock_cell.square().sum(), [*leaves, *stock.parameters()]
    )
    torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(
    ("scale", "clips"), [(1.0, (10.0, 100.0)), (1e6, (10.0, 100.0)), (1e6, (0.3, 5.0))]
)
def test_gradients_are_those_of_the_unrolled_network_clipped_by_hooks(layers, scale, clips):
    network = network_of(layers, clip_lstm=clips[0], clip_outputs=clips[1])
    strokes, target = points(3, 7), points(3, 7, seed=1)
    found = gradients(network, -scale * network(strokes)[0].log_prob(target).sum())
    outputs, activations, outputs_clamp = unrolled(network, strokes, *clips)
    score = StrokeDistribution.from_outputs(outputs, 3).log_prob(target).sum()
    assert_same_gradients(found, gradients(network, -scale * score))
    clipped = sum((g.abs() > clips[0]).sum() for g in activations.seen)
    clipped_outputs = sum((g.abs() > clips[1]).sum() for g in outputs_clamp.seen)
    assert len(activations.seen) == 7 * layers
    if scale > 1:
        assert clipped > 30 * layers
        assert clipped_outputs > 100
    else:
        assert clipped == clipped_outputs == 0


@pytest.mark.parametrize(("clip_lstm", "clip_outputs"), [(None, 100.0), (10.0, None), (None, None)])
def test_either_clip_can_be_switched_off(clip_lstm, clip_outputs):
    network = network_of(2, clip_lstm=clip_lstm, clip_outputs=clip_outputs)
    strokes, target = points(2, 5), points(2, 5, seed=1)
    found = gradients(network, -1e6 * network(strokes)[0].log_prob(target).sum())
    outputs, *_ = unrolled(network, strokes, clip_lstm, clip_outputs)
    score = StrokeDistribution.from_outputs(outputs, 3).log_prob(target).sum()
    assert_same_gradients(found, gradients(network, -1e6 * score))
    both = network_of(2, clip_lstm=10.0, clip_outputs=100.0)
    bounded = gradients(both, -1e6 * both(strokes)[0].log_prob(target).sum())
    name = "layers.0.weight_hh_l0"
    assert (found[name] - bounded[name]).abs().max() > 1


def test_the_outputs_clip_is_seen_in_the_biass_gradient_of_one_point():
    network, free = network_of(1), network_of(1, clip_outputs=None)
    strokes, target = points(1, 1), points(1, 1, seed=1)
    bias = [
        gradients(each, -1e6 * each(strokes)[0].log_prob(target).sum())["head.linear.bias"]
        for each in (network, free)
    ]
    assert bias[1].abs().max() > 1e4
    assert bias[0].abs().max() == 100
    torch.testing.assert_close(bias[0], bias[1].clamp(-100, 100), rtol=0, atol=1e-9)
    small = [
        gradients(each, -each(strokes)[0].log_prob(target).sum())["head.linear.bias"]
        for each in (network, free)
    ]
    torch.testing.assert_close(*small, **EXACT)


@pytest.mark.parametrize("layers", [1, 3])
def test_the_initial_state_is_zeros_for_every_layer(layers):
    state = network_of(layers).initial_state(4)
    assert len(state) == layers
    for hidden, cell in state:
        for value in (hidden, cell):
            assert torch.equal(value, torch.zeros(4, 5, dtype=torch.float64))
            assert not value.requires_grad
    network, strokes = network_of(layers), points(4, 3)
    given, _ = network(strokes, network.initial_state(4))
    assert torch.equal(rows(given), rows(network(strokes)[0]))


LENGTHS = [6, 3, 2]


@pytest.mark.parametrize("padding", [float("nan"), float("inf"), 1e300, -3.0])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_padding_under_a_mask_reaches_no_gradient(layers, padding, factor):
    network = network_of(layers)
    sequences = [points(n, seed=n) for n in LENGTHS]
    padded = torch.full((len(LENGTHS), max(LENGTHS), 3), padding, dtype=torch.float64)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    distribution, _ = network(padded[:, :-1], mask=mask[:, :-1])
    scores = distribution.log_prob(padded[:, 1:], mask=mask[:, 1:])
    found = gradients(network, -factor * scores.sum())
    alone, expected = [], None
    for sequence in sequences:
        score = network(sequence[None, :-1])[0].log_prob(sequence[None, 1:]).sum()
        alone.append(score.detach())
        each = gradients(network, -factor * score)
        if expected is None:
            expected = each
        else:
            expected = {name: value + each[name] for name, value in expected.items()}
    torch.testing.assert_close(scores.detach().sum(-1), torch.stack(alone), **EXACT)
    assert_same_gradients(found, expected)


def test_a_mask_of_ones_changes_nothing():
    network, strokes = network_of(2), points(2, 4)
    mask = torch.ones(2, 4, dtype=torch.bool)
    assert torch.equal(rows(network(strokes, mask=mask)[0]), rows(network(strokes)[0]))


def test_other_sizes_of_a_point():
    network = network_of(2, event_size=3, pen="one_hot")
    assert network.point_size == 6
    strokes = torch.zeros(2, 4, 6, dtype=torch.float64)
    strokes[..., 4] = 1
    assert network(strokes)[0].log_prob(strokes).shape == (2, 4)


def test_arguments_reach_the_head():
    network = network_of(1, bounds=None, validate_args=True, clip_outputs=7.0)
    assert network.head.output_map.bounds is None
    assert network.head.clip_outputs == 7.0
    with pytest.raises(ValueError, match="must be 0 or 1"):
        network(points(1, 1))[0].log_prob(torch.full((1, 1, 3), 0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"components": 0}, "components must be at least 1, got 0"),
        ({"event_size": 0}, "event_size must be at least 1, got 0"),
        ({"pen": "quill"}, "pen must be 'bernoulli'.*got 'quill'"),
        ({"hidden_size": 0}, "must be at least 1, got 0"),
    ],
)
def test_errors_of_the_sizes(arguments, match):
    with pytest.raises(ValueError, match=match):
        network_of(**arguments)


@pytest.mark.parametrize(
    ("strokes", "mask", "match"),
    [
        ((4, 3), None, r"strokes must have shape \(B, T, 3\), got \(4, 3\)"),
        ((1, 2, 4, 3), None, r"strokes must have shape .*got \(1, 2, 4, 3\)"),
        ((2, 4, 2), None, r"strokes must have shape .*got \(2, 4, 2\)"),
        ((2, 4, 5), None, r"strokes must have shape .*got \(2, 4, 5\)"),
        ((2, 4, 3), (2, 5), r"mask must have shape \(2, 4\), got \(2, 5\)"),
        ((2, 4, 3), (4,), r"mask must have shape \(2, 4\), got \(4,\)"),
        ((2, 4, 3), (2, 4, 1), r"mask must have shape \(2, 4\), got \(2, 4, 1\)"),
    ],
)
def test_errors_name_the_shape(strokes, mask, match):
    mask = None if mask is None else torch.ones(mask, dtype=torch.bool)
    with pytest.raises(ValueError, match=match):
        network_of()(torch.zeros(strokes, dtype=torch.float64), mask=mask)


def test_a_step_wants_one_point_of_each_sequence():
    network = network_of()
    with pytest.raises(ValueError, match="strokes must have shape"):
        network.step(torch.zeros(3, dtype=torch.float64), network.initial_state(1))


def test_a_state_dict_gives_the_same_network():
    network, other = network_of(3, seed=0), network_of(3, seed=1)
    strokes = points(2, 4)
    expected = rows(network(strokes)[0])
    assert not torch.equal(rows(other(strokes)[0]), expected)
    other.load_state_dict(network.state_dict())
    assert torch.equal(rows(other(strokes)[0]), expected)
    assert torch.equal(rows(copy.deepcopy(network)(strokes)[0]), expected)


def ragged_strokes(scale):
    strokes = torch.cat([normal(3, 20, 2, seed=1), (normal(3, 20, 1, seed=2) > 1).double()], -1)
    return strokes * torch.tensor([scale, scale, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.1, 30.0])
def test_an_initialized_network_does_not_know_the_unit(scale):
    def start(scale):
        torch.manual_seed(0)
        network = PredictionNetwork(8, layers=2, components=3, dtype=torch.float64)
        strokes = ragged_strokes(scale)
        network.initialize(strokes, generator=generator(3))
        with torch.no_grad():
            distribution, _ = network(strokes[:, :-1])
            return distribution.log_prob(strokes[:, 1:]) + 2 * math.log(scale)

    assert_close(start(scale), start(1.0), rtol=0, atol=1e-3)  # the bounds have a unit


def test_an_initialized_network_hears_its_points():
    network = PredictionNetwork(8, layers=2, components=3, dtype=torch.float64)
    strokes = ragged_strokes(1e-3)
    offsets = strokes.clone()
    offsets[..., 2] = 0
    for layer in network.initialize(strokes, generator=generator(3)).layers:
        gates = offsets @ layer.weight_ih_l0[:, :3].T
        assert 0.7 < gates.std() < 3  # about sqrt(2) standard deviations over mean sizes


def test_initializing_a_network_leaves_an_idle_coordinate_alone_and_masks():
    strokes = ragged_strokes(1.0)
    strokes[..., 1] = 0
    padded, mask = strokes.clone(), torch.ones(3, 20, dtype=torch.bool)
    mask[1, 10:] = False
    padded[~mask] = math.nan
    network = PredictionNetwork(8, layers=1, components=2, dtype=torch.float64)
    network.initialize(padded, mask, generator=generator(0))
    found = [p.clone() for p in network.parameters()]
    assert all(p.isfinite().all() for p in found)
    kept = [strokes[0], strokes[1, :10], strokes[2]]
    network.initialize(kept, generator=generator(0))
    assert_close([p.clone() for p in network.parameters()], found)


# No time, other types, other maps


def test_a_sequence_of_no_points_has_a_distribution_of_none():
    for clip in (10.0, None):
        network = PredictionNetwork(6, 2, 2, clip_lstm=clip)
        state = network.initial_state(3)
        distribution, after = network(torch.zeros(3, 0, 3), state)
        assert distribution.batch_shape == (3, 0)
        assert distribution.sample().shape == (3, 0, 3)
        for old, new in zip(state, after, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
        distribution.log_prob(torch.zeros(3, 0, 3)).sum().backward()
        with torch.no_grad():
            assert network(torch.zeros(3, 0, 3))[0].batch_shape == (3, 0)
        masked, _ = network(torch.zeros(3, 0, 3), mask=torch.zeros(3, 0, dtype=torch.bool))
        assert masked.batch_shape == (3, 0)
        assert network(torch.zeros(0, 4, 3))[0].batch_shape == (0, 4)


def test_the_initial_state_of_every_layer_is_its_own():
    state = PredictionNetwork(6, 3, 2).initial_state(2)
    values = [value for layer in state for value in layer]
    assert len({value.data_ptr() for value in values}) == 6
    values[0].add_(1)
    assert all((value == 0).all() for value in values[1:])


@pytest.mark.filterwarnings("ignore:.*quantiz:DeprecationWarning", "ignore:.*quantize:UserWarning")
def test_a_quantized_network_writes_and_is_not_initialized():
    network = PredictionNetwork(6, 2, 2)
    quantized = torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear})
    assert type(quantized.head.linear) is not torch.nn.Linear
    assert generate(quantized, 5, batch_size=2).shape == (2, 5, 3)
    with pytest.raises(ValueError, match="initialize needs a weight of its own, but Linear makes"):
        quantized.initialize(torch.zeros(1, 5, 3))


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_weights_made_of_others_are_refused_before_anything_is_set(norm):
    network = PredictionNetwork(6, 2, 2)
    getattr(torch.nn.utils.parametrizations, norm)(network.layers[1], "weight_ih_l0")
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match="initialize needs a weight_ih_l0 of its own"):
        network.initialize(torch.zeros(1, 5, 3))
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e10, 1e18])
def test_a_start_from_data_of_any_size_is_finite(size):
    offsets = size * torch.randn(4, 100, 2, generator=torch.Generator().manual_seed(1))
    strokes = torch.cat([offsets, (offsets[..., :1] > 0).float()], -1)
    network = PredictionNetwork(6, 2, 3).initialize(strokes)
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    distribution, _ = network(strokes)
    assert distribution.sample().isfinite().all()


ARGUMENTS = {
    "hidden_size": (4.0, TypeError, "hidden_size must be an integer, got 4.0"),
    "layers": (True, TypeError, "layers must be an integer, got True"),
    "components": ("2", TypeError, "components must be an integer, got '2'"),
    "event_size": (0, ValueError, "event_size must be at least 1, got 0"),
    "bounds": ((1e-3, 10), TypeError, r"bounds must be Bounds\(...\) or None, got \(0.001, 10\)"),
    "clip_outputs": (math.nan, ValueError, "clip_outputs must be positive or None, got nan"),
    "clip_lstm": (-1, ValueError, "clip_lstm must be positive or None, got -1"),
    "pen": (["x"], ValueError, "pen must be 'bernoulli', 'one_hot' or a class of pens"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_that_are_wrong_are_named(name):
    value, error, message = ARGUMENTS[name]
    with pytest.raises(error, match=message):
        PredictionNetwork(**{"hidden_size": 4, name: value})


@pytest.mark.parametrize("given", [[[0.0] * 3], np.zeros((1, 4, 3)), 3], ids=str)
def test_strokes_that_are_no_tensors_are_named(given):
    network = PredictionNetwork(4, 1, 2)
    got = type(given).__name__
    with pytest.raises(TypeError, match=f"strokes must be a torch.Tensor, got {got}"):
        network(given)
    with pytest.raises(TypeError, match=r"strokes must be a (torch\.T|t)ensor"):
        network.initialize(given)
    with pytest.raises(TypeError, match=r"mask must be boolean, got torch.float32"):
        network(torch.zeros(1, 4, 3), mask=torch.ones(1, 4))
