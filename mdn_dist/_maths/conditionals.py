"""A mixture's coordinates one by one, each given those before it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.special import erfc, erfcx

from mdn_dist._maths.density import posterior, whiten


class Conditional(NamedTuple):
    """One coordinate of a point given those before it, ``(*, K)``, and its density, ``(*)``."""

    log_weight: Tensor  # of the components, normalised, before the coordinate is known
    scale: Tensor
    whitened: Tensor
    log_share: Tensor  # the log weights afterwards, normalised
    log_density: Tensor


def conditionals(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor
) -> list[Conditional]:
    """Return every coordinate of `value`, ``(*, D)``, given those before it."""
    found: list[Conditional] = []
    for x in value.split(1, -1):
        log_weight = found[-1].log_share if found else logits.log_softmax(-1)
        mean, scale = next_coordinate(loc, scale_tril, [c.whitened for c in found])
        found.append(condition(log_weight, mean, scale, x))
    return found


def next_coordinate(
    loc: Tensor, scale_tril: Tensor, whitened: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return mean and scale ``(*, K)`` of the next coordinate given the whitened ones before it."""
    d = len(whitened)
    known = sum(scale_tril[..., d, j] * y for j, y in enumerate(whitened))
    return loc[..., d] + known, scale_tril[..., d, d]


def condition(log_weight: Tensor, mean: Tensor, scale: Tensor, x: Tensor) -> Conditional:
    """Return what the coordinate `x`, ``(*, 1)``, is and tells."""
    mean, scale = mean.unsqueeze(-1), scale[..., None, None]
    whitened = whiten(mean, scale, x)
    log_share, log_density = posterior(log_weight, mean, scale, whitened)
    return Conditional(log_weight, scale[..., 0, 0], whitened.squeeze(-1), log_share, log_density)


def moved(coordinate: Conditional) -> Tensor:
    r"""Return :math:`w_k (\Phi(y_k) - u) / f` for the density :math:`f`, ``(*, K)``.

    Any constant may be taken from every :math:`\Phi`, since :math:`u` is their mean. With 0 where
    :math:`u < 1/2` and 1 elsewhere, what is left is small where the density is. Beyond a
    component's mean it is the component's own share of the density times Mills' ratio.
    """
    log_weight, scale, whitened, log_share, log_density = coordinate
    weight, x = log_weight.exp(), whitened * -math.sqrt(0.5)
    lower = (weight * erfc(x)).sum(-1, keepdim=True) < 1
    side = torch.where(lower, 1.0, -1.0).to(x)
    x = x * side
    beyond = x > 0
    mills = math.sqrt(math.pi / 2) * erfcx(x.clamp_min(0))
    over_density = torch.where(beyond, 0.0, log_weight - log_density.unsqueeze(-1)).exp()
    inside = over_density * erfc(x.clamp_max(0)) / 2
    ratio = torch.where(beyond, log_share.exp() * scale * mills, inside)
    return (ratio - weight * ratio.sum(-1, keepdim=True)) * side
