"""A map of where a model expected the pen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mdn_dist.plotting._density_map import cover, density_map
from mdn_dist.plotting._ink import draw, place
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

    from mdn_dist.plotting._density_map import Grid
    from mdn_dist.plotting._ink import Ink

# Inches.
_WEIGHTS_HEIGHT = 1.25
_TITLE = 0.35  # above the map


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
    its place. What falls outside the page, which ends 6 % beyond the strokes, is not drawn.

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
    points = _points(strokes)
    weights, means, covariances = _mixture(distribution, len(points) - 1)
    if resolution < 2:
        raise ValueError(f"resolution must be at least 2 pixels, got {resolution}")
    ink = place(points)
    centres = points[:-1, None, :2].cumsum(0) + means  # (T - 1, K, 2)
    grid = cover(ink, covariances, resolution)
    values = density_map(grid, weights, centres, covariances)

    rows, columns = values.shape
    width = PAGE_WIDTH if columns >= rows else max(PAGE_WIDTH * columns / rows, 4.0)
    side = width - AXIS - MARGIN
    map_height = min(side * rows / columns, PAGE_WIDTH)
    map_base = AXIS + _WEIGHTS_HEIGHT + AXIS
    figure = new_figure(width, map_base + map_height + _TITLE)
    _show_map(add_panel(figure, AXIS, map_base, side, map_height), grid, values, ink)
    _show_weights(add_panel(figure, AXIS, AXIS, side, _WEIGHTS_HEIGHT), weights, points)
    save(figure, targets)
    return figure


def _points(strokes: Tensor) -> Tensor:
    """Return the points ``(T, 3)``, checked, as float64 on the CPU."""
    if strokes.ndim != 2 or strokes.shape[-1] != 3 or len(strokes) < 2:
        raise ValueError(
            f"strokes must have shape (T, 3) with T at least 2, got {tuple(strokes.shape)}"
        )
    if not strokes.isfinite().all():
        raise ValueError("strokes must be finite; leave padding out")
    return strokes.detach().to("cpu", torch.float64)


def _mixture(distribution: Distribution, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights ``(N, K)``, means ``(N, K, 2)``, covariances ``(N, K, 2, 2)``, checked."""
    mixture: Any = getattr(distribution, "offset", distribution)
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


def _show_map(axes: Axes, grid: Grid, values: Tensor, ink: Ink) -> None:
    """Draw the density map, and the strokes thinly over it."""
    from matplotlib.colors import PowerNorm  # noqa: PLC0415

    axes.imshow(
        values.numpy(),
        norm=PowerNorm(0.4, vmin=0.0, vmax=max(values.amax().item(), 1e-30)),
        cmap=HEAT,
        origin="lower",
        interpolation="bilinear",
        extent=grid.extent,
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
