import math

import pytest
import torch
from torch.distributions import Bernoulli

from mdn_dist import GaussianMixture, PredictionNetwork, StrokeDistribution, generate


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def small_network(seed=0, **arguments):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PredictionNetwork(
            **{"hidden_size": 6, "layers": 2, "components": 3, "dtype": torch.float64} | arguments
        )


def points(*shape, seed=0, event=3):
    value = torch.randn(*shape, event, dtype=torch.float64, generator=seeded(seed))
    value[..., 2:] = (value[..., 2:] > 0).double()
    return value


class Counting:
    """Next point: the last one plus 1, nearly; and the flag turned over."""

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 1, dtype=torch.float64)

    def step(self, point, state):
        loc = point[:, None, :2] + 1
        scale_tril = 1e-9 * torch.eye(2, dtype=torch.float64).expand(len(point), 1, 2, 2)
        offset = GaussianMixture(torch.zeros(len(point), 1).double(), loc, scale_tril)
        return StrokeDistribution(offset, Bernoulli(1 - point[:, 2])), state


class Recording:
    """One known distribution throughout; keeps what it was given."""

    def __init__(self, distribution, first_state=None):
        self.distribution = distribution
        self.first_state = first_state
        self.seen = []

    def initial_state(self, batch_size):
        if self.first_state is not None:
            return self.first_state
        return {"count": torch.zeros(batch_size, 1, dtype=torch.float64)}

    def step(self, point, state):
        assert not torch.is_grad_enabled()
        self.seen.append(point.clone())
        if self.first_state is None:
            assert (state["count"] == len(self.seen) - 1).all()
            state = {"count": state["count"] + 1}
        return self.distribution.expand(point.shape[:1]), state


LOGITS = torch.tensor([0.3, -0.4, 0.8], dtype=torch.float64)
LOC = torch.tensor([[-2.0, 0.5], [0.0, 3.0], [1.5, -1.0]], dtype=torch.float64)
SCALE_TRIL = torch.tensor(
    [[[1.0, 0.0], [0.4, 0.5]], [[0.3, 0.0], [-0.2, 0.9]], [[0.7, 0.0], [0.6, 0.3]]],
    dtype=torch.float64,
)
FLAG_LOGIT = 0.9


def known():
    flag = Bernoulli(logits=torch.tensor(FLAG_LOGIT, dtype=torch.float64))
    return StrokeDistribution(GaussianMixture(LOGITS, LOC, SCALE_TRIL), flag)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("steps", [1, 7])
def test_shape_dtype_and_flags(batch_size, steps):
    drawn = generate(small_network(), steps, batch_size=batch_size, generator=seeded(0))
    assert drawn.shape == (batch_size, steps, 3)
    assert drawn.dtype == torch.float64
    assert not drawn.requires_grad
    assert drawn.isfinite().all()
    assert ((drawn[..., 2] == 0) | (drawn[..., 2] == 1)).all()


def test_pen_states_are_drawn_one_hot():
    drawn = generate(small_network(pen="one_hot"), 30, batch_size=3, generator=seeded(0))
    assert drawn.shape == (3, 30, 5)
    assert ((drawn[..., 2:] == 0) | (drawn[..., 2:] == 1)).all()
    assert (drawn[..., 2:].sum(-1) == 1).all()
    assert (drawn[..., 2:].sum((0, 1)) > 0).all()


