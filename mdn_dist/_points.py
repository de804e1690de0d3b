"""The points of strokes: which are valid, gathered from batches, how often their pen is up."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from mdn_dist._checks import check_all, check_mask, check_tensor


class StrokePoint(constraints.Constraint):
    """Finite coordinates followed by a value of the pen: a 0/1 flag, or a one-hot state.

    Args:
        event_size: Number of coordinates.
        pen: Constraint of the pen's value.
    """

    is_discrete = True
    event_dim = 1

    def __init__(self, event_size: int, pen: constraints.Constraint) -> None:
        self.event_size = event_size
        self.pen = pen
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Tell which points are in the support.

        Args:
            value: Points, shape ``(*, event)``.

        Returns:
            Truth values, shape ``(*)``.

        Example:
            >>> StrokePoint(1, constraints.boolean).check(torch.tensor([[2.0, 1.0], [2.0, 3.0]]))
            tensor([ True, False])
        """
        offset, pen = value.tensor_split([self.event_size], -1)
        valid: Tensor = self.pen.check(pen if self.pen.event_dim else pen.squeeze(-1))
        return offset.isfinite().all(-1) & valid

    def __repr__(self) -> str:
        return f"StrokePoint(event_size={self.event_size}, pen={self.pen})"


def gather_points(
    strokes: Tensor | Sequence[Tensor], mask: Tensor | None, event_size: int, point_size: int
) -> Tensor:
    """Return the real points of `strokes` in one row after another, checked.

    Args:
        strokes: Points, shape ``(*, event)``, or a sequence of tensors ``(T, event)``.
        mask: True where a point is real, boolean, shape ``(*)``; only with one tensor of `strokes`.
        event_size: Number of coordinates ``D``.
        point_size: Size of an event: coordinates and the pen's value.

    Returns:
        Points, shape ``(N, event)``.

    Raises:
        TypeError: If `strokes` is not of tensors, or `mask` is not boolean.
        ValueError: If there is no point, points are not finite or of the wrong size, the pen's
            values are not 0 or 1, or `mask` does not fit.

    Example:
        >>> padded = torch.zeros(2, 3, 3)
        >>> mask = torch.tensor([[True, True, True], [True, False, False]])
        >>> gather_points(padded, mask, event_size=2, point_size=3).shape
        torch.Size([4, 3])
    """
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
    pen = points[:, event_size:]
    check_all("pen in strokes", valid_state(pen), "0 or 1, a single 1 for pen states", pen)
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


def valid_state(state: Tensor) -> Tensor:
    """Tell which elements of a pen's values are valid: 0 or 1, in a row with one 1 for states.

    Args:
        state: Flags, shape ``(*, 1)``, or one-hot states, shape ``(*, 3)``.

    Returns:
        Truth values, shaped like `state`.

    Example:
        >>> valid_state(torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]))
        tensor([[ True,  True,  True],
                [False, False, False]])
    """
    valid = (state == 0) | (state == 1)
    if state.shape[-1] > 1:
        valid &= (state == 1).sum(-1, keepdim=True) == 1
    return valid


def log_odds(pen: Tensor) -> Tensor:
    """Return the logits of a pen's values by how often they occur, with half a count added.

    Args:
        pen: Flags, shape ``(N, 1)``, or one-hot states, shape ``(N, 3)``.

    Returns:
        Logits, shape ``(1)`` or ``(3)``, finite.

    Example:
        >>> log_odds(torch.tensor([[0.0], [1.0]]))
        tensor([0.])
    """
    share = (pen.sum(0) + 0.5) / (len(pen) + 1)
    return share.logit() if pen.shape[-1] == 1 else share.log()
