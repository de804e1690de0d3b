"""A density map is the sum of the densities on the same grid, and keeps their mass."""

import math
from xml.etree import ElementTree as ET

import pytest
import torch
from scribbles import SVG, drawn_segments, expected_segments, scribble
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import mdn_dist
from mdn_dist import plotting


def mixture(steps, components=3, scale=0.3, spread=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    double = {"dtype": torch.float64, "generator": generator}
    factor = torch.tril(0.5 * torch.randn(steps, components, 2, 2, **double), -1)
    factor = factor + torch.diag_embed(torch.rand(steps, components, 2, **double) + 0.5)
    return mdn_dist.GaussianMixture(
        torch.randn(steps, components, **double),
        spread * torch.randn(steps, components, 2, **double),
        scale * factor,
    )


def stock(ours):
    return MixtureSameFamily(
        Categorical(logits=ours.logits), MultivariateNormal(ours.loc, scale_tril=ours.scale_tril)
    )


def map_and_grid(figure):
    """The drawn map, the centres of its pixels (rows, columns, 2), and a pixel's area."""
    image = figure.axes[0].images[0]
    values = torch.tensor(image.get_array().tolist(), dtype=torch.float64)
    left, right, low, high = image.get_extent()
    rows, columns = values.shape
    width, height = (right - left) / columns, (high - low) / rows
    x = left + width * (torch.arange(columns, dtype=torch.float64) + 0.5)
    y = low + height * (torch.arange(rows, dtype=torch.float64) + 0.5)
    return values, torch.stack(torch.meshgrid(x, y, indexing="xy"), -1), width * height


def summed(distribution, points, grid, blur=0.0):
    centres = points[:-1, :2].double().cumsum(0)
    total = torch.zeros(grid.shape[:-1], dtype=torch.float64)
    for t, centre in enumerate(centres):
        factor = distribution.scale_tril[t]
        covariance = factor @ factor.mT + blur**2 * torch.eye(2)
        step = MixtureSameFamily(
            Categorical(logits=distribution.logits[t]),
            MultivariateNormal(distribution.loc[t], covariance),
        )
        total += step.log_prob(grid - centre).exp()
    return total


@pytest.mark.parametrize("seed", range(3))
def test_density_map_is_the_sum_of_the_densities(seed):
    points = scribble(12, seed)
    distribution = mixture(11, seed=seed)
    figure = plotting.density(distribution, points, resolution=150)
    values, grid, area = map_and_grid(figure)
    blurred = summed(distribution, points, grid, blur=0.6 * math.sqrt(area))
    torch.testing.assert_close(values, blurred, rtol=1e-4, atol=1e-6 * blurred.amax().item())
    # The blur moves mass about by less than a pixel, and none of it is lost.
    exact = summed(distribution, points, grid)
    assert (values - exact).abs().sum() < 0.03 * exact.sum()
    assert values.sum().item() == pytest.approx(exact.sum().item(), rel=1e-3)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 3e-2])
def test_density_keeps_its_mass_however_sharp(scale):
    points = scribble(30, 3)
    mean = points[1:, None, :2].double()
    sharp = mixture(29, scale=scale, spread=0.0)
    sharp = mdn_dist.GaussianMixture(sharp.logits, sharp.loc + mean, sharp.scale_tril)
    values, grid, area = map_and_grid(plotting.density(sharp, points, resolution=200))
    assert values.sum().item() * area == pytest.approx(29, rel=5e-3)
    centre = (values[..., None] * grid).sum((0, 1)) / values.sum()
    expected = points[:, :2].double().cumsum(0)[1:].mean(0)
    torch.testing.assert_close(centre, expected, rtol=0, atol=math.sqrt(area))


def test_density_takes_a_stroke_distribution_and_stock_mixtures(tmp_path):
    points = scribble(15, 0)
    ours = mixture(14)
    pen = torch.distributions.Bernoulli(logits=torch.zeros(14, dtype=torch.float64))
    figures = [
        plotting.density(each, points, resolution=60)
        for each in (ours, stock(ours), mdn_dist.StrokeDistribution(ours, pen))
    ]
    maps = [map_and_grid(figure)[0] for figure in figures]
    torch.testing.assert_close(maps[0], maps[1])
    torch.testing.assert_close(maps[0], maps[2])
    weights = torch.tensor(figures[0].axes[1].images[0].get_array().tolist())
    torch.testing.assert_close(weights, ours.logits.softmax(-1).T.float())
    names = [tmp_path / "map.svg", tmp_path / "map.png"]
    plotting.density(ours, points, resolution=60, path=names)
    assert ET.parse(names[0]).getroot().tag == f"{SVG}svg"
    assert names[1].stat().st_size > 1000


def test_density_draws_the_strokes_and_marks_the_lifts():
    points = scribble(20, 4)
    figure = plotting.density(mixture(19), points, resolution=60)
    assert drawn_segments(figure.axes[0]) == expected_segments(points)
    ticks = [segment[0][0] for segment in figure.axes[1].collections[0].get_segments()]
    assert ticks == points[:-1, 2].nonzero()[:, 0].tolist()


def test_density_of_a_pen_that_stays_and_of_a_tall_page():
    still = torch.zeros(3, 3)
    values, _, area = map_and_grid(plotting.density(mixture(2, spread=0.0), still, resolution=99))
    assert values.sum().item() * area == pytest.approx(2, rel=1e-2)
    tall = torch.tensor([[0.0, 0.0, 0.0], [0.0, -9.0, 1.0]])
    values, _, _ = map_and_grid(plotting.density(mixture(1), tall, resolution=99))
    assert values.shape[0] == 99 > values.shape[1]


@pytest.mark.parametrize("resolution", [2, 49, 97, 98])
def test_density_has_as_many_pixels_as_asked_for(resolution):
    points = scribble(5, 0)
    values, _, _ = map_and_grid(plotting.density(mixture(4), points, resolution=resolution))
    assert max(values.shape) == resolution


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strokes": torch.zeros(4, 2)}, r"strokes must have shape \(T, 3\).*got \(4, 2\)"),
        ({"strokes": torch.zeros(1, 3)}, "T at least 2"),
        ({"strokes": torch.full((4, 3), math.nan)}, "strokes must be finite"),
        ({"strokes": torch.zeros(5, 3)}, r"batch shape \(4,\).*got \(3,\) and \(2,\)"),
        (
            {"distribution": stock(mixture(3)).expand((2, 3))},
            r"batch shape \(3,\).*got \(2, 3\)",
        ),
        (
            {
                "distribution": mdn_dist.GaussianMixture(
                    torch.zeros(3, 1),
                    torch.full((3, 1, 2), math.nan),
                    torch.eye(2).expand(3, 1, 2, 2),
                    validate_args=False,
                )
            },
            "distribution must have finite parameters",
        ),
        ({"resolution": 1}, "resolution must be at least 2 pixels, got 1"),
        ({"path": "map.gif"}, "got 'map.gif'"),
    ],
)
def test_density_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        plotting.density(**{"distribution": mixture(3), "strokes": torch.zeros(4, 3)} | arguments)
