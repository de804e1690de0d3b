"""What the library takes of torch that torch does not promise, in one place."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Size, Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd.forward_ad import unpack_dual
from torch.overrides import handle_torch_function, has_torch_function


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


def nested_forward() -> bool:
    """Tell whether a forward derivative is being taken of a forward derivative.

    Returns:
        Whether it is.

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
        <class 'mdn_dist._torch.Named'>
    """

    @wraps(function)
    def call(*arguments: Any) -> Tensor:
        tensors = tuple(each for each in arguments if isinstance(each, Tensor))
        if has_torch_function(tensors):
            return handle_torch_function(call, tensors, *arguments)
        return function(*arguments)

    return call


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
