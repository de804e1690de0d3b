"""The page a picture is drawn on: its look, its panels, and the files it is written to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1b2a49"
GREY = "#5f6673"
HEAT = "OrRd"
BAR = "#e8a587"

# Points.
LINE = 1.1
THIN_LINE = 0.5
FONT = 8.0

# Inches.
PAGE_WIDTH = 7.5
MARGIN = 0.15
AXIS = 0.45  # for the numbers and the name of an axis

_SUFFIXES = (".svg", ".png")


def check_targets(path: str | Path | Sequence[str | Path] | None) -> list[Path]:
    """Return the files to write, refusing unknown suffixes before any work is done."""
    if path is None:
        return []
    targets = [Path(path)] if isinstance(path, str | Path) else [Path(each) for each in path]
    for target in targets:
        if target.suffix.lower() not in _SUFFIXES:
            raise ValueError(f"path must end in {' or '.join(_SUFFIXES)}, got {str(target)!r}")
    return targets


def new_figure(width: float, height: float) -> Figure:
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


def add_panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place of the page given in inches."""
    page_width, page_height = figure.get_size_inches().tolist()
    return figure.add_axes(
        (left / page_width, bottom / page_height, width / page_width, height / page_height)
    )


def label(axes: Axes, title: str, *, x: str = "", y: str = "") -> None:
    """Give a panel its title, left-aligned, names of its axes, and quiet edges."""
    style: dict[str, Any] = {"fontsize": FONT, "color": GREY}
    axes.set_title(title, loc="left", **style)
    axes.set_xlabel(x, **style)
    axes.set_ylabel(y, **style)
    axes.tick_params(labelsize=FONT - 1, colors=GREY, length=2, width=0.5)
    for spine in axes.spines.values():
        spine.set(color=GREY, linewidth=0.5)


def save(figure: Figure, targets: list[Path]) -> None:
    """Write the figure; the same figure gives the same bytes, with no date in them."""
    from matplotlib import rc_context  # noqa: PLC0415

    with rc_context({"svg.hashsalt": "mdn_dist", "svg.fonttype": "none"}):
        for target in targets:
            metadata = {"Date": None} if target.suffix.lower() == ".svg" else {}
            figure.savefig(target, metadata=metadata)
