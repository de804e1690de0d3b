"""A container of parameters, of which every copy is made: indexed, expanded, moved, traced."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import make_dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Size, Tensor

from mdn_dist._maths.floats import widen
from mdn_dist._torch import Shape, expanded, register_container

Map = Callable[[Tensor, int], Tensor]
"""Takes a parameter and the number of its event dimensions."""

# What the distributions hold, for a compiler that has to be told.
STATE = (
    *("logits", "loc", "scale_tril", "outputs", "output_map", "offset", "pen"),
    *("_batch_shape", "_event_shape", "_num_component", "_validate_args", "has_rsample"),
)


class Container:
    """Holds parameters by name, and is a dataclass over them and a pytree node of torch's.

    Functional transforms, ``torch.export``, DDP and FSDP look into those for tensors; DDP and FSDP
    make others like it by its constructor. Every copy is made by `_made_of`.
    """

    _parts: ClassVar[dict[str, int]] = {}  # tensors, by event dimensions, and containers
    _settings: ClassVar[tuple[str, ...]] = ()  # what the constructor takes beside them
    _derived: ClassVar[tuple[str, ...]] = ()  # attributes that are made of them when asked for

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls._parts:
            fields = make_dataclass(cls.__name__, (*cls._parts, *cls._settings))
            cls.__dataclass_fields__ = fields.__dataclass_fields__  # type: ignore[attr-defined]
            register_container(cls)

    @abstractmethod
    def _settle(self) -> None:
        """Set the shapes that follow from the parameters, which may be placeholders."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds: all but what is derived."""
        if torch.compiler.is_compiling():  # torch 2.8 cannot trace a loop over __dict__
            return {name: getattr(self, name) for name in STATE if name in self.__dict__}
        return {name: held for name, held in self.__dict__.items() if name not in self._derived}

    @classmethod
    def _made_of(cls, held: dict[str, Any]) -> Self:
        """Return one that holds these; torch puts placeholders where parameters belong, too."""
        new = cls.__new__(cls)
        for name, value in held.items():
            setattr(new, name, value)
        new._settle()
        return new

    def _copy(self, **changes: Any) -> Self:
        return self._made_of({**self.__getstate__(), **changes})

    def _map(self, function: Map) -> Self:
        """Return a copy whose parameters are ``function(parameter, its event dimensions)``."""
        changes = {}
        for name, dimensions in self._parts.items():
            part = getattr(self, name)
            inner = isinstance(part, Container)
            changes[name] = part._map(function) if inner else function(part, dimensions)
        return self._copy(**changes)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Self:
        """Return the distribution over a larger batch, without copying its parameters.

        Args:
            batch_shape: The batch shape wanted; the present one must broadcast to it.
            _instance: Unused, for torch's signature.

        Returns:
            A new distribution.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.expand((7,)).loc.shape
            torch.Size([7, 1, 2])
        """
        shape = Size(batch_shape)
        return self._map(lambda p, n: expanded(p, shape + p.shape[p.dim() - n :]))

    def __getitem__(self, index: Any) -> Self:
        """Index the batch dimensions, as ``d[..., 3]`` or ``d[mask]``.

        Args:
            index: Any index that torch takes.

        Returns:
            A new distribution over the batch elements selected.
        """
        index = index if isinstance(index, tuple) else (index,)
        return self._map(lambda p, n: p[(*index, *[slice(None)] * n)])

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the distribution on another device, or in another precision.

        Args:
            *args: What ``torch.Tensor.to`` takes: a device, a dtype, a tensor to be like.
            **kwargs: Likewise, as ``non_blocking=True``.

        Returns:
            A new distribution, its shapes the same; half precision is widened to float32.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.to(torch.float64).mean
            tensor([0., 0.], dtype=torch.float64)
        """
        return self._map(lambda p, _: widen(p.to(*args, **kwargs)))

    def detach(self) -> Self:
        """Return the distribution cut off from the gradient of its parameters.

        Returns:
            A new distribution, its shapes the same, that shares their memory.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> loc = torch.zeros(1, 2, requires_grad=True)
            >>> d = GaussianMixture(torch.zeros(1), loc, torch.eye(2).expand(1, 2, 2))
            >>> d.mean.requires_grad, d.detach().mean.requires_grad
            (True, False)
        """
        return self._map(lambda p, _: p.detach())

    @staticmethod
    def _dump(static: dict[str, Any]) -> dict[str, Any]:
        """Return what is held beside the parameters, fit for JSON, for an exported program."""
        return static

    @staticmethod
    def _load(static: dict[str, Any]) -> dict[str, Any]:
        """Invert `_dump`, from JSON."""
        return {**static, "_event_shape": Size(static["_event_shape"])}
