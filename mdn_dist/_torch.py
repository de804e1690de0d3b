"""What the library takes of torch that torch does not promise, in one place."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Size, Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd.forward_ad import unpack_dual
from torch.distributions.utils import lazy_property
from torch.overrides import handle_torch_function, has_torch_function
from torch.types import _size as Shape  # noqa: N812
from torch.utils._pytree import GetAttrKey, register_pytree_node, tree_leaves

__all__ = ["Shape", "lazy_property", "tree_leaves"]


def tracing() -> bool:
    """Tell whether ``torch.jit.trace`` is at work, to which sizes are tensors without a value."""
    return torch.jit.is_tracing()  # type: ignore[attr-defined, no-any-return, no-untyped-call]


def traced() -> bool:
    """Tell whether a compiler or a functional transform is at work, for which values are unknown.

    Example:
        >>> traced(), bool(torch.func.vmap(lambda x: x * traced())(torch.ones(1)))
        (False, True)
    """
    return torch.compiler.is_compiling() or tracing() or transforming()


def transforming() -> bool:
    """Tell whether a transform of ``torch.func`` is at work."""
    return torch._C._are_functorch_transforms_active()


def composes(*tensors: Tensor) -> bool:
    """Tell whether plain operations must be composed, since a gradient in closed form is no help.

    So it is for a compiler or transform, and where a tensor carries a forward derivative.

    Example:
        >>> with torch.autograd.forward_ad.dual_level():
        ...     dual = torch.autograd.forward_ad.make_dual(torch.zeros(1), torch.ones(1))
        ...     composes(dual), composes(torch.zeros(1))
        (True, False)
    """
    return traced() or any(unpack_dual(tensor).tangent is not None for tensor in tensors)


def batched(gradient: Tensor) -> bool:
    """Tell whether `gradient` stands for several at once, as in a vectorized Jacobian.

    Such a backward pass takes but plain operations.
    """
    return torch._C._functorch.is_legacy_batchedtensor(gradient)


def nested_forward() -> bool:
    """Tell whether a forward derivative is being taken of a forward derivative.

    Example:
        >>> x = torch.ones(1)
        >>> nested_forward(), torch.func.jvp(lambda x: x * nested_forward(), (x,), (x,))[0]
        (False, tensor([0.]))
    """
    levels = [level.key() for level in get_interpreter_stack() or []]
    return levels.count(TransformType.Jvp) > 1


def overridable(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Show tensor subclasses a call of `function` whole, as they see one of torch's own.

    Subclasses follow torch's operations through ``__torch_function__``, which the ``apply`` of a
    ``torch.autograd.Function`` passes by. Tensors must be given by position.

    Source:
        "Extending torch with a Tensor-like type", in PyTorch's notes on extending.

    Example:
        >>> class Named(torch.Tensor):
        ...     pass
        >>> type(overridable(lambda x: torch.zeros(1))(torch.zeros(1).as_subclass(Named)))
        <class 'mdn_dist._torch.Named'>
    """

    @wraps(function)
    def call(*arguments: Any) -> Tensor:
        if has_torch_function(arguments):
            tensors = [each for each in arguments if isinstance(each, Tensor)]
            return handle_torch_function(call, tensors, *arguments)
        return function(*arguments)

    return call


def static_size(size: Any) -> int:
    """Return a size that does not vary as a number, for ``torch.jit.trace`` gives a tensor."""
    if not isinstance(size, Tensor):
        return size  # type: ignore[no-any-return]
    with warnings.catch_warnings():  # of a trace that holds for this size alone
        warnings.simplefilter("ignore")
        return int(size)


def expanded(tensor: Tensor, shape: Size) -> Tensor:
    """Return `tensor` in a larger shape; itself, a leaf that it may be, where it has that shape."""
    same = not tracing() and tensor.shape == shape
    return tensor if same else tensor.expand(shape)


def unviewed(tensor: Tensor) -> Tensor:
    """Return a tensor in the same memory that autograd does not count as a view.

    FSDP warns of views in a module's output, for fear that they are changed in place.
    """
    if not tensor.requires_grad:
        return tensor
    alone: Tensor = torch.ops.aten._unsafe_view(tensor, tensor.shape)
    return alone


def register_container(kind: Any) -> None:
    """Make a class of containers a pytree node of torch's."""

    def flatten(container: Any) -> tuple[list[Any], dict[str, Any]]:
        static = container.__getstate__()
        static.pop("_batch_shape", None)  # which a transform may change
        return [static.pop(name) for name in kind._parts], static

    def unflatten(parts: Any, static: dict[str, Any]) -> Any:
        return kind._made_of({**static, **dict(zip(kind._parts, parts, strict=True))})

    def keys(container: Any) -> tuple[list[tuple[Any, Any]], dict[str, Any]]:
        parts, static = flatten(container)
        return list(zip(map(GetAttrKey, kind._parts), parts, strict=True)), static

    register_pytree_node(
        kind,
        flatten,
        unflatten,
        serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
        to_dumpable_context=kind._dump,
        from_dumpable_context=kind._load,
        flatten_with_keys_fn=keys,
    )
