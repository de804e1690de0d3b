r"""Score and draw points straight from rows of raw outputs, which need no parameters for it.

The gradient has a closed form, several times faster than autograd through the plain form, which
stands beside it for ``torch.compile``, ``torch.func``, second derivatives and the reader.

Two coordinates with a correlation simplify: with :math:`z_i = (x_i - \mu_i) e^{-s_i}`,
:math:`y_1 = z_1` and :math:`y_2 = z_2 \cosh r - z_1 \sinh r` are the whitened coordinates, and
:math:`s_1 + s_2 - \log \cosh r` is the log determinant. Nothing is computed as :math:`1 - \rho^2`.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Size, Tensor

from mdn_dist._maths.draw import draw_index, normal_like
from mdn_dist._maths.floats import at_once, exp_or_zero_, farthest
from mdn_dist._maths.gradients import plain_gradient, silenced
from mdn_dist._maths.growth import hold_growth
from mdn_dist._maths.maps import saturate_, sharpen
from mdn_dist._torch import batched, composes, overridable
from mdn_dist.outputs import OutputMap

CHUNK = 768_000  # outputs dealt with at once: enough for two threads, few enough for a cache
STEEP = 40.0  # shift of log scales from which their precisions may be beyond float32


def is_fused(output_map: OutputMap) -> bool:
    """Tell whether rows are scored here: not where three coordinates or more are correlated."""
    return output_map.covariance != "full" or output_map.event_size <= 2


def row_log_density(outputs: Tensor, value: Tensor, output_map: OutputMap) -> Tensor:
    """Score points ``(*, D)`` from rows ``(*, size)`` in plain differentiable operations.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 19 to 26.

    Example:
        >>> row_log_density(torch.zeros(120), torch.zeros(2), OutputMap()).exp()
        tensor(0.1592)
    """
    size = output_map.event_size
    logits, loc, log_scale, correlation = output_map.maps(outputs)
    precision, rest = _precision(log_scale, output_map)
    limit = farthest(log_scale.dtype)
    z = ((value.unsqueeze(-1) - loc) * precision * rest).clamp(-limit, limit)  # (*, D, K)
    log_volume = log_scale.sum(-2) * (size // log_scale.shape[-2])
    distance = z.square().sum(-2)
    if output_map.sizes[3]:
        r, z_1, z_2 = correlation.squeeze(-2), z[..., 0, :], z[..., 1, :]
        grow = r.exp()
        shrink = 1 / grow
        cosh, sinh = (grow + shrink) / 2, (grow - shrink) / 2  # compilers are slow at their own
        distance = z_1.square() + (z_2 * cosh - z_1 * sinh).square()
        log_volume = log_volume - cosh.log()
    log_share = logits.log_softmax(-1) - log_volume - distance / 2
    log_density: Tensor = log_share.logsumexp(-1) - size / 2 * math.log(2 * math.pi)
    return log_density


def _precision(log_scale: Tensor, output_map: OutputMap) -> tuple[Tensor, Tensor | float]:
    """Return two factors of the precisions, be they too large for a number of their type."""
    if output_map.bounds is not None and abs(output_map.log_scale_shift) < STEEP:
        return (-log_scale).exp(), 1.0
    steepest = _steepest(log_scale.dtype)
    rest = (-log_scale - steepest).clamp(0, steepest).exp()
    return (-log_scale).clamp_max(steepest).exp(), rest


def _steepest(dtype: torch.dtype) -> float:
    """Return a number whose exponential is large and finite."""
    return math.floor(math.log(torch.finfo(dtype).max))


@overridable
def row_log_prob(
    outputs: Tensor, value: Tensor, mask: Tensor | None, output_map: OutputMap
) -> Tensor:
    """Score like :func:`row_log_density`, by the fastest way that the circumstances allow.

    Where `mask`, of the shape of the result, is False, the score is 0 and no gradient is sent back.
    """
    if composes(outputs, value):
        if mask is None:
            return row_log_density(outputs, value, output_map)
        outputs = torch.where(mask.unsqueeze(-1), outputs, 0.0)
        return torch.where(mask, row_log_density(outputs, value, output_map), 0.0)
    shape = torch.broadcast_shapes(outputs.shape[:-1], value.shape[:-1])
    dtype = torch.promote_types(outputs.dtype, value.dtype)
    outputs = outputs.to(dtype).expand(*shape, -1).reshape(-1, output_map.size)
    value = value.to(dtype).expand(*shape, -1).reshape(-1, output_map.event_size)
    left_out = None if mask is None else ~mask.reshape(-1)
    log_prob: Tensor = _RowLogProb.apply(outputs, value, left_out, output_map)  # type: ignore[no-untyped-call]
    return log_prob.reshape(shape)


class _RowLogProb(torch.autograd.Function):
    """The log density of rows of outputs ``(N, size)`` at values ``(N, D)``."""

    @staticmethod
    def forward(
        ctx: Any, outputs: Tensor, value: Tensor, left_out: Tensor | None, output_map: OutputMap
    ) -> Tensor:
        log_prob = outputs.new_empty(len(outputs))
        gradient = outputs.new_empty(outputs.shape) if any(ctx.needs_input_grad) else None
        chunk = at_once(max(64, CHUNK // output_map.size), outputs)
        k = output_map.components
        work = outputs.new_empty(output_map.size // k, min(chunk, len(outputs)), k)
        for start in range(0, len(outputs), chunk):
            rows = slice(start, start + chunk)
            planes = work[:, : len(outputs[rows])].copy_(_as_planes(outputs[rows], k))
            if left_out is not None:
                planes.masked_fill_(left_out[rows].unsqueeze(-1), 0.0)
            into = None if gradient is None else _as_planes(gradient[rows], k)
            log_prob[rows] = _score_planes(planes, value[rows], output_map, into)
        if left_out is not None:
            log_prob.masked_fill_(left_out, 0.0)
        ctx.output_map = output_map
        ctx.save_for_backward(outputs, value, left_out, gradient)
        return log_prob

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        weight, output_map = weights[0], ctx.output_map
        outputs, value, left_out, gradient = ctx.saved_tensors
        idle = weight == 0
        if left_out is not None:
            idle = idle & ~left_out  # whose gradients are finite
            weight = weight.masked_fill(left_out, 0.0)
        if torch.is_grad_enabled() or batched(weight):
            if left_out is not None:
                outputs = outputs.masked_fill(left_out.unsqueeze(-1), 0.0)
            density = partial(row_log_density, output_map=output_map)
            return (*plain_gradient(density, (outputs, value), weight), None, None)
        gradient = gradient * weight.unsqueeze(-1)
        by_value = None
        if ctx.needs_input_grad[1]:
            by_value = -output_map.split(gradient).loc.sum(-1)
        return (*silenced(idle, gradient, by_value), None, None)


def _score_planes(
    planes: Tensor, value: Tensor, output_map: OutputMap, gradient: Tensor | None
) -> Tensor:
    """Return the log density ``(n)`` of a few rows, and write its gradient where one is wanted.

    Works in place on `planes`, ``(size / K, n, K)``: rows are read once and written once, since
    steps of K elements are slow. The derivatives are those of equations 27 to 37 of the paper, in
    whitened coordinates.
    """
    size, blocks = output_map.event_size, [n // output_map.components for n in output_map.sizes]
    logits, z, s, r = planes.split(blocks)
    slope_s = slope_r = None
    if output_map.bounds is not None:
        slope_s = saturate_(s, *output_map.bounds.log_scale)
        slope_r = saturate_(r, *output_map.bounds.correlation)
    if output_map.logit_factor != 1:
        logits.copy_(sharpen(logits, output_map.logit_factor))
    log_weight = logits[0].log_softmax(-1)
    if output_map.log_scale_shift:
        s += output_map.log_scale_shift
    precision, rest = _precision(s, output_map)
    torch.sub(value.T.unsqueeze(-1), z, out=z).mul_(precision)
    if isinstance(rest, Tensor):
        z *= rest
    limit = farthest(s.dtype)
    z.clamp_(-limit, limit)
    share = torch.sub(log_weight, s.sum(0), alpha=size // len(s))
    distance = z.square()
    if len(r):
        grow = r[0].exp()
        shrink = grow.reciprocal()
        cosh, sinh = (grow + shrink).mul_(0.5), grow.sub_(shrink).mul_(0.5)
        y_2 = (z[1] * cosh).addcmul_(z[0], sinh, value=-1)
        torch.square(y_2, out=distance[1])
        share += cosh.log()
    share.sub_(distance.sum(0), alpha=0.5)
    highest = share.amax(-1, keepdim=True).clamp_min_(torch.finfo(share.dtype).min)
    exp_or_zero_(share.sub_(highest))
    total = share.sum(-1, keepdim=True)
    log_prob: Tensor = (highest + total.log()).squeeze(-1) - size / 2 * math.log(2 * math.pi)
    if gradient is None:
        return log_prob
    responsibility = share.div_(total.clamp_min_(torch.finfo(total.dtype).tiny))
    torch.sub(responsibility, log_weight.exp_(), out=logits[0])
    if output_map.logit_factor != 1:
        logits *= output_map.logit_factor
    pull = distance  # room for it
    if len(r):
        torch.addcmul(z[0], y_2, sinh, value=-1, out=pull[0])
        torch.mul(y_2, cosh, out=pull[1])
        pull *= responsibility
        tanh = sinh.div_(cosh)
        turn = (z[1] * tanh).sub_(z[0]).mul_(pull[1])  # y_2 times dy_2 / dr
        torch.mul(tanh, responsibility, out=r[0]).sub_(turn)
    else:
        torch.mul(z, responsibility, out=pull)
    if len(s) == size:
        torch.mul(pull, z, out=s).sub_(responsibility)
    else:
        torch.sum(pull * z, 0, keepdim=True, out=s).sub_(responsibility, alpha=size)
    torch.mul(pull, precision, out=z)
    if slope_s is not None:
        s *= slope_s
    if slope_r is not None:
        r *= slope_r
    gradient.copy_(planes)
    return log_prob


def _as_planes(rows: Tensor, components: int) -> Tensor:
    """View rows ``(n, size)`` as planes ``(size / K, n, K)``."""
    planes: Tensor = rows.unflatten(-1, (-1, components))
    return planes.transpose(0, 1)


def draw_rows(
    outputs: Tensor,
    output_map: OutputMap,
    sample_shape: Size,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw points ``(sample_shape, *, D)`` from rows ``(*, size)``, a component's alone for each.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 19 to 24.

    Example:
        >>> draw_rows(torch.zeros(4, 7, 120), OutputMap(), torch.Size([5])).shape
        torch.Size([5, 4, 7, 2])
    """
    components, size = output_map.components, output_map.event_size
    weights, *rest = output_map.sizes
    if sample_shape:
        outputs = outputs.expand(*sample_shape, *outputs.shape)
    logits, others = outputs.split_with_sizes([weights, sum(rest)], -1)
    if output_map.logit_factor != 1:
        logits = sharpen(logits, output_map.logit_factor)
    blocks = torch.arange(0, sum(rest), components, device=outputs.device)
    drawn = others.gather(-1, draw_index(logits, generator) + blocks)
    loc, log_scale, correlation = drawn.split_with_sizes([n // components for n in rest], -1)
    if output_map.bounds is not None:
        saturate_(log_scale, *output_map.bounds.log_scale)
        if rest[2]:
            saturate_(correlation, *output_map.bounds.correlation)
            if size > 2:
                correlation = hold_growth(correlation.unsqueeze(-1), size).squeeze(-1)
    noise = normal_like(loc, generator)
    if rest[2]:
        _correlate_(noise, correlation)
    if output_map.log_scale_shift:
        log_scale += output_map.log_scale_shift
    return loc.addcmul_(log_scale.exp_(), noise)


def _correlate_(noise: Tensor, correlation: Tensor) -> None:
    """Multiply white noise ``(*, D)`` by the rows of ``scale_tril_from_maps`` at unit scale."""
    columns = noise.split(1, -1)
    if len(columns) == 2:  # sums cost as much as all the rest when there are few points
        columns[1].div_(correlation.cosh()).addcmul_(correlation.tanh_(), columns[0])
        return
    slope = correlation.sinh_()
    for i in range(len(columns) - 1, 0, -1):  # backwards, since row i needs the noise before it
        row = slope[..., i * (i - 1) // 2 : i * (i + 1) // 2]
        # no dot products: autocast would run them in half precision
        along, length = (x.sum(-1, keepdim=True) for x in (row * noise[..., :i], row.square()))
        columns[i].add_(along).mul_(length.add_(1).rsqrt_())
