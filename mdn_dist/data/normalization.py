"""An invertible affine map that brings offsets to zero mean and unit scale."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Self

import torch
from torch import Tensor

from mdn_dist._checks import check_tensor
from mdn_dist._maths.floats import in_float64
from mdn_dist.data.arguments import wrong_type
from mdn_dist.data.by_value import PickledByValue
from mdn_dist.data.drawing import Drawing, points_of
from mdn_dist.data.strokes import check_points
from mdn_dist.data.text import to_number

_NAMES = ("loc_x", "loc_y", "scale_x", "scale_y")


@dataclass(frozen=True, eq=False)
class Normalization(PickledByValue):
    """The map ``(offset - loc) / scale`` on ``dx, dy``; flags pass untouched.

    Every row is mapped alike, the first one (the position of the first point) too, so that
    ``denormalize`` gives every row back. Fitting leaves the first rows out, as they are no pen
    movement.

    Args:
        loc: The offset that becomes zero, in data units, shape ``(2,)``.
        scale: The length that becomes one, in data units, positive, shape ``(2,)``.

    Raises:
        TypeError: If ``loc`` or ``scale`` is not a tensor.
        ValueError: If a shape is not ``(2,)``, a value is not finite, or a scale is not positive.

    Example:
        >>> normalization = Normalization(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 4.0]))
        >>> normalization.normalize(torch.tensor([[5.0, 8.0, 1.0]]))
        tensor([[2., 2., 1.]])
    """

    loc: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        """Check shapes and values."""
        for name, value in (("loc", self.loc), ("scale", self.scale)):
            check_tensor(value, name)
            if value.shape != (2,):
                raise ValueError(f"{name} must have shape (2,), got {tuple(value.shape)}")
            if not value.is_floating_point() or not value.isfinite().all():
                raise ValueError(f"{name} must be finite floating point, got {value}")
        if not (self.scale > 0).all():
            raise ValueError(f"scale must be positive, got {self.scale.tolist()}")

    @classmethod
    def fit(cls, drawings: Iterable[Drawing | Tensor], *, isotropic: bool = False) -> Self:
        """Fit to the mean and standard deviation of the offsets of some drawings, in float64.

        Where the drawings' device has no float64, they are taken on the CPU, and the result is on
        the device in the drawings' dtype.

        Args:
            drawings: Drawings, or stroke points of shape ``(T, 3)``; the first row of each is left
                out.
            isotropic: Keep the aspect: ``loc`` is zero, and both scales are the root mean square of
                all offsets.

        Returns:
            The normalization; per coordinate by default, as in Graves (2013), section 4.

        Raises:
            TypeError: If one of ``drawings`` is neither a drawing nor a tensor.
            ValueError: If no offset is left, or the offsets of a coordinate are all the same.

        Example:
            >>> points = torch.tensor([[9.0, 9.0, 0.0], [1.0, 0.0, 0.0], [3.0, 4.0, 1.0]])
            >>> Normalization.fit([points]).to_dict()
            {'loc_x': 2.0, 'loc_y': 2.0, 'scale_x': 1.0, 'scale_y': 2.0}
        """
        rows = points_of(drawings, "drawings")
        offsets = [in_float64(points[1:, :2]) for points in rows if len(points) > 1]
        if not offsets:
            raise ValueError("drawings must hold a point after a first one, got none to fit to")
        values = torch.cat(offsets)  # (N, 2)
        # A spread below the rounding of float32 data is no spread.
        floor = 1e-7 * values.abs().amax(dim=0)
        if isotropic:
            loc, scale = values.new_zeros(2), values.square().mean().sqrt().expand(2).clone()
            floor = torch.zeros_like(floor)
        else:
            loc, scale = values.mean(dim=0), values.std(dim=0, correction=0)
        if not (scale > floor).all():
            raise ValueError(
                f"offsets must vary in each coordinate, got standard deviations {scale.tolist()}"
            )
        if loc.device != rows[0].device:
            loc, scale = loc.to(rows[0]), scale.to(rows[0])
        return cls(loc, scale)

    def normalize(self, points: Tensor) -> Tensor:
        """Map offsets from data units to normalized units.

        Args:
            points: Stroke points in data units, shape ``(..., T, 3)``.

        Returns:
            Stroke points of the same shape and dtype.

        Raises:
            TypeError: If ``points`` is not a tensor.
            ValueError: If the shape is not ``(..., T, 3)`` or the dtype is not floating.
        """
        check_points(points)
        loc, scale = self.loc.to(points), self.scale.to(points)
        return torch.cat([(points[..., :2] - loc) / scale, points[..., 2:]], dim=-1)

    def denormalize(self, points: Tensor) -> Tensor:
        """Map offsets back to data units; the inverse of ``normalize`` up to rounding.

        Shapes, dtypes and errors are those of ``normalize``.
        """
        check_points(points)
        loc, scale = self.loc.to(points), self.scale.to(points)
        return torch.cat([points[..., :2] * scale + loc, points[..., 2:]], dim=-1)

    def to_dict(self) -> dict[str, float]:
        """Return ``loc_x``, ``loc_y``, ``scale_x``, ``scale_y`` as floats, for JSON or metadata."""
        values = [*self.loc.tolist(), *self.scale.tolist()]
        return dict(zip(_NAMES, values, strict=True))

    @classmethod
    def from_dict(cls, values: Mapping[str, float | str]) -> Self:
        """Make a normalization of what ``to_dict`` gave.

        Text is read as numbers, as metadata is often text.

        Args:
            values: A mapping with ``loc_x``, ``loc_y``, ``scale_x``, ``scale_y``; other keys are
                left alone.

        Returns:
            The normalization, in float64.

        Raises:
            TypeError: If ``values`` is not a mapping, or a value neither a number nor text.
            ValueError: If a key is missing, or text is not a decimal number.

        Example:
            >>> stored = {"loc_x": "0.0", "loc_y": "0.0", "scale_x": "2.0", "scale_y": "2.0"}
            >>> Normalization.from_dict(stored).scale
            tensor([2., 2.], dtype=torch.float64)
        """
        if not isinstance(values, Mapping):
            raise wrong_type("values", "a mapping", values)
        missing = [name for name in _NAMES if name not in values]
        if missing:
            raise ValueError(
                f"values must have the keys {', '.join(_NAMES)}, got none of {missing}"
            )
        numbers = torch.tensor(
            [_number(values[name], name) for name in _NAMES], dtype=torch.float64, device="cpu"
        )
        return cls(numbers[:2], numbers[2:])


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real | str):
        raise wrong_type(name, "a number or text", value)
    try:
        return to_number(value) if isinstance(value, str) else float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {error}") from error
