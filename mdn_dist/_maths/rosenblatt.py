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
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.special import erfc, erfcx, ndtri

from mdn_dist._maths.density import posterior, whiten
from mdn_dist._maths.floats import at_once
from mdn_dist._torch import batched, overridable, traced, tracing

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
    each = _conditionals(logits, loc, scale_tril, value)
    uniform = [(c.log_weight.exp() * _below(c.whitened)).sum(-1) for c in each]
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
    # unrolled, the root finder's steps would be a huge graph; a decorator would import the compiler
    find = torch.compiler.disable(_invert) if torch.compiler.is_compiling() else _invert
    with torch.no_grad():  # of which torch.jit.trace takes no notice
        value = find(logits, loc, scale_tril, uniform).detach()
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


class _Conditional(NamedTuple):
    """One coordinate of a point given those before it, ``(*, K)``, and its density, ``(*)``."""

    log_weight: Tensor  # of the components, normalised, before the coordinate is known
    scale: Tensor
    whitened: Tensor
    log_share: Tensor  # the log weights afterwards, normalised
    log_density: Tensor


def _conditionals(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor
) -> list[_Conditional]:
    """Return every coordinate of `value`, ``(*, D)``, given those before it."""
    found: list[_Conditional] = []
    for x in value.split(1, -1):
        log_weight = found[-1].log_share if found else logits.log_softmax(-1)
        mean, scale = _next(loc, scale_tril, [c.whitened for c in found])
        found.append(_condition(log_weight, mean, scale, x))
    return found


