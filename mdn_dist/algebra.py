"""What can be asked of a mixture once its parameters are there: its algebra."""

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor

from mdn_dist._checks import check_all, check_bias, check_temperature, check_tensor, is_number
from mdn_dist._container import BatchDistribution
from mdn_dist._maths.algebra import affine, condition, marginal, resolve_dims
from mdn_dist._maths.density import posterior, whiten
from mdn_dist._maths.floats import least_scale
from mdn_dist._maths.maps import sharpen
from mdn_dist._maths.modes import at_largest, highest_mode
from mdn_dist._maths.rosenblatt import inverse_rosenblatt, rosenblatt

Parameters = tuple[Tensor, Tensor, Tensor]
"""Logits ``(*, K)``, means ``(*, K, D)``, Cholesky factors ``(*, K, D, D)``."""


class MixtureAlgebra(BatchDistribution):
    """The operations of :class:`mdn_dist.GaussianMixture` on its parameters.

    A subclass holds them and says how a mixture like it is made from others (`_like`).
    """

    logits: Tensor
    loc: Tensor
    scale_tril: Tensor

    def _like(self, logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Self:
        """Return a mixture of other parameters that validates as this one does."""
        raise NotImplementedError

    def _changed(self, change: Callable[[Tensor, Tensor, Tensor], Parameters]) -> Self:
        """Return the mixture of what `change` makes of the parameters.

        A batch element with a parameter that is not a number comes out as NaN, and sends back no
        gradient of 0 times NaN, should a mask leave it out later.
        """
        parameters = self.logits, self.loc, self.scale_tril
        if self._validates:
            return self._like(*change(*parameters))
        sound = (
            self.logits.amax(-1).isfinite()
            & self.loc.isfinite().flatten(-2).all(-1)
            & self.scale_tril.isfinite().flatten(-3).all(-1)
        )
        masks = [sound[(..., *[None] * n)] for n in (1, 2, 3)]
        safe = (torch.where(m, p, 1.0) for m, p in zip(masks, parameters, strict=True))
        changed = zip(masks, change(*safe), strict=True)
        return self._like(*(torch.where(m, p, math.nan) for m, p in changed))

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
            >>> from mdn_dist import GaussianMixture
            >>> loc = torch.tensor([[-50.0], [50.0]])
            >>> d = GaussianMixture(torch.zeros(2), loc, torch.ones(2, 1, 1))
            >>> d.responsibilities(torch.tensor([40.0]))
            tensor([0., 1.])
        """
        parameters = self.logits, self.loc, self.scale_tril
        log_responsibility, _ = posterior(*parameters, whiten(*parameters[1:], self._accept(value)))
        return log_responsibility.exp()

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
            >>> from mdn_dist import GaussianMixture
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.rosenblatt(torch.tensor([0.0, 1.0]))
            tensor([0.5000, 0.8413])
        """
        return rosenblatt(self.logits, self.loc, self.scale_tril, self._accept(value))

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
            >>> from mdn_dist import GaussianMixture
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> sobol = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(64)
            >>> d.inverse_rosenblatt(sobol).mean(0).abs() < 0.02
            tensor([True, True])
        """
        uniform = self._as_numbers(uniform, "uniform")
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

        Source:
            Rosenblatt 1952, whose transformation it is for ``D = 1``.

        Example:
            >>> from mdn_dist import GaussianMixture
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

        Source:
            Rosenblatt 1952, whose inverse transformation it is for ``D = 1``.

        Example:
            >>> from mdn_dist import GaussianMixture
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

    def biased(self, bias: float | Tensor) -> Self:
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
            >>> from mdn_dist import GaussianMixture
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.biased(math.log(2)).variance
            tensor([0.2500, 0.2500])
        """
        if isinstance(bias, Tensor):
            bias = self._rowwise("bias", bias)
        check_bias(bias)
        factor = (-bias).exp() if isinstance(bias, Tensor) else math.exp(-bias)
        return self._sharpened(1 + bias, factor)

    def tempered(self, temperature: float | Tensor) -> Self:
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
            >>> from mdn_dist import GaussianMixture
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
            >>> d.tempered(0.25).variance
            tensor([0.2500, 0.2500])
        """
        if isinstance(temperature, Tensor):
            temperature = self._rowwise("temperature", temperature)
        check_temperature(temperature)
        return self._sharpened(1 / temperature, temperature**0.5)

    def _rowwise(self, name: str, number: Tensor) -> Tensor:
        """Return a number for each batch element, to be broadcast against the mixture's own."""
        try:
            torch.broadcast_shapes(number.shape, self.batch_shape)
        except RuntimeError as error:
            raise ValueError(
                f"{name} must broadcast against batch shape {tuple(self.batch_shape)}, "
                f"got shape {tuple(number.shape)}"
            ) from error
        return number.to(self.loc)

    def _sharpened(self, weight_factor: float | Tensor, scale_factor: float | Tensor) -> Self:
        def change(logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Parameters:
            by_weight, by_scale = (
                f[(..., *[None] * n)] if isinstance(f, Tensor) else f
                for f, n in ((weight_factor, 1), (scale_factor, 3))
            )
            scaled, least = scale_tril * by_scale, least_scale(scale_tril.dtype)
            diagonal = torch.eye(scaled.shape[-1], dtype=torch.bool, device=scaled.device)
            vanished = diagonal & (scaled < least)
            return sharpen(logits, by_weight), loc, torch.where(vanished, least, scaled)

        return self._changed(change)

    def marginal(self, dims: int | Sequence[int]) -> Self:
        """Return the distribution of some coordinates, whatever the others are.

        Args:
            dims: One coordinate or several, ``M`` in all, each in ``[-D, D)``; the result has them
                in this order.

        Returns:
            A new mixture with the same batch and components, in ``M`` coordinates: batch shape
            ``(*)``, event shape ``(M,)``.

        Raises:
            TypeError: If `dims` holds anything but integers.
            ValueError: If `dims` is empty, out of range, or names a coordinate twice.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, section 2.3.2,
            equation 2.98, for each component.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> loc = torch.tensor([[1.0, 2.0, 3.0]])
            >>> d = GaussianMixture(torch.zeros(1), loc, torch.eye(3).expand(1, 3, 3))
            >>> d.marginal([2, 0]).mean
            tensor([3., 1.])
        """
        dims = resolve_dims(dims, self.event_shape[0])
        return self._changed(
            lambda logits, loc, scale_tril: (logits, *marginal(loc, scale_tril, dims))
        )

    def condition(self, dims: int | Sequence[int], values: float | Tensor) -> Self:
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
            Bishop 2006, Pattern Recognition and Machine Learning, section 2.3.1,
            equations 2.96 and 2.97, for each component; Bayes' theorem for their weights.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> factor = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
            >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), factor)
            >>> given = d.condition(0, 2.0)
            >>> given.mean, given.stddev
            (tensor([6.]), tensor([4.]))
        """
        dims = resolve_dims(dims, self.event_shape[0])
        values = self._numbers("values", values, len(dims))
        return self._changed(
            lambda logits, loc, scale_tril: condition(logits, loc, scale_tril, dims, values)
        )

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

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, equation 1.27, the change
            of variables.

        Example:
            >>> from mdn_dist import GaussianMixture
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
        return self._changed(
            lambda logits, loc, scale_tril: (logits, *affine(loc, scale_tril, shift, factor))
        )

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
            check_all(name, numbers.isfinite(), "finite", numbers)
        return numbers

    @property
    def mode(self) -> Tensor:
        """The point of the highest density, shape ``(*, D)``, without a gradient.

        The highest of the modes to which ascents lead from every mean, and from where components
        cross; a mixture may have more modes than components. Of equal modes, one is taken.

        Source:
            Carreira-Perpinan 2000, "Mode-finding for mixtures of Gaussian distributions", for
            ascents from the means.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> scale_tril = torch.tensor([2.0, 1.0]).view(2, 1, 1)
            >>> d = GaussianMixture(torch.zeros(2), torch.tensor([[0.0], [99.0]]), scale_tril)
            >>> d.mode
            tensor([99.])
        """
        return highest_mode(self.logits, self.loc, self.scale_tril)

    @property
    def component_mode(self) -> Tensor:
        """Mean of the component with the largest weight, shape ``(*, D)``.

        All points drawn from :meth:`biased` tend to it as the bias grows, unless several components
        share the largest weight: of these the first is taken.

        Source:
            Graves 2013, equations 61 and 62, as the bias grows.

        Example:
            >>> from mdn_dist import GaussianMixture
            >>> loc, scale_tril = torch.tensor([[0.0], [9.0]]), torch.ones(2, 1, 1)
            >>> d = GaussianMixture(torch.tensor([1.0, 0.0]), loc, scale_tril)
            >>> d.component_mode
            tensor([0.])
        """
        return at_largest(self.logits, self.loc)

    def _check_one_coordinate(self, asked: str, instead: str) -> None:
        if self.event_shape != (1,):
            raise NotImplementedError(
                f"{asked} is for one coordinate, got {self.event_shape[0]}; "
                f"{instead} takes any number"
            )
