"""Plots how the cost of a loss grows with the numbers of points, components and coordinates."""

import io
from pathlib import Path

import torch
from options import write
from speed_scores import held_bytes
from timing import both_ways, interleave
from torch import Tensor

from mdn_dist import StrokeDistribution
from mdn_dist.outputs import OutputMap


def growth(path: Path) -> None:
    """Plots time and bytes held against the numbers of points, components and coordinates."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    ranges = {
        "points N": ([1_200 * 2**i for i in range(6)], lambda n: (n, 20, 2)),
        "components K": ([5 * 2**i for i in range(5)], lambda k: (4_800, k, 2)),
        "coordinates D": ([1, 2, 4, 8, 16, 32], lambda d: (1_200, 10, d)),
    }
    figure = Figure(figsize=(12, 7), layout="constrained")
    columns = figure.subplots(2, 3).T
    for column, (name, (sizes, shape)) in zip(columns, ranges.items(), strict=True):
        power = 2 if name.endswith("D") else 1  # outputs grow with D squared
        measured = zip(*(cost_of_loss(*shape(size)) for size in sizes), strict=True)
        for axes, unit, costs in zip(column, ("ms", "MB held"), measured, strict=True):
            axes.loglog(sizes, costs, "o-", label=unit)
            trend = [costs[-1] * (size / sizes[-1]) ** power for size in sizes]
            axes.loglog(sizes, trend, ":", label="quadratic" if power == 2 else "linear")
            axes.set(xlabel=name)
            axes.legend(loc="upper left", frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:])
    write(path, picture.getvalue())
    print(f"Growth drawn to {path}")


def cost_of_loss(points: int, components: int, size: int) -> tuple[float, float]:
    """Returns milliseconds, forward and backward, and megabytes held, of a loss from outputs."""
    output_map = OutputMap(components, size)
    outputs = torch.randn(points, 1 + output_map.size, requires_grad=True)
    value = torch.cat([torch.randn(points, size), torch.zeros(points, 1)], -1)

    def loss() -> Tensor:
        distribution = StrokeDistribution.from_outputs(
            outputs, components, event_size=size, validate_args=False
        )
        return -distribution.log_prob(value).mean()

    (seconds,) = interleave(9, both_ways(loss, outputs))
    return 1e3 * seconds, held_bytes(loss, outputs, value) / 1e6
