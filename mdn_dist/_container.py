"""What the distributions share: their batch dimensions, scoring under a mask, validation."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.utils._pytree import GetAttrKey, register_pytree_node

from mdn_dist._checks import check_mask, check_tensor
from mdn_dist._maths.floats import widen
from mdn_dist._torch import expanded, traced, tracing

# What the distributions hold beside their parameters.
STATIC = (
    "_batch_shape",
    "_event_shape",
    "_event_ndims",
    "_num_component",
    "_validate_args",
    "has_rsample",
    "output_map",
    "_pen_class",
    "_pen_argument",
)


class BatchDistribution(TorchDistributionMixin):  # type: ignore[misc]  # pyro is untyped
    """A Pyro distribution over points whose batch can be indexed, expanded and masked.

    A subclass says how its parameters are mapped (`_map`), how a point is scored (`_score`), which
    points count as valid (`_check`), and what it is made of (`_parts`, `_derived`).

    Every class, and every class made of it, is a container of its parameters, a pytree node of
    torch's: functional transforms, ``torch.export``, DDP and FSDP look into those for tensors.
    """

    _validate_args: bool
    _parts: ClassVar[tuple[str, ...]]  # attributes that hold the parameters
    _derived: ClassVar[tuple[str, ...]] = ()  # attributes that are made of them when asked for

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "_parts"):
            _register(cls)

    def _map(self, function: Callable[[Tensor, int], Tensor]) -> Self:
        """Return a copy whose parameters are ``function(parameter, its event dimensions)``."""
        raise NotImplementedError

    def _score(self, value: Tensor) -> Tensor:
        """Return the log density of `value`, which has been checked."""
        raise NotImplementedError

    def _check(self, value: Tensor) -> None:
        """Raise ValueError if `value`, whose shape is right, is outside the support."""
        raise NotImplementedError

    def _neutral_point(self, like: Tensor) -> Tensor:
        """Return a point of the support, ``(event)``, to stand where a mask leaves one out."""
        raise NotImplementedError

    @property
    def _dtype(self) -> torch.dtype:
        """The type of the parameters."""
        raise NotImplementedError

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score `value`; points that `mask` leaves out score 0, whatever they hold.

        Under a mask, sums of scores and their gradients are those of the points that it keeps:
        the value *and* the parameters of the others are replaced before anything is computed, so
        NaN in the padding reaches neither the loss nor a gradient.

        Args:
            value: Points, shape ``(*, event)``, broadcast against the batch.
            mask: True where a point is real, broadcastable to ``(*)``.

        Returns:
            Log densities, shape ``(*)``, in nats.

        Raises:
            TypeError: If `value` is not a tensor, or `mask` not a boolean one.
            ValueError: If the shapes do not fit or, under ``validate_args``, if a point that counts
                is outside the support.

        Source:
            Graves 2013 (arXiv:1308.0850), equations 23 to 25.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> padded = torch.tensor([[0.0, 0.0], [torch.nan, 0.0]])
            >>> d.log_prob(padded, mask=torch.tensor([True, False]))
            tensor([-1.8379,  0.0000])
        """
        if mask is not None:
            return self._masked_log_prob(self._as_numbers(value), mask)
        return self._score(self._accept(value))

    def _masked_log_prob(self, value: Tensor, mask: Tensor) -> Tensor:
        check_mask(mask)
        batch_shape: Size = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        try:
            mask = mask.expand(batch_shape)
        except RuntimeError as error:
            raise ValueError(
                f"mask must be broadcastable to {tuple(batch_shape)}, got {tuple(mask.shape)}"
            ) from error
        value = torch.where(mask.unsqueeze(-1), value, self._neutral_point(value))
        if self._validates:
            self._check(value)
        kept = self.expand(batch_shape)._map(
            lambda parameter, n: torch.where(mask[(..., *[None] * n)], parameter, 1.0)
        )
        return torch.where(mask, kept._score(value), 0.0)

    def mask(self, mask: bool | Tensor) -> "MaskedPoints":
        """Pyro's ``mask``, safe over padding that holds NaN.

        Args:
            mask: A boolean, or a boolean tensor broadcastable to the batch shape ``(*)``.

        Returns:
            A distribution of the same shapes that scores 0 where `mask` is False.

        Raises:
            TypeError: If `mask` is not boolean.

        Source:
            Pyro's protocol, ``TorchDistributionMixin.mask``.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> masked = d.expand([2]).mask(torch.tensor([True, False]))
            >>> masked.log_prob(torch.tensor([[0.0, 0.0], [torch.nan, 0.0]]))
            tensor([-1.8379,  0.0000])
        """
        if not isinstance(mask, bool):
            check_mask(mask)
        return MaskedPoints(self, mask)

    def entropy(self) -> Tensor:
        """Refuse: the entropy of a mixture has no closed form.

        Raises:
            NotImplementedError: Always; ``-log_prob`` averaged over samples estimates it.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> entropy = -d.log_prob(d.sample((10_000,))).mean()
        """
        raise NotImplementedError(
            f"the entropy of a {type(self).__name__} has no closed form; "
            "-d.log_prob(d.sample((10_000,))).mean(0) estimates it"
        )

    def expand(self, batch_shape: Size | list[int], _instance: Any = None) -> Self:
        """Return the distribution over a larger batch, without copying its parameters.

        Args:
            batch_shape: The batch shape wanted; the present one must broadcast to it.
            _instance: Unused, for torch's signature.

        Returns:
            A new distribution.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.expand([7]).loc.shape
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
        return self._map(lambda p, _: p.to(*args, **kwargs))

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

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds: all but what is derived."""
        if torch.compiler.is_compiling():  # torch 2.8 cannot trace a loop over __dict__
            named = (*self._parts, *STATIC)
            return {name: getattr(self, name) for name in named if name in self.__dict__}
        return {name: held for name, held in self.__dict__.items() if name not in self._derived}

    def _bare_copy(self) -> Self:
        """Return a copy that is to be given other parameters."""
        new = type(self).__new__(type(self))
        for name, held in self.__getstate__().items():
            setattr(new, name, held)
        return new

    def _take_apart(self) -> tuple[list[Any], dict[str, Any]]:
        """Return the parameters, and by name what is static beside them."""
        static = self.__getstate__()
        parts = [static.pop(name) for name in self._parts]
        del static["_batch_shape"]
        return parts, static

    @classmethod
    def _put_together(cls, parts: Iterable[Any], static: dict[str, Any]) -> Self:
        """Invert `_take_apart`; `parts` may be anything, since torch passes placeholders too."""
        new = cls.__new__(cls)
        new.__dict__.update(static)
        for name, part in zip(cls._parts, parts, strict=True):
            setattr(new, name, widen(part) if isinstance(part, Tensor) else part)
        new._batch_shape = new._shape_of_batch()
        return new

    @staticmethod
    def _dump(static: dict[str, Any]) -> dict[str, Any]:
        """Return what is static fit for JSON, where a program that was exported is saved."""
        return static

    @staticmethod
    def _load(static: dict[str, Any]) -> dict[str, Any]:
        """Invert `_dump`, from JSON."""
        return {**static, "_event_shape": Size(static["_event_shape"])}

    def _shape_of_batch(self) -> Size:
        """Return the batch shape that the parameters have, empty for placeholders."""
        raise NotImplementedError

    @property
    def _validates(self) -> bool:
        return self._validate_args and not traced()

    def _accept(self, value: Tensor) -> Tensor:
        """Return `value` as numbers to compute with.

        Raises:
            TypeError: If it is not a tensor of real numbers.
            ValueError: If its shape is wrong or, under ``validate_args``, a point is invalid.
        """
        value = self._as_numbers(value)
        if self._validates:
            self._check(value)
        return value

    def _as_numbers(self, value: Tensor, name: str = "value", size: int | None = None) -> Tensor:
        """Return `value`, whose last dimension is to be `size`, as floating-point numbers."""
        check_tensor(value, name)
        self._check_shape(value, name, size)
        return widen(value) if value.is_floating_point() else value.to(self._dtype)

    def _check_shape(self, value: Tensor, name: str, size: int | None = None) -> None:
        if tracing():
            return
        size = self.event_shape[0] if size is None else size
        if value.shape[-1:] != (size,):
            raise ValueError(f"{name} must end in {size} values, got shape {tuple(value.shape)}")
        try:
            torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        except RuntimeError as error:
            raise ValueError(
                f"{name} must broadcast against batch shape {tuple(self.batch_shape)}, "
                f"got shape {tuple(value.shape)}"
            ) from error

    def __repr__(self) -> str:
        shape = tuple(self.batch_shape)
        return f"{type(self).__name__}(batch_shape={shape}, {self._describe()})"

    def _describe(self) -> str:
        raise NotImplementedError


