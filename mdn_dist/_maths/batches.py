"""Points in batches: looked through once, then dealt out as often as wanted, few in memory."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mdn_dist._checks import check_all, check_tensor
from mdn_dist._maths.floats import in_float64

ROWS = 2**17  # of points dealt with at once

Batch = Tensor | tuple[Tensor, ...] | list[Tensor]
"""Points ``(N, D)``, or those and their weights ``(N)``."""


class Survey(NamedTuple):
    """What one pass over points tells of them, in float64."""

    sample: Tensor  # (S, D): all points where they are few and of one weight
    low: Tensor  # (D)
    high: Tensor  # (D)
    like: Tensor  # none of them, in the type and the place that they have


class Points:
    """Points ``(N, D)`` and their weights ``(N)``, of one tensor or of many."""

    def __init__(self, points: Tensor | Iterable[Batch], weights: Tensor | None = None) -> None:
        if isinstance(points, Tensor):
            self.batches: Iterable[Batch] = [points if weights is None else (points, weights)]
        elif weights is not None:
            raise ValueError("weights must come with one tensor of points; pair others batchwise")
        elif isinstance(points, Iterable) and not isinstance(points, Iterator):
            self.batches = points
        else:
            raise TypeError(
                "points must be a torch.Tensor, or batches that can be gone through repeatedly, "
                f"got {type(points).__name__}"
            )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Deal out points and weights in the type that they have, checked, not many at once."""
        size = None
        for batch in self.batches:
            points, weights = _checked(batch)
            if size not in (None, points.shape[1]):
                raise ValueError(f"points must all have {size} coordinates, got {points.shape[1]}")
            size = points.shape[1]
            for start in range(0, len(points), ROWS):
                rows = slice(start, start + ROWS)
                yield points[rows], None if weights is None else weights[rows]

    def survey(self, count: int, generator: torch.Generator | None) -> Survey:
        """Look through the points, and draw `count` of them by weight where there are more.

        A place in the sample is given to a point of the batch at hand with the batch's share of the
        weight so far: in the end any point has been given it with its share of all.
        """
        few: list[Tensor] = []  # that have not been drawn from
        sample = low = high = like = torch.empty(0)
        total, seen = 0.0, 0
        for given, weights in self:
            points = in_float64(given)
            if not seen:
                like, sample = given[:0], points.new_zeros(count, points.shape[1])
                low, high = points[0], points[0]
            low, high = torch.minimum(low, points.amin(0)), torch.maximum(high, points.amax(0))
            seen += len(points)
            few.append(points)
            if weights is None and seen <= count and not total:
                continue
            points, few = torch.cat(few), []
            each = torch.ones_like(points[:, 0])
            if weights is not None:
                each[len(each) - len(weights) :] = in_float64(weights)
            cumulative = each.cumsum(0)
            added = cumulative[-1].item()
            total += added
            uniform = torch.rand(
                2, count, generator=generator, dtype=points.dtype, device=points.device
            )
            taken = uniform[0] * total < added
            drawn = torch.searchsorted(cumulative, uniform[1] * added, right=True)
            sample[taken] = points[drawn[taken].clamp_max(len(points) - 1)]
        if few:
            return Survey(torch.cat(few), low, high, like)
        if not total:
            raise ValueError("points must hold at least one of positive weight, got none")
        return Survey(sample, low, high, like)


def _checked(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return the points and the weights of a batch, or raise."""
    parts = list(batch) if isinstance(batch, tuple | list) else [batch]
    if len(parts) not in (1, 2):
        raise ValueError(f"a batch must be points, or points and weights, got {len(parts)} parts")
    points, weights = parts[0], parts[1] if len(parts) == 2 else None
    check_tensor(points, "points")
    if points.dim() != 2 or not points.numel():
        raise ValueError(f"points must have shape (N, D), N > 0, got {tuple(points.shape)}")
    if not points.is_floating_point():
        raise TypeError(f"points must be floating point, got {points.dtype}")
    if not points.sum().isfinite() and not points.isfinite().all():
        raise ValueError("points must be finite, got infinite values or NaN")
    if weights is not None:
        check_tensor(weights, "weights")
        if weights.shape != points.shape[:1]:
            raise ValueError(
                f"weights must have shape {tuple(points.shape[:1])}, got {tuple(weights.shape)}"
            )
        valid = (weights >= 0) & weights.isfinite()
        check_all("weights", valid, "finite and at least 0", weights)
    return points, weights
