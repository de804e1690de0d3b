"""Log densities of a mixture by its parameters, with gradients in closed form."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Size, Tensor

from mdn_dist._maths.floats import at_once, exp_or_zero_, farthest
from mdn_dist._maths.gradients import plain_gradient, silenced
from mdn_dist._torch import batched, composes, overridable, static_size

# As measured on CPUs: up to SMALL coordinates substitution is faster than a library's solver. Where
# points have parameters of their own, these are copied for it, which one coordinate is not worth.
SMALL = 8
CHUNK = 1 << 18  # components of points worked on at once: enough to outweigh the calls
OWN_CHUNK = 1 << 16  # of points with parameters of their own: few enough for a cache
Gradients = tuple[Tensor | None, ...]


def whiten(loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    """Express `value` in each component's standard coordinates ``L^-1 (x - mu)``, ``(*, K, D)``.

    Example:
        >>> whiten(torch.zeros(1, 2), 2 * torch.eye(2).expand(1, 2, 2), torch.tensor([4.0, 6.0]))
        tensor([[2., 3.]])
    """
    return substitute(scale_tril, value.unsqueeze(-2) - loc)


def substitute(scale_tril: Tensor, right: Tensor) -> Tensor:
    """Return ``L^-1 right`` for `right` of shape ``(*, K, D)``."""
    limit = farthest(right.dtype)
    found: list[Tensor] = []
    for b, row in zip(right.unbind(-1), scale_tril.unbind(-2), strict=True):
        *left, diagonal = row.unbind(-1)[: len(found) + 1]
        known = sum(factor * y for factor, y in zip(left, found, strict=True))
        found.append(((b - known) / diagonal).clamp(-limit, limit))
    return torch.stack(found, -1)


def posterior(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, whitened: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Return log responsibilities ``(*, K)`` and the log density ``(*)``, precise however far.

    Squared distances of millions would swallow the differences that responsibilities are made of.
    So they are taken relative to the likeliest component :math:`r`: with
    :math:`L_k (y_k - y_r) = \mu_r - \mu_k + (L_r - L_k) y_r`, no large numbers are subtracted.

    Example:
        >>> logits, loc = torch.tensor([0.7, 0.3]).log(), torch.zeros(2, 1)
        >>> far = whiten(loc, torch.ones(2, 1, 1), torch.tensor([1e6]))
        >>> posterior(logits, loc, torch.ones(2, 1, 1), far)[0].exp()
        tensor([0.7000, 0.3000])
    """
    log_weight = logits.log_softmax(-1) - scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    likeliest = (log_weight - whitened.square().sum(-1) / 2).argmax(-1)[..., None, None]
    row = likeliest.expand_as(whitened[..., :1, :])
    nearest = whitened.gather(-2, row)  # (*, 1, D)
    centre = loc.expand_as(whitened).gather(-2, row)
    factors = scale_tril.expand(*whitened.shape, -1)
    factor = factors.gather(-3, likeliest.unsqueeze(-1).expand_as(factors[..., :1, :, :]))
    bent = ((factor - scale_tril) * nearest.unsqueeze(-2)).sum(-1)
    apart = substitute(scale_tril, centre - loc + bent)
    share = log_weight - (apart * (apart + 2 * nearest)).sum(-1) / 2
    constant = static_size(loc.shape[-1]) / 2 * math.log(2 * math.pi)
    log_density = share.logsumexp(-1) - nearest.square().sum((-2, -1)) / 2 - constant
    return share.log_softmax(-1), log_density


