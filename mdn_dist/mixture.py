"""A mixture of multivariate normal distributions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from pyro.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from mdn_dist.batch import BatchDistribution, check_all, register_container
from mdn_dist.draws import draw_offset
from mdn_dist.fitting import fit_parameters
from mdn_dist.functional import component_log_density, unviewed, widen
from mdn_dist.marginals import affine, condition, marginal, resolve_dims
from mdn_dist.modes import at_largest, highest_mode
from mdn_dist.outputs import Bounds, OutputMap, check_bias, check_temperature
from mdn_dist.rosenblatt import inverse_rosenblatt, reparameterize, rosenblatt
from mdn_dist.scoring import mixture_log_prob


@dataclass(eq=False, init=False, repr=False)
class GaussianMixture(BatchDistribution, MixtureSameFamily):  # type: ignore[misc]
    r"""A mixture of ``K`` Gaussians in ``D`` coordinates, each with a Cholesky factor of its own.

    .. math:: p(x) = \sum_k \pi_k N(x; \mu_k, L_k L_k^T)

    It is torch's ``MixtureSameFamily`` of ``MultivariateNormal``, and Pyro's, scored in log space
    and sampled by drawing one component. Batch dimensions broadcast; half precision is widened to
    float32.

    Args:
        logits: Unnormalised log weights, shape ``(*, K)``; ``-inf`` leaves a component out.
        loc: Component means, shape ``(*, K, D)``, in data units.
        scale_tril: Lower-triangular Cholesky factors of the component covariances, shape
            ``(*, K, D, D)``, with positive diagonals, in data units.
        validate_args: Whether to check the parameters and every value scored; torch's default
            when None.

    Raises:
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
    _static = ("_num_component", "_event_ndims", "_event_shape", "_validate_args")

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale_tril: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        shape = _component_shape(logits, loc, scale_tril)
        size = loc.shape[-1:]
        self.logits = _expanded(logits, shape)
        self.loc = _expanded(loc, shape + size)
        self.scale_tril = _expanded(scale_tril, shape + size + size)
        self._num_component = shape[-1]
        self._event_ndims = 1
        Distribution.__init__(self, shape[:-1], size, validate_args=False)
        del self._validate_args  # back to torch's default: the checks below are ours
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validates:
            self._check_parameters()

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
        min_scale: float = 1e-3,
        restarts: int = 8,
        iterations: int = 200,
        tolerance: float = 1e-5,
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
            min_scale: Added in quadrature to every component's scale, in data units, so that
                repeated points cannot make the likelihood infinite.
            restarts: Number of starts.
            iterations: At most this many steps from the best start.
            tolerance: Stop when a step gains less than this, in nats a point.
            generator: Source of randomness; torch's global one by default.
            validate_args: Whether to check every value scored.

        Returns:
            A mixture of batch shape ``()`` and of the dtype of `points`.

        Raises:
            TypeError: If `points` is not floating point.
            ValueError: If `points` is not a non-empty matrix of finite numbers, `components`,
                `restarts` or `iterations` is less than 1, or `min_scale` is not positive and
                finite.

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
            min_scale=min_scale,
            restarts=restarts,
            iterations=iterations,
            tolerance=tolerance,
            generator=generator,
        )
        dtype = widen(points).dtype
        return cls(logits.to(dtype), loc.to(dtype), scale_tril.to(dtype), validate_args)

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

        Example:
            >>> GaussianMixture.infer_shapes(logits=(3,), loc=(7, 3, 2), scale_tril=(3, 2, 2))
            (torch.Size([7]), torch.Size([2]))
        """
        shape = _broadcast_components(Size(logits), Size(loc), Size(scale_tril))
        return shape[:-1], Size(loc[-1:])

    @property
    def mixture_distribution(self) -> Categorical:
        """The distribution over components, as torch's and Pyro's ``Categorical``."""
        return Categorical(logits=self.logits, validate_args=self._validate_args)

    @property
    def component_distribution(self) -> MultivariateNormal:
        """The components, a ``MultivariateNormal`` of batch shape ``(*, K)``."""
        return MultivariateNormal(
            self.loc, scale_tril=self.scale_tril, validate_args=self._validate_args
        )

    def responsibilities(self, value: Tensor) -> Tensor:
        r"""Probability of each component given a point, :math:`\gamma_k`.

        Args:
            value: Points, shape ``(*, D)``.

        Returns:
            Probabilities, shape ``(*, K)``, adding up to 1.

        Raises:
            ValueError: If the shapes do not fit.

        Source:
            Graves 2013, equations 27 and 28.

        Example:
            >>> loc = torch.tensor([[-50.0], [50.0]])
            >>> d = GaussianMixture(torch.zeros(2), loc, torch.ones(2, 1, 1))
            >>> d.responsibilities(torch.tensor([40.0]))
            tensor([0., 1.])
        """
        self._check_shape(value)
        if self._validates:
            self._check(value)
        shares = component_log_density(self.logits, self.loc, self.scale_tril, value)
        return shares.softmax(-1)

    def sample(
        self, sample_shape: Size = Size(), generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw points: one component each, then one normal draw from it.

        Args:
            sample_shape: Shape of the independent draws wanted.
            generator: Source of randomness; torch's global one by default.

        Returns:
            Points, shape ``(sample_shape, *, D)``.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.sample((5,)).shape
            torch.Size([5, 2])
        """
        shape = Size(sample_shape)
        with torch.no_grad():  # torch.compile would not trace a decorator
            return draw_offset(self.logits, self.loc, self.scale_tril, shape, generator)

    def rsample(
        self, sample_shape: Size = Size(), generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the points of :meth:`sample`, with their exact derivatives by the parameters.

        Every parameter has one, the logits too, as if the points came from uniform numbers by the
        inverse of :meth:`rosenblatt`; the average of a gradient over draws is the gradient of the
        average. A weight moves points across the gap between components, and only points inside
        the gap tell: for components more than about eight deviations apart, too few draws fall
        there for the average to show it.

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

    def rosenblatt(self, value: Tensor) -> Tensor:
        """Map points to the unit cube, where this mixture's own samples are uniform.

        Coordinate ``d`` becomes its distribution function given the coordinates before it. Small
        results are as exact as any; near 1 they are rounded, to 1 itself from 5.4 deviations above
        every component in float32, from 8.3 in float64. Differentiable.

        Args:
            value: Points, shape ``(*, D)``.

        Returns:
            Numbers from 0 to 1, shape ``(*, D)``.

        Raises:
            ValueError: If the shapes do not fit or, under ``validate_args``, if a point is not
                finite.

        Source:
            Rosenblatt 1952, Remarks on a multivariate transformation.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.rosenblatt(torch.tensor([0.0, 1.0]))
            tensor([0.5000, 0.8413])
        """
        self._check_shape(value)
        if self._validates:
            self._check(value)
        return rosenblatt(self.logits, self.loc, self.scale_tril, value)

    def inverse_rosenblatt(self, uniform: Tensor) -> Tensor:
        """Map the unit cube to points, inverting :meth:`rosenblatt`.

        Quasi-random numbers become quasi-random points. Differentiable by the parameters and by
        `uniform`.

        Args:
            uniform: Numbers from 0 to 1, shape ``(*, D)``. The two ends, whose points are
                infinite, count as the nearest numbers between them.

        Returns:
            Points, shape ``(*, D)``.

        Raises:
            ValueError: If the shapes do not fit or, under ``validate_args``, if a number is not
                from 0 to 1.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> sobol = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(64)
            >>> d.inverse_rosenblatt(sobol).mean(0).abs() < 0.02
            tensor([True, True])
        """
        self._check_shape(uniform, "uniform")
        if self._validates:
            check_all("uniform", (uniform >= 0) & (uniform <= 1), "from 0 to 1", uniform)
        return inverse_rosenblatt(self.logits, self.loc, self.scale_tril, uniform)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of a smaller value, in one coordinate: :meth:`rosenblatt` without its axis.

        Args:
            value: Points, shape ``(*, 1)``.

        Returns:
            Probabilities, shape ``(*)``.

        Raises:
            NotImplementedError: If there are more coordinates than one.
            ValueError: As of :meth:`rosenblatt`.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
            >>> d.cdf(torch.tensor([[0.0], [1.0]]))
            tensor([0.5000, 0.8413])
        """
        self._check_one_coordinate("cdf", "rosenblatt")
        return self.rosenblatt(value).squeeze(-1)

    def icdf(self, q: Tensor) -> Tensor:
        """Quantile in one coordinate: the inverse of :meth:`cdf`.

        Args:
            q: Probabilities, shape ``(*)``; for the ends see :meth:`inverse_rosenblatt`.

        Returns:
            Points, shape ``(*, 1)``.

        Raises:
            NotImplementedError: If there are more coordinates than one.
            ValueError: As of :meth:`inverse_rosenblatt`.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
            >>> d.icdf(torch.tensor([0.5, 0.8413]))
            tensor([[0.0000],
                    [0.9998]])
        """
        self._check_one_coordinate("icdf", "inverse_rosenblatt")
        return self.inverse_rosenblatt(q.unsqueeze(-1))

    @property
    def mean(self) -> Tensor:
        """Mean, shape ``(*, D)``."""
        return (self._weights.unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate, shape ``(*, D)``."""
        return self.covariance_matrix.diagonal(dim1=-2, dim2=-1)

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariance, shape ``(*, D, D)``: within the components and between their means."""
        spread = self.loc - self.mean.unsqueeze(-2)  # (*, K, D)
        between = spread.unsqueeze(-1) * spread.unsqueeze(-2)  # (*, K, D, D)
        # no matrix product: autocast would run it in half precision
        columns = self.scale_tril.unbind(-1)
        within = torch.stack([c.unsqueeze(-1) * c.unsqueeze(-2) for c in columns]).sum(0)
        return (self._weights[..., None, None] * (within + between)).sum(-3)

    def biased(self, bias: float) -> Self:
        r"""Return the mixture biased towards its more probable points.

        Weights become ``softmax(logits * (1 + bias))``, scales ``scale_tril * exp(-bias)``;
        correlations stay. The result is a mixture: it scores what it samples.

        Args:
            bias: Probability bias, at least 0; 0 changes nothing.

        Returns:
            A new mixture.

        Raises:
            ValueError: If `bias` is negative or not finite.

        Source:
            Graves 2013, equations 61 and 62.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.biased(math.log(2)).variance
            tensor([0.2500, 0.2500])
        """
        check_bias(bias)
        return self._like(self.logits * (1 + bias), self.loc, self.scale_tril * math.exp(-bias))

    def tempered(self, temperature: float) -> Self:
        """Return the mixture at a temperature: logits over it, covariances times it.

        Args:
            temperature: Positive; 1 changes nothing, less makes samples tidier.

        Returns:
            A new mixture.

        Raises:
            ValueError: If `temperature` is not positive and finite.

        Source:
            Ha and Eck 2017 (arXiv:1704.03477), equation 8.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.tempered(0.25).variance
            tensor([0.2500, 0.2500])
        """
        check_temperature(temperature)
        scale_tril = self.scale_tril * math.sqrt(temperature)
        return self._like(self.logits / temperature, self.loc, scale_tril)

    def marginal(self, dims: int | Sequence[int]) -> Self:
        """Return the distribution of some coordinates, whatever the others are.

        Args:
            dims: One coordinate or several, ``M`` in all, each in ``[-D, D)``; the result has them
                in this order.

        Returns:
            A new mixture with the same batch and components, in ``M`` coordinates.

        Raises:
            TypeError: If `dims` holds anything but integers.
            ValueError: If `dims` is empty, out of range, or names a coordinate twice.

        Example:
            >>> loc = torch.tensor([[1.0, 2.0, 3.0]])
            >>> d = GaussianMixture(torch.zeros(1), loc, torch.eye(3).expand(1, 3, 3))
            >>> d.marginal([2, 0]).mean
            tensor([3., 1.])
        """
        dims = resolve_dims(dims, self.event_shape[0])
        return self._like(self.logits, *marginal(self.loc, self.scale_tril, dims))

    def condition(self, dims: int | Sequence[int], values: Tensor) -> Self:
        r"""Return the distribution of the other coordinates, given the values of some.

        .. math:: p(x_b | x_a) = p(x_a, x_b) / p(x_a)

        Components are weighted by their densities of the values. Extra leading dimensions of
        `values` become batch dimensions.

        Args:
            dims: The coordinates given, one or several, ``M`` in all, each in ``[-D, D)``.
            values: Their values in this order, shape ``(*, M)``, broadcast against the batch.

        Returns:
            A new mixture in the other ``D - M`` coordinates, which keep their order.

        Raises:
            TypeError: If `dims` holds anything but integers.
            ValueError: If `dims` is empty, out of range, names a coordinate twice or names all of
                them, if the shape of `values` does not fit or, under ``validate_args``, if `values`
                is not finite.

        Example:
            >>> factor = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), factor)
            >>> given = d.condition(0, torch.tensor([2.0]))
            >>> given.mean, given.stddev
            (tensor([6.]), tensor([4.]))
        """
        dims = resolve_dims(dims, self.event_shape[0])
        self._check_shape(values, "values", len(dims))
        if self._validates:
            check_all("values", values.isfinite(), "finite", values)
        return self._like(*condition(self.logits, self.loc, self.scale_tril, dims, values))

    def affine(self, loc: float | Tensor, scale: float | Tensor) -> Self:
        """Return the distribution of ``loc + scale * x``, as in other units.

        It undoes a normalisation: the density is in data units then. There,
        ``d.affine(loc, scale).log_prob(loc + scale * x)`` is
        ``d.log_prob(x) - log(abs(scale)).sum(-1)``.

        Args:
            loc: What is added to each coordinate: a number, or a tensor of shape ``(*, D)`` that
                broadcasts against the batch; brought to the mixture's precision and device.
            scale: The factor of each coordinate, not zero; likewise.

        Returns:
            A new mixture.

        Raises:
            ValueError: If the shapes do not fit or, under ``validate_args``, if a number is not
                finite or `scale` is zero.

        Example:
            >>> from mdn_dist.data import Normalization
            >>> units = Normalization(torch.tensor([8.0, 0.0]), torch.tensor([40.0, 20.0]))
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> in_data_units = d.affine(units.loc, units.scale)
            >>> in_data_units.mean, in_data_units.stddev
            (tensor([8., 0.]), tensor([40., 20.]))
        """
        shift, factor = self._coefficients("loc", loc), self._coefficients("scale", scale)
        if self._validates:
            check_all("scale", factor != 0, "finite and not zero", factor)
        return self._like(self.logits, *affine(self.loc, self.scale_tril, shift, factor))

    def _coefficients(self, name: str, given: float | Tensor) -> Tensor:
        """Return a number for each coordinate, shape ``(*, D)``, as the mixture's own numbers."""
        numbers = torch.as_tensor(given, dtype=self.loc.dtype, device=self.loc.device)
        if not numbers.dim():
            numbers = numbers.expand(self.event_shape)
        self._check_shape(numbers, name)
        if self._validates:
            check_all(name, numbers.isfinite(), "finite", numbers)
        return numbers

    @property
    def mode(self) -> Tensor:
        """The point of the highest density, shape ``(*, D)``, without a gradient.

        The highest of the modes to which ascents lead from every mean, and from where components
        cross; a mixture may have more modes than components. Of equal modes, one is taken.
        """
        return highest_mode(self.logits, self.loc, self.scale_tril)

    @property
    def component_mode(self) -> Tensor:
        """Mean of the component with the largest weight, shape ``(*, D)``.

        All points drawn from :meth:`biased` tend to it as the bias grows, unless several components
        share the largest weight: of these the first is taken. Graves 2013, section 5.4.
        """
        return at_largest(self.logits, self.loc)

    @property
    def _weights(self) -> Tensor:
        return self.logits.softmax(-1)

    def _score(self, value: Tensor) -> Tensor:
        return mixture_log_prob(self.logits, self.loc, self.scale_tril, value)

    def _like(self, logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Self:
        new = type(self)(logits, loc, scale_tril, validate_args=False)
        new._validate_args = self._validate_args
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

    def _check_one_coordinate(self, asked: str, instead: str) -> None:
        if self.event_shape != (1,):
            raise NotImplementedError(
                f"{asked} is for one coordinate, got {self.event_shape[0]}; "
                f"{instead} takes any number"
            )

    def _neutral_point(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.event_shape)

    def _describe(self) -> str:
        dtype = str(self.loc.dtype).removeprefix("torch.")
        return f"components={self._num_component}, event_size={self.event_shape[0]}, dtype={dtype}"


register_container(GaussianMixture)


def _expanded(parameter: Tensor, shape: Size) -> Tensor:
    """Return `parameter`, widened, in `shape`; itself where nothing is to be done."""
    parameter = widen(parameter)
    return parameter if parameter.shape == shape else parameter.expand(shape)


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
    parameters = {"logits": (logits, 1), "loc": (loc, 2), "scale_tril": (scale_tril, 3)}
    for name, (shape, dimensions) in parameters.items():
        if len(shape) < dimensions:
            raise ValueError(
                f"{name} must have at least {dimensions} dimensions, got shape {tuple(shape)}"
            )
    shapes = f"got logits {tuple(logits)}, loc {tuple(loc)}, scale_tril {tuple(scale_tril)}"
    size = loc[-1]
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
