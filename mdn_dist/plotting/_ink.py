"""A drawing placed on the page: from offsets to the lines and dots that are drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mdn_dist.plotting._page import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Ink(NamedTuple):
    """A drawing in absolute coordinates: lines separated by rows of NaN, and lone points."""

    lines: Tensor  # (N, 2)
    dots: Tensor  # (M, 2)
    low: Tensor  # (2,)
    high: Tensor  # (2,)


def place(points: Tensor) -> Ink:
    """Place one drawing ``(T, 3)`` on the page, with gaps where the pen was lifted."""
    if len(points) == 0:
        nothing = points.new_zeros(0, 2)
        return Ink(nothing, nothing, points.new_zeros(2), points.new_zeros(2))
    places = points[:, :2].cumsum(0)
    ends = points[:, 2] > 0.5
    starts = torch.cat([ends.new_ones(1), ends[:-1]])
    ends = torch.cat([ends[:-1], ends.new_ones(1)])
    lone = starts & ends
    number = starts.cumsum(0) - 1
    # Point t moves down by one row for each stroke before its own; the rows left free are gaps.
    lines = places.new_full((len(places) + int(starts.sum()) - 1, 2), math.nan)
    lines[torch.arange(len(places)) + number] = places.masked_fill(lone[:, None], math.nan)
    return Ink(lines, places[lone], places.amin(0), places.amax(0))


def draw(axes: Axes, ink: Ink, width: float) -> None:
    """Draw the lines as a single path and the lone points as dots."""
    axes.plot(
        *ink.lines.T.numpy(),
        color=INK,
        linewidth=width,
        solid_capstyle="round",
        solid_joinstyle="round",
        scalex=False,
        scaley=False,
    )
    if len(ink.dots):
        axes.plot(
            *ink.dots.T.numpy(),
            color=INK,
            linestyle="none",
            marker="o",
            markersize=2.0 * width,
            markeredgewidth=0.0,
            scalex=False,
            scaley=False,
        )