def component_log_density(logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    r"""Log of each component's share of the density, :math:`\log \pi_k N(x; \mu_k, L_k L_k^T)`."""
    whitened = whiten(loc, scale_tril, value)
    log_determinant = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = static_size(loc.shape[-1]) / 2 * math.log(2 * math.pi)
    distance = whitened.square().sum(-1) / 2
    return logits.log_softmax(-1) - log_determinant - distance - constant  # (*, K)


def mixture_log_density(logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    """Score points under a mixture in plain differentiable operations."""
    return component_log_density(logits, loc, scale_tril, value).logsumexp(-1)  # (*)


@overridable
def mixture_log_prob(logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    """Score like :func:`mixture_log_density`, by the fastest way that the circumstances allow.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 27 to 31, for any number of coordinates.
    """
    parameters = logits, loc, scale_tril
    if composes(*parameters, value):
        return mixture_log_density(*parameters, value)
    shape = torch.broadcast_shapes(logits.shape[:-1], value.shape[:-1])
    dtype = torch.promote_types(logits.dtype, value.dtype)
    batches = [p.shape[:-n] for n, p in enumerate(parameters, 1)]
    shared = shape.numel() != 1 and all(map(_repeats, parameters, batches))
    rows = [
        (p[(0,) * len(batch)].unsqueeze(0) if shared else _flat(p, batch, shape)).to(dtype)
        for p, batch in zip(parameters, batches, strict=True)
    ]
    points = _flat(value.to(dtype), value.shape[:-1], shape)
    way = _ByPlanes if shared or 1 < points.shape[-1] <= SMALL else _ByRows
    log_prob: Tensor = way.apply(*rows, points)  # type: ignore[no-untyped-call]
    return log_prob.reshape(shape)


def _repeats(parameter: Tensor, batch: Size) -> bool:
    """Tell whether a parameter is the same all over its batch, and its gradient that of one."""
    # What is expanded has a gradient of its whole shape, where anyone may look at it.
    constant = not (parameter.requires_grad and torch.is_grad_enabled())
    sizes = zip(batch, parameter.stride(), strict=False)
    return all(size == 1 or (constant and stride == 0 != size) for size, stride in sizes)


def _flat(tensor: Tensor, batch: Size, shape: Size) -> Tensor:
    """Return a tensor of `batch`, expanded to `shape`, with one dimension for all of that."""
    event = tensor.shape[len(batch) :]
    return tensor.expand(*shape, *event).reshape(shape.numel(), *event)


class _ByPlanes(torch.autograd.Function):
    """The log density ``(N)`` at points ``(N, D)``, which come last, for steps over long rows.

    Parameters have a first dimension of N, or of 1 where all points share them.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
        (components, size), log_prob = loc.shape[1:], value.new_empty(len(value))
        kept, chunks = any(ctx.needs_input_grad), _chunks(loc, value)
        room = len(value) if kept else max((rows.stop - rows.start for rows in chunks), default=0)
        whitened = value.new_empty(components, size, room)
        responsibility = value.new_empty(components, room)
        for rows in chunks:
            place = rows if kept else slice(rows.stop - rows.start)
            factor, mean = _points_last(scale_tril, rows), _points_last(loc, rows)
            y = torch.sub(_points_last(value, rows), mean, out=whitened[..., place])
            _solve_(factor, y)
            log_determinant = factor.diagonal(dim1=1, dim2=2).log().sum(-1)
            log_weight = _points_last(logits, rows).log_softmax(0)
            share = responsibility[:, place].copy_(log_weight - log_determinant)
            for coordinate in y.unbind(1):
                share.addcmul_(coordinate, coordinate, value=-0.5)
            highest = share.amax(0).clamp_min_(torch.finfo(share.dtype).min)
            total = exp_or_zero_(share.sub_(highest)).sum(0)
            torch.add(highest, total.log(), out=log_prob[rows])
            share.div_(total.clamp_min_(torch.finfo(total.dtype).tiny))
        if kept:
            ctx.save_for_backward(logits, loc, scale_tril, value, responsibility, whitened)
        return log_prob.sub_(size / 2 * math.log(2 * math.pi))

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> Gradients:
        saved, weight = ctx.saved_tensors, weights[0]
        if torch.is_grad_enabled() or batched(weight):
            return plain_gradient(mixture_log_density, saved[:4], weight)
        gradient = _own_gradient if len(saved[0]) == len(weight) else _shared_gradient
        return gradient(saved, weight, ctx.needs_input_grad)


def _own_gradient(saved: Sequence[Tensor], weight: Tensor, wanted: Sequence[bool]) -> Gradients:
    """Return the gradients where each point has parameters of its own."""
    logits, loc, scale_tril, value, responsibility, whitened = saved
    found = [torch.empty_like(x.flatten(1)) for x in saved[:4]]
    for rows in _chunks(loc, value):
        factor, y = _points_last(scale_tril, rows), whitened[..., rows]
        share = responsibility[:, rows] * weight[rows]
        pull = y * share.unsqueeze(1)
        _solve_transposed_(factor, pull)
        by_factor = torch.zeros_like(factor)  # (K, D, D, n)
        if wanted[2]:
            for i in range(y.shape[1]):
                torch.mul(pull[:, i : i + 1], y[:, : i + 1], out=by_factor[:, i, : i + 1])
            slope = share.unsqueeze(-1) / factor.diagonal(dim1=1, dim2=2)  # (K, n, D)
            by_factor.diagonal(dim1=1, dim2=2).sub_(slope)
        share.addcmul_(_points_last(logits, rows).softmax(0), weight[rows], value=-1)
        for gradient, planes in zip(found, (share, pull, by_factor, -pull.sum(0)), strict=True):
            gradient[rows] = planes.flatten(0, -2).T  # a copy of two dimensions, which is fast
    return silenced(weight == 0, *(g.view_as(x) for g, x in zip(found, saved, strict=False)))


def _shared_gradient(saved: Sequence[Tensor], weight: Tensor, wanted: Sequence[bool]) -> Gradients:
    r"""Return the gradients where all points share the parameters.

    Those by the means and factors are :math:`L^{-T} \sum_n r_n y_n` and
    :math:`L^{-T} \sum_n r_n y_n y_n^T`: the moments are solved for once.
    """
    logits, loc, scale_tril, value, responsibility, whitened = saved
    factor, idle = _points_last(scale_tril, slice(None)), weight == 0
    by_value, count = torch.zeros_like(value), torch.zeros_like(logits[0])
    moments = loc.new_zeros(*loc.shape[1:], 1 + loc.shape[2])  # (K, D, 1 + D)
    for rows in _chunks(loc, value):
        y, share = whitened[..., rows], responsibility[:, rows] * weight[rows]
        if not idle.is_cpu or idle[rows].any():
            y, share = (x.masked_fill(idle[rows], 0.0) for x in (y, share))
        pull = y * share.unsqueeze(1)
        count += share.sum(-1)
        moments[..., 0] += pull.sum(-1)
        moments[..., 1:].baddbmm_(pull, y.mT)  # in place, which autocast leaves alone
        if wanted[3]:
            _solve_transposed_(factor, pull)
            by_value[rows] = -pull.sum(0).T
    _solve_transposed_(factor, moments)
    by_scale_tril, diagonal = moments[..., 1:].tril(), scale_tril[0].diagonal(dim1=1, dim2=2)
    by_scale_tril.diagonal(dim1=1, dim2=2).sub_(count.unsqueeze(-1) / diagonal)
    by_logits = count - logits[0].softmax(-1) * weight.sum()
    found = (g.unsqueeze(0) for g in (by_logits, moments[..., 0], by_scale_tril))
    return *silenced(idle.all().unsqueeze(0), *found), *silenced(idle, by_value)


def _chunks(loc: Tensor, value: Tensor) -> list[slice]:
    """Return the rows of `value` that are worked on one after the other."""
    chunk = CHUNK if len(loc) == 1 else OWN_CHUNK
    count, step = len(value), max(1, at_once(chunk, loc) // loc.shape[1])
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _points_last(tensor: Tensor, rows: slice) -> Tensor:
    """Return ``(..., n)`` of some rows of ``(N, ...)``; ``(..., 1)`` of a single one."""
    part = tensor if len(tensor) == 1 else tensor[rows]
    return part.flatten(1).T.contiguous().view(*part.shape[1:], -1)


def _solve_(scale_tril: Tensor, right: Tensor) -> None:
    """Overwrite `right` ``(K, D, n)`` with ``L^-1 right``, for ``L`` of ``(K, D, D, n or 1)``."""
    if right.shape[1] > SMALL:
        right.copy_(_solve(scale_tril.squeeze(-1), right))
        return
    limit = farthest(right.dtype)
    for j in range(right.shape[1]):
        if j > 0:
            right[:, j:].addcmul_(scale_tril[:, j:, j - 1], right[:, j - 1 : j], value=-1)
        right[:, j].div_(scale_tril[:, j, j]).clamp_(-limit, limit)


def _solve_transposed_(scale_tril: Tensor, right: Tensor) -> None:
    """Overwrite `right` with ``L^-T right``, likewise."""
    if right.shape[1] > SMALL:
        right.copy_(_triangular(scale_tril.squeeze(-1).mT, right, upper=True))
        return
    for j in reversed(range(right.shape[1])):
        right[:, j].div_(scale_tril[:, j, j])
        if j > 0:
            right[:, :j].addcmul_(scale_tril[:, j, :j], right[:, j : j + 1], value=-1)


class _ByRows(torch.autograd.Function):
    """The same where each point has parameters of its own, by a library's triangular solver."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
        log_determinant = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        whitened = _solve(scale_tril, (value.unsqueeze(-2) - loc).unsqueeze(-1)).squeeze(-1)
        share = logits.log_softmax(-1) - log_determinant - whitened.square().sum(-1) / 2  # (N, K)
        total = share.logsumexp(-1, keepdim=True)
        if any(ctx.needs_input_grad):
            responsibility = exp_or_zero_(share.sub_(total.clamp_min(torch.finfo(total.dtype).min)))
            ctx.save_for_backward(logits, loc, scale_tril, value, responsibility, whitened)
        return total.squeeze(-1) - loc.shape[-1] / 2 * math.log(2 * math.pi)

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> Gradients:
        *inputs, responsibility, whitened = ctx.saved_tensors
        if torch.is_grad_enabled() or batched(weights[0]):
            return plain_gradient(mixture_log_density, inputs, weights[0])
        logits, _, scale_tril, _ = inputs
        weight = weights[0].unsqueeze(-1)  # (N, 1)
        share = responsibility * weight
        by_logits = share - logits.softmax(-1) * weight
        right = (whitened * share.unsqueeze(-1)).unsqueeze(-1)
        by_loc = _triangular(scale_tril.mT, right, upper=True).squeeze(-1)
        by_scale_tril = None
        if ctx.needs_input_grad[2]:
            by_scale_tril = by_loc.unsqueeze(-1) * whitened.unsqueeze(-2)
            if by_scale_tril.shape[-1] > 1:  # else a matter of time
                by_scale_tril.tril_()
            diagonal = scale_tril.diagonal(dim1=-2, dim2=-1)
            by_scale_tril.diagonal(dim1=-2, dim2=-1).sub_(share.unsqueeze(-1) / diagonal)
        return silenced(weights[0] == 0, by_logits, by_loc, by_scale_tril, -by_loc.sum(-2))


def _solve(scale_tril: Tensor, right: Tensor) -> Tensor:
    """Return ``L^-1 right`` for `right` ``(*, D, n)``; points too far end as :func:`farthest`."""
    solution = _triangular(scale_tril, right, upper=False)
    if solution.is_cpu and solution.sum().isfinite():
        return solution
    limit, sound = farthest(right.dtype), scale_tril.isfinite().flatten(-2).all(-1)
    sound = sound[..., None, None] & right.isfinite().all(-2, keepdim=True)
    return torch.where(sound, solution.nan_to_num(limit, limit, -limit), solution)


def _triangular(factor: Tensor, right: Tensor, *, upper: bool) -> Tensor:
    """Return ``factor^-1 right``, likewise, by a library."""
    if right.shape[-2] == 1:
        return right / factor
    room = torch.empty_like(right, memory_format=torch.contiguous_format)  # it copies less so
    torch.linalg.solve_triangular(factor, right, upper=upper, out=room)
    return room
