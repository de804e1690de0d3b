"""A map of where a model expected the pen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from mdn_dist.plotting._ink import Ink, draw, place
from mdn_dist.plotting._page import (
    AXIS,
    HEAT,
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
    from torch.distributions import Distribution

_WEIGHTS_HEIGHT = 1.25  # inches
_BLUR = 0.6  # pixels: a Gaussian this wide, sampled at pixel centres, keeps its mass to 0.4 %
_REACH = 6.0  # standard deviations; beyond lies less than 2e-8 of a component's mass


class _Page(NamedTuple):
    """A density map: ``values[row, column]`` at the pixel centres ``x[column]``, ``y[row]``."""

    x: Tensor
    y: Tensor
    values: Tensor
    pixel: float


def density(
    distribution: Distribution,
    strokes: Tensor,
    *,
    resolution: int = 400,
    path: str | Path | Sequence[str | Path] | None = None,
) -> Figure:
    r"""Draw where a model expected the pen, step by step, over where the pen went.

    Upper panel: with :math:`P_t` the pen's position at point t and :math:`p_t` the predictive
    density of the offset that follows, the sum over the steps

    .. math:: m(x) = \sum_t p_t(x - P_t),

    under the strokes; colours follow its power 0.4, so that faint regions are seen. Each density
    is blurred by a Gaussian of 0.6 pixels, so that one sharper than a pixel keeps its mass and
    its place. What falls outside the page, 6 % wider than the strokes, is not drawn.
    Lower panel: the mixture weights, components by steps; a tick above a step says that the pen
    had been lifted there.

    Args:
        distribution: The predictive distributions, of batch shape ``(T - 1,)``: the one at ``t``
            is about point ``t + 1`` given points ``0`` to ``t``. A ``StrokeDistribution``, or any
            mixture of ``MultivariateNormal`` over the two offsets.
        strokes: The sequence that was predicted, ``(T, 3)``, in the distribution's unit.
        resolution: Pixels on the longer side of the map.
        path: Where to write the page, ending in ``.svg`` or ``.png``; a list writes several.

    Returns:
        The figure; ``figure.axes[0].images[0]`` holds the map in densities per squared unit, and
        ``figure.axes[1].images[0]`` the weights ``(K, T - 1)``.

    Raises:
        ValueError: If a shape, the resolution or a suffix is wrong, or a value is not finite.
        ModuleNotFoundError: If matplotlib is missing.

    Source:
        Graves 2013, arXiv:1308.0850, figure 10.

    Example:
        >>> from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
        >>> corner = torch.tensor([[0.0, 0.0, 0.0], [0.0, -1.0, 0.0], [1.0, 0.0, 1.0]])
        >>> components = MultivariateNormal(torch.zeros(2, 4, 2), torch.eye(2) / 100)
        >>> mixture = MixtureSameFamily(Categorical(logits=torch.zeros(2, 4)), components)
        >>> figure = density(mixture, corner, resolution=50)
        >>> figure.axes[1].images[0].get_array().shape
        (4, 2)
    """
    targets = check_targets(path)
    weights, means, covariances = _mixture(distribution, strokes)
    if resolution < 2:
        raise ValueError(f"resolution must be at least 2 pixels, got {resolution}")
    points = strokes.detach().to("cpu", torch.float64)
    ink = place(points)
    centres = points[:-1, None, :2].cumsum(0) + means  # (T - 1, K, 2)
    page = _density_map(ink, weights, centres, covariances, resolution)

    rows, columns = page.values.shape
    width = PAGE_WIDTH if columns >= rows else max(PAGE_WIDTH * columns / rows, 4.0)
    side = width - AXIS - MARGIN
    map_height = min(side * rows / columns, PAGE_WIDTH)
    map_base = AXIS + _WEIGHTS_HEIGHT + AXIS
    figure = new_figure(width, map_base + map_height + 0.35)
    _show_map(add_panel(figure, AXIS, map_base, side, map_height), page, ink)
    _show_weights(add_panel(figure, AXIS, AXIS, side, _WEIGHTS_HEIGHT), weights, points)
    save(figure, targets)
    return figure


def _mixture(distribution: Distribution, strokes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights ``(N, K)``, means ``(N, K, 2)``, covariances ``(N, K, 2, 2)``, checked."""
    if strokes.ndim != 2 or strokes.shape[-1] != 3 or len(strokes) < 2:
        raise ValueError(
            f"strokes must have shape (T, 3) with T at least 2, got {tuple(strokes.shape)}"
        )
    if not strokes.isfinite().all():
        raise ValueError("strokes must be finite; leave padding out")
    mixture: Any = getattr(distribution, "offset", distribution)
    steps = len(strokes) - 1
    if tuple(mixture.batch_shape) != (steps,) or tuple(mixture.event_shape) != (2,):
        raise ValueError(
            f"distribution must have batch shape {(steps,)}, one fewer than strokes has points, "
            f"and offsets of shape (2,); got {tuple(mixture.batch_shape)} "
            f"and {tuple(mixture.event_shape)}"
        )
    weights, means, factor = (
        parameter.detach().to("cpu", torch.float64)
        for parameter in (
            mixture.mixture_distribution.probs,
            mixture.component_distribution.loc,
            mixture.component_distribution.scale_tril,
        )
    )
    if not all(each.isfinite().all() for each in (weights, means, factor)):
        raise ValueError("distribution must have finite parameters")
    return weights, means, factor @ factor.mT


