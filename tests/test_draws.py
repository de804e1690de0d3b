import pytest
import torch
from cases import generator, normal
from scipy import stats
from torch.testing import assert_close

from mdn_dist import pens
from mdn_dist._fused import draw_rows
from mdn_dist._maths.draw import draw_index
from mdn_dist.outputs import OutputMap
from mdn_dist.pens import BernoulliPen


def test_draw_index_draws_with_the_weights():
    logits = torch.tensor([-1.0, 0.5, -torch.inf, 2.0, 0.0], dtype=torch.float64)
    index = draw_index(logits.expand(20_000, -1), generator(1))
    count = torch.bincount(index.squeeze(-1), minlength=5)
    assert count[2] == 0
    kept = [0, 1, 3, 4]
    expected = 20_000 * logits.softmax(-1)[kept]
    # false-alarm rate 1e-3 over seeds
    assert stats.chisquare(count[kept].numpy(), expected.numpy()).pvalue > 1e-3


def test_draw_index_draws_each_row_by_its_own_weights():
    logits = torch.full((2, 3, 4), -torch.inf)
    wanted = torch.tensor([[0, 1, 2], [3, 3, 0]])
    logits.scatter_(-1, wanted.unsqueeze(-1), 7.0)
    assert torch.equal(draw_index(logits), wanted.unsqueeze(-1))


def test_draw_index_uses_only_the_generator_given():
    logits = normal(50, 6, seed=3)
    state = torch.get_rng_state()
    first, second = (draw_index(logits, generator(8)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, draw_index(logits, generator(9)))


EDGES = {
    "least": torch.zeros_like,
    "most": lambda like: 1 - like.new_tensor(2**-24),
}


@pytest.mark.parametrize("edge", EDGES)
def test_a_category_without_weight_is_not_drawn_at_the_ends_of_the_uniform_numbers(
    edge, monkeypatch
):
    """Which are 0 and the largest below 1; a sample meets neither in a test's lifetime."""

    def constant(like, generator):  # noqa: ARG001
        return EDGES[edge](like).expand_as(like)

    monkeypatch.setattr(pens, "uniform_like", constant)
    shut = -torch.inf
    for row, allowed in (
        ([shut, 0.0], {1}),
        ([0.0, shut], {0}),
        ([shut, 0.0, shut], {1}),
        ([shut, 0.0, shut, 2.0, shut], {1, 3}),
        ([0.0, 90.0, shut], {0, 1}),
    ):
        for dtype in (torch.float32, torch.float64):
            assert draw_index(torch.tensor([row], dtype=dtype)).item() in allowed


@pytest.mark.parametrize(("edge", "logit", "flag"), [("least", -torch.inf, 0), ("most", 90.0, 1)])
def test_a_flag_without_doubt_is_drawn_at_the_ends_of_the_uniform_numbers(
    edge, logit, flag, monkeypatch
):
    monkeypatch.setattr(pens, "uniform_like", lambda like, _: EDGES[edge](like).expand_as(like))
    assert BernoulliPen.draw(torch.tensor([logit]), None).item() == flag


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("reach", [1.0, -9.0])  # within the bounds, and beyond
def test_points_drawn_from_outputs_have_the_covariance_of_their_parameters(size, reach):
    output_map = OutputMap(1, size)
    outputs = torch.zeros(output_map.size)
    pairs = size * (size - 1) // 2
    outputs[-pairs:] = reach * torch.linspace(0.6, 1, pairs)
    drawn = draw_rows(outputs, output_map, torch.Size([20_000]), generator(4))
    factor = output_map.parameters(outputs).scale_tril[0]
    white = torch.linalg.solve_triangular(factor.double(), drawn.double().T, upper=False)
    # false-alarm rate 1e-9 over seeds
    assert_close(white.cov(), torch.eye(size).double(), rtol=0, atol=0.07)
