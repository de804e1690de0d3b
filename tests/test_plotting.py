"""Pictures are held against the numbers they show: drawn paths, and densities on the same grid."""

import itertools
import math
import subprocess
import sys
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import mdn_dist
from mdn_dist import plotting

SVG = "{http://www.w3.org/2000/svg}"


def scribble(length, seed, lift=0.3):
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randn(length, 2, generator=generator)
    flags = (torch.rand(length, 1, generator=generator) < lift).float()
    return torch.cat([offsets, flags], 1)


def drawn_segments(axes):
    rows = axes.lines[0].get_xydata().tolist()
    return [
        (*start, *end)
        for start, end in itertools.pairwise(rows)
        if not any(map(math.isnan, start + end))
    ]


def expected_segments(drawing):
    places = drawing[:, :2].double().cumsum(0).tolist()
    return [
        (*places[t], *places[t + 1]) for t in range(len(drawing) - 1) if drawing[t, 2].item() != 1
    ]


def lone_points(drawing):
    flags = [1.0, *drawing[:-1, 2].tolist(), 1.0]
    return sum(flags[t] == 1 == flags[t + 1] for t in range(len(drawing)))


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


@pytest.mark.parametrize("seed", range(10))
def test_lines_run_between_points_unless_the_pen_was_lifted(seed):
    drawing = scribble(length=1 + 4 * seed, seed=seed)
    axes = plotting.strokes([drawing]).axes[0]
    assert drawn_segments(axes) == expected_segments(drawing)
    dots = axes.lines[1].get_xydata() if len(axes.lines) > 1 else []
    assert len(dots) == lone_points(drawing)


def test_svg_holds_one_path_a_drawing_with_one_move_a_stroke(tmp_path):
    drawings = [scribble(40, seed) for seed in range(3)]
    plotting.strokes(drawings, path=tmp_path / "page.svg")
    root = ET.parse(tmp_path / "page.svg").getroot()
    lines = [group for group in root.iter(f"{SVG}g") if group.get("id", "").startswith("line2d")]
    paths = [path.get("d") for group in lines for path in group.findall(f"{SVG}path")]
    dots = [use for group in lines for use in group.iter(f"{SVG}use")]
    strokes = [int(drawing[:-1, 2].sum()) + 1 - lone_points(drawing) for drawing in drawings]
    assert [path.count("M") for path in paths] == strokes
    assert len(dots) == sum(map(lone_points, drawings))


def test_files_are_written_and_repeat(tmp_path):
    names = [tmp_path / "a.svg", str(tmp_path / "a.png"), tmp_path / "b.SVG"]
    figure = plotting.strokes([scribble(30, 0)], titles=["<1> & $2"], path=names)
    assert isinstance(figure, Figure)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "a.svg").read_bytes()
    assert b"dc:date" not in svg
    assert svg == (tmp_path / "b.SVG").read_bytes()
    plotting.strokes([scribble(30, 0)], titles=["<1> & $2"], path=tmp_path / "c.svg")
    assert svg == (tmp_path / "c.svg").read_bytes()
    assert "<1> & $2" in "".join(ET.fromstring(svg).itertext())


def test_mask_hides_padding_whatever_it_holds():
    drawings = torch.stack([scribble(20, 0), scribble(20, 1)])
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1, 12:] = False
    drawings[1, 12:] = math.nan
    axes = plotting.strokes(drawings, mask=mask).axes
    assert drawn_segments(axes[0]) == expected_segments(drawings[0])
    assert drawn_segments(axes[1]) == expected_segments(drawings[1, :12])


def test_cells_take_the_size_of_their_content_at_one_scale():
    wide = torch.tensor([[0.0, 0.0, 0.0], [20.0, 2.0, 1.0]])
    square = torch.tensor([[0.0, 0.0, 0.0], [2.0, 2.0, 1.0]])
    figure = plotting.strokes([wide, wide], columns=1)
    page = figure.get_size_inches()
    assert page[0] > 3 * page[1]
    page = plotting.strokes([square] * 4, columns=2).get_size_inches()
    assert page[0] == pytest.approx(page[1])
    for axes in plotting.strokes([wide, square], columns=2).axes:
        box = axes.get_position()
        size = axes.figure.get_size_inches()
        units = (axes.get_xlim()[1] - axes.get_xlim()[0], axes.get_ylim()[1] - axes.get_ylim()[0])
        inches = (box.width * size[0], box.height * size[1])
        assert inches[0] / units[0] == pytest.approx(inches[1] / units[1])


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_drawing_without_extent_is_drawn(length, tmp_path):
    points = torch.zeros(length, 3)
    figure = plotting.strokes([points], path=tmp_path / "page.png")
    assert len(figure.axes) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drawings": torch.zeros(4, 3)}, r"drawings must have shape \(B, T, 3\), got \(4, 3\)"),
        ({"drawings": [torch.zeros(4, 5)]}, r"drawings\[0\] must have shape .*got \(4, 5\)"),
        ({"drawings": []}, "at least one drawing"),
        ({"drawings": torch.full((1, 2, 3), math.inf)}, r"drawings\[0\] must be finite"),
        ({"mask": torch.ones(1, 3, dtype=torch.bool)}, r"mask must be bool of shape \(1, 4\)"),
        ({"mask": torch.ones(1, 4)}, "got torch.float32"),
        ({"drawings": [torch.zeros(4, 3)], "mask": torch.ones(1, 4)}, "mask belongs to a batch"),
        ({"titles": ["a", "b"]}, "expected 1, got 2"),
        ({"columns": 0}, "columns must be at least 1, got 0"),
        ({"path": "page.jpeg"}, r"path must end in \.svg or \.png, got 'page\.jpeg'"),
        ({"path": ["page.svg", "page"]}, "got 'page'"),
    ],
)
def test_strokes_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        plotting.strokes(**{"drawings": torch.zeros(1, 4, 3)} | arguments)


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


def test_a_missing_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mdn_dist\[plotting\]"'):
        plotting.strokes(torch.zeros(1, 4, 3))


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path):
    names = [str(tmp_path / "a.svg"), str(tmp_path / "a.png")]
    program = f"""
import sys, torch
from mdn_dist import plotting
assert "matplotlib" not in sys.modules
import matplotlib
before = matplotlib.rcParams.copy()
plotting.strokes(torch.zeros(1, 4, 3), path={names!r})
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    subprocess.run([sys.executable, "-c", program], check=True)
