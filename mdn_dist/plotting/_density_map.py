"""The density of the pen's next position, summed over steps, on the pixels of a page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from mdn_dist.plotting._ink import Ink

_BLUR = 0.6  # pixels: a Gaussian this wide, sampled at pixel centres, keeps its mass to 0.4 %
_REACH = 6.0  # standard deviations; beyond lies less than 2e-8 of a component's mass


class Grid(NamedTuple):
    """The pixels of a map, in the unit of the strokes: ascending centres, and their distance."""

    x: Tensor  # (columns,)
    y: Tensor  # (rows,)
    pixel: float

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """The outer edges: left, right, low, high."""
        half = self.pixel / 2
        x, y = self.x, self.y
        return x[0].item() - half, x[-1].item() + half, y[0].item() - half, y[-1].item() + half


def cover(ink: Ink, covariances: Tensor, resolution: int) -> Grid:
    """Cover the ink and a margin with pixels, ``resolution`` of them along the longer side."""
    size = ink.high - ink.low
    longer = size.amax().item()
    if longer > 0:
        margin = 0.06 * longer
    else:  # the pen stayed where it was: show what was expected of it
        margin = _REACH * covariances.diagonal(dim1=-2, dim2=-1).amax().sqrt().item()
    page = size + 2 * margin
    pixel = page.amax().item() / resolution
    counts = (resolution * (page / page.amax())).ceil()  # exact on the longer side
    x, y = map(_centres, ((ink.low + ink.high) / 2).tolist(), counts.tolist(), [pixel, pixel])
    return Grid(x, y, pixel)


def _centres(middle: float, count: float, pixel: float) -> Tensor:
    """Return the centres of a row of pixels, ``(count,)``."""
    return middle + pixel * (torch.arange(count, dtype=torch.float64) - (count - 1) / 2)


def density_map(grid: Grid, weights: Tensor, centres: Tensor, covariances: Tensor) -> Tensor:
    """Sum the blurred densities of N steps with K components, float32 ``(rows, columns)``."""
    blurred = covariances + (_BLUR * grid.pixel) ** 2 * torch.eye(2, dtype=torch.float64)
    log_heights = (weights / (2 * math.pi * torch.linalg.det(blurred).sqrt())).log()
    # a dx^2 + b dx dy + c dy^2 is half the squared distance from a component's centre.
    precision = torch.linalg.inv(blurred)
    a, b, c = precision[..., 0, 0] / 2, precision[..., 0, 1], precision[..., 1, 1] / 2

    reach = _REACH * blurred.diagonal(dim1=-2, dim2=-1).sqrt()  # (N, K, 2)
    # A component this light can't be seen, and must not widen the window of its step.
    reach = reach.where((weights > 1e-9)[..., None], -math.inf)
    columns = _windows(grid.x, centres[..., 0], reach[..., 0])
    rows = _windows(grid.y, centres[..., 1], reach[..., 1])

    # NumPy, on one thread: the windows are small, and threads that wait for one another on a busy
    # machine took ten times as long.
    x, y, middles = grid.x.numpy(), grid.y.numpy(), centres.numpy()[..., None]
    a, b, c, log_heights = (
        each.float().numpy()[..., None, None] for each in (a, b, c, log_heights)
    )  # (N, K, 1, 1)
    values = np.zeros((len(y), len(x)), np.float32)
    for step, (column, row) in enumerate(zip(columns, rows, strict=True)):
        dx = (x[column] - middles[step, :, 0]).astype(np.float32)[:, None, :]
        dy = (y[row] - middles[step, :, 1]).astype(np.float32)[:, :, None]
        exponent = (b[step] * dy) * dx  # (K, rows, columns)
        exponent += a[step] * dx * dx
        exponent += c[step] * dy * dy
        np.subtract(log_heights[step], exponent, out=exponent)
        values[row, column] += np.exp(exponent, out=exponent).sum(0)
    return torch.from_numpy(values)


def _windows(pixels: Tensor, centres: Tensor, reach: Tensor) -> list[slice]:
    """Return which pixels the components ``(N, K)`` of each step reach along one axis."""
    first = torch.searchsorted(pixels, (centres - reach).amin(1))
    last = torch.searchsorted(pixels, (centres + reach).amax(1))
    return list(map(slice, first.tolist(), last.tolist()))
