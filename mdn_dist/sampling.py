"""Write strokes a point at a time."""

from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from mdn_dist._checks import check_bias, check_counts, check_temperature, check_tensor
from mdn_dist._torch import tree_leaves
from mdn_dist.stroke import StrokeDistribution

State = TypeVar("State")


class Autoregressive(Protocol[State]):
    """What :func:`generate` asks of a network."""

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first point, for a batch of sequences."""

    def step(self, point: Tensor, state: State) -> tuple[StrokeDistribution, State]:
        """Return the distribution of the point after `point`, ``(B, event)``, and the state."""


@torch.no_grad()
def generate(
    network: Autoregressive[Any],
    steps: int,
    *,
    batch_size: int = 1,
    prime: Tensor | None = None,
    bias: float | Tensor = 0.0,
    temperature: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw sequences from a network, each point from the distribution given those before it.

    Args:
        network: Anything with ``initial_state`` and ``step``, as :class:`PredictionNetwork` has.
            A point has ``network.point_size`` values, 3 where the network does not say.
        steps: Number of points ``T`` to draw.
        batch_size: Number of sequences ``B`` to draw at once.
        prime: A sequence to go on from, ``(P, event)`` for all or ``(B, P, event)`` for each;
            without it, the first input is a point of zeros. Points are read in the type of the
            network's state.
        bias: Probability bias of every draw, at least 0; a number, or a tensor of one a sequence.
        temperature: Temperature of every draw, likewise.
        generator: Source of all randomness; torch's global one by default.

    Returns:
        The points drawn, shape ``(B, T, event)``, without the prime.

    Raises:
        TypeError: If `network` has no ``initial_state`` or no ``step``, `steps` or `batch_size` is
            not an integer, or `prime` is not a tensor.
        ValueError: If `steps` or `batch_size` is not positive, `prime` has another shape, or `bias`
            or `temperature` is out of range.

    Source:
        Graves 2013 (arXiv:1308.0850), sections 4.3, 5.4 and 5.5.

    Example:
        >>> from mdn_dist import PredictionNetwork
        >>> network = PredictionNetwork(hidden_size=8, layers=1, components=2)
        >>> generate(network, 10, batch_size=4, bias=0.5).shape
        torch.Size([4, 10, 3])
    """
    if not all(callable(getattr(network, name, None)) for name in ("initial_state", "step")):
        raise TypeError(f"network must have initial_state and step, got {type(network).__name__}")
    check_counts(steps=steps, batch_size=batch_size)
    check_bias(bias)
    check_temperature(temperature)
    if prime is not None:
        check_tensor(prime, "prime")
        if prime.dim() not in (2, 3) or not prime.shape[-2]:
            raise ValueError(f"prime must be (P, event) or (B, P, event), got {tuple(prime.shape)}")
        if prime.dim() == 3 and len(prime) != batch_size:
            raise ValueError(
                f"prime must hold batch_size = {batch_size} sequences, got {len(prime)}"
            )
    state = network.initial_state(batch_size)
    tensors = [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
    otherwise = torch.empty(0) if prime is None else prime
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), otherwise)
    if prime is None:
        prime = like.new_zeros(1, getattr(network, "point_size", 3))
    for point in prime.to(like).expand(batch_size, -1, -1).unbind(1):
        distribution, state = network.step(point, state)
    points: list[Tensor] = []
    for _ in range(steps):
        if points:
            distribution, state = network.step(points[-1].to(like), state)
        if isinstance(bias, Tensor) or bias:
            distribution = distribution.biased(bias)
        if isinstance(temperature, Tensor) or temperature != 1:
            distribution = distribution.tempered(temperature)
        points.append(distribution.sample(generator=generator))
    return torch.stack(points, 1)
