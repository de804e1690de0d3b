"""Mixture mathematics on plain tensors: tensors in, tensors out.

Every function broadcasts over leading batch dimensions ``*`` and is composed of differentiable
torch operations. ``K`` counts mixture components and ``D`` coordinates.
"""

import math
from typing import Any

import torch
from torch import Tensor

MARGIN = 1.0
"""Distance from its limits at which :func:`saturate` departs from the identity."""


def traced() -> bool:
    """Tell whether a compiler or a functional transform is at work, for which values are unknown.

    Returns:
        Whether to compose plain operations and to leave values unchecked.

    Example:
        >>> traced(), bool(torch.func.vmap(lambda x: x * traced())(torch.ones(1)))
        (False, True)
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
    )


def saturate(x: Tensor, low: float, high: float) -> Tensor:
    r"""Hold `x` between `low` and `high` smoothly, leaving it alone away from both.

    The map is the identity on ``[low + 1, high - 1]``; beyond, the excess :math:`e` is replaced by
    :math:`e / \sqrt{1 + e^2}`. It is twice continuously differentiable and increasing (as far as
    :math:`e^2` can be represented), and its slope fades as a power of the excess, so a saturated
    value can find its way back.

    Args:
        x: Values, any shape.
        low: Lower limit.
        high: Upper limit, at least ``low + 2``.

    Returns:
        A tensor shaped like `x`.

    Example:
        >>> saturate(torch.tensor([-1e9, 0.5, 1e9]), -3.0, 3.0)
        tensor([-3.0000,  0.5000,  3.0000])
    """
    # compilers lose the second derivatives of a Function, for which a transform may ask
    if torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
        return _Saturate.apply(x, low, high)  # type: ignore[no-any-return, no-untyped-call]
    return _saturated(x, low, high)


def _saturated(x: Tensor, low: float, high: float) -> Tensor:
    inner = x.clamp(low + MARGIN, high - MARGIN)
    excess = x - inner
    saturated: Tensor = inner + excess * (1 + excess.square()).rsqrt()
    return saturated


class _Saturate(torch.autograd.Function):
    """Saturation with its slope in closed form, which compiles to less than autograd's."""

    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return _saturated(x, low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[0])
        ctx.limits = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        low, high = ctx.limits
        growth = 1 + (x - x.clamp(low + MARGIN, high - MARGIN)).square()
        return gradients[0] / (growth * growth.sqrt()), None, None


def saturate_(x: Tensor, low: float, high: float) -> Tensor | None:
    """Apply :func:`saturate` in place.

    Args:
        x: Values, any shape; overwritten.
        low: Lower limit.
        high: Upper limit, at least ``low + 2``.

    Returns:
        The map's slope, shaped like `x`; None where it is 1 throughout.

    Example:
        >>> x = torch.tensor([0.5, 1e9])
        >>> slope = saturate_(x, -3.0, 3.0)
        >>> x
        tensor([0.5000, 3.0000])
    """
    # To look is cheap, but on a device it would mean to wait, and a compiler cannot.
    if x.is_cpu and x.numel() and not traced():
        least, most = x.aminmax()
        if low + MARGIN <= least.item() and most.item() <= high - MARGIN:
            return None
    inner = x.clamp(low + MARGIN, high - MARGIN)
    excess = x.sub_(inner)
    shrink = excess.square().add_(1).rsqrt_()
    excess.mul_(shrink).add_(inner)
    return shrink.pow_(3)


def unsaturate(y: Tensor, low: float, high: float) -> Tensor:
    """Invert :func:`saturate`; a value at or beyond a limit becomes a moderate one on its side.

    Args:
        y: Saturated values, any shape.
        low: Lower limit.
        high: Upper limit.

    Returns:
        A tensor shaped like `y`.

    Example:
        >>> unsaturate(saturate(torch.tensor([-2.5, 0.5]), -3.0, 3.0), -3.0, 3.0)
        tensor([-2.5000,  0.5000])
    """
    inner = y.clamp(low + MARGIN, high - MARGIN)
    excess = (y - inner).clamp(-0.995, 0.995)
    return inner + excess * (1 - excess.square()).rsqrt()


def exp_or_zero_(x: Tensor) -> Tensor:
    """Take the exponential in place, 0 where it is too small to be a normal number.

    Such arguments take the usual vector kernels some hundred times as long as others, and a mixture
    whose components lie apart has many of them.

    Args:
        x: Values, any shape; overwritten.

    Returns:
        `x`.

    Example:
        >>> exp_or_zero_(torch.tensor([0.0, -100.0, -torch.inf]))
        tensor([1., 0., 0.])
    """
    tiny = torch.finfo(x.dtype).tiny
    return torch.threshold_(x.clamp_min_(math.ceil(math.log(tiny))).exp_(), 2 * tiny, 0.0)


