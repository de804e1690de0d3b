"""Mixture mathematics on plain tensors: tensors in, tensors out.

Every function broadcasts over leading batch dimensions ``*`` and is composed of differentiable
torch operations. ``K`` counts mixture components and ``D`` coordinates.
"""

import math
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Size, Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.overrides import handle_torch_function, has_torch_function

MARGIN = 1.0
"""Distance from its limits at which :func:`saturate` departs from the identity."""

MODEST = 1e6
"""Factor up to which :func:`sharpen` simply multiplies."""

FLAT = 1e9
"""Excess over its margin from which :func:`saturate` is flat; its square is a float32."""


def tracing() -> bool:
    """Tell whether ``torch.jit.trace`` is at work, to which sizes are tensors, not to be compared.

    Returns:
        Whether it is.

    Example:
        >>> tracing()
        False
    """
    return torch.jit.is_tracing()  # type: ignore[attr-defined, no-any-return, no-untyped-call]


def traced() -> bool:
    """Tell whether a compiler or a functional transform is at work, for which values are unknown.

    Returns:
        Whether to compose plain operations and to leave values unchecked.

    Example:
        >>> traced(), bool(torch.func.vmap(lambda x: x * traced())(torch.ones(1)))
        (False, True)
    """
    return torch.compiler.is_compiling() or tracing() or torch._C._are_functorch_transforms_active()


def composes(*tensors: Tensor) -> bool:
    """Tell whether plain operations must be composed, since a gradient in closed form is no help.

    Args:
        *tensors: What is to be computed with.

    Returns:
        Whether a compiler or transform is at work, or a tensor carries a forward derivative.

    Example:
        >>> with torch.autograd.forward_ad.dual_level():
        ...     dual = torch.autograd.forward_ad.make_dual(torch.zeros(1), torch.ones(1))
        ...     composes(dual), composes(torch.zeros(1))
        (True, False)
    """
    return traced() or any(unpack_dual(tensor).tangent is not None for tensor in tensors)


def batched(gradient: Tensor) -> bool:
    """Tell whether `gradient` stands for several at once, as in a vectorized Jacobian.

    Args:
        gradient: What a backward pass is given.

    Returns:
        Whether it takes but the operations of a plain backward pass.

    Example:
        >>> batched(torch.zeros(1))
        False
    """
    return torch._C._functorch.is_legacy_batchedtensor(gradient)


