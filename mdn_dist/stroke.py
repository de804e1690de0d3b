"""One distribution for a stroke point: a mixture over the offset joined with a pen."""

import math
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from mdn_dist._batch import BatchDistribution, only_kept
from mdn_dist._checks import Covariance, check_all, check_finite
from mdn_dist._maths.floats import widen
from mdn_dist._points import StrokePoint, gather_points
from mdn_dist._pyro import TorchDistribution
from mdn_dist._torch import Shape, static_size
from mdn_dist.mixture import GaussianMixture, OutputMixture
from mdn_dist.outputs import Bounds, OutputMap
from mdn_dist.pens import Pen, PenKind, as_pen, pen_class, pen_name


@final
class StrokeDistribution(BatchDistribution, TorchDistribution):
    r"""The distribution of a stroke point: an offset from a mixture, and independently a pen.

    An event holds the offset's ``D`` coordinates, then the pen's value: an end-of-stroke flag
    (``Bernoulli``) or a one-hot pen state (``OneHotCategorical``).

    .. math:: \log p(x) = \log p_{offset}(x_{1..D}) + \log p_{pen}(x_{D+1..})

    Args:
        offset: Distribution of the offset, batch shape ``(*)``.
        pen: torch's or Pyro's ``Bernoulli`` or ``OneHotCategorical``, batch shape ``(*)``, or a
            :class:`mdn_dist.pens.Pen`.
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

    offset: GaussianMixture
    pen: Pen

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False

    _parts: ClassVar[dict[str, int]] = {"offset": 0, "pen": 0}

    def __init__(
        self, offset: GaussianMixture, pen: Distribution, validate_args: bool | None = None
    ) -> None:
        if not isinstance(offset, GaussianMixture):
            raise TypeError(f"offset must be a GaussianMixture, got {type(offset).__name__}")
        pen = as_pen(pen)
        try:
            shape = torch.broadcast_shapes(offset.batch_shape, pen.batch_shape)
        except RuntimeError as error:
            raise ValueError(
                "offset and pen must have batch shapes that broadcast, "
                f"got {tuple(offset.batch_shape)} and {tuple(pen.batch_shape)}"
            ) from error
        self.offset, self.pen = offset.expand(shape), pen.expand(shape)
        if validate_args is not None:
            self._validate_args = validate_args
        self._settle()

    @classmethod
    def from_outputs(
        cls,
        outputs: Tensor,
        components: int | None = None,
        *,
        event_size: int = 2,
        pen: PenKind = "bernoulli",
        covariance: Covariance = "full",
        bounds: Bounds | None = Bounds(),
        validate_args: bool | None = None,
    ) -> "StrokeDistribution":
        """Make the distribution from a network's raw outputs, ``6 K + 1`` a point by default.

        Args:
            outputs: Raw outputs, shape ``(*, size)``, in the paper's order and with its sign:
                end of stroke, ``K`` weights, ``2 K`` means, ``2 K`` scales, ``K`` correlations; for
                others the pen's, then as :meth:`GaussianMixture.from_outputs` has them. They are
                not changed. Half precision is computed in float32.
            components: As for :meth:`GaussianMixture.from_outputs`.
            event_size: Likewise.
            pen: ``"bernoulli"`` for a flag, ``"one_hot"`` for three pen states, or a subclass of
                :class:`mdn_dist.pens.Pen`.
            covariance: As for :meth:`GaussianMixture.from_outputs`.
            bounds: Likewise.
            validate_args: Likewise.

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
        kind = pen_class(pen)
        output_map = OutputMap.of_rows(
            outputs, components, event_size, covariance, bounds, kind.size
        )
        return cls._of_rows(output_map.accept(outputs, kind.size), kind, output_map, validate_args)

    @classmethod
    def _of_rows(
        cls, outputs: Tensor, kind: type[Pen], output_map: OutputMap, validate_args: bool | None
    ) -> "StrokeDistribution":
        """Return the distribution of rows ``(*, pen size + mixture size)``."""
        logits, rest = kind.split(widen(outputs))
        validates = {} if validate_args is None else {"_validate_args": validate_args}
        offset = OutputMixture._made_of({"outputs": rest, "output_map": output_map, **validates})
        pen = kind._made_of({"logits": kind.from_rows(logits), **validates})
        new = cls._made_of({"offset": offset, "pen": pen, **validates})
        if new._validates:
            check_finite("outputs", outputs)
        return new

    @classmethod
    def fit(
        cls,
        strokes: Tensor | Sequence[Tensor],
        components: int = 20,
        *,
        mask: Tensor | None = None,
        event_size: int = 2,
        pen: PenKind = "bernoulli",
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
            components: As for :meth:`GaussianMixture.fit`.
            mask: True where a point is real, boolean, shape ``(*)``; only with one tensor of
                `strokes`.
            event_size: Number of coordinates ``D``.
            pen: As for :meth:`from_outputs`.
            covariance: As for :meth:`GaussianMixture.fit`.
            min_scale: Likewise.
            restarts: Likewise.
            generator: Likewise.
            validate_args: Likewise.

        Returns:
            A distribution of batch shape ``()`` and of the dtype of `strokes`.

        Raises:
            TypeError: If `strokes` is not floating point or `mask` is not boolean.
            ValueError: If there is no point, points are not finite or of the wrong size, the pen's
                values are not valid, `mask` does not fit, or another argument is out of range.

        Example:
            >>> strokes = torch.tensor([[-1.0, 0.0, 0.0], [3.0, 0.0, 1.0]]).repeat(50, 1)
            >>> StrokeDistribution.fit(strokes, components=2).mean
            tensor([1.0000, 0.0000, 0.5000])
        """
        kind = pen_class(pen)
        points = widen(gather_points(strokes, mask, event_size, kind).detach())
        offset, value = points.tensor_split([event_size], -1)
        mixture = GaussianMixture.fit(
            offset,
            components,
            covariance=covariance,
            min_scale=min_scale,
            restarts=restarts,
            generator=generator,
        )
        marginal = kind(kind.from_rows(kind.log_odds(value)), validate_args)
        return cls(mixture, marginal, validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> StrokePoint:
        """Finite coordinates, then a value of the pen: points of shape ``(*, event)``.

        Example:
            >>> d = StrokeDistribution.from_outputs(torch.zeros(121))
            >>> d.support.check(torch.tensor([[0.3, -2.0, 1.0], [0.3, -2.0, 0.5]]))
            tensor([ True, False])
        """
        return StrokePoint(self._event_size, self.pen)

    def rsample(
        self, sample_shape: Shape = Size(), generator: torch.Generator | None = None
    ) -> Tensor:
        """Raise NotImplementedError: no pathwise derivative leads through a pen's state.

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

        Example:
            >>> StrokeDistribution.from_outputs(torch.zeros(121)).mean
            tensor([0.0000, 0.0000, 0.5000])
        """
        return torch.cat([self.offset.mean, self.pen.as_rows(self.pen.mean)], -1)

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate and of the pen's values, shape ``(*, event)``."""
        return torch.cat([self.offset.variance, self.pen.as_rows(self.pen.variance)], -1)

    @property
    def mode(self) -> Tensor:
        """The most probable point, shape ``(*, event)``, without a gradient.

        The offset's :attr:`GaussianMixture.mode`, and the pen's most probable value, the first of
        several; a flag of probability one half is 0.
        """
        return self._with_likeliest_pen(self.offset.mode)

    @property
    def component_mode(self) -> Tensor:
        """The offset's :attr:`GaussianMixture.component_mode` and the pen's most probable value."""
        return self._with_likeliest_pen(self.offset.component_mode)

    def biased(self, bias: float | Tensor) -> "StrokeDistribution":
        """Bias the offset; see :meth:`GaussianMixture.biased`. The pen is untouched."""
        return self._copy(offset=self.offset.biased(bias))

    def tempered(self, temperature: float | Tensor) -> "StrokeDistribution":
        """Temper the offset, see :meth:`GaussianMixture.tempered`, and the pen's logits."""
        return self._copy(
            offset=self.offset.tempered(temperature), pen=self.pen.tempered(temperature)
        )

    def marginal(self, dims: int | Sequence[int]) -> "StrokeDistribution":
        """Keep coordinates of the offset, and the pen; see :meth:`GaussianMixture.marginal`."""
        return self._copy(offset=self.offset.marginal(dims))

    def condition(self, dims: int | Sequence[int], values: float | Tensor) -> "StrokeDistribution":
        """Give some coordinates of the offset; see :meth:`GaussianMixture.condition`."""
        return self._with_offset(self.offset.condition(dims, values))

    def affine(self, loc: float | Tensor, scale: float | Tensor) -> "StrokeDistribution":
        """Put the offset in other units; see :meth:`GaussianMixture.affine`.

        With ``affine(normalization.loc, normalization.scale)``, a distribution of normalised points
        scores and draws points in data units.

        Example:
            >>> from mdn_dist.data import Normalization
            >>> units = Normalization(torch.tensor([8.0, 0.0]), torch.tensor([40.0, 20.0]))
            >>> d = StrokeDistribution.from_outputs(torch.zeros(121))
            >>> d.affine(units.loc, units.scale).mean
            tensor([8.0000, 0.0000, 0.5000])
        """
        return self._with_offset(self.offset.affine(loc, scale))

    def responsibilities(self, value: Tensor) -> Tensor:
        """Tell the offset's components of points; see :meth:`GaussianMixture.responsibilities`."""
        return self.offset.responsibilities(self._accept(value)[..., : self._event_size])

    def crps(self, value: Tensor) -> Tensor:
        """Score the offset of points by coordinate; see :meth:`GaussianMixture.crps`."""
        return self.offset.crps(self._accept(value)[..., : self._event_size])

    def energy_score(
        self, value: Tensor, samples: int = 64, generator: torch.Generator | None = None
    ) -> Tensor:
        """Score the offset of points by draws; see :meth:`GaussianMixture.energy_score`."""
        offset = self._accept(value)[..., : self._event_size]
        return self.offset.energy_score(offset, samples, generator)

    def entropy_bounds(self) -> tuple[Tensor, Tensor]:
        """Bound the entropy: the offset's :meth:`GaussianMixture.entropy_bounds` and the pen's own.

        Returns:
            A lower and an upper bound, each ``(*)``, in nats; differentiable.

        Example:
            >>> StrokeDistribution.from_outputs(torch.zeros(7)).entropy_bounds()
            (tensor(3.5310), tensor(3.5310))
        """
        pen = self.pen.entropy()
        lower, upper = self.offset.entropy_bounds()
        return lower + pen, upper + pen

    @property
    def _event_size(self) -> int:
        return self.offset.event_shape[0]

    @property
    def _dtype(self) -> torch.dtype:
        return self.offset._dtype

    def _settle(self) -> None:
        self._batch_shape = getattr(self.offset, "batch_shape", Size())
        if isinstance(self.offset, GaussianMixture) and isinstance(self.pen, Pen):
            values = self.pen.event_shape[0] if self.pen.event_shape else 1
            self._event_shape = Size([self._event_size + static_size(values)])

    def _score(self, value: Tensor, mask: Tensor | None) -> Tensor:
        offset, pen = value.tensor_split([self._event_size], -1)
        logits = self.pen.rows if mask is None else only_kept(mask, self.pen.rows, 1, 0.0)
        # NaN stays, but sends back no 0 times NaN from a point whose score is dropped later
        sound = logits.amax(-1, keepdim=True).isfinite()
        score = self.pen.score(torch.where(sound, logits, 0.0), pen)
        score = torch.where(sound.squeeze(-1), score, math.nan)
        score = score if mask is None else torch.where(mask, score, 0.0)
        return self.offset._score(offset, mask) + score

    def _draw(self, sample_shape: Size, generator: torch.Generator | None) -> Tensor:
        offset = self.offset._draw(sample_shape, generator)
        logits = self.pen.rows
        if sample_shape:
            logits = logits.expand(*sample_shape, *logits.shape)
        return torch.cat([offset, self.pen.draw(logits, generator).to(offset)], -1)

    def _check(self, value: Tensor, mask: Tensor | None = None) -> None:
        offset, pen = value.tensor_split([self._event_size], -1)
        check_finite("offset in value", offset)
        valid = self.pen.valid(pen)
        valid = valid if mask is None else valid | ~mask.unsqueeze(-1)
        check_all("pen in value", valid, self.pen.valid_values, pen)

    def _with_offset(self, offset: GaussianMixture) -> "StrokeDistribution":
        """Return a copy with an offset whose batch may be larger."""
        return self._copy(offset=offset, pen=self.pen.expand(offset.batch_shape))

    def _with_likeliest_pen(self, offset: Tensor) -> Tensor:
        return torch.cat([offset, self.pen.likeliest(self.pen.rows).to(offset)], -1)

    def _describe(self) -> str:
        return f"{self.offset._describe()}, pen={pen_name(type(self.pen))}"
