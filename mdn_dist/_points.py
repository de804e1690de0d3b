"""The points of strokes: which are valid, and gathered from batches."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from mdn_dist._checks import check_all, check_mask, check_tensor
from mdn_dist.pens import Pen


class StrokePoint(constraints.Constraint):
    """Finite coordinates, `event_size` of them, followed by a value of a kind of pen."""

    is_discrete = True
    event_dim = 1

    def __init__(self, event_size: int, pen: Pen | type[Pen]) -> None:
        self.event_size = event_size
        self.pen = pen
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Tell which points ``(*, event)`` are in the support."""
        offset, pen = value.tensor_split([self.event_size], -1)
        return offset.isfinite().all(-1) & self.pen.valid(pen).all(-1)

    def __repr__(self) -> str:
        return f"StrokePoint(event_size={self.event_size}, pen={self.pen.valid_values})"


def gather_points(
    strokes: Tensor | Sequence[Tensor], mask: Tensor | None, event_size: int, pen: type[Pen] | None
) -> Tensor:
    """Return the real points ``(N, event)`` of `strokes`, checked.

    Strokes are points ``(*, event)``, with a mask ``(*)``, or a sequence of tensors ``(T, event)``.
    """
    point_size = event_size + (pen.size if pen else 0)
    if not isinstance(strokes, Tensor | Sequence):
        raise TypeError(
            f"strokes must be a tensor or a sequence of tensors, got {type(strokes).__name__}"
        )
    parts = [strokes] if isinstance(strokes, Tensor) else list(strokes)
    for part in parts:
        check_tensor(part, "strokes")
        if part.shape[-1:] != (point_size,):
            raise ValueError(
                f"strokes must end in {point_size} values, got shape {tuple(part.shape)}"
            )
    if mask is not None:
        parts = [_select(strokes, mask)]
    if not sum(part.numel() for part in parts):
        raise ValueError("strokes must hold at least one point, got none")
    points = torch.cat([part.reshape(-1, point_size) for part in parts])
    if not points.isfinite().all():
        raise ValueError("strokes must be finite where mask is True, got infinite or NaN")
    if pen:
        value = points[:, event_size:]
        check_all("pen in strokes", pen.valid(value), pen.valid_values, value)
    return points


def _select(strokes: Tensor | Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return the points ``(N, event)`` of `strokes` where `mask` is True, or raise."""
    if not isinstance(strokes, Tensor):
        raise ValueError("mask must come with one tensor of strokes, got a sequence")  # noqa: TRY004
    check_mask(mask)
    if mask.shape != strokes.shape[:-1]:
        raise ValueError(
            f"mask must have shape {tuple(strokes.shape[:-1])}, got {tuple(mask.shape)}"
        )
    return strokes[mask]
