"""The distinct modes of a mixture from the highest on, and the probability around each."""

import math

import torch
from torch import Tensor

from mdn_dist._maths.floats import in_float64
from mdn_dist._maths.modes import Mixture, climb, ends, slopes

SAME = 1e-3
"""Distance in standard deviations up to which ends of ascents are one mode."""

NUDGE = 1e-3
"""What starts are moved by, in deviations of their component, lest one stay on a saddle."""

ENDED = 1e-9
"""Nats below the top of a parabola up to which an ascent counts as ended there."""


def highest_modes(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, count: int, min_distance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return modes ``(*, count, D)``, their log densities, and the weights that lead to them.

    Example:
        >>> loc, scale_tril = torch.tensor([[0.0], [9.0]]), torch.tensor([2.0, 1.0]).view(2, 1, 1)
        >>> highest_modes(torch.zeros(2), loc, scale_tril, 1, 0.0)
        (tensor([[9.0000]]), tensor([-1.6121]), tensor([0.5000]))
    """
    given = loc
    logits, loc, scale_tril = (in_float64(p.detach()) for p in (logits, loc, scale_tril))
    size = loc.shape[-1]
    # along no axis of symmetry
    nudge = (scale_tril * NUDGE / torch.arange(1, size + 1).to(loc)).sum(-1)
    points, _ = ends(logits, loc, scale_tril, torch.cat([nudge, nudge], -2))
    mixture = Mixture.of(logits, loc, scale_tril)
    points, height, left = climb(mixture, points)
    _, _, precision, _ = slopes(mixture, points)
    peak = (left < ENDED) | (height == height.amax(-1, keepdim=True))
    weight = torch.cat([logits.softmax(-1), torch.zeros_like(logits)], -1)  # of the means alone
    modes, heights, masses = [], [], []
    for _ in range(count):
        top, index = torch.where(peak, height, -torch.inf).max(-1, keepdim=True)
        at = index.unsqueeze(-1)
        mode = points.gather(-2, at.expand(*index.shape, size))
        gap = points - mode
        at = at.unsqueeze(-1).expand(*index.shape, size, size)
        stretched = (precision.gather(-3, at) * gap.unsqueeze(-2)).sum(-1)
        near = (gap * stretched).sum(-1) < SAME**2
        near = near | (gap.square().sum(-1) < min_distance**2)
        there = top.isfinite()
        modes.append(torch.where(there.unsqueeze(-1), mode, torch.nan))
        heights.append(top)
        masses.append(torch.where(there & near, weight, 0.0).sum(-1, keepdim=True))
        peak = peak & ~near
        weight = torch.where(there & near, 0.0, weight)
    log_density = torch.cat(heights, -1) - size / 2 * math.log(2 * math.pi)
    return torch.cat(modes, -2).to(given), log_density.to(given), torch.cat(masses, -1).to(given)