def _next(loc: Tensor, scale_tril: Tensor, whitened: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and scale ``(*, K)`` of the next coordinate given the whitened ones before it."""
    d = len(whitened)
    known = sum(scale_tril[..., d, j] * y for j, y in enumerate(whitened))
    return loc[..., d] + known, scale_tril[..., d, d]


def _condition(log_weight: Tensor, mean: Tensor, scale: Tensor, x: Tensor) -> _Conditional:
    """Return what the coordinate `x`, ``(*, 1)``, is and tells."""
    mean, scale = mean.unsqueeze(-1), scale[..., None, None]
    whitened = whiten(mean, scale, x)
    log_share, log_density = posterior(log_weight, mean, scale, whitened)
    return _Conditional(log_weight, scale[..., 0, 0], whitened.squeeze(-1), log_share, log_density)


def _in_planes(loc: Tensor, scale_tril: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and factors with each ``[..., d]`` and ``[..., i, j]`` contiguous in memory."""
    return (
        loc.movedim(-1, 0).contiguous().movedim(0, -1),
        scale_tril.movedim((-2, -1), (0, 1)).contiguous().movedim((0, 1), (-2, -1)),
    )


@overridable
def _attach(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor, uniform: Tensor
) -> Tensor:
    """Return `value` as a function of the parameters and of `uniform`, its transform."""
    shape = torch.broadcast_shapes(logits.shape[:-1], value.shape[:-1])
    each = (
        logits.expand(*shape, -1),
        loc.expand(*shape, -1, -1),
        scale_tril.expand(*shape, -1, -1, -1),
        uniform.expand(*shape, -1),
        value.expand(*shape, -1),
    )
    tensors = [tensor.to(value.dtype) for tensor in each]
    if tracing():  # what it saves can hold no Function
        moved = [tensor - tensor.detach() for tensor in tensors[:4]]
        at = [tensor.detach() for tensor in (*tensors[:3], value)]
        return value + _push_forward(*at, *moved).nan_to_num(0)
    kind = _Attach if torch.compiler.is_compiling() else _ForwardAttach
    attached: Tensor = kind.apply(*tensors)  # type: ignore[no-untyped-call]
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
        if batched(gradients[0]):
            return (*_transpose_push(*tensors), None)
        return (*_pull_back_rows(*tensors), None)


class _ForwardAttach(_Attach):
    """The same with its forward derivative, which compilers do not take."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _Attach.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:3], output)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        levels = [level.key() for level in get_interpreter_stack() or []]
        if levels.count(TransformType.Jvp) > 1:
            raise NotImplementedError(  # torch would take the inner derivative for a constant
                "rsample and inverse_rosenblatt have no forward derivative of a forward one; "
                "take one of the two backward, as jacfwd(jacrev(f))"
            )
        logits, loc, scale_tril, value = ctx.saved_tensors
        uniform = torch.zeros_like(value)
        moved = (
            torch.zeros_like(like) if tangent is None else tangent
            for tangent, like in zip(tangents[:4], (logits, loc, scale_tril, uniform), strict=True)
        )
        return _push_forward(logits, loc, scale_tril, value, *moved)


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
    count = at_once(CHUNK, rows[0])
    for chunk in zip(*(t.split(count) for t in (*rows, *whole)), strict=True):
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
    each = _conditionals(logits, loc, scale_tril, value)
    whitened = [c.whitened for c in each]
    shares = [c.log_share.exp() for c in each]
    moved = [_moved(c) for c in each]
    log_densities = [c.log_density.unsqueeze(-1) for c in each]

    size = len(whitened)
    # to be replaced; `by_weight` is by the log weights of the later coordinates
    by_weight, by_loc, by_factor, by_uniform = moved[0], shares, [[shares[0]]] * size, log_densities
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


def _push_forward(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor, *moved: Tensor
) -> Tensor:
    r"""Return how far a point ``(*, D)`` moves as ``logits, loc, scale_tril, uniform`` move.

    With :math:`f` the density of a coordinate, :math:`w_k` the weights before it and
    :math:`\gamma_k` those after it, a dot for what moves,

    .. math:: \dot x = \dot u / f + \sum_k \gamma_k (\dot m_k + y_k \dot s_k)
       - \sum_k \dot{\log w_k} \, w_k (\Phi(y_k) - u) / f.
    """
    by_weight, by_loc, by_factor, by_uniform = moved
    steps: list[Tensor] = []
    whitened: list[Tensor] = []  # and how they move
    pulled: list[Tensor] = []
    for d, c in enumerate(_conditionals(logits, loc, scale_tril, value)):
        by_mean = by_loc[..., d]
        for j in range(d):
            by_mean = by_mean + by_factor[..., d, j] * whitened[j]
            by_mean = by_mean + scale_tril[..., d, j] * pulled[j]
        by_scale = by_factor[..., d, d]
        at_rest = by_mean + c.whitened * by_scale
        step = (c.log_share.exp() * at_rest - by_weight * _moved(c)).sum(-1)
        steps.append(step + by_uniform[..., d] * (-c.log_density).exp())
        whitened.append(c.whitened)
        pulled.append((steps[-1].unsqueeze(-1) - at_rest) / c.scale)
        by_weight = by_weight - by_scale / c.scale - c.whitened * pulled[-1]
    return torch.stack(steps, -1)


def _transpose_push(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor, gradient: Tensor
) -> tuple[Tensor, ...]:
    """Return what :func:`_pull_back` finds, by the operations of a plain backward pass."""
    like = (logits, loc, scale_tril, value)
    with torch.enable_grad():
        moved = [torch.zeros_like(t).requires_grad_() for t in like]
        step = _push_forward(*(t.detach() for t in like), *moved)
    return torch.autograd.grad(step, moved, gradient)


def _moved(coordinate: _Conditional) -> Tensor:
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


def _invert(logits: Tensor, loc: Tensor, scale_tril: Tensor, uniform: Tensor) -> Tensor:
    """Find the points of :func:`inverse_rosenblatt`, a coordinate at a time."""
    kind = torch.finfo(uniform.dtype)
    uniform = uniform.clamp(kind.tiny, 1 - kind.eps / 2)
    log_weight = logits.log_softmax(-1)
    whitened: list[Tensor] = []
    value: list[Tensor] = []
    for u in uniform.split(1, -1):
        mean, scale = _next(loc, scale_tril, whitened)
        value.append(_quantile(log_weight.exp(), mean, scale, u))
        found = _condition(log_weight, mean, scale, value[-1])
        whitened.append(found.whitened)
        log_weight = found.log_share
    return torch.cat(value, -1)


def _quantile(weight: Tensor, mean: Tensor, scale: Tensor, uniform: Tensor) -> Tensor:
    """Return the quantile ``(*, 1)`` of a mixture in one coordinate, by Newton's method.

    The root lies between the components' own quantiles. It is sought for the logarithm of the
    smaller tail, which is nearly quadratic far out, and by halving the bracket wherever a step
    of Newton's would leave it or does not halve the step before. It is found once a step is no
    more than rounding, of the point or of the scale of the components that it comes from.
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
    last = high - low
    for _ in range(STEPS):
        y = side * (value - mean) / scale
        found = (weight * _below(y)).sum(-1, keepdim=True)
        height = weight * (-y.square() / 2).exp()
        slope = (height / scale).sum(-1, keepdim=True) / math.sqrt(2 * math.pi)
        reach = height.sum(-1, keepdim=True) / (slope * math.sqrt(2 * math.pi))
        least = rounding * (value.abs() + reach.nan_to_num(0.0))
        above = side * (found - tail) > 0
        low, high = torch.where(above, low, value), torch.where(above, value, high)
        step = -side * found * (found / tail).log() / slope
        small = step.abs() <= torch.maximum(last / 2, least)
        newton = small & (low <= value + step) & (value + step <= high)
        step = torch.where(newton, step, (low + high) / 2 - value)
        value, last = value + step, step.abs()
        if not traced() and (last <= least).all():
            break
    return value
