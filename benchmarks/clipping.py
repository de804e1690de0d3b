"""Whether clipping at the LSTM's activations helps, on lines as long as the paper's.

    python benchmarks/clipping.py --data strokes_background_small1.zip --out clipping.json

The paper clips the loss's derivatives by the LSTM's activations to 10, for lines of some 700
points; so does `PredictionNetwork(clip_lstm=10.0)`, which takes longer than torch's fused layers. A
pair of runs, with and without, has the same seed, first weights, batches and learning rate, and in
both the derivatives by the outputs are clipped to 100. Lines are Omniglot's letters set side by
side, each line by one drawer. Training is by Adam with a cosine decay. The loss is the paper's, a
sum over points, and a sum over lines too, so that every derivative is that by its own line alone; a
mean over lines makes them smaller.

Scores are exact held-out nats a point by drawers not trained on (lower is better), at the end and
the best met. A run that ends no better than a mixture that takes no notice of the points before, or
that meets a loss or a gradient that is not finite and ends there, has failed: it has an exclamation
mark. The runs of a pair step in turns, so that their times compare, in processor seconds. Every so
many steps, apart from the time, a backward pass through unrolled layers counts what share of the
derivatives by the activations is beyond the limit, be they clipped there or not.
"""

import argparse
import json
import math
import time
from itertools import product
from pathlib import Path
from unittest.mock import patch

import quality
import torch
from options import Parser, claimed, errors_in_one_line, within, writable, write
from torch import Tensor, nn

from mdn_dist import StrokeDistribution, networks
from mdn_dist._maths.gradients import clip_gradient

LIMIT = 10.0  # the paper's
ARMS = {"with": LIMIT, "without": None}
LEARNING_RATES = (1e-3, 5e-3)
EVERY = 20  # steps from one count of derivatives to the next
SCORES = 5  # of a run
CURVES = ("curve", "norms", "beyond", "largest", "scores")  # what runs tell as they go


def load(path: Path, drawers: int, window: int) -> quality.Strokes:
    """Returns lines to train on and lines held out, `(N, window + 1, 3)`, normalised."""
    generator = torch.Generator().manual_seed(0)
    split: dict[bool, list[Tensor]] = {True: [], False: []}
    for held, drawings in sorted(quality.read(path, drawers).items()):
        for name in sorted({drawer for drawer, _ in drawings}):
            letters = [points for drawer, points in drawings if drawer == name]
            order = torch.randperm(len(letters), generator=generator)
            split[held].append(join([letters[i] for i in order]))
    return quality.windows(split, path, window)


def join(letters: list[Tensor]) -> Tensor:
    """Sets letters side by side on one base line, a quarter of their mean width apart."""
    places = [points[:, :2].cumsum(0) for points in letters]
    corners = [(place.amin(0), place.amax(0)) for place in places]
    gap = sum((upper - lower)[0] for lower, upper in corners) / len(letters) / 4
    line, start = torch.cat(letters), 0
    for i, (lower, upper) in enumerate(corners[:-1]):
        corner = torch.stack([upper[0] + gap, lower[1]])  # where the next letter's lower left goes
        start += len(letters[i])
        line[start, :2] += corner - places[i][-1] - corners[i + 1][0]
    return line


def run_pair(rate: float, seed: int, lines: quality.Strokes, args: argparse.Namespace) -> list:
    """Trains with and without clipping, a step in turns, and returns what is told of both."""
    train, held_out = lines
    pair = []
    for name, limit in ARMS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            arm = quality.Arm("ours", "data", "own", "sequence", {"clip_lstm": limit})
            model = quality.Ours(args.hidden_size, arm, args.layers)
        model.network.initialize(train, generator=torch.Generator().manual_seed(seed))
        run = {"arm": name, "rate": rate, "seed": seed, "failed_at": None, "seconds": 0.0}
        run |= {key: [] for key in CURVES}
        pair.append((model, torch.optim.Adam(model.parameters(), rate), run))
    for step in range(args.steps):
        points = quality.batch(train, args.batch_size, seed, step)
        for model, optimizer, run in pair:
            if run["failed_at"] is None:
                optimizer.param_groups[0]["lr"] = (
                    rate * (1 + math.cos(math.pi * step / args.steps)) / 2
                )
                take(model, optimizer, points, step, run)
            if (step + 1) * SCORES // args.steps > step * SCORES // args.steps:
                run["scores"].append(quality.evaluate(model, held_out))
    return [run | {"score": run["scores"][-1]} for _, _, run in pair]


