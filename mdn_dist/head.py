"""The mixture density head: a linear map whose output is a distribution."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from mdn_dist.fitting import fit_mixture
from mdn_dist.functional import clip_gradient
from mdn_dist.mixture import GaussianMixture
from mdn_dist.outputs import Bounds, OutputMap, Parameters, Pen
from mdn_dist.stroke import OutputStrokeDistribution, StrokeDistribution

INITIAL_SPREAD = 0.03  # of the outputs, in units of the fitted parameters, for unit features
INITIAL_POINTS = 20_000  # enough to fit a mixture to


class MixtureDensityHead(nn.Module):
    """Map features to the distribution of the next point.

    Args:
        in_features: Size ``H`` of the features.
        components: Number of mixture components ``K``.
        event_size: Number of coordinates ``D``.
        pen: ``"bernoulli"`` for an end-of-stroke flag, ``"one_hot"`` for three pen states, None for
            the bare mixture.
        bounds: Limits of scales and correlations; None for the paper's exact maps.
        clip_gradient: Clip the loss's derivatives by the outputs to ``[-clip, clip]``; None not to.
        validate_args: Passed on to the distributions.
        device: Where the weights are made.
        dtype: Type of the weights.

    Raises:
        ValueError: If a size is not positive or `pen` is unknown.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 16 to 22.

    Example:
        >>> head = MixtureDensityHead(in_features=8, components=5)
        >>> head(torch.zeros(4, 7, 8)).log_prob(torch.zeros(4, 7, 3)).shape
        torch.Size([4, 7])
    """

    def __init__(
        self,
        in_features: int,
        components: int = 20,
        event_size: int = 2,
        pen: Pen | None = "bernoulli",
        *,
        bounds: Bounds | None = Bounds(),
        clip_gradient: float | None = None,
        validate_args: bool | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.output_map = OutputMap(components, event_size, pen, bounds)
        self.linear = nn.Linear(in_features, self.output_map.size, device=device, dtype=dtype)
        self.clip_gradient = clip_gradient
        self.validate_args = validate_args

    def forward(self, features: Tensor | PackedSequence) -> StrokeDistribution | GaussianMixture:
        """Return the distribution that `features` stand for.

        Args:
            features: Shape ``(*, H)``; or a packed sequence of features, whose distribution has the
                batch shape ``(sum of lengths)`` of its ``data``, so that packed points are scored
                by their ``data`` too.

        Returns:
            A :class:`StrokeDistribution`, or a :class:`GaussianMixture` without a pen, of batch
            shape ``(*)``.

        Raises:
            ValueError: If the last dimension is not ``in_features``.
        """
        if isinstance(features, PackedSequence):
            features = features.data
        if features.shape[-1:] != (self.linear.in_features,):
            raise ValueError(
                f"features must end in {self.linear.in_features} values, "
                f"got shape {tuple(features.shape)}"
            )
        outputs = self.linear(features)
        if self.clip_gradient is not None:
            outputs = clip_gradient(outputs, self.clip_gradient)
        output_map = self.output_map
        if output_map.pen is None:
            return GaussianMixture.from_outputs(
                outputs,
                output_map.components,
                event_size=output_map.event_size,
                bounds=output_map.bounds,
                validate_args=self.validate_args,
            )
        return OutputStrokeDistribution(outputs, output_map, self.validate_args)

    @torch.no_grad()
    def initialize(
        self,
        strokes: Tensor | Sequence[Tensor],
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Self:
        """Set the head from data, so that training starts at the best unconditional model.

        The bias is set to a mixture fitted to the points and to the pen's log-odds; the weights to
        small random numbers, each in proportion to what its output changes, so that features of
        size about 1 move the score by a few thousandths of a nat.

        Args:
            strokes: Points that the head will predict, shape ``(*, event)``, or a sequence of
                tensors ``(T, event)``.
            mask: True where a point is real, shape ``(*)``, with a tensor of `strokes`.
            generator: Source of randomness; torch's global one by default.

        Returns:
            The head itself.

        Raises:
            ValueError: If there is no point, or points are not finite or of the wrong size.

        Example:
            >>> generator = torch.Generator().manual_seed(0)
            >>> points = torch.randn(500, 2, generator=generator)
            >>> head = MixtureDensityHead(8, components=1, pen=None)
            >>> head.initialize(points, generator=generator)(torch.zeros(8)).loc.abs().max() < 0.2
            tensor(True)
        """
        points = self._points(strokes, mask)
        output_map, weight = self.output_map, self.linear.weight
        offset, pen = points.tensor_split([output_map.event_size], -1)
        chosen = torch.randperm(len(offset), generator=generator, device=offset.device)
        chosen = chosen[:INITIAL_POINTS]
        mixture = fit_mixture(offset[chosen], output_map.components, generator=generator)
        parameters = Parameters(
            _log_odds(pen), mixture.logits.log_softmax(-1), mixture.loc, mixture.scale_tril
        )
        self.linear.bias.copy_(output_map.outputs(parameters))
        unit = torch.ones_like(weight[:, 0])
        pen_size, weights_size, means_size, *_ = output_map.sizes
        means = slice(pen_size + weights_size, pen_size + weights_size + means_size)
        unit[means] = mixture.scale_tril.square().sum(-1).sqrt().mT.flatten().to(unit)
        noise = torch.empty_like(weight).normal_(generator=generator)
        weight.copy_(noise * unit.unsqueeze(-1) * (INITIAL_SPREAD / weight.shape[-1] ** 0.5))
        return self

    def _points(self, strokes: Tensor | Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Return the real points of `strokes` as ``(N, event)``, checked."""
        if not isinstance(strokes, Tensor):
            strokes = torch.cat(list(strokes))
        size = self.output_map.point_size
        if strokes.shape[-1:] != (size,):
            raise ValueError(f"strokes must end in {size} values, got shape {tuple(strokes.shape)}")
        points = strokes.reshape(-1, size) if mask is None else strokes[mask]
        if not len(points):
            raise ValueError(f"strokes must hold at least one point, got {tuple(strokes.shape)}")
        if not points.isfinite().all():
            raise ValueError("strokes must be finite where mask is True, got infinite or NaN")
        return points.to(self.linear.weight)

    def extra_repr(self) -> str:
        """Describe the map from outputs to parameters."""
        return f"output_map={self.output_map}, clip_gradient={self.clip_gradient}"


def _log_odds(pen: Tensor) -> Tensor:
    """Return the pen's logits ``(pen)`` from its values ``(N, pen)``, with half a count added."""
    share = (pen.sum(0) + 0.5) / (len(pen) + 1)
    return share.logit() if pen.shape[-1] == 1 else share.log()
