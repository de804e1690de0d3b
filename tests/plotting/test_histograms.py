"""Histograms and their bands are those of NumPy and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from mdn_dist import plotting


def uniform(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_calibration_draws_the_histogram_of_each_coordinate(tmp_path):
    values = uniform(30, 40, 2)
    values[..., 1] **= 1.5
    figure = plotting.calibration(values, bins=8, path=tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().count("coordinate") == 2
    for axes, column in zip(figure.axes, values.view(-1, 2).T.numpy(), strict=True):
        bars = axes.patches[:8]
        heights, edges = np.histogram(column, bins=8, range=(0, 1), density=True)
        assert [bar.get_height() for bar in bars] == pytest.approx(heights)
        assert [bar.get_x() for bar in bars] == pytest.approx(edges[:-1])
        expected = stats.kstest(column, "uniform")
        found = float(axes.get_title(loc="left").split("KS ")[1].split(",")[0])
        assert found == pytest.approx(expected.statistic, rel=0.05)


@pytest.mark.parametrize(("count", "bins", "level"), [(5000, 20, 0.99), (50, 10, 0.9), (3, 2, 0.5)])
def test_calibration_draws_the_binomial_band(count, bins, level):
    figure = plotting.calibration(uniform(count, 1), bins=bins, level=level)
    band = figure.axes[0].patches[bins]
    low, high = stats.binom.interval(level, count, 1 / bins)
    assert band.get_y() == pytest.approx(low * bins / count)
    assert band.get_y() + band.get_height() == pytest.approx(high * bins / count)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"uniform": torch.zeros(0, 2)}, r"uniform must hold points .* got shape \(0, 2\)"),
        ({"uniform": torch.tensor(0.5)}, r"got shape \(\)"),
        ({"uniform": torch.zeros(50)}, r"got shape \(50,\)"),  # what `cdf` returns
        ({"uniform": torch.full((3, 1), math.nan)}, "from 0 to 1; leave padding out"),
        ({"uniform": torch.full((3, 1), 1.5)}, "uniform must be from 0 to 1"),
        ({"bins": 1}, "bins must be at least 2, got 1"),
        ({"level": 1.0}, "level must be between 0 and 1, got 1.0"),
        ({"path": "a.gif"}, "got 'a.gif'"),
    ],
)
def test_calibration_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        plotting.calibration(**{"uniform": uniform(5, 2)} | arguments)
