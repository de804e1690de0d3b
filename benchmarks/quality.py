"""How well a network learns pen strokes, at equal steps, by what stands between it and Adam.

    python benchmarks/quality.py --data strokes_background_small1.zip --out quality.json

Every run trains one LSTM layer and one linear layer on Omniglot's strokes with Adam at 1e-3 and a
cosine decay. Runs differ in the loss, in the first weights of the linear layer, and in what is
clipped; within a seed they share the first weights of all else and every batch. Scores are exact
held-out nats a point by drawers not trained on (lower is better): each model is scored by the
distribution that it defines, through stock torch in float64, whatever it was trained with.

*As they come*: `ours` is `PredictionNetwork` after its `initialize`, with its own defaults and the
loss that `examples/handwriting.py` takes, nats a sequence (a sum over points over the batch size).
`stock` (`MixtureSameFamily` of `MultivariateNormal`, and `Bernoulli`) and `hand` (the density
written out, floored at 1e-20, then its logarithm) take the mean over points, torch's first weights,
and `clip_grad_norm_` at 5. Adam does not mind the loss's scale; clipping does, so that arms say
which scale they clip at. Clipping at the activations is the paper's: the loss's derivatives by the
outputs to 100, by the LSTM's activations to 10, for nats a sequence.

Offsets are normalised to a root mean square of 1, which suits torch's first weights best. `--scale`
sets another, as 0.05 for drawings that fill a unit square; scores are given for unit scale
nonetheless, so that they compare.

A run that meets a loss or a gradient that is not finite ends there. It is scored with its last
weights and marked with an exclamation mark; `--out` says at which step.
"""

import argparse
import hashlib
import json
import math
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from options import Parser, Refusal, claimed, errors_in_one_line, within, writable, write
from peers import hand_nats, stock_nats
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, MultivariateNormal

from mdn_dist import PredictionNetwork, data
from mdn_dist._maths.gradients import clip_gradient
from mdn_dist.networks import ClippedLSTM
from mdn_dist.outputs import OutputMap
from mdn_dist.pens import BernoulliPen

COMPONENTS = 20
LEARNING_RATE = 1e-3
NORM = 5.0  # customary limit of the whole gradient's norm
ACTIVATIONS = {"clip_outputs": 100.0, "clip_lstm": 10.0}  # the paper's
NO_CLIPPING = {"clip_outputs": None, "clip_lstm": None}
CURVE_EVERY = 100  # steps
LARGEST_OFFSET = 1e20  # of a drawing; larger ones overflow when they are added up
MOST_BYTES = 1 << 26  # of the runs written before


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        loss: `"ours"`, `"stock"` or `"hand"`.
        start: `"data"` for `PredictionNetwork.initialize`, `"head"` for the linear layer of
            `MixtureDensityHead.initialize` alone, `"default"` for torch's first weights.
        clip: `"norm"`, `"activations"`, None for nothing, `"own"` for what our network does.
        unit: The loss is nats a `"point"` (a mean) or a `"sequence"` (a sum over the batch size).
        network: What our network is told otherwise than by default.
    """

    loss: str
    start: str
    clip: str | None
    unit: str
    network: dict[str, Any] = field(default_factory=dict)


def make_arms() -> dict[str, Arm]:
    """Names the arms: the three as they come, our ablations, then what else is fair to peers."""
    arms = {
        "ours": Arm("ours", "data", "own", "sequence"),
        "stock": Arm("stock", "default", "norm", "point"),
        "hand": Arm("hand", "default", "norm", "point"),
        "ours/default-start": Arm("ours", "default", "own", "sequence"),
        "ours/head-start": Arm("ours", "head", "own", "sequence"),
        "ours/exact-maps": Arm("ours", "data", "own", "sequence", {"bounds": None}),
        "ours/no-clip": Arm("ours", "data", None, "sequence", NO_CLIPPING),
        "ours/activations": Arm("ours", "data", "activations", "sequence", ACTIVATIONS),
        "ours/norm": Arm("ours", "data", "norm", "point", NO_CLIPPING),
        "ours/norm-sequence": Arm("ours", "data", "norm", "sequence", NO_CLIPPING),
    }
    for start, name in (("default", ""), ("data", "/our-start")):
        for loss in ("stock", "hand"):
            arms[f"{loss}{name}/no-clip"] = Arm(loss, start, None, "point")
            arms[f"{loss}{name}/activations"] = Arm(loss, start, "activations", "sequence")
            arms[f"{loss}{name}/norm-sequence"] = Arm(loss, start, "norm", "sequence")
            if start == "data":
                arms[f"{loss}{name}/norm"] = Arm(loss, start, "norm", "point")
    return arms


ARMS = make_arms()


# ------------------------------------------------------------------------------------------- data


class Strokes(NamedTuple):
    """Windows of points, `(N, T + 1, 3)`: the first `T` are seen, the last `T` predicted."""

    train: Tensor
    held_out: Tensor


def read(path: Path, drawers: int) -> dict[bool, list[tuple[str, Tensor]]]:
    """Reads drawings with their drawers, off their lattice, split by whether they are held out.

    Pixels would give a density no bound: every position moves by uniform noise as wide as its
    drawing's smallest step.
    """
    generator = torch.Generator().manual_seed(0)
    split: dict[bool, list[tuple[str, Tensor]]] = {True: [], False: []}
    corpus = data.read(path)
    names = sorted({drawing.writer for drawing in corpus} - {""})
    if len(names) <= drawers:
        raise Refusal(
            f"--data {path}: expected drawings by more than --drawers {drawers}, got {len(names)}"
        )
    longest = max(drawing.points.abs().max().item() for drawing in corpus)
    if longest > LARGEST_OFFSET:
        raise Refusal(f"--data {path}: expected offsets up to {LARGEST_OFFSET:g}, got {longest:g}")
    chosen = torch.randperm(len(names), generator=generator)[:drawers]
    held = {names[i] for i in chosen}
    for drawing in corpus:
        steps = drawing.points[1:, :2].abs()
        if steps.any():
            step = steps[steps > 0].min().item()
            points = data.dequantize(drawing.points, step, generator)
            split[drawing.writer in held].append((drawing.writer, points))
    return split


@cache
def load(path: Path, drawers: int, window: int, scale: float = 1.0) -> Strokes:
    """Reads and splits drawings, normalises and cuts; the same for every seed and arm."""
    split = {part: [points for _, points in each] for part, each in read(path, drawers).items()}
    train, held_out = windows(split, path, window)
    factor = torch.tensor([scale, scale, 1.0])
    return Strokes(train * factor, held_out * factor)


def windows(split: dict[bool, list[Tensor]], path: Path, window: int) -> Strokes:
    """Normalises drawings by those to train on, and cuts them."""
    for part, drawings in split.items():
        if not any(len(points) > window for points in drawings):
            what = "held out" if part else "to train on"
            raise Refusal(f"--data {path}: expected drawings {what} of more than {window} points")
    normalization = data.Normalization.fit(split[False], isotropic=True)
    train, held_out = (
        cut([normalization.normalize(points) for points in split[part]], window)
        for part in (False, True)
    )
    return Strokes(train, held_out)


def cut(drawings: list[Tensor], window: int) -> Tensor:
    """Cuts windows `(N, window + 1, 3)`, each beginning with the last's end; the rest is left."""
    pieces = [points.unfold(0, window + 1, window) for points in drawings if len(points) > window]
    return torch.cat(pieces).mT.contiguous()


