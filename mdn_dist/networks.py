"""The recurrent networks of the paper."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from mdn_dist._checks import Covariance, check_clip, check_counts, check_mask, check_tensor
from mdn_dist._maths.gradients import clip_gradient
from mdn_dist._points import gather_points
from mdn_dist._torch import static_size, tracing, unviewed
from mdn_dist.head import MixtureDensityHead, own_parameter
from mdn_dist.outputs import Bounds
from mdn_dist.pens import PenKind
from mdn_dist.stroke import StrokeDistribution

LSTMState = tuple[tuple[Tensor, Tensor], ...]
"""Hidden and cell values ``(B, H)`` of each layer."""


class ClippedLSTM(nn.LSTM):
    """One layer of torch's LSTM, batch first, with derivatives clipped at its activations.

    While gradients are recorded and `clip_lstm` is set, time is unrolled and the derivative of the
    loss by the hidden values of each step, through the layers above and through later steps, is
    clipped before it goes on; that takes twice the time of the fused layer, which does the rest.

    Args:
        input_size: Size of the input.
        hidden_size: Size of the hidden values.
        clip_lstm: Largest derivative let through; None for torch's fused layer throughout.
        device: Where the weights are made.
        dtype: Type of the weights.

    Source:
        Graves 2013 (arXiv:1308.0850), section 2.1.

    Example:
        >>> h = c = torch.zeros(4, 8)
        >>> y, (h, c) = ClippedLSTM(3, 8, clip_lstm=10.0)(torch.zeros(4, 7, 3), (h, c))
        >>> y.shape, h.shape
        (torch.Size([4, 7, 8]), torch.Size([4, 8]))
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        clip_lstm: float | None = 10.0,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first=True, device=device, dtype=dtype)
        self.clip_lstm = clip_lstm

    def forward(  # type: ignore[override]  # batched tensors only
        self, inputs: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layer over a batch of sequences.

        Args:
            inputs: Shape ``(B, T, input_size)``.
            state: Hidden and cell values before the first step, each ``(B, H)``.

        Returns:
            The hidden values ``(B, T, H)`` and the state after the last step.
        """
        hidden, cell = state
        length = static_size(inputs.shape[1])
        if not length:
            return inputs.new_zeros(*inputs.shape[:2], self.hidden_size), state
        unclipped = self.clip_lstm is None or not torch.is_grad_enabled()
        if unclipped and length > 1:
            output, (hidden, cell) = super().forward(inputs, (hidden[None], cell[None]))
            return unviewed(output), (unviewed(hidden[0]), unviewed(cell[0]))
        weights = self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0
        steps = []
        for point in inputs.unbind(1):
            hidden, cell = torch.lstm_cell(point, (hidden, cell), *weights)
            if self.clip_lstm is not None:
                hidden = clip_gradient(hidden, self.clip_lstm)
            steps.append(hidden)
        return torch.stack(steps, 1), (unviewed(hidden), cell)


class PredictionNetwork(nn.Module):
    """The paper's prediction network: LSTM layers with skip connections, ending in the head.

    Every layer sees the point and the layer below; the head sees all layers. ``network(strokes)``
    gives at step ``t`` the distribution of point ``t + 1``.

    Args:
        hidden_size: Size ``H`` of each layer; the paper's are 400 (three layers) and 900 (one).
        layers: Number of LSTM layers.
        components: Number of mixture components ``K``.
        event_size: Number of coordinates ``D`` of an offset.
        pen: ``"bernoulli"`` for an end-of-stroke flag, ``"one_hot"`` for three pen states, or a
            subclass of :class:`mdn_dist.pens.Pen`.
        covariance: Of the components: ``"full"``, ``"diagonal"`` or ``"spherical"``.
        bounds: Limits of scales and correlations; None for the paper's exact maps.
        clip_outputs: Clip the loss's derivatives by the outputs to this; None not to. The paper's
            value is for a loss that sums over the points.
        clip_lstm: Likewise by the LSTM's activations, as the paper does at 10; None for torch's
            fused layers, three times as fast. On lines of 700 points no derivative reached 5
            (``benchmarks/clipping.py``), so that 10 changed nothing: give it where training on
            other data, or of larger networks, explodes.
        validate_args: Passed on to the distributions.
        device: Where the weights are made.
        dtype: Type of the weights.

    Raises:
        TypeError: If a size is not an integer, or another argument of the wrong type.
        ValueError: If a size or limit is not positive, or `pen` is unknown.

    Source:
        Graves 2013 (arXiv:1308.0850), sections 2 and 4.

    Example:
        >>> network = PredictionNetwork(hidden_size=8, layers=3, components=2)
        >>> strokes = torch.zeros(4, 7, 3)
        >>> distribution, state = network(strokes[:, :-1])
        >>> distribution.log_prob(strokes[:, 1:]).shape
        torch.Size([4, 6])
    """

    def __init__(
        self,
        hidden_size: int = 400,
        layers: int = 3,
        components: int = 20,
        *,
        event_size: int = 2,
        pen: PenKind = "bernoulli",
        covariance: Covariance = "full",
        bounds: Bounds | None = Bounds(),
        clip_outputs: float | None = 100.0,
        clip_lstm: float | None = None,
        validate_args: bool | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts(hidden_size=hidden_size, layers=layers)
        check_clip(clip_outputs=clip_outputs, clip_lstm=clip_lstm)
        where = {"device": device, "dtype": dtype}
        self.head = MixtureDensityHead(
            layers * hidden_size,
            components,
            event_size,
            pen,
            covariance=covariance,
            bounds=bounds,
            clip_outputs=clip_outputs,
            validate_args=validate_args,
            **where,
        )
        self.point_size = self.head.point_size
        sizes = [self.point_size] + [self.point_size + hidden_size] * (layers - 1)
        self.layers = nn.ModuleList(
            ClippedLSTM(size, hidden_size, clip_lstm, **where) for size in sizes
        )

    @torch.no_grad()
    def initialize(
        self,
        strokes: Tensor | Sequence[Tensor],
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Self:
        """Set the network from data: the head, by its own `initialize`, and what reads the points.

        The weights by which layers read a coordinate become normal numbers over its mean size, so
        that a usual offset moves a gate by about one, whatever the unit; those that read the pen,
        standard normal numbers. torch's own would let a step of a pen move a gate by hundredths.

        Args:
            strokes: Points to learn from, shape ``(*, event)``, or a sequence of tensors
                ``(T, event)``.
            mask: True where a point is real, boolean, shape ``(*)``; only with one tensor of
                `strokes`.
            generator: Source of randomness; torch's global one by default.

        Raises:
            TypeError: As :meth:`mdn_dist.MixtureDensityHead.initialize` raises.
            ValueError: Likewise.

        Example:
            >>> generator = torch.Generator().manual_seed(0)
            >>> strokes = 1e-3 * torch.randn(4, 50, 3, generator=generator)
            >>> strokes[..., 2] = 0
            >>> network = PredictionNetwork(hidden_size=8, layers=1, components=2)
            >>> distribution, _ = network.initialize(strokes, generator=generator)(strokes)
            >>> distribution.log_prob(strokes).mean() > 9  # the differential entropy is about -11
            tensor(True)
        """
        event_size = self.head.output_map.event_size
        points = gather_points(strokes, mask, event_size, self.head.pen)
        weights = [own_parameter(layer, "weight_ih_l0") for layer in self.layers]
        self.head.initialize(points, generator=generator)
        size = points[:, :event_size].abs().mean(0)
        for weight in weights:
            read = weight[:, : self.point_size].normal_(generator=generator)
            usual = torch.where(size > 0, size, 1.0).to(weight)
            read[:, :event_size] /= usual.clamp_min(10 / torch.finfo(weight.dtype).max)
        return self

    if TYPE_CHECKING:

        def __call__(
            self, strokes: Tensor, state: LSTMState | None = None, mask: Tensor | None = None
        ) -> tuple[StrokeDistribution, LSTMState]:
            """See `forward`."""

    def forward(
        self, strokes: Tensor, state: LSTMState | None = None, mask: Tensor | None = None
    ) -> tuple[StrokeDistribution, LSTMState]:
        """Predict, at every step, the next point.

        Args:
            strokes: Points, shape ``(B, T, event)``.
            state: State before the first step; the initial state when None.
            mask: True where a point is real, shape ``(B, T)``. Padding is read as zeros, so that
                NaN in it reaches nothing.

        Returns:
            The distribution of the point after each, batch shape ``(B, T)``, and the state after
            the last step.

        Raises:
            TypeError: If `strokes` is not a tensor, or `mask` not a boolean one.
            ValueError: If `strokes` or `mask` has another shape.
        """
        self._check(strokes, mask)
        if mask is not None:
            strokes = torch.where(mask.unsqueeze(-1), strokes, 0.0)
        if state is None:
            state = self.initial_state(strokes.shape[0])
        outputs: list[Tensor] = []
        new_state: list[tuple[Tensor, Tensor]] = []
        for layer, before in zip(self.layers, state, strict=True):
            output, after = layer(torch.cat([strokes, *outputs[-1:]], -1), before)
            outputs.append(output)
            new_state.append(after)
        return self.head(torch.cat(outputs, -1)), tuple(new_state)

    def _check(self, strokes: Tensor, mask: Tensor | None) -> None:
        """Raise TypeError or ValueError unless both fit."""
        check_tensor(strokes, "strokes")
        if mask is not None:
            check_mask(mask)
        if tracing():
            return
        if strokes.dim() != 3 or strokes.shape[-1] != self.point_size:
            raise ValueError(
                f"strokes must have shape (B, T, {self.point_size}), got {tuple(strokes.shape)}"
            )
        if mask is not None and mask.shape != strokes.shape[:-1]:
            raise ValueError(
                f"mask must have shape {tuple(strokes.shape[:-1])}, got {tuple(mask.shape)}"
            )

    def initial_state(self, batch_size: int) -> LSTMState:
        """Return the state before the first point.

        Args:
            batch_size: Number of sequences ``B``.

        Returns:
            Zeros, ``(B, H)`` for the hidden and for the cell values of each layer, each a tensor of
            its own.
        """
        # not weight.new_zeros: FSDP's weights are distributed, the state is not
        weight = next(self.layers.parameters())
        size = self.head.linear.in_features // len(self.layers)

        def zeros() -> Tensor:
            return torch.zeros(batch_size, size, dtype=weight.dtype, device=weight.device)

        return tuple((zeros(), zeros()) for _ in self.layers)

    def step(self, point: Tensor, state: LSTMState) -> tuple[StrokeDistribution, LSTMState]:
        """Take one step: what `forward` does for a sequence of one point.

        Args:
            point: The last points, shape ``(B, event)``.
            state: State before them.

        Returns:
            The distribution of the next points, batch shape ``(B)``, and the state after them.
        """
        distribution, state = self(point.unsqueeze(1), state)
        return distribution[:, 0], state
