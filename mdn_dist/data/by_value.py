"""Pickles that hold the values of tensors, and no handle of shared memory."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class _Values(NamedTuple):
    """What a tensor is made of."""

    content: npt.NDArray[np.uint8]
    dtype: torch.dtype
    device: torch.device


class PickledByValue:
    """A frozen dataclass that pickles and copies its tensors by value.

    ``torch.multiprocessing`` sends every tensor as a file descriptor of its own, and a process may
    open about a thousand: too few for the drawings of one file.
    """

    def __getstate__(self) -> dict[str, object]:
        """Return the fields, with bytes in place of tensors."""
        return {name: _pack(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Take the fields back, which were checked when the object was made."""
        vars(self).update({name: _unpack(value) for name, value in state.items()})


def _pack(value: object) -> object:
    if not isinstance(value, Tensor):
        return value
    content = value.cpu().contiguous().view(torch.uint8).numpy()
    return _Values(content, value.dtype, value.device)


def _unpack(value: object) -> object:
    if not isinstance(value, _Values):
        return value
    content = torch.tensor(value.content, device="cpu")
    return content.view(value.dtype).to(value.device)