def batch(strokes: Tensor, size: int, seed: int, step: int) -> Tensor:
    """Draws the batch that every arm sees at this step of this seed."""
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
    return strokes[torch.randint(len(strokes), (size,), generator=generator)]


# ----------------------------------------------------------------------------------------- losses


def exact_nats(outputs: Tensor, points: Tensor, output_map: OutputMap) -> Tensor:
    """Scores by the distribution that outputs define, by stock torch in float64."""
    pen_logits, rest = BernoulliPen.split(outputs.double())
    logits, loc, scale_tril = output_map.parameters(rest)
    normal = MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
    weights = Categorical(logits=logits, validate_args=False)
    mixture = MixtureSameFamily(weights, normal, validate_args=False)
    pen = Bernoulli(logits=pen_logits.squeeze(-1), validate_args=False)
    points = points.double()
    return -mixture.log_prob(points[..., :2]) - pen.log_prob(points[..., 2])


# ----------------------------------------------------------------------------------------- models


class Ours(nn.Module):
    """Our network, scored by the distribution that it returns."""

    def __init__(self, hidden_size: int, arm: Arm, layers: int = 1) -> None:
        super().__init__()
        network = PredictionNetwork(hidden_size, layers, COMPONENTS, **arm.network)
        self.network, self.lstm, self.linear = network, network.layers[0], network.head.linear
        self.output_map = network.head.output_map

    def nats(self, seen: Tensor, points: Tensor) -> Tensor:
        """Returns what the loss adds up, `(B, T)`."""
        return -self.network(seen)[0].log_prob(points)

    def outputs(self, seen: Tensor) -> Tensor:
        """Returns the raw outputs, `(B, T, 6 K + 1)`."""
        distribution = self.network(seen)[0]
        return distribution.pen.join(distribution.pen.rows, distribution.offset.outputs)


