"""What a mixture's parameters must be: their shapes, types and values, in one place."""

import math

import torch
from torch import Size, Tensor

from mdn_dist._checks import check_all, check_finite
from mdn_dist._maths.floats import widen
from mdn_dist._torch import expanded, tracing


def joint(logits: Tensor, loc: Tensor, scale_tril: Tensor) -> dict[str, Tensor]:
    """Return the parameters in the batch shape and the type that they have together, or raise."""
    parameters = {"logits": logits, "loc": loc, "scale_tril": scale_tril}
    for name, parameter in parameters.items():
        if not isinstance(parameter, Tensor) or not parameter.is_floating_point():
            got = parameter.dtype if isinstance(parameter, Tensor) else type(parameter).__name__
            raise TypeError(f"{name} must be a floating-point tensor, got {got}")
    shape = component_shape(logits.shape, loc.shape, scale_tril.shape)
    dtype = torch.promote_types(logits.dtype, torch.promote_types(loc.dtype, scale_tril.dtype))
    size = loc.shape[-1:]
    return {
        "logits": expanded(widen(logits.to(dtype)), shape),
        "loc": expanded(widen(loc.to(dtype)), shape + size),
        "scale_tril": expanded(widen(scale_tril.to(dtype)), shape + size + size),
    }


def component_shape(logits: Size, loc: Size, scale_tril: Size) -> Size:
    """Return the shape ``(*, K)`` that the shapes of the parameters have together, or raise."""
    if tracing():
        return torch.broadcast_shapes(logits, loc[:-1], scale_tril[:-2])  # type: ignore[no-any-return]
    parameters = {"logits": (logits, 1), "loc": (loc, 2), "scale_tril": (scale_tril, 3)}
    for name, (own, dimensions) in parameters.items():
        if len(own) < dimensions:
            raise ValueError(
                f"{name} must have at least {dimensions} dimensions, got shape {tuple(own)}"
            )
    size = loc[-1]
    shapes = f"got logits {tuple(logits)}, loc {tuple(loc)}, scale_tril {tuple(scale_tril)}"
    if scale_tril[-2:] != (size, size):
        raise ValueError(
            f"scale_tril must end in ({size}, {size}), as loc ends in {size}; {shapes}"
        )
    try:
        shape: Size = torch.broadcast_shapes(logits, loc[:-1], scale_tril[:-2])
    except RuntimeError as error:
        raise ValueError(f"batch and component dimensions must broadcast; {shapes}") from error
    if logits[-1] != shape[-1]:
        raise ValueError(f"logits must end in the number of components {shape[-1]}; {shapes}")
    if 0 in (shape[-1], size):
        raise ValueError(f"there must be at least one component and one coordinate; {shapes}")
    return shape


def check_parameters(logits: Tensor, loc: Tensor, scale_tril: Tensor) -> None:
    """Raise ValueError, saying where, unless they are those of a mixture."""
    top = logits.amax(-1, keepdim=True)
    check_all("logits", (logits < math.inf) & top.isfinite(), "finite", logits)
    check_finite("loc", loc)
    check_finite("scale_tril", scale_tril)
    check_all("scale_tril", scale_tril == scale_tril.tril(), "lower triangular", scale_tril)
    diagonal = scale_tril.diagonal(dim1=-2, dim2=-1)
    check_all("diagonal of scale_tril", diagonal > 0, "positive", diagonal)
