"""How a network's raw outputs become the parameters of a mixture and a pen, and back."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from mdn_dist._checks import check_bias, check_counts, check_temperature, check_tensor, is_number
from mdn_dist._maths.floats import widen
from mdn_dist._maths.growth import hold_growth, release_growth
from mdn_dist._maths.maps import (
    MARGIN,
    maps_from_scale_tril,
    saturate,
    scale_tril_from_maps,
    sharpen,
    unsaturate,
)
from mdn_dist._torch import tracing

Pen = Literal["bernoulli", "one_hot"]
"""``"bernoulli"``, an end-of-stroke flag; ``"one_hot"``, the three pen states of sketch-rnn."""

PEN_SIZE: dict[Pen | None, int] = {None: 0, "bernoulli": 1, "one_hot": 3}


@dataclass(frozen=True)
class Bounds:
    """Smooth limits that keep every density finite in float32.

    The maps are the paper's, exactly, for scales at least ``e`` times the floor and at most the
    ceiling over ``e``, and for correlations up to ``tanh(atanh(max_correlation) - 1)``: with the
    defaults, scales in [2.8e-4, 3.6e3] and correlations within 0.9992. Beyond, they bend towards
    the limits (``saturate``). From three coordinates on, correlations that
    together would magnify deviations by more than some thousands (in float64, 1e33) bend too
    (``hold_growth``).

    Args:
        min_scale: Floor of every standard deviation, in data units.
        max_scale: Ceiling of every standard deviation, in data units.
        max_correlation: Limit of ``|rho|``, for ``D = 2``; for larger ``D``, of the correlation
            that each unbounded output would cause alone.

    Raises:
        TypeError: If a limit is not a number.
        ValueError: If the limits leave no room between them.

    Example:
        >>> Bounds(min_scale=1e-3).max_scale
        10000.0
    """

    min_scale: float = 1e-4
    max_scale: float = 1e4
    max_correlation: float = 0.9999

    def __post_init__(self) -> None:
        for name, limit in vars(self).items():
            if not is_number(limit):
                raise TypeError(f"{name} must be a number, got {limit!r}")
        ratio = math.exp(2 * MARGIN)
        if not 0 < self.min_scale * ratio < self.max_scale < math.inf:
            raise ValueError(
                "min_scale must be positive and max_scale finite and more than "
                f"{ratio:.1f} times as large, got {self.min_scale} and {self.max_scale}"
            )
        least = math.tanh(MARGIN)
        if not least < self.max_correlation < 1:
            raise ValueError(
                f"max_correlation must be between {least:.4f} and 1, got {self.max_correlation}"
            )

    @property
    def log_scale(self) -> tuple[float, float]:
        """Lower and upper limit of the log standard deviations."""
        return math.log(self.min_scale), math.log(self.max_scale)

    @property
    def correlation(self) -> tuple[float, float]:
        """Lower and upper limit of the unbounded correlations."""
        limit = math.atanh(self.max_correlation)
        return -limit, limit


class Parameters(NamedTuple):
    """The parameters that one row of outputs stands for."""

    pen_logits: Tensor  # (*, pen)
    logits: Tensor  # (*, K)
    loc: Tensor  # (*, K, D)
    scale_tril: Tensor  # (*, K, D, D)


@dataclass(frozen=True)
class OutputMap:
    r"""The order of the raw outputs and the functions that turn them into parameters.

    A row holds, in this order: the pen's values (1 for a Bernoulli, 3 for pen states, none without
    a pen), the weights (``K``), the means (``D K``, all first coordinates, then all second, ...),
    the log standard deviations (``D K``, likewise) and the unbounded correlations
    (``D (D - 1) / 2`` times ``K``, the strictly lower triangle row by row). For ``D = 2`` and a
    Bernoulli pen these are the paper's ``6 K + 1`` outputs. A Bernoulli's logit is *minus* its
    output, as in the paper; pen states are plain logits.

    Args:
        components: Number of mixture components ``K``.
        event_size: Number of coordinates ``D``.
        pen: The pen's model, or None.
        bounds: Limits of the parameters; None for the paper's exact maps.
        logit_factor: Multiplies the mixture's logits (a probability bias, a temperature).
        log_scale_shift: Added to the log standard deviations, after the bounds.
        pen_factor: Multiplies the pen's logits.

    Raises:
        TypeError: If a size is not an integer, or `bounds` no :class:`Bounds`.
        ValueError: If a size is not positive or `pen` is unknown.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 17 to 22.

    Example:
        >>> OutputMap(components=20).size
        121
        >>> OutputMap(components=5, event_size=32, pen=None).size
        2805
    """

    components: int = 20
    event_size: int = 2
    pen: Pen | None = "bernoulli"
    bounds: Bounds | None = field(default_factory=Bounds)
    logit_factor: float = 1.0
    log_scale_shift: float = 0.0
    pen_factor: float = 1.0

    def __post_init__(self) -> None:
        check_counts(components=self.components, event_size=self.event_size)
        if not (self.pen is None or isinstance(self.pen, str)) or self.pen not in PEN_SIZE:
            raise ValueError(f"pen must be 'bernoulli', 'one_hot' or None, got {self.pen!r}")
        if not (self.bounds is None or isinstance(self.bounds, Bounds)):
            raise TypeError(f"bounds must be Bounds(...) or None, got {self.bounds!r}")

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Lengths of the five blocks of a row: pen, weights, means, scales, correlations."""
        k, d = self.components, self.event_size
        return PEN_SIZE[self.pen], k, d * k, d * k, d * (d - 1) // 2 * k

    @property
    def size(self) -> int:
        """Length of a row of outputs."""
        return sum(self.sizes)

    @property
    def point_size(self) -> int:
        """Length of a point: the coordinates, then the pen's values."""
        return self.event_size + PEN_SIZE[self.pen]

    def biased(self, bias: float) -> Self:
        """The map of the distribution biased towards its more probable points.

        Args:
            bias: Probability bias, at least 0.

        Returns:
            A new map.

        Raises:
            ValueError: If `bias` is negative or not finite.

        Source:
            Graves 2013, equations 61 and 62.
        """
        check_bias(bias)
        return replace(
            self,
            logit_factor=self.logit_factor * (1 + bias),
            log_scale_shift=self.log_scale_shift - bias,
        )

    def tempered(self, temperature: float) -> Self:
        """The map of the distribution at a temperature.

        Args:
            temperature: Divides the logits and multiplies the covariances; positive.

        Returns:
            A new map.

        Raises:
            ValueError: If `temperature` is not positive and finite.
        """
        check_temperature(temperature)
        return replace(
            self,
            logit_factor=self.logit_factor / temperature,
            log_scale_shift=self.log_scale_shift + math.log(temperature) / 2,
            pen_factor=self.pen_factor / temperature,
        )

    def accept(self, outputs: Tensor) -> Tensor:
        """Return `outputs`, half precision widened to float32, or raise if they do not fit.

        Args:
            outputs: Raw outputs, shape ``(*, size)``.

        Returns:
            The outputs in float32 or float64.

        Raises:
            TypeError: If they are not floating-point numbers.
            ValueError: If their last dimension has another size.
        """
        check_tensor(outputs, "outputs")
        if not outputs.is_floating_point():
            raise TypeError(f"outputs must be floating point, got {outputs.dtype}")
        if not tracing() and outputs.shape[-1:] != (self.size,):
            blocks = " + ".join(str(size) for size in self.sizes)
            raise ValueError(
                f"outputs must end in {blocks} = {self.size} values (pen, weights, means, scales, "
                f"correlations) for components={self.components}, event_size={self.event_size}, "
                f"pen={self.pen!r}; got shape {tuple(outputs.shape)}"
            )
        return widen(outputs)

    def parameters(self, outputs: Tensor) -> Parameters:
        """Compute the parameters that `outputs` stand for.

        Args:
            outputs: Raw outputs, shape ``(*, size)``.

        Returns:
            The pen's logits and the mixture's logits, means and Cholesky factors.

        Example:
            >>> OutputMap(components=20).parameters(torch.zeros(7, 121)).scale_tril.shape
            torch.Size([7, 20, 2, 2])
        """
        _, logits, loc, log_scale, correlation = outputs.split(self.sizes, -1)
        loc = loc.unflatten(-1, (self.event_size, self.components))
        log_scale = log_scale.unflatten(-1, (self.event_size, self.components))
        pairs = self.event_size * (self.event_size - 1) // 2
        correlation = correlation.unflatten(-1, (pairs, self.components))
        # what is not finite stays so, but sends back no 0 times NaN from a point that is masked
        spoilt = (0 * torch.cat([log_scale, correlation], -2).detach()).sum(-2)  # (*, K), 0 or NaN
        finite = spoilt == 0
        log_scale, correlation = (
            torch.where(finite.unsqueeze(-2), x, 0.0) for x in (log_scale, correlation)
        )
        log_scale, correlation = self.bounded(log_scale, correlation)
        scale_tril = scale_tril_from_maps(log_scale, correlation)
        return Parameters(
            pen_logits=self.pen_logits(outputs),
            logits=sharpen(logits, self.logit_factor),
            loc=loc.movedim(-1, -2),
            scale_tril=torch.where(finite[..., None, None], scale_tril, spoilt[..., None, None]),
        )

    def bounded(self, log_scale: Tensor, correlation: Tensor) -> tuple[Tensor, Tensor]:
        """Hold scales and correlations within the bounds, and shift the scales.

        Args:
            log_scale: Log standard deviations by the outputs, shape ``(*, D, K)``.
            correlation: Unbounded correlations by the outputs, shape ``(*, D (D - 1) / 2, K)``.

        Returns:
            Both, of the same shapes, as the mixture has them.

        Example:
            >>> log_scale, _ = OutputMap().bounded(torch.full((2, 20), -99.0), torch.zeros(1, 20))
            >>> log_scale.exp().amax()
            tensor(0.0001)
        """
        if self.bounds is not None:
            log_scale = saturate(log_scale, *self.bounds.log_scale)
            correlation = saturate(correlation, *self.bounds.correlation)
            correlation = hold_growth(correlation, self.event_size)
        return log_scale + self.log_scale_shift, correlation

    def pen_logits(self, outputs: Tensor) -> Tensor:
        """Compute the pen's logits alone.

        Args:
            outputs: Raw outputs, shape ``(*, size)``.

        Returns:
            Logits, shape ``(*, pen)``.

        Source:
            Graves 2013, equation 18.

        Example:
            >>> OutputMap(components=1).pen_logits(torch.tensor([3.0, 0, 0, 0, 0, 0, 0]))
            tensor([-3.])
        """
        return sharpen(outputs[..., : self.sizes[0]], self.pen_slope)

    def outputs(self, parameters: Parameters) -> Tensor:
        """Compute outputs that stand for `parameters`, the inverse of :meth:`parameters`.

        A parameter at or beyond a bound comes back close to the bound.

        Args:
            parameters: The pen's logits and the mixture's logits, means and Cholesky factors.

        Returns:
            Raw outputs, shape ``(*, size)``.

        Example:
            >>> outputs = torch.linspace(-1, 1, 121)
            >>> torch.allclose(OutputMap().outputs(OutputMap().parameters(outputs)), outputs)
            True
        """
        log_scale, correlation = maps_from_scale_tril(parameters.scale_tril)
        log_scale = log_scale - self.log_scale_shift
        if self.bounds is not None:
            log_scale = unsaturate(log_scale, *self.bounds.log_scale)
            correlation = release_growth(correlation, self.event_size)
            correlation = unsaturate(correlation, *self.bounds.correlation)
        blocks = [
            parameters.pen_logits / self.pen_slope,
            parameters.logits / self.logit_factor,
            parameters.loc.movedim(-1, -2).flatten(-2),
            log_scale.flatten(-2),
            correlation.flatten(-2),
        ]
        return torch.cat(blocks, -1)

    @property
    def pen_slope(self) -> float:
        """Derivative of the pen's logits by its outputs."""
        return -self.pen_factor if self.pen == "bernoulli" else self.pen_factor
