"""The mixture density head: a linear map whose output is a distribution."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypedDict, Unpack, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from typing_extensions import TypeVar

from mdn_dist._checks import Covariance, check_clip, check_counts, check_tensor
from mdn_dist._maths.floats import in_float64
from mdn_dist._maths.gradients import clip_gradient
from mdn_dist._points import gather_points
from mdn_dist._torch import tracing, unviewed
from mdn_dist.mixture import GaussianMixture, OutputMixture
from mdn_dist.outputs import Bounds, OutputMap, Parameters
from mdn_dist.pens import PenKind, pen_class
from mdn_dist.stroke import StrokeDistribution

Distribution = TypeVar(
    "Distribution", StrokeDistribution, OutputMixture, default=StrokeDistribution
)
"""What a head makes; a head of which nothing is said has a pen."""

INITIAL_SPREAD = 0.03  # of the outputs, in units of the fitted parameters, for unit features
INITIAL_POINTS = 20_000  # enough to fit a mixture to
INITIAL_FLOOR = 1e-3  # of the fitted scales, in units of the data's root mean square
SPREAD_POINTS = 2_000  # enough to measure how far each output may move


class HeadOptions(TypedDict, total=False):
    """What :class:`MixtureDensityHead` takes beside its sizes and its pen."""

    covariance: Covariance
    bounds: Bounds | None
    clip_outputs: float | None
    validate_args: bool | None
    device: Any
    dtype: torch.dtype | None


class MixtureDensityHead(nn.Module, Generic[Distribution]):
    """Map features to the distribution of the next point.

    Args:
        in_features: Size ``H`` of the features.
        components: Number of mixture components ``K``.
        event_size: Number of coordinates ``D``.
        pen: ``"bernoulli"`` for an end-of-stroke flag, ``"one_hot"`` for three pen states, a
            subclass of :class:`mdn_dist.pens.Pen`, or None for the bare mixture.
        covariance: Of the components: ``"full"``, ``"diagonal"`` or ``"spherical"``.
        bounds: Limits of scales and correlations; None for the paper's exact maps.
        clip_outputs: Clip the loss's derivatives by the outputs to ``[-clip, clip]``; None not to.
        validate_args: Passed on to the distributions.
        device: Where the weights are made.
        dtype: Type of the weights.

    Raises:
        TypeError: If a size is not an integer, or another argument of the wrong type.
        ValueError: If a size or `clip_outputs` is not positive, or `pen` is unknown.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 16 to 22.

    Example:
        >>> head = MixtureDensityHead(in_features=8, components=5)
        >>> head(torch.zeros(4, 7, 8)).log_prob(torch.zeros(4, 7, 3)).shape
        torch.Size([4, 7])
    """

    @overload
    def __init__(
        self: "MixtureDensityHead[OutputMixture]",
        in_features: int,
        components: int = ...,
        event_size: int = ...,
        *,
        pen: None,
        **options: Unpack[HeadOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: "MixtureDensityHead[OutputMixture]",
        in_features: int,
        components: int,
        event_size: int,
        pen: None,
        **options: Unpack[HeadOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: "MixtureDensityHead[StrokeDistribution]",
        in_features: int,
        components: int = ...,
        event_size: int = ...,
        pen: PenKind = ...,
        **options: Unpack[HeadOptions],
    ) -> None: ...
    def __init__(
        self,
        in_features: int,
        components: int = 20,
        event_size: int = 2,
        pen: PenKind | None = "bernoulli",
        *,
        covariance: Covariance = "full",
        bounds: Bounds | None = Bounds(),
        clip_outputs: float | None = None,
        validate_args: bool | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts(in_features=in_features)
        check_clip(clip_outputs=clip_outputs)
        self.pen = None if pen is None else pen_class(pen)
        self.output_map = OutputMap(components, event_size, covariance, bounds)
        size = self._pen_size + self.output_map.size
        self.linear = nn.Linear(in_features, size, device=device, dtype=dtype)
        self.clip_outputs = clip_outputs
        self.validate_args = validate_args

    if TYPE_CHECKING:

        def __call__(self, features: Tensor | PackedSequence) -> Distribution:
            """See `forward`."""

    def forward(self, features: Tensor | PackedSequence) -> StrokeDistribution | OutputMixture:
        """Return the distribution that `features` stand for.

        Args:
            features: Shape ``(*, H)``; or a packed sequence of features, whose distribution has the
                batch shape ``(sum of lengths)`` of its ``data``, so that packed points are scored
                by their ``data`` too.

        Returns:
            A :class:`StrokeDistribution`, or an :class:`mdn_dist.mixture.OutputMixture` without a
            pen, of batch shape ``(*)``.

        Raises:
            TypeError: If `features` is not a tensor.
            ValueError: If the last dimension is not ``in_features``.
        """
        outputs = self._outputs(features)
        if self.clip_outputs is not None:
            outputs = clip_gradient(outputs, self.clip_outputs)
        return self._distribution(outputs)

    @property
    def point_size(self) -> int:
        """Length of a point: the coordinates, then the pen's values."""
        return self.output_map.event_size + self._pen_size

    @property
    def _pen_size(self) -> int:
        return 0 if self.pen is None else self.pen.size

    @torch.no_grad()
    def at_floor(self, features: Tensor | PackedSequence) -> Tensor:
        """Count the components that the floor of the scales keeps from collapsing.

        A component counts when its output asks for a standard deviation, in any coordinate, below
        ``bounds.min_scale``; the bounds answer with one slightly above. Many such components over
        many points say that the data repeat a value, or lie on a grid, more finely than the floor:
        the likelihood rewards ever smaller scales, and noise of about a grid's step, or a larger
        floor, gives it an end.

        Args:
            features: As for :meth:`forward`.

        Returns:
            Counts from 0 to ``K``, shape ``(*)``, of type int64; 0 without bounds.

        Raises:
            ValueError: If the last dimension is not ``in_features``.

        Example:
            >>> head = MixtureDensityHead(in_features=8, components=5)
            >>> head.at_floor(torch.zeros(4, 7, 8)).sum()
            tensor(0)
        """
        output_map = self.output_map
        least = 0.0 if output_map.bounds is None else output_map.bounds.min_scale
        rest = self._outputs(features)[..., self._pen_size :]
        below = output_map.split(rest).log_scale.exp() < least  # (*, D, K)
        return below.any(-2).sum(-1)

    def _outputs(self, features: Tensor | PackedSequence) -> Tensor:
        """Return the raw outputs that `features` give, or raise ValueError."""
        if isinstance(features, PackedSequence):
            features = features.data
        check_tensor(features, "features")
        if not tracing() and features.shape[-1:] != (self.linear.in_features,):
            raise ValueError(
                f"features must end in {self.linear.in_features} values, "
                f"got shape {tuple(features.shape)}"
            )
        outputs: Tensor = self.linear(features)
        return outputs

    def _distribution(self, outputs: Tensor) -> StrokeDistribution | OutputMixture:
        if self.pen is None:
            return OutputMixture(unviewed(outputs), self.output_map, self.validate_args)
        return StrokeDistribution._of_rows(outputs, self.pen, self.output_map, self.validate_args)

    @torch.no_grad()
    def initialize(
        self,
        strokes: Tensor | Sequence[Tensor],
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Self:
        """Set the head from data, so that training starts at the best unconditional model.

        The bias is set to a mixture fitted to the points and to the pen's log-odds; the weights to
        small random numbers, smaller where the score is steeper in an output (as in the means and
        scales of narrow or strongly correlated components), so that features of size about 1 move
        the score by a few thousandths of a nat.

        Args:
            strokes: Points that the head will predict, shape ``(*, event)``, or a sequence of
                tensors ``(T, event)``.
            mask: True where a point is real, boolean, shape ``(*)``; only with one tensor of
                `strokes`.
            generator: Source of randomness; torch's global one by default.

        Returns:
            The head itself.

        Raises:
            TypeError: If `strokes` is not of tensors, or `mask` is not boolean.
            ValueError: If there is no point, points are not finite or of the wrong size, the pen's
                values are not 0 or 1, or `mask` does not fit; or if the linear map's weight is made
                of others, as after ``weight_norm``.

        Example:
            >>> generator = torch.Generator().manual_seed(0)
            >>> points = torch.randn(500, 2, generator=generator)
            >>> head = MixtureDensityHead(8, components=1, pen=None)
            >>> head.initialize(points, generator=generator)(torch.zeros(8)).loc.abs().max() < 0.2
            tensor(True)
        """
        output_map, weight = self.output_map, own_parameter(self.linear, "weight")
        points = gather_points(strokes, mask, output_map.event_size, self.pen).to(weight)
        offset, value = points.tensor_split([output_map.event_size], -1)
        chosen = torch.randperm(len(offset), generator=generator, device=offset.device)
        chosen = chosen[:INITIAL_POINTS]
        bounds = output_map.bounds or Bounds()
        size = in_float64(offset).square().mean().sqrt().item()
        mixture = GaussianMixture.fit(
            offset[chosen],
            output_map.components,
            covariance=output_map.covariance,
            min_scale=INITIAL_FLOOR * size or bounds.min_scale,
            generator=generator,
        )
        outputs = output_map.outputs(
            Parameters(mixture.logits.log_softmax(-1), mixture.loc, mixture.scale_tril)
        )
        if self.pen is not None:
            outputs = self.pen.join(self.pen.log_odds(value), outputs)
        self.linear.bias.copy_(outputs)
        unit = self._output_units(mixture, points[chosen[:SPREAD_POINTS]])
        noise = torch.empty_like(weight).normal_(generator=generator)
        weight.copy_(noise * unit.unsqueeze(-1) * (INITIAL_SPREAD / weight.shape[-1] ** 0.5))
        return self

    def _output_units(self, mixture: GaussianMixture, points: Tensor) -> Tensor:
        """Return how far each output moves to change its component's score by about a nat."""
        unit, share = torch.ones_like(self.linear.bias), torch.ones_like(self.linear.bias)
        rest = slice(self._pen_size, None)
        self.output_map.split(unit[rest]).loc.copy_(mixture.scale_tril.square().sum(-1).sqrt().mT)
        # the share of the points that an output bears on
        share[rest].unflatten(0, (-1, self.output_map.components)).copy_(mixture.logits.softmax(-1))
        with torch.enable_grad():
            outputs = self.linear.bias.detach().repeat(len(points), 1).requires_grad_()
            score = self._distribution(outputs).log_prob(points).sum()
            (slope,) = torch.autograd.grad(score, outputs)
        return torch.fmin(unit, (share / slope.square().mean(0)).sqrt())  # fmin leaves out NaN

    def extra_repr(self) -> str:
        """Describe the map from outputs to parameters."""
        pen = None if self.pen is None else self.pen.__name__
        return f"pen={pen}, output_map={self.output_map}, clip_outputs={self.clip_outputs}"


def own_parameter(module: nn.Module, name: str) -> nn.Parameter:
    """Return a parameter to be set, or raise ValueError: one made of others would be lost."""
    parameter = module._parameters.get(name)
    if parameter is None:
        raise ValueError(
            f"initialize needs a {name} of its own, but {type(module).__name__} makes it of others "
            "(weight_norm, spectral_norm, quantization): initialize first"
        )
    return parameter
