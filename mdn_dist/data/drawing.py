"""One drawing: its stroke points and what the file says of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mdn_dist._checks import check_tensor
from mdn_dist.data.arguments import check_text, items_of, wrong_type
from mdn_dist.data.by_value import PickledByValue
from mdn_dist.data.strokes import check_flags, check_sequence, to_offsets


@dataclass(frozen=True, eq=False)
class Drawing(PickledByValue):
    """A drawing in the stroke format of ``mdn_dist.data``, with its label and origin.

    Two drawings compare by identity, as tensors do not compare to one truth value. A pickle or a
    copy holds the values of the tensors, without their gradients.

    Args:
        points: Stroke points ``dx, dy, end_of_stroke``, float32, shape ``(T, 3)`` with ``T >= 1``.
            Flags are 0 or 1, and the last is 1.
        label: The character, word or category drawn; empty when unknown.
        writer: Who drew it; empty when unknown.
        source: The file and record it was read from; empty when there is none.
        times: Seconds since the first point, float32, shape ``(T,)``, where the file knows them.
            They are kept as the file has them: some files hold a few that run backwards.
        countrycode: Two letters for the country it was drawn in; empty when unknown.
        recognized: Whether Quick, Draw! recognized it; None when unknown.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If a shape, dtype or value breaks the format.

    Example:
        >>> Drawing(torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 1.0]]), label="l")
        Drawing(label='l', writer='', source='')
    """

    points: Tensor = field(repr=False)
    label: str = ""
    writer: str = ""
    source: str = ""
    times: Tensor | None = field(default=None, repr=False)
    countrycode: str = field(default="", repr=False)
    recognized: bool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the format."""
        for name in ("label", "writer", "source", "countrycode"):
            check_text(getattr(self, name), name)
        if self.recognized is not None and not isinstance(self.recognized, bool):
            raise wrong_type("recognized", "a bool or None", self.recognized)
        check_sequence(self.points)
        if self.points.dtype != torch.float32:
            raise ValueError(f"points must be float32, got {self.points.dtype}")
        if not self.points.isfinite().all():
            raise ValueError("points must be finite float32 values, got NaN or infinity")
        check_flags(self.points)
        if self.points[-1, 2] != 1:
            raise ValueError("the last point must end a stroke: expected points[-1, 2] = 1, got 0")
        if self.times is not None:
            _check_times(self.times, len(self.points))


def _check_times(times: Tensor, length: int) -> None:
    check_tensor(times, "times")
    if times.shape != (length,):
        raise ValueError(f"times must have shape ({length},) as points, got {tuple(times.shape)}")
    if times.dtype != torch.float32:
        raise ValueError(f"times must be float32, got {times.dtype}")
    if not times.isfinite().all():
        raise ValueError("times must be finite float32 values, got NaN or infinity")
    if times[0] != 0:
        raise ValueError(f"times are since the first point: expected times[0] = 0, got {times[0]}")


def points_of(items: Iterable[Drawing | Tensor], name: str) -> list[Tensor]:
    """Return the points ``(T, 3)`` of drawings or of tensors themselves, checked."""
    rows = [
        item.points if isinstance(item, Drawing) else item
        for item in items_of(items, name, "drawings or stroke points")
    ]
    for index, points in enumerate(rows):
        check_sequence(points, f"{name}[{index}]")
    return rows


def points_at_origin(absolute: Tensor) -> Tensor:
    """Return the stroke points of float64 rows ``x, y, end_of_stroke``, the first at the origin."""
    points = to_offsets(absolute)  # (T, 3), rounded to float32 only below
    # Subtracting, not setting zero: an infinite position becomes NaN and is refused.
    points[0, :2] -= absolute[0, :2]
    return points.float()


def seconds(milliseconds: Tensor) -> Tensor:
    """Return the times of a drawing from float64 times ``(T,)`` of a file's clock."""
    return ((milliseconds - milliseconds[0]) / 1000.0).float()
