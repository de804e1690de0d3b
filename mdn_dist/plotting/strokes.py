"""A page of drawings."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import torch

from mdn_dist.plotting._ink import Ink, draw, place
from mdn_dist.plotting._page import (
    FONT,
    GREY,
    LINE,
    MARGIN,
    PAGE_WIDTH,
    add_panel,
    check_targets,
    new_figure,
    save,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

# Inches.
_PAGE_HEIGHT = 100.0  # at most
_ROW_HEIGHT = 1.3  # at most
_GAP = 0.1  # between cells
_PAD = 0.06  # around a drawing in its cell
_TITLE = 0.19  # above a cell
_CHARACTER = 0.55 * FONT / 72  # a title's mean advance, to keep titles from overlapping


class _Cell(NamedTuple):
    """The place of one drawing, in inches from the lower left corner of the page."""

    left: float
    bottom: float
    width: float
    height: float


class _Layout(NamedTuple):
    """A page in inches, its inches per unit of the drawings, and a cell for each of them."""

    width: float
    height: float
    scale: float
    cells: list[_Cell]


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
    targets = check_targets(path)
    inks = [place(drawing) for drawing in _separate(drawings, mask)]
    if not inks:
        raise ValueError("drawings must hold at least one drawing, got none")
    if titles is not None and len(titles) != len(inks):
        raise ValueError(
            f"titles must hold one title a drawing: expected {len(inks)}, got {len(titles)}"
        )
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")

    layout = _layout(inks, titles, min(columns, len(inks)))
    figure = new_figure(layout.width, layout.height)
    for ink, cell in zip(inks, layout.cells, strict=True):
        _fill(add_panel(figure, *cell), ink, cell, layout.scale)
    if titles is not None:
        for title, cell in zip(titles, layout.cells, strict=True):
            figure.text(
                (cell.left + _PAD) / layout.width,
                (cell.bottom + cell.height + _TITLE / 2) / layout.height,
                title,
                fontsize=FONT,
                color=GREY,
                verticalalignment="center",
                parse_math=False,
            )
    save(figure, targets)
    return figure


def _separate(drawings: Tensor | Sequence[Tensor], mask: Tensor | None) -> list[Tensor]:
    """Return the real points of each drawing as float64 tensors ``(T, 3)`` on the CPU."""
    if isinstance(drawings, torch.Tensor):
        _check_batch(drawings, mask)
    elif mask is not None:
        raise ValueError("mask belongs to a batch (B, T, 3), got drawings as a sequence")
    separate = list(drawings)
    if mask is not None:
        separate = [drawing[real] for drawing, real in zip(separate, mask, strict=True)]
    for index, drawing in enumerate(separate):
        if drawing.ndim != 2 or drawing.shape[-1] != 3:
            raise ValueError(
                f"drawings[{index}] must have shape (T, 3), got {tuple(drawing.shape)}"
            )
        if not drawing.isfinite().all():
            raise ValueError(
                f"drawings[{index}] must be finite at its real points; padding needs a mask"
            )
    return [drawing.detach().to("cpu", torch.float64) for drawing in separate]


def _check_batch(drawings: Tensor, mask: Tensor | None) -> None:
    """Check the shapes of a batch ``(B, T, 3)`` and of its mask ``(B, T)``."""
    if drawings.ndim != 3 or drawings.shape[-1] != 3:
        raise ValueError(f"drawings must have shape (B, T, 3), got {tuple(drawings.shape)}")
    shape = drawings.shape[:2]
    if mask is not None and (mask.shape != shape or mask.dtype != torch.bool):
        raise ValueError(
            f"mask must be bool of shape {tuple(shape)}, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )


def _layout(inks: Sequence[Ink], titles: Sequence[str] | None, columns: int) -> _Layout:
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
    # Distances from the left edge of the page to each column, from its top to each row.
    lefts = list(accumulate((width + _GAP for width in cell_widths), initial=MARGIN))
    tops = list(accumulate((above + height + _GAP for height in cell_heights), initial=MARGIN))
    page_width = lefts[-1] - _GAP + MARGIN
    page_height = tops[-1] - _GAP + MARGIN
    cells = []
    for index in range(len(inks)):
        row, column = divmod(index, columns)
        width, height = cell_widths[column], cell_heights[row]
        bottom = page_height - tops[row] - above - height
        cells.append(_Cell(lefts[column], bottom, width, height))
    return _Layout(page_width, page_height, scale, cells)


def _scale(widths: Tensor, heights: Tensor) -> float:
    """Return inches per unit such that the columns, the rows and the tallest row fit."""
    limits = (
        (PAGE_WIDTH, widths.sum()),
        (_PAGE_HEIGHT, heights.sum()),
        (_ROW_HEIGHT, heights.amax()),
    )
    return min((room / size.item() for room, size in limits if size > 0), default=1.0)


def _fill(axes: Axes, ink: Ink, cell: _Cell, scale: float) -> None:
    """Draw one drawing into its cell: at the left, and half-way up."""
    width, height, pad = cell.width / scale, cell.height / scale, _PAD / scale
    left = ink.low[0].item() - pad
    bottom = (ink.low[1] + ink.high[1] - height).item() / 2
    axes.set(xlim=(left, left + width), ylim=(bottom, bottom + height))
    axes.set_axis_off()
    draw(axes, ink, LINE)
