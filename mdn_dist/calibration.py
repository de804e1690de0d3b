"""Whether a model is calibrated: whether what it makes of the data is uniform."""

import math

import torch
from torch import Tensor

from mdn_dist._checks import check_uniform

EXACT = 50  # samples from which the asymptotic p-value is good enough


def kolmogorov_smirnov(uniform: Tensor) -> tuple[Tensor, Tensor]:
    r"""Test whether numbers are uniform, a coordinate at a time.

    The statistic is the largest distance between their distribution function and the uniform one.
    Its p-value is exact for samples of fewer than 50; for larger ones it is the asymptotic one with
    Vrbik's correction, to 3e-4.

    Args:
        uniform: Numbers from 0 to 1, shape ``(*, D)``: all of ``*``, at least one dimension, are
            one sample.

    Returns:
        Statistic and p-value, each of shape ``(D,)``.

    Raises:
        TypeError: If `uniform` is not a tensor.
        ValueError: If there is no sample, or a number is not from 0 to 1.

    Source:
        Marsaglia, Tsang and Wang 2003, Evaluating Kolmogorov's distribution (exact); Vrbik 2018,
        Small-sample corrections to Kolmogorov-Smirnov test statistic.

    Example:
        >>> kolmogorov_smirnov(torch.tensor([[0.5], [1.0]]))
        (tensor([0.5000]), tensor([0.5000]))
    """
    check_uniform(uniform)
    ordered = uniform.flatten(0, -2).cpu().double().sort(0).values  # (N, D)
    count = len(ordered)
    steps = torch.arange(count + 1, dtype=ordered.dtype).unsqueeze(-1)
    above, below = steps[1:] / count - ordered, ordered - steps[:-1] / count
    statistic = torch.maximum(above, below).amax(0)
    survival = _exact_survival if count < EXACT else _asymptotic_survival
    p_value = statistic.new_tensor([survival(count, d) for d in statistic.tolist()])
    dtype = uniform.dtype if uniform.is_floating_point() else torch.get_default_dtype()
    return statistic.to(uniform.device, dtype), p_value.to(uniform.device, dtype)


def _exact_survival(count: int, statistic: float) -> float:
    """Return the probability of a larger statistic, by a power of Durbin's matrix."""
    k = int(count * statistic) + 1
    h, m = k - count * statistic, 2 * k - 1
    place = torch.arange(m, dtype=torch.float64)
    order = place.unsqueeze(-1) - place + 1  # of the factorial in each cell
    matrix = (order >= 0).double()
    powers = h ** (place + 1)
    matrix[:, 0] -= powers
    matrix[-1] -= powers.flip(0)
    matrix[-1, 0] += max(2 * h - 1, 0.0) ** m
    matrix /= (order.clamp_min(0) + 1).lgamma().exp()
    ways = math.prod(i / count for i in range(1, count + 1))
    share: float = torch.linalg.matrix_power(matrix, count)[k - 1, k - 1].item()
    return 1 - ways * share


def _asymptotic_survival(count: int, statistic: float) -> float:
    """Return the probability of a larger statistic, by the theta function of a large sample."""
    root = math.sqrt(count)
    scaled = root * statistic
    scaled = max(0.1, scaled + 1 / (6 * root) + (scaled - 1) / (4 * count))  # below, it is 1
    terms = (2 * (-1) ** (j - 1) * math.exp(-2 * (j * scaled) ** 2) for j in range(1, 101))
    return min(1.0, max(0.0, math.fsum(terms)))