def overridable(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Show tensor subclasses a call of `function` whole, as they see one of torch's own.

    Subclasses follow torch's operations through ``__torch_function__``, which the ``apply`` of a
    ``torch.autograd.Function`` passes by.

    Args:
        function: Takes tensors, and anything else, by position.

    Returns:
        A function that does the same.

    Source:
        "Extending torch with a Tensor-like type", in PyTorch's notes on extending.

    Example:
        >>> class Named(torch.Tensor):
        ...     pass
        >>> type(overridable(lambda x: torch.zeros(1))(torch.zeros(1).as_subclass(Named)))
        <class 'mdn_dist.functional.Named'>
    """

    @wraps(function)
    def call(*arguments: Any) -> Tensor:
        tensors = tuple(each for each in arguments if isinstance(each, Tensor))
        if has_torch_function(tensors):
            return handle_torch_function(call, tensors, *arguments)
        return function(*arguments)

    return call


def saturate(x: Tensor, low: float, high: float) -> Tensor:
    r"""Hold `x` between `low` and `high` smoothly, leaving it alone away from both.

    The map is the identity on ``[low + 1, high - 1]``; beyond, the excess :math:`e` is replaced by
    :math:`e / \sqrt{1 + e^2}`. It is twice continuously differentiable and increasing up to an
    excess of a billion, and its slope fades as a power of the excess, so a saturated value can find
    its way back.

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
    excess = (x - inner).clamp(-FLAT, FLAT)
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
        excess = x - x.clamp(low + MARGIN, high - MARGIN)
        growth = 1 + excess.clamp(-FLAT, FLAT).square()
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
    if not traced() and x.is_cpu and x.numel():
        least, most = x.aminmax()
        if low + MARGIN <= least.item() and most.item() <= high - MARGIN:
            return None
    inner = x.clamp(low + MARGIN, high - MARGIN)
    excess = x.sub_(inner).clamp_(-FLAT, FLAT)
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
        planes += [last.clamp_min(least_scale(last.dtype)), *[zero] * (size - i - 1)]
    square: Tensor = torch.stack(planes, -2).unflatten(-2, (size, size))  # (*, D, D, K)
    return square.movedim(-1, -3)


def least_scale(dtype: torch.dtype) -> float:
    """Return the smallest positive number, where scales end that would be rounded to 0.

    Args:
        dtype: A floating-point type.

    Returns:
        The number.

    Example:
        >>> torch.tensor(least_scale(torch.float32)) / 2
        tensor(0.)
    """
    kind = torch.finfo(dtype)
    return kind.tiny * kind.eps


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


def farthest(dtype: torch.dtype) -> float:
    """Return a number of standard deviations whose density is 0 whatever else is known.

    Its square is infinite, but it is not, and nor are its products: whitened coordinates that end
    here give no difference of infinities and no 0 times infinity.

    Args:
        dtype: A floating-point type.

    Returns:
        The number.

    Example:
        >>> torch.tensor(farthest(torch.float32)).square().item()
        inf
    """
    return 64 * math.sqrt(torch.finfo(dtype).max)


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


def sharpen(logits: Tensor, factor: float | Tensor) -> Tensor:
    """Multiply logits by a factor so large, if need be, that the products would be infinite.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``, or a flag's logit, shape ``(*, 1)``.
        factor: A number, or a tensor that broadcasts against `logits`.

    Returns:
        Logits of the same shape; by a large factor, a flag's finite, others relative to the
        largest.

    Example:
        >>> sharpen(torch.tensor([3.0, 2.0]), 1e38).softmax(-1)
        tensor([1., 0.])
    """
    if isinstance(factor, Tensor):
        modest = not traced() and bool((factor.abs() <= MODEST).all())
    else:
        modest = abs(factor) <= MODEST
    if modest:
        return logits * factor
    most = torch.finfo(logits.dtype).max
    if logits.shape[-1] == 1:
        return (logits * factor).clamp(-most, most)
    limited = factor.clamp_max(most) if isinstance(factor, Tensor) else min(factor, most)
    return (logits - logits.detach().amax(-1, keepdim=True)) * limited


def static_size(size: Any) -> int:
    """Return a size that does not vary as a plain number, for ``torch.jit.trace`` gives a tensor.

    Args:
        size: One of a tensor's sizes.

    Returns:
        The number.

    Example:
        >>> static_size(torch.zeros(4, 2).shape[-1])
        2
    """
    if not isinstance(size, Tensor):
        return size  # type: ignore[no-any-return]
    with warnings.catch_warnings():  # of a trace that holds for this size alone
        warnings.simplefilter("ignore")
        return int(size)


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


def expanded(tensor: Tensor, shape: Size) -> Tensor:
    """Return `tensor` in a larger shape; itself, a leaf that it may be, where it has that shape.

    Args:
        tensor: Any tensor.
        shape: The shape wanted, to which it broadcasts.

    Returns:
        A tensor of that shape.

    Example:
        >>> expanded(torch.zeros(2), torch.Size([3, 2])).shape
        torch.Size([3, 2])
    """
    same = not tracing() and tensor.shape == shape
    return tensor if same else tensor.expand(shape)


def at_once(rows: int, like: Tensor) -> int:
    """Return how many rows to deal with at once.

    Args:
        rows: As many as a CPU's cache takes.
        like: One of the tensors to be dealt with.

    Returns:
        On a CPU `rows`; elsewhere many times more, for a device to be busy.

    Example:
        >>> at_once(128, torch.zeros(1)), at_once(128, torch.zeros(1, device="meta"))
        (128, 8192)
    """
    return rows if like.is_cpu else 64 * rows


def in_float64(tensor: Tensor) -> Tensor:
    """Return `tensor` in float64; on the CPU where its device has none.

    Args:
        tensor: Any tensor.

    Returns:
        A tensor of the same shape.

    Example:
        >>> in_float64(torch.zeros(1)).dtype
        torch.float64
    """
    try:
        return tensor.double()
    except (TypeError, RuntimeError):  # Apple's MPS raises the one, GPUs without it the other
        return tensor.cpu().double()


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


class _ForwardClipGradient(_ClipGradient):
    """The same with its forward derivative, which compilers do not take."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:  # noqa: ARG004
        return tangents[0].view_as(tangents[0])


@overridable
def clip_gradient(x: Tensor, limit: float) -> Tensor:
    """Return `x`; in the backward pass its gradient is clipped to ``[-limit, limit]``.

    Forward-mode derivatives pass as they are.

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
    kind = _ClipGradient if torch.compiler.is_compiling() else _ForwardClipGradient
    clipped: Tensor = kind.apply(x, limit)  # type: ignore[no-untyped-call]
    return clipped
