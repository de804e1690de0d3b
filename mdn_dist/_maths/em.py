r"""Fit mixtures to points by expectation maximisation, all starts side by side.

Points are measured from their median in units of their typical deviation.

``R`` counts the starts and ``N`` the points. Both steps work in each component's own whitened
coordinates :math:`y = L^{-1} (x - \mu)`, which keep their digits however narrow a component and
however far from the others; with a 1 below them, one product with the points gives all
:math:`(y, 1)`, and one more the sums that the next parameters are made of.
"""

import math

import torch
from torch import Tensor

from mdn_dist._checks import check_counts, check_tensor, is_number
from mdn_dist._maths.floats import at_once, exp_or_zero_, in_float64

FLOOR = 1e-3  # of every scale
START_POINTS = 10_000  # drawn from the data: enough to tell a good start from a bad one
START_ITERATIONS = 15  # after 5, their order says less of where they end
CANDIDATES = 4  # tried for each seed
BLOCK = 2**17  # numbers in a block of whitened points: a megabyte, for a cache to hold
LARGEST = 1e140  # number whose square is to be summed
ROUNDING = 1e-12  # of a variance: what a sum of many float64 products may be wrong by

Parameters = tuple[Tensor, Tensor, Tensor]
"""Logits ``(R, K)``, means ``(R, K, D)``, Cholesky factors ``(R, K, D, D)``."""


@torch.no_grad()
def fit_parameters(
    points: Tensor,
    components: int,
    *,
    covariance: str = "full",
    min_scale: float | None,
    restarts: int,
    iterations: int,
    tolerance: float,
    generator: torch.Generator | None,
) -> Parameters:
    """Fit a mixture as :meth:`mdn_dist.GaussianMixture.fit` tells, in float64.

    Args:
        points: Data, shape ``(N, D)``.
        components: Number of components ``K``.
        min_scale: Added in quadrature to every component's scale; None for a share of the data's.
        restarts: Number of starts.
        iterations: At most this many steps from the best start.
        tolerance: Stop when a step gains less than this, in nats a point.
        generator: Source of randomness; torch's global one if None.

    Returns:
        Logits ``(K)``, means ``(K, D)`` and Cholesky factors ``(K, D, D)``, in float64.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of range.
    """
    _check(points, min_scale, tolerance)
    check_counts(components=components, restarts=restarts, iterations=iterations)
    points = in_float64(points)
    # a large offset would cost distances their digits; no single point moves a median
    centre = points.median(0).values
    unit = _typical_size(points - centre)
    data = (points - centre) / unit
    floor = torch.full_like(unit, FLOOR) if min_scale is None else min_scale / unit
    for name, number in {"points": data, "min_scale": floor}.items():
        if number.abs().amax() > LARGEST:
            raise ValueError(f"{name} must be at most {LARGEST:g} typical deviations, got more")
    few = data
    if len(data) > START_POINTS:
        few = data[torch.randperm(len(data), generator=generator, device=data.device)]
        few = few[:START_POINTS]
    labels = _k_means_plus_plus(few, components, restarts, generator)
    starts = _from_labels(few, labels, components, floor)
    starts = _climb(starts, few, floor, START_ITERATIONS)
    best = _expect(starts, _with_ones(few))[0].argmax(0, keepdim=True)
    logits, loc, scale_tril = (parameter[best] for parameter in starts)
    logits, loc, scale_tril = _climb((logits, loc, scale_tril), data, floor, iterations, tolerance)
    return logits[0], loc[0] * unit + centre, scale_tril[0] * unit.unsqueeze(-1)


def _check(points: Tensor, min_scale: float | None, tolerance: float) -> None:
    """Raise ValueError or TypeError for arguments that no mixture can be fitted with."""
    check_tensor(points, "points")
    if points.dim() != 2 or not points.numel():
        raise ValueError(f"points must have shape (N, D), N > 0, got {tuple(points.shape)}")
    if not points.is_floating_point():
        raise TypeError(f"points must be floating point, got {points.dtype}")
    if not points.isfinite().all():
        raise ValueError("points must be finite, got infinite values or NaN")
    numbers = {"tolerance": tolerance} | ({} if min_scale is None else {"min_scale": min_scale})
    for name, number in numbers.items():
        if not is_number(number):
            raise TypeError(f"{name} must be a number, got {type(number).__name__}")
    if min_scale is not None and not 0 < min_scale < math.inf:
        raise ValueError(f"min_scale must be positive and finite, got {min_scale}")
    if math.isnan(tolerance):
        raise ValueError(f"tolerance must be a number, got {tolerance}")


def _typical_size(data: Tensor) -> Tensor:
    """Return a deviation of each coordinate, ``(D)``, that a few points far out hardly change."""
    size = data.abs()
    typical = size.median(0).values
    for other in (size.mean(0), size.amax(), torch.ones_like(typical)):  # of repeated numbers
        typical = torch.where(typical > 0, typical, other)
    return typical