def take(
    model: quality.Ours, optimizer: torch.optim.Adam, points: Tensor, step: int, run: dict
) -> None:
    """Takes a step of training and notes what it tells."""
    if step % EVERY == 0:
        size = derivatives(model, points)
        run["beyond"].append((size > LIMIT).double().mean().item())
        run["largest"].append(size.max().item())
    start = time.process_time()
    optimizer.zero_grad()
    nats = model.nats(points[:, :-1], points[:, 1:])
    nats.sum().backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), math.inf)
    if not (nats.isfinite().all() and norm.isfinite()):
        run["failed_at"] = step
        return
    optimizer.step()
    run["seconds"] += time.process_time() - start
    run["curve"].append(nats.mean().item())
    run["norms"].append(norm.item())


def derivatives(model: quality.Ours, points: Tensor) -> Tensor:
    """Returns the loss's derivatives by the activations, before each is clipped, in magnitude."""
    sizes: list[Tensor] = []

    def clip(hidden: Tensor, limit: float) -> Tensor:
        clipped = clip_gradient(hidden, limit)
        clipped.register_hook(lambda gradient: sizes.append(gradient.abs()))
        return clipped

    limit = model.lstm.clip_lstm
    with patch.object(networks, "clip_gradient", clip):
        for layer in model.network.layers:
            layer.clip_lstm = limit or math.inf  # unrolled, without clipping
        model.nats(points[:, :-1], points[:, 1:]).sum().backward()
    for layer in model.network.layers:
        layer.clip_lstm = limit
    return torch.stack(sizes)


def unconditional(train: Tensor, held_out: Tensor) -> float:
    """Scores the best mixture that takes no notice of the points before."""
    generator = torch.Generator().manual_seed(0)
    points = train[:, 1:].flatten(0, 1)
    sample = points[torch.randperm(len(points), generator=generator)[:50_000]]
    model = StrokeDistribution.fit(sample, quality.COMPONENTS, generator=generator)
    return -model.log_prob(held_out[:, 1:]).mean().item()


def table(runs: list[dict], worst: float) -> str:
    """Lays out a row a run, then what clipping makes of the score and the time of each pair."""
    names = ("train", "end", "best", "norm", "beyond", "largest", "s/step")
    lines = [f"{'rate':>6}{'seed':>5}{'arm':>8}" + "".join(f"{name:>10}" for name in names)]
    for run in runs:
        mark = " " if run["failed_at"] is None and run["score"] < worst else "!"
        recent = run["curve"][-25:]
        line = f"{run['rate']:6g}{run['seed']:5}{run['arm']:>8}"
        line += f"{sum(recent) / (len(recent) or math.nan):10.3f}{run['score']:9.3f}{mark}"
        line += f"{min(run['scores']):10.3f}{max(run['norms'], default=math.nan):10.3g}"
        line += f"{sum(run['beyond']) / len(run['beyond']):10.3%}{max(run['largest']):10.3g}"
        lines.append(f"{line}{pace(run):10.3f}")
    for clipped, free in zip(runs[::2], runs[1::2], strict=True):
        line = f"{free['rate']:6g}{free['seed']:5}  with - without: "
        line += f"{clipped['score'] - free['score']:+.3f} nats/point at "
        lines.append(f"{line}{pace(clipped) / pace(free):.2f} times the time")
    return "\n".join([*lines, f"a mixture that takes no notice: {worst:.3f} nats/point"])


def pace(run: dict) -> float:
    """Returns processor seconds a step."""
    return run["seconds"] / (len(run["curve"]) or math.nan)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="Omniglot's strokes, a zip as published")
    add("--out", type=writable, default="clipping.json", help="runs it already holds are kept")
    add("--seeds", type=within(int, 1, 1000), default=3)
    add("--steps", type=within(int, 1, 10_000_000), default=200)
    add("--hidden-size", type=within(int, 1, 2000), default=200)
    add("--layers", type=within(int, 1, 100), default=1)
    add("--batch-size", type=within(int, 1, 10_000), default=8)
    add("--window", type=within(int, 1, 10_000), default=700, help="points predicted in a line")
    add("--drawers", type=within(int, 1, 1_000_000), default=4, help="held out")
    parser.set_defaults(scale=1.0)
    return parser.parse_args(arguments)


@errors_in_one_line()
def main() -> None:
    """Makes the pairs that are not made yet, and prints and writes what is told of all."""
    args = parse()
    with claimed(args.out):
        common = quality.settings(args) | {"layers": args.layers}
        runs = quality.earlier_runs(args.out, common, rate=float, **dict.fromkeys(CURVES, list))
        lines = load(args.data, args.drawers, args.window)
        done = {(run["rate"], run["seed"]) for run in runs}
        for seed, rate in product(range(args.seeds), LEARNING_RATES):
            if (rate, seed) in done:
                continue
            runs += run_pair(rate, seed, lines, args)
            document = {"settings": common, "torch": torch.__version__, "runs": runs}
            write(args.out, json.dumps(document, indent=1).encode())
            print(f"learning rate {rate:g}, seed {seed} is done", flush=True)
        print(table(runs, unconditional(*lines)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
