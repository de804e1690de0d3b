r"""Exact gradients of a mixture's points, by implicit differentiation.

A point :math:`x` whose transform :math:`u`, see :mod:`mdn_dist._maths.rosenblatt`, stays where it
is while the parameters :math:`\theta` move has the derivative
:math:`-(\partial u / \partial x)^{-1} \, \partial u / \partial \theta`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mdn_dist._maths.conditionals import conditionals, moved
from mdn_dist._maths.floats import at_once, exp_or_zero_
from mdn_dist._torch import batched, nested_forward, overridable, traced, tracing

PLANE = 2**16  # numbers by row and component at once: enough for two threads, few for a cache
SMALLEST_TAIL = 1e-25  # the rounding of its parts to 0, below 1e-38, is lost in it


@overridable
def attach(
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
        steps = [tensor - tensor.detach() for tensor in tensors[:4]]
        at = [tensor.detach() for tensor in (*tensors[:3], value)]
        return value + _push_forward(*at, *steps).nan_to_num(0)
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
            return (*_pull_back(*tensors), None)
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
        if nested_forward():
            raise NotImplementedError(  # torch would take the inner derivative for a constant
                "rsample and inverse_rosenblatt have no forward derivative of a forward one; "
                "take one of the two backward, as jacfwd(jacrev(f))"
            )
        logits, loc, scale_tril, value = ctx.saved_tensors
        uniform = torch.zeros_like(value)
        steps = (
            torch.zeros_like(like) if tangent is None else tangent
            for tangent, like in zip(tangents[:4], (logits, loc, scale_tril, uniform), strict=True)
        )
        return _push_forward(logits, loc, scale_tril, value, *steps)


def _pull_back(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor, gradient: Tensor
) -> tuple[Tensor, ...]:
    """Turn the gradient by points into those by ``logits, loc, scale_tril, uniform``."""
    # each [..., d] and [..., i, j] contiguous in memory
    loc = loc.movedim(-1, 0).contiguous().movedim(0, -1)
    scale_tril = scale_tril.movedim((-2, -1), (0, 1)).contiguous().movedim((0, 1), (-2, -1))
    each = conditionals(logits, loc, scale_tril, value)
    whitened = [c.whitened for c in each]
    by_weight, by_loc, rates = _adjoint(
        [row.unbind(-1) for row in scale_tril.unbind(-2)],
        whitened,
        [c.log_share.exp() for c in each],
        [moved(c) for c in each],
        [1.0] * len(each),
        gradient.split(1, -1),
        -1,
    )
    zero = torch.zeros_like(by_loc[0])
    rows: list[Tensor] = []
    for d, c in enumerate(each):
        row = [by_loc[d] * y for y in whitened[: d + 1]]
        if by_weight[d + 1 :]:
            row[d] = row[d] - by_weight[d + 1] / c.scale
        rows.append(torch.stack([*row, *[zero] * (len(each) - d - 1)], -1))
    density = torch.stack([c.log_density for c in each], -1)
    by_uniform = torch.cat(rates, -1) * (-density).exp()
    return by_weight[0], torch.stack(by_loc, -1), torch.stack(rows, -2), by_uniform


def _adjoint(
    factor: Sequence[Sequence[Tensor]],  # by row and column, with the components along `axis`
    whitened: Sequence[Tensor],
    shares: Sequence[Tensor],
    lifted: Sequence[Tensor],  # of `moved`, in units of
    unit: Sequence[Tensor | float],  # with 1 along `axis`
    gradient: Sequence[Tensor],  # by the point's coordinates, with 1 along `axis`
    axis: int,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    r"""Return gradients by each coordinate's log weights and means, and the adjoint.

    :math:`\lambda = -(\partial u / \partial x)^{-T} g` is found from the last coordinate to the
    first, times the density of each: that alone never overflows.
    """
    rates = [gradient[-1]]
    by_loc = [rates[0] * shares[-1]]
    by_weight = [-rates[0] * unit[-1] * lifted[-1]]
    for d in reversed(range(len(whitened) - 1)):
        later = whitened[d] * by_weight[0]
        for i, pulled in enumerate(by_loc, d + 1):
            later = later.addcmul(factor[i][d], pulled, value=-1)
        later = later / factor[d][d]
        rate = gradient[d] - later.sum(axis, keepdim=True)
        by_loc = [later.addcmul(rate, shares[d]), *by_loc]
        by_weight = [by_weight[0].addcmul(rate * unit[d], lifted[d], value=-1), *by_weight]
        rates = [rate, *rates]
    return by_weight, by_loc, rates


def _pull_back_rows(*tensors: Tensor) -> list[Tensor]:
    """Return what :func:`_pull_back` finds for `tensors`, worked out a few rows at a time."""
    shape = tensors[0].shape[:-1]
    rows = [t.reshape(-1, *t.shape[len(shape) :]) for t in tensors]
    whole = [t.new_empty(t.shape) for t in rows[:4]]
    count = at_once(max(1, PLANE // tensors[0].shape[-1]), rows[0])
    for chunk in zip(*(t.split(count) for t in (*rows, *whole)), strict=True):
        found = _pull_back_near(*chunk[:5]) or _pull_back(*chunk[:5])
        for part, gradient in zip(chunk[5:], found, strict=True):
            part.flatten(1).copy_(gradient.flatten(1))
    return [t.reshape(*shape, *t.shape[1:]) for t in whole]


def _pull_back_near(*tensors: Tensor) -> tuple[Tensor, ...] | None:
    """Return what :func:`_pull_back` finds for a few rows where all are near, sooner.

    The components come first here and the rows last: the inner loops are long.
    """
    logits, loc, scale_tril, value, gradient = (_rows_last(t) for t in tensors)
    factor = [row.unbind(1) for row in scale_tril.unbind(1)]
    seen = _see_near(logits, loc, factor, value)
    if seen is None:
        return None
    whitened, shares, lifted, unit, spread = seen
    pull = gradient.unsqueeze(1).unbind(0)
    by_weight, by_loc, rates = _adjoint(factor, whitened.unbind(1), shares, lifted, unit, pull, 0)
    by_scale_tril = torch.empty_like(scale_tril)
    for d, by_mean in enumerate(by_loc):
        torch.mul(by_mean.unsqueeze(1), whitened[:, : d + 1], out=by_scale_tril[:, d, : d + 1])
        by_scale_tril[:, d, d + 1 :] = 0
        if by_weight[d + 1 :]:
            by_scale_tril[:, d, d].addcdiv_(by_weight[d + 1], factor[d][d], value=-1)
    by_uniform = torch.cat([r * s for r, s in zip(rates, spread, strict=True)])
    found = (by_weight[0], torch.stack(by_loc, 1), by_scale_tril, by_uniform)
    return tuple(t.flatten(0, -2).t() for t in found)


def _rows_last(tensor: Tensor) -> Tensor:
    """Move rows ``(N, ...)`` last in memory, by a copy of two axes, for which torch is quick."""
    return tensor.flatten(1).t().contiguous().view(*tensor.shape[1:], len(tensor))


def _see_near(
    logits: Tensor,  # (K, N)
    loc: Tensor,  # (K, D, N)
    factor: Sequence[Sequence[Tensor]],  # (K, N), by row and column
    value: Tensor,  # (D, N)
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]] | None:
    """Return whitened points ``(K, D, N)``; by coordinate shares, `moved`, its unit, 1 / f.

    None where a density or a tail comes near the smallest numbers, which those of draws never do.
    Elsewhere the squared distances of components that count are of the order of 100, too small to
    swallow what they differ in.
    """
    log_share = logits.log_softmax(0)
    share = log_share.exp()
    whitened = value - loc
    shares: list[Tensor] = []
    lifted: list[Tensor] = []
    unit: list[Tensor] = []  # (1, N)
    spread: list[Tensor] = []
    tails: list[Tensor] = []
    for d, (y, row) in enumerate(zip(whitened.unbind(1), factor, strict=True)):
        for j in range(d):
            y.addcmul_(row[j], whitened[:, j], value=-1)
        y.div_(row[d])
        # the tail is not the larger one by far, which this tells without the cost of either
        below = y.clamp(-1, 1).mul_(share).sum(0, keepdim=True) < 0
        side = below.to(y.dtype).mul_(2).sub_(1)
        tail = (y * (side * -math.sqrt(0.5))).erfc_().mul_(share)
        tails.append(tail.sum(0, keepdim=True))
        lifted.append(tail.addcmul_(share, tails[-1], value=-1))
        log_share.addcmul_(y, y, value=-0.5).sub_(row[d].log())
        highest = log_share.amax(0, keepdim=True)
        share = exp_or_zero_(log_share - highest)
        total = share.sum(0, keepdim=True)
        shares.append(share.div_(total))
        log_share.sub_(highest + total.log())
        spread.append((-highest).exp().div_(total).mul_(math.sqrt(2 * math.pi)))
        unit.append(spread[-1] * side / 2)
    near = (torch.cat(tails) > SMALLEST_TAIL) & torch.cat(spread).isfinite()
    return (whitened, shares, lifted, unit, spread) if near.all() else None


def _push_forward(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor, *tangents: Tensor
) -> Tensor:
    r"""Return how far a point ``(*, D)`` moves as ``logits, loc, scale_tril, uniform`` move.

    With :math:`f` the density of a coordinate, :math:`w_k` the weights before it and
    :math:`\gamma_k` those after it, a dot for what moves,

    .. math:: \dot x = \dot u / f + \sum_k \gamma_k (\dot m_k + y_k \dot s_k)
       - \sum_k \dot{\log w_k} \, w_k (\Phi(y_k) - u) / f.
    """
    by_weight, by_loc, by_factor, by_uniform = tangents
    steps: list[Tensor] = []
    whitened: list[Tensor] = []  # and how they move
    pulled: list[Tensor] = []
    for d, c in enumerate(conditionals(logits, loc, scale_tril, value)):
        by_mean = by_loc[..., d]
        for j in range(d):
            by_mean = by_mean + by_factor[..., d, j] * whitened[j]
            by_mean = by_mean + scale_tril[..., d, j] * pulled[j]
        by_scale = by_factor[..., d, d]
        at_rest = by_mean + c.whitened * by_scale
        step = (c.log_share.exp() * at_rest - by_weight * moved(c)).sum(-1)
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
        tangents = [torch.zeros_like(t).requires_grad_() for t in like]
        step = _push_forward(*(t.detach() for t in like), *tangents)
    return torch.autograd.grad(step, tangents, gradient)
