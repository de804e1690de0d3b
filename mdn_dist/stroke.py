"""One distribution for a stroke point: a mixture over the offset joined with a pen."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import Bernoulli, OneHotCategorical, TorchDistribution
from torch import Size, Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical, Distribution, constraints
from torch.distributions import OneHotCategorical as TorchOneHotCategorical
from torch.distributions.utils import lazy_property, probs_to_logits
from torch.nn.functional import one_hot

from mdn_dist._checks import check_all
from mdn_dist._container import BatchDistribution
from mdn_dist._maths.draw import draw_points, draw_state
from mdn_dist._maths.em import Covariance
from mdn_dist._maths.floats import widen
from mdn_dist._maths.fused import pen_log_prob, stroke_log_prob
from mdn_dist._maths.maps import sharpen
from mdn_dist._points import StrokePoint, gather_points, log_odds, valid_state
from mdn_dist._torch import expanded, static_size, tracing
from mdn_dist.mixture import GaussianMixture
from mdn_dist.outputs import Bounds, OutputMap, Pen


class StrokeDistribution(BatchDistribution, TorchDistribution):  # type: ignore[misc]
    r"""The distribution of a stroke point: an offset from a mixture, and independently a pen.

    An event holds the offset's ``D`` coordinates, then the pen's value: an end-of-stroke flag
    (``Bernoulli``) or a one-hot pen state (``OneHotCategorical``).

    .. math:: \log p(x) = \log p_{offset}(x_{1..D}) + \log p_{pen}(x_{D+1..})

    Args:
        offset: Distribution of the offset, batch shape ``(*)``.
        pen: torch's or Pyro's ``Bernoulli`` or ``OneHotCategorical``, batch shape ``(*)``.
        validate_args: Whether to check every value scored; torch's default when None.

    Raises:
        TypeError: If `offset` or `pen` is of another class.
        ValueError: If their batch shapes do not broadcast.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 15 to 25.

    Example:
        >>> d = StrokeDistribution.from_outputs(torch.zeros(4, 7, 121))
        >>> d.log_prob(torch.zeros(4, 7, 3)).shape, d.sample().shape
        (torch.Size([4, 7]), torch.Size([4, 7, 3]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False

    offset: GaussianMixture

    _parts: ClassVar[tuple[str, ...]] = ("offset", "_pen_parameter")
    _derived: ClassVar[tuple[str, ...]] = ("pen",)

    def __init__(
        self,
        offset: GaussianMixture,
        pen: TorchBernoulli | TorchOneHotCategorical,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(offset, GaussianMixture):
            raise TypeError(f"offset must be a GaussianMixture, got {type(offset).__name__}")
        if not isinstance(pen, (TorchBernoulli, TorchOneHotCategorical)):
            raise TypeError(
                f"pen must be a Bernoulli or a OneHotCategorical, got {type(pen).__name__}"
            )
        if not tracing() and pen.event_shape == (1,):
            raise ValueError("pen must have two states or more, got one")
        # torch caches the other of the two when it is asked for, rounded: keep to the given one.
        inner = pen.__dict__.get("_categorical", pen)
        argument = "probs" if pen._param is inner.__dict__.get("probs") else "logits"
        self._pen_class = type(pen)
        self._set_parts(offset, widen(pen._param), argument)
        if validate_args is not None:
            self._validate_args = validate_args

    def _set_parts(self, offset: GaussianMixture, pen_parameter: Tensor, argument: str) -> None:
        """Set both parts and the shapes that follow, or raise if they do not fit."""
        pen_shape = pen_parameter.shape[len(pen_parameter.shape) - int(not self._is_flag) :]
        pen_batch = pen_parameter.shape[: len(pen_parameter.shape) - len(pen_shape)]
        try:
            shape = torch.broadcast_shapes(offset.batch_shape, pen_batch)
        except RuntimeError as error:
            raise ValueError(
                "offset and pen must have batch shapes that broadcast, "
                f"got {tuple(offset.batch_shape)} and {tuple(pen_batch)}"
            ) from error
        self.offset = offset.expand(shape)
        self._pen_parameter = expanded(pen_parameter, shape + pen_shape)
        self._pen_argument = argument
        pen_size = 1 if self._is_flag else static_size(pen_shape[0])
        self._batch_shape, self._event_shape = shape, Size([self._event_size + pen_size])

    @lazy_property
    def pen(self) -> Bernoulli | OneHotCategorical:
        """The distribution of the pen."""
        parameter = {self._pen_argument: self._pen_parameter}
        return _make_pen(self._pen_class, parameter, self._validate_args)

    @staticmethod
    def from_outputs(
        outputs: Tensor,
        components: int = 20,
        *,
        event_size: int = 2,
        pen: Pen = "bernoulli",
        bounds: Bounds | None = Bounds(),
        validate_args: bool | None = None,
    ) -> "StrokeDistribution":
        """Make the distribution from a network's raw outputs, ``6 K + 1`` a point by default.

        Args:
            outputs: Raw outputs, shape ``(*, size)``, in the paper's order and with its sign:
                end of stroke, ``K`` weights, ``2 K`` means, ``2 K`` scales, ``K`` correlations.
                :class:`mdn_dist.outputs.OutputMap` gives the order for other `event_size` and
                `pen`. They are not changed. Half precision is computed in float32.
            components: Number of components ``K``.
            event_size: Number of coordinates ``D``.
            pen: ``"bernoulli"`` for a flag, ``"one_hot"`` for three pen states.
            bounds: Limits of scales and correlations; None for the paper's exact maps.
            validate_args: Whether to check the outputs and every value scored.

        Returns:
            A distribution with batch shape ``(*)``.

        Raises:
            TypeError: If `outputs` is not floating point.
            ValueError: If its last dimension has another size or, under ``validate_args``, if it
                is not finite.

        Source:
            Graves 2013, equations 17 to 22.

        Example:
            >>> StrokeDistribution.from_outputs(torch.zeros(4, 7, 121)).pen.batch_shape
            torch.Size([4, 7])
        """
        output_map = _stroke_map(components, event_size, pen, bounds)
        return OutputStrokeDistribution(outputs, output_map, validate_args=validate_args)

    @staticmethod
    def fit(
        strokes: Tensor | Sequence[Tensor],
        components: int = 20,
        *,
        mask: Tensor | None = None,
        event_size: int = 2,
        pen: Pen = "bernoulli",
        covariance: Covariance = "full",
        min_scale: float | None = None,
        restarts: int = 8,
        generator: torch.Generator | None = None,
        validate_args: bool | None = None,
    ) -> "StrokeDistribution":
        """Fit the best distribution that takes no notice of other points, without a network.

        Offsets are fitted by :meth:`GaussianMixture.fit`; the pen by the shares of its values, with
        half a count added. A network that scores no better has learnt nothing from the points
        before.

        Args:
            strokes: Points, shape ``(*, event)``, or a sequence of tensors ``(T, event)``.
            components: Number of components ``K``.
            mask: True where a point is real, boolean, shape ``(*)``; only with one tensor of
                `strokes`.
            event_size: Number of coordinates ``D``.
            pen: ``"bernoulli"`` for a flag, ``"one_hot"`` for three pen states.
            covariance: Kind of the offsets' covariances, as for :meth:`GaussianMixture.fit`.
            min_scale: Added in quadrature to every component's scale, in data units; by default
                as for :meth:`GaussianMixture.fit`.
            restarts: Number of starts of the mixture's fit.
            generator: Source of randomness; torch's global one by default.
            validate_args: Whether to check every value scored.

        Returns:
            A distribution of batch shape ``()`` and of the dtype of `strokes`.

        Raises:
            TypeError: If `strokes` is not floating point or `mask` is not boolean.
            ValueError: If there is no point, points are not finite or of the wrong size, the pen's
                values are not 0 or 1, `mask` does not fit, or another argument is out of range.

        Source:
            Dempster, Laird and Rubin 1977 (EM), for the offset; Krichevsky and Trofimov 1981, for
            the half count of a flag.

        Example:
            >>> strokes = torch.tensor([[-1.0, 0.0, 0.0], [3.0, 0.0, 1.0]]).repeat(50, 1)
            >>> StrokeDistribution.fit(strokes, components=2).mean
            tensor([1.0000, 0.0000, 0.5000])
        """
        output_map = _stroke_map(components, event_size, pen)
        points = gather_points(strokes, mask, event_size, output_map.point_size)
        offset, state = widen(points.detach()).tensor_split([event_size], -1)
        mixture = GaussianMixture.fit(
            offset,
            components,
            covariance=covariance,
            min_scale=min_scale,
            restarts=restarts,
            generator=generator,
        )
        logits = log_odds(state)
        chosen = (
            Bernoulli(logits=logits.squeeze(-1))
            if pen == "bernoulli"
            else OneHotCategorical(logits=logits)
        )
        return StrokeDistribution(mixture, chosen, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> StrokePoint:
        """Finite coordinates, then a value of the pen: points of shape ``(*, event)``.

        Source:
            Graves 2013, equation 15, for a flag.

        Example:
            >>> d = StrokeDistribution.from_outputs(torch.zeros(121))
            >>> d.support.check(torch.tensor([[0.3, -2.0, 1.0], [0.3, -2.0, 0.5]]))
            tensor([ True, False])
        """
        return StrokePoint(self._event_size, self.pen.support)

    def sample(
        self, sample_shape: Size = Size(), generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw points.

        Args:
            sample_shape: Shape of the independent draws wanted.
            generator: Source of randomness; torch's global one by default.

        Returns:
            Points, shape ``(sample_shape, *, event)``.

        Source:
            Graves 2013, equations 23 to 25, for a flag.

        Example:
            >>> generator = torch.Generator().manual_seed(0)
            >>> d = StrokeDistribution.from_outputs(torch.zeros(121))
            >>> d.sample((5,), generator).shape
            torch.Size([5, 3])
        """
        offset = self.offset.sample(sample_shape, generator)
        with torch.no_grad():
            logits = self._pen_logits.expand(*offset.shape[:-1], -1).detach()
            state = draw_state(logits, self._is_flag, generator)
            return torch.cat([offset, state.to(offset)], -1)

    def rsample(
        self, sample_shape: Size = Size(), generator: torch.Generator | None = None
    ) -> Tensor:
        """Refuse: no pathwise derivative leads through a pen's state.

        Args:
            sample_shape: Unused.
            generator: Unused.

        Raises:
            NotImplementedError: Always; ``offset.rsample`` draws the offset with its derivatives.

        Example:
            >>> d = StrokeDistribution.from_outputs(torch.zeros(4, 121))
            >>> d.offset.rsample((5,)).shape
            torch.Size([5, 4, 2])
        """
        raise NotImplementedError(
            "a stroke point has no rsample, since the pen is discrete; offset.rsample draws "
            "the offset with its derivatives"
        )

    @property
    def mean(self) -> Tensor:
        """Mean, shape ``(*, event)``; of the pen, its probabilities.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, equations 9.49 (offset),
            B.2 (flag) and B.55 (state).

        Example:
            >>> d = StrokeDistribution.from_outputs(torch.zeros(121))
            >>> d.mean
            tensor([0.0000, 0.0000, 0.5000])
        """
        return self._join(self.offset.mean, self.pen.mean)

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate and of the pen's values, shape ``(*, event)``.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, equations 9.50 (offset),
            B.3 (flag) and B.56 (state).

        Example:
            >>> d = StrokeDistribution.from_outputs(torch.zeros(121))
            >>> d.variance
            tensor([1.0000, 1.0000, 0.2500])
        """
        return self._join(self.offset.variance, self.pen.variance)

    def biased(self, bias: float | Tensor) -> "StrokeDistribution":
        """Return the distribution biased towards more probable offsets; the pen is untouched.

        Args:
            bias: Probability bias, at least 0; 0 changes nothing. A number, or a tensor that
                broadcasts against the batch shape ``(*)``, with a gradient of its own.

        Returns:
            A new distribution of the same shapes, which scores what it samples.

        Raises:
            ValueError: If `bias` is negative or not finite, or does not broadcast.

        Source:
            Graves 2013, equations 61 and 62.

        Example:
            >>> StrokeDistribution.from_outputs(torch.zeros(121)).biased(1.0).variance[0]
            tensor(0.1353)
        """
        return self._with_offset(self.offset.biased(bias))

    def tempered(self, temperature: float | Tensor) -> "StrokeDistribution":
        """Return the distribution at a temperature: logits over it, covariances times it.

        Args:
            temperature: Positive; 1 changes nothing, less makes samples tidier. A number, or a
                tensor that broadcasts against the batch shape ``(*)``, with a gradient of its own.

        Returns:
            A new distribution of the same shapes, which scores what it samples.

        Raises:
            ValueError: If `temperature` is not positive and finite, or does not broadcast.

        Source:
            Ha and Eck 2017 (arXiv:1704.03477), equation 8.

        Example:
            >>> StrokeDistribution.from_outputs(torch.zeros(121)).tempered(0.5).variance
            tensor([0.5000, 0.5000, 0.2500])
        """
        offset = self.offset.tempered(temperature)
        if isinstance(temperature, Tensor):
            temperature = temperature.to(self._pen_parameter).unsqueeze(-1)
        logits = sharpen(self._pen_logits, 1 / temperature)
        return self._with_parts(offset, logits.squeeze(-1) if self._is_flag else logits)

    def marginal(self, dims: int | Sequence[int]) -> "StrokeDistribution":
        """Return the distribution of some of the offset's coordinates, and of the pen.

        The pen is independent of the offset, so the offset has the distribution :attr:`offset`
        whatever the pen does.

        Args:
            dims: Coordinates of the offset, as :meth:`GaussianMixture.marginal` takes them.

        Returns:
            A new distribution, batch shape ``(*)``, of a shorter event: ``M`` coordinates and the
            pen's value.

        Raises:
            TypeError: If `dims` holds anything but integers.
            ValueError: If `dims` is empty, out of range, or names a coordinate twice.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, section 2.3.2,
            equation 2.98, for each component.

        Example:
            >>> d = StrokeDistribution.from_outputs(torch.zeros(121))
            >>> d.marginal(0).log_prob(torch.zeros(2)).exp()
            tensor(0.1995)
        """
        return self._with_offset(self.offset.marginal(dims))

    def condition(self, dims: int | Sequence[int], values: float | Tensor) -> "StrokeDistribution":
        """Return the distribution of the offset's other coordinates and the pen, given some.

        Args:
            dims: Coordinates of the offset, as :meth:`GaussianMixture.condition` takes them.
            values: Their values, likewise.

        Returns:
            A new distribution, of a shorter event.

        Raises:
            TypeError: If `dims` holds anything but integers.
            ValueError: If `dims` is not valid or leaves no coordinate, or `values` does not fit.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, section 2.3.1,
            equations 2.96 and 2.97, for each component; Bayes' theorem for their weights.

        Example:
            >>> d = StrokeDistribution.from_outputs(torch.zeros(4, 7, 121))
            >>> dy_and_pen = d.condition(0, torch.ones(4, 7, 1))
            >>> dy_and_pen.batch_shape, dy_and_pen.event_shape
            (torch.Size([4, 7]), torch.Size([2]))
        """
        return self._with_offset(self.offset.condition(dims, values))

    def affine(self, loc: float | Tensor, scale: float | Tensor) -> "StrokeDistribution":
        """Return the distribution of ``loc + scale * offset`` and the pen, as in other units.

        With ``affine(normalization.loc, normalization.scale)``, a distribution of normalised points
        scores and draws points in data units.

        Args:
            loc: What is added to the offset, as :meth:`GaussianMixture.affine` takes it.
            scale: The factor of each coordinate, likewise.

        Returns:
            A new distribution.

        Raises:
            ValueError: If the shapes do not fit or, under ``validate_args``, if a number is not
                finite or `scale` is zero.

        Source:
            Bishop 2006, Pattern Recognition and Machine Learning, equation 1.27, the change
            of variables.

        Example:
            >>> from mdn_dist.data import Normalization
            >>> units = Normalization(torch.tensor([8.0, 0.0]), torch.tensor([40.0, 20.0]))
            >>> d = StrokeDistribution.from_outputs(torch.zeros(121))
            >>> d.affine(units.loc, units.scale).mean
            tensor([8.0000, 0.0000, 0.5000])
        """
        return self._with_offset(self.offset.affine(loc, scale))

    @property
    def mode(self) -> Tensor:
        """The most probable point, shape ``(*, event)``, without a gradient.

        The offset's :attr:`GaussianMixture.mode`, and the pen's most probable value, the first of
        several; a flag of probability one half is 0.

        Source:
            Carreira-Perpinan 2000, "Mode-finding for mixtures of Gaussian distributions", for the
            offset.

        Example:
            >>> d = StrokeDistribution.from_outputs(torch.zeros(121))
            >>> d.mode
            tensor([0., 0., 0.])
        """
        return self._join_likeliest_pen(self.offset.mode)

    @property
    def component_mode(self) -> Tensor:
        """The offset's :attr:`GaussianMixture.component_mode` and the pen's most probable value.

        Its shape is ``(*, event)``.

        Source:
            Graves 2013, equations 61 and 62, for the offset, as the bias grows.

        Example:
            >>> outputs = torch.zeros(121)
            >>> outputs[0], outputs[21] = -1.0, 5.0  # the end of stroke, the first mean in x
            >>> StrokeDistribution.from_outputs(outputs).component_mode
            tensor([5., 0., 1.])
        """
        return self._join_likeliest_pen(self.offset.component_mode)

    def responsibilities(self, value: Tensor) -> Tensor:
        """Probability of each of the offset's components given a point.

        Args:
            value: Points, shape ``(*, event)``; the pen's value makes no difference.

        Returns:
            Probabilities, shape ``(*, K)``, adding up to 1.

        Raises:
            ValueError: If the shapes do not fit or, under ``validate_args``, if a point is outside
                the support.

        Source:
            Graves 2013, equations 27 and 28.

        Example:
            >>> d = StrokeDistribution.from_outputs(torch.zeros(25), components=4)
            >>> d.responsibilities(torch.zeros(3))
            tensor([0.2500, 0.2500, 0.2500, 0.2500])
        """
        return self.offset.responsibilities(self._accept(value)[..., : self._event_size])

    @property
    def _dtype(self) -> torch.dtype:
        return self.offset._dtype

    @property
    def _event_size(self) -> int:
        return self.offset.event_shape[0]  # type: ignore[no-any-return]

    @property
    def _is_flag(self) -> bool:
        """Whether the pen's value is a flag, not a one-hot state."""
        return issubclass(self._pen_class, TorchBernoulli)

    @property
    def _pen_logits(self) -> Tensor:
        """Logits of the pen, shape ``(*, 1)`` of a flag, ``(*, states)`` of a state."""
        parameter, binary = self._pen_parameter, self._is_flag
        if self._pen_argument == "probs":
            parameter = probs_to_logits(parameter, is_binary=binary)
        return parameter.unsqueeze(-1) if binary else parameter

    def _blank(self) -> "StrokeDistribution":
        """Return a copy that is to be given other parts."""
        return self._bare_copy()

    def _with_parts(
        self, offset: GaussianMixture, pen_parameter: Tensor, argument: str = "logits"
    ) -> "StrokeDistribution":
        new = self._blank()
        new._set_parts(offset, pen_parameter, argument)
        return new

    def _with_offset(self, offset: GaussianMixture) -> "StrokeDistribution":
        return self._with_parts(offset, self._pen_parameter, self._pen_argument)

    def _join_likeliest_pen(self, offset: Tensor) -> Tensor:
        logits = self._pen_logits
        state = logits > 0 if self._is_flag else one_hot(logits.argmax(-1), logits.shape[-1])
        return torch.cat([offset, state.to(offset)], -1)

    def _map(self, function: Callable[[Tensor, int], Tensor]) -> "StrokeDistribution":
        parameter = function(self._pen_parameter, int(not self._is_flag))
        return self._with_parts(self.offset._map(function), parameter, self._pen_argument)

    def _shape_of_batch(self) -> Size:
        return getattr(self.offset, "batch_shape", Size())

    def _score(self, value: Tensor) -> Tensor:
        # not by the pen itself: torch's classes check values even while compiling
        offset, state = value.tensor_split([self._event_size], -1)
        pen_score = pen_log_prob(self._pen_logits, state, self._is_flag)
        return self.offset._score(offset) + pen_score

    def _check(self, value: Tensor) -> None:
        offset, pen = value.tensor_split([self._event_size], -1)
        check_all("offset in value", offset.isfinite(), "finite", offset)
        expected = "0 or 1" if self._is_flag else "one-hot"
        check_all("pen in value", valid_state(pen), expected, pen)

    def _join(self, offset: Tensor, pen: Tensor) -> Tensor:
        return torch.cat([offset, pen.unsqueeze(-1) if self._is_flag else pen], -1)

    def _neutral_point(self, like: Tensor) -> Tensor:
        return (torch.arange(self.event_shape[0], device=like.device) == self._event_size).to(like)

    def _describe(self) -> str:
        pen = "bernoulli" if self._is_flag else "one_hot"
        return f"{self.offset._describe()}, pen={pen}"


@dataclass(eq=False, init=False, repr=False)
class OutputStrokeDistribution(StrokeDistribution):
    """A :class:`StrokeDistribution` whose stored field is the network's raw outputs.

    :meth:`StrokeDistribution.from_outputs` and the head make it. ``offset`` and ``pen`` are derived
    when asked for, with their gradient even where gradients are off, and kept.

    Args:
        outputs: Raw outputs, shape ``(*, size)``.
        output_map: Their order and the functions that turn them into parameters.
        validate_args: Whether to check the outputs and every value scored.

    Raises:
        TypeError: If `outputs` is not floating point.
        ValueError: If its last dimension has another size or, under ``validate_args``, if it is not
            finite.
    """

    outputs: Tensor
    output_map: OutputMap

    _parts = ("outputs",)
    _derived = ("offset", "pen")
    _pen_argument = "logits"

    def __init__(
        self, outputs: Tensor, output_map: OutputMap, validate_args: bool | None = None
    ) -> None:
        self.output_map = output_map
        self._event_shape = Size([output_map.point_size])
        self._set_outputs(outputs)
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validates:
            check_all("outputs", self.outputs.isfinite(), "finite", self.outputs)

    def _set_outputs(self, outputs: Tensor) -> None:
        self.outputs = self.output_map.accept(outputs)
        self._batch_shape = outputs.shape[:-1]

    @lazy_property
    def offset(self) -> GaussianMixture:
        """The mixture over the offset."""
        _, logits, loc, scale_tril = self.output_map.parameters(self.outputs)
        return GaussianMixture(logits, loc, scale_tril, validate_args=self._validate_args)

    def biased(self, bias: float | Tensor) -> StrokeDistribution:
        """See :meth:`StrokeDistribution.biased`."""
        if isinstance(bias, Tensor):  # which the map cannot hold
            return super().biased(bias)
        return self._with(self.outputs, self.output_map.biased(bias))

    def tempered(self, temperature: float | Tensor) -> StrokeDistribution:
        """See :meth:`StrokeDistribution.tempered`."""
        if isinstance(temperature, Tensor):
            return super().tempered(temperature)
        return self._with(self.outputs, self.output_map.tempered(temperature))

    @property
    def _dtype(self) -> torch.dtype:
        return self.outputs.dtype

    @property
    def _event_size(self) -> int:
        return self.output_map.event_size

    @property
    def _pen_class(self) -> Any:  # type: ignore[override]
        return Bernoulli if self.output_map.pen == "bernoulli" else OneHotCategorical

    @property
    def _pen_parameter(self) -> Tensor:  # type: ignore[override]
        logits = self.output_map.pen_logits(self.outputs)
        return logits.squeeze(-1) if self._is_flag else logits

    def _blank(self) -> StrokeDistribution:
        new = StrokeDistribution.__new__(StrokeDistribution)
        for name, held in (*self.__getstate__().items(), ("_pen_class", self._pen_class)):
            if name not in ("outputs", "output_map"):
                setattr(new, name, held)
        return new

    def _with(self, outputs: Tensor, output_map: OutputMap) -> "OutputStrokeDistribution":
        new = self._bare_copy()
        new.output_map = output_map
        new._set_outputs(outputs)
        return new

    def sample(
        self, sample_shape: Size = Size(), generator: torch.Generator | None = None
    ) -> Tensor:
        """See :meth:`StrokeDistribution.sample`."""
        outputs = self.outputs.detach()  # torch.jit.trace takes no notice of no_grad
        if sample_shape:
            outputs = outputs.expand(*sample_shape, *outputs.shape)
        with torch.no_grad():
            return draw_points(outputs, self.output_map, generator)

    def _shape_of_batch(self) -> Size:
        return getattr(self.outputs, "shape", Size())[:-1]

    def _score(self, value: Tensor) -> Tensor:
        if self._event_size == 2:
            return stroke_log_prob(self.outputs, value, self.output_map)
        return super()._score(value)

    def _map(self, function: Callable[[Tensor, int], Tensor]) -> "OutputStrokeDistribution":
        return self._with(function(self.outputs, 1), self.output_map)

    @staticmethod
    def _dump(static: dict[str, Any]) -> dict[str, Any]:
        return {**static, "output_map": asdict(static["output_map"])}

    @staticmethod
    def _load(static: dict[str, Any]) -> dict[str, Any]:
        arguments = static["output_map"]
        bounds = arguments["bounds"] and Bounds(**arguments["bounds"])
        output_map = OutputMap(**{**arguments, "bounds": bounds})
        return {**BatchDistribution._load(static), "output_map": output_map}


def _stroke_map(
    components: int, event_size: int, pen: Pen, bounds: Bounds | None = None
) -> OutputMap:
    """Return the order and maps of outputs that have a pen, or raise ValueError."""
    if pen is None:
        raise ValueError("pen must be 'bernoulli' or 'one_hot'; GaussianMixture has none")
    return OutputMap(components, event_size, pen, bounds)


def _make_pen(kind: Any, parameter: dict[str, Tensor], validate_args: bool) -> Any:
    """Return torch's or Pyro's pen, whose parameter is known to be good, to check its values."""
    if issubclass(kind, TorchOneHotCategorical):
        # the constructor would have its inner Categorical check, in any case
        pen = kind.__new__(kind)
        pen._categorical = Categorical(**parameter, validate_args=False)
        shape = pen._categorical.param_shape
        Distribution.__init__(pen, shape[:-1], shape[-1:], validate_args=False)
    else:
        pen = kind(**parameter, validate_args=False)
    pen._validate_args = validate_args
    return pen
