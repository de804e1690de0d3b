r"""The Rosenblatt transform of a mixture, its inverse, and samples that carry exact gradients.

Given the coordinates before it, coordinate :math:`d` of a point has the distribution function

.. math:: u_d = \sum_k w_{k,d} \Phi(y_{k,d}), \qquad
   w_{\cdot,d} = \operatorname{softmax}_k
   \Big(\log \pi_k - \sum_{j<d} (\log L_{k,jj} + y_{k,j}^2 / 2)\Big),

with :math:`y_k = L_k^{-1} (x - \mu_k)`. So :math:`u` is uniform on the cube when :math:`x` comes
from the mixture, and :math:`\partial u / \partial x` is triangular. A sample whose :math:`u` stays
where it is while the parameters :math:`\theta` move has the derivative
:math:`-(\partial u / \partial x)^{-1} \, \partial u / \partial \theta`.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.special import erfc, ndtri

from mdn_dist.functional import traced, whiten

LOG_NORMAL = math.log(2 * math.pi) / 2
CHUNK = 4096  # points dealt with at once: enough for two threads, few enough for a cache
STEPS = 100  # of the root finder: each at least halves the last one, and most need ten


def rosenblatt(logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    """Map points to the unit cube, where the mixture's own samples are uniform.

    Coordinate ``d`` of the result is the distribution function of the point's coordinate ``d``
    given those before it. Small results are as exact as any; close to 1 they are rounded, to 1
    itself 5.4 standard deviations above everything in float32, 8.3 in float64.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``.
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.
        value: Points, shape ``(*, D)``.

    Returns:
        Numbers from 0 to 1, shape ``(*, D)``.

    Source:
        Rosenblatt 1952, Remarks on a multivariate transformation.

    Example:
        >>> one = torch.ones(1, 1, 1)
        >>> rosenblatt(torch.zeros(1), torch.zeros(1, 1), one, torch.tensor([1.0]))
        tensor([0.8413])
    """
    log_weight = logits.log_softmax(-1)
    log_scale = scale_tril.diagonal(dim1=-2, dim2=-1).log()
    uniform: list[Tensor] = []
    for d, whitened in enumerate(whiten(loc, scale_tril, value).unbind(-1)):
        uniform.append((log_weight.exp() * _below(whitened)).sum(-1))
        log_weight, _ = _reweigh(log_weight, log_scale[..., d], whitened)
    return torch.stack(uniform, -1).clamp_max(1)


def inverse_rosenblatt(logits: Tensor, loc: Tensor, scale_tril: Tensor, uniform: Tensor) -> Tensor:
    """Map the unit cube to points, inverting :func:`rosenblatt`.

    Differentiable by the parameters and by `uniform`, exactly, whatever the steps it took.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``.
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.
        uniform: Numbers from 0 to 1, shape ``(*, D)``. The two ends, whose points are infinite,
            count as the nearest numbers between them.

    Returns:
        Points, shape ``(*, D)``.

    Example:
        >>> one = torch.ones(1, 1, 1)
        >>> inverse_rosenblatt(torch.zeros(1), torch.zeros(1, 1), one, torch.tensor([0.8413]))
        tensor([0.9998])
    """
    uniform = uniform.to(torch.promote_types(uniform.dtype, loc.dtype))
    with torch.no_grad():
        value = _invert(logits, loc, scale_tril, uniform)
    return _attach(logits, loc, scale_tril, value, uniform)


def reparameterize(logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    """Let samples move with the parameters, as if each were made from uniform numbers that stay.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``.
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.
        value: Points drawn from the mixture, shape ``(*, D)``.

    Returns:
        The same points, with derivatives by the parameters.

    Source:
        Figurnov, Mohamed and Mnih 2018 (arXiv:1805.08498), equation 6.

    Example:
        >>> loc = torch.zeros(1, 1, requires_grad=True)
        >>> point = reparameterize(torch.zeros(1), loc, torch.ones(1, 1, 1), torch.ones(1))
        >>> torch.autograd.grad(point, loc)
        (tensor([[1.]]),)
    """
    return _attach(logits, loc, scale_tril, value, torch.zeros_like(value))


def _below(x: Tensor) -> Tensor:
    """Return the normal distribution function, of which torch's ``ndtr`` loses the lower tail."""
    twice: Tensor = erfc(x * -math.sqrt(0.5))
    return twice / 2


