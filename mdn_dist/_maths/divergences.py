r"""Bounds of entropies and divergences of mixtures, from divergences between their components.

Parameters are logits ``(*, K)``, means ``(*, K, D)`` and Cholesky factors ``(*, K, D, D)``. Sums
over components are taken of logarithms, and all is done on factors, without a covariance and
without a matrix product. Pairs have the first mixture's components in the rows.
"""

import math

import torch
from torch import Tensor

from mdn_dist._maths.algebra import Mixture
from mdn_dist._maths.density import substitute

SHARES = (1 / 2, 1 / 8, 1 / 32)  # the less, the nearer to a divergence, and the worse for overlaps


def entropy_bounds(logits: Tensor, loc: Tensor, scale_tril: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return a lower and an upper bound ``(*)`` of the entropy.

    With :math:`D` the Bhattacharyya distance, Chernoff's of one half, for the lower one and the
    Kullback-Leibler divergence for the upper one,

    .. math:: \sum_i \pi_i \big(H(p_i) - \log \sum_j \pi_j \exp(-D(p_i, p_j))\big).

    Source:
        Kolchinsky and Tracey 2017 (arXiv:1706.02419).

    Example:
        >>> far = torch.tensor([[0.0], [99.0]])
        >>> entropy_bounds(torch.zeros(2), far, torch.ones(2, 1, 1))  # log(2) more than of one
        (tensor(2.1121), tensor(2.1121))
    """
    mixture = without_idle(logits, loc, scale_tril)
    entropy = component_entropy(mixture[2])
    lower, upper = (
        average(logits, entropy - log_overlap(logits, apart(mixture, mixture)))
        for apart in DISTANCES
    )
    return lower, upper


def kl_bounds(mixture: Mixture, other: Mixture) -> tuple[Tensor, Tensor]:
    r"""Return a lower and an upper bound ``(*)`` of the divergence of a mixture from another.

    It is the cross-entropy less the entropy, whose bounds are those of :func:`entropy_bounds`. By
    Jensen's inequality a component's cross-entropy :math:`-E_i \log q` is at most

    .. math:: H(p_i) - \log \sum_j \omega_j \exp(-KL(p_i, q_j))

    and at least each of :math:`-\log \sum_j \omega_j \int p_i q_j` and, for every :math:`s`,

    .. math:: H(p_i) - \frac{1}{s} \log \sum_j \omega_j^s \int p_i^{1-s} q_j^s,

    since :math:`q^s \le \sum_j \omega_j^s q_j^s`. Where `other` is one Gaussian, it is exact.

    Source:
        Durrieu, Thiran and Kelly 2012, "Lower and upper bounds for approximation of the
        Kullback-Leibler divergence between Gaussian mixture models", for the first and the second;
        Kolchinsky and Tracey 2017, for the entropy.

    Example:
        >>> one, scale = torch.zeros(1), torch.ones(1, 1, 1)
        >>> kl_bounds((one, torch.zeros(1, 1), scale), (one, torch.full((1, 1), 2.0), scale))
        (tensor(2.), tensor(2.))
    """
    mixture, other = without_idle(*mixture), without_idle(*other)
    logits, other_logits = mixture[0], other[0]
    # all relative to the components' own entropies
    most = -log_overlap(other_logits, kullback_leibler(mixture, other))  # (*, K)
    if other_logits.shape[-1] == 1:
        least = most
    else:
        product = log_overlap(other_logits, -log_product(mixture, other))
        each = [torch.zeros_like(product), -product - component_entropy(mixture[2])]
        for share in SHARES:
            log_weight = share * other_logits.log_softmax(-1).unsqueeze(-2)
            affinity = (log_weight - chernoff(mixture, other, share)).logsumexp(-1)
            each.append(-affinity / share)
        least = torch.stack(each).amax(0)
    low, high = (log_overlap(logits, apart(mixture, mixture)) for apart in DISTANCES)
    return average(logits, least + high).clamp_min(0), average(logits, most + low)


def stratified_elbo(logits: Tensor, log_ratio: Tensor, *, importance_weighted: bool) -> Tensor:
    """Return the bound ``(*)`` of log ratios ``(K, N, *)`` at N points of each component.

    Example:
        >>> ratio = torch.tensor([[1.0], [3.0]])
        >>> stratified_elbo(torch.zeros(2), ratio, importance_weighted=False)
        tensor(2.)
    """
    if not importance_weighted:
        return average(logits, log_ratio.mean(1).movedim(0, -1))
    log_weight = logits.log_softmax(-1).movedim(-1, 0).unsqueeze(1)
    return (log_weight + log_ratio).logsumexp((0, 1)) - math.log(log_ratio.shape[1])


def component_entropy(scale_tril: Tensor) -> Tensor:
    """Return the entropies ``(*, K)`` of the components."""
    return log_determinant(scale_tril) + scale_tril.shape[-1] / 2 * math.log(2 * math.pi * math.e)


def log_determinant(factor: Tensor) -> Tensor:
    """Return the logarithms ``(*)`` of the determinants of triangular factors ``(*, D, D)``."""
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def average(logits: Tensor, each: Tensor) -> Tensor:
    """Return the mean ``(*)`` over the components; those without weight may be infinite."""
    weight = logits.softmax(-1)
    return (weight * torch.where(weight > 0, each, 0.0)).sum(-1)


def log_overlap(logits: Tensor, distance: Tensor) -> Tensor:
    r"""Return :math:`\log \sum_j \pi_j \exp(-D_{ij})`, ``(*, K)``, of distances ``(*, K, J)``."""
    return (logits.log_softmax(-1).unsqueeze(-2) - distance).logsumexp(-1)


def without_idle(logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Mixture:
    """Return the mixture with components without weight at the likeliest, lest they overflow."""
    idle = logits.softmax(-1) == 0
    likeliest = logits.argmax(-1, keepdim=True)
    index = torch.where(idle, likeliest, torch.arange(logits.shape[-1], device=logits.device))
    at = index.unsqueeze(-1).expand(loc.shape)
    loc = loc.gather(-2, at)
    return logits, loc, scale_tril.gather(-3, at.unsqueeze(-1).expand(scale_tril.shape))


def kullback_leibler(mixture: Mixture, other: Mixture) -> Tensor:
    """Return the divergences ``(*, K, J)`` of the components from those of another mixture."""
    gap, factor, other_factor = _pairs(mixture, other)
    # coordinates last: the columns of L_j^-1 L_i, and L_j^-1 (mu_i - mu_j)
    columns = torch.cat([factor.mT.expand(*gap.shape, -1), gap.unsqueeze(-2)], -2)
    squares = substitute(other_factor.unsqueeze(-3), columns).square().sum((-2, -1))
    growth = log_determinant(other_factor) - log_determinant(factor)
    return (squares - gap.shape[-1]) / 2 + growth


def chernoff(mixture: Mixture, other: Mixture, share: float = 0.5) -> Tensor:
    r"""Return the distances :math:`-\log \int p_i^{1-s} q_j^s`, ``(*, K, J)``, likewise."""
    gap, factor, other_factor = _pairs(mixture, other)
    joined = joined_factor(math.sqrt(share) * factor, math.sqrt(1 - share) * other_factor)
    ends = share * log_determinant(factor) + (1 - share) * log_determinant(other_factor)
    apart = substitute(joined, gap).square().sum(-1)
    return share * (1 - share) / 2 * apart + log_determinant(joined) - ends


def log_product(mixture: Mixture, other: Mixture) -> Tensor:
    r"""Return :math:`\log \int p_i q_j`, ``(*, K, J)``, likewise."""
    gap, factor, other_factor = _pairs(mixture, other)
    joined = joined_factor(factor, other_factor)
    constant = gap.shape[-1] / 2 * math.log(2 * math.pi)
    return -substitute(joined, gap).square().sum(-1) / 2 - log_determinant(joined) - constant


def _pairs(mixture: Mixture, other: Mixture) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``mu_i - mu_j``, ``(*, K, J, D)``, and factors that broadcast against them."""
    gap = mixture[1].unsqueeze(-2) - other[1].unsqueeze(-3)
    return gap, mixture[2].unsqueeze(-3), other[2].unsqueeze(-4)


def joined_factor(left: Tensor, right: Tensor) -> Tensor:
    """Return the Cholesky factor ``(*, D, D)`` of the sum of two covariances, given by factors.

    The columns of `right` are turned into those of `left`, one after the other.

    Example:
        >>> joined_factor(torch.tensor([[3.0]]), torch.tensor([[4.0]]))
        tensor([[5.]])
    """
    columns = list(left.unbind(-1))
    for i, column in enumerate(right.unbind(-1)):
        rest = column
        for j in range(i, len(columns)):
            x, y = columns[j][..., j], rest[..., j]
            length = x.hypot(y)
            cosine, sine = (x / length).unsqueeze(-1), (y / length).unsqueeze(-1)
            columns[j], rest = cosine * columns[j] + sine * rest, cosine * rest - sine * columns[j]
    return torch.stack(torch.broadcast_tensors(*columns), -1)


DISTANCES = chernoff, kullback_leibler  # for a lower and an upper bound of an entropy
