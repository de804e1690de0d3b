"""Quantiles and central intervals of a mixture's coordinates, and regions of high density."""

import math

from torch import Tensor

from mdn_dist._maths.algebra import marginal_scale
from mdn_dist._maths.rosenblatt import inverse_rosenblatt


def quantile(logits: Tensor, loc: Tensor, scale_tril: Tensor, q: Tensor) -> Tensor:
    """Return quantiles ``(Q, *, D)`` of each coordinate by itself, ``(*, D)`` for one `q`.

    Example:
        >>> import torch
        >>> one = torch.eye(2).view(1, 2, 2)
        >>> quantile(torch.zeros(1), torch.zeros(1, 2), one, torch.tensor([0.5, 0.8413]))
        tensor([[0.0000, 0.0000],
                [0.9998, 0.9998]])
    """
    # every coordinate is a mixture in one, and one of the batch
    single = loc.mT.unsqueeze(-1)  # (*, D, K, 1)
    scale = marginal_scale(scale_tril).mT[..., None, None]
    uniform = q[(..., *[None] * (loc.dim() - 1), None)] if q.dim() else q.expand(1)
    found = inverse_rosenblatt(logits.unsqueeze(-2), single, scale, uniform)
    return found.squeeze(-1)


def central_interval(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, tail: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the quantiles that leave `tail` below and above, both as exact in their tails."""
    # near 1, numbers are rounded; the upper tail is the lower one of the mirrored mixture
    lower = quantile(logits, loc, scale_tril, tail)
    return lower, -quantile(logits, -loc, scale_tril, tail)


def highest_density(log_density: Tensor, level: float) -> tuple[Tensor, float]:
    """Return the threshold ``(*)`` of log densities of draws ``(n, *)``, its mass's standard error.

    Of ``n`` draws, the mass above the ``m``-th largest density has the beta distribution of
    parameters ``m`` and ``n + 1 - m``, whatever the density: its mean is `level` where ``m`` is
    ``level (n + 1)``. Between two draws the threshold is interpolated.

    Source:
        Hyndman 1996, Computing and graphing highest density regions, section 3.2; David and
        Nagaraja 2003, Order statistics, section 2.3.

    Example:
        >>> import torch
        >>> highest_density(torch.tensor([3.0, 1.0, 2.0]), 0.5)
        (tensor(2.), 0.22360679774997896)
    """
    count = len(log_density)
    place = level * (count + 1) - 1  # among the draws, from 0
    ordered = log_density.sort(0, descending=True).values
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    threshold = low + (high - low) * (place - math.floor(place))
    return threshold, math.sqrt(level * (1 - level) / (count + 2))
