"""Times the prediction network."""

import torch
from speed_scores import strokes_like
from timing import Ratio, ratio
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