def _k_means_plus_plus(
    data: Tensor, components: int, restarts: int, generator: torch.Generator | None
) -> Tensor:
    """Return the nearest of ``K`` seeds of each point, ``(R, N)``.

    Seeds are points, drawn by their squared distance to the seeds before; of a few candidates, the
    one that leaves the smallest sum of squares is kept. Distances are between inverse hyperbolic
    sines, so that a few points far out, as of a pen that jumps, do not attract most of the seeds.
    """
    data = data.asinh()
    nearest = data.new_full((restarts, len(data)), math.inf)  # squared distance to a seed
    labels = torch.zeros_like(nearest, dtype=torch.int64)
    chance = torch.ones_like(nearest)
    for k in range(components):
        cumulative = chance.cumsum(-1)
        uniform = torch.rand(
            restarts, CANDIDATES, generator=generator, dtype=data.dtype, device=data.device
        )
        drawn = torch.searchsorted(cumulative, cumulative[:, -1:] * uniform)
        seeds = data[drawn.clamp_max(len(data) - 1)]  # (R, candidates, D)
        distance = torch.cdist(seeds, data, compute_mode="donot_use_mm_for_euclid_dist").square()
        left = torch.minimum(distance, nearest.unsqueeze(1))
        best = left.sum(-1).argmin(-1)[:, None, None]  # (R, 1, 1)
        reduced = left.take_along_dim(best, 1).squeeze(1)  # (R, N)
        labels[reduced < nearest] = k
        nearest = reduced
        chance = nearest.clamp_min(torch.finfo(data.dtype).tiny)
    return labels


def _from_labels(data: Tensor, labels: Tensor, components: int, floor: Tensor) -> Parameters:
    """Return components with the mean and the variances of the points that `labels` give them."""
    label = torch.arange(components, device=data.device).unsqueeze(-1)
    members = (labels.unsqueeze(1) == label).to(data)  # (R, K, N)
    count = members.sum(-1, keepdim=True) + torch.finfo(data.dtype).eps
    loc = members @ data / count
    difference = data - loc.take_along_dim(labels.unsqueeze(-1), 1)  # (R, N, D)
    scale = (members @ difference.square() / count + floor.square()).sqrt()
    return count.squeeze(-1).log(), loc, torch.diag_embed(scale)


def _climb(
    parameters: Parameters,
    data: Tensor,
    floor: Tensor,
    iterations: int,
    tolerance: float = -math.inf,
) -> Parameters:
    """Raise the likelihood of `data`, ``(N, D)``, until no start gains `tolerance` in a step."""
    points = _with_ones(data)
    before = data.new_full((), -math.inf)
    for _ in range(iterations):
        score, moments = _expect(parameters, points)
        if (score - before).amax() < tolerance:
            break
        before = score
        parameters = _maximise(parameters, moments, floor)
    return parameters


def _with_ones(data: Tensor) -> Tensor:
    """Return points ``(N, D)`` as columns with a 1 below, ``(D + 1, N)``."""
    return torch.cat([data, torch.ones_like(data[:, :1])], -1).mT.contiguous()


def _expect(parameters: Parameters, points: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the mean log density ``(R)`` of `points`, ``(D + 1, N)``, and weighted moments.

    The moments are :math:`\sum_n \gamma_{kn} (y, 1) (y, 1)^T`, shape ``(R, K, D + 1, D + 1)``. A
    block of points at a time keeps memory small, and planes ``(N)`` keep it contiguous.
    """
    logits, loc, scale_tril = parameters
    *_, components, size = loc.shape
    identity = torch.eye(size, dtype=loc.dtype, device=loc.device)
    inverse = torch.linalg.solve_triangular(scale_tril, identity, upper=False)
    rows = torch.cat([inverse, -inverse @ loc.unsqueeze(-1)], -1)  # (R, K, D, D + 1)
    last = torch.eye(size + 1, dtype=loc.dtype, device=loc.device)[-1:].expand_as(rows[..., :1, :])
    whitening = torch.cat([rows, last], -2).reshape(-1, size + 1)  # (R K (D + 1), D + 1)
    log_determinant = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = logits.log_softmax(-1) - log_determinant - size / 2 * math.log(2 * math.pi)
    total = loc.new_zeros(len(loc))
    moments = loc.new_zeros(len(loc) * components, size + 1, size + 1)
    for block in points.split(max(64, at_once(BLOCK, points) // len(whitening)), -1):
        y = (whitening @ block).view(-1, components, size + 1, block.shape[-1])
        share = y[:, :, 0].square()
        for d in range(1, size):
            share.addcmul_(y[:, :, d], y[:, :, d])
        share = torch.add(constant.unsqueeze(-1), share, alpha=-0.5)  # (R, K, n)
        highest = share.amax(1, keepdim=True)
        exp_or_zero_(share.sub_(highest))
        density = share.sum(1, keepdim=True)
        share.div_(density)
        total += (highest + density.log()).sum((1, 2))
        weighted = (share.unsqueeze(2) * y).flatten(0, 1)  # (R K, D + 1, n)
        moments += weighted @ y.flatten(0, 1).mT
    return total / points.shape[-1], moments.unflatten(0, (-1, components))


def _maximise(parameters: Parameters, moments: Tensor, floor: Tensor) -> Parameters:
    """Return the parameters most likely under the weights that `moments` were taken with."""
    _, loc, scale_tril = parameters
    count = moments[..., -1, -1] + torch.finfo(loc.dtype).eps  # (R, K)
    moments = moments / count[..., None, None]
    shift = scale_tril @ moments[..., :-1, -1:]  # (R, K, D, 1), of the mean
    about_old = scale_tril @ moments[..., :-1, :-1] @ scale_tril.mT  # (R, K, D, D)
    covariance = about_old - shift @ shift.mT
    # Rounding can leave points on a line a negative variance larger than a small floor makes up.
    added = floor.square() + ROUNDING * about_old.diagonal(dim1=-2, dim2=-1)  # (R, K, D)
    factor, failed = torch.linalg.cholesky_ex(covariance + torch.diag_embed(added))
    # Where it has taken more than that, the component keeps the shape it had.
    factor = torch.where((failed == 0)[..., None, None], factor, scale_tril)
    return count.log(), loc + shift.squeeze(-1), factor
