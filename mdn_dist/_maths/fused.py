r"""Log densities with gradients in closed form.

:func:`mixture_log_prob` scores points under a mixture's parameters, :func:`stroke_log_prob` scores
stroke points straight from a network's outputs. Both give the numbers of a plain form, which stands
beside them for ``torch.compile``, ``torch.func``, second derivatives and the reader; in eager mode
they are several times faster than autograd through it, since the gradient has a closed form.

In two coordinates the maps of the paper simplify: with :math:`z_i = (x_i - \mu_i) e^{-s_i}`,
:math:`y_1 = z_1` and :math:`y_2 = z_2 \cosh r - z_1 \sinh r` are the whitened coordinates, and
:math:`s_1 + s_2 - \log \cosh r` is the log determinant. Nothing is computed as :math:`1 - \rho^2`.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mdn_dist._maths.floats import at_once, exp_or_zero_, farthest
from mdn_dist._maths.gradients import plain_gradient, silenced
from mdn_dist._maths.maps import saturate, saturate_, sharpen
from mdn_dist._torch import batched, composes, overridable
from mdn_dist.outputs import OutputMap

CHUNK = 6400  # rows of outputs scored at once: enough for two threads, few enough for a cache
STEEP = 40.0  # shift of log scales from which their precisions may be beyond float32


def stroke_log_density(outputs: Tensor, value: Tensor, output_map: OutputMap) -> Tensor:
    """Score points in two coordinates, and a pen, in plain differentiable operations.

    Args:
        outputs: Raw outputs, shape ``(*, size)``.
        value: Points, shape ``(*, event)``.
        output_map: Order and maps of the outputs, with ``event_size`` 2.

    Returns:
        Log densities, shape ``(*)``, in nats.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 18 to 26.

    Example:
        >>> stroke_log_density(torch.zeros(121), torch.zeros(3), OutputMap()).exp()
        tensor(0.0796)
    """
    pen_size, components = output_map.sizes[:2]
    # one split, since a compiler adds up the gradients of several
    pen, logits, loc_1, loc_2, s_1, s_2, r = outputs.split([pen_size] + [components] * 6, -1)
    if output_map.bounds is not None:
        s_1, s_2 = (saturate(s, *output_map.bounds.log_scale) for s in (s_1, s_2))
        r = saturate(r, *output_map.bounds.correlation)
    s_1, s_2 = s_1 + output_map.log_scale_shift, s_2 + output_map.log_scale_shift
    x_1, x_2 = value[..., 0:1], value[..., 1:2]
    grow = r.exp()
    shrink = 1 / grow
    cosh, sinh = (grow + shrink) / 2, (grow - shrink) / 2  # compilers are slow at their own
    z_1, z_2 = _standardized(x_1 - loc_1, s_1), _standardized(x_2 - loc_2, s_2)
    y_2 = z_2 * cosh - z_1 * sinh
    log_weights = sharpen(logits, output_map.logit_factor).log_softmax(-1)
    log_shares = log_weights - s_1 - s_2 + cosh.log() - (z_1.square() + y_2.square()) / 2
    pen_logits = sharpen(pen, output_map.pen_slope)
    pen_score = pen_log_prob(pen_logits, value[..., 2:], output_map.pen == "bernoulli")
    offset_log_prob: Tensor = log_shares.logsumexp(-1) - math.log(2 * math.pi)
    return offset_log_prob + pen_score


def _standardized(difference: Tensor, log_scale: Tensor) -> Tensor:
    """Return differences in units of scales, be they too small for a number of their type."""
    steepest, limit = _steepest(log_scale.dtype), farthest(log_scale.dtype)
    precise = difference * (-log_scale).clamp_max(steepest).exp()
    rest = (-log_scale - steepest).clamp(0, steepest).exp()
    return (precise * rest).clamp(-limit, limit)


def _steepest(dtype: torch.dtype) -> float:
    """Return a number whose exponential is large and finite."""
    return math.floor(math.log(torch.finfo(dtype).max))


def pen_log_prob(logits: Tensor, state: Tensor, is_flag: bool) -> Tensor:
    """Score the value of a pen.

    Args:
        logits: Logit of a flag, shape ``(*, 1)``, or of each state, shape ``(*, 3)``; ``-inf`` puts
            a state out of the question.
        state: Flags or one-hot states, broadcast against `logits`.
        is_flag: Which of the two.

    Returns:
        Log probabilities, shape ``(*)``, in nats.

    Example:
        >>> pen_log_prob(torch.zeros(1), torch.ones(1), is_flag=True).exp()
        tensor(0.5000)
    """
    logits = logits.to(torch.promote_types(logits.dtype, state.dtype))
    if is_flag:
        score: Tensor = (state - 1) * logits + logsigmoid(logits)
        return score.squeeze(-1)
    return torch.where(state == 0, 0.0, state * logits.log_softmax(-1)).sum(-1)


@overridable
def stroke_log_prob(outputs: Tensor, value: Tensor, output_map: OutputMap) -> Tensor:
    """Score like :func:`stroke_log_density`, by the fastest way that the circumstances allow.

    Args:
        outputs: Raw outputs, shape ``(*, size)``; they are not changed.
        value: Points, shape ``(*, event)``, broadcast against the outputs.
        output_map: Order and maps of the outputs, with ``event_size`` 2.

    Returns:
        Log densities, shape ``(*)``, in nats.

    Example:
        >>> stroke_log_prob(torch.zeros(4, 7, 121), torch.zeros(4, 7, 3), OutputMap()).shape
        torch.Size([4, 7])
    """
    if composes(outputs, value):
        return stroke_log_density(outputs, value, output_map)
    shape = torch.broadcast_shapes(outputs.shape[:-1], value.shape[:-1])
    dtype = torch.promote_types(outputs.dtype, value.dtype)
    outputs = outputs.to(dtype).expand(*shape, -1).reshape(-1, output_map.size)
    value = value.to(dtype).expand(*shape, -1).reshape(-1, output_map.point_size)
    log_prob: Tensor = _StrokeLogProb.apply(outputs, value, output_map)  # type: ignore[no-untyped-call]
    return log_prob.reshape(shape)


class _StrokeLogProb(torch.autograd.Function):
    """The log density of rows of outputs ``(N, size)`` at values ``(N, event)``."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, value: Tensor, output_map: OutputMap) -> Tensor:
        log_prob = outputs.new_empty(len(outputs))
        gradient = torch.empty_like(outputs) if any(ctx.needs_input_grad) else None
        chunk = at_once(CHUNK, outputs)
        work = outputs.new_empty(6, min(chunk, len(outputs)), output_map.components)
        for start in range(0, len(outputs), chunk):
            rows = slice(start, start + chunk)
            rows_gradient = None if gradient is None else gradient[rows]
            planes = work[:, : len(outputs[rows])]
            log_prob[rows] = _score_rows(
                outputs[rows], value[rows], output_map, planes, rows_gradient
            )
        ctx.output_map = output_map
        ctx.save_for_backward(outputs, value, gradient)
        return log_prob

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        weight = weights[0]
        outputs, value, gradient = ctx.saved_tensors
        if torch.is_grad_enabled() or batched(weight):
            density = partial(stroke_log_density, output_map=ctx.output_map)
            return (*plain_gradient(density, (outputs, value), weight), None)
        gradient = gradient * weight.unsqueeze(-1)
        by_value = None
        if ctx.needs_input_grad[1]:
            _, _, by_loc, *_ = gradient.split(ctx.output_map.sizes, -1)
            logits = ctx.output_map.pen_logits(outputs)
            by_state = logits
            if logits.shape[-1] > 1:
                by_state = torch.where(value[:, 2:] == 0, 0.0, logits.log_softmax(-1))
            by_offset = -by_loc.unflatten(-1, (2, -1)).sum(-1)
            by_value = torch.cat([by_offset, by_state * weight.unsqueeze(-1)], -1)
        return (*silenced(weight == 0, gradient, by_value), None)