def test_a_generator_makes_the_draw_reproducible_and_spares_the_global_one():
    network = small_network()
    before = torch.get_rng_state()
    first, again, other = (
        generate(network, 9, batch_size=2, generator=seeded(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not (first[..., :2] == other[..., :2]).any()
    assert not torch.equal(first[0], first[1])


def test_without_a_generator_the_global_one_decides():
    network, drawn = small_network(), []
    with torch.random.fork_rng():
        for seed in (5, 5, 6):
            torch.manual_seed(seed)
            drawn.append(generate(network, 4))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_every_point_drawn_is_the_next_input():
    drawn = generate(Counting(), 6, batch_size=2, generator=seeded(0))
    count = torch.arange(1.0, 7.0, dtype=torch.float64)
    for batch in drawn:
        torch.testing.assert_close(batch[:, 0], count, rtol=0, atol=1e-6)
        torch.testing.assert_close(batch[:, 1], count, rtol=0, atol=1e-6)
        assert batch[:, 2].tolist() == [1, 0, 1, 0, 1, 0]


def test_the_first_input_is_a_point_of_zeros_and_the_last_draw_is_not_fed():
    network = Recording(known())
    drawn = generate(network, 5, batch_size=2, generator=seeded(0))
    expected = torch.cat([torch.zeros(2, 1, 3, dtype=torch.float64), drawn[:, :-1]], 1)
    assert torch.equal(torch.stack(network.seen, 1), expected)


@pytest.mark.parametrize("shared", [True, False])
def test_a_prime_is_fed_first_and_left_out_of_the_result(shared):
    prime = points(4, seed=1) if shared else points(2, 4, seed=1)
    network = Recording(known())
    drawn = generate(network, 5, batch_size=2, prime=prime, generator=seeded(0))
    assert drawn.shape == (2, 5, 3)
    fed = torch.stack(network.seen, 1)
    for row in range(2):
        assert torch.equal(fed[row, :4], prime if shared else prime[row])
    assert torch.equal(fed[:, 4:], drawn[:, :-1])


@pytest.mark.parametrize("shared", [True, False])
def test_a_prime_equals_feeding_it_by_hand(shared):
    network = small_network()
    prime = points(4, seed=1) if shared else points(2, 4, seed=1)
    whole = torch.stack([prime, prime]) if shared else prime
    generator = seeded(8)
    with torch.no_grad():
        predicted, state = network(whole)  # all at once, while generate goes a step at a time
        point = predicted[:, -1].sample(generator=generator)
        expected = [point]
        for _ in range(2):
            predicted, state = network(point[:, None], state)
            point = predicted[:, 0].sample(generator=generator)
            expected.append(point)
    drawn = generate(network, 3, batch_size=2, prime=prime, generator=seeded(8))
    torch.testing.assert_close(drawn, torch.stack(expected, 1), rtol=0, atol=1e-12)
    unprimed = generate(network, 3, batch_size=2, generator=seeded(8))
    assert (drawn - unprimed).abs().max() > 1e-3


def softmax(values):
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def moments(bias, temperature):
    """Mean and variance (3) of the known distribution after both changes, in plain Python."""
    weights = softmax([v * (1 + bias) / temperature for v in LOGITS.tolist()])
    factor = math.exp(-2 * bias) * temperature
    mean, variance = [], []
    for d in range(2):
        locs = LOC[:, d].tolist()
        within = [factor * sum(v * v for v in row[d]) for row in SCALE_TRIL.tolist()]
        centre = sum(w * m for w, m in zip(weights, locs, strict=True))
        mean.append(centre)
        spread = zip(weights, locs, within, strict=True)
        variance.append(sum(w * ((m - centre) ** 2 + s) for w, m, s in spread))
    share = 1 / (1 + math.exp(-FLAG_LOGIT / temperature))
    both = [*mean, share], [*variance, share * (1 - share)]
    return tuple(torch.tensor(values, dtype=torch.float64) for values in both)


@pytest.mark.parametrize(
    ("bias", "temperature"), [(0.0, 1.0), (0.8, 1.0), (0.0, 0.4), (0.0, 2.0), (0.5, 0.5)]
)
def test_bias_and_temperature_are_those_of_the_distribution(bias, temperature):
    # 6 moments within 5 standard errors, estimated from the draws: 4e-6 of false alarms a case.
    drawn = generate(
        Recording(known()),
        50,
        batch_size=800,
        bias=bias,
        temperature=temperature,
        generator=seeded(2),
    ).flatten(0, 1)
    mean, variance = moments(bias, temperature)
    root = math.sqrt(len(drawn))
    squares = (drawn - mean).square()
    assert ((drawn.mean(0) - mean).abs() < 5 * variance.sqrt() / root).all()
    assert ((squares.mean(0) - variance).abs() < 5 * squares.std(0) / root).all()


@pytest.mark.parametrize(("bias", "temperature"), [(0.8, 1.0), (0.0, 0.4), (0.5, 2.0)])
def test_bias_and_temperature_draw_what_a_distribution_made_so_by_hand_draws(bias, temperature):
    made = StrokeDistribution(
        GaussianMixture(
            LOGITS * (1 + bias) / temperature,
            LOC,
            SCALE_TRIL * math.exp(-bias) * math.sqrt(temperature),
        ),
        Bernoulli(logits=torch.tensor(FLAG_LOGIT / temperature, dtype=torch.float64)),
    )
    expected = generate(Recording(made), 5, batch_size=50, generator=seeded(4))
    found = generate(
        Recording(known()),
        5,
        batch_size=50,
        bias=bias,
        temperature=temperature,
        generator=seeded(4),
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_network_needs_no_more_than_the_protocol_and_says_its_point_size():
    class PenStates:
        point_size = 5

        def initial_state(self, batch_size):
            return torch.zeros(batch_size, 1)

        def step(self, point, state):
            assert point.shape[1:] == (5,)
            outputs = torch.zeros(len(point), 9)
            return StrokeDistribution.from_outputs(outputs, 1, pen="one_hot"), state

    drawn = generate(PenStates(), 4, batch_size=3, generator=seeded(0))
    assert drawn.shape == (3, 4, 5)
    assert drawn.dtype == torch.float32


@pytest.mark.parametrize("state", [(), {}, 0, "start", torch.zeros(2, dtype=torch.int64)])
def test_a_state_without_real_numbers_is_carried_too(state):
    class Stateless:
        def initial_state(self, batch_size):
            assert batch_size == 2
            return state

        def step(self, point, state_before):
            assert state_before is state
            return StrokeDistribution.from_outputs(torch.zeros(len(point), 7), 1), state

    assert generate(Stateless(), 2, batch_size=2).shape == (2, 2, 3)


def test_the_network_is_left_alone():
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    generate(network, 3, bias=1.0, temperature=0.5, generator=seeded(0))
    assert network.training
    assert torch.is_grad_enabled()
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert parameter.requires_grad


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": -3}, "batch_size must be at least 1, got -3"),
        ({"prime": torch.zeros(3)}, r"prime must be \(P, event\).*got \(3,\)"),
        ({"prime": torch.zeros(0, 3)}, r"prime must be .*got \(0, 3\)"),
        ({"prime": torch.zeros(1, 0, 3)}, r"prime must be .*got \(1, 0, 3\)"),
        ({"prime": torch.zeros(1, 1, 2, 3)}, r"prime must be .*got \(1, 1, 2, 3\)"),
        ({"prime": torch.zeros(2, 4, 3)}, "prime must hold batch_size = 1 sequences, got 2"),
        ({"prime": torch.zeros(4, 2)}, r"strokes must have shape \(B, T, 3\), got \(1, 1, 2\)"),
        ({"bias": -0.1}, "bias must be finite and at least 0, got -0.1"),
        ({"bias": math.nan}, "bias must be finite"),
        ({"temperature": 0.0}, "temperature must be finite and positive, got 0.0"),
        ({"temperature": -1.0}, "temperature must be finite and positive"),
        ({"temperature": math.inf}, "temperature must be finite and positive, got inf"),
    ],
)
def test_errors_name_the_argument(arguments, match):
    with pytest.raises(ValueError, match=match):
        generate(small_network(), **{"steps": 2, **arguments})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_networks_of_any_type_write_and_go_on_from_points_of_any_type(dtype):
    network = small_network(dtype=dtype)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    for prime in (None, points(4), points(4).float(), points(2, 4).bfloat16(), points(4).long()):
        drawn = generate(network, 5, batch_size=2, prime=prime, bias=0.3, generator=seeded(1))
        assert drawn.dtype == expected
        assert drawn.isfinite().all()


def test_a_prime_of_more_digits_than_the_network_is_read_in_the_networks_type():
    network = small_network(dtype=torch.float32)
    written = [
        generate(network, 5, prime=p, generator=seeded(1)) for p in (points(4), points(4).float())
    ]
    assert torch.equal(*written)


def test_a_bias_and_a_temperature_may_be_given_a_row():
    network = small_network()
    bias, temperature = torch.tensor([0.0, 30.0]), torch.tensor([1.0, 0.5])
    drawn = generate(network, 3, batch_size=2, bias=bias, temperature=temperature)
    assert drawn.shape == (2, 3, 3)
    tidy = [generate(network, 1, batch_size=2, bias=bias)[:, 0, :2] for _ in range(2)]
    assert not torch.equal(tidy[0][0], tidy[1][0])
    torch.testing.assert_close(tidy[0][1], tidy[1][1])


WRONG = {
    "a head": (lambda: small_network().head, {}, TypeError, "network must have .* got Mixture"),
    "steps": (small_network, {"steps": 5.0}, TypeError, "steps must be an integer, got 5.0"),
    "no steps": (small_network, {"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    "a batch": (small_network, {"batch_size": "2"}, TypeError, "batch_size must be an integer"),
    "a list": (
        small_network,
        {"prime": [[0.0] * 3]},
        TypeError,
        "prime must be a torch.Tensor, got list",
    ),
    "a bias": (small_network, {"bias": -1.0}, ValueError, "bias must be finite and at least 0"),
    "text": (small_network, {"bias": "1"}, TypeError, "bias must be a number or a tensor, got str"),
    "cold": (small_network, {"temperature": 0}, ValueError, "temperature must be finite and pos"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_before_anything_is_drawn(name):
    make, arguments, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        generate(make(), **{"steps": 5} | arguments)
