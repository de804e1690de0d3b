r"""Proper scores of a mixture that are distances: of its coordinates and of its points.

The mean distance of a normal variable from 0 is all that the first is made of,

.. math:: A(m, s) = E|m + s Z| = m \operatorname{erf}(z / \sqrt 2) + 2 s \varphi(z), \qquad
   z = m / s,

whose derivatives by :math:`m` and :math:`s` are the two factors.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.special import erf, erfc

from mdn_dist._maths.algebra import marginal_scale
from mdn_dist._maths.floats import at_once
from mdn_dist._maths.gradients import plain_gradient
from mdn_dist._torch import batched, composes, overridable

FAR = 64.0  # standard deviations, beyond which a normal density is 0 in any type
PEAK = math.sqrt(2 / math.pi)  # twice the standard normal density at 0
CHUNK = 1 << 14  # components of points worked on at once, few enough for a cache


def crps(logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    r"""Return the continuous ranked probability score of each coordinate, ``(*, D)``.

    .. math:: \sum_k w_k A(x - \mu_k, \sigma_k)
       - \frac12 \sum_{jk} w_j w_k A(\mu_j - \mu_k, \sqrt{\sigma_j^2 + \sigma_k^2})

    is smooth, and gives derivatives of any order. In its value, distances between means could
    cancel, so that this is found as :func:`_step_crps` and what scales add to distances.

    Source:
        Grimit, Gneiting, Berrocal and Johnson 2006, The continuous ranked probability score for
        circular variables and its application to mesoscale forecast ensemble verification,
        equation 5.

    Example:
        >>> one = torch.ones(1, 1, 1)
        >>> crps(torch.zeros(1), torch.zeros(1, 1), one, torch.tensor([0.0]))
        tensor([0.2337])
    """
    dtype = torch.promote_types(loc.dtype, value.dtype)
    weight = logits.to(dtype).softmax(-1).unsqueeze(-1)  # (*, K, 1)
    return _crps(weight, loc.to(dtype), marginal_scale(scale_tril.to(dtype)), value.to(dtype))


@overridable
def _crps(weight: Tensor, loc: Tensor, scale: Tensor, value: Tensor) -> Tensor:
    """Return the score by weights ``(*, K, 1)`` and each coordinate's own scales ``(*, K, D)``."""
    if composes(weight, loc, scale, value):
        smooth = _smooth_crps(weight, loc, scale, value)
        exact = _careful_crps(*(t.detach() for t in (weight, loc, scale, value)))
        return exact + (smooth - smooth.detach())
    score: Tensor = _Crps.apply(weight, loc, scale, value)  # type: ignore[no-untyped-call]
    return score


class _Crps(torch.autograd.Function):
    """The same, and its slopes at once, without a graph of all pairs of components."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, loc: Tensor, scale: Tensor, value: Tensor) -> Tensor:
        m = value.unsqueeze(-2) - loc
        excess, by_m, by_s = _parts(m, scale)
        mutual, *slopes = _between(weight, loc, scale)
        ctx.save_for_backward(
            *(weight, loc, scale, value),
            m.abs() + excess - slopes[0],
            -weight * (by_m + slopes[1]),
            weight * (by_s - slopes[2]),
            (weight * by_m).sum(-2),
        )
        return _step_crps(weight, loc, value) + ((weight * excess).sum(-2) - mutual)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved, pull = ctx.saved_tensors, gradients[0]
        if torch.is_grad_enabled() or batched(pull):
            return plain_gradient(_smooth_crps, saved[:4], pull)
        idle = pull == 0  # where nothing depends on a score, not even NaN passes
        found = []
        for like, slope in zip(saved[:4], saved[4:], strict=True):
            across = slope.dim() > pull.dim()
            one, quiet = (t.unsqueeze(-2) if across else t for t in (pull, idle))
            found.append((one * slope).masked_fill(quiet, 0.0).sum_to_size(like.shape))
        return tuple(found)


def _between(weight: Tensor, loc: Tensor, scale: Tensor) -> list[Tensor]:
    """Return what scales add to half the mean distance of two draws, ``(*, D)``, and slopes.

    Those of the half distance are by the weight, by the mean and by the scale of each component,
    the latter two over its weight, ``(*, K, D)``.
    """
    count = at_once(max(1, CHUNK // max(1, loc.shape[-2:].numel())), loc)
    rows = (t.expand_as(loc).reshape(-1, *loc.shape[-2:]) for t in (weight, loc, scale))
    chunks = zip(*(t.split(count) for t in rows), strict=True)
    found = [torch.cat(parts) for parts in zip(*(_between_rows(*c) for c in chunks), strict=True)]
    return [t.view(*loc.shape[:-2], *t.shape[1:]) for t in found]


def _between_rows(*rows: Tensor) -> list[Tensor]:
    """Return the same for few rows ``(n, K, D)``, component by component with those after it.

    The components come first here and the rows last: the inner loops are long.
    """
    weight, loc, scale = (t.movedim(1, 0).flatten(1) for t in rows)  # (K, n D)
    by_weight = weight * scale * (math.sqrt(2) * PEAK)  # of each with itself
    by_loc, by_scale = torch.zeros_like(loc), weight * (PEAK / math.sqrt(2))
    mutual = (weight * by_weight).sum(0) / 2
    for k in range(1, len(loc)):
        w, v, s = weight[k - 1], weight[k:], torch.hypot(scale[k:], scale[k - 1])
        m = loc[k:] - loc[k - 1]
        excess, by_m, by_s = _parts(m, s)
        mutual.addcmul_(w, (v * excess).sum(0))
        distance, by_s = m.abs_().add_(excess), by_s.div_(s)
        by_weight[k - 1] += (v * distance).sum(0)
        by_weight[k:].addcmul_(w, distance)
        by_loc[k - 1] -= (v * by_m).sum(0)
        by_loc[k:].addcmul_(w, by_m)
        by_scale[k - 1].addcmul_(scale[k - 1], (v * by_s).sum(0))
        by_scale[k:].addcmul_(scale[k:] * by_s, w)
    count, components, size = rows[0].shape
    slopes = (t.view(components, count, size) for t in (by_weight, by_loc, by_scale))
    return [mutual.view(count, size), *(t.movedim(0, 1) for t in slopes)]


def _parts(m: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``A(m, s) - |m|``, which is small where `m` is large, and ``A`` by `m` and `s`."""
    distance = m.abs()
    z = torch.minimum(distance, FAR * s).div_(s)
    tail = erfc(z * math.sqrt(0.5))
    by_s = z.mul_(z).mul_(-0.5).exp_().mul_(PEAK)
    return s * by_s - distance * tail, torch.copysign(1 - tail, m), by_s


