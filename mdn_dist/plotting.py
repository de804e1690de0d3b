"""Pictures of strokes and of what a model predicts about them.

Every function returns a ``matplotlib.figure.Figure`` and can write it to SVG or PNG at once.
Matplotlib, and NumPy, which it needs, are imported when a function is called, pyplot never:
nothing needs a display, no figure stays registered anywhere, and no setting is left changed.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from mdn_dist._maths.calibration import kolmogorov_smirnov

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor
    from torch.distributions import Distribution

__all__ = ["calibration", "density", "strokes"]

_SUFFIXES = (".svg", ".png")
_INK = "#1b2a49"
_GREY = "#5f6673"
_HEAT = "OrRd"
_BAR = "#e8a587"
_LINE = 1.1  # points
_THIN_LINE = 0.5  # points
_FONT = 8.0  # points

# Inches.
_PAGE_WIDTH = 7.5
_PAGE_HEIGHT = 100.0
_ROW_HEIGHT = 1.3
_MARGIN = 0.15
_GAP = 0.1
_PAD = 0.06
_TITLE = 0.19
_AXIS = 0.45
_WEIGHTS_HEIGHT = 1.25
_HISTOGRAM_HEIGHT = 1.6
_CHARACTER = 0.55 * _FONT / 72  # a title's mean advance, to keep titles from overlapping

_BLUR = 0.6  # pixels: a Gaussian this wide, sampled at pixel centres, keeps its mass to 0.4 %
_REACH = 6.0  # standard deviations; beyond lies less than 2e-8 of a component's mass


class _Ink(NamedTuple):
    """A drawing in absolute coordinates: lines separated by rows of NaN, and lone points."""

    lines: Tensor  # (N, 2)
    dots: Tensor  # (M, 2)
    low: Tensor  # (2,)
    high: Tensor  # (2,)


class _Layout(NamedTuple):
    """A page in inches, its inches per unit, and (left, bottom, width, height) of each cell."""

    width: float
    height: float
    scale: float
    cells: list[tuple[float, float, float, float]]


class _Page(NamedTuple):
    """A density map: ``values[row, column]`` at the pixel centres ``x[column]``, ``y[row]``."""

    x: Tensor
    y: Tensor
    values: Tensor
    pixel: float


def strokes(
    drawings: Tensor | Sequence[Tensor],
    *,
    mask: Tensor | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 1,
    path: str | Path | Sequence[str | Path] | None = None,
) -> Figure:
    """Draw a batch of stroke sequences on one page, each in its own cell, all at one scale.

    Cells take the size of what they hold: lines of text make wide low cells, letters square ones.
    A stroke of a single point is drawn as a dot.

    Args:
        drawings: Stroke points ``(dx, dy, end_of_stroke)``, offsets in any one unit with y up,
            as a batch ``(B, T, 3)`` or as a sequence of tensors ``(T, 3)`` of different lengths.
        mask: Which points of a batch are real, bool ``(B, T)``. The others may hold anything.
        titles: One title a drawing, set above its cell.
        columns: Cells in a row; they are filled row by row.
        path: Where to write the page, ending in ``.svg`` or ``.png``; a list writes several.

    Returns:
        The figure; ``figure.axes[i]`` shows ``drawings[i]`` in absolute coordinates.

    Raises:
        ValueError: If a shape, a title count, the columns or a suffix is wrong, or a real point
            is not finite.
        ModuleNotFoundError: If matplotlib is missing.

    Example:
        >>> corner = torch.tensor([[0.0, 0.0, 0.0], [0.0, -1.0, 0.0], [1.0, 0.0, 1.0]])
        >>> figure = strokes([corner, corner], titles=["one", "two"], columns=2)
        >>> len(figure.axes)
        2
    """
    targets = _targets(path)
    inks = [_ink(drawing) for drawing in _separate(drawings, mask)]
    if not inks:
        raise ValueError("drawings must hold at least one drawing, got none")
    if titles is not None and len(titles) != len(inks):
        raise ValueError(
            f"titles must hold one title a drawing: expected {len(inks)}, got {len(titles)}"
        )
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")

    layout = _layout(inks, titles, min(columns, len(inks)))
    figure = _figure(layout.width, layout.height)
    for index, (ink, cell) in enumerate(zip(inks, layout.cells, strict=True)):
        axes = _panel(figure, *cell)
        _, _, width, height = (each / layout.scale for each in cell)
        pad = _PAD / layout.scale
        left = ink.low[0].item() - pad
        bottom = (ink.low[1] + ink.high[1]).item() / 2 - height / 2
        axes.set(xlim=(left, left + width), ylim=(bottom, bottom + height))
        axes.set_axis_off()
        _draw(axes, ink, _LINE)
        if titles is not None:
            figure.text(
                (cell[0] + _PAD) / layout.width,
                (cell[1] + cell[3] + _TITLE / 2) / layout.height,
                titles[index],
                fontsize=_FONT,
                color=_GREY,
                verticalalignment="center",
                parse_math=False,
            )
    _save(figure, targets)
    return figure


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
    targets = _targets(path)
    weights, means, covariances = _mixture(distribution, strokes)
    if resolution < 2:
        raise ValueError(f"resolution must be at least 2 pixels, got {resolution}")
    points = strokes.detach().to("cpu", torch.float64)
    ink = _ink(points)
    centres = points[:-1, None, :2].cumsum(0) + means  # (T - 1, K, 2)
    page = _density_map(ink, weights, centres, covariances, resolution)

    rows, columns = page.values.shape
    width = _PAGE_WIDTH if columns >= rows else max(_PAGE_WIDTH * columns / rows, 4.0)
    side = width - _AXIS - _MARGIN
    map_height = min(side * rows / columns, _PAGE_WIDTH)
    map_base = _AXIS + _WEIGHTS_HEIGHT + _AXIS
    figure = _figure(width, map_base + map_height + 0.35)
    _show_map(_panel(figure, _AXIS, map_base, side, map_height), page, ink)
    _show_weights(_panel(figure, _AXIS, _AXIS, side, _WEIGHTS_HEIGHT), weights, points)
    _save(figure, targets)
    return figure


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
    keeps to with probability `level` when the model is right, from the binomial distribution of
    its count. A panel's title gives the statistic and p-value of a Kolmogorov-Smirnov test, those
    of :func:`mdn_dist._maths.calibration.kolmogorov_smirnov`.

    Args:
        uniform: What the model's ``rosenblatt`` makes of data that it was not trained on, from 0
            to 1, shape ``(*, D)``: all of ``*`` are one sample. Leave padding out:
            ``distribution.rosenblatt(points)[mask]``.
        bins: Bars in a panel.
        level: Probability of the band, for each bar by itself.
        path: Where to write the page, ending in ``.svg`` or ``.png``; a list writes several.

    Returns:
        The figure; ``figure.axes[d].patches`` are the bars of coordinate ``d``.

    Raises:
        ValueError: If there is no point, a number is not from 0 to 1, or `bins`, `level` or a
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
    targets = _targets(path)
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    values = uniform.detach().to("cpu", torch.float64)
    tests = zip(*kolmogorov_smirnov(values), strict=True)
    values = values.flatten(0, -2)
    count, size = values.shape
    places = (values * bins).long().clamp_max(bins - 1)
    low, high = (k * bins / count for k in _binomial_band(count, 1 / bins, level))

    row = _HISTOGRAM_HEIGHT + 2 * _AXIS
    figure = _figure(_PAGE_WIDTH, size * row)
    for d, (statistic, p_value) in enumerate(tests):
        base = (size - 1 - d) * row + _AXIS
        axes = _panel(figure, _AXIS, base, _PAGE_WIDTH - _AXIS - _MARGIN, _HISTOGRAM_HEIGHT)
        heights = torch.bincount(places[:, d], minlength=bins) * bins / count
        left = torch.arange(bins) / bins
        axes.bar(left.tolist(), heights.tolist(), 1 / bins, align="edge", color=_BAR, linewidth=0)
        axes.axhspan(low, high, color=_GREY, alpha=0.3, linewidth=0)
        axes.axhline(1.0, color=_INK, linewidth=_THIN_LINE)
        axes.set(xlim=(0, 1), ylim=(0, max(1.1 * heights.amax().item(), 1.3 * high)))
        _label(axes, f"coordinate {d + 1}: KS {statistic:.2g}, p = {p_value:.2g}")
        axes.set_ylabel("density", fontsize=_FONT, color=_GREY)
    _save(figure, targets)
    return figure


def _binomial_band(count: int, probability: float, level: float) -> tuple[int, int]:
    """Return the quantiles of a binomial count that leave half of ``1 - level`` on either side."""
    k = torch.arange(count + 1, dtype=torch.float64)
    whole = torch.tensor(count + 1.0, dtype=torch.float64).lgamma()
    ways = whole - (k + 1).lgamma() - (count - k + 1).lgamma()
    log_mass = ways + k * math.log(probability) + (count - k) * math.log1p(-probability)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.searchsorted(log_mass.exp().cumsum(0), tails).tolist()
    return low, min(high, count)


def _targets(path: str | Path | Sequence[str | Path] | None) -> list[Path]:
    """Return the files to write, refusing unknown suffixes before any work is done."""
    if path is None:
        return []
    targets = [Path(path)] if isinstance(path, str | Path) else [Path(each) for each in path]
    for target in targets:
        if target.suffix.lower() not in _SUFFIXES:
            raise ValueError(f"path must end in {' or '.join(_SUFFIXES)}, got {str(target)!r}")
    return targets


def _separate(drawings: Tensor | Sequence[Tensor], mask: Tensor | None) -> list[Tensor]:
    """Return the real points of each drawing as float64 tensors ``(T, 3)`` on the CPU."""
    if not isinstance(drawings, torch.Tensor):
        if mask is not None:
            raise ValueError("mask belongs to a batch (B, T, 3), got drawings as a sequence")
        for index, drawing in enumerate(drawings):
            if drawing.ndim != 2 or drawing.shape[-1] != 3:
                raise ValueError(
                    f"drawings[{index}] must have shape (T, 3), got {tuple(drawing.shape)}"
                )
        real = list(drawings)
    elif drawings.ndim != 3 or drawings.shape[-1] != 3:
        raise ValueError(f"drawings must have shape (B, T, 3), got {tuple(drawings.shape)}")
    elif mask is None:
        real = list(drawings)
    elif mask.shape != drawings.shape[:2] or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be bool of shape {tuple(drawings.shape[:2])}, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    else:
        real = [drawing[keep] for drawing, keep in zip(drawings, mask, strict=True)]
    for index, drawing in enumerate(real):
        if not drawing.isfinite().all():
            raise ValueError(
                f"drawings[{index}] must be finite at its real points; padding needs a mask"
            )
    return [drawing.detach().to("cpu", torch.float64) for drawing in real]


def _ink(points: Tensor) -> _Ink:
    """Place one drawing ``(T, 3)`` on the page, with gaps where the pen was lifted."""
    if len(points) == 0:
        nothing = points.new_zeros(0, 2)
        return _Ink(nothing, nothing, points.new_zeros(2), points.new_zeros(2))
    places = points[:, :2].cumsum(0)
    ends = points[:, 2] > 0.5
    starts = torch.cat([ends.new_ones(1), ends[:-1]])
    ends = torch.cat([ends[:-1], ends.new_ones(1)])
    lone = starts & ends
    number = starts.cumsum(0) - 1
    # Point t moves down by one row for each stroke before its own; the rows left free are gaps.
    lines = places.new_full((len(places) + int(starts.sum()) - 1, 2), math.nan)
    lines[torch.arange(len(places)) + number] = places.masked_fill(lone[:, None], math.nan)
    return _Ink(lines, places[lone], places.amin(0), places.amax(0))


def _scale(widths: Tensor, heights: Tensor) -> float:
    """Return inches per unit such that the columns, the rows and the tallest row fit."""
    limits = (
        (_PAGE_WIDTH, widths.sum()),
        (_PAGE_HEIGHT, heights.sum()),
        (_ROW_HEIGHT, heights.amax()),
    )
    return min((room / size.item() for room, size in limits if size > 0), default=1.0)


def _layout(inks: Sequence[_Ink], titles: Sequence[str] | None, columns: int) -> _Layout:
    """Give every drawing a cell: columns as wide, rows as high as their largest drawing."""
    sizes = torch.stack([ink.high - ink.low for ink in inks])
    widths = torch.stack([sizes[column::columns, 0].amax() for column in range(columns)])
    heights = torch.stack([row.amax() for row in sizes[:, 1].split(columns)])
    scale = _scale(widths, heights)
    cell_widths = (widths * scale + 2 * _PAD).tolist()
    cell_heights = (heights * scale + 2 * _PAD).tolist()
    for index, title in enumerate(titles or ()):
        column = index % columns
        cell_widths[column] = max(cell_widths[column], 2 * _PAD + _CHARACTER * len(title))
    above = 0.0 if titles is None else _TITLE
    rights = list(itertools.accumulate(width + _GAP for width in cell_widths))
    drops = list(itertools.accumulate(above + height + _GAP for height in cell_heights))
    page_height = drops[-1] - _GAP + 2 * _MARGIN
    cells = []
    for index in range(len(inks)):
        row, column = divmod(index, columns)
        left = _MARGIN + rights[column] - _GAP - cell_widths[column]
        bottom = page_height - _MARGIN - drops[row] + _GAP
        cells.append((left, bottom, cell_widths[column], cell_heights[row]))
    return _Layout(rights[-1] - _GAP + 2 * _MARGIN, page_height, scale, cells)


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
    ink: _Ink, weights: Tensor, centres: Tensor, covariances: Tensor, resolution: int
) -> _Page:
    """Sum the blurred densities ``(N, K)`` over a page around the ink."""
    import numpy as np  # noqa: PLC0415

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


def _figure(width: float, height: float) -> Figure:
    """Return an empty white page, in inches, that no display and no pyplot knows of."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ModuleNotFoundError(
            'mdn_dist.plotting needs matplotlib: pip install "mdn_dist[plotting]"'
        ) from error
    figure = Figure(figsize=(width, height), dpi=200, facecolor="white")
    figure.set_layout_engine("none")
    FigureCanvasAgg(figure)
    return figure


