"""Even spacing of points along each stroke, and noise for points that sit on a lattice."""

import torch
from torch import Tensor

from mdn_dist._checks import check_tensor
from mdn_dist._maths.floats import in_float64
from mdn_dist.data.arguments import to_positive
from mdn_dist.data.corpus import MAX_POINTS
from mdn_dist.data.strokes import (
    check_points,
    check_sequence,
    from_polylines,
    polylines,
    stroke_lengths,
    to_absolute,
    to_offsets,
)


def resample(points: Tensor, spacing: float, *, along: Tensor | None = None) -> Tensor:
    """Place points evenly along each stroke, by linear interpolation.

    A stroke of extent ``l`` becomes ``max(1, round(l / spacing))`` equal steps, so its step is as
    near to ``spacing`` as a whole number of steps allows, and its two end points stay where they
    are. A dot (one point, or several at one place) becomes one point. What comes out has at most
    ``mdn_dist.data.corpus.MAX_POINTS`` points.

    Args:
        points: Stroke points ``dx, dy, end_of_stroke``, shape ``(T, 3)``.
        spacing: The step between points, in data units (or in the units of ``along``), positive.
        along: What is to be even, shape ``(T,)``, for instance the times in seconds; it must not
            decrease inside a stroke. Arc length by default.

    Returns:
        Stroke points of shape ``(T', 3)`` and the dtype of ``points``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If a shape is wrong, a point is not finite, ``spacing`` is not positive or makes
            too many points, or ``along`` decreases inside a stroke.

    Example:
        >>> resample(torch.tensor([[0.0, 0.0, 0.0], [4.0, 0.0, 1.0]]), spacing=2.0)
        tensor([[0., 0., 0.],
                [2., 0., 0.],
                [2., 0., 1.]])
    """
    check_sequence(points)
    spacing = to_positive(spacing, "spacing")
    if not points.isfinite().all():
        raise ValueError("points must be finite, got NaN or infinity")
    if along is not None:
        check_tensor(along, "along")
        if along.shape != points.shape[:1]:
            raise ValueError(f"along must have shape ({len(points)},), got {tuple(along.shape)}")
    strokes = polylines(in_float64(points))
    if along is None:
        positions = [_arc_length(stroke) for stroke in strokes]
    else:
        positions = list(in_float64(along).split(stroke_lengths(points)))
    steps = [_steps(stroke, s, spacing) for stroke, s in zip(strokes, positions, strict=True)]
    total = len(steps) + sum(steps)
    if total > MAX_POINTS:
        raise ValueError(
            f"spacing {spacing} would make {total:.10g} points, expected at most {MAX_POINTS}"
        )
    even = [
        _interpolate(stroke, s, int(count))
        for stroke, s, count in zip(strokes, positions, steps, strict=True)
    ]
    return from_polylines(even).to(points)


def _arc_length(stroke: Tensor) -> Tensor:
    steps = torch.linalg.vector_norm(stroke.diff(dim=0), dim=1)
    return torch.cat([steps.new_zeros(1), steps.cumsum(0)])


def _steps(stroke: Tensor, s: Tensor, spacing: float) -> float:
    """Return how many steps a stroke becomes, none if it is a dot; infinity is one answer."""
    if bool((stroke == stroke[0]).all()):
        return 0.0
    if not bool((s.diff() >= 0).all()):
        raise ValueError("along must not decrease inside a stroke, got a step back (or NaN)")
    return max(1.0, float(((s[-1] - s[0]) / spacing + 0.5).floor()))


def _interpolate(stroke: Tensor, s: Tensor, steps: int) -> Tensor:
    """Return the stroke ``(n, 2)`` at even values of ``s``, ``(n,)``, ends included."""
    if steps == 0:
        return stroke[:1]
    inner = torch.linspace(0.0, 1.0, steps + 1, dtype=s.dtype, device=s.device)[1:-1]
    targets = s[0] + inner * (s[-1] - s[0])
    # right=True picks a segment of positive width wherever values of s repeat.
    right = torch.searchsorted(s, targets, right=True).clamp(1, len(s) - 1)
    left = right - 1
    # Only a target that rounds to the last value can meet a segment without width.
    width = (s[right] - s[left]).clamp_min(torch.finfo(s.dtype).tiny)
    weight = ((targets - s[left]) / width).clamp(0.0, 1.0)
    between = torch.lerp(stroke[left], stroke[right], weight.unsqueeze(-1))
    return torch.cat([stroke[:1], between, stroke[-1:]])


def dequantize(points: Tensor, step: float, generator: torch.Generator | None = None) -> Tensor:
    """Spread points that sit on a lattice over their cells, by uniform noise of one step.

    Mice and tablets report whole pixels. A density can grow without bound on such points, so a
    likelihood means something only after the noise: then it is a lower bound of the lattice's
    likelihood (Theis et al. 2016). Every absolute position, the first one too, moves by its own
    draw from ``[-step / 2, step / 2)``.

    Args:
        points: Stroke points ``dx, dy, end_of_stroke``, shape ``(..., T, 3)``.
        step: The lattice's step in data units, positive.
        generator: Where the randomness comes from; torch's global one by default.

    Returns:
        Stroke points of the same shape and dtype; the flags are copied.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If the shape is not ``(..., T, 3)``, or ``step`` is not positive and finite.

    Example:
        >>> points = torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.0, 1.0]])
        >>> noisy = dequantize(points, step=1.0, generator=torch.Generator().manual_seed(0))
        >>> to_absolute(noisy).round()
        tensor([[-0., 0., 0.],
                [3., 1., 1.]])
    """
    check_points(points)
    step = to_positive(step, "step")
    absolute = to_absolute(points)
    noise = torch.rand(
        absolute[..., :2].shape, generator=generator, dtype=points.dtype, device=points.device
    )
    moved = absolute[..., :2] + step * (noise - 0.5)
    return to_offsets(torch.cat([moved, absolute[..., 2:]], dim=-1))
