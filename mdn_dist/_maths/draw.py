"""Draw points: one component a point, and only that component's parameters.

torch's own samplers take no generator; these do.
"""

import torch
from torch import Size, Tensor
from torch.nn.functional import one_hot

from mdn_dist._maths.growth import hold_growth
from mdn_dist._maths.maps import saturate_, sharpen
from mdn_dist.outputs import OutputMap


def draw_index(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one category a row by inverting the cumulative distribution.

    A category without weight is never drawn.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``.
        generator: Source of randomness; torch's global one by default.

    Returns:
        Indices, shape ``(*, 1)``, of type int64.

    Example:
        >>> draw_index(torch.tensor([-torch.inf, 0.0]))
        tensor([1])
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    total = cumulative[..., -1:]
    uniform = _uniform(total, generator)
    # In (0, total], so that the first value that reaches it has a weight.
    height = total.addcmul(total, uniform, value=-1)
    index = torch.searchsorted(cumulative, height)
    return index.clamp_max(logits.shape[-1] - 1)  # where a row is NaN


def draw_state(logits: Tensor, is_flag: bool, generator: torch.Generator | None = None) -> Tensor:
    """Draw the value of a pen: a flag from one logit, a one-hot state from several.

    Args:
        logits: Logit of the flag, shape ``(*, 1)``, or of each state, shape ``(*, 3)``.
        is_flag: Which of the two.
        generator: Source of randomness; torch's global one by default.

    Returns:
        Flags or one-hot states, shaped like `logits`.

    Example:
        >>> draw_state(torch.tensor([[30.0], [-30.0]]), is_flag=True)
        tensor([[1.],
                [0.]])
    """
    if is_flag:
        return _uniform(logits, generator).lt_(logits.sigmoid())
    return one_hot(draw_index(logits, generator).squeeze(-1), logits.shape[-1]).to(logits)


def draw_offset(
    logits: Tensor,
    loc: Tensor,
    scale_tril: Tensor,
    sample_shape: Size,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw points of a mixture.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``.
        loc: Component means, shape ``(*, K, D)``.
        scale_tril: Component Cholesky factors, shape ``(*, K, D, D)``.
        sample_shape: Shape of the independent draws wanted.
        generator: Source of randomness; torch's global one by default.

    Returns:
        Points, shape ``(sample_shape, *, D)``.

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
    noise = _normal(loc, generator)
    return (loc + (scale_tril * noise.unsqueeze(-2)).sum(-1)).squeeze(-2)


def draw_points(
    outputs: Tensor, output_map: OutputMap, generator: torch.Generator | None = None
) -> Tensor:
    """Draw stroke points straight from a network's outputs.

    Args:
        outputs: Raw outputs, shape ``(*, size)``.
        output_map: Their order and maps.
        generator: Source of randomness; torch's global one by default.

    Returns:
        Points, shape ``(*, event)``.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 18 to 25.

    Example:
        >>> draw_points(torch.zeros(4, 7, 121), OutputMap()).shape
        torch.Size([4, 7, 3])
    """
    components, size = output_map.components, output_map.event_size
    pen_size, weights_size, *rest = output_map.sizes
    pen, logits, parameters = outputs.split_with_sizes([pen_size, weights_size, sum(rest)], -1)
    if output_map.logit_factor != 1:
        logits = sharpen(logits, output_map.logit_factor)
    index = draw_index(logits, generator)
    blocks = parameters.view(*parameters.shape[:-1], sum(rest) // components, components)
    index = index.unsqueeze(-1).expand(*blocks.shape[:-1], 1)
    drawn = blocks.gather(-1, index).squeeze(-1)  # (*, blocks)
    pairs = size * (size - 1) // 2
    loc, log_scale, correlation = drawn.split_with_sizes([size, size, pairs], -1)
    if output_map.bounds is not None:
        saturate_(log_scale, *output_map.bounds.log_scale)
        saturate_(correlation, *output_map.bounds.correlation)
        if size > 2:
            correlation = hold_growth(correlation.unsqueeze(-1), size).squeeze(-1)
    noise = _normal(loc, generator)
    if output_map.log_scale_shift:
        log_scale += output_map.log_scale_shift
    offset = loc.addcmul_(log_scale.exp_(), _correlate_(noise, correlation.sinh_()))
    pen = sharpen(pen, output_map.pen_slope)
    return torch.cat([offset, draw_state(pen, output_map.pen == "bernoulli", generator)], -1)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return uniform numbers in [0, 1), shaped like `like`."""
    if generator is None:  # torch.compile takes no generator with symbolic sizes, not even None
        return torch.rand_like(like)
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return standard normal numbers, shaped like `like`."""
    if generator is None:
        return torch.randn_like(like)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _correlate_(noise: Tensor, slope: Tensor) -> Tensor:
    """Multiply white noise ``(*, D)`` by the rows of :func:`scale_tril_from_maps` at unit scale."""
    for i in range(noise.shape[-1] - 1, 0, -1):  # backwards, since row i needs the noise before it
        row = slope[..., i * (i - 1) // 2 : i * (i + 1) // 2]
        # no dot products: autocast would run them in half precision
        along, length = row * noise[..., :i], row.square()
        if i > 1:  # sums cost as much as all the rest when there are few points
            along, length = along.sum(-1, keepdim=True), length.sum(-1, keepdim=True)
        noise[..., i : i + 1].add_(along).mul_(length.add_(1).rsqrt_())
    return noise
