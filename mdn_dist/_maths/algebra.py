"""Exact algebra of mixtures: moments, marginals, conditionals, changes of units, sharper weights.

Parameters are logits ``(*, K)``, means ``(*, K, D)`` and Cholesky factors ``(*, K, D, D)``. All is
done on factors. No covariance is inverted, so that narrow and strongly correlated components keep
the precision that they have, and no matrix product is taken, for autocast to run in half precision.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import index
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

from mdn_dist._maths.density import posterior, whiten
from mdn_dist._maths.floats import least_scale, widen
from mdn_dist._maths.maps import sharpen

P = ParamSpec("P")
Mixture = tuple[Tensor, Tensor, Tensor]
Change = Callable[Concatenate[Tensor, Tensor, Tensor, P], Mixture]
"""Takes a mixture, and what else it needs."""


def mean(logits: Tensor, loc: Tensor) -> Tensor:
    """Return the mean ``(*, D)``."""
    return (logits.softmax(-1).unsqueeze(-1) * loc).sum(-2)


def covariance(logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """Return the covariance ``(*, D, D)``, within the components and between their means."""
    spread = loc - mean(logits, loc).unsqueeze(-2)  # (*, K, D)
    between = spread.unsqueeze(-1) * spread.unsqueeze(-2)  # (*, K, D, D)
    columns = scale_tril.unbind(-1)
    within = torch.stack([c.unsqueeze(-1) * c.unsqueeze(-2) for c in columns]).sum(0)
    return (logits.softmax(-1)[..., None, None] * (within + between)).sum(-3)


def sharpened(
    logits: Tensor,
    loc: Tensor,
    scale_tril: Tensor,
    weight_factor: float | Tensor,
    scale_factor: float | Tensor,
) -> Mixture:
    """Return the mixture with its logits and its factors multiplied, by numbers or ``(*)``."""
    by_weight, by_scale = (
        f[(..., *[None] * n)] if isinstance(f, Tensor) else f
        for f, n in ((weight_factor, 1), (scale_factor, 3))
    )
    scaled, least = scale_tril * by_scale, least_scale(scale_tril.dtype)
    diagonal = torch.eye(scaled.shape[-1], dtype=torch.bool, device=scaled.device)
    vanished = diagonal & (scaled < least)
    return sharpen(logits, by_weight), loc, torch.where(vanished, least, scaled)


def leaving_nan_alone(
    change: Change[P], parameters: Mixture, /, *args: P.args, **kwargs: P.kwargs
) -> Mixture:
    """Apply `change` such that batch elements with what is not a number come out as NaN.

    They send back no gradient of 0 times NaN, should a mask leave them out later.
    """
    logits, loc, scale_tril = parameters
    sound = (
        logits.amax(-1).isfinite()
        & loc.isfinite().flatten(-2).all(-1)
        & scale_tril.isfinite().flatten(-3).all(-1)
    )
    masks = [sound[(..., *[None] * n)] for n in (1, 2, 3)]
    logits, loc, scale_tril = (
        torch.where(m, p, 1.0) for m, p in zip(masks, parameters, strict=True)
    )
    changed = change(logits, loc, scale_tril, *args, **kwargs)
    first, second, third = (
        torch.where(m, p, math.nan) for m, p in zip(masks, changed, strict=True)
    )
    return first, second, third


def narrowed(logits: Tensor, loc: Tensor, scale_tril: Tensor, like: Tensor) -> Mixture:
    """Return the mixture in the type of `like`, which may have rounded the diagonals to 0."""
    like = widen(like)
    least = least_scale(like.dtype) * torch.eye(loc.shape[-1]).to(like)
    return logits.to(like), loc.to(like), scale_tril.to(like) + least


def resolve_dims(dims: int | Sequence[int], size: int) -> list[int]:
    """Return one coordinate or several, each in ``[-D, D)``, as non-negative indices, or raise.

    Example:
        >>> resolve_dims(-1, 3), resolve_dims((2, 0), 3)
        ([2], [2, 0])
    """
    try:
        given = [index(d) for d in dims] if isinstance(dims, Sequence) else [index(dims)]
    except TypeError as error:
        raise TypeError(f"dims must be an integer or a sequence of integers, got {dims}") from error
    if not given:
        raise ValueError(f"dims must name at least one of {size} coordinates, got none")
    if not all(-size <= d < size for d in given):
        raise ValueError(f"dims must be at least {-size} and less than {size}, got {dims}")
    resolved = [d % size for d in given]
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"dims must name each coordinate once, got {dims}")
    return resolved


def reorder(scale_tril: Tensor, dims: Sequence[int]) -> Tensor:
    r"""Return the Cholesky factor ``(*, M, M)`` of some coordinates, in an order of their own.

    The rows ``dims`` of the factor ``(*, D, D)`` are made lower triangular again by reflections of
    neighbouring columns, from the right; none is needed for leading coordinates in their order.

    Example:
        >>> reorder(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), [1])
        tensor([[5.]])
    """
    columns = list(scale_tril.tril()[..., list(dims), :].unbind(-1))  # D of (*, M)
    # The last entry of every row, in column `ends`, is and stays positive, and no two rows end in
    # one column: so no length below is that of (0, 0), and every diagonal comes out positive.
    ends = list(dims)
    for row in range(len(ends)):
        end = ends[row]
        for j in range(end, row, -1):
            left, right = columns[j - 1], columns[j]
            x, y = left[..., row], right[..., row]
            length = x.hypot(y)
            cosine, sine = (x / length).unsqueeze(-1), (y / length).unsqueeze(-1)
            columns[j - 1] = cosine * left + sine * right
            columns[j] = sine * left - cosine * right
        ends = [e + 1 if e < end else e for e in ends]
    return torch.stack(columns[: len(dims)], -1).tril()


def marginal_scale(scale_tril: Tensor) -> Tensor:
    """Return the standard deviation of each coordinate of each component, ``(*, K, D)``.

    Example:
        >>> marginal_scale(torch.tensor([[[2.0, 0.0], [3.0, 4.0]]]))
        tensor([[2., 5.]])
    """
    rows = (row.unbind(-1)[d::-1] for d, row in enumerate(scale_tril.unbind(-2)))
    return torch.stack([reduce(torch.hypot, row) for row in rows], -1)  # the diagonal first


def marginal(logits: Tensor, loc: Tensor, scale_tril: Tensor, dims: Sequence[int]) -> Mixture:
    """Return the mixture of some coordinates."""
    return logits, loc[..., list(dims)], reorder(scale_tril, dims)


def condition(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, dims: Sequence[int], values: Tensor
) -> Mixture:
    r"""Return the mixture of the other coordinates, given the `values` ``(*, M)`` of some.

    With the coordinates given (``a``) put before the others (``b``), a component's factor is
    :math:`(L_{aa}, 0; L_{ba}, L_{bb})`. For :math:`y = L_{aa}^{-1} (x_a - \mu_a)`, its mean becomes
    :math:`\mu_b + L_{ba} y`, its factor :math:`L_{bb}`, and its weight is multiplied by its density
    of :math:`x_a`.

    Example:
        >>> factor = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
        >>> condition(torch.zeros(1), torch.zeros(1, 2), factor, [0], torch.tensor([2.0]))
        (tensor([0.]), tensor([[6.]]), tensor([[[4.]]]))
    """
    given, size = len(dims), loc.shape[-1]
    others = [d for d in range(size) if d not in dims]
    if not others:
        raise ValueError(f"dims must leave at least one of {size} coordinates, got {list(dims)}")
    factor = reorder(scale_tril, [*dims, *others])
    known = factor[..., :given, :given]
    whitened = whiten(loc[..., list(dims)], known, values)  # (*, K, M)
    log_weight, _ = posterior(logits, loc[..., list(dims)], known, whitened)
    shift = (factor[..., given:, :given] * whitened.unsqueeze(-2)).sum(-1)
    return log_weight, loc[..., others] + shift, factor[..., given:, given:]


def affine(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, shift: Tensor, scale: Tensor
) -> Mixture:
    r"""Return the mixture of ``shift + scale * x``, both ``(*, D)``, no scale zero.

    A negative factor flips a row, and the sign of the column under its diagonal makes that positive
    again.

    Example:
        >>> one = torch.ones(1)
        >>> affine(one, one.view(1, 1), one.view(1, 1, 1), 5 * one, -2 * one)
        (tensor([1.]), tensor([[3.]]), tensor([[[2.]]]))
    """
    scale = scale.unsqueeze(-2)  # (*, 1, D), over the components
    scaled = scale_tril * scale.unsqueeze(-1) * scale.sign().unsqueeze(-2)
    return logits, shift.unsqueeze(-2) + scale * loc, scaled
