"""How a network's raw outputs become the parameters of a mixture, and back."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from mdn_dist._checks import (
    Covariance,
    check_bias,
    check_counts,
    check_covariance,
    check_temperature,
    check_tensor,
    is_number,
)
from mdn_dist._maths.floats import least_scale, widen
from mdn_dist._maths.growth import hold_growth, release_growth
from mdn_dist._maths.maps import (
    MARGIN,
    maps_from_scale_tril,
    saturate,
    scale_tril_from_maps,
    sharpen,
    unsaturate,
)
from mdn_dist._torch import static_size, tracing

BLOCKS = ("weights", "means", "scales", "correlations")


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

    logits: Tensor  # (*, K)
    loc: Tensor  # (*, K, D)
    scale_tril: Tensor  # (*, K, D, D)


class Maps(NamedTuple):
    """The outputs of a row by their meaning, a plane a number."""

    logits: Tensor  # (*, K)
    loc: Tensor  # (*, D, K)
    log_scale: Tensor  # (*, D, K), (*, 1, K) if spherical
    correlation: Tensor  # (*, D (D - 1) / 2, K), (*, 0, K) unless full


@dataclass(frozen=True)
class OutputMap:
    r"""The order of a mixture's raw outputs and the functions that turn them into parameters.

    A row holds, in this order: the weights (``K``), the means (``D K``, all first coordinates, then
    all second, ...), the log standard deviations (``D K``, likewise, or ``K`` if spherical) and, if
    full, the unbounded correlations (``D (D - 1) / 2`` times ``K``, the strictly lower triangle row
    by row). A pen's outputs stand before them (:mod:`mdn_dist.pens`): for ``D = 2`` and a flag,
    these are the paper's ``6 K + 1``.

    Args:
        components: Number of mixture components ``K``.
        event_size: Number of coordinates ``D``.
        covariance: ``"full"``, ``"diagonal"`` or ``"spherical"``.
        bounds: Limits of the parameters; None for the paper's exact maps.
        logit_factor: Multiplies the mixture's logits (a probability bias, a temperature).
        log_scale_shift: Added to the log standard deviations, after the bounds.

    Raises:
        TypeError: If a size is not an integer, or `bounds` no :class:`Bounds`.
        ValueError: If a size is not positive or `covariance` is unknown.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 17 to 22.

    Example:
        >>> OutputMap(components=20).size
        120
        >>> OutputMap(components=5, event_size=32, covariance="diagonal").size
        325
    """

    components: int = 20
    event_size: int = 2
    covariance: Covariance = "full"
    bounds: Bounds | None = field(default_factory=Bounds)
    logit_factor: float = 1.0
    log_scale_shift: float = 0.0

    def __post_init__(self) -> None:
        check_counts(components=self.components, event_size=self.event_size)
        check_covariance(self.covariance)
        if not (self.bounds is None or isinstance(self.bounds, Bounds)):
            raise TypeError(f"bounds must be Bounds(...) or None, got {self.bounds!r}")

    @classmethod
    def of_rows(
        cls,
        outputs: Tensor,
        components: int | None,
        event_size: int,
        covariance: Covariance,
        bounds: Bounds | None,
        pen_size: int = 0,
    ) -> Self:
        """Return the map of rows ``(*, pen_size + size)``, which tell the components if None."""
        check_tensor(outputs, "outputs")
        if components is None:
            check_counts(event_size=event_size)
            length = static_size(outputs.shape[-1]) - pen_size if outputs.dim() else 0
            components = max(1, length // sum(_planes(event_size, covariance)))
        return cls(components, event_size, covariance, bounds)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Lengths of the four blocks of a row: weights, means, scales, correlations."""
        k = self.components
        weights, means, scales, correlations = _planes(self.event_size, self.covariance)
        return weights * k, means * k, scales * k, correlations * k

    @property
    def size(self) -> int:
        """Length of a row of outputs."""
        return sum(self.sizes)

    def biased(self, bias: float) -> Self:
        """Return the map of the mixture biased towards its more probable points (61, 62)."""
        check_bias(bias)
        return replace(
            self,
            logit_factor=self.logit_factor * (1 + bias),
            log_scale_shift=self.log_scale_shift - bias,
        )

    def tempered(self, temperature: float) -> Self:
        """Return the map of the mixture at a temperature."""
        check_temperature(temperature)
        return replace(
            self,
            logit_factor=self.logit_factor / temperature,
            log_scale_shift=self.log_scale_shift + math.log(temperature) / 2,
        )

    def accept(self, outputs: Tensor, pen_size: int = 0) -> Tensor:
        """Return rows ``(*, pen_size + size)`` in float32 or float64, or raise."""
        check_tensor(outputs, "outputs")
        if not outputs.is_floating_point():
            raise TypeError(f"outputs must be floating point, got {outputs.dtype}")
        if not tracing() and outputs.shape[-1:] != (pen_size + self.size,):
            blocks = {"pen": pen_size, **dict(zip(BLOCKS, self.sizes, strict=True))}
            given = {name: size for name, size in blocks.items() if size}
            raise ValueError(
                f"outputs must end in {' + '.join(map(str, given.values()))} = "
                f"{sum(given.values())} values ({', '.join(given)}) for "
                f"components={self.components}, event_size={self.event_size}, "
                f"covariance={self.covariance!r}; got shape {tuple(outputs.shape)}"
            )
        return widen(outputs)

    def split(self, outputs: Tensor) -> Maps:
        """Return the four blocks of rows ``(*, size)``, as they are."""
        # one split, since a compiler adds up the gradients of several
        logits, *blocks = outputs.split_with_sizes(self.sizes, -1)
        k = self.components
        return Maps(logits, *(b.unflatten(-1, (b.shape[-1] // k, k)) for b in blocks))

    def maps(self, outputs: Tensor) -> Maps:
        """Return what rows ``(*, size)`` mean: within the bounds, biased and tempered."""
        logits, loc, log_scale, correlation = self.split(outputs)
        log_scale, correlation = self._bounded(log_scale, correlation)
        return Maps(sharpen(logits, self.logit_factor), loc, log_scale, correlation)

    def parameters(self, outputs: Tensor) -> Parameters:
        """Return the parameters that rows ``(*, size)`` stand for."""
        logits, loc, log_scale, correlation = self.split(outputs)
        # what is not finite stays so, but sends back no 0 times NaN from a point that is masked
        spoilt = (0 * torch.cat([log_scale, correlation], -2).detach()).sum(-2)  # (*, K), 0 or NaN
        finite = spoilt == 0
        log_scale, correlation = (
            torch.where(finite.unsqueeze(-2), x, 0.0) for x in (log_scale, correlation)
        )
        log_scale, correlation = self._bounded(log_scale, correlation)
        if self.covariance == "full":
            scale_tril = scale_tril_from_maps(log_scale, correlation)
        else:
            scale = log_scale.exp().clamp_min(least_scale(log_scale.dtype)).expand_as(loc)
            scale_tril = torch.diag_embed(scale.movedim(-1, -2))
        return Parameters(
            sharpen(logits, self.logit_factor),
            loc.movedim(-1, -2),
            torch.where(finite[..., None, None], scale_tril, spoilt[..., None, None]),
        )

    def outputs(self, parameters: Parameters) -> Tensor:
        """Return rows ``(*, size)`` that stand for `parameters`, the inverse of `parameters`.

        A parameter at or beyond a bound comes back close to the bound.

        Example:
            >>> outputs = torch.linspace(-1, 1, 120)
            >>> torch.allclose(OutputMap().outputs(OutputMap().parameters(outputs)), outputs)
            True
        """
        log_scale, correlation = maps_from_scale_tril(parameters.scale_tril)
        log_scale = log_scale - self.log_scale_shift
        if self.covariance == "spherical":
            log_scale = log_scale.mean(-2, keepdim=True)
        if self.covariance != "full":
            correlation = correlation[..., :0, :]
        if self.bounds is not None:
            log_scale = unsaturate(log_scale, *self.bounds.log_scale)
            if self.covariance == "full":
                correlation = release_growth(correlation, self.event_size)
            correlation = unsaturate(correlation, *self.bounds.correlation)
        blocks = [parameters.loc.movedim(-1, -2), log_scale, correlation]
        rows = [parameters.logits / self.logit_factor, *(b.flatten(-2) for b in blocks)]
        return torch.cat(rows, -1)

    def _bounded(self, log_scale: Tensor, correlation: Tensor) -> tuple[Tensor, Tensor]:
        """Hold scales ``(*, D, K)`` and correlations within the bounds, and shift the scales."""
        if self.bounds is not None:
            log_scale = saturate(log_scale, *self.bounds.log_scale)
            if self.covariance == "full":
                correlation = saturate(correlation, *self.bounds.correlation)
                correlation = hold_growth(correlation, self.event_size)
        return log_scale + self.log_scale_shift, correlation

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` makes the map of."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Invert `to_json`."""
        bounds = fields["bounds"] and Bounds(**fields["bounds"])
        return cls(**{**fields, "bounds": bounds})


def _planes(size: int, covariance: Covariance) -> tuple[int, int, int, int]:
    """Return how many outputs a component has in each block."""
    pairs = size * (size - 1) // 2 if covariance == "full" else 0
    return 1, size, 1 if covariance == "spherical" else size, pairs
