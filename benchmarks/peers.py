"""What a stroke loss is without this library: stock torch, or written out by hand, in two ways.

All take raw outputs in the paper's order and use its exact maps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, MultivariateNormal
from torch.nn.functional import binary_cross_entropy_with_logits


def split(outputs: Tensor) -> tuple[Tensor, ...]:
    """Splits raw outputs into end of stroke, weights, means, scales, correlations."""
    components = (outputs.shape[-1] - 1) // 6
    return outputs.split([1] + [components] * 6, -1)


def stock_distributions(
    outputs: Tensor, validate_args: bool | None = None
) -> tuple[MixtureSameFamily, Bernoulli]:
    """Returns torch's own mixture and Bernoulli, as its documentation has them."""
    end, logits, mu_1, mu_2, s_1, s_2, r = split(outputs)
    sigma_1, sigma_2, rho = s_1.exp(), s_2.exp(), r.tanh()
    rows = [
        torch.stack([sigma_1, torch.zeros_like(sigma_1)], -1),
        torch.stack([rho * sigma_2, sigma_2 * (1 - rho.square()).sqrt()], -1),
    ]
    loc, scale_tril = torch.stack([mu_1, mu_2], -1), torch.stack(rows, -2)
    normal = MultivariateNormal(loc, scale_tril=scale_tril, validate_args=validate_args)
    weights = Categorical(logits=logits, validate_args=validate_args)
    offset = MixtureSameFamily(weights, normal, validate_args=validate_args)
    return offset, Bernoulli(logits=-end.squeeze(-1), validate_args=validate_args)


def stock_nats(outputs: Tensor, points: Tensor, validate_args: bool | None = None) -> Tensor:
    """Scores points by torch's own distributions."""
    offset, pen = stock_distributions(outputs, validate_args)
    return -offset.log_prob(points[..., :2]) - pen.log_prob(points[..., 2])


def hand_nats(outputs: Tensor, points: Tensor) -> Tensor:
    """Writes out the paper's equations 18 to 26, with the customary floor."""
    end, pi, mu_1, mu_2, s_1, s_2, rho = split(outputs)
    end, pi = torch.sigmoid(-end), pi.softmax(-1)
    s_1, s_2, rho = s_1.exp(), s_2.exp(), rho.tanh()
    x_1, x_2, flag = points.split(1, -1)
    z_1, z_2 = (x_1 - mu_1) / s_1, (x_2 - mu_2) / s_2
    rest = 1 - rho**2
    z = z_1**2 + z_2**2 - 2 * rho * z_1 * z_2
    normal = torch.exp(-z / (2 * rest)) / (2 * math.pi * s_1 * s_2 * torch.sqrt(rest))
    offset = (pi * normal).sum(-1)
    pen = (flag * end + (1 - flag) * (1 - end)).squeeze(-1)
    return -torch.log(offset.clamp(min=1e-20)) - torch.log(pen.clamp(min=1e-20))


def log_space_nats(outputs: Tensor, points: Tensor) -> Tensor:
    """Writes them out in log space, exactly: ``sqrt(1 - rho^2)`` is ``1 / cosh``."""
    end, pi, mu_1, mu_2, s_1, s_2, r = split(outputs)
    x_1, x_2, flag = points.split(1, -1)
    z_1, z_2 = (x_1 - mu_1) * torch.exp(-s_1), (x_2 - mu_2) * torch.exp(-s_2)
    y_2 = z_2 * torch.cosh(r) - z_1 * torch.sinh(r)
    determinant = s_1 + s_2 - torch.log(torch.cosh(r))
    share = pi.log_softmax(-1) - determinant - (z_1**2 + y_2**2) / 2
    pen = binary_cross_entropy_with_logits(-end, flag, reduction="none").squeeze(-1)
    return math.log(2 * math.pi) - share.logsumexp(-1) + pen