class Peer(nn.Module):
    """An LSTM and a linear layer, with another's loss."""

    def __init__(self, hidden_size: int, arm: Arm) -> None:
        super().__init__()
        self.loss = {"stock": stock_nats, "hand": hand_nats}[arm.loss]
        self.output_map = OutputMap(COMPONENTS, bounds=None)
        self.clips = arm.clip == "activations"
        if self.clips:
            self.lstm: nn.LSTM = ClippedLSTM(3, hidden_size, ACTIVATIONS["clip_lstm"])
        else:
            self.lstm = nn.LSTM(3, hidden_size, batch_first=True)
        self.linear = nn.Linear(hidden_size, 6 * COMPONENTS + 1)

    def nats(self, seen: Tensor, points: Tensor) -> Tensor:
        """Returns what the loss adds up, `(B, T)`."""
        return self.loss(self.outputs(seen), points)

    def outputs(self, seen: Tensor) -> Tensor:
        """Returns the raw outputs, `(B, T, 6 K + 1)`."""
        if not self.clips:
            return self.linear(self.lstm(seen)[0])
        zeros = seen.new_zeros(len(seen), self.lstm.hidden_size)
        outputs = self.linear(self.lstm(seen, (zeros, zeros))[0])
        return clip_gradient(outputs, ACTIVATIONS["clip_outputs"])


def make_model(arm: Arm, hidden_size: int, seed: int, train: Tensor) -> Ours | Peer:
    """Makes an arm's model with the weights that its seed and its start prescribe."""
    model = (Ours if arm.loss == "ours" else Peer)(hidden_size, arm)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lstm = nn.LSTM(3, hidden_size, batch_first=True)
        linear = nn.Linear(hidden_size, 6 * COMPONENTS + 1)
    if arm.start != "default":
        bounds = model.output_map.bounds  # the same mixture, written down for its own maps
        network = PredictionNetwork(hidden_size, 1, COMPONENTS, bounds=bounds)
        network.layers[0].load_state_dict(lstm.state_dict())
        start = network if arm.start == "data" else network.head
        start.initialize(train[:, 1:], generator=torch.Generator().manual_seed(seed))
        lstm, linear = network.layers[0], network.head.linear
    model.lstm.load_state_dict(lstm.state_dict())
    model.linear.load_state_dict(linear.state_dict())
    return model


# ----------------------------------------------------------------------------------------- a run


def run(name: str, seed: int, args: argparse.Namespace) -> dict:
    """Trains one arm with one seed and scores it."""
    arm = ARMS[name]
    train, held_out = load(args.data, args.drawers, args.window, args.scale)
    model = make_model(arm, args.hidden_size, seed, train)
    start = time.perf_counter()
    curve, failed_at = fit(model, arm, train, seed, args)
    seconds = time.perf_counter() - start
    return {
        "arm": name,
        "seed": seed,
        "score": evaluate(model, held_out) - 2 * math.log(args.scale),  # at unit scale
        "failed_at": failed_at,
        "seconds": seconds,
        "curve": curve,
    }


def fit(
    model: Ours | Peer, arm: Arm, train: Tensor, seed: int, args: argparse.Namespace
) -> tuple[list[float], int | None]:
    """Trains and returns the loss a point every so many steps, and the step that failed, if any."""
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    curve, recent = [], []
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        points = batch(train, args.batch_size, seed, step)
        try:
            nats = model.nats(points[:, :-1], points[:, 1:])
        except ValueError:  # stock torch checks its parameters
            return curve, step
        loss = nats.mean() if arm.unit == "point" else nats.sum() / len(nats)
        optimizer.zero_grad()
        loss.backward()
        limit = NORM if arm.clip == "norm" else math.inf
        norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
        if not (loss.isfinite() and norm.isfinite()):
            return curve, step
        optimizer.step()
        recent.append(nats.mean().item())
        if len(recent) == CURVE_EVERY:
            curve.append(sum(recent) / len(recent))
            recent.clear()
    return curve, None


@torch.no_grad()
def evaluate(model: Ours | Peer, held_out: Tensor) -> float:
    """Scores held-out points exactly, in nats a point."""
    total = 0.0
    for points in held_out.split(64):
        nats = exact_nats(model.outputs(points[:, :-1]), points[:, 1:], model.output_map)
        total += nats.sum().item()
    return total / held_out[:, 1:, 0].numel()


# --------------------------------------------------------------------------------------- reporting