def _conditional(loc: Tensor, scale_tril: Tensor, whitened: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and scale ``(*, K)`` of the next coordinate given the whitened ones before it."""
    d = len(whitened)
    known = sum(scale_tril[..., d, j] * y for j, y in enumerate(whitened))
    return loc[..., d] + known, scale_tril[..., d, d]


def _reweigh(log_weight: Tensor, log_scale: Tensor, whitened: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log weights ``(*, K)`` after a coordinate, and its log density ``(*, 1)``."""
    log_share = (log_weight - log_scale).addcmul(whitened, whitened, value=-0.5)
    total = log_share.logsumexp(-1, keepdim=True)
    return log_share - total, total - LOG_NORMAL


def _in_planes(loc: Tensor, scale_tril: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and factors with each ``[..., d]`` and ``[..., i, j]`` contiguous in memory."""
    return (
        loc.movedim(-1, 0).contiguous().movedim(0, -1),
        scale_tril.movedim((-2, -1), (0, 1)).contiguous().movedim((0, 1), (-2, -1)),
    )


def _attach(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor, uniform: Tensor
) -> Tensor:
    """Return `value` as a function of the parameters and of `uniform`, its transform."""
    shape = torch.broadcast_shapes(logits.shape[:-1], value.shape[:-1])
    tensors = (
        logits.expand(*shape, -1),
        loc.expand(*shape, -1, -1),
        scale_tril.expand(*shape, -1, -1, -1),
        uniform.expand(*shape, -1),
        value.expand(*shape, -1),
    )
    attached: Tensor = _Attach.apply(*(tensor.to(value.dtype) for tensor in tensors))  # type: ignore[no-untyped-call]
    return attached


class _Attach(torch.autograd.Function):
    """A point ``(*, D)``, found before, as a function of ``logits, loc, scale_tril, uniform``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor,  # noqa: ARG004
        loc: Tensor,  # noqa: ARG004
        scale_tril: Tensor,  # noqa: ARG004
        uniform: Tensor,  # noqa: ARG004
        value: Tensor,
    ) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # the output, not `value`: it moves with the parameters, for second derivatives
        ctx.save_for_backward(*inputs[:3], output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, loc, scale_tril, value = ctx.saved_tensors
        tensors = (logits, loc, scale_tril, value, gradients[0])
        if torch.is_grad_enabled() or traced():
            by_logits, by_loc, by_factor, by_uniform = _pull_back(*tensors)
            return by_logits, torch.stack(by_loc, -1), _square(by_factor), by_uniform, None
        return (*_pull_back_rows(*tensors), None)


def _square(rows: list[list[Tensor]]) -> Tensor:
    """Put planes ``(*, K)`` of a lower triangle together, ``(*, K, D, D)``."""
    zero = torch.zeros_like(rows[0][0])
    full = [torch.stack([*row, *[zero] * (len(rows) - len(row))], -1) for row in rows]
    return torch.stack(full, -2)


def _pull_back_rows(*tensors: Tensor) -> list[Tensor]:
    """Return what :func:`_pull_back` finds for `tensors`, worked out a few rows at a time."""
    shape = tensors[0].shape[:-1]
    rows = [t.reshape(-1, *t.shape[len(shape) :]) for t in tensors]
    whole = [torch.zeros_like(t) for t in rows[:4]]
    for chunk in zip(*(t.split(CHUNK) for t in (*rows, *whole)), strict=True):
        logits, loc, scale_tril, uniform = chunk[5:]
        by_logits, by_loc, by_factor, by_uniform = _pull_back(*chunk[:5])
        logits.copy_(by_logits)
        uniform.copy_(by_uniform)
        for i, row in enumerate(by_factor):
            loc[..., i] = by_loc[i]
            for j, plane in enumerate(row):
                scale_tril[..., i, j] = plane
    return [t.reshape(*shape, *t.shape[1:]) for t in whole]


def _pull_back(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor, gradient: Tensor
) -> tuple[Tensor, list[Tensor], list[list[Tensor]], Tensor]:
    r"""Turn the gradient by a point into those by ``logits, loc, scale_tril, uniform``.

    Those by means come as a plane ``(*, K)`` a coordinate, those by factors as rows of planes.

    The adjoint :math:`\lambda = -(\partial u / \partial x)^{-T} g` is found from the last
    coordinate to the first, times the density of each: that alone never overflows.
    """
    loc, scale_tril = _in_planes(loc, scale_tril)
    log_weight = logits.log_softmax(-1)
    weight = log_weight.exp()
    whitened: list[Tensor] = []
    shares, moved, log_densities = [], [], []
    for x in value.split(1, -1):
        mean, scale = _conditional(loc, scale_tril, whitened)
        y = (x - mean) / scale
        log_scale = scale.log()
        log_share, log_density = _reweigh(log_weight, log_scale, y)
        moved.append(_moved(weight, log_share + log_scale, y))
        log_weight, weight = log_share, log_share.exp()
        whitened.append(y)
        shares.append(weight)
        log_densities.append(log_density)

    size = len(whitened)
    # to be replaced; `by_weight` is by the log weights of the later coordinates
    by_weight, by_loc, by_factor, by_uniform = weight, shares, [[weight]] * size, log_densities
    for d in reversed(range(size)):
        y, scale = whitened[d], scale_tril[..., d, d]
        rate = gradient[..., d : d + 1]  # (*, 1)
        if d == size - 1:
            by_loc[d] = rate * shares[d]
            by_factor[d] = [by_loc[d] * y for y in whitened]
            by_weight = -rate * moved[d]
        else:
            later = y * by_weight
            for i in range(d + 1, size):
                later = later.addcmul(scale_tril[..., i, d], by_loc[i], value=-1)
            later = later / scale
            rate = rate - later.sum(-1, keepdim=True)
            by_loc[d] = later.addcmul(rate, shares[d])
            by_factor[d] = [by_loc[d] * y for y in whitened[: d + 1]]
            by_factor[d][d] = by_factor[d][d] - by_weight / scale
            by_weight = by_weight.addcmul(rate, moved[d], value=-1)
        by_uniform[d] = rate * (-log_densities[d]).exp()
    return by_weight, by_loc, by_factor, torch.cat(by_uniform, -1)


def _moved(weight: Tensor, log_height: Tensor, whitened: Tensor) -> Tensor:
    r"""Return :math:`w_k (\Phi(y_k) - u) / f` for the density :math:`f`, ``(*, K)``.

    Any constant may be taken from every :math:`\Phi`, since :math:`u` is their mean. With 0 where
    :math:`u < 1/2` and 1 elsewhere, what is left is small where the density is.

    Args:
        weight: Weights :math:`w_k`, shape ``(*, K)``.
        log_height: Logarithm of :math:`w_k \varphi(y_k) / f`, shape ``(*, K)``.
        whitened: Whitened coordinate :math:`y_k`, shape ``(*, K)``.
    """
    x = whitened * -math.sqrt(0.5)
    lower = (weight * erfc(x)).sum(-1, keepdim=True) < 1
    side = torch.where(lower, 1.0, -1.0).to(x)
    x = x * side
    # the probability beyond over the density, by its asymptote where both underflow
    limit = 0.95 * math.sqrt(-math.log(torch.finfo(x.dtype).tiny))
    near, far = x.clamp_max(limit), x.clamp_min(limit)
    ratio = log_height.addcmul(near, near).exp() * erfc(near) / (far + 0.5 / far)
    factor = math.sqrt(math.pi / 2) * (limit + 0.5 / limit)
    moved: Tensor = (ratio - weight * ratio.sum(-1, keepdim=True)) * (side * factor)
    return moved


@torch.compiler.disable  # type: ignore[untyped-decorator]  # unrolled, its steps are a huge graph
def _invert(logits: Tensor, loc: Tensor, scale_tril: Tensor, uniform: Tensor) -> Tensor:
    """Find the points of :func:`inverse_rosenblatt`, a coordinate at a time."""
    kind = torch.finfo(uniform.dtype)
    uniform = uniform.clamp(kind.tiny, 1 - kind.eps / 2)
    log_weight = logits.log_softmax(-1)
    whitened: list[Tensor] = []
    value: list[Tensor] = []
    for u in uniform.split(1, -1):
        mean, scale = _conditional(loc, scale_tril, whitened)
        value.append(_quantile(log_weight.exp(), mean, scale, u))
        whitened.append((value[-1] - mean) / scale)
        log_weight, _ = _reweigh(log_weight, scale.log(), whitened[-1])
    return torch.cat(value, -1)


def _quantile(weight: Tensor, mean: Tensor, scale: Tensor, uniform: Tensor) -> Tensor:
    """Return the quantile ``(*, 1)`` of a mixture in one coordinate, by Newton's method.

    The root lies between the components' own quantiles. It is sought for the logarithm of the
    smaller tail, which is nearly quadratic far out, and by halving the bracket wherever a step
    of Newton's would leave it or does not halve the step before.
    """
    side = torch.where(uniform < 0.5, 1.0, -1.0).to(uniform)
    tail = torch.where(uniform < 0.5, uniform, 1 - uniform)
    quantile = mean + scale * side * ndtri(tail)  # (*, K)
    value: Tensor = (weight * quantile).sum(-1, keepdim=True)
    slack = scale / 100  # for the rounding of the quantiles
    reachable = weight > 0
    low = torch.where(reachable, quantile - slack, math.inf).amin(-1, keepdim=True)
    high = torch.where(reachable, quantile + slack, -math.inf).amax(-1, keepdim=True)
    rounding = 4 * torch.finfo(weight.dtype).eps
    reach = (weight * (mean.abs() + scale)).sum(-1, keepdim=True)
    last = high - low
    for _ in range(STEPS):
        y = side * (value - mean) / scale
        found = (weight * _below(y)).sum(-1, keepdim=True)
        slope = (weight * (-y.square() / 2 - LOG_NORMAL).exp() / scale).sum(-1, keepdim=True)
        above = side * (found - tail) > 0
        low, high = torch.where(above, low, value), torch.where(above, value, high)
        step = -side * found * (found / tail).log() / slope
        small = step.abs() <= torch.maximum(last / 2, rounding * (value.abs() + reach))
        newton = small & (low <= value + step) & (value + step <= high)
        step = torch.where(newton, step, (low + high) / 2 - value)
        value, last = value + step, step.abs()
        if not traced() and (last <= rounding * (value.abs() + reach)).all():
            break
    return value
