"""Exact algebra of a mixture's coordinates: marginals, conditionals, changes of units.

All of it is done on Cholesky factors. No covariance is formed or inverted, so that narrow and
strongly correlated components keep the precision that they have.
"""

from collections.abc import Sequence
from operator import index

import torch
from torch import Tensor

from mdn_dist._maths.density import posterior, whiten


def resolve_dims(dims: int | Sequence[int], size: int) -> list[int]:
    """Return coordinates as a list of non-negative indices.

    Args:
        dims: One coordinate or several, each in ``[-D, D)``.
        size: Number of coordinates ``D``.

    Returns:
        Indices in the order given.

    Raises:
        TypeError: If `dims` holds anything but integers.
        ValueError: If `dims` is empty, out of range, or names a coordinate twice.

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
    r"""Return the Cholesky factor of some coordinates, in an order of their own.

    The rows ``dims`` of the factor are made lower triangular again by reflections of neighbouring
    columns, from the right; none is needed for the leading coordinates in their order.

    Args:
        scale_tril: Cholesky factors, shape ``(*, D, D)``.
        dims: The coordinates, ``M`` different indices.

    Returns:
        Cholesky factors, shape ``(*, M, M)``, with positive diagonals.

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


def marginal(loc: Tensor, scale_tril: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the means and factors of some coordinates.

    Args:
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.
        dims: The coordinates, ``M`` different indices.

    Returns:
        Means ``(*, K, M)`` and Cholesky factors ``(*, K, M, M)``.

    Example:
        >>> loc, scale_tril = marginal(torch.ones(5, 3), torch.eye(3).expand(5, 3, 3), [2, 0])
        >>> loc.shape, scale_tril.shape
        (torch.Size([5, 2]), torch.Size([5, 2, 2]))
    """
    return loc[..., list(dims)], reorder(scale_tril, dims)


def condition(
    logits: Tensor, loc: Tensor, scale_tril: Tensor, dims: Sequence[int], values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the mixture of the other coordinates, given the values of some.

    With the coordinates given (``a``) put before the others (``b``), a component's factor is
    :math:`(L_{aa}, 0; L_{ba}, L_{bb})`. For :math:`y = L_{aa}^{-1} (x_a - \mu_a)`, its mean becomes
    :math:`\mu_b + L_{ba} y`, its factor :math:`L_{bb}`, and its weight is multiplied by its density
    of :math:`x_a`.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``.
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.
        dims: The coordinates given, ``M`` different indices.
        values: Their values, shape ``(*, M)``.

    Returns:
        Log weights ``(*, K)``, means ``(*, K, D - M)`` and Cholesky factors
        ``(*, K, D - M, D - M)``.

    Raises:
        ValueError: If no coordinate is left.

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
    # no matrix product: autocast would run it in half precision
    shift = (factor[..., given:, :given] * whitened.unsqueeze(-2)).sum(-1)
    return log_weight, loc[..., others] + shift, factor[..., given:, given:]


def affine(loc: Tensor, scale_tril: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the means and factors of ``shift + scale * x``.

    A negative factor flips a row, and the sign of the column under its diagonal makes that positive
    again.

    Args:
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.
        shift: What is added, shape ``(*, D)``.
        scale: Factors of the coordinates, not zero, shape ``(*, D)``.

    Returns:
        Means ``(*, K, D)`` and Cholesky factors ``(*, K, D, D)``.

    Example:
        >>> one = torch.ones(1)
        >>> affine(one.view(1, 1), one.view(1, 1, 1), 5 * one, -2 * one)
        (tensor([[3.]]), tensor([[[2.]]]))
    """
    scale = scale.unsqueeze(-2)  # (*, 1, D), over the components
    scaled = scale_tril * scale.unsqueeze(-1) * scale.sign().unsqueeze(-2)
    return shift.unsqueeze(-2) + scale * loc, scaled