def table(runs: list[dict]) -> str:
    """Lays out scores: a row an arm, a column a seed, the mean and the mean difference to ours."""
    scores = {(r["arm"], r["seed"]): r for r in runs}
    seeds = sorted({r["seed"] for r in runs})
    head = f"{'arm':28}" + "".join(f"{f'seed {s}':>10}" for s in seeds)
    lines = [head + f"{'mean':>10}{'to ours':>10}{'at least':>10}{'s/run':>8}"]
    for name in ARMS:
        done = [scores[name, s] for s in seeds if (name, s) in scores]
        if not done:
            continue
        line = f"{name:28}"
        for s in seeds:
            r = scores.get((name, s))
            mark = " " if r is None or r["failed_at"] is None else "!"
            line += f"{r['score']:9.3f}{mark}" if r else f"{'':>10}"
        line += f"{sum(r['score'] for r in done) / len(done):9.3f} "
        pairs = [
            r["score"] - scores["ours", r["seed"]]["score"]
            for r in done
            if ("ours", r["seed"]) in scores
        ]
        difference = [sum(pairs) / len(pairs), min(pairs)] if pairs else [math.nan, math.nan]
        line += "".join(f"{d:+9.3f} " for d in difference)
        lines.append(line + f"{sum(r['seconds'] for r in done) / len(done):8.1f}")
    return "\n".join(lines)


def settings(args: argparse.Namespace) -> dict:
    """Returns what the runs of one file have in common."""
    names = ("steps", "hidden_size", "batch_size", "window", "drawers", "scale")
    with args.data.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return {name: getattr(args, name) for name in names} | {"data": f"sha256 {content}"}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="Omniglot's strokes, a zip as published")
    add("--out", type=writable, default="quality.json", help="runs it already holds are kept")
    add("--arms", nargs="+", default=["*"], help=f"names or patterns of: {', '.join(ARMS)}")
    add("--seeds", type=within(int, 1, 1000), default=3)
    add("--steps", type=within(int, 1, 10_000_000), default=1000)
    add("--hidden-size", type=within(int, 1, 2000), default=256)
    add("--batch-size", type=within(int, 1, 10_000), default=16)
    window_help = "points predicted in a sequence"
    add("--window", type=within(int, 1, 10_000), default=64, help=window_help)
    add("--drawers", type=within(int, 1, 1_000_000), default=4, help="held out")
    scale_help = "root mean square of the offsets"
    add("--scale", type=within(float, 1e-6, 1e6), default=1.0, help=scale_help)
    add("--jobs", type=within(int, 1, 256), default=1, help="runs at a time, a thread each")
    args = parser.parse_args(arguments)
    for pattern in args.arms:
        if not any(fnmatch(name, pattern) for name in ARMS):
            parser.error(f"argument --arms: expected a name or pattern of an arm, got {pattern!r}")
    return args


def results(todo: list[tuple[str, int]], args: argparse.Namespace) -> Iterator[dict]:
    """Runs arms and seeds, here or in several processes, and yields each as it is done."""
    if args.jobs == 1:
        yield from (run(name, seed, args) for name, seed in todo)
        return
    pool = ProcessPoolExecutor(args.jobs, get_context("spawn"), start_worker)
    try:
        futures = [pool.submit(run, name, seed, args) for name, seed in todo]
        yield from (future.result() for future in as_completed(futures))
    except BrokenProcessPool:
        raise Refusal("a run was killed, perhaps for want of memory") from None
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """Prepares a process for its runs."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # one process is enough to say so


def earlier_runs(path: Path, common: dict, **more: type) -> list[dict]:
    """Reads the runs of a file, which must have these settings in common, and may tell more."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        text = file.read(MOST_BYTES)
    try:
        saved = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{path} holds something else than runs: {error}") from error
    if not (isinstance(saved, dict) and isinstance(saved.get("runs"), list)):
        raise Refusal(f"{path} holds something else than runs")
    if saved.get("settings") != common:
        raise Refusal(f"{path} holds runs with other settings: {saved.get('settings')}")
    kinds = {"arm": str, "seed": int, "score": float, "seconds": float, "failed_at": int | None}
    kinds |= more
    for made in saved["runs"]:
        if not isinstance(made, dict) or not all(
            isinstance(made.get(name, ...), kind) for name, kind in kinds.items()
        ):
            raise Refusal(f"{path} holds something else than runs: {made}")
    return saved["runs"]


@errors_in_one_line()
def main() -> None:
    """Trains every arm with every seed, and prints and writes the scores."""
    args = parse()
    with claimed(args.out):
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Makes the runs that are not made yet, and prints a table of all."""
    names = [name for name in ARMS if any(fnmatch(name, pattern) for pattern in args.arms)]
    common = settings(args)
    runs = earlier_runs(args.out, common)
    done = {(r["arm"], r["seed"]) for r in runs}
    todo = [(n, s) for n in names for s in range(args.seeds) if (n, s) not in done]
    if todo:
        load(args.data, args.drawers, args.window, args.scale)  # here, where it may be refused
    for count, result in enumerate(results(todo, args), start=1):
        runs.append(result)
        document = {"settings": common, "torch": torch.__version__, "runs": runs}
        write(args.out, json.dumps(document, indent=1).encode())
        print(
            f"{count}/{len(todo)} {result['arm']}, seed {result['seed']}: "
            f"{result['score']:.3f} nats/point, {result['seconds']:.0f} s",
            flush=True,
        )
    print(table(runs))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