def _register(kind: type[BatchDistribution]) -> None:
    """Make a class of distributions a pytree node of torch's."""

    def keys(distribution: Any) -> tuple[list[tuple[Any, Any]], dict[str, Any]]:
        parts, static = distribution._take_apart()
        return list(zip(map(GetAttrKey, kind._parts), parts, strict=True)), static

    register_pytree_node(
        kind,
        kind._take_apart,
        kind._put_together,
        serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
        to_dumpable_context=kind._dump,
        from_dumpable_context=kind._load,
        flatten_with_keys_fn=keys,
    )


class MaskedPoints(MaskedDistribution):  # type: ignore[misc]  # pyro is untyped
    """A :class:`BatchDistribution` under Pyro's ``mask``, scored by its own masked ``log_prob``."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Score `value`; 0 where the mask is False.

        Args:
            value: Points, shape ``(*, event)``.

        Returns:
            Log densities, shape ``(*)``, in nats.
        """
        if isinstance(self._mask, bool):
            return super().log_prob(value)  # type: ignore[no-any-return]
        return self.base_dist.log_prob(value, mask=self._mask)  # type: ignore[no-any-return]

    def mask(self, mask: bool | Tensor) -> "MaskedPoints":
        """Mask once more: a point counts where both masks are True.

        Args:
            mask: A boolean, or a boolean tensor broadcastable to the batch.

        Returns:
            A distribution under both masks.
        """
        return MaskedPoints(self.base_dist, mask & self._mask)

    def score_parts(self, value: Tensor) -> Any:
        """Pyro's decomposition of the score, whose score function no mask concerns.

        Args:
            value: Points, shape ``(*, event)``.

        Returns:
            Pyro's ``ScoreParts``.
        """
        if isinstance(self._mask, bool):
            return super().score_parts(value)
        log_prob = self.log_prob(value)
        if self.has_rsample:
            return ScoreParts(log_prob, 0, log_prob)
        return ScoreParts(log_prob, self.base_dist._score(self.base_dist._as_numbers(value)), 0)
