"""Mixtures of multivariate normal distributions, from parameters and from a network's outputs."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, ParamSpec, Self, final

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from mdn_dist._batch import BatchDistribution, only_kept
from mdn_dist._checks import (
    Covariance,
    check_all,
    check_bias,
    check_counts,
    check_distance,
    check_finite,
    check_probabilities,
    check_temperature,
    check_tensor,
    is_number,
)
from mdn_dist._fused import draw_rows, is_fused, row_log_prob
from mdn_dist._maths import algebra, divergences, intervals, scores
from mdn_dist._maths.batches import Batch
from mdn_dist._maths.density import mixture_log_prob, posterior, whiten
from mdn_dist._maths.draw import draw_components, draw_offset
from mdn_dist._maths.em import fit_parameters
from mdn_dist._maths.floats import widen
from mdn_dist._maths.modes import at_largest, highest_mode
from mdn_dist._maths.parameters import check_parameters, component_shape, joint
from mdn_dist._maths.peaks import highest_modes
from mdn_dist._maths.rosenblatt import inverse_rosenblatt, reparameterize, rosenblatt
from mdn_dist._pyro import Categorical, MixtureSameFamily, MultivariateNormal
from mdn_dist._torch import Shape, lazy_property, static_size, tracing
from mdn_dist.outputs import Bounds, OutputMap, Parameters
from mdn_dist.regions import HighestDensityRegion

P = ParamSpec("P")


class GaussianMixture(BatchDistribution, MixtureSameFamily):
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

    arg_constraints: dict[str, constraints.Constraint] = {  # noqa: RUF012  # as torch has it
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale_tril": constraints.independent(constraints.lower_cholesky, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    _parts: ClassVar[dict[str, int]] = {"logits": 1, "loc": 2, "scale_tril": 3}
    _event_ndims = 1

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale_tril: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        for name, parameter in joint(logits, loc, scale_tril).items():
            setattr(self, name, parameter)  # torch 2.8 cannot trace an update of __dict__
        self._settle()
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validates:
            check_parameters(*self._parameters)

    @staticmethod
    def from_outputs(
        outputs: Tensor,
        components: int | None = None,
        *,
        event_size: int = 2,
        covariance: Covariance = "full",
        bounds: Bounds | None = Bounds(),
        validate_args: bool | None = None,
    ) -> "OutputMixture":
        """Make a mixture from a network's raw outputs.

        Args:
            outputs: Raw outputs, shape ``(*, size)``, with ``K (1 + 2 D + D (D - 1) / 2)`` values,
                ``K (1 + 2 D)`` if diagonal, ``K (2 + D)`` if spherical: weights, means, log
                standard deviations, unbounded correlations, in the order of
                :class:`mdn_dist.outputs.OutputMap`. Half precision is computed in float32.
            components: Number of components ``K``; by default what the length of a row tells.
            event_size: Number of coordinates ``D``.
            covariance: ``"full"``, ``"diagonal"`` or ``"spherical"``.
            bounds: Limits of scales and correlations; None for the exact maps.
            validate_args: Whether to check the outputs and every value scored.

        Returns:
            A mixture with batch shape ``(*)``.

        Raises:
            TypeError: If `outputs` is not floating point.
            ValueError: If its last dimension has another size or, under ``validate_args``, if it
                is not finite.

        Source:
            Graves 2013, equations 19 to 22.

        Example:
            >>> GaussianMixture.from_outputs(torch.zeros(7, 15), event_size=1)
            OutputMixture(batch_shape=(7,), components=5, event_size=1, dtype=float32)
        """
        output_map = OutputMap.of_rows(outputs, components, event_size, covariance, bounds)
        return OutputMixture(outputs, output_map, validate_args)

    @classmethod
    def fit(
        cls,
        points: Tensor | Iterable[Batch],
        components: int = 20,
        *,
        weights: Tensor | None = None,
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
        the best start, which then goes on with all of them, a pass a step. All is computed in
        float64.

        Args:
            points: Data, shape ``(N, D)``; or batches of such, for more than memory holds: anything
                that can be gone through repeatedly, as a list or a ``DataLoader``, of tensors or of
                pairs of points and their weights.
            components: Number of components ``K``.
            weights: How often each point counts, shape ``(N)``, at least 0; once by default. Only
                with one tensor of `points`.
            covariance: ``"full"``, ``"diagonal"`` or ``"spherical"``.
            min_scale: Added in quadrature to every component's scale, in data units, so that
                repeated points cannot make the likelihood infinite. By default a thousandth of
                each coordinate's median distance from its median, in the 10,000 points or fewer
                that start the fit, whatever the unit.
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
            ValueError: If `points` is not a non-empty matrix of finite numbers, `weights` does not
                fit or is negative, or another argument is out of range.

        Source:
            Dempster, Laird and Rubin 1977 (EM); Arthur and Vassilvitskii 2007 (k-means++, with
            several candidates a seed); Biernacki, Celeux and Govaert 2003 (short runs first).

        Example:
            >>> points = torch.tensor([[-1.0], [-1.0], [3.0], [3.0]])
            >>> GaussianMixture.fit(points, components=2).loc.flatten().sort().values
            tensor([-1.,  3.])
        """
        parameters = fit_parameters(
            points,
            components,
            weights=weights,
            covariance=covariance,
            min_scale=min_scale,
            restarts=restarts,
            iterations=iterations,
            tolerance=tolerance,
            generator=generator,
        )
        return cls(*parameters, validate_args)

    @classmethod
    def infer_shapes(cls, logits: Shape, loc: Shape, scale_tril: Shape) -> tuple[Size, Size]:
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
        shape = component_shape(Size(logits), Size(loc), Size(scale_tril))
        return shape[:-1], Size(loc[-1:])

    @property
    def mixture_distribution(self) -> Categorical:
        """The distribution over components, a ``Categorical`` of batch shape ``(*)``.

        Example:
            >>> d = GaussianMixture(torch.zeros(4), torch.zeros(4, 2), torch.eye(2).expand(4, 2, 2))
            >>> d.mixture_distribution.probs
            tensor([0.2500, 0.2500, 0.2500, 0.2500])
        """
        return Categorical(logits=self.logits, validate_args=self._validate_args)

    @property
    def component_distribution(self) -> MultivariateNormal:
        """The components, a ``MultivariateNormal`` of batch shape ``(*, K)``.

        Example:
            >>> d = GaussianMixture(torch.zeros(4), torch.zeros(4, 2), torch.eye(2).expand(4, 2, 2))
            >>> d.component_distribution.batch_shape, d.component_distribution.event_shape
            (torch.Size([4]), torch.Size([2]))
        """
        return MultivariateNormal(
            self.loc, scale_tril=self.scale_tril, validate_args=self._validate_args
        )

    def rsample(
        self, sample_shape: Shape = Size(), generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the points of ``sample``, with their exact derivatives by the parameters.

        Every parameter has one, the logits too, as if the points came from uniform numbers by
        :meth:`inverse_rosenblatt`; the average of a gradient over draws is the gradient of the
        average. A weight moves points across the gap between components, and only points inside
        the gap tell: the farther apart the components, in some conditional too, the rarer those
        points and the larger what they say. From some deviations on the gradient by the logits has
        heavy tails; beyond about eight no draw falls there, and averages do not show it:
        :meth:`rsample_components` has no such gap.

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
        return reparameterize(*self._parameters, self.sample(sample_shape, generator))

    def rsample_components(
        self, sample_shape: Shape = Size(), generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Draw a point of each component, with its derivatives by that component's parameters.

        Weighted by ``logits.softmax(-1)``, what a function has for them adds up to an estimate of
        its average, :math:`\sum_k \pi_k f(x_k)`, whose gradient is right and of light tails however
        far apart the components are, at the cost of `K` evaluations a draw.

        Args:
            sample_shape: Shape of the independent draws wanted.
            generator: Source of randomness; torch's global one by default.

        Returns:
            Points, shape ``(sample_shape, *, K, D)``.

        Source:
            Morningstar et al. 2021 (arXiv:2003.01687), stratified sampling.

        Example:
            >>> logits = torch.zeros(2, requires_grad=True)
            >>> d = GaussianMixture(logits, torch.tensor([[-50.0], [50.0]]), torch.ones(2, 1, 1))
            >>> right = (d.rsample_components((9,)).squeeze(-1) > 0).float()  # (9, 2)
            >>> torch.autograd.grad((logits.softmax(-1) * right).sum(-1).mean(), logits)
            (tensor([-0.2500,  0.2500]),)
        """
        return draw_components(self.loc, self.scale_tril, Size(sample_shape), generator)

    def elbo(
        self,
        log_joint: Callable[[Tensor], Tensor],
        samples: int = 1,
        *,
        importance_weighted: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Estimate the evidence lower bound of this mixture as a posterior, to be maximised.

        By points of each component, :meth:`rsample_components`, so that gradients by every
        parameter hold, the weights' too, whatever the distance between modes:

        .. math:: \frac{1}{N} \sum_{n, k} \pi_k \log \frac{p(x_{kn})}{q(x_{kn})}
           \qquad \text{or} \qquad
           \log \frac{1}{N} \sum_{n, k} \pi_k \frac{p(x_{kn})}{q(x_{kn})}.

        The second, importance weighted, is nearer to the evidence. But between modes apart it takes
        no notice of the weights, which cancel in it: train by the first, and report the second.

        Args:
            log_joint: Takes points, shape ``(K, N, *, D)``, to log densities ``(K, N, *)``, up to a
                constant, in nats.
            samples: Number `N` of points of each component.
            importance_weighted: Whether to return the second.
            generator: Source of randomness; torch's global one by default.

        Returns:
            Estimates, shape ``(*)``, in nats, differentiable.

        Raises:
            TypeError: If `samples` is not an integer.
            ValueError: If it is less than 1, or `log_joint` returns another shape.

        Source:
            Morningstar et al. 2021 (arXiv:2003.01687), the stratified ELBO and SIWAE.

        Example:
            >>> loc = torch.tensor([[-5.0], [5.0]])
            >>> d = GaussianMixture(torch.tensor([1.0, 0.0]), loc, torch.ones(2, 1, 1))
            >>> evidence = 3.0
            >>> d.elbo(lambda x: d.log_prob(x) + evidence)
            tensor(3.)
        """
        check_counts(samples=samples)
        points = self.rsample_components((samples,), generator).movedim(-2, 0)
        log_prob, joint = self.log_prob(points), log_joint(points)
        if not tracing() and joint.shape != log_prob.shape:
            raise ValueError(
                f"log_joint must return shape {tuple(log_prob.shape)}, got {tuple(joint.shape)}"
            )
        return divergences.stratified_elbo(
            self.logits, joint - log_prob, importance_weighted=importance_weighted
        )

    @property
    def mean(self) -> Tensor:
        """Mean, shape ``(*, D)``.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, equation 9.49.

        Example:
            >>> loc = torch.tensor([[-1.0, 0.0], [3.0, 0.0]])
            >>> GaussianMixture(torch.zeros(2), loc, torch.eye(2).expand(2, 2, 2)).mean
            tensor([1., 0.])
        """
        return algebra.mean(self.logits, self.loc)

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate, shape ``(*, D)``: the diagonal of the covariance."""
        return self.covariance_matrix.diagonal(dim1=-2, dim2=-1)

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariance, shape ``(*, D, D)``: within the components and between their means.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, equation 9.50.

        Example:
            >>> loc = torch.tensor([[-1.0, 0.0], [3.0, 0.0]])
            >>> GaussianMixture(torch.zeros(2), loc, torch.eye(2).expand(2, 2, 2)).covariance_matrix
            tensor([[5., 0.],
                    [0., 1.]])
        """
        return algebra.covariance(*self._parameters)

    @property
    def mode(self) -> Tensor:
        """The point of the highest density, shape ``(*, D)``, without a gradient.

        The highest of the modes to which ascents lead from every mean, and from where components
        cross; a mixture may have more modes than components. Of equal modes, one is taken.

        Source:
            Carreira-Perpinan 2000, "Mode-finding for mixtures of Gaussian distributions", for
            ascents from the means.

        Example:
            >>> scale_tril = torch.tensor([2.0, 1.0]).view(2, 1, 1)
            >>> GaussianMixture(torch.zeros(2), torch.tensor([[0.0], [99.0]]), scale_tril).mode
            tensor([99.])
        """
        return highest_mode(*self._parameters)

    def modes(self, k: int, min_distance: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Find the highest distinct modes and the probability around each, without a gradient.

        Ascents lead from every mean and from where components cross, as for :attr:`mode`; a mode
        that none of them meets is missed. From the highest on, modes nearer to one already taken
        than `min_distance` are dropped, as trajectory prediction does by non-maximum suppression.

        The mass of a mode is the weight of the components whose own ascents, from their means, end
        there or in a mode that it dropped: a basin of attraction takes a component whole, instead
        of the integral over it. Masses of all modes add up to 1. There is no loss to train for it
        but the score: one that counts the best of `k` points alone scores no distribution.

        Args:
            k: How many modes to return, at least 1.
            min_distance: Least distance between two of them, in data units, at least 0. At 0 all
                that are a thousandth of a standard deviation apart are distinct.

        Returns:
            Modes by falling density, shape ``(*, k, D)``; their log densities ``(*, k)``, in nats;
            their masses ``(*, k)``. Where there are fewer, NaN, ``-inf`` and 0 follow.

        Raises:
            TypeError: If `k` is not an integer, or `min_distance` not a number.
            ValueError: If `k` is less than 1, or `min_distance` is negative or not finite.

        Source:
            Carreira-Perpinan 2000, "Mode-finding for mixtures of Gaussian distributions", for
            ascents from the means.

        Example:
            >>> loc = torch.tensor([[1.0], [9.0], [9.5]])
            >>> d = GaussianMixture(torch.zeros(3), loc, torch.ones(3, 1, 1))
            >>> points, log_density, mass = d.modes(k=2)
            >>> points.T, mass
            (tensor([[9.2500, 1.0000]]), tensor([0.6667, 0.3333]))
        """
        check_counts(k=k)
        check_distance("min_distance", min_distance)
        return highest_modes(*self._parameters, k, min_distance)

    @property
    def component_mode(self) -> Tensor:
        """Mean of the component with the largest weight, shape ``(*, D)``.

        All points drawn from :meth:`biased` tend to it as the bias grows, unless several components
        share the largest weight: of these the first is taken.

        Source:
            Graves 2013, equations 61 and 62, as the bias grows.

        Example:
            >>> loc, scale_tril = torch.tensor([[0.0], [9.0]]), torch.ones(2, 1, 1)
            >>> GaussianMixture(torch.tensor([1.0, 0.0]), loc, scale_tril).component_mode
            tensor([0.])
        """
        return at_largest(self.logits, self.loc)

    def responsibilities(self, value: Tensor) -> Tensor:
        r"""Probability of each component given a point, :math:`\gamma_k`.

        Args:
            value: Points, shape ``(*, D)``.

        Returns:
            Probabilities, shape ``(*, K)``, adding up to 1.

        Raises:
            ValueError: If the shapes do not fit or, under ``validate_args``, if a point is not
                finite.

        Source:
            Graves 2013, equations 27 and 28.

        Example:
            >>> loc = torch.tensor([[-50.0], [50.0]])
            >>> d = GaussianMixture(torch.zeros(2), loc, torch.ones(2, 1, 1))
            >>> d.responsibilities(torch.tensor([40.0]))
            tensor([0., 1.])
        """
        logits, loc, scale_tril = self._parameters
        whitened = whiten(loc, scale_tril, self._accept(value))
        log_responsibility, _ = posterior(logits, loc, scale_tril, whitened)
        return log_responsibility.exp()

    def entropy_bounds(self) -> tuple[Tensor, Tensor]:
        """Bound the entropy, which has no closed form, from both sides; differentiable.

        From the divergences between components: of one Gaussian both are exact, and so they are of
        components far apart, or all alike. For an estimate see :meth:`entropy_estimate`.

        Returns:
            A lower and an upper bound, each ``(*)``, in nats.

        Source:
            Kolchinsky and Tracey 2017 (arXiv:1706.02419), with the Bhattacharyya distance below and
            the Kullback-Leibler divergence above.

        Example:
            >>> loc = torch.tensor([[0.0], [2.0]])
            >>> GaussianMixture(torch.zeros(2), loc, torch.ones(2, 1, 1)).entropy_bounds()
            (tensor(1.6380), tensor(1.9852))
        """
        return divergences.entropy_bounds(*self._parameters)

    def kl_bounds(self, other: "GaussianMixture") -> tuple[Tensor, Tensor]:
        """Bound the Kullback-Leibler divergence of this mixture from another; differentiable.

        The cross-entropy's bounds less the entropy's. Both are exact between Gaussians, and the
        lower one is never less than 0; it can be far too low where `other` has components that
        differ in shape. The variational approximation of Hershey and Olsen 2007 is no bound.
        For an estimate see :meth:`kl_estimate`.

        Args:
            other: A mixture in as many coordinates, of any number of components, whose batch
                broadcasts.

        Returns:
            A lower and an upper bound, each of the batch shape that both have together, in nats.

        Raises:
            TypeError: If `other` is not a mixture.
            ValueError: If the shapes do not fit.

        Source:
            Durrieu, Thiran and Kelly 2012, "Lower and upper bounds for approximation of the
            Kullback-Leibler divergence between Gaussian mixture models"; Kolchinsky and Tracey 2017
            (arXiv:1706.02419) for the entropy.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.kl_bounds(d.affine(2.0, 1.0))
            (tensor(4.), tensor(4.))
        """
        if not isinstance(other, GaussianMixture):
            raise TypeError(f"other must be a GaussianMixture, got {type(other).__name__}")
        self._batch_with(other)
        return divergences.kl_bounds(self._parameters, other._parameters)

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
        return rosenblatt(*self._parameters, self._accept(value))

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

        Source:
            Rosenblatt 1952, Remarks on a multivariate transformation.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> sobol = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(64)
            >>> d.inverse_rosenblatt(sobol).mean(0).abs() < 0.02
            tensor([True, True])
        """
        uniform = self._as_numbers(uniform, "uniform")
        if self._validates:
            check_all("uniform", (uniform >= 0) & (uniform <= 1), "from 0 to 1", uniform)
        return inverse_rosenblatt(*self._parameters, uniform)

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
            q: Probabilities, shape ``(*)``, as :meth:`cdf` returns them: without a dimension for
                the coordinate, and ending in the whole batch shape, or one number for all. For the
                ends see :meth:`inverse_rosenblatt`.

        Returns:
            Points, shape ``(*, 1)``.

        Raises:
            NotImplementedError: If there are more coordinates than one.
            TypeError: If `q` is not a tensor.
            ValueError: If the shape of `q` does not fit or, under ``validate_args``, if a number is
                not from 0 to 1.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
            >>> d.icdf(torch.tensor([0.5, 0.8413]))
            tensor([[0.0000],
                    [0.9998]])
        """
        self._check_one_coordinate("icdf", "inverse_rosenblatt")
        check_tensor(q, "q")
        batch = self.batch_shape
        if q.dim() and batch and q.shape[-len(batch) :] != batch[-q.dim() :]:
            raise ValueError(
                f"q must end in the batch shape {tuple(batch)}, without a dimension for the "
                f"coordinate, got shape {tuple(q.shape)}"
            )
        return self.inverse_rosenblatt(q.unsqueeze(-1))

    def crps(self, value: Tensor) -> Tensor:
        r"""Score each coordinate of points by the continuous ranked probability score.

        .. math:: \int (F(y) - 1\{y \ge x\})^2 \, dy

        for the distribution function :math:`F` of the coordinate, in closed form and
        differentiable. It is proper, lower is better, and far points cost their distance, not its
        square. As a loss it knows nothing of what coordinates have to do with each other;
        :meth:`energy_score` and ``log_prob`` do.

        Args:
            value: Points, shape ``(*, D)``.

        Returns:
            Scores, shape ``(*, D)``, in the units of each coordinate.

        Raises:
            TypeError: If `value` is not a tensor.
            ValueError: If the shapes do not fit or, under ``validate_args``, if a point is not
                finite.

        Source:
            Gneiting and Raftery 2007, Strictly proper scoring rules, prediction, and estimation,
            section 4.2; Grimit, Gneiting, Berrocal and Johnson 2006 for mixtures.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.crps(torch.tensor([0.0, 30.0]))
            tensor([ 0.2337, 29.4358])
        """
        return scores.crps(*self._parameters, self._accept(value))

    def energy_score(
        self, value: Tensor, samples: int = 64, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Score points by the energy score, of which draws give an estimate without bias.

        .. math:: E|X - x| - \frac12 E|X - X'|

        It is proper for the coordinates together, lower is better; in one coordinate it is
        :meth:`crps`. It is differentiable as :meth:`rsample` is, whose word of caution on far
        components holds here: where a mixture has several modes, the gradient is noisy, and the
        likelihood is the better loss. Points that share parameters share the draws.

        Args:
            value: Points, shape ``(*, D)``.
            samples: Number of draws, at least 2; time and memory grow with its square.
            generator: Source of randomness; torch's global one by default.

        Returns:
            Scores, shape ``(*)``, in the units of the coordinates, which should be alike.

        Raises:
            TypeError: If `value` is not a tensor, or `samples` not an integer.
            ValueError: If `samples` is less than 2, the shapes do not fit or, under
                ``validate_args``, if a point is not finite.

        Source:
            Gneiting and Raftery 2007, Strictly proper scoring rules, prediction, and estimation,
            section 4.3.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> near, far = d.energy_score(torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
            >>> near < far
            tensor(True)
        """
        value = self._accept(value)
        check_counts(samples=samples)
        if samples < 2:
            raise ValueError(f"samples must be at least 2, got {samples}")
        points = self.rsample((samples,), generator)
        shared = value.dim() + 1 - points.dim()
        return scores.energy_score(points[(slice(None), *[None] * shared)], value)

    def quantile(self, q: float | Tensor) -> Tensor:
        """Quantiles of each coordinate, whatever the others are.

        Differentiable by the parameters and by `q`.

        Args:
            q: Probabilities from 0 to 1: a number, or a tensor of shape ``()`` or ``(Q,)``. For the
                ends see :meth:`inverse_rosenblatt`.

        Returns:
            Points, shape ``(*, D)``, or ``(Q, *, D)`` for several `q`, as ``torch.quantile`` has
            them.

        Raises:
            TypeError: If `q` is neither a number nor a tensor.
            ValueError: If `q` has more dimensions or is not from 0 to 1.

        Example:
            >>> loc, scale_tril = torch.tensor([[0.0, 9.0]]), torch.eye(2).expand(1, 2, 2)
            >>> d = GaussianMixture(torch.zeros(1), loc, scale_tril)
            >>> d.quantile(torch.tensor([0.5, 0.8413]))
            tensor([[0.0000, 9.0000],
                    [0.9998, 9.9998]])
        """
        check_probabilities("q", q)
        return intervals.quantile(*self._parameters, self._tensor(q))

    def interval(self, level: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return the central interval of each coordinate, with as much mass below as above it.

        Args:
            level: Mass of the interval, from 0 to 1: a number, or a tensor of shape ``()`` or
                ``(L,)``.

        Returns:
            Its lower and its upper end, each of shape ``(*, D)``, or ``(L, *, D)`` for several
            levels. Differentiable, and as exact in the upper tail as in the lower.

        Raises:
            TypeError: If `level` is neither a number nor a tensor.
            ValueError: If `level` has more dimensions or is not from 0 to 1.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
            >>> d.interval(0.95)
            (tensor([-1.9600]), tensor([1.9600]))
        """
        check_probabilities("level", level)
        return intervals.central_interval(*self._parameters, self._tensor((1 - level) / 2))

    def hdr(
        self, level: float, samples: int = 10_000, generator: torch.Generator | None = None
    ) -> HighestDensityRegion:
        """Return the region of the highest density that holds `level` of the mass.

        No smaller region holds as much; of a mixture it may be in pieces. Its threshold is found
        from draws, without a gradient: over those, the mass held has the mean `level` and the
        ``standard_error`` of the result, 0.005 at most for 10,000.

        Args:
            level: Mass of the region, between 0 and 1.
            samples: Number of draws, enough for some to fall on either side.
            generator: Source of randomness; torch's global one by default.

        Returns:
            The region, which tells of points whether it ``contains`` them.

        Raises:
            TypeError: If `level` is not a number, or `samples` not an integer.
            ValueError: If `level` is not between 0 and 1, or `samples` too few for it.

        Source:
            Hyndman 1996, Computing and graphing highest density regions, section 3.2.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> region = d.hdr(0.9, generator=torch.Generator().manual_seed(0))
            >>> region.contains(torch.tensor([[0.0, 2.0], [0.0, 2.3]])), region.standard_error
            (tensor([ True, False]), tensor(0.0030))
        """
        check_counts(samples=samples)
        if not is_number(level):
            raise TypeError(f"level must be a number, got {type(level).__name__}")
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, got {level}")
        if not 1 <= level * (samples + 1) <= samples:
            raise ValueError(
                f"samples must be enough for draws on either side of level {level}, got {samples}"
            )
        with torch.no_grad():
            log_density = self.log_prob(self.sample((samples,), generator))
            threshold, error = intervals.highest_density(log_density, level)
        return HighestDensityRegion(self, threshold, torch.full_like(threshold, error))

    def biased(self, bias: float | Tensor) -> "GaussianMixture":
        r"""Return the mixture biased towards its more probable points.

        Weights become ``softmax(logits * (1 + bias))``, scales ``scale_tril * exp(-bias)``, at the
        least the smallest positive number of their type; correlations stay. The result is a
        mixture: it scores what it samples.

        Args:
            bias: Probability bias, at least 0; 0 changes nothing. A number, or a tensor that
                broadcasts against the batch shape ``(*)``, with a gradient of its own.

        Returns:
            A new mixture, its shapes the same.

        Raises:
            ValueError: If `bias` is negative or not finite, or does not broadcast.

        Source:
            Graves 2013, equations 61 and 62.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.biased(0.5).stddev
            tensor([0.6065, 0.6065])
        """
        bias = self._rowwise("bias", bias)
        check_bias(bias)
        factor = (-bias).exp() if isinstance(bias, Tensor) else math.exp(-bias)
        return self._changed(algebra.sharpened, 1 + bias, factor)

    def tempered(self, temperature: float | Tensor) -> "GaussianMixture":
        """Return the mixture at a temperature: logits over it, covariances times it.

        Args:
            temperature: Positive; 1 changes nothing, less makes samples tidier. A number, or a
                tensor that broadcasts against the batch shape ``(*)``, with a gradient of its own.

        Returns:
            A new mixture, its shapes the same.

        Raises:
            ValueError: If `temperature` is not positive and finite, or does not broadcast.

        Source:
            Ha and Eck 2017 (arXiv:1704.03477), equation 8.

        Example:
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.tempered(0.25).variance
            tensor([0.2500, 0.2500])
        """
        temperature = self._rowwise("temperature", temperature)
        check_temperature(temperature)
        return self._changed(algebra.sharpened, 1 / temperature, temperature**0.5)

    def marginal(self, dims: int | Sequence[int]) -> "GaussianMixture":
        """Return the distribution of some coordinates, whatever the others are.

        Args:
            dims: One coordinate or several, ``M`` in all, each in ``[-D, D)``; the result has them
                in this order.

        Returns:
            A new mixture with the same batch and components, event shape ``(M,)``.

        Raises:
            TypeError: If `dims` holds anything but integers.
            ValueError: If `dims` is empty, out of range, or names a coordinate twice.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, equation 2.98, for each
            component.

        Example:
            >>> loc = torch.tensor([[1.0, 2.0, 3.0]])
            >>> d = GaussianMixture(torch.zeros(1), loc, torch.eye(3).expand(1, 3, 3))
            >>> d.marginal([2, 0]).mean
            tensor([3., 1.])
        """
        dims = algebra.resolve_dims(dims, self.event_shape[0])
        return self._changed(algebra.marginal, dims)

    def condition(self, dims: int | Sequence[int], values: float | Tensor) -> "GaussianMixture":
        r"""Return the distribution of the other coordinates, given the values of some.

        .. math:: p(x_b | x_a) = p(x_a, x_b) / p(x_a)

        Components are weighted by their densities of the values. Extra leading dimensions of
        `values` become batch dimensions.

        Args:
            dims: The coordinates given, one or several, ``M`` in all, each in ``[-D, D)``.
            values: Their values in this order: a number, or a tensor of shape ``(*, M)`` that
                broadcasts against the batch; brought to the mixture's precision and device.

        Returns:
            A new mixture in the other ``D - M`` coordinates, which keep their order.

        Raises:
            TypeError: If `dims` holds anything but integers.
            ValueError: If `dims` is empty, out of range, names a coordinate twice or names all of
                them, if the shape of `values` does not fit or, under ``validate_args``, if `values`
                is not finite.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, equations 2.96 and 2.97, for each
            component; Bayes' theorem for their weights.

        Example:
            >>> factor = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
            >>> given = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), factor).condition(0, 2.0)
            >>> given.mean, given.stddev
            (tensor([6.]), tensor([4.]))
        """
        dims = algebra.resolve_dims(dims, self.event_shape[0])
        numbers = self._numbers("values", values, len(dims))
        return self._changed(algebra.condition, dims, numbers)

    def affine(self, loc: float | Tensor, scale: float | Tensor) -> "GaussianMixture":
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

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, equation 1.27, the change
            of variables.

        Example:
            >>> from mdn_dist.data import Normalization
            >>> units = Normalization(torch.tensor([8.0, 0.0]), torch.tensor([40.0, 20.0]))
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> in_data_units = d.affine(units.loc, units.scale)
            >>> in_data_units.mean, in_data_units.stddev
            (tensor([8., 0.]), tensor([40., 20.]))
        """
        size = self.event_shape[0]
        shift, factor = self._numbers("loc", loc, size), self._numbers("scale", scale, size)
        if self._validates:
            check_all("scale", factor != 0, "finite and not zero", factor)
        return self._changed(algebra.affine, shift, factor)

    @property
    def _parameters(self) -> Parameters:
        return Parameters(self.logits, self.loc, self.scale_tril)

    @property
    def _dtype(self) -> torch.dtype:
        return self.logits.dtype

    def _settle(self) -> None:
        shape = getattr(self.loc, "shape", Size())
        self._batch_shape = shape[:-2]
        if len(shape) > 1:
            self._event_shape = Size([static_size(shape[-1])])
            self._num_component = static_size(shape[-2])

    def _score(self, value: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return mixture_log_prob(*self._parameters, value)
        parts = zip(self._parameters, self._parts.values(), strict=True)
        kept = (only_kept(mask, part, n, 1.0) for part, n in parts)
        return torch.where(mask, mixture_log_prob(*kept, value), 0.0)

    def _draw(self, sample_shape: Size, generator: torch.Generator | None) -> Tensor:
        return draw_offset(*self._parameters, sample_shape, generator)

    def _check(self, value: Tensor, mask: Tensor | None = None) -> None:  # noqa: ARG002
        check_finite("value", value)

    def _describe(self) -> str:
        dtype = str(self._dtype).removeprefix("torch.")
        return f"components={self._num_component}, event_size={self.event_shape[0]}, dtype={dtype}"

    def _changed(
        self, change: algebra.Change[P], *args: P.args, **kwargs: P.kwargs
    ) -> "GaussianMixture":
        """Return the mixture of what `change` makes of the parameters."""
        if self._validates:
            changed = change(*self._parameters, *args, **kwargs)
        else:
            changed = algebra.leaving_nan_alone(change, self._parameters, *args, **kwargs)
        return self._with_parameters(**joint(*changed))

    def _with_parameters(self, **parameters: Tensor) -> "GaussianMixture":
        return self._copy(**parameters)

    def _rowwise(self, name: str, number: float | Tensor) -> float | Tensor:
        """Return a number, or several that broadcast against the batch, as the mixture's own."""
        if not isinstance(number, Tensor):
            return number
        self._check_batch(number, name, number.shape)
        return number.to(self.loc)

    def _tensor(self, given: float | Tensor) -> Tensor:
        """Return a number or a tensor of any as floating-point numbers to compute with."""
        if not isinstance(given, Tensor):
            return self.loc.new_full((), given)
        return widen(given) if given.is_floating_point() else given.to(self.loc)

    def _numbers(self, name: str, given: float | Tensor, size: int) -> Tensor:
        """Return `given`, one number or ``(*, size)``, checked and as the mixture's own numbers."""
        if not isinstance(given, Tensor):
            try:
                # not by as_tensor, of which torch.jit.trace warns
                given = self.loc.new_full((), given) if is_number(given) else torch.as_tensor(given)
            except (TypeError, ValueError, RuntimeError) as error:
                got = type(given).__name__
                raise TypeError(f"{name} must be a number or a tensor, got {got}") from error
        check_tensor(given, name)
        numbers = given.to(self.loc)
        numbers = numbers if numbers.dim() else numbers.expand(size)
        self._check_shape(numbers, name, size)
        if self._validates:
            check_finite(name, numbers)
        return numbers

    def _check_one_coordinate(self, asked: str, instead: str) -> None:
        if self.event_shape != (1,):
            raise NotImplementedError(
                f"{asked} is for one coordinate, got {self.event_shape[0]}; "
                f"{instead} takes any number"
            )


@final
class OutputMixture(GaussianMixture):
    """A :class:`GaussianMixture` whose stored field is a network's raw outputs.

    :meth:`GaussianMixture.from_outputs` and the head make it. It is scored and drawn from straight
    from the outputs; ``logits``, ``loc`` and ``scale_tril`` are derived when asked for, with their
    gradient even where gradients are off, and kept.

    Args:
        outputs: Raw outputs, shape ``(*, size)``. They are not changed.
        output_map: Their order and the functions that turn them into parameters.
        validate_args: Whether to check the outputs and every value scored.

    Raises:
        TypeError: If `outputs` is not floating point.
        ValueError: If its last dimension has another size or, under ``validate_args``, if it is not
            finite.

    Example:
        >>> OutputMixture(torch.zeros(7, 120), OutputMap(components=20)).scale_tril.shape
        torch.Size([7, 20, 2, 2])
    """

    outputs: Tensor
    output_map: OutputMap

    _parts: ClassVar[dict[str, int]] = {"outputs": 1}
    _settings: ClassVar[tuple[str, ...]] = ("output_map",)
    _derived: ClassVar[tuple[str, ...]] = ("_parameters",)

    def __init__(
        self, outputs: Tensor, output_map: OutputMap, validate_args: bool | None = None
    ) -> None:
        self.output_map = output_map
        self.outputs = output_map.accept(outputs)
        self._settle()
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validates:
            check_finite("outputs", self.outputs)

    @lazy_property
    def _parameters(self) -> Parameters:
        return self.output_map.parameters(self.outputs)

    @property
    def logits(self) -> Tensor:  # type: ignore[override]
        """Unnormalised log weights, shape ``(*, K)``."""
        return self._parameters.logits

    @property
    def loc(self) -> Tensor:  # type: ignore[override]
        """Component means, shape ``(*, K, D)``."""
        return self._parameters.loc

    @property
    def scale_tril(self) -> Tensor:  # type: ignore[override]
        """Component Cholesky factors, shape ``(*, K, D, D)``."""
        return self._parameters.scale_tril

    def biased(self, bias: float | Tensor) -> GaussianMixture:
        """See :meth:`GaussianMixture.biased`; a tensor makes a mixture of parameters."""
        if isinstance(bias, Tensor):
            return super().biased(bias)
        return self._copy(output_map=self.output_map.biased(bias))

    def tempered(self, temperature: float | Tensor) -> GaussianMixture:
        """See :meth:`GaussianMixture.tempered`; a tensor makes a mixture of parameters."""
        if isinstance(temperature, Tensor):
            return super().tempered(temperature)
        return self._copy(output_map=self.output_map.tempered(temperature))

    @property
    def _dtype(self) -> torch.dtype:
        return self.outputs.dtype

    def _settle(self) -> None:
        self._batch_shape = getattr(self.outputs, "shape", Size())[:-1]
        self._event_shape = Size([self.output_map.event_size])
        self._num_component = self.output_map.components

    def _score(self, value: Tensor, mask: Tensor | None) -> Tensor:
        if is_fused(self.output_map):
            return row_log_prob(self.outputs, value, mask, self.output_map)
        if mask is None:
            return mixture_log_prob(*self._parameters, value)
        kept = self.output_map.parameters(only_kept(mask, self.outputs, 1, 0.0))
        return torch.where(mask, mixture_log_prob(*kept, value), 0.0)

    def _draw(self, sample_shape: Size, generator: torch.Generator | None) -> Tensor:
        # torch.jit.trace takes no notice of no_grad
        return draw_rows(self.outputs.detach(), self.output_map, sample_shape, generator)

    def _with_parameters(self, **parameters: Tensor) -> GaussianMixture:
        own = (*self._parts, *self._settings)
        held = {name: each for name, each in self.__getstate__().items() if name not in own}
        return GaussianMixture._made_of({**held, **parameters})

    @staticmethod
    def _dump(static: dict[str, Any]) -> dict[str, Any]:
        return {**static, "output_map": static["output_map"].to_json()}

    @staticmethod
    def _load(static: dict[str, Any]) -> dict[str, Any]:
        return {**static, "output_map": OutputMap.from_json(static["output_map"])}
