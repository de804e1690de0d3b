"""Weight noise: where it starts, what a batch counts for, the nats of the weights, a short run."""

import pytest
import torch
from pyro import poutine

from mdn_dist import PredictionNetwork


@pytest.fixture
def example(script):
    return script("weight_noise")


@pytest.fixture
def network():
    return PredictionNetwork(6, 1, 2, clip_lstm=None, dtype=torch.float64)


@pytest.fixture
def drawings():
    made = [torch.randn(length, 3, dtype=torch.float64) for length in (5, 6, 7, 9)]
    return [torch.cat([d[:, :2], (d[:, 2:] > 0).double()], -1) for d in made]


@pytest.fixture
def noise(example, network, drawings):
    return example.WeightNoise(network, drawings, init_scale=0.075)


def test_it_starts_at_the_trained_weights_with_the_given_deviation(noise, network):
    for name, weight in network.named_parameters():
        normal = noise.posterior()[name]
        torch.testing.assert_close(normal.loc, weight, rtol=0, atol=0)
        torch.testing.assert_close(normal.scale, torch.full_like(weight, 0.075))
    for name, weight in noise.mean().named_parameters():
        torch.testing.assert_close(weight, network.state_dict()[name], rtol=0, atol=0)


def test_a_batch_counts_for_all_drawings_and_the_weights_once(example, noise, network, drawings):
    weights = {name: torch.randn_like(weight) for name, weight in network.named_parameters()}
    strokes, mask = example.batches(drawings, 2)[0]
    trace = poutine.trace(poutine.condition(noise.model, weights)).get_trace(strokes, mask)
    trace.compute_log_prob()
    network.load_state_dict(weights)
    alone = 0.0
    for row, kept in zip(strokes, mask, strict=True):
        predicted, _ = network(row[kept][None, :-1])
        alone += predicted.log_prob(row[kept][None, 1:]).sum()
    torch.testing.assert_close(trace.nodes["strokes"]["log_prob_sum"], alone * (4 / 2))
    for index, name in enumerate(weights):
        prior = torch.distributions.Normal(
            noise.model.loc[index], noise.model.log_scale[index].exp()
        )
        once = prior.log_prob(weights[name]).sum()
        torch.testing.assert_close(trace.nodes[name]["log_prob_sum"], once)


def test_copies_of_the_drawings_leave_the_weights_to_count_once(example, noise, network, drawings):
    twice = example.WeightNoise(network, drawings, init_scale=0.075, copies=2)
    weights = {name: torch.randn_like(weight) for name, weight in network.named_parameters()}
    batch = example.batches(drawings, 2)[0]
    sites = []
    for each in (noise, twice):
        trace = poutine.trace(poutine.condition(each.model, weights)).get_trace(*batch)
        trace.compute_log_prob()
        sites.append({name: node.get("log_prob_sum") for name, node in trace.nodes.items()})
    once, both = sites
    torch.testing.assert_close(both["strokes"], 2 * once["strokes"])
    torch.testing.assert_close(both["head.linear.bias"], once["head.linear.bias"])


def test_the_divergence_is_that_of_the_posterior_from_the_prior(noise, network):
    expected = 0.0
    for index, weight in enumerate(network.parameters()):
        loc, scale = noise.model.loc[index], noise.model.log_scale[index].exp()
        square = (0.075**2 + (weight - loc).square()) / scale.square()
        expected += (scale.log() - torch.tensor(0.075).log() + square / 2 - 0.5).sum().item()
    assert noise.divergence() == pytest.approx(expected, rel=1e-6)


def test_the_loss_reaches_all_that_is_trained(example, noise, drawings):
    noise.loss(*example.batches(drawings, 4)[0]).backward()
    for group in noise.parameters():
        assert all(p.grad is not None and p.grad.isfinite().all() for p in group["params"])
    assert all(p.grad is None for p in noise.model.network.parameters())


def run(example, out, monkeypatch, capsys, *options):
    monkeypatch.setattr("sys.argv", ["weight_noise.py", "--out", str(out), *options])
    example.main()
    assert all((out / f"weight_noise.{suffix}").stat().st_size > 1000 for suffix in ("svg", "png"))
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith(("trained", "retrained"))]
    return [tuple(float(each) for each in line.split()[-2:]) for line in rows]


def test_a_short_run_prints_three_rows_and_draws_a_picture(example, tmp_path, monkeypatch, capsys):
    small = ["--lines", "10", "--hidden-size", "8", "--components", "2", "--steps", "2"]
    scores = run(example, tmp_path, monkeypatch, capsys, *small)
    assert len(scores) == 3
    assert all(abs(score) < 10 for pair in scores for score in pair)


@pytest.mark.slow
def test_noise_fits_the_drawings_trained_on_less_closely(example, tmp_path, monkeypatch, capsys):
    small = ["--lines", "30", "--hidden-size", "32", "--components", "5", "--steps", "300"]
    trained, plain, noisy = run(example, tmp_path, monkeypatch, capsys, *small)
    assert plain[0] < trained[0] - 0.1  # it had more to learn by heart
    assert noisy[1] - noisy[0] < plain[1] - plain[0]
