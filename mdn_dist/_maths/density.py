"""Log densities of a mixture by its parameters, with gradients in closed form."""

import math
from typing import Any

import torch
from torch import Tensor

from mdn_dist._maths.floats import exp_or_zero_, farthest
from mdn_dist._maths.gradients import plain_gradient, silenced
from mdn_dist._torch import batched, composes, overridable, static_size

SMALL = 8  # coordinates up to which substitution by columns beats a batched triangular solver


def whiten(loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    r"""Express `value` in every component's own standard coordinates.

    Solves :math:`L_k y_k = x - \mu_k` by forward substitution, a coordinate at a time.

    Args:
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.
        value: Points, shape ``(*, D)``.

    Returns:
        Whitened coordinates, shape ``(*, K, D)``, as far as :func:`farthest` from 0.

    Example:
        >>> whiten(torch.zeros(1, 2), 2 * torch.eye(2).expand(1, 2, 2), torch.tensor([4.0, 6.0]))
        tensor([[2., 3.]])
    """
    return _substitute(scale_tril, value.unsqueeze(-2) - loc)


def _substitute(scale_tril: Tensor, right: Tensor) -> Tensor:
    """Return ``L^-1 right`` for `right` of shape ``(*, K, D)``."""
    limit = farthest(right.dtype)
    rows: list[Tensor] = []
    for i in range(right.shape[-1]):
        known = sum(scale_tril[..., i, j] * rows[j] for j in range(i))
        rows.append(((right[..., i] - known) / scale_tril[..., i, i]).clamp(-limit, limit))
    return torch.stack(rows, -1)


def posterior(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, whitened: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Return what a point tells about the components, precise however far away it is.

    Squared distances of millions would swallow the differences that responsibilities are made of.
    So they are taken relative to the likeliest component :math:`r`: with
    :math:`L_k (y_k - y_r) = \mu_r - \mu_k + (L_r - L_k) y_r`, no large numbers are subtracted.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``.
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.
        whitened: The point by every component, from :func:`whiten`, shape ``(*, K, D)``.

    Returns:
        Log responsibilities ``(*, K)``, which are normalised, and the log density ``(*)``.

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
    apart = _substitute(scale_tril, centre - loc + bent)
    share = log_weight - (apart * (apart + 2 * nearest)).sum(-1) / 2
    constant = static_size(loc.shape[-1]) / 2 * math.log(2 * math.pi)
    log_density = share.logsumexp(-1) - nearest.square().sum((-2, -1)) / 2 - constant
    return share.log_softmax(-1), log_density


def component_log_density(logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    r"""Log of each component's share of the density, :math:`\log \pi_k N(x; \mu_k, L_k L_k^T)`.

    Its ``logsumexp`` over the components is the mixture's log density, its ``softmax`` the
    responsibilities.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``.
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.
        value: Points, shape ``(*, D)``.

    Returns:
        Log shares, shape ``(*, K)``, in nats.

    Example:
        >>> share = component_log_density(
        ...     torch.zeros(1), torch.zeros(1, 2), torch.eye(2).unsqueeze(0), torch.zeros(2)
        ... )
        >>> share.exp()
        tensor([0.1592])
    """
    whitened = whiten(loc, scale_tril, value)
    log_determinant = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = static_size(loc.shape[-1]) / 2 * math.log(2 * math.pi)
    distance = whitened.square().sum(-1) / 2
    return logits.log_softmax(-1) - log_determinant - distance - constant


def mixture_log_density(logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    """Score points under a mixture in plain differentiable operations.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``.
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.
        value: Points, shape ``(*, D)``.

    Returns:
        Log densities, shape ``(*)``, in nats.

    Example:
        >>> one = torch.ones(1, 1, 1)
        >>> mixture_log_density(torch.zeros(1), torch.zeros(1, 1), one, torch.zeros(1)).exp()
        tensor(0.3989)
    """
    return component_log_density(logits, loc, scale_tril, value).logsumexp(-1)


@overridable
def mixture_log_prob(logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    """Score like :func:`mixture_log_density`, by the fastest way that the circumstances allow.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``.
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.
        value: Points, shape ``(*, D)``.

    Returns:
        Log densities, shape ``(*)``, in nats.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 27 to 31, for any number of coordinates.

    Example:
        >>> one = torch.ones(1, 1, 1)
        >>> mixture_log_prob(torch.zeros(1), torch.zeros(1, 1), one, torch.zeros(7, 1)).shape
        torch.Size([7])
    """
    if composes(logits, loc, scale_tril, value):
        return mixture_log_density(logits, loc, scale_tril, value)
    shape = torch.broadcast_shapes(logits.shape[:-1], value.shape[:-1])
    dtype = torch.promote_types(logits.dtype, value.dtype)
    tensors = (
        logits.expand(*shape, -1),
        loc.expand(*shape, -1, -1),
        scale_tril.expand(*shape, -1, -1, -1),
        value.expand(*shape, -1),
    )
    return _MixtureLogProb.apply(*(tensor.to(dtype) for tensor in tensors))  # type: ignore[no-any-return, no-untyped-call]


class _MixtureLogProb(torch.autograd.Function):
    """The log density ``(*)`` of a mixture whose parameters have the batch shape of the value."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
        diagonal = scale_tril.diagonal(dim1=-2, dim2=-1)
        whitened = _solve(scale_tril, value.unsqueeze(-2) - loc)  # (*, K, D)
        share = logits.log_softmax(-1) - diagonal.log().sum(-1) - whitened.square().sum(-1) / 2
        total = share.logsumexp(-1, keepdim=True)
        if any(ctx.needs_input_grad):
            pull = _solve_transposed(scale_tril, whitened)  # the derivative by the means
            responsibility = exp_or_zero_(share.sub_(total.clamp_min(torch.finfo(total.dtype).min)))
            ctx.save_for_backward(logits, loc, scale_tril, value, responsibility, whitened, pull)
        return total.squeeze(-1) - loc.shape[-1] / 2 * math.log(2 * math.pi)

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, responsibility, whitened, pull = ctx.saved_tensors
        if torch.is_grad_enabled() or batched(weights[0]):
            return plain_gradient(mixture_log_density, inputs, weights[0])
        logits, _, scale_tril, _ = inputs
        weight = weights[0].unsqueeze(-1)  # (*, 1)
        share = responsibility * weight
        by_logits = share - logits.softmax(-1) * weight
        by_loc = pull * share.unsqueeze(-1)
        by_scale_tril = None
        if ctx.needs_input_grad[2]:
            by_scale_tril = (by_loc.unsqueeze(-1) * whitened.unsqueeze(-2)).tril_()
            diagonal = scale_tril.diagonal(dim1=-2, dim2=-1)
            by_scale_tril.diagonal(dim1=-2, dim2=-1).sub_(share.unsqueeze(-1) / diagonal)
        return silenced(weights[0] == 0, by_logits, by_loc, by_scale_tril, -by_loc.sum(-2))


def _solve(scale_tril: Tensor, right: Tensor) -> Tensor:
    """Return ``L^-1 right`` for `right` of shape ``(*, K, D)``, which may be overwritten."""
    size, limit = right.shape[-1], farthest(right.dtype)
    if size > SMALL:
        return _solve_many(scale_tril, right)
    for j in range(size):
        right[..., j].div_(scale_tril[..., j, j]).clamp_(-limit, limit)
        right[..., j + 1 :].addcmul_(scale_tril[..., j + 1 :, j], right[..., j : j + 1], value=-1)
    return right


def _solve_many(scale_tril: Tensor, right: Tensor) -> Tensor:
    """Do the same by a library, which lets a point that is too far away end in NaN."""
    right = right.unsqueeze(-1)
    column: Tensor = torch.linalg.solve_triangular(scale_tril, right, upper=False).squeeze(-1)
    if column.is_cpu and column.isfinite().all():
        return column
    sound = right.isfinite().flatten(-2).all(-1) & scale_tril.isfinite().flatten(-2).all(-1)
    limit = farthest(right.dtype)
    return torch.where(sound.unsqueeze(-1), column.nan_to_num(limit, limit, -limit), column)


def _solve_transposed(scale_tril: Tensor, right: Tensor) -> Tensor:
    """Return ``L^-T right`` for `right` of shape ``(*, K, D)``."""
    size = right.shape[-1]
    if size > SMALL:
        column: Tensor = torch.linalg.solve_triangular(
            scale_tril.mT, right.unsqueeze(-1), upper=True
        )
        return column.squeeze(-1)
    solution = right.clone()
    for j in reversed(range(size)):
        solution[..., j] /= scale_tril[..., j, j]
        solution[..., :j].addcmul_(scale_tril[..., j, :j], solution[..., j : j + 1], value=-1)
    return solution
