"""Sketch-RNN's five columns, in which a pen state of three stands for the end-of-stroke flag."""

import torch
from torch import Tensor

from mdn_dist.data.strokes import check_flags, check_floating, check_sequence
from mdn_dist.pens import OneHotPen


def to_pen_states(points: Tensor) -> Tensor:
    """Turn end-of-stroke flags into one-hot pen states, and add a row for the drawing's end.

    A row ``dx, dy, p1, p2, p3`` is an event of a ``StrokeDistribution`` with ``pen="one_hot"``:
    ``p1`` is 1 where a line leads from this point to the next, ``p2`` where the pen is lifted after
    it, and ``p3`` where the drawing has ended and this row is no point of it. The offset of the
    end is 0 and tells nothing, so Sketch-RNN scores that row by its pen state alone.

    Args:
        points: Stroke points ``dx, dy, end_of_stroke``, shape ``(T, 3)``.

    Returns:
        Rows ``dx, dy, p1, p2, p3`` of the same dtype, y up as in ``points``, shape ``(T + 1, 5)``.

    Raises:
        TypeError: If ``points`` is not a tensor.
        ValueError: If the shape is not ``(T, 3)`` with ``T >= 1``, the dtype is not floating, or a
            flag is not 0 or 1.

    Source:
        Ha and Eck, "A Neural Representation of Sketch Drawings", arXiv:1704.03477 (2017), section
        3.1.

    Example:
        >>> to_pen_states(torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 1.0]]))
        tensor([[0., 0., 1., 0., 0.],
                [3., 4., 0., 1., 0.],
                [0., 0., 0., 0., 1.]])
    """
    check_sequence(points)
    check_flags(points)
    flags = points[:, 2:]  # (T, 1)
    drawn = torch.cat([points[:, :2], 1.0 - flags, flags, torch.zeros_like(flags)], dim=1)
    end = points.new_zeros(1, 5)
    end[0, 4] = 1.0
    return torch.cat([drawn, end])


def from_pen_states(events: Tensor) -> Tensor:
    """Turn one-hot pen states into end-of-stroke flags; the inverse of ``to_pen_states``.

    The first row with ``p3`` ends the drawing: it and what follows, as padding, are left out. A
    sequence without one, as a generated one that was cut off, is taken whole.

    Args:
        events: Rows ``dx, dy, p1, p2, p3``, shape ``(T, 5)``, as a ``StrokeDistribution`` with
            ``pen="one_hot"`` draws them.

    Returns:
        Stroke points ``dx, dy, end_of_stroke`` of the same dtype, shape ``(T', 3)``.

    Raises:
        TypeError: If ``events`` is not a tensor.
        ValueError: If the shape is not ``(T, 5)``, the dtype is not floating, no point comes before
            the end, or a state up to the end is not one-hot.

    Source:
        Ha and Eck, "A Neural Representation of Sketch Drawings", arXiv:1704.03477 (2017), section
        3.1.

    Example:
        >>> end = [0.0, 0.0, 0.0, 0.0, 1.0]
        >>> from_pen_states(torch.tensor([[3.0, 4.0, 0.0, 1.0, 0.0], end, end]))
        tensor([[3., 4., 1.]])
    """
    check_floating(events, "events")
    if events.ndim != 2 or events.shape[1] != 5:
        raise ValueError(f"events must have shape (T, 5), got {tuple(events.shape)}")
    ends = torch.nonzero(events[:, 4] == 1).flatten().tolist()
    length = ends[0] if ends else len(events)
    states = events[: length + 1, 2:]
    if not OneHotPen.valid(states).all():
        raise ValueError("pen states events[:, 2:] must be one-hot, got another value")
    if length == 0:
        raise ValueError("events must hold a point before the end of the drawing, got none")
    return torch.cat([events[:length, :2], events[:length, 3:4]], dim=1)