def scale_tril_from_maps(log_scale: Tensor, correlation: Tensor) -> Tensor:
    r"""Build Cholesky factors from log standard deviations and unbounded correlations.

    Row ``i`` of the factor is :math:`\sigma_i v_i / |v_i|` with
    :math:`v_i = (\sinh r_{i0}, \dots, \sinh r_{i,i-1}, 1)`, so the covariance has the standard
    deviations :math:`\sigma` exactly. For ``D = 2`` this is the paper's
    :math:`\rho = \tanh r`, since :math:`\tanh r = \sinh r / \sqrt{1 + \sinh^2 r}`; nothing is
    computed as :math:`1 - \rho^2`.

    Args:
        log_scale: Log standard deviations, shape ``(*, D, K)``: one plane a coordinate.
        correlation: Unbounded correlations, shape ``(*, D (D - 1) / 2, K)``: the strictly lower
            triangle row by row.

    Returns:
        Cholesky factors, shape ``(*, K, D, D)``, lower triangular.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 21 and 22, for ``D = 2``.

    Example:
        >>> scale_tril_from_maps(torch.zeros(2, 1), torch.tensor([[0.5]]))[0, 1, 0]
        tensor(0.4621)
    """
    size = log_scale.shape[-2]
    scale, slope = log_scale.exp(), correlation.sinh()
    zero = torch.zeros_like(scale[..., 0, :])
    planes: list[Tensor] = []
    start = 0
    for i in range(size):
        last = scale[..., i, :]  # (*, K), on the diagonal
        if i:  # a saved program cannot hold an empty row
            row = slope[..., start : start + i, :]  # (*, i, K)
            start += i
            last = last * (1 + row.square().sum(-2)).rsqrt()
            planes += (row * last.unsqueeze(-2)).unbind(-2)
        planes += [last, *[zero] * (size - i - 1)]
    square: Tensor = torch.stack(planes, -2).unflatten(-2, (size, size))  # (*, D, D, K)
    return square.movedim(-1, -3)


def maps_from_scale_tril(scale_tril: Tensor) -> tuple[Tensor, Tensor]:
    """Invert :func:`scale_tril_from_maps`.

    Args:
        scale_tril: Cholesky factors, shape ``(*, K, D, D)``.

    Returns:
        Log standard deviations ``(*, D, K)`` and unbounded correlations
        ``(*, D (D - 1) / 2, K)``.

    Example:
        >>> log_scale, correlation = maps_from_scale_tril(torch.eye(3).expand(5, 3, 3))
        >>> log_scale.shape, correlation.shape
        (torch.Size([3, 5]), torch.Size([3, 5]))
    """
    size = scale_tril.shape[-1]
    log_scale = scale_tril.square().sum(-1).log() / 2
    slope = scale_tril / scale_tril.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    row, column = torch.tril_indices(size, size, -1, device=scale_tril.device)
    return log_scale.movedim(-1, -2), slope[..., row, column].asinh().movedim(-1, -2)


def whiten(loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    r"""Express `value` in every component's own standard coordinates.

    Solves :math:`L_k y_k = x - \mu_k` by forward substitution, a coordinate at a time.

    Args:
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.
        value: Points, shape ``(*, D)``.

    Returns:
        Whitened coordinates, shape ``(*, K, D)``.

    Example:
        >>> whiten(torch.zeros(1, 2), 2 * torch.eye(2).expand(1, 2, 2), torch.tensor([4.0, 6.0]))
        tensor([[2., 3.]])
    """
    difference = value.unsqueeze(-2) - loc
    rows: list[Tensor] = []
    for i in range(difference.shape[-1]):
        known = sum(scale_tril[..., i, j] * rows[j] for j in range(i))
        rows.append((difference[..., i] - known) / scale_tril[..., i, i])
    return torch.stack(rows, -1)


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
    constant = loc.shape[-1] / 2 * math.log(2 * math.pi)
    distance = whitened.square().sum(-1) / 2
    return logits.log_softmax(-1) - log_determinant - distance - constant


def widen(parameter: Tensor) -> Tensor:
    """Return `parameter`, half precision widened to float32.

    Args:
        parameter: Any tensor.

    Returns:
        A tensor of the same shape, the same one unless it is a small floating-point one.

    Example:
        >>> widen(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    half = parameter.is_floating_point() and parameter.dtype.itemsize < 4
    return parameter.float() if half else parameter


def unviewed(tensor: Tensor) -> Tensor:
    """Return a tensor in the same memory that autograd does not count as a view.

    FSDP warns of views in a module's output, for fear that they are changed in place.

    Args:
        tensor: Any tensor.

    Returns:
        A tensor of the same shape, which must not be changed in place.

    Example:
        >>> unviewed(torch.zeros(3, 2).mT).shape
        torch.Size([2, 3])
    """
    alone: Tensor = torch.ops.aten._unsafe_view(tensor, tensor.shape)
    return alone


class _ClipGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, limit: float) -> Tensor:  # noqa: ARG004
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:  # noqa: ARG004
        ctx.limit = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].clamp(-ctx.limit, ctx.limit), None


def clip_gradient(x: Tensor, limit: float) -> Tensor:
    """Return `x`; in the backward pass its gradient is clipped to ``[-limit, limit]``.

    Args:
        x: Any tensor.
        limit: Largest magnitude of a derivative that is let through.

    Returns:
        `x`, unchanged.

    Source:
        Graves 2013 (arXiv:1308.0850), section 2.1: derivatives are clipped at the activations.

    Example:
        >>> x = torch.zeros(1, requires_grad=True)
        >>> (1000 * clip_gradient(x, 10.0)).sum().backward()
        >>> x.grad
        tensor([10.])
    """
    if not torch.is_grad_enabled():
        return x
    clipped: Tensor = _ClipGradient.apply(x, limit)  # type: ignore[no-untyped-call]
    return clipped
