"""How often central intervals hold what they should, against the share that they promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mdn_dist._checks import check_uniform
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
from mdn_dist.plotting.calibration import binomial_band, check_level

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from torch import Tensor

_LEVELS = torch.arange(1, 20, dtype=torch.float64) / 20
_COLUMNS = 3
_GAP = 0.35  # inches, for the title


def coverage(
    uniform: Tensor,
    *,
    level: float = 0.99,
    path: str | Path | Sequence[str | Path] | None = None,
) -> Figure:
    """Draw what share of the data lies in central intervals, against what should.

    One panel a coordinate: a point for each interval of 5, 10, ... 95 % of the mass. On the
    diagonal the model is right; points below it say that it is too narrow, points above it too
    wide. Grey is the band that each point keeps to with probability ``level`` when the model is
    right, from the binomial distribution of its count. Intervals are central, as those of
    :meth:`mdn_dist.GaussianMixture.interval`: what is off to one side shows in the histograms of
    :func:`calibration`, which take the same numbers.

    Args:
        uniform: Distribution functions of data that the model was not trained on, from 0 to 1,
            shape ``(*, D)``: all of ``*`` are one sample. Of the model's ``rosenblatt``, they are
            those of each coordinate given the ones before it; of its ``marginal(d).cdf``, those of
            coordinate ``d`` by itself. Leave padding out.
        level: Probability of the band, for each point by itself.
        path: Where to write the page, ending in ``.svg`` or ``.png``; a list writes several.

    Returns:
        The figure; ``figure.axes[d].lines[0]`` holds the points of coordinate ``d``.

    Raises:
        TypeError: If ``uniform`` is not a tensor.
        ValueError: If there is no point, a number is not from 0 to 1, or ``level`` or a suffix is
            wrong.
        ModuleNotFoundError: If matplotlib is missing.

    Source:
        Gneiting, Balabdaoui and Raftery 2007, Probabilistic forecasts, calibration and sharpness,
        section 3.

    Example:
        >>> grid = (torch.arange(1000.0) + 0.5) / 1000
        >>> figure = coverage(grid.unsqueeze(-1))
        >>> figure.axes[0].get_title(loc="left")
        'coordinate 1: 90 % holds 90.0 %'
    """
    targets = check_targets(path)
    check_level(level)
    check_uniform(uniform)
    values = uniform.detach().to("cpu", torch.float64).flatten(0, -2)
    count, size = values.shape
    off_centre = (2 * values - 1).abs().T.contiguous().sort(-1).values  # (D, N)
    held = torch.searchsorted(off_centre, _LEVELS.expand(size, -1).contiguous(), right=True)
    observed = held.double() / count
    bands = [binomial_band(count, promised, level) for promised in _LEVELS.tolist()]
    low, high = torch.tensor(bands, dtype=torch.float64).T / count

    columns = min(size, _COLUMNS)
    width = PAGE_WIDTH / _COLUMNS - AXIS - MARGIN
    row, rows = width + AXIS + _GAP, -(-size // columns)
    figure = new_figure(columns * PAGE_WIDTH / _COLUMNS, rows * row)
    for d, shares in enumerate(observed):
        left = AXIS + d % columns * PAGE_WIDTH / _COLUMNS
        axes = add_panel(figure, left, (rows - 1 - d // columns) * row + AXIS, width, width)
        axes.plot(_LEVELS, shares, ".-", color=BAR, linewidth=THIN_LINE)
        axes.fill_between(_LEVELS, low, high, color=GREY, alpha=0.3, linewidth=0)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=THIN_LINE)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        title = f"coordinate {d + 1}: 90 % holds {100 * shares[17]:.1f} %"
        label(axes, title, x="mass of the interval", y="share of the data")
    save(figure, targets)
    return figure