def _score_rows(
    outputs: Tensor,
    value: Tensor,
    output_map: OutputMap,
    planes: Tensor,
    gradient: Tensor | None,
) -> Tensor:
    """Return the log density ``(n)`` of a few rows, and write its gradient where one is wanted.

    Works in place on `planes`, ``(6, n, K)``, room for the mixture's outputs and then for their
    gradient: rows are read once and written once, since steps of K elements are slow. The
    derivatives are those of equations 27 to 37 of the paper, in whitened coordinates.
    """
    pen_size, components = output_map.sizes[0], output_map.components
    planes.copy_(_as_planes(outputs, pen_size, components))
    logits, z, s, r = planes.split([1, 2, 2, 1])
    slope_s = slope_r = None
    if output_map.bounds is not None:
        slope_s = saturate_(s, *output_map.bounds.log_scale)
        slope_r = saturate_(r, *output_map.bounds.correlation)
    if output_map.logit_factor != 1:
        logits.copy_(sharpen(logits, output_map.logit_factor))
    log_weight = logits[0].log_softmax(-1)
    if output_map.log_scale_shift:
        s += output_map.log_scale_shift
    steepest, limit = _steepest(s.dtype), farthest(s.dtype)
    precision = s.neg().clamp_max_(steepest).exp_()
    torch.sub(value[:, :2].T.unsqueeze(-1), z, out=z).mul_(precision)
    if output_map.log_scale_shift < -STEEP:
        z *= (-steepest - s).clamp_(0, steepest).exp_()
    z.clamp_(-limit, limit)
    grow = r[0].exp()
    shrink = grow.reciprocal()
    cosh, sinh = (grow + shrink).mul_(0.5), grow.sub_(shrink).mul_(0.5)
    y_2 = (z[1] * cosh).addcmul_(z[0], sinh, value=-1)
    share = z[0].square().addcmul_(y_2, y_2).mul_(-0.5).add_(log_weight)
    share.sub_(s[0]).sub_(s[1]).add_(cosh.log())
    highest = share.amax(-1, keepdim=True).clamp_min_(torch.finfo(share.dtype).min)
    exp_or_zero_(share.sub_(highest))
    total = share.sum(-1, keepdim=True)
    pen_logits, state = output_map.pen_logits(outputs), value[:, 2:]
    log_prob: Tensor = (highest + total.log()).squeeze(-1) - math.log(2 * math.pi)
    log_prob += pen_log_prob(pen_logits, state, output_map.pen == "bernoulli")
    if gradient is None:
        return log_prob
    responsibility = share.div_(total.clamp_min_(torch.finfo(total.dtype).tiny))
    torch.sub(responsibility, log_weight.exp_(), out=logits[0])
    if output_map.logit_factor != 1:
        logits *= output_map.logit_factor
    pull = torch.empty_like(z)
    torch.addcmul(z[0], y_2, sinh, value=-1, out=pull[0])
    torch.mul(y_2, cosh, out=pull[1])
    pull *= responsibility
    tanh = sinh.div_(cosh)
    turn = (z[1] * tanh).sub_(z[0]).mul_(pull[1])  # y_2 times dy_2 / dr
    torch.mul(tanh, responsibility, out=r[0]).sub_(turn)
    torch.mul(pull, z, out=s).sub_(responsibility)
    torch.mul(pull, precision, out=z)
    if slope_s is not None:
        s *= slope_s
    if slope_r is not None:
        r *= slope_r
    _as_planes(gradient, pen_size, components).copy_(planes)
    pen_mean = pen_logits.sigmoid() if pen_size == 1 else pen_logits.softmax(-1)
    gradient[:, :pen_size] = (state - pen_mean) * output_map.pen_slope
    return log_prob


def _as_planes(rows: Tensor, pen_size: int, components: int) -> Tensor:
    """View rows of outputs as weights, two means, two scales and a correlation, ``(6, n, K)``."""
    blocks: Tensor = rows[:, pen_size:].unflatten(-1, (6, components))
    return blocks.transpose(0, 1)
