"""Pyro's classes, shown to type checkers, for which Pyro says nothing, as torch's."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor
    from torch.distributions import (
        Bernoulli,
        Categorical,
        Distribution,
        MixtureSameFamily,
        MultivariateNormal,
        OneHotCategorical,
    )
    from torch.types import _size

    class TorchDistributionMixin(Distribution):
        """What Pyro adds to a distribution of torch's."""

        @property
        def event_dim(self) -> int: ...
        def __call__(self, sample_shape: _size = ...) -> Tensor: ...
        def shape(self, sample_shape: _size = ...) -> _size: ...
        def has_rsample_(self, value: bool) -> Self: ...
        def expand_by(self, sample_shape: _size) -> Self: ...
        def to_event(self, reinterpreted_batch_ndims: int | None = None) -> Any: ...
        def conjugate_update(self, other: Any) -> Any: ...
        def score_parts(self, value: Tensor, *args: Any, **kwargs: Any) -> Any: ...

    class TorchDistribution(TorchDistributionMixin):
        """A distribution of Pyro's own."""

    class MaskedDistribution(TorchDistributionMixin):
        """A distribution of which a mask leaves out some batch elements."""

        base_dist: Any
        _mask: bool | Tensor

        def __init__(self, base_dist: Any, mask: bool | Tensor) -> None: ...
else:
    from pyro.distributions import (
        Bernoulli,
        Categorical,
        MaskedDistribution,
        MixtureSameFamily,
        MultivariateNormal,
        OneHotCategorical,
    )
    from pyro.distributions.torch_distribution import TorchDistribution, TorchDistributionMixin

__all__ = [
    "Bernoulli",
    "Categorical",
    "MaskedDistribution",
    "MixtureSameFamily",
    "MultivariateNormal",
    "OneHotCategorical",
    "TorchDistribution",
    "TorchDistributionMixin",
]
