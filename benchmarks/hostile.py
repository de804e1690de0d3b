"""How many hostile starts end in numbers that are not finite: our loss beside the usual ones.

    python benchmarks/hostile.py --starts 1000

A start is a small network on data that no one would wish for, at a learning rate that is too large:
targets that are all the same, that lie on a lattice, that are of the order of 1e-6 or 1e6, or that
hold one point far out; first weights as torch draws them, or all components equal; Adam at ten or a
hundred times 1e-3; a network in float32 or bfloat16. Every loss trains from the same first weights
for 50 steps on the same points, on outputs in the paper's order, which the others are given in
float32. A run has failed when it raised an error or left a parameter that is not finite.
"""

import json
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from options import Parser, errors_in_one_line, within, writable, write
from peers import hand_nats, stock_nats
from torch import Tensor, nn

from mdn_dist import StrokeDistribution

POINTS, COMPONENTS, WIDTH, STEPS = 128, 5, 16, 50


def constant(noise: Tensor) -> Tensor:
    """Returns targets that are all the same."""
    return torch.full_like(noise, 0.7)


def lattice(noise: Tensor) -> Tensor:
    """Returns targets on a lattice."""
    return noise.round()


def tiny(noise: Tensor) -> Tensor:
    """Returns targets of the order of 1e-6."""
    return 1e-6 * noise


def huge(noise: Tensor) -> Tensor:
    """Returns targets of the order of 1e6."""
    return 1e6 * noise


def far_out(noise: Tensor) -> Tensor:
    """Returns targets one of which lies ten thousand deviations from the others."""
    return torch.cat([noise[:-1], torch.full_like(noise[-1:], 1e4)])


def ours(outputs: Tensor, points: Tensor) -> Tensor:
    """Scores through the library, as it comes."""
    return -StrokeDistribution.from_outputs(outputs, COMPONENTS).log_prob(points)


def stock(outputs: Tensor, points: Tensor) -> Tensor:
    """Scores with torch's own distributions."""
    return stock_nats(outputs.float(), points)


def written(outputs: Tensor, points: Tensor) -> Tensor:
    """Scores with the usual hand-written density and its floor."""
    return hand_nats(outputs.float(), points)


DATA = (constant, lattice, tiny, huge, far_out)
EQUAL = (False, True)
LEARNING_RATES = (1e-2, 1e-1)
TYPES = (torch.float32, torch.bfloat16)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours": ours,
    "stock torch": stock,
    "hand-written": written,
}
COLUMNS = ("data", "equal components", "learning rate", "network")


def survives(
    loss: Callable[[Tensor, Tensor], Tensor],
    seed: int,
    make: Callable[[Tensor], Tensor],
    equal: bool,
    learning_rate: float,
    dtype: torch.dtype,
) -> bool:
    """Trains from one start; tells whether all parameters are finite afterwards."""
    torch.manual_seed(seed)
    features, noise = torch.randn(POINTS, 4), torch.randn(POINTS, 2)
    flag = (torch.rand(POINTS, 1) > 0.9).float()
    points = torch.cat([make(noise), flag], -1)
    last = nn.Linear(WIDTH, 6 * COMPONENTS + 1)
    if equal:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    network = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), last).to(dtype)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, foreach=False)
    try:
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss(network(features.to(dtype)), points).mean().backward()
            optimizer.step()
    except (ValueError, RuntimeError):  # numbers that a distribution or a solver does not take
        return False
    return all(bool(parameter.isfinite().all()) for parameter in network.parameters())


def failures(starts: int) -> list[dict[str, Any]]:
    """Runs every loss from all starts; returns a row for each group of starts."""
    cases = [*product(DATA, EQUAL, LEARNING_RATES, TYPES)]
    rows: list[dict[str, Any]] = []
    for number, (make, equal, rate, dtype) in enumerate(cases):
        seeds = range(number, starts, len(cases))
        case = (make.__name__, equal, rate, str(dtype).removeprefix("torch."))
        row: dict[str, Any] = dict(zip(COLUMNS, case, strict=True))
        row["starts"] = len(seeds)
        for name, loss in LOSSES.items():
            row[name] = sum(not survives(loss, s, make, equal, rate, dtype) for s in seeds)
        rows.append(row)
        print(*(f"{row[name]!s:>16}" for name in row), flush=True)
    return rows


@errors_in_one_line()
def main() -> None:
    """Prints the failures of each group of starts, and of all."""
    parser = Parser(__doc__)
    parser.add_argument("--starts", type=within(int, 1, 1_000_000), default=1000)
    parser.add_argument("--json", type=writable, help="write the rows here too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # for work as small as this
    print(*(f"{name:>16}" for name in (*COLUMNS, "starts", *LOSSES)))
    rows = failures(arguments.starts)
    total = sum(row["starts"] for row in rows)
    for name in LOSSES:
        print(f"{name}: {sum(row[name] for row in rows)} of {total} starts failed")
    if arguments.json:
        write(arguments.json, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
