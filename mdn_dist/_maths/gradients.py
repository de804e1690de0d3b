"""What backward passes share: clipped gradients, silent points, gradients of a plain form."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mdn_dist._torch import overridable, traced


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


def silenced(idle: Tensor, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return the gradients; points that nothing depends on pass nothing on, not even NaN."""
    # To look is cheap, but on a device it would mean to wait, and a transform cannot.
    if idle.is_cpu and not traced() and not idle.any():
        return gradients
    return tuple(
        None if g is None else g.masked_fill(idle[(..., *[None] * (g.dim() - idle.dim()))], 0.0)
        for g in gradients
    )


def plain_gradient(
    density: Callable[..., Tensor], inputs: Sequence[Tensor], weight: Tensor
) -> tuple[Tensor | None, ...]:
    """Differentiate a plain form, so that the gradient can be differentiated once more."""
    again = torch.is_grad_enabled()
    wanted = [x for x in inputs if x.requires_grad]
    with torch.enable_grad():
        log_prob = density(*inputs)
    found = iter(torch.autograd.grad(log_prob, wanted, weight, create_graph=again))
    return tuple(next(found) if x.requires_grad else None for x in inputs)
