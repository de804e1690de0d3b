"""Fit an unconditional mixture to points by expectation maximisation."""

import math

import torch
from torch import Tensor

from mdn_dist.functional import component_log_density
from mdn_dist.mixture import GaussianMixture

LLOYD_ITERATIONS = 10
ROUNDING = 1e-12  # of a variance: what a sum of many float64 products may be wrong by


@torch.no_grad()
def fit_mixture(
    points: Tensor,
    components: int,
    *,
    min_scale: float = 1e-3,
    iterations: int = 200,
    tolerance: float = 1e-5,
    generator: torch.Generator | None = None,
) -> GaussianMixture:
    """Fit a mixture with full covariances, from k-means++ means, in float64 and log space.

    Args:
        points: Data, shape ``(N, D)``.
        components: Number of components ``K``.
        min_scale: Added in quadrature to every component's scale, in data units, so that repeated
            points cannot make the likelihood infinite.
        iterations: At most this many steps of expectation maximisation.
        tolerance: Stop when a step gains less than this, in nats a point.
        generator: Source of randomness; torch's global one by default.

    Returns:
        A mixture of batch shape ``()`` and of the dtype of `points`.

    Raises:
        TypeError: If `points` is not floating point.
        ValueError: If `points` is not a non-empty matrix of finite numbers, `components` or
            `iterations` is less than 1, or `min_scale` is not positive and finite.

    Source:
        Arthur and Vassilvitskii 2007 (k-means++); Dempster, Laird and Rubin 1977 (EM).

    Example:
        >>> points = torch.tensor([[-1.0], [-1.0], [3.0], [3.0]])
        >>> generator = torch.Generator().manual_seed(0)
        >>> fit_mixture(points, 2, generator=generator).loc.flatten().sort().values
        tensor([-1.,  3.])
    """
    if points.dim() != 2 or not points.numel():
        raise ValueError(f"points must have shape (N, D), N > 0, got {tuple(points.shape)}")
    if not points.is_floating_point():
        raise TypeError(f"points must be floating point, got {points.dtype}")
    if not points.isfinite().all():
        raise ValueError("points must be finite, got infinite values or NaN")
    for name, number in {"components": components, "iterations": iterations}.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if not 0 < min_scale < math.inf:
        raise ValueError(f"min_scale must be positive and finite, got {min_scale}")
    centre = points.double().mean(0)
    data = points.double() - centre  # a large offset would cost distances their digits
    weights = _hard_assignments(data, _k_means(data, components, generator))  # (N, K)
    best = -math.inf
    for _ in range(iterations):
        parameters = _maximise(data, weights, min_scale)
        log_shares = component_log_density(*parameters, data)
        score = log_shares.logsumexp(-1).mean().item()
        if score - best < tolerance:
            break
        best = score
        weights = log_shares.softmax(-1)
    logits, loc, scale_tril = parameters
    return GaussianMixture(logits.to(points), (loc + centre).to(points), scale_tril.to(points))


def _k_means(data: Tensor, components: int, generator: torch.Generator | None) -> Tensor:
    """Return ``(K, D)`` centres: k-means++ seeds, improved by Lloyd's iterations."""
    first = torch.randint(len(data), (1,), generator=generator, device=data.device)
    centres = data[first]
    nearest = torch.full_like(data[:, 0], math.inf)  # squared distance to the nearest centre
    for _ in range(components - 1):
        distance = torch.cdist(data, centres[-1:]).squeeze(-1).square()
        nearest = torch.minimum(nearest, distance)
        chance = nearest.clamp_min(torch.finfo(nearest.dtype).tiny)
        cumulative = chance.cumsum(0)
        target = cumulative[-1] * torch.rand(
            1, generator=generator, dtype=data.dtype, device=data.device
        )
        index = torch.searchsorted(cumulative, target).clamp_max(len(data) - 1)
        centres = torch.cat([centres, data[index]])
    for _ in range(LLOYD_ITERATIONS):
        members = _hard_assignments(data, centres)
        count = members.sum(0).unsqueeze(-1)
        centres = torch.where(count > 0, members.T @ data / count.clamp_min(1), centres)
    return centres


def _hard_assignments(data: Tensor, centres: Tensor) -> Tensor:
    """Return ``(N, K)`` weights, 1 at the nearest centre of each point."""
    nearest = torch.cdist(data, centres).argmin(-1)
    return torch.nn.functional.one_hot(nearest, len(centres)).to(data)


def _maximise(data: Tensor, weights: Tensor, min_scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits, means and Cholesky factors most likely under `weights`, ``(N, K)``."""
    count = weights.sum(0) + torch.finfo(data.dtype).eps  # (K)
    loc = weights.T @ data / count.unsqueeze(-1)  # (K, D)
    difference = data - loc.unsqueeze(-2)  # (K, N, D)
    products = (weights.T.unsqueeze(-1) * difference).mT @ difference  # (K, D, D)
    covariance = products / count[:, None, None]
    # Rounding can leave points on a line a negative variance larger than a small floor makes up.
    floor = min_scale**2 + ROUNDING * covariance.diagonal(dim1=-2, dim2=-1)  # (K, D)
    return count.log(), loc, torch.linalg.cholesky(covariance + torch.diag_embed(floor))
