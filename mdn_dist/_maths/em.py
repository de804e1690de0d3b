r"""Fit mixtures to points by expectation maximisation, all starts side by side.

Points are measured from their median in units of their typical deviation. ``R`` counts the starts,
``N`` the points. Both steps work in each component's own whitened coordinates
:math:`y = L^{-1} (x - \mu)`, which keep their digits however narrow a component and however far
from the others. Of full covariances, with a 1 below them, one product with the points gives all
:math:`(y, 1)`, and one more the sums that the next parameters are made of. Of diagonal ones no
matrix is made.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mdn_dist._checks import Covariance, check_counts, check_covariance, is_number
from mdn_dist._maths.algebra import narrowed
from mdn_dist._maths.batches import Batch, Points
from mdn_dist._maths.floats import at_once, exp_or_zero_, in_float64

FLOOR = 1e-3  # of every scale
START_POINTS = 10_000  # drawn from the data: enough to tell a good start from a bad one
START_ITERATIONS = 15  # after 5, their order says less of where they end
CANDIDATES = 4  # tried for each seed
BLOCK = 2**17  # numbers in a block of whitened points: a megabyte, for a cache to hold
LARGEST = 1e140  # number whose square is to be summed
FARTHEST = 1e150  # standard deviations from a component: a number whose square is finite
LOG_ROOT = 0.5 * math.log(2 * math.pi)  # of a Gaussian's normalisation, a coordinate
ROUNDING = 1e-12  # of a variance: what a sum of many float64 products may be wrong by

Blocks = Iterable[tuple[Tensor, Tensor | None]]
"""Points as columns with a 1 below, ``(D + 1, N)``, and their weights ``(N)``."""

# Logits (R, K), means (R, K, D), factors (R, K, D, D) or, where diagonal, deviations (R, K, D)
Mixtures = tuple[Tensor, Tensor, Tensor]
# Sums over points of shares (R, K), times y (R, K, D), times y y^T (R, K, D, D) or its diagonal
Moments = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def fit_parameters(
    points: Tensor | Iterable[Batch],  # (N, D)
    components: int,
    *,
    weights: Tensor | None,  # (N)
    covariance: Covariance = "full",
    min_scale: float | None,
    restarts: int,
    iterations: int,
    tolerance: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:  # (K), (K, D), (K, D, D)
    """Fit a mixture as :meth:`mdn_dist.GaussianMixture.fit` tells, in the type of the points."""
    _check(covariance, min_scale, tolerance)
    check_counts(components=components, restarts=restarts, iterations=iterations)
    stream = Points(points, weights)
    sample, low, high, like = stream.survey(START_POINTS, generator)
    # a large offset would cost distances their digits; no single point moves a median
    centre = sample.median(0).values
    away = sample - centre
    # what is round in one unit for all coordinates is so in the data's own
    unit = _typical_size(away.reshape(-1, 1) if covariance == "spherical" else away)
    floor = torch.full_like(unit, FLOOR) if min_scale is None else min_scale / unit
    extent = torch.maximum(high - centre, centre - low) / unit
    for name, number in {"points": extent, "min_scale": floor}.items():
        if number.amax() > LARGEST:
            raise ValueError(f"{name} must be at most {LARGEST:g} typical deviations, got more")
    floor = floor.clamp_min(extent.amax().clamp_min(1) / FARTHEST)
    few = away / unit
    labels = _k_means_plus_plus(few, components, restarts, generator)
    starts = _from_labels(few, labels, components, floor, covariance)
    blocks = [(_with_ones(few), None)]
    starts = _climb(starts, blocks, floor, covariance, START_ITERATIONS)
    best = _expect(starts, blocks)[0].argmax(0, keepdim=True)
    logits, loc, scale = (parameter[best] for parameter in starts)
    whole = _Blocks(stream, centre, unit)
    mixture = _climb((logits, loc, scale), whole, floor, covariance, iterations, tolerance)
    logits, loc, scale = (parameter.squeeze(0) for parameter in mixture)
    scale_tril = scale * unit.unsqueeze(-1) if covariance == "full" else (scale * unit).diag_embed()
    return narrowed(logits, loc * unit + centre, scale_tril, like)


class _Blocks:
    """Blocks of points measured from a centre in a unit, made anew each time they are wanted."""

    def __init__(self, stream: Points, centre: Tensor, unit: Tensor) -> None:
        self.stream, self.centre, self.unit = stream, centre, unit

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for points, weights in self.stream:
            data = (in_float64(points) - self.centre) / self.unit
            yield _with_ones(data), None if weights is None else in_float64(weights)


def _check(covariance: Covariance, min_scale: float | None, tolerance: float) -> None:
    """Raise ValueError or TypeError for arguments that no mixture can be fitted with."""
    check_covariance(covariance)
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
    """Return the nearest of ``K`` seeds of each point, ``(R, N)``."""
    data = data.asinh()  # so that a few points far out, of a pen that jumps, do not attract most
    nearest = data.new_full((restarts, len(data)), math.inf)  # squared distance to a seed
    labels = torch.zeros_like(nearest, dtype=torch.int64)
    chance = torch.ones_like(nearest)
    for k in range(components):
        cumulative = chance.cumsum(-1)
        uniform = torch.rand(
            restarts, CANDIDATES, generator=generator, dtype=data.dtype, device=data.device
        )
        # Of candidates drawn by their squared distance, the one that leaves the least sum is kept.
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


def _from_labels(
    data: Tensor, labels: Tensor, components: int, floor: Tensor, covariance: Covariance
) -> Mixtures:
    """Return components with the mean and the variances of the points that `labels` give them."""
    label = torch.arange(components, device=data.device).unsqueeze(-1)
    members = (labels.unsqueeze(1) == label).to(data)  # (R, K, N)
    count = members.sum(-1, keepdim=True) + torch.finfo(data.dtype).eps
    loc = members @ data / count
    difference = data - loc.take_along_dim(labels.unsqueeze(-1), 1)  # (R, N, D)
    variance = members @ difference.square() / count + floor.square()
    scale = _shared(variance, covariance).sqrt()
    return count.squeeze(-1).log(), loc, scale.diag_embed() if covariance == "full" else scale


def _shared(variance: Tensor, covariance: Covariance) -> Tensor:
    """Return variances, ``(R, K, D)``, of a sphere their mean."""
    spherical = covariance == "spherical"
    return variance.mean(-1, keepdim=True).expand_as(variance) if spherical else variance


def _climb(
    mixtures: Mixtures,
    blocks: Blocks,
    floor: Tensor,  # (D)
    covariance: Covariance,
    iterations: int,
    tolerance: float = -math.inf,
) -> Mixtures:
    """Raise the likelihood of the points until no start gains `tolerance` in a step."""
    before = floor.new_full((), -math.inf)
    for _ in range(iterations):
        score, moments = _expect(mixtures, blocks)
        if (score - before).amax() < tolerance:
            break
        before = score
        mixtures = _maximise(mixtures, moments, floor, covariance)
    return mixtures


def _with_ones(data: Tensor) -> Tensor:
    """Return points ``(N, D)`` as columns with a 1 below, ``(D + 1, N)``."""
    return torch.cat([data, torch.ones_like(data[:, :1])], -1).mT.contiguous()


def _expect(mixtures: Mixtures, blocks: Blocks) -> tuple[Tensor, Moments]:
    """Return the mean log density ``(R)`` of the points, and weighted moments."""
    logits, loc, scale_tril = mixtures
    if scale_tril.dim() == loc.dim():
        return _expect_diagonal(mixtures, blocks)
    *_, components, size = loc.shape
    identity = torch.eye(size, dtype=loc.dtype, device=loc.device)
    inverse = torch.linalg.solve_triangular(scale_tril, identity, upper=False)
    rows = torch.cat([inverse, -inverse @ loc.unsqueeze(-1)], -1)  # (R, K, D, D + 1)
    last = torch.eye(size + 1, dtype=loc.dtype, device=loc.device)[-1:].expand_as(rows[..., :1, :])
    whitening = torch.cat([rows, last], -2).reshape(-1, size + 1)  # (R K (D + 1), D + 1)
    log_scale = scale_tril.diagonal(dim1=-2, dim2=-1).log()
    at_mean = logits.log_softmax(-1) - (log_scale + LOG_ROOT).sum(-1)
    total = loc.new_zeros(len(loc))
    moments = loc.new_zeros(len(loc) * components, size + 1, size + 1)
    # A few points at a time keep memory small, and planes (n) keep it contiguous.
    for block, weight in _split(blocks, len(whitening)):
        y = (whitening @ block).view(-1, components, size + 1, block.shape[-1])
        distance = y[:, :, 0].square()
        for d in range(1, size):
            distance.addcmul_(y[:, :, d], y[:, :, d])
        log_density, share = _share_out(at_mean, distance, weight)
        total += log_density
        weighted = (share.unsqueeze(2) * y).flatten(0, 1)  # (R K, D + 1, n)
        moments += weighted @ y.flatten(0, 1).mT
    moments = moments.unflatten(0, (-1, components))
    sums = (moments[..., -1, -1], moments[..., :-1, -1], moments[..., :-1, :-1])
    return total / sums[0].sum(-1), sums


def _expect_diagonal(mixtures: Mixtures, blocks: Blocks) -> tuple[Tensor, Moments]:
    """Do as :func:`_expect`, for diagonal covariances."""
    logits, loc, scale = mixtures
    at_mean = logits.log_softmax(-1) - (scale.log() + LOG_ROOT).sum(-1)
    inverse, mean = scale.reciprocal().unsqueeze(-1), loc.unsqueeze(-1)
    ones = torch.ones_like(loc[..., None, :])  # (R, K, 1, D): a product adds faster than a sum
    total, count = loc.new_zeros(len(loc)), torch.zeros_like(loc[..., :1])
    first, second = torch.zeros_like(ones), torch.zeros_like(ones)
    for block, weight in _split(blocks, loc.numel()):
        y = (block[:-1] - mean).mul_(inverse)  # (R, K, D, n)
        square = y.square()
        log_density, share = _share_out(at_mean, (ones @ square).squeeze(2), weight)
        total += log_density
        count += share.sum(-1, keepdim=True)
        first += share.unsqueeze(2) @ y.mT
        second += share.unsqueeze(2) @ square.mT
    return total / count.sum((1, 2)), (count.squeeze(-1), first.squeeze(2), second.squeeze(2))


def _split(blocks: Blocks, numbers: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Split blocks into such as make `numbers` a point, few enough for a cache."""
    for points, weights in blocks:
        step = max(64, at_once(BLOCK, points) // numbers)
        for start in range(0, points.shape[-1], step):
            rows = slice(start, start + step)
            yield points[:, rows], None if weights is None else weights[rows]


def _share_out(at_mean: Tensor, distance: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the log density ``(R)`` and shares ``(R, K, n)`` of points by squared distances."""
    share = torch.add(at_mean.unsqueeze(-1), distance, alpha=-0.5)  # (R, K, n)
    highest = share.amax(1, keepdim=True)
    exp_or_zero_(share.sub_(highest))
    density = share.sum(1, keepdim=True)
    log_density = highest + density.log()
    if weight is not None:
        return (log_density * weight).sum((1, 2)), share.mul_(weight / density)
    return log_density.sum((1, 2)), share.div_(density)


def _maximise(
    mixtures: Mixtures, moments: Moments, floor: Tensor, covariance: Covariance
) -> Mixtures:
    """Return the parameters most likely under the weights that `moments` were taken with."""
    _, loc, scale = mixtures
    count, first, second = moments
    count = count + torch.finfo(loc.dtype).eps  # (R, K)
    first = (first / count.unsqueeze(-1)).unsqueeze(-1)  # (R, K, D, 1)
    if covariance == "full":
        shift = scale @ first  # of the mean
        about_old = scale @ (second / count[..., None, None]) @ scale.mT  # (R, K, D, D)
        # Rounding can leave points on a line a negative variance larger than a floor makes up.
        added = floor.square() + ROUNDING * about_old.diagonal(dim1=-2, dim2=-1)  # (R, K, D)
        factor, failed = torch.linalg.cholesky_ex(about_old - shift @ shift.mT + added.diag_embed())
        # Where it has taken more than that, the component keeps the shape it had.
        factor = torch.where((failed == 0)[..., None, None], factor, scale)
        return count.log(), loc + shift.squeeze(-1), factor
    shift = scale * first.squeeze(-1)
    about_old = scale.square() * second / count.unsqueeze(-1)  # (R, K, D)
    variance = about_old - shift.square() + floor.square() + ROUNDING * about_old
    variance = _shared(variance, covariance)
    return count.log(), loc + shift, torch.where(variance > 0, variance.sqrt(), scale)
