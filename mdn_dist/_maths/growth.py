r"""A limit for correlations that are strong together.

In three coordinates and more, correlations that are each within their limit may still make a
covariance so nearly singular that no number holds the density of a point off its ridge. In units of
the standard deviations, whitening is the inverse :math:`W` of a factor with rows of unit length,

.. math:: w_i = n_i e_i - \sum_{j<i} s_{ij} w_j, \qquad s_{ij} = \sinh r_{ij},
   \qquad n_i^2 = 1 + \sum_{j<i} s_{ij}^2,

and the sum can grow from row to row. Where it would grow too long, the row's :math:`s_{ij}` are
shortened together.
"""

import math

import torch
from torch import Tensor

from mdn_dist._maths.maps import MARGIN, saturate, unsaturate
from mdn_dist._torch import traced

LEAST = -100.0  # logarithm of a length that no limit concerns


def largest_growth(dtype: torch.dtype, size: int) -> float:
    """Return how long a row of the inverse may be.

    Gradients grow with the third power of the inverse, times the square of the deviation: the ninth
    root of the largest number leaves room for both, shared out over the rows.
    """
    return float(torch.finfo(dtype).max ** (1 / 9) / math.sqrt(size))


def hold_growth(correlation: Tensor, size: int) -> Tensor:
    """Shorten rows of correlations where together they would magnify deviations too much.

    Those, ``(*, D (D - 1) / 2, K)``, are unbounded: the strictly lower triangle row by row. They
    stay if they magnify by no more than :func:`largest_growth` over ``e``.

    Example:
        >>> correlation = torch.full((6, 1), 1.9)  # four coordinates
        >>> hold_growth(correlation, 4).flatten()
        tensor([1.9000, 1.9000, 1.9000, 1.9000, 1.9000, 1.9000])
    """
    limit = math.log(largest_growth(correlation.dtype, size))
    if size < 3 or _surely_within(correlation, size, limit - MARGIN):
        return correlation
    inverse = [_unit(correlation, 0, size)]  # of rows (*, D, K)
    held: list[Tensor] = []
    for i in range(1, size):
        row = correlation[..., i * (i - 1) // 2 : i * (i + 1) // 2, :].sinh()  # (*, i, K)
        grown, length = _grown(row, inverse)
        share = (saturate(length, LEAST, limit) - length).exp()
        held.append(share * row)
        inverse.append(_normalizer(held[-1]) * _unit(row, i, size) - share * grown)
    return torch.cat(held, -2).asinh()


def release_growth(correlation: Tensor, size: int) -> Tensor:
    """Invert :func:`hold_growth`; what is at the limit comes back close to it.

    Example:
        >>> correlation = torch.full((6, 1), 4.5)
        >>> release_growth(hold_growth(correlation, 4), 4).flatten()
        tensor([4.5000, 4.5000, 4.5000, 4.5000, 4.5000, 4.5000])
    """
    limit = math.log(largest_growth(correlation.dtype, size))
    if size < 3 or _surely_within(correlation, size, limit - MARGIN):
        return correlation
    inverse = [_unit(correlation, 0, size)]
    released: list[Tensor] = []
    for i in range(1, size):
        row = correlation[..., i * (i - 1) // 2 : i * (i + 1) // 2, :].sinh()
        grown, length = _grown(row, inverse)
        released.append(row * (unsaturate(length, LEAST, limit) - length).exp())
        inverse.append(_normalizer(row) * _unit(row, i, size) - grown)
    return torch.cat(released, -2).asinh()


def _grown(row: Tensor, inverse: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the sum over the rows before, ``(*, D, K)``, and the logarithm of its length."""
    # no matrix product: autocast would run it in half precision
    grown = (row.unsqueeze(-2) * torch.stack(inverse, -3)).sum(-3)
    tiny = torch.finfo(row.dtype).tiny
    return grown, grown.square().sum(-2, keepdim=True).clamp_min(tiny).log() / 2


def _normalizer(row: Tensor) -> Tensor:
    return (1 + row.square().sum(-2, keepdim=True)).sqrt()


def _unit(like: Tensor, i: int, size: int) -> Tensor:
    """Return the unit row ``(*, D, K)`` of coordinate `i`."""
    unit = (torch.arange(size, device=like.device) == i).to(like).unsqueeze(-1)
    return unit.expand(*like.shape[:-2], size, like.shape[-1])


def _surely_within(correlation: Tensor, size: int, limit: float) -> bool:
    """Tell whether even rows that add up without cancelling are shorter; False where unknown."""
    if not correlation.is_cpu or traced():
        return False
    slope = correlation.detach().sinh().abs()
    bound: list[Tensor] = []  # (*, K)
    for i in range(size):
        row = slope[..., i * (i - 1) // 2 : i * (i + 1) // 2, :]
        grown = sum(row[..., j, :] * bound[j] for j in range(i))
        bound.append((1 + row.square().sum(-2)).sqrt() + grown)
    return bool((torch.stack(bound) < math.exp(limit)).all())
