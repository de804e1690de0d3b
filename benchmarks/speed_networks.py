"""Times the prediction network, and the import of the library."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from speed_scores import strokes_like
from timing import Ratio, both_ways, must_agree, ratio
from torch import Tensor, nn

from mdn_dist import PredictionNetwork, generate


@torch.no_grad()
def step_ratios(repeats: int) -> list[Ratio]:
    """Times generating with the paper's 1 x 900 network against its matrices alone."""
    network, steps = PredictionNetwork(hidden_size=900, layers=1, validate_args=False), 8
    cell, linear = nn.LSTMCell(3, 900), network.head.linear
    weights = network.layers[0].state_dict()
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in weights.items()})
    ratios = []
    for batch, target in ((1, 1.25), (64, 1.15)):
        point = strokes_like(batch)

        def ours(batch: int = batch) -> Tensor:
            return generate(network, steps, batch_size=batch)

        def maps(point: Tensor = point, steps: int = steps) -> Tensor:
            hidden, memory = torch.zeros(2, len(point), 900)
            for _ in range(steps):
                hidden, memory = cell(point, (hidden, memory))
                outputs = linear(hidden)
            return outputs

        distribution, _ = network.step(point, network.initial_state(batch))
        torch.testing.assert_close(distribution.offset.outputs, maps(steps=1)[:, 1:])
        measured = ratio(repeats, ours, maps)
        what = f"generate, step of 1 x 900, batch {batch}, against its maps"
        ratios.append(Ratio(what, measured, target))
    return ratios


def lstm_ratios(repeats: int) -> list[Ratio]:
    """Times learning with clipped activations, which unrolls time, against torch's fused layer."""
    make = partial(PredictionNetwork, hidden_size=400, layers=1, validate_args=False)
    clipped, fused = make(clip_lstm=10.0), make(clip_lstm=None)
    fused.load_state_dict(clipped.state_dict())
    strokes = strokes_like(16 * 201).view(16, 201, 3)

    def loss(network: PredictionNetwork) -> Tensor:
        distribution, _ = network(strokes[:, :-1])
        return -distribution.log_prob(strokes[:, 1:]).mean()

    must_agree(partial(loss, clipped), partial(loss, fused))
    runs = (both_ways(partial(loss, n), *n.parameters()) for n in (clipped, fused))
    measured = ratio(max(1, repeats // 2), *runs)
    return [Ratio("(network of 1 x 400, activations clipped, against not)", measured)]


def import_ratios(repeats: int) -> list[Ratio]:
    """Times the import in fresh processes against that of what it builds upon."""

    def imported(names: str) -> Callable[[], object]:
        command = [sys.executable, "-c", f"import {names}"]
        return lambda: subprocess.run(command, stdin=subprocess.DEVNULL, check=True)  # noqa: S603

    measured = ratio(
        max(3, repeats // 8), imported("mdn_dist"), imported("torch, pyro.distributions")
    )
    return [Ratio("import against torch's and Pyro's", measured, 1.1)]
