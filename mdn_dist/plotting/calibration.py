"""Histograms of what a calibrated model makes uniform."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from mdn_dist.calibration import kolmogorov_smirnov
from mdn_dist.plotting._page import (
    AXIS,
    BAR,
    GREY,
    INK,
    MARGIN,
    PAGE_WIDTH,
    THIN_LINE,
    add_panel,
    check_targets,
    label,
    new_figure,
    save,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

_HISTOGRAM_HEIGHT = 1.6  # inches


def calibration(
    uniform: Tensor,
    *,
    bins: int = 20,
    level: float = 0.99,
    path: str | Path | Sequence[str | Path] | None = None,
) -> Figure:
    """Draw whether a model is calibrated: histograms of what should be uniform numbers.

    One panel a coordinate: bars of density 1 say that the model is right; a dome says that it is
    too wide, a bowl too narrow, a slope off to one side. Across them lies the band that each bar
    keeps to with probability ``level`` when the model is right, from the binomial distribution of
    its count. A panel's title gives the statistic and p-value of a Kolmogorov-Smirnov test, those
    of :func:`mdn_dist.calibration.kolmogorov_smirnov`.

    Args:
        uniform: What the model's ``rosenblatt`` makes of data that it was not trained on, from 0
            to 1, shape ``(*, D)``: all of ``*`` are one sample. Leave padding out:
            ``distribution.rosenblatt(points)[mask]``.
        bins: Bars in a panel.
        level: Probability of the band, for each bar by itself.
        path: Where to write the page, ending in ``.svg`` or ``.png``; a list writes several.

    Returns:
        The figure; ``figure.axes[d].patches[:bins]`` are the bars of coordinate ``d``.

    Raises:
        ValueError: If there is no point, a number is not from 0 to 1, or ``bins``, ``level`` or a
            suffix is wrong.
        ModuleNotFoundError: If matplotlib is missing.

    Source:
        Dawid 1984, Statistical theory: the prequential approach; Diebold, Gunther and Tay 1998,
        Evaluating density forecasts.

    Example:
        >>> grid = (torch.arange(1000.0) + 0.5) / 1000
        >>> figure = calibration(grid.unsqueeze(-1))
        >>> figure.axes[0].get_title(loc="left")
        'coordinate 1: KS 0.0005, p = 1'
    """
    targets = check_targets(path)
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    check_level(level)
    values = uniform.detach().to("cpu", torch.float64)
    tests = zip(*kolmogorov_smirnov(values), strict=True)
    values = values.flatten(0, -2)
    count, size = values.shape
    places = (values * bins).long().clamp_max(bins - 1)
    low, high = (k * bins / count for k in binomial_band(count, 1 / bins, level))

    row = _HISTOGRAM_HEIGHT + 2 * AXIS
    figure = new_figure(PAGE_WIDTH, size * row)
    for d, (statistic, p_value) in enumerate(tests):
        base = (size - 1 - d) * row + AXIS
        axes = add_panel(figure, AXIS, base, PAGE_WIDTH - AXIS - MARGIN, _HISTOGRAM_HEIGHT)
        heights = torch.bincount(places[:, d], minlength=bins) * bins / count
        _show_histogram(axes, heights, low, high)
        label(axes, f"coordinate {d + 1}: KS {statistic:.2g}, p = {p_value:.2g}", y="density")
    save(figure, targets)
    return figure


def check_level(level: float) -> None:
    """Raise ValueError unless ``level`` is between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")


def binomial_band(count: int, probability: float, level: float) -> tuple[int, int]:
    """Return the quantiles of a binomial count that leave half of ``1 - level`` on either side."""
    k = torch.arange(count + 1, dtype=torch.float64)
    whole = torch.tensor(count + 1.0, dtype=torch.float64).lgamma()
    ways = whole - (k + 1).lgamma() - (count - k + 1).lgamma()
    log_mass = ways + k * math.log(probability) + (count - k) * math.log1p(-probability)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.searchsorted(log_mass.exp().cumsum(0), tails).tolist()
    return low, min(high, count)


def _show_histogram(axes: Axes, heights: Tensor, low: float, high: float) -> None:
    """Draw the bars, and over them the band from ``low`` to ``high`` and a line at 1."""
    bins = len(heights)
    left = [k / bins for k in range(bins)]
    axes.bar(left, heights.tolist(), 1 / bins, align="edge", color=BAR, linewidth=0)
    axes.axhspan(low, high, color=GREY, alpha=0.3, linewidth=0)
    axes.axhline(1.0, color=INK, linewidth=THIN_LINE)
    axes.set(xlim=(0, 1), ylim=(0, max(1.1 * heights.amax().item(), 1.3 * high)))
