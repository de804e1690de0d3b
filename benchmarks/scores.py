"""What a network learns by the likelihood, by CRPS and by the energy score, on Bishop's robot arm.

    python benchmarks/scores.py --seeds 5

An arm of two links, of lengths 0.8 and 0.2, has its shoulder at an angle from 0.3 to 1.2 and its
elbow at one from pi / 2 to 3 pi / 2, both drawn evenly; it is told where its end is, to a standard
deviation of 0.01, and asked for the angles. Mostly two pairs are right, elbow up and elbow down,
and the two angles of a pair belong together.

Runs of a seed share the data, the first weights and every batch; they differ in the loss alone: the
negative log likelihood, the continuous ranked probability score summed over the angles, or the
energy score by 16 draws. Training is by Adam with a cosine decay, angles in units of their
deviation. Every column is a mean over pairs held out, then over seeds, with the deviation from seed
to seed: nats a pair, CRPS of both angles, energy score by 64 draws, the squared distance of a drawn
pair's end from where it should be (its root), and the share of pairs within the central interval of
90 % of each angle. All but the last are better the lower; seconds are the processor's, a step.
"""

import argparse
import json
import math
import time
from itertools import product

import torch
from options import Parser, claimed, errors_in_one_line, within, writable, write
from torch import Tensor, nn

from mdn_dist import GaussianMixture, MixtureDensityHead

LINKS = (0.8, 0.2)
SHOULDER, ELBOW = (0.3, 1.2), (math.pi / 2, 3 * math.pi / 2)
NOISE = 0.01
COMPONENTS = 8
HELD_OUT = 4000
LOSSES = {
    "likelihood": lambda d, angles: -d.log_prob(angles),
    "crps": lambda d, angles: d.crps(angles).sum(-1),
    "energy": lambda d, angles: d.energy_score(angles, samples=16),
}
COLUMNS = ("nats", "crps", "energy", "miss", "within", "s/step")


def reach(angles: Tensor) -> Tensor:
    """Returns where the end of the arm is, `(*, 2)`."""
    shoulder, elbow = angles.unbind(-1)
    both = shoulder + elbow
    x = LINKS[0] * shoulder.cos() - LINKS[1] * both.cos()
    return torch.stack([x, LINKS[0] * shoulder.sin() - LINKS[1] * both.sin()], -1)


def draw(pairs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws what is told and what is asked for, each `(pairs, 2)`."""
    low, high = torch.tensor([SHOULDER, ELBOW]).T
    angles = low + (high - low) * torch.rand(pairs, 2, generator=generator)
    return reach(angles) + NOISE * torch.randn(pairs, 2, generator=generator), angles


def run(name: str, seed: int, args: argparse.Namespace) -> dict:
    """Trains by one loss and scores by all."""
    generator = torch.Generator().manual_seed(seed)
    (ends, angles), (held_ends, held_angles) = (draw(n, generator) for n in (args.pairs, HELD_OUT))
    loc, scale, place, unit = angles.mean(0), angles.std(0), ends.mean(0), ends.std(0)
    size = args.hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(2, size),
            nn.Tanh(),
            nn.Linear(size, size),
            nn.Tanh(),
            MixtureDensityHead(size, COMPONENTS, pen=None),
        )
        network[-1].initialize((angles - loc) / scale)
        optimizer = torch.optim.Adam(network.parameters(), 5e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
        start = time.process_time()
        for _ in range(args.steps):
            rows = torch.randint(len(ends), (args.batch_size,), generator=generator)
            d = network((ends[rows] - place) / unit)
            optimizer.zero_grad()
            LOSSES[name](d, (angles[rows] - loc) / scale).mean().backward()
            optimizer.step()
            schedule.step()
        seconds = (time.process_time() - start) / args.steps
    with torch.no_grad():
        d = network((held_ends - place) / unit).affine(loc, scale)
        scores = evaluate(d, held_ends, held_angles, generator)
    return {"loss": name, "seed": seed} | scores | {"s/step": seconds}


def evaluate(
    d: GaussianMixture, ends: Tensor, angles: Tensor, generator: torch.Generator
) -> dict[str, float]:
    """Scores the distributions of pairs held out."""
    lower, upper = d.interval(0.9)
    miss = reach(d.sample(generator=generator)) - ends
    scores = {
        "nats": -d.log_prob(angles).mean(),
        "crps": d.crps(angles).sum(-1).mean(),
        "energy": d.energy_score(angles, 64, generator).mean(),
        "miss": miss.square().sum(-1).mean().sqrt(),
        "within": ((lower <= angles) & (angles <= upper)).double().mean(),
    }
    return {name: score.item() for name, score in scores.items()}


def table(runs: list[dict]) -> str:
    """Lays out a row a loss: means over seeds, and deviations."""
    lines = [f"{'trained by':>10}" + "".join(f"{name:>17}" for name in COLUMNS)]
    for loss in LOSSES:
        found = [[run[name] for name in COLUMNS] for run in runs if run["loss"] == loss]
        numbers = torch.tensor(found, dtype=torch.float64)
        spread = numbers.std(0, correction=min(1, len(found) - 1))
        cells = zip(numbers.mean(0).tolist(), spread.tolist(), strict=True)
        lines.append(f"{loss:>10}" + "".join(f"{m:9.4f} ±{s:6.4f}" for m, s in cells))
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--out", type=writable, default="scores.json")
    add("--seeds", type=within(int, 1, 1000), default=3)
    add("--steps", type=within(int, 1, 10_000_000), default=3000)
    add("--pairs", type=within(int, 2, 10_000_000), default=20_000, help="to train on")
    add("--hidden-size", type=within(int, 1, 2000), default=32)
    add("--batch-size", type=within(int, 1, 10_000), default=128)
    return parser.parse_args(arguments)


@errors_in_one_line()
def main() -> None:
    """Trains by every loss, and prints and writes what is told of all."""
    args = parse()
    with claimed(args.out):
        runs = []
        for seed, name in product(range(args.seeds), LOSSES):
            runs.append(run(name, seed, args))
            print(f"{name}, seed {seed} is done", flush=True)
        document = {"torch": torch.__version__, "runs": runs}
        write(args.out, json.dumps(document, indent=1).encode())
        print(table(runs))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
