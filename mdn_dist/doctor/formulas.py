"""What a loss may compute: the exact score, and the wrong ones that are told by name.

A wrong formula is written as what it does to the paper's parameters, so that every score comes of
this library's own: other maps change the blocks of a row, other normalisers the weights.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import elu, logsigmoid, softplus

from mdn_dist.doctor.report import FaultName
from mdn_dist.mixture import GaussianMixture

LOG_2_PI = math.log(2 * math.pi)


class Blocks(NamedTuple):
    """The mixture's part of a row in the paper's order."""

    weights: Tensor  # (*, K)
    means: Tensor  # (*, 2 K)
    scales: Tensor  # (*, 2 K)
    correlations: Tensor  # (*, K)


class Formula(NamedTuple):
    """A wrong formula of the mixture, by what it does to the blocks of a row.

    `change` returns the blocks that the paper's maps give the same meaning, with logarithms of the
    weights, which need not sum to one. It is given such logarithms, or the outputs themselves if
    `name` is ``"weights"``.
    """

    name: FaultName
    what: str
    remedy: str
    change: Callable[[Blocks], Blocks]


class PenFormula(NamedTuple):
    """A formula of the pen, by the scores that it gives outputs and flags."""

    sign: Literal["minus", "plus"] | None
    what: str | None  # None for the right ones
    score: Callable[[Tensor, Tensor], Tensor]


def split(rows: Tensor) -> tuple[Tensor, Blocks]:
    """Return the pen's outputs ``(*)`` and the blocks of rows ``(*, 6 K + 1)``."""
    k = (rows.shape[-1] - 1) // 6
    pen, *blocks = rows.split([1, k, 2 * k, 2 * k, k], -1)
    return pen.squeeze(-1), Blocks(*blocks)


def offset_scores(rows: Tensor, points: Tensor, formula: Formula | None = None) -> Tensor:
    """Return minus the log density ``(*)`` of offsets, by a formula; the exact one without."""
    blocks = split(rows)[1]
    if formula is None or formula.name != "weights":
        blocks = blocks._replace(weights=blocks.weights.log_softmax(-1))
    if formula is not None:
        blocks = formula.change(blocks)
    mass = blocks.weights.logsumexp(-1)  # 0 unless they are wrong
    exact = GaussianMixture.from_outputs(
        torch.cat(blocks, -1), blocks.weights.shape[-1], event_size=2, bounds=None
    )
    return -exact.log_prob(points[..., :2]) - mass


def _bernoulli(logit: Tensor, flag: Tensor) -> Tensor:
    """Return minus the log probability of flags."""
    return _ends(logit, flag) + _others(logit, flag)


def _twice(logit: Tensor, flag: Tensor) -> Tensor:
    return _bernoulli(logit.sigmoid(), flag)


def _ends(logit: Tensor, flag: Tensor) -> Tensor:
    return -flag * logsigmoid(logit)


def _others(logit: Tensor, flag: Tensor) -> Tensor:
    return -(1 - flag) * logsigmoid(-logit)


def _both_signs(
    what: str | None, score: Callable[[Tensor, Tensor], Tensor]
) -> tuple[PenFormula, PenFormula]:
    """Return a formula of logits for outputs of either sign."""
    return (
        PenFormula("minus", what, lambda output, flag: score(-output, flag)),
        PenFormula("plus", what, score),
    )


PENS = (
    *_both_signs(None, _bernoulli),
    PenFormula(None, "the pen has no part in it", lambda output, _: torch.zeros_like(output)),
    *_both_signs("the pen's output goes through the sigmoid twice", _twice),
    *_both_signs("only points that end a stroke score the pen", _ends),
    *_both_signs("only points that end no stroke score the pen", _others),
)
"""The two right formulas first."""

_SOFTMAX = "weights = outputs.log_softmax(-1) over the components, and logsumexp of their sum."
_NORMAL = (
    "the bivariate normal of equations 24 and 25: z = z1^2 + z2^2 - 2 rho z1 z2, and "
    "exp(-z / (2 (1 - rho^2))) / (2 pi sigma1 sigma2 sqrt(1 - rho^2))."
)
_EXP = "sigma = exp(output), equation 21; as here, the outputs mean other scales than elsewhere."
_TANH = "rho = tanh(output), equation 22; as here, the outputs mean other correlations."


def _weights(change: Callable[[Tensor], Tensor]) -> Callable[[Blocks], Blocks]:
    return lambda b: b._replace(weights=change(b.weights))


def _scales(change: Callable[[Tensor], Tensor]) -> Callable[[Blocks], Blocks]:
    return lambda b: b._replace(scales=change(b.scales))


def _correlations(change: Callable[[Tensor], Tensor]) -> Callable[[Blocks], Blocks]:
    return lambda b: b._replace(correlations=change(b.correlations))


def _limited(limit: float) -> Callable[[Tensor], Tensor]:
    return lambda r: (limit * r.tanh()).atanh()