def _smooth_crps(weight: Tensor, loc: Tensor, scale: Tensor, value: Tensor) -> Tensor:
    """Return the score ``(*, D)`` by its formula, plainly."""
    share, *between = _pairs(weight, loc, scale)
    around = (weight * _distance(value.unsqueeze(-2) - loc, scale)).sum(-2)
    return around - (share * _distance(*between)).sum(-2)


def _careful_crps(weight: Tensor, loc: Tensor, scale: Tensor, value: Tensor) -> Tensor:
    """Return the score ``(*, D)`` of the means without their scales, and what scales add to it."""
    share, *between = _pairs(weight, loc, scale)
    added = (weight * _parts(value.unsqueeze(-2) - loc, scale)[0]).sum(-2)
    return _step_crps(weight, loc, value) + (added - (share * _parts(*between)[0]).sum(-2))


def _step_crps(weight: Tensor, loc: Tensor, value: Tensor) -> Tensor:
    """Return the score ``(*, D)`` of a distribution of points: squared steps times their widths."""
    place, order = loc.sort(-2)
    weight = weight.expand_as(loc).gather(-2, order)
    below = weight.cumsum(-2)[..., :-1, :]  # of every gap between means
    above = weight.flip(-2).cumsum(-2).flip(-2)[..., 1:, :]
    low, high, x = place[..., :-1, :], place[..., 1:, :], value.unsqueeze(-2)
    passed = (torch.minimum(x, high) - low).clamp_min(0)
    ahead = (high - torch.maximum(x, low)).clamp_min(0)
    inside = (passed * below.square() + ahead * above.square()).sum(-2)
    beyond = (place[..., 0, :] - value).clamp_min(0) + (value - place[..., -1, :]).clamp_min(0)
    return inside + beyond


def _pairs(weight: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight, distance and scale ``(*, K (K + 1) / 2, D)`` of pairs, each once."""
    first, second = torch.triu_indices(loc.shape[-2], loc.shape[-2], device=loc.device)
    (w, v), (m, n), (s, t) = (
        (each.index_select(-2, first), each.index_select(-2, second))
        for each in (weight, loc, scale)
    )
    once = torch.where(first == second, 0.5, 1.0).to(w).unsqueeze(-1)
    return once * w * v, m - n, torch.hypot(s, t)


def _distance(m: Tensor, s: Tensor) -> Tensor:
    """Return the mean distance ``A(m, s)``."""
    far = m.abs() >= FAR * s  # where derivatives by the quotient could overflow
    z = torch.where(far, 0.0, m) / torch.where(far, 1.0, s)
    near = m * erf(z * math.sqrt(0.5)) + s * (PEAK * (-z.square() / 2).exp())
    return torch.where(far, m.abs(), near)


def energy_score(points: Tensor, value: Tensor) -> Tensor:
    r"""Estimate the energy score ``(*)`` of `value` from independent draws ``(n, *, D)``.

    .. math:: E|X - x| - \frac12 E|X - X'|

    The second mean is that over pairs of different draws, without bias.

    Source:
        Gneiting and Raftery 2007, Strictly proper scoring rules, prediction, and estimation,
        equation 22; Hoeffding 1948, A class of statistics with asymptotically normal distribution.

    Example:
        >>> energy_score(torch.tensor([[-1.0], [1.0]]), torch.tensor([4.0]))
        tensor(3.)
    """
    pairs = torch.triu_indices(len(points), len(points), 1, device=points.device)
    first, second = (points.index_select(0, index) for index in pairs)
    within = torch.linalg.vector_norm(first - second, dim=-1).mean(0)
    away = torch.linalg.vector_norm(points - value, dim=-1).mean(0)
    score: Tensor = away - within / 2
    return score
