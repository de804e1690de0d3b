"""What the distributions share: scores, draws and masks over a batch of points."""

import math
from abc import abstractmethod
from typing import Any

import torch
from pyro.distributions.score_parts import ScoreParts
from torch import Size, Tensor
from torch.distributions import Distribution

from mdn_dist._checks import check_counts, check_mask, check_tensor
from mdn_dist._container import Container
from mdn_dist._maths.floats import widen
from mdn_dist._pyro import MaskedDistribution, TorchDistributionMixin
from mdn_dist._torch import Shape, traced, tracing


class BatchDistribution(Container, TorchDistributionMixin):
    """A Pyro distribution over points whose batch can be indexed, expanded and masked."""

    _validate_args: bool

    @abstractmethod
    def _score(self, value: Tensor, mask: Tensor | None) -> Tensor:
        """Return the log density of `value`, checked; 0 where `mask` is False, as `value` is."""

    @abstractmethod
    def _draw(self, sample_shape: Size, generator: torch.Generator | None) -> Tensor:
        """Return points ``(sample_shape, *, event)``."""

    @abstractmethod
    def _check(self, value: Tensor, mask: Tensor | None = None) -> None:
        """Raise ValueError if `value`, whose shape is right, is outside the support.

        Where `mask` is False it is zeros, which need not be in it.
        """

    @property
    @abstractmethod
    def _dtype(self) -> torch.dtype:
        """The type of the parameters."""

    @abstractmethod
    def _describe(self) -> str:
        """Return what ``repr`` says beside the batch shape."""

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score `value`; points that `mask` leaves out score 0, whatever they hold.

        Under a mask, sums of scores and their gradients are those of the points that it keeps: NaN
        in the others, in their parameters too, reaches neither the loss nor a gradient.

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
        value = self._as_numbers(value)
        if mask is not None:
            mask = self._broadcast_mask(mask, value)
            value = torch.where(mask.unsqueeze(-1), value, 0.0)
        if self._validates:
            self._check(value, mask)
        return self._score(value, mask)

    def _broadcast_mask(self, mask: Tensor, value: Tensor) -> Tensor:
        check_mask(mask)
        shape: Size = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        try:
            return mask.expand(shape)
        except RuntimeError as error:
            raise ValueError(
                f"mask must be broadcastable to {tuple(shape)}, got {tuple(mask.shape)}"
            ) from error

    def sample(
        self, sample_shape: Shape = Size(), generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw points.

        Args:
            sample_shape: Shape of the independent draws wanted.
            generator: Source of randomness; torch's global one by default.

        Returns:
            Points, shape ``(sample_shape, *, event)``, without a gradient.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, section 8.1.2, ancestral
            sampling: a component, then a point of it.

        Example:
            >>> from mdn_dist import StrokeDistribution
            >>> d = StrokeDistribution.from_outputs(torch.zeros(4, 121))
            >>> d.sample((5,), generator=torch.Generator().manual_seed(0)).shape
            torch.Size([5, 4, 3])
        """
        with torch.no_grad():  # torch.compile would not trace a decorator
            points = self._draw(Size(sample_shape), generator)
        return points.detach()  # torch.jit.trace takes no notice of no_grad

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
            NotImplementedError: Always; `entropy_bounds` and `entropy_estimate` tell it nearly.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> lower, upper = d.entropy_bounds()
        """
        raise NotImplementedError(
            f"the entropy of a {type(self).__name__} has no closed form; entropy_bounds() holds it "
            "between two, entropy_estimate() averages -log_prob over samples"
        )

    def entropy_estimate(
        self, samples: int = 1000, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Estimate the entropy by the average of ``-log_prob`` over samples.

        Args:
            samples: How many to draw for each batch element, at least 2.
            generator: Source of randomness; torch's global one by default.

        Returns:
            The estimate and its standard error, each ``(*)``, in nats, without a gradient.

        Raises:
            TypeError: If `samples` is not an integer.
            ValueError: If it is less than 2.

        Source:
            Hershey and Olsen 2007, "Approximating the Kullback Leibler divergence between Gaussian
            mixture models", section 2.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> estimate, error = d.entropy_estimate(10_000)
            >>> (estimate - math.log(2 * math.pi * math.e)).abs() < 5 * error
            tensor(True)
        """
        _check_samples(samples)
        with torch.no_grad():
            return _mean_and_error(-self.log_prob(self.sample((samples,), generator)))

    def kl_estimate(
        self,
        other: Distribution,
        samples: int = 1000,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Estimate the Kullback-Leibler divergence of this from `other`, by samples of this.

        Args:
            other: Any distribution of the same event shape whose batch broadcasts.
            samples: How many to draw for each batch element, at least 2.
            generator: Source of randomness; torch's global one by default.

        Returns:
            The estimate and its standard error, each of the batch shape that both have together, in
            nats, without a gradient. An estimate may be negative, as the divergence may not.

        Raises:
            TypeError: If `other` is not a distribution, or `samples` not an integer.
            ValueError: If the shapes do not fit, or `samples` is less than 2.

        Source:
            Hershey and Olsen 2007, "Approximating the Kullback Leibler divergence between Gaussian
            mixture models", section 2.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
            >>> estimate, error = d.kl_estimate(d.affine(1.0, 1.0), 10_000)
            >>> (estimate - 0.5).abs() < 5 * error
            tensor(True)
        """
        _check_samples(samples)
        mine = self.expand(self._batch_with(other))
        with torch.no_grad():
            points = mine.sample((samples,), generator)
            return _mean_and_error(mine.log_prob(points) - other.log_prob(points))

    def _batch_with(self, other: Distribution) -> Size:
        """Return the batch shape that this and another distribution have together, or raise."""
        if not isinstance(other, Distribution):
            raise TypeError(f"other must be a distribution, got {type(other).__name__}")
        if other.event_shape != self.event_shape:
            raise ValueError(
                f"other must have event shape {tuple(self.event_shape)}, "
                f"got {tuple(other.event_shape)}"
            )
        try:
            shape: Size = torch.broadcast_shapes(self.batch_shape, other.batch_shape)
        except RuntimeError as error:
            raise ValueError(
                f"other must broadcast against batch shape {tuple(self.batch_shape)}, "
                f"got {tuple(other.batch_shape)}"
            ) from error
        return shape

    @property
    def _validates(self) -> bool:
        return self._validate_args and not traced()

    def _accept(self, value: Tensor) -> Tensor:
        """Return points ``(*, event)`` as numbers to compute with, checked."""
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
        self._check_batch(value, name, value.shape[:-1])

    def _check_batch(self, value: Tensor, name: str, batch: Size) -> None:
        """Raise ValueError unless `batch`, that of `value`, broadcasts against the batch shape."""
        try:
            torch.broadcast_shapes(batch, self.batch_shape)
        except RuntimeError as error:
            raise ValueError(
                f"{name} must broadcast against batch shape {tuple(self.batch_shape)}, "
                f"got shape {tuple(value.shape)}"
            ) from error

    def __repr__(self) -> str:
        shape = tuple(self.batch_shape)
        return f"{type(self).__name__}(batch_shape={shape}, {self._describe()})"


def _check_samples(samples: int) -> None:
    check_counts(samples=samples)
    if samples < 2:
        raise ValueError(f"samples must be at least 2, for a standard error, got {samples}")


def _mean_and_error(drawn: Tensor) -> tuple[Tensor, Tensor]:
    return drawn.mean(0), drawn.std(0) / math.sqrt(len(drawn))


def only_kept(mask: Tensor, parameter: Tensor, dimensions: int, neutral: float) -> Tensor:
    """Return a parameter ``(*, ...)``, `neutral` where no point of `mask` needs it."""
    batch = parameter.shape[: parameter.dim() - dimensions]
    same = tracing() or mask.shape == batch
    needed = mask if same else mask.long().sum_to_size(batch) > 0
    return torch.where(needed[(..., *[None] * dimensions)], parameter, neutral)


class MaskedPoints(MaskedDistribution):
    """A :class:`BatchDistribution` under Pyro's ``mask``, scored by its own masked ``log_prob``."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Score points ``(*, event)``; 0 where the mask is False."""
        if isinstance(self._mask, bool):
            return super().log_prob(value)
        scored: Tensor = self.base_dist.log_prob(value, mask=self._mask)
        return scored

    def mask(self, mask: bool | Tensor) -> "MaskedPoints":
        """Mask once more: a point counts where both masks are True."""
        return MaskedPoints(self.base_dist, mask & self._mask)

    def score_parts(self, value: Tensor) -> Any:
        """Pyro's decomposition of the score, whose score function no mask concerns."""
        if isinstance(self._mask, bool):
            return super().score_parts(value)
        log_prob = self.log_prob(value)
        if self.has_rsample:
            return ScoreParts(log_prob, 0, log_prob)
        bare = self.base_dist._score(self.base_dist._as_numbers(value), None)
        return ScoreParts(log_prob, bare, 0)
