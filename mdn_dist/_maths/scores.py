r"""Proper scores of a mixture that are distances: of its coordinates and of its points.

The mean distance of a normal variable from 0 is all that the first is made of,

.. math:: A(m, s) = E|m + s Z| = m \operatorname{erf}(z / \sqrt 2) + 2 s \varphi(z), \qquad
   z = m / s.
"""

import math

import torch
from torch import Tensor
from torch.special import erf, erfc

from mdn_dist._maths.algebra import marginal_scale

FAR = 64.0  # standard deviations, beyond which a normal density is 0 in any type


def crps(logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    r"""Return the continuous ranked probability score of each coordinate, ``(*, D)``.

    .. math:: \sum_k w_k A(x - \mu_k, \sigma_k)
       - \frac12 \sum_{jk} w_j w_k A(\mu_j - \mu_k, \sqrt{\sigma_j^2 + \sigma_k^2})

    is smooth, and gives derivatives of any order. In its value, distances between means could
    cancel, which :func:`_careful_crps` avoids.

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
    loc, scale, value = loc.to(dtype), marginal_scale(scale_tril.to(dtype)), value.to(dtype)
    apart = (value.unsqueeze(-2) - loc, scale)
    share, *between = _pairs(weight, loc, scale)
    smooth = (weight * _distance(*apart)).sum(-2) - (share * _distance(*between)).sum(-2)
    exact = _careful_crps(*(t.detach() for t in (weight, loc, scale, value)))
    return exact + (smooth - smooth.detach())


def _careful_crps(weight: Tensor, loc: Tensor, scale: Tensor, value: Tensor) -> Tensor:
    """Return the score ``(*, D)`` of the means without their scales, and what scales add to it.

    The first is a sum of positive terms. What scales add to a distance is no more than they are.
    """
    share, *between = _pairs(weight, loc, scale)
    added = (weight * _excess(value.unsqueeze(-2) - loc, scale)).sum(-2)
    return _step_crps(weight, loc, value) + (added - (share * _excess(*between)).sum(-2))


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
    return (
        inside + (place[..., 0, :] - value).clamp_min(0) + (value - place[..., -1, :]).clamp_min(0)
    )


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
    near = m * erf(z * math.sqrt(0.5)) + s * _twice_density(z)
    return torch.where(far, m.abs(), near)


def _excess(m: Tensor, s: Tensor) -> Tensor:
    """Return ``A(m, s) - |m|``, which is small where `m` is large."""
    z = torch.minimum(m.abs(), FAR * s) / s
    excess: Tensor = s * _twice_density(z) - m.abs() * erfc(z * math.sqrt(0.5))
    return excess


def _twice_density(z: Tensor) -> Tensor:
    return math.sqrt(2 / math.pi) * (-z.square() / 2).exp()


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
