"""Times scoring from raw outputs and by parameters, against torch's own and other ways."""

from collections.abc import Callable
from functools import partial

import torch
from peers import hand_nats, log_space_nats, stock_nats
from timing import Loss, Ratio, Run, both_ways, must_agree, ratio
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from mdn_dist import MixtureDensityHead, StrokeDistribution

POINTS, COMPONENTS = 19_200, 20


def strokes_like(count: int) -> Tensor:
    """Returns points ``(count, 3)`` of unit scale, one in ten at the end of a stroke."""
    points = torch.randn(count, 3)
    points[:, 2] = (points[:, 2] > 1.3).float()
    return points


def stroke_task() -> tuple[Tensor, Tensor]:
    """Returns outputs that want gradients, so small that the bounds change nothing, and points."""
    outputs = torch.randn(POINTS, 6 * COMPONENTS + 1).clamp(-3.9, 3.9).requires_grad_()
    return outputs, strokes_like(POINTS)


def stock_loss(outputs: Tensor, points: Tensor) -> Tensor:
    """Scores with torch's own distributions."""
    return stock_nats(outputs, points, validate_args=False).mean()


def written_loss(outputs: Tensor, points: Tensor) -> Tensor:
    """Scores with the usual hand-written density and its floor."""
    return hand_nats(outputs, points).mean()


def log_space_loss(outputs: Tensor, points: Tensor) -> Tensor:
    """Scores by the exact closed form in log space, written out."""
    return log_space_nats(outputs, points).mean()


def our_loss(outputs: Tensor, points: Tensor) -> Tensor:
    """Scores through the library, with its bounds."""
    distribution = StrokeDistribution.from_outputs(outputs, validate_args=False)
    return -distribution.log_prob(points).mean()


def loss_ratios(repeats: int) -> list[Ratio]:
    """Times the loss from outputs, forward and backward."""
    outputs, points = stroke_task()

    def run(loss: Callable[[Tensor, Tensor], Tensor]) -> Run:
        return both_ways(partial(loss, outputs, points), outputs)

    for loss in (stock_loss, written_loss, log_space_loss):
        must_agree(partial(our_loss, outputs, points), partial(loss, outputs, points), outputs)
    ours, stock, written = run(our_loss), run(stock_loss), run(written_loss)
    compiled = run(torch.compile(log_space_loss, fullgraph=True))
    ours_compiled = run(torch.compile(our_loss, fullgraph=True))
    return [
        Ratio("loss against stock", ratio(repeats, ours, stock), 1 / 7.5),
        Ratio("loss against hand-written", ratio(repeats, ours, written), 0.85),
        Ratio("loss, eager, against compiled", ratio(repeats, ours, compiled), 1.5),
        Ratio("loss, compiled, against compiled", ratio(repeats, ours_compiled, compiled), 1.1),
    ]


def head_ratios(repeats: int) -> list[Ratio]:
    """Times head and loss against the linear map that the head contains."""
    features, points = torch.randn(POINTS, 400), strokes_like(POINTS)
    head = MixtureDensityHead(400, COMPONENTS, validate_args=False)
    linear = head.linear
    weight = torch.randn(POINTS, 6 * COMPONENTS + 1) / POINTS

    def ours() -> Tensor:
        return -head(features).log_prob(points).mean()

    def stock() -> Tensor:
        return stock_loss(linear(features), points)

    def bare() -> None:
        linear.zero_grad()
        linear(features).backward(weight)

    leaves = tuple(linear.parameters())
    must_agree(ours, stock, *leaves)
    return [
        Ratio(
            "head and loss against a bare linear map",
            ratio(repeats, both_ways(ours, *leaves), bare),
            1.2,
        ),
        Ratio(
            "(stock's head and loss against it)", ratio(repeats, both_ways(stock, *leaves), bare)
        ),
    ]


def held_bytes(loss: Loss, *inputs: Tensor) -> int:
    """Returns the bytes that a loss keeps for its backward pass, beyond its inputs."""
    given = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = loss()
    del kept
    return sum(held.values())


def memory_ratios(repeats: int) -> list[Ratio]:  # noqa: ARG001  # counted, not timed
    """Counts the bytes held for the backward pass, as multiples of the outputs."""
    outputs, points = stroke_task()
    ours, stock, written = (
        held_bytes(partial(loss, outputs, points), outputs, points) / outputs.nbytes
        for loss in (our_loss, stock_loss, written_loss)
    )
    return [
        Ratio("bytes held, ours", ours, 1.1),
        Ratio("(bytes held, stock)", stock),
        Ratio("(bytes held, hand-written)", written),
    ]
