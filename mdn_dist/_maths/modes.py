"""Modes of a mixture: the highest peak of its density, by ascents that can only climb.

The ascents run in float64, accurate for narrow components; and autocast leaves matrix products in
float64 alone. Coordinates come first, as planes ``(*, M, K)`` of one each: what is done to them
is quicker than products of small matrices.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mdn_dist._maths.floats import at_once, in_float64
from mdn_dist._torch import static_size, traced

LIMIT = 100
"""Largest number of steps of an ascent."""

TOLERANCE = 1e-12
"""Gain in nats up to which a step counts as the last."""

MARGIN = 1e-7
"""Difference in nats between peaks that count as equally high."""

NEAR = 0.1
"""Distance in nats from the top of a parabola at which that tells where an ascent will end."""

SMALL = 8
"""Number of coordinates up to which planes are quicker than matrices."""

CHUNK = 2**16
"""Numbers in a plane dealt with at once, for the sake of caches."""


class Mixture(NamedTuple):
    """A batch of mixtures, their densities up to a common factor."""

    log_peak: Tensor  # (*, 1, K), log density of a component's share at its mean
    loc: Tensor  # (D, *, 1, K)
    whitener: Tensor  # (D, D, *, 1, K), inverse Cholesky factors
    precision: Tensor  # (*, K, D D)

    @classmethod
    def of(cls, logits: Tensor, loc: Tensor, scale_tril: Tensor) -> "Mixture":
        """Prepare float64 parameters of the usual shapes."""
        eye = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
        whitener = torch.linalg.solve_triangular(scale_tril, eye, upper=False)
        log_peak = logits.log_softmax(-1) - scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return cls(
            log_peak.unsqueeze(-2),
            loc.movedim(-1, 0).unsqueeze(-2).contiguous(),
            whitener.movedim((-2, -1), (0, 1)).unsqueeze(-2).contiguous(),
            (whitener.mT @ whitener).flatten(-2),
        )

    def rows(self, index: Tensor) -> "Mixture":
        """Select from a batch of one dimension."""
        return Mixture(*(part.index_select(-3, index) for part in self))

    def log_shares(self, points: Tensor) -> tuple[Tensor, list[Tensor]]:  # (*, M, D)
        """Return log shares of the density ``(*, M, K)``, and whitened points, by coordinates."""
        pairs = zip(points.unbind(-1), self.loc.unbind(), strict=True)
        apart = [x.unsqueeze(-1) - mean for x, mean in pairs]
        whitened = _times(self.whitener, apart)
        distance = whitened[0].square()
        for plane in whitened[1:]:
            distance = torch.addcmul(distance, plane, plane)
        return torch.sub(self.log_peak, distance, alpha=0.5), whitened

    def heights(self, points: Tensor) -> Tensor:  # (*, M, D) -> (*, M)
        """Return log densities."""
        return _log_sum(self.log_shares(points)[0])[0]


def at_largest(score: Tensor, rows: Tensor) -> Tensor:  # (*, N), (*, N, D) -> (*, D)
    """Select the row with the largest score, the first of several.

    Example:
        >>> at_largest(torch.tensor([0.0, 2.0, 2.0]), torch.tensor([[1.0], [2.0], [3.0]]))
        tensor([2.])
    """
    index = score.argmax(-1, keepdim=True).unsqueeze(-1)  # (*, 1, 1)
    return rows.gather(-2, index.expand(*rows.shape[:-2], 1, rows.shape[-1])).squeeze(-2)


def highest_mode(logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """Find the highest of the modes ``(*, D)`` that ascents from all over the mixture reach.

    Example:
        >>> loc = torch.tensor([[0.0], [9.0]])
        >>> highest_mode(torch.zeros(2), loc, torch.tensor([2.0, 1.0]).view(2, 1, 1))
        tensor([9.0000])
    """
    points, height = ends(logits, loc, scale_tril)
    return at_largest(height, points).to(loc)


def ends(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, nudge: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ends of ascents ``(*, 2 K, D)`` and their heights in float64, as :func:`ascend`."""
    *batch, components, size = loc.shape
    logits, loc, scale_tril = (in_float64(p.detach()) for p in (logits, loc, scale_tril))
    if traced() or loc.is_meta:
        mixture = Mixture.of(logits, loc, scale_tril)
        points = starts(mixture) if nudge is None else starts(mixture) + nudge
        height = points[..., 0]
        for i in range(LIMIT):
            careful = nudge is not None and 2 * i < LIMIT
            points, height, _ = climb(mixture, points, careful=careful)
        return points, height
    mixture = Mixture.of(
        logits.reshape(-1, components),
        loc.reshape(-1, components, size),
        scale_tril.reshape(-1, components, size, size),
    )
    points, height = ascend(mixture, nudge)
    return points.view(*batch, 2 * components, size), height.view(*batch, 2 * components)


