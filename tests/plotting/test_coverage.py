"""The shares that are drawn are plain counts, and their bands SciPy's."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from mdn_dist import GaussianMixture, plotting

LEVELS = np.arange(1, 20) / 20


def uniform(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_coverage_draws_the_share_within_each_interval(size, tmp_path):
    values = uniform(30, 40, size)
    values[..., -1] = (values[..., -1] + 1) / 3  # of a model that is too wide
    figure = plotting.coverage(values, path=[tmp_path / "a.svg", tmp_path / "a.png"])
    assert (tmp_path / "a.svg").read_text().count("coordinate") == size
    assert len(figure.axes) == size
    for axes, column in zip(figure.axes, values.view(-1, size).T.numpy(), strict=True):
        x, y = axes.lines[0].get_data()
        assert x == pytest.approx(LEVELS)
        inside = [((1 - p) / 2 <= column) & (column <= (1 + p) / 2) for p in LEVELS]
        assert y == pytest.approx([each.mean() for each in inside])
        title = axes.get_title(loc="left")
        assert title.endswith(f"90 % holds {100 * inside[17].mean():.1f} %")
    assert y[6:].min() > LEVELS[6:].max()


@pytest.mark.parametrize(("count", "level"), [(5000, 0.99), (50, 0.9), (3, 0.5)])
def test_coverage_draws_the_binomial_band(count, level):
    figure = plotting.coverage(uniform(count, 1), level=level)
    corners = figure.axes[0].collections[0].get_paths()[0].vertices
    for promised in LEVELS:
        low, high = stats.binom.interval(level, count, promised)
        band = corners[np.isclose(corners[:, 0], promised)][:, 1]
        assert band.min() == pytest.approx(low / count)
        assert band.max() == pytest.approx(high / count)


def test_an_interval_holds_its_ends():
    ends = torch.tensor([[0.25], [0.75], [0.0], [1.0]])
    _, shares = plotting.coverage(ends).axes[0].lines[0].get_data()
    assert shares == pytest.approx([0.0] * 9 + [0.5] * 10)


def test_the_share_is_that_of_the_intervals_of_a_mixture():
    generator = torch.Generator().manual_seed(1)
    loc = torch.tensor([[0.0], [4.0]], dtype=torch.float64)
    model, truth = (
        GaussianMixture(loc.new_zeros(2), loc, loc.new_full((2, 1, 1), s)) for s in (0.5, 1.0)
    )
    points = truth.sample((500,), generator)
    _, shares = plotting.coverage(model.rosenblatt(points)).axes[0].lines[0].get_data()
    lower, upper = model.interval(torch.from_numpy(LEVELS))
    inside = (lower.unsqueeze(1) <= points) & (points <= upper.unsqueeze(1))
    assert shares == pytest.approx(inside.double().mean((1, 2)).numpy())
    assert (shares[14:] < LEVELS[14:] - 0.1).all()  # too narrow


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"uniform": torch.zeros(0, 2)}, r"uniform must hold points .* got shape \(0, 2\)"),
        ({"uniform": torch.zeros(50)}, r"got shape \(50,\)"),
        ({"uniform": torch.full((3, 1), math.nan)}, "from 0 to 1; leave padding out"),
        ({"level": 1.0}, "level must be between 0 and 1, got 1.0"),
        ({"path": "a.gif"}, "got 'a.gif'"),
    ],
)
def test_coverage_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        plotting.coverage(**{"uniform": uniform(5, 2)} | arguments)


def test_coverage_takes_tensors_alone():
    with pytest.raises(TypeError, match=r"uniform must be a torch\.Tensor, got list"):
        plotting.coverage([0.5])
