"""The stroke format of ``mdn_dist.data``: checks, absolute positions, polylines."""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from mdn_dist._checks import check_tensor
from mdn_dist._maths.floats import in_float64
from mdn_dist.data.arguments import items_of


def check_floating(values: Tensor, name: str) -> None:
    """Raise unless ``values`` is a floating tensor."""
    check_tensor(values, name)
    if not values.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {values.dtype}")


def check_points(points: Tensor, name: str = "points") -> None:
    """Raise unless ``points`` is a floating tensor of shape ``(..., T, 3)``."""
    check_floating(points, name)
    if points.ndim < 2 or points.shape[-1] != 3:
        raise ValueError(f"{name} must have shape (..., T, 3), got {tuple(points.shape)}")


def check_sequence(points: Tensor, name: str = "points") -> None:
    """Raise unless ``points`` is a floating tensor of shape ``(T, 3)`` with ``T >= 1``."""
    check_points(points, name)
    if points.ndim != 2 or len(points) == 0:
        raise ValueError(f"{name} must have shape (T, 3) with T >= 1, got {tuple(points.shape)}")


def check_flags(points: Tensor) -> None:
    """Raise unless the flags of ``(T, 3)`` points are 0 or 1."""
    flags = points[:, 2]
    if not ((flags == 0) | (flags == 1)).all():
        raise ValueError("end_of_stroke flags points[:, 2] must be 0 or 1, got another value")


def to_absolute(points: Tensor) -> Tensor:
    """Turn offsets into absolute positions, ``x_t = dx_1 + ... + dx_t``.

    Sums are taken in float64 and rounded once, so that errors do not pile up along a drawing.

    Args:
        points: Stroke points ``dx, dy, end_of_stroke``, shape ``(..., T, 3)``.

    Returns:
        Rows ``x, y, end_of_stroke`` of the same shape and dtype; the flags are copied.

    Raises:
        TypeError: If it is not a tensor.
        ValueError: If the shape is not ``(..., T, 3)`` or the dtype is not floating.

    Example:
        >>> to_absolute(torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 0.0], [1.0, -1.0, 1.0]]))
        tensor([[0., 0., 0.],
                [1., 2., 0.],
                [2., 1., 1.]])
    """
    check_points(points)
    positions = in_float64(points[..., :2]).cumsum(dim=-2).to(points)
    return torch.cat([positions, points[..., 2:]], dim=-1)


def to_offsets(absolute: Tensor) -> Tensor:
    """Turn absolute positions into offsets; the inverse of ``to_absolute``.

    The first row's offset is the position of the first point. The two functions undo each other
    exactly where the positions are representable (integers, a dyadic lattice), elsewhere up to
    rounding.

    Args:
        absolute: Rows ``x, y, end_of_stroke``, shape ``(..., T, 3)``.

    Returns:
        Stroke points ``dx, dy, end_of_stroke`` of the same shape and dtype; the flags are copied.

    Raises:
        TypeError: If it is not a tensor.
        ValueError: If the shape is not ``(..., T, 3)`` or the dtype is not floating.

    Example:
        >>> to_offsets(torch.tensor([[5.0, 5.0, 0.0], [6.0, 8.0, 1.0]]))
        tensor([[5., 5., 0.],
                [1., 3., 1.]])
    """
    check_points(absolute, "absolute")
    positions = absolute[..., :2]
    offsets = torch.diff(positions, dim=-2, prepend=torch.zeros_like(positions[..., :1, :]))
    return torch.cat([offsets, absolute[..., 2:]], dim=-1)


def stroke_lengths(points: Tensor) -> list[int]:
    """Return how many points each stroke has; points after the last flag make one more."""
    ends = torch.nonzero(points[:, 2] > 0.5).flatten() + 1
    edges = [0, *ends.tolist()]
    if edges[-1] != len(points):
        edges.append(len(points))
    return [stop - start for start, stop in pairwise(edges)]


def polylines(points: Tensor) -> list[Tensor]:
    """Split a drawing into its strokes, in absolute positions.

    A flag above 0.5 ends a stroke. Points after the last flag, as in a generated sequence that was
    cut off, make one more stroke.

    Args:
        points: Stroke points ``dx, dy, end_of_stroke``, shape ``(T, 3)``.

    Returns:
        One tensor ``(n, 2)`` of positions ``x, y`` for each stroke.

    Raises:
        TypeError: If it is not a tensor.
        ValueError: If the shape is not ``(T, 3)`` with ``T >= 1`` or the dtype is not floating.

    Example:
        >>> points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
        >>> [stroke.tolist() for stroke in polylines(points)]
        [[[0.0, 0.0], [1.0, 2.0]], [[4.0, 2.0]]]
    """
    check_sequence(points)
    return list(to_absolute(points)[:, :2].split(stroke_lengths(points)))


def from_polylines(strokes: Iterable[Tensor]) -> Tensor:
    """Join strokes in absolute positions into one drawing; the inverse of ``polylines``.

    Args:
        strokes: One floating tensor ``(n, 2)`` with ``n >= 1`` of positions ``x, y`` for each
            stroke.

    Returns:
        Stroke points ``dx, dy, end_of_stroke``, shape ``(T, 3)``, the last row of each stroke
        flagged.

    Raises:
        TypeError: If the strokes are not tensors.
        ValueError: If there is no stroke, or one has another shape or dtype.

    Example:
        >>> from_polylines([torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([[4.0, 2.0]])])
        tensor([[0., 0., 0.],
                [1., 2., 1.],
                [3., 0., 1.]])
    """
    parts = list(items_of(strokes, "strokes", "tensors (n, 2), one for each stroke"))
    if not parts:
        raise ValueError("strokes must hold at least one stroke, got none")
    for index, stroke in enumerate(parts):
        check_floating(stroke, f"strokes[{index}]")
        if stroke.ndim != 2 or stroke.shape[1] != 2 or len(stroke) == 0:
            raise ValueError(
                f"strokes[{index}] must have shape (n, 2) with n >= 1, got {tuple(stroke.shape)}"
            )
    positions = torch.cat(parts)
    lengths = torch.tensor([len(part) for part in parts], device=positions.device)
    flags = positions.new_zeros(len(positions), 1)
    flags[lengths.cumsum(0) - 1] = 1.0
    return to_offsets(torch.cat([positions, flags], dim=1))