def ascend(mixture: Mixture, nudge: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Climb from all starts as long as the highest may change; return points and their heights.

    Left behind is an ascent so near to a top that it will end no higher than another has got: after
    a step of Newton's what is left to gain is of third order in the distance from the top. With a
    `nudge` ``(*, 2 K, D)``, which the starts are moved by, every one goes on, carefully at first.
    """
    *_, rows, _, components = mixture.loc.shape
    most = max(1, at_once(CHUNK, mixture.loc) // components)  # points at once
    split = torch.arange(rows, device=mixture.loc.device).split(max(1, most // components))
    points = torch.cat([starts(mixture.rows(some)) for some in split])
    if nudge is not None:
        points = points + nudge.reshape(points.shape)
    height = torch.full_like(points[..., 0], -torch.inf)
    active = torch.ones_like(height, dtype=torch.bool)
    for i in range(LIMIT):
        careful = nudge is not None and 2 * i < LIMIT  # the last steps have to arrive
        count, order = active.sum(-1).sort(descending=True)
        widths = count[count > 0].tolist()
        done = 0
        while done < len(widths):
            width = widths[done]
            some = order[done : len(widths)][: max(1, most // width)]
            done += len(some)
            # the active ones of every row, and others where it has fewer
            which = active[some].byte().argsort(dim=-1, descending=True, stable=True)[:, :width]
            at = (some.unsqueeze(-1), which)
            before = height[at]
            points[at], after, left = climb(mixture.rows(some), points[at], careful=careful)
            height[at] = after
            best, leader = height[some].max(-1, keepdim=True)
            lost = (left < NEAR) & (after + 4 * left**1.5 < best + MARGIN) & (which != leader)
            active[at] = (after - before > TOLERANCE) & ~(lost & (nudge is None))
        if not widths:
            break
    return points, height


def climb(
    mixture: Mixture,
    points: Tensor,  # (*, M, D)
    *,
    careful: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Take one step up from every point, or none where there is none to take.

    Of three ends the highest is taken, if it is higher than the point. With responsibilities
    :math:`\gamma` and precisions :math:`\Lambda`, the step of expectation-maximisation,

    .. math:: (\sum_k \gamma_k \Lambda_k)^{-1} \sum_k \gamma_k \Lambda_k (\mu_k - x),

    never leads down; eight times that crosses plateaus; Newton's step ends an ascent fast. If
    `careful` not to cross into another basin, the second is left out, and the third far from a top.

    Returns:
        The points reached ``(*, M, D)``, their heights ``(*, M)``, and how far below the top of
        the parabola that touches the density there the points given were, inf where it has none.
    """
    height, slope, precision, bend = slopes(mixture, points)
    moves, has_top = _to_top(torch.stack([precision, bend]), slope)
    step, newton = moves.unbind()
    left = torch.where(has_top[1], (slope * newton).sum(-1) / 2, torch.inf)
    best = points
    if careful:
        newton = torch.where((left < NEAR).unsqueeze(-1), newton, 0.0)
    for move in (step, newton) if careful else (step, 8 * step, newton):
        end = points + move
        end_height = mixture.heights(end)
        higher = end_height > height
        best = torch.where(higher.unsqueeze(-1), end, best)
        height = torch.where(higher, end_height, height)
    return best, height, left


def slopes(mixture: Mixture, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return heights ``(*, M)``, slopes, mean precisions and curvatures ``(*, M, D, D)``."""
    share, whitened = mixture.log_shares(points)
    height, responsibility = _log_sum(share)
    pull = _times(mixture.whitener.transpose(0, 1), whitened)  # minus each component's slope
    weighted = [responsibility * plane for plane in pull]
    slope = -torch.stack([plane.sum(-1) for plane in weighted], -1)
    size = slope.shape[-1]
    precision = (responsibility @ mixture.precision).unflatten(-1, (size, size))
    spread = _products(weighted, pull) - slope.unsqueeze(-1) * slope.unsqueeze(-2)
    return height, slope, precision, precision - spread


def starts(mixture: Mixture) -> Tensor:
    """Return the means, and for each component the likeliest of its crossings, ``(*, 2 K, D)``.

    Two components cross where the product of their densities is largest.
    """
    means = mixture.loc.squeeze(-2).movedim(0, -1)
    precision = mixture.precision.unflatten(-1, (means.shape[-1], means.shape[-1]))
    best, height = means, torch.full_like(means[..., 0], -torch.inf)
    for shift in range(1, means.shape[-2] // 2 + 1):  # half a round meets every pair
        other = precision.roll(shift, -3)
        gap = means.roll(shift, -2) - means
        pull = (other * gap.unsqueeze(-2)).sum(-1)
        crossing = means + _to_top(precision + other, pull)[0]
        crossing_height = mixture.heights(crossing)
        higher = crossing_height > height
        best = torch.where(higher.unsqueeze(-1), crossing, best)
        height = torch.where(higher, crossing_height, height)
    return torch.cat([means, best], -2)


def _log_sum(share: Tensor) -> tuple[Tensor, Tensor]:  # (*, K)
    """Return the logarithm of a sum of shares ``(*)``, and the parts in it ``(*, K)``."""
    top = share.amax(-1, keepdim=True).clamp_min(-1e300)
    part = (share - top).clamp_min_(-700).exp_()  # products with less would be slow
    total = part.sum(-1, keepdim=True)
    return (total.log() + top).squeeze(-1), part / total


def _by_planes(size: int) -> bool:
    """Tell whether planes are quicker than matrices; each is more to a trace than it saves."""
    return size <= SMALL and not traced()


def _times(matrix: Tensor, planes: list[Tensor]) -> list[Tensor]:  # (D, D, *, 1, K)
    """Multiply every component's matrix and vectors, given by coordinates."""
    size = len(planes)
    if not _by_planes(size):
        stacked = torch.stack(planes)
        return [*torch.einsum("ij...k,j...mk->i...mk", matrix.squeeze(-2), stacked).unbind()]
    found = [matrix[i, 0] * planes[0] for i in range(size)]
    for i in range(size):
        for j in range(1, size):
            found[i] = torch.addcmul(found[i], matrix[i, j], planes[j])
    return found


def _products(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """Return the sums over the components of all products, ``(*, M, D, D)``."""
    if not _by_planes(len(left)):
        return torch.einsum("i...k,j...k->...ij", torch.stack(left), torch.stack(right))
    return torch.stack([torch.stack([(a * b).sum(-1) for b in right], -1) for a in left], -2)


def _to_top(curvature: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:  # (*, D, D), (*, D)
    """Return the step to the top of a parabola, none where it has no top; and whether it has."""
    size = static_size(slope.shape[-1])
    if not _by_planes(size):
        factor, failed = torch.linalg.cholesky_ex(curvature)
        concave = failed == 0
        step = torch.cholesky_solve(slope.expand(curvature.shape[:-1]).unsqueeze(-1), factor)
        return torch.where(concave.unsqueeze(-1), step.squeeze(-1), 0.0), concave
    rows = [list(row.unbind(-1)) for row in curvature.unbind(-2)]
    right = list(slope.unbind(-1))
    for i in range(size):  # elimination
        for j in range(i + 1, size):
            ratio = rows[j][i] / rows[i][i]
            for k in range(i + 1, size):
                rows[j][k] = rows[j][k] - ratio * rows[i][k]
            right[j] = right[j] - ratio * right[i]
    for i in reversed(range(size)):
        for j in range(i + 1, size):
            right[i] = right[i] - rows[i][j] * right[j]
        right[i] = right[i] / rows[i][i]
    concave = torch.stack([rows[i][i] > 0 for i in range(size)]).all(0)
    return torch.where(concave.unsqueeze(-1), torch.stack(right, -1), 0.0), concave