def _density_map(
    ink: Ink, weights: Tensor, centres: Tensor, covariances: Tensor, resolution: int
) -> _Page:
    """Sum the blurred densities ``(N, K)`` over a page around the ink."""
    size = ink.high - ink.low
    longer = size.amax().item()
    widest = covariances.diagonal(dim1=-2, dim2=-1).amax().sqrt().item()
    margin = 0.06 * longer if longer > 0 else _REACH * widest
    pixel = (longer + 2 * margin) / resolution
    columns, rows = (
        max(math.ceil((each + 2 * margin) / pixel - 1e-9), 1) for each in size.tolist()
    )
    edge = torch.tensor([columns, rows], dtype=torch.float64)
    corner = (ink.low + ink.high) / 2 - pixel * (edge - 1) / 2
    x = corner[0] + pixel * torch.arange(columns, dtype=torch.float64)
    y = corner[1] + pixel * torch.arange(rows, dtype=torch.float64)

    blurred = covariances + (_BLUR * pixel) ** 2 * torch.eye(2, dtype=torch.float64)
    precision = torch.linalg.inv(blurred)
    heights = weights / (2 * math.pi * torch.linalg.det(blurred).sqrt())
    reach = _REACH * blurred.diagonal(dim1=-2, dim2=-1).sqrt()  # (N, K, 2)
    # A component this light can't be seen, and must not widen the window of its step.
    reach = reach.where((weights > 1e-9)[..., None], -math.inf)
    first = (((centres - reach).amin(1) - corner) / pixel).ceil()
    last = (((centres + reach).amax(1) - corner) / pixel).floor() + 1
    first, last = (each.clamp(torch.zeros_like(edge), edge).long() for each in (first, last))

    # NumPy, on one thread: the windows are small, and threads that wait for one another on a busy
    # machine took ten times as long.
    values = np.zeros((rows, columns), np.float32)
    log_heights = heights.log().float().numpy()[..., None, None]
    halves = (precision / (1 + torch.eye(2, dtype=torch.float64))).float().numpy()[..., None]
    for step, ((left, low), (right, high)) in enumerate(
        zip(first.tolist(), last.tolist(), strict=True)
    ):
        dx = (x[left:right] - centres[step, :, None, 0]).float().numpy()  # (K, columns)
        dy = (y[low:high] - centres[step, :, None, 1]).float().numpy()  # (K, rows)
        a, b, c = halves[step, :, 0, 0], halves[step, :, 0, 1], halves[step, :, 1, 1]
        exponent = (b * dy)[:, :, None] * dx[:, None, :]
        exponent += (a * dx * dx)[:, None, :]
        exponent += (c * dy * dy)[:, :, None]
        np.subtract(log_heights[step], exponent, out=exponent)
        values[low:high, left:right] += np.exp(exponent, out=exponent).sum(0)
    return _Page(x, y, torch.from_numpy(values), pixel)


def _show_map(axes: Axes, page: _Page, ink: Ink) -> None:
    """Draw the density map, and the strokes thinly over it."""
    from matplotlib.colors import PowerNorm  # noqa: PLC0415

    half = page.pixel / 2
    left, right = page.x[0].item() - half, page.x[-1].item() + half
    low, high = page.y[0].item() - half, page.y[-1].item() + half
    axes.imshow(
        page.values.numpy(),
        norm=PowerNorm(0.4, vmin=0.0, vmax=max(page.values.amax().item(), 1e-30)),
        cmap=HEAT,
        origin="lower",
        interpolation="bilinear",
        extent=(left, right, low, high),
    )
    draw(axes, ink, THIN_LINE)
    label(axes, "density of the pen's next position, all steps")
    axes.set_xticks([])
    axes.set_yticks([])


def _show_weights(axes: Axes, weights: Tensor, points: Tensor) -> None:
    """Draw the weights, components by steps, with a tick above each step from a lifted pen."""
    axes.imshow(
        weights.T.numpy(),
        vmin=0.0,
        vmax=1.0,
        cmap=HEAT,
        aspect="auto",
        interpolation="nearest",
    )
    axes.vlines(
        (points[:-1, 2] > 0.5).nonzero()[:, 0].numpy(),
        1.0,
        1.05,
        transform=axes.get_xaxis_transform(),
        colors=INK,
        linewidth=0.6,
        clip_on=False,
    )
    title = "weights of the components, step by step (tick: the pen was lifted)"
    label(axes, title, x="step", y="component")
