"""Modes of a mixture: the highest peak of its density, by an ascent that can only climb.

The ascent runs in float64, accurate for narrow components; and autocast leaves matrix products in
float64 alone.
"""

import torch
from torch import Tensor

from mdn_dist._maths.floats import at_once, in_float64
from mdn_dist._torch import traced

LIMIT = 100
"""Largest number of steps of an ascent."""

TOLERANCE = 1e-12
"""Gain in nats up to which a step counts as the last."""

CHUNK = 128
"""Number of mixtures that climb together, for the sake of caches, and until the slowest arrives."""


def at_largest(score: Tensor, rows: Tensor) -> Tensor:
    """Select the row with the largest score, the first of several.

    Args:
        score: Scores, shape ``(*, N)``.
        rows: Rows, shape ``(*, N, D)``.

    Returns:
        One row each, shape ``(*, D)``.

    Example:
        >>> at_largest(torch.tensor([0.0, 2.0, 2.0]), torch.tensor([[1.0], [2.0], [3.0]]))
        tensor([2.])
    """
    index = score.argmax(-1, keepdim=True).unsqueeze(-1)  # (*, 1, 1)
    return rows.gather(-2, index.expand(*rows.shape[:-2], 1, rows.shape[-1])).squeeze(-2)


def highest_mode(logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """Find the highest of the modes that ascents from all over the mixture reach.

    Two ascents start for every component: at its mean, and at the likeliest of the points where it
    crosses another component, since long components that cross may have a mode of their own there.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``.
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.

    Returns:
        Points, shape ``(*, D)``, without a gradient.

    Source:
        Carreira-Perpinan 2000, "Mode-finding for mixtures of Gaussian distributions", for ascents
        from the means.

    Example:
        >>> loc = torch.tensor([[0.0], [9.0]])
        >>> highest_mode(torch.zeros(2), loc, torch.tensor([2.0, 1.0]).view(2, 1, 1))
        tensor([9.0000])
    """
    if traced() or loc.is_meta or not logits.numel():
        return _highest_mode(logits, loc, scale_tril)
    chunk = at_once(CHUNK, loc)
    *batch, components, size = loc.shape
    rows = zip(
        logits.reshape(-1, components).split(chunk),
        loc.reshape(-1, components, size).split(chunk),
        scale_tril.reshape(-1, components, size, size).split(chunk),
        strict=True,
    )
    return torch.cat([_highest_mode(*row) for row in rows]).view(*batch, size)


def ascend(
    log_peak: Tensor, loc: Tensor, whitener: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Climb from every point by the steps of :func:`climb` until none gains any more.

    Args:
        log_peak: Log density of each component's share at its own mean, up to a common constant,
            shape ``(*, K)``.
        loc: Component means, shape ``(*, K, D)``.
        whitener: Inverse Cholesky factors, shape ``(*, K, D, D)``.
        points: Where to start, shape ``(*, M, D)``.

    Returns:
        The points reached, ``(*, M, D)``, and their log densities up to the constant, ``(*, M)``.

    Example:
        >>> one = torch.ones(1, 1)
        >>> ascend(torch.zeros(1), 3 * one, one.unsqueeze(0), 0 * one)
        (tensor([[3.]]), tensor([0.]))
    """
    height = torch.full_like(points[..., 0], -torch.inf)
    for _ in range(LIMIT):
        before = height
        points, height = climb(log_peak, loc, whitener, points)
        if not (traced() or height.is_meta) and not (height - before > TOLERANCE).any():
            break
    return points, height


def climb(log_peak: Tensor, loc: Tensor, whitener: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    r"""Take one step up from every point, or none where there is none to take.

    Of three ends the highest is taken, if it is higher than the point. With responsibilities
    :math:`\gamma` and precisions :math:`\Lambda`, the step of expectation-maximisation,

    .. math:: (\sum_k \gamma_k \Lambda_k)^{-1} \sum_k \gamma_k \Lambda_k (\mu_k - x),

    never leads down; eight times that crosses plateaus; Newton's step ends an ascent fast.

    Args:
        log_peak: As for :func:`ascend`.
        loc: Component means, shape ``(*, K, D)``.
        whitener: Inverse Cholesky factors, shape ``(*, K, D, D)``.
        points: Points, shape ``(*, M, D)``.

    Returns:
        The points reached, ``(*, M, D)``, and their log densities up to the constant, ``(*, M)``.

    Example:
        >>> one = torch.ones(1, 1)
        >>> climb(torch.zeros(1), 3 * one, one.unsqueeze(0), 0 * one)
        (tensor([[3.]]), tensor([0.]))
    """
    shares, whitened = _log_shares(log_peak, loc, whitener, points)
    height, responsibility = shares.logsumexp(-1), shares.softmax(-1)
    # the gradient of each component's log density, and of the mixture's
    pull = -torch.einsum("...kij,...mki->...mkj", whitener, whitened)
    weighted = responsibility.unsqueeze(-1) * pull
    gradient = weighted.sum(-2)  # (*, M, D)
    precision = torch.einsum("...mk,...kij->...mij", responsibility, whitener.mT @ whitener)
    spread = weighted.mT @ pull - gradient.unsqueeze(-1) * gradient.unsqueeze(-2)
    step = _solve(precision, gradient)
    best = points
    for move in (step, 8 * step, _solve(precision - spread, gradient)):
        end = points + move
        end_height = _log_shares(log_peak, loc, whitener, end)[0].logsumexp(-1)
        higher = end_height > height
        best = torch.where(higher.unsqueeze(-1), end, best)
        height = torch.where(higher, end_height, height)
    return best, height


def _highest_mode(logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    given = loc
    logits, loc, scale_tril = (in_float64(p.detach()) for p in (logits, loc, scale_tril))
    eye = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
    whitener = torch.linalg.solve_triangular(scale_tril, eye, upper=False)
    log_determinant = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_peak = logits.log_softmax(-1) - log_determinant
    points = torch.cat([loc, _crossings(log_peak, loc, whitener)], -2)  # (*, 2 K, D)
    points, height = ascend(log_peak, loc, whitener, points)
    return at_largest(height, points).to(given)


def _log_shares(
    log_peak: Tensor, loc: Tensor, whitener: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Return log shares of the density ``(*, M, K)``, and whitened points ``(*, M, K, D)``."""
    difference = points.unsqueeze(-2) - loc.unsqueeze(-3)
    whitened = torch.einsum("...kij,...mkj->...mki", whitener, difference)
    return log_peak.unsqueeze(-2) - whitened.square().sum(-1) / 2, whitened


def _solve(curvature: Tensor, slope: Tensor) -> Tensor:
    """Return the step to the top of a quadratic, none where it has no top."""
    factor, failed = torch.linalg.cholesky_ex(curvature)
    step = torch.cholesky_solve(slope.unsqueeze(-1), factor).squeeze(-1)
    return torch.where((failed == 0).unsqueeze(-1), step, 0.0)


def _crossings(log_peak: Tensor, loc: Tensor, whitener: Tensor) -> Tensor:
    """Return for each component the likeliest of its crossings with others, ``(*, K, D)``.

    Two components cross where the product of their densities is largest.
    """
    precision = whitener.mT @ whitener
    best, height = loc, torch.full_like(log_peak, -torch.inf)
    for shift in range(1, loc.shape[-2] // 2 + 1):  # half a round meets every pair
        other = precision.roll(shift, -3)
        gap = loc.roll(shift, -2) - loc
        pull = (other * gap.unsqueeze(-2)).sum(-1)
        crossing = loc + _solve(precision + other, pull)
        crossing_height = _log_shares(log_peak, loc, whitener, crossing)[0].logsumexp(-1)
        higher = crossing_height > height
        best = torch.where(higher.unsqueeze(-1), crossing, best)
        height = torch.where(higher, crossing_height, height)
    return best
