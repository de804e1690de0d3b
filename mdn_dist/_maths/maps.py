"""The maps from unbounded numbers to a mixture's parameters, and back."""

from typing import Any

import torch
from torch import Tensor

from mdn_dist._maths.floats import least_scale
from mdn_dist._torch import traced

MARGIN = 1.0
"""Distance from its limits at which :func:`saturate` departs from the identity."""

MODEST = 1e6
"""Factor up to which :func:`sharpen` simply multiplies."""

FLAT = 1e9
"""Excess over its margin from which :func:`saturate` is flat; its square is a float32."""


def saturate(x: Tensor, low: float, high: float) -> Tensor:
    r"""Hold `x` between `low` and `high` smoothly, leaving it alone away from both.

    The map is the identity on ``[low + 1, high - 1]``; beyond, the excess :math:`e` is replaced by
    :math:`e / \sqrt{1 + e^2}`. It is twice continuously differentiable and increasing up to an
    excess of a billion, and its slope fades as a power of the excess, so a saturated value can find
    its way back. The limits are at least 2 apart.

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
    """Apply :func:`saturate` in place; return its slope, shaped like `x`, None if 1 throughout.

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

    Example:
        >>> unsaturate(saturate(torch.tensor([-2.5, 0.5]), -3.0, 3.0), -3.0, 3.0)
        tensor([-2.5000,  0.5000])
    """
    inner = y.clamp(low + MARGIN, high - MARGIN)
    excess = (y - inner).clamp(-0.995, 0.995)
    return inner + excess * (1 - excess.square()).rsqrt()


def scale_tril_from_maps(log_scale: Tensor, correlation: Tensor) -> Tensor:
    r"""Build Cholesky factors ``(*, K, D, D)`` from log standard deviations and correlations.

    Those come as planes, ``(*, D, K)`` and, unbounded, ``(*, D (D - 1) / 2, K)``: the strictly
    lower triangle row by row. Row ``i`` of the factor is :math:`\sigma_i v_i / |v_i|` with
    :math:`v_i = (\sinh r_{i0}, \dots, \sinh r_{i,i-1}, 1)`, so the covariance has the standard
    deviations :math:`\sigma` exactly. For ``D = 2`` this is the paper's
    :math:`\rho = \tanh r`, since :math:`\tanh r = \sinh r / \sqrt{1 + \sinh^2 r}`; nothing is
    computed as :math:`1 - \rho^2`.

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


def maps_from_scale_tril(scale_tril: Tensor) -> tuple[Tensor, Tensor]:
    """Invert :func:`scale_tril_from_maps`.

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


def sharpen(logits: Tensor, factor: float | Tensor) -> Tensor:
    """Multiply logits ``(*, K)`` by a factor, be it so large that products would be infinite.

    A flag's, ``(*, 1)``, stay finite then; others are relative to the largest.

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
