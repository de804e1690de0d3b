"""Times scoring from raw outputs and by parameters, against torch's own and other ways."""

from collections.abc import Callable
from functools import partial

import torch
from peers import hand_nats, log_space_nats, stock_nats
from timing import Loss, Ratio, Run, both_ways, must_agree, ratio
from torch import Tensor
from torch import distributions as td
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import binary_cross_entropy_with_logits

from mdn_dist import GaussianMixture, MixtureDensityHead, StrokeDistribution

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


def our_loss(outputs: Tensor, points: Tensor, validate_args: bool | None = False) -> Tensor:
    """Scores through the library, with its bounds."""
    distribution = StrokeDistribution.from_outputs(outputs, validate_args=validate_args)
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


def care_ratios(repeats: int) -> list[Ratio]:
    """Times what care costs the loss: checks of all values, which are the default, and a mask."""
    outputs, points = stroke_task()
    kept = torch.rand(POINTS) > 0.3
    nan = torch.where(kept, 0.0, torch.nan).unsqueeze(-1)
    holed, padded = (outputs.detach() + nan).requires_grad_(), points + nan

    def masked() -> Tensor:
        distribution = StrokeDistribution.from_outputs(holed, validate_args=False)
        return -distribution.log_prob(padded, mask=kept).sum() / POINTS

    def selected() -> Tensor:
        return our_loss(outputs[kept], points[kept]) * (len(points[kept]) / POINTS)

    must_agree(masked, selected)
    (gradient,), (wanted,) = (
        torch.autograd.grad(loss(), leaf) for loss, leaf in ((masked, holed), (selected, outputs))
    )
    torch.testing.assert_close(gradient, wanted)
    loss = both_ways(partial(our_loss, outputs, points), outputs)
    checked = both_ways(partial(our_loss, outputs, points, validate_args=None), outputs)
    return [
        Ratio("loss with checks against without", ratio(repeats, checked, loss), 1.1),
        Ratio(
            "loss under a mask against without",
            ratio(repeats, both_ways(masked, holed), loss),
            1.25,
        ),
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


def bare_ratios(repeats: int) -> list[Ratio]:
    """Times a mixture from outputs, without a pen, against the stroke's loss."""
    outputs, points = stroke_task()
    rest, offset = outputs.detach()[:, 1:].clone().requires_grad_(), points[:, :2].clone()

    def bare() -> Tensor:
        mixture = GaussianMixture.from_outputs(rest, validate_args=False)
        return -mixture.log_prob(offset).mean()

    stroke = partial(our_loss, outputs, points)
    pen = binary_cross_entropy_with_logits(-outputs[:, 0], points[:, 2])
    must_agree(lambda: bare() + pen, stroke)
    runs = both_ways(bare, rest), both_ways(stroke, outputs)
    return [Ratio("bare mixture against the stroke's loss", ratio(repeats, *runs), 1.0)]


def diagonal_ratios(repeats: int) -> list[Ratio]:
    """Times a mixture in 32 coordinates without correlations, from outputs."""
    size, components, points = 32, 5, 2_400
    value = torch.randn(points, size)
    ratios = []
    for covariance, scales, target in (("diagonal", size, 0.5), ("spherical", 1, None)):
        sizes = [components, size * components, scales * components]
        outputs = torch.randn(points, sum(sizes), requires_grad=True)

        def ours(outputs: Tensor = outputs, covariance: str = covariance) -> Tensor:
            mixture = GaussianMixture.from_outputs(
                outputs, event_size=size, covariance=covariance, validate_args=False
            )
            return -mixture.log_prob(value).mean()

        def stock(outputs: Tensor = outputs, sizes: list[int] = sizes) -> Tensor:
            logits, loc, log_scale = outputs.split(sizes, -1)
            loc, log_scale = (x.unflatten(-1, (-1, components)).mT for x in (loc, log_scale))
            normal = td.Normal(loc, log_scale.exp(), validate_args=False)
            normal = td.Independent(normal, 1, validate_args=False)
            weights = td.Categorical(logits=logits, validate_args=False)
            mixture = td.MixtureSameFamily(weights, normal, validate_args=False)
            return -mixture.log_prob(value).mean()

        must_agree(ours, stock, outputs)
        what = f"{covariance}, D = {size}, from outputs, against stock"
        measured = ratio(repeats, both_ways(ours, outputs), both_ways(stock, outputs))
        ratios.append(Ratio(what if target else f"({what})", measured, target))
    return ratios
