"""A mixture of multivariate normal distributions."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from pyro.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch import Size, Tensor
from torch.distributions import constraints

from mdn_dist._checks import check_all
from mdn_dist._maths.density import mixture_log_prob
from mdn_dist._maths.draw import draw_offset
from mdn_dist._maths.em import Covariance, fit_parameters
from mdn_dist._maths.floats import least_scale, widen
from mdn_dist._maths.rosenblatt import reparameterize
from mdn_dist._torch import expanded, static_size, tracing, unviewed
from mdn_dist.algebra import MixtureAlgebra
from mdn_dist.outputs import Bounds, OutputMap


@dataclass(eq=False, init=False, repr=False)
class GaussianMixture(MixtureAlgebra, MixtureSameFamily):  # type: ignore[misc]
    r"""A mixture of ``K`` Gaussians in ``D`` coordinates, each with a Cholesky factor of its own.

    .. math:: p(x) = \sum_k \pi_k N(x; \mu_k, L_k L_k^T)

    It is torch's ``MixtureSameFamily`` of ``MultivariateNormal``, and Pyro's, scored in log space
    and sampled by drawing one component. Batch dimensions broadcast; parameters of several types
    take the widest, half precision is widened to float32.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``; ``-inf`` leaves a component out.
        loc: Component means, shape ``(*, K, D)``, in data units.
        scale_tril: Lower-triangular Cholesky factors of the component covariances, shape
            ``(*, K, D, D)``, with positive diagonals, in data units.
        validate_args: Whether to check the parameters and every value scored; torch's default
            when None.

    Raises:
        TypeError: If a parameter is not a floating-point tensor.
        ValueError: If the shapes do not fit or, under ``validate_args``, if a parameter is invalid.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 23 and 24, for ``D = 2``.

    Example:
        >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
        >>> d.log_prob(torch.zeros(2)).exp()
        tensor(0.1592)
        >>> d
        GaussianMixture(batch_shape=(), components=1, event_size=2, dtype=float32)
    """

    logits: Tensor
    loc: Tensor
    scale_tril: Tensor

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale_tril": constraints.independent(constraints.lower_cholesky, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    _parts = ("logits", "loc", "scale_tril")

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale_tril: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self._set_parameters(logits, loc, scale_tril)
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validates:
            self._check_parameters()

    def _set_parameters(self, logits: Tensor, loc: Tensor, scale_tril: Tensor) -> None:
        """Set the parameters and the shapes that follow, or raise if they do not fit."""
        shape = _component_shape(logits, loc, scale_tril)
        size = loc.shape[-1:]
        dtype = torch.promote_types(logits.dtype, torch.promote_types(loc.dtype, scale_tril.dtype))
        self.logits = expanded(widen(logits.to(dtype)), shape)
        self.loc = expanded(widen(loc.to(dtype)), shape + size)
        self.scale_tril = expanded(widen(scale_tril.to(dtype)), shape + size + size)
        self._batch_shape, self._event_shape = shape[:-1], Size([static_size(size[0])])
        self._num_component, self._event_ndims = static_size(shape[-1]), 1

    @classmethod
    def from_outputs(
        cls,
        outputs: Tensor,
        components: int = 20,
        *,
        event_size: int = 2,
        bounds: Bounds | None = Bounds(),
        validate_args: bool | None = None,
    ) -> Self:
        """Make a mixture from a network's raw outputs.

        Args:
            outputs: Raw outputs, shape ``(*, K (1 + 2 D + D (D - 1) / 2))``: weights, means, log
                standard deviations, unbounded correlations, as
                :class:`mdn_dist.outputs.OutputMap` orders them without a pen.
            components: Number of components ``K``.
            event_size: Number of coordinates ``D``.
            bounds: Limits of scales and correlations; None for the exact maps.
            validate_args: Whether to check the parameters and every value scored.

        Returns:
            A mixture with batch shape ``(*)``.

        Raises:
            TypeError: If `outputs` is not floating point.
            ValueError: If its last dimension has another size.

        Source:
            Graves 2013, equations 19 to 22.

        Example:
            >>> GaussianMixture.from_outputs(torch.zeros(7, 15), components=5, event_size=1)
            GaussianMixture(batch_shape=(7,), components=5, event_size=1, dtype=float32)
        """
        output_map = OutputMap(components, event_size, None, bounds)
        _, logits, loc, scale_tril = output_map.parameters(output_map.accept(outputs))
        return cls(logits, unviewed(loc), unviewed(scale_tril), validate_args=validate_args)

    @classmethod
    def fit(
        cls,
        points: Tensor,
        components: int = 20,
        *,
        covariance: Covariance = "full",
        min_scale: float | None = None,
        restarts: int = 8,
        iterations: int = 200,
        tolerance: float = 1e-4,
        generator: torch.Generator | None = None,
        validate_args: bool | None = None,
    ) -> Self:
        """Fit a mixture to points, without a network, by expectation maximisation.

        Every start takes its components from k-means++ seeds among points whose coordinates are
        compressed by an inverse hyperbolic sine. A few steps on at most 10,000 of the points tell
        the best start, which then goes on with all of them. All is computed in float64.

        Args:
            points: Data, shape ``(N, D)``.
            components: Number of components ``K``.
            covariance: ``"full"``, ``"diagonal"`` or, with one variance in all coordinates,
                ``"spherical"``.
            min_scale: Added in quadrature to every component's scale, in data units, so that
                repeated points cannot make the likelihood infinite. By default a thousandth of
                each coordinate's median distance from its median, whatever the unit; of all
                coordinates' together where `covariance` is spherical.
            restarts: Number of starts.
            iterations: At most this many steps from the best start.
            tolerance: Stop when a step gains less than this, in nats a point.
            generator: Source of randomness; torch's global one by default.
            validate_args: Whether to check every value scored.

        Returns:
            A mixture of batch shape ``()`` and of the dtype of `points`.

        Raises:
            TypeError: If `points` is not a floating-point tensor, or another argument of the wrong
                type.
            ValueError: If `points` is not a non-empty matrix of finite numbers, `covariance` none
                of the three, `components`, `restarts` or `iterations` less than 1, or `min_scale`
                not positive and finite.

        Source:
            Dempster, Laird and Rubin 1977 (EM); Arthur and Vassilvitskii 2007 (k-means++, with
            several candidates a seed); Biernacki, Celeux and Govaert 2003 (short runs first).

        Example:
            >>> points = torch.tensor([[-1.0], [-1.0], [3.0], [3.0]])
            >>> GaussianMixture.fit(points, components=2).loc.flatten().sort().values
            tensor([-1.,  3.])
        """
        logits, loc, scale_tril = fit_parameters(
            points,
            components,
            covariance=covariance,
            min_scale=min_scale,
            restarts=restarts,
            iterations=iterations,
            tolerance=tolerance,
            generator=generator,
        )
        like = widen(points)
        scale_tril = scale_tril.to(like)
        # a narrower type may have rounded the diagonal to 0
        least = least_scale(like.dtype) * torch.eye(points.shape[-1]).to(like)
        return cls(logits.to(like), loc.to(like), scale_tril + least, validate_args)

    @classmethod
    def infer_shapes(cls, logits: Size, loc: Size, scale_tril: Size) -> tuple[Size, Size]:
        """Tell the shapes of a mixture from those of its parameters, as Pyro's protocol has it.

        Args:
            logits: Shape of the unnormalised log weights, ``(*, K)``.
            loc: Shape of the means, ``(*, K, D)``.
            scale_tril: Shape of the Cholesky factors, ``(*, K, D, D)``.

        Returns:
            Batch shape ``(*)`` and event shape ``(D,)``.

        Raises:
            ValueError: If the shapes do not fit.

        Source:
            Pyro's protocol, ``TorchDistributionMixin.infer_shapes``.

        Example:
            >>> GaussianMixture.infer_shapes(logits=(3,), loc=(7, 3, 2), scale_tril=(3, 2, 2))
            (torch.Size([7]), torch.Size([2]))
        """
        shape = _broadcast_components(Size(logits), Size(loc), Size(scale_tril))
        return shape[:-1], Size(loc[-1:])

    @property
    def mixture_distribution(self) -> Categorical:
        """The distribution over components, a ``Categorical`` of batch shape ``(*)``.

        Source:
            torch's ``MixtureSameFamily``.

        Example:
            >>> d = GaussianMixture(torch.zeros(4), torch.zeros(4, 2), torch.eye(2).expand(4, 2, 2))
            >>> d.mixture_distribution.probs
            tensor([0.2500, 0.2500, 0.2500, 0.2500])
        """
        return Categorical(logits=self.logits, validate_args=self._validate_args)

    @property
    def component_distribution(self) -> MultivariateNormal:
        """The components, a ``MultivariateNormal`` of batch shape ``(*, K)``.

        Source:
            torch's ``MixtureSameFamily``.

        Example:
            >>> d = GaussianMixture(torch.zeros(4), torch.zeros(4, 2), torch.eye(2).expand(4, 2, 2))
            >>> d.component_distribution.batch_shape, d.component_distribution.event_shape
            (torch.Size([4]), torch.Size([2]))
        """
        return MultivariateNormal(
            self.loc, scale_tril=self.scale_tril, validate_args=self._validate_args
        )

    def sample(
        self, sample_shape: Size = Size(), generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw points: one component each, then one normal draw from it.

        Args:
            sample_shape: Shape of the independent draws wanted.
            generator: Source of randomness; torch's global one by default.

        Returns:
            Points, shape ``(sample_shape, *, D)``.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, section 8.1.2, ancestral
            sampling.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.sample((5,)).shape
            torch.Size([5, 2])
        """
        shape = Size(sample_shape)
        with torch.no_grad():  # torch.compile would not trace a decorator
            points = draw_offset(self.logits, self.loc, self.scale_tril, shape, generator)
        return points.detach()  # torch.jit.trace takes no notice of no_grad

    def rsample(
        self, sample_shape: Size = Size(), generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the points of :meth:`sample`, with their exact derivatives by the parameters.

        Every parameter has one, the logits too, as if the points came from uniform numbers by the
        inverse of :meth:`rosenblatt`; the average of a gradient over draws is the gradient of the
        average. A weight moves points across the gap between components, and only points inside
        the gap tell: the farther apart the components, in some conditional too, the rarer those
        points and the larger what they say. From some deviations on the gradient by the logits has
        heavy tails; beyond about eight no draw falls there, and averages do not show it.

        Args:
            sample_shape: Shape of the independent draws wanted.
            generator: Source of randomness; torch's global one by default.

        Returns:
            Points, shape ``(sample_shape, *, D)``.

        Source:
            Figurnov, Mohamed and Mnih 2018 (arXiv:1805.08498), equation 6.

        Example:
            >>> loc = torch.tensor([[1.0], [1.0]], requires_grad=True)
            >>> d = GaussianMixture(torch.zeros(2), loc, torch.ones(2, 1, 1))
            >>> torch.autograd.grad(d.rsample().sum(), loc)[0].T
            tensor([[0.5000, 0.5000]])
        """
        value = self.sample(sample_shape, generator)
        return reparameterize(self.logits, self.loc, self.scale_tril, value)

    @property
    def mean(self) -> Tensor:
        """Mean, shape ``(*, D)``.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, equation 9.49.

        Example:
            >>> loc = torch.tensor([[-1.0, 0.0], [3.0, 0.0]])
            >>> d = GaussianMixture(torch.zeros(2), loc, torch.eye(2).expand(2, 2, 2))
            >>> d.mean
            tensor([1., 0.])
        """
        return (self._weights.unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate, shape ``(*, D)``.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, the diagonal of equation
            9.50.

        Example:
            >>> loc = torch.tensor([[-1.0, 0.0], [3.0, 0.0]])
            >>> d = GaussianMixture(torch.zeros(2), loc, torch.eye(2).expand(2, 2, 2))
            >>> d.variance
            tensor([5., 1.])
        """
        return self.covariance_matrix.diagonal(dim1=-2, dim2=-1)

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariance, shape ``(*, D, D)``: within the components and between their means.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, equation 9.50.

        Example:
            >>> loc = torch.tensor([[-1.0, 0.0], [3.0, 0.0]])
            >>> d = GaussianMixture(torch.zeros(2), loc, torch.eye(2).expand(2, 2, 2))
            >>> d.covariance_matrix
            tensor([[5., 0.],
                    [0., 1.]])
        """
        spread = self.loc - self.mean.unsqueeze(-2)  # (*, K, D)
        between = spread.unsqueeze(-1) * spread.unsqueeze(-2)  # (*, K, D, D)
        # no matrix product: autocast would run it in half precision
        columns = self.scale_tril.unbind(-1)
        within = torch.stack([c.unsqueeze(-1) * c.unsqueeze(-2) for c in columns]).sum(0)
        return (self._weights[..., None, None] * (within + between)).sum(-3)

    @property
    def _weights(self) -> Tensor:
        return self.logits.softmax(-1)

    def _score(self, value: Tensor) -> Tensor:
        return mixture_log_prob(self.logits, self.loc, self.scale_tril, value)

    @property
    def _dtype(self) -> torch.dtype:
        return self.loc.dtype

    def _like(self, logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Self:
        new = self._bare_copy()
        new._set_parameters(logits, loc, scale_tril)
        return new

    def _map(self, function: Callable[[Tensor, int], Tensor]) -> Self:
        return self._like(
            function(self.logits, 1), function(self.loc, 2), function(self.scale_tril, 3)
        )

    def _shape_of_batch(self) -> Size:
        return getattr(self.logits, "shape", Size())[:-1]

    def _check(self, value: Tensor) -> None:
        check_all("value", value.isfinite(), "finite", value)

    def _check_parameters(self) -> None:
        top = self.logits.amax(-1, keepdim=True)
        check_all("logits", (self.logits < math.inf) & top.isfinite(), "finite", self.logits)
        check_all("loc", self.loc.isfinite(), "finite", self.loc)
        scale_tril = self.scale_tril
        check_all("scale_tril", scale_tril.isfinite(), "finite", scale_tril)
        check_all("scale_tril", scale_tril == scale_tril.tril(), "lower triangular", scale_tril)
        diagonal = scale_tril.diagonal(dim1=-2, dim2=-1)
        check_all("diagonal of scale_tril", diagonal > 0, "positive", diagonal)

    def _neutral_point(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.event_shape)

    def _describe(self) -> str:
        dtype = str(self.loc.dtype).removeprefix("torch.")
        return f"components={self._num_component}, event_size={self.event_shape[0]}, dtype={dtype}"


def _component_shape(logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Size:
    """Return the broadcast shape ``(*, K)`` of the components, or raise an error."""
    parameters = {"logits": logits, "loc": loc, "scale_tril": scale_tril}
    for name, parameter in parameters.items():
        if not isinstance(parameter, Tensor) or not parameter.is_floating_point():
            got = parameter.dtype if isinstance(parameter, Tensor) else type(parameter).__name__
            raise TypeError(f"{name} must be a floating-point tensor, got {got}")
    return _broadcast_components(logits.shape, loc.shape, scale_tril.shape)


def _broadcast_components(logits: Size, loc: Size, scale_tril: Size) -> Size:
    """Return the shape ``(*, K)`` that the shapes of the parameters have together, or raise."""
    if tracing():
        return torch.broadcast_shapes(logits, loc[:-1], scale_tril[:-2])  # type: ignore[no-any-return]
    parameters = {"logits": (logits, 1), "loc": (loc, 2), "scale_tril": (scale_tril, 3)}
    for name, (shape, dimensions) in parameters.items():
        if len(shape) < dimensions:
            raise ValueError(
                f"{name} must have at least {dimensions} dimensions, got shape {tuple(shape)}"
            )
    size = loc[-1]
    shapes = f"got logits {tuple(logits)}, loc {tuple(loc)}, scale_tril {tuple(scale_tril)}"
    if scale_tril[-2:] != (size, size):
        raise ValueError(
            f"scale_tril must end in ({size}, {size}), as loc ends in {size}; {shapes}"
        )
    try:
        joint: Size = torch.broadcast_shapes(logits, loc[:-1], scale_tril[:-2])
    except RuntimeError as error:
        raise ValueError(f"batch and component dimensions must broadcast; {shapes}") from error
    if logits[-1] != joint[-1]:
        raise ValueError(f"logits must end in the number of components {joint[-1]}; {shapes}")
    if 0 in (joint[-1], size):
        raise ValueError(f"there must be at least one component and one coordinate; {shapes}")
    return joint
