"""A stand-in for Apple's MPS, a device that refuses float64, for tests on any machine.

Its tensors hold their values on the CPU, and are told apart in Python: a wrapper with the device of
another backend cannot be indexed, as torch asks that backend to be there.
"""

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CPU, MPS = torch.device("cpu"), torch.device("mps", 0)
MOVES = (Tensor.to, Tensor.copy_)
CPU_INDICES = (Tensor.__getitem__, Tensor.__setitem__)


class OnMPS(Tensor):
    """A tensor that says it is on MPS."""

    device = MPS

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        return compute(function, arguments, options or {})


class WithoutFloat64(TorchFunctionMode):
    """While it is on, tensors can be moved to `MPS` and made there, but not in float64."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        return compute(function, arguments, options or {})


def compute(function, arguments, options):
    """Compute on the CPU; give what belongs on MPS as `OnMPS`, and refuse it in float64."""
    with torch._C.DisableTorchFunctionSubclass():
        given = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, Tensor)]
        are_on_mps = {isinstance(tensor, OnMPS) for tensor in given if tensor.ndim > 0}
        if len(are_on_mps) > 1 and function not in MOVES + CPU_INDICES:
            raise RuntimeError(f"{function}: expected tensors on one device, got CPU and MPS")
        device = target(function, arguments, options)
        arguments, options = tree_map_only(torch.device, lambda _: CPU, (arguments, options))
        result = function(*arguments, **options)
        return tree_map_only(Tensor, lambda tensor: place(tensor, device), result)


def target(function, arguments, options):
    """Where the result of a call belongs."""
    named = [options.get("device")]
    if function is Tensor.to:
        named += [*options.values(), *arguments[1:]]
    for value in named:
        if isinstance(value, Tensor):
            return value.device
        if isinstance(value, torch.device | str):
            return torch.device(value)
    is_on_mps = any(isinstance(leaf, OnMPS) for leaf in tree_leaves((arguments, options)))
    return MPS if is_on_mps and function is not Tensor.cpu else CPU


def place(tensor, device):
    """The tensor as one of the device."""
    kind = OnMPS if device == MPS else Tensor
    if kind is OnMPS and tensor.dtype == torch.float64:
        raise TypeError("MPS has no float64")
    return tensor if type(tensor) is kind else tensor.as_subclass(kind)