def _panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place of the page given in inches."""
    page_width, page_height = figure.get_size_inches().tolist()
    return figure.add_axes(
        (left / page_width, bottom / page_height, width / page_width, height / page_height)
    )


def _show_map(axes: Axes, page: _Page, ink: _Ink) -> None:
    """Draw the density map, and the strokes thinly over it."""
    from matplotlib.colors import PowerNorm  # noqa: PLC0415

    half = page.pixel / 2
    left, right = page.x[0].item() - half, page.x[-1].item() + half
    low, high = page.y[0].item() - half, page.y[-1].item() + half
    axes.imshow(
        page.values.numpy(),
        norm=PowerNorm(0.4, vmin=0.0, vmax=max(page.values.amax().item(), 1e-30)),
        cmap=_HEAT,
        origin="lower",
        interpolation="bilinear",
        extent=(left, right, low, high),
    )
    _draw(axes, ink, _THIN_LINE)
    _label(axes, "density of the pen's next position, all steps")
    axes.set_xticks([])
    axes.set_yticks([])


def _show_weights(axes: Axes, weights: Tensor, points: Tensor) -> None:
    """Draw the weights, components by steps, with a tick above each step from a lifted pen."""
    axes.imshow(
        weights.T.numpy(),
        vmin=0.0,
        vmax=1.0,
        cmap=_HEAT,
        aspect="auto",
        interpolation="nearest",
    )
    axes.vlines(
        (points[:-1, 2] > 0.5).nonzero()[:, 0].numpy(),
        1.0,
        1.05,
        transform=axes.get_xaxis_transform(),
        colors=_INK,
        linewidth=0.6,
        clip_on=False,
    )
    _label(axes, "weights of the components, step by step (tick: the pen was lifted)")
    axes.set_xlabel("step", fontsize=_FONT, color=_GREY)
    axes.set_ylabel("component", fontsize=_FONT, color=_GREY)


def _draw(axes: Axes, ink: _Ink, width: float) -> None:
    """Draw the lines as a single path and the lone points as dots."""
    axes.plot(
        *ink.lines.T.numpy(),
        color=_INK,
        linewidth=width,
        solid_capstyle="round",
        solid_joinstyle="round",
        scalex=False,
        scaley=False,
    )
    if len(ink.dots):
        axes.plot(
            *ink.dots.T.numpy(),
            color=_INK,
            linestyle="none",
            marker="o",
            markersize=2.0 * width,
            markeredgewidth=0.0,
            scalex=False,
            scaley=False,
        )


def _label(axes: Axes, title: str) -> None:
    """Give a panel its title, left-aligned, and quiet edges."""
    axes.set_title(title, loc="left", fontsize=_FONT, color=_GREY)
    axes.tick_params(labelsize=_FONT - 1, colors=_GREY, length=2, width=0.5)
    for spine in axes.spines.values():
        spine.set(color=_GREY, linewidth=0.5)


def _save(figure: Figure, targets: list[Path]) -> None:
    """Write the figure; the same figure gives the same bytes, with no date in them."""
    from matplotlib import rc_context  # noqa: PLC0415

    with rc_context({"svg.hashsalt": "mdn_dist", "svg.fonttype": "none"}):
        for target in targets:
            metadata = {"Date": None} if target.suffix.lower() == ".svg" else {}
            figure.savefig(target, metadata=metadata)
