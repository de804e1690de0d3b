"""What a policy learns from is right, and a mixture learns it."""

import pytest
import torch


@pytest.fixture
def example(script):
    return script("policy")


def test_the_reward_is_a_density_on_the_square(example):
    axis = torch.linspace(-1, 1, 401).double()
    grid = torch.cartesian_prod(axis, axis)
    for state, inside in ((0.0, 1.0), (-1.0, 1.0), (1.0, 0.9936)):  # there, 2.5 widths to the wall
        density = example.reward(torch.tensor([[state]]).double(), grid).exp()
        assert density.sum().item() / 200**2 == pytest.approx(inside, abs=2e-3)


def test_the_slope_is_autograds(example):
    unbounded = torch.tensor([[0.3, -2.0], [4.0, 0.0]], dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(torch.tanh))(unbounded)
    torch.testing.assert_close(example.log_slope(unbounded), jacobian.det().log())


def test_three_gradients_have_one_mean(example):
    parameters = [
        torch.tensor([0.4, -0.3]).expand(20_000, 2),
        torch.tensor([[-0.3, 0.2], [0.4, 0.5]]).expand(20_000, 2, 2),
        (0.6 * torch.eye(2)).expand(20_000, 2, 2, 2),
    ]
    state = torch.zeros(20_000, 1)
    torch.manual_seed(0)
    means, errors = [], []
    for loss in (example.pathwise, example.stratified, example.score_function):
        leaves = [p.clone().requires_grad_() for p in parameters]
        loss(example.GaussianMixture(*leaves), state).backward()
        each = torch.cat([20_000 * leaf.grad.flatten(1) for leaf in leaves], -1)
        each = each[:, [0, 2, 3, 4, 5, 6, 8, 9]]  # one logit tells of the other
        means.append(each.mean(0))
        errors.append(each.std(0) / 20_000**0.5)
    for i in (1, 2):  # 16 comparisons: one seed in 900 fails
        assert ((means[i] - means[0]).abs() < 4 * torch.hypot(errors[i], errors[0])).all()
    assert (means[0].abs() > 10 * errors[0]).any()


def test_draws_of_each_component_keep_both_goals(example):
    torch.manual_seed(0)
    network = example.make_network(32, 5)
    example.train(network, example.stratified, 300)
    assert min(example.reached(network)) > 0.25
    assert example.regret(network) < 0.6
