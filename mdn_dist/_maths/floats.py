"""What floating-point numbers can hold."""

import math

import torch
from torch import Tensor


def widen(parameter: Tensor) -> Tensor:
    """Return `parameter`, half precision widened to float32."""
    half = parameter.is_floating_point() and parameter.dtype.itemsize < 4
    return parameter.float() if half else parameter


def in_float64(tensor: Tensor) -> Tensor:
    """Return `tensor` in float64; on the CPU where its device has none."""
    try:
        return tensor.double()
    except (TypeError, RuntimeError):  # Apple's MPS raises the one, GPUs without it the other
        return tensor.cpu().double()


def at_once(rows: int, like: Tensor) -> int:
    """Return how many rows to deal with at once: on a CPU `rows`, as many as its cache takes.

    Elsewhere many times more, for a device to be busy.

    Example:
        >>> at_once(128, torch.zeros(1)), at_once(128, torch.zeros(1, device="meta"))
        (128, 8192)
    """
    return rows if like.is_cpu else 64 * rows


def least_scale(dtype: torch.dtype) -> float:
    """Return the smallest positive number, where scales end that would be rounded to 0.

    Example:
        >>> torch.tensor(least_scale(torch.float32)) / 2
        tensor(0.)
    """
    kind = torch.finfo(dtype)
    return kind.tiny * kind.eps


def farthest(dtype: torch.dtype) -> float:
    """Return a number of standard deviations whose density is 0 whatever else is known.

    Its square is infinite, but it is not, and nor are its products: whitened coordinates that end
    here give no difference of infinities and no 0 times infinity.

    Example:
        >>> torch.tensor(farthest(torch.float32)).square().item()
        inf
    """
    return 64 * math.sqrt(torch.finfo(dtype).max)


def exp_or_zero_(x: Tensor) -> Tensor:
    """Take the exponential in place, 0 where it is too small to be a normal number.

    Such arguments take the usual vector kernels some hundred times as long as others, and a mixture
    whose components lie apart has many of them.

    Example:
        >>> exp_or_zero_(torch.tensor([0.0, -100.0, -torch.inf]))
        tensor([1., 0., 0.])
    """
    tiny = torch.finfo(x.dtype).tiny
    return torch.threshold_(x.clamp_min_(math.ceil(math.log(tiny))).exp_(), 2 * tiny, 0.0)