def _log_cosh(b: Blocks) -> Tensor:
    """Return minus the logarithm of ``sqrt(1 - rho^2)``."""
    log_cosh: Tensor = b.correlations.cosh().log()
    return log_cosh


def _scale_sum(b: Blocks) -> Tensor:
    """Return the logarithm of ``sigma1 sigma2``."""
    log_product: Tensor = b.scales.unflatten(-1, (2, -1)).sum(-2)
    return log_product


def _spread(b: Blocks, log_factor: Tensor) -> Blocks:
    """Multiply both scales of each component by a factor."""
    return b._replace(scales=b.scales + torch.cat([log_factor, log_factor], -1))


def _undivided(b: Blocks) -> Blocks:
    """Leave out ``1 / (1 - rho^2)`` in the exponent."""
    return _spread(b, _log_cosh(b))._replace(weights=b.weights + 2 * _log_cosh(b))


def _halved_cross(b: Blocks) -> Blocks:
    """Leave out the 2 of ``2 rho z1 z2``."""
    rho = b.correlations.tanh()
    ratio = ((1 - rho**2) / (1 - rho**2 / 4)).log() / 2
    return _spread(b, ratio)._replace(weights=b.weights + ratio, correlations=(rho / 2).atanh())


FORMULAS = (
    Formula(
        "weights",
        "the weights are the outputs over their sum: a softmax without the exponential, NaN where "
        "the sum is negative",
        _SOFTMAX,
        _weights(lambda w: (w / w.sum(-1, keepdim=True)).log()),
    ),
    Formula(
        "weights",
        "the weights are the outputs themselves, and do not sum to one",
        _SOFTMAX,
        _weights(torch.log),
    ),
    Formula(
        "weights",
        "the weights are exponentials that no sum divides",
        _SOFTMAX,
        _weights(lambda w: w),
    ),
    Formula(
        "weights",
        "the weights are sigmoids, and do not sum to one",
        _SOFTMAX,
        _weights(logsigmoid),
    ),
    Formula(
        "weights",
        "every weight of a single point is 1: the softmax is taken over points, not components",
        _SOFTMAX,
        _weights(torch.zeros_like),
    ),
    Formula(
        "weights",
        "all weights are the same, whatever their outputs",
        _SOFTMAX,
        _weights(lambda w: torch.zeros_like(w).log_softmax(-1)),
    ),
    Formula(
        "map",
        "scales are the softplus of their outputs",
        _EXP,
        _scales(lambda s: softplus(s).log()),
    ),
    Formula(
        "map", "outputs are logarithms of variances, not of scales", _EXP, _scales(lambda s: s / 2)
    ),
    Formula(
        "map", "scales are 1 + elu of their outputs", _EXP, _scales(lambda s: (1 + elu(s)).log())
    ),
    Formula(
        "map",
        "scales are their outputs themselves, which may be negative",
        _EXP,
        _scales(torch.log),
    ),
    Formula(
        "map",
        "correlations are their outputs themselves, which may be beyond 1",
        _TANH,
        _correlations(torch.atanh),
    ),
    Formula(
        "map",
        "correlations are the softsign of their outputs",
        _TANH,
        _correlations(lambda r: (r / (1 + r.abs())).atanh()),
    ),
    *(
        Formula(
            "map",
            f"correlations are {limit} times the tanh of their outputs",
            _TANH,
            _correlations(_limited(limit)),
        )
        for limit in (0.9, 0.95, 0.99, 0.999)
    ),
    Formula(
        "normal", "the correlation has no part in it", _NORMAL, _correlations(torch.zeros_like)
    ),
    Formula("normal", "the correlation has the wrong sign", _NORMAL, _correlations(torch.neg)),
    Formula(
        "normal",
        "the factor 1 / sqrt(1 - rho^2) is missing",
        _NORMAL,
        lambda b: b._replace(weights=b.weights - _log_cosh(b)),
    ),
    Formula(
        "normal",
        "the density is divided by 1 - rho^2, not by its root",
        _NORMAL,
        lambda b: b._replace(weights=b.weights + _log_cosh(b)),
    ),
    Formula(
        "normal",
        "the factor 1 / (sigma1 sigma2) is missing",
        _NORMAL,
        lambda b: b._replace(weights=b.weights + _scale_sum(b)),
    ),
    Formula(
        "normal",
        "the factor 1 / (sigma1 sigma2 sqrt(1 - rho^2)) is missing",
        _NORMAL,
        lambda b: b._replace(weights=b.weights + _scale_sum(b) - _log_cosh(b)),
    ),
    Formula("normal", "the exponent is not divided by 1 - rho^2", _NORMAL, _undivided),
    Formula("normal", "the exponent has rho z1 z2 without the 2", _NORMAL, _halved_cross),
    Formula(
        "normal",
        "the exponent is not divided by 2",
        _NORMAL,
        lambda b: b._replace(scales=b.scales - math.log(2) / 2, weights=b.weights - math.log(2)),
    ),
)
