"""Draw points: one component a point, and only that component's parameters.

torch's own samplers take no generator; these do.
"""

import torch
from torch import Size, Tensor


def draw_index(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one category ``(*, 1)`` a row of logits ``(*, K)`` by inverting the cumulative weights.

    A category without weight is never drawn.

    Example:
        >>> draw_index(torch.tensor([-torch.inf, 0.0]))
        tensor([1])
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    total = cumulative[..., -1:]
    uniform = uniform_like(total, generator)
    # In (0, total], so that the first value that reaches it has a weight.
    height = total.addcmul(total, uniform, value=-1)
    index = torch.searchsorted(cumulative, height)
    return index.clamp_max(logits.shape[-1] - 1)  # where a row is NaN


def draw_offset(
    logits: Tensor,
    loc: Tensor,
    scale_tril: Tensor,
    sample_shape: Size,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw points ``(sample_shape, *, D)`` of a mixture.

    Example:
        >>> two = torch.zeros(2)
        >>> draw_offset(two, torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3), Size([5])).shape
        torch.Size([5, 3])
    """
    shape, size = sample_shape + logits.shape[:-1], loc.shape[-1]
    index = draw_index(logits.expand(*shape, -1), generator)[..., None]  # (*, 1, 1)
    loc = loc.expand(*shape, -1, -1).gather(-2, index.expand(*shape, 1, size))
    index = index.unsqueeze(-1).expand(*shape, 1, size, size)
    scale_tril = scale_tril.expand(*shape, -1, -1, -1).gather(-3, index)
    noise = normal_like(loc, generator)
    return (loc + (scale_tril * noise.unsqueeze(-2)).sum(-1)).squeeze(-2)


def draw_components(
    loc: Tensor, scale_tril: Tensor, sample_shape: Size, generator: torch.Generator | None = None
) -> Tensor:
    """Draw a point of each component, ``(sample_shape, *, K, D)``, differentiable.

    Example:
        >>> draw_components(torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3), Size([5])).shape
        torch.Size([5, 2, 3])
    """
    noise = normal_like(loc.detach().expand(*sample_shape, *loc.shape), generator)
    return loc + (scale_tril * noise.unsqueeze(-2)).sum(-1)


def uniform_like(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return uniform numbers in [0, 1), shaped like `like`."""
    if generator is None:  # torch.compile takes no generator with symbolic sizes, not even None
        return torch.rand_like(like)
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def normal_like(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return standard normal numbers, shaped like `like`."""
    if generator is None:
        return torch.randn_like(like)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
