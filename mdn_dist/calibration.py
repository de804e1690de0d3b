"""Whether a model is calibrated: whether what it makes of the data is uniform."""

import math

import torch
from torch import Tensor


def kolmogorov_smirnov(uniform: Tensor) -> tuple[Tensor, Tensor]:
    r"""Test whether numbers are uniform, a coordinate at a time.

    The statistic is the largest distance between their distribution function and the uniform one;
    its p-value is the asymptotic one with Stephens's correction, to about 1e-3.

    Args:
        uniform: Numbers from 0 to 1, shape ``(*, D)``: all of ``*``, at least one dimension, are
            one sample.

    Returns:
        Statistic and p-value, each of shape ``(D,)``.

    Raises:
        ValueError: If there is no sample, or a number is not from 0 to 1.

    Source:
        Stephens 1970, Use of the Kolmogorov-Smirnov, Cramer-von Mises and related statistics
        without extensive tables.

    Example:
        >>> statistic, p_value = kolmogorov_smirnov(torch.tensor([[0.5], [1.0]]))
        >>> statistic
        tensor([0.5000])
    """
    if uniform.dim() < 2 or not uniform.numel():
        raise ValueError(f"uniform must hold points (*, D), got shape {tuple(uniform.shape)}")
    if not ((uniform >= 0) & (uniform <= 1)).all():
        raise ValueError("uniform must be from 0 to 1; leave padding out")
    ordered = uniform.flatten(0, -2).sort(0).values  # (N, D)
    count = len(ordered)
    steps = torch.arange(count + 1, dtype=ordered.dtype, device=ordered.device).unsqueeze(-1)
    above, below = steps[1:] / count - ordered, ordered - steps[:-1] / count
    statistic = torch.maximum(above, below).amax(0)
    root = math.sqrt(count)
    scaled = ((root + 0.12 + 0.11 / root) * statistic).clamp_min(0.1)  # below, all is 1
    j = torch.arange(1, 101, dtype=ordered.dtype, device=ordered.device).unsqueeze(-1)
    terms = (1 - 2 * (j % 2 == 0)) * (-2 * j.square() * scaled.square()).exp()
    return statistic, (2 * terms.sum(0)).clamp(0, 1)
