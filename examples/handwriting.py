"""Train on pen strokes and write: the paper's prediction network, from data to pictures.

Without arguments it draws its own data, lettering in the single-stroke faces of Hershey-Fonts by
made-up writers. With ``--data`` it trains on a real file: Omniglot's stroke zip, Quick, Draw!
ndjson or a Sketch-RNN npz.

    python examples/handwriting.py
    python examples/handwriting.py --data strokes_background_small1.zip --out runs/omniglot
    python examples/handwriting.py --resume
    torchrun --nproc-per-node=2 examples/handwriting.py
    python examples/handwriting.py --load runs/handwriting/model.safetensors --bias 0 1

It prints held-out scores and writes samples, a density map and the model under ``--out``.
Interrupted, it goes on with ``--resume`` where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from lettering import lettering
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from mdn_dist import (
    PredictionNetwork,
    StrokeDistribution,
    data,
    generate,
    plotting,
)

HELD_OUT = 0.1  # share of the drawings or, where they are known, of the writers
LONGEST = 300  # points; longer drawings are cut into pieces
CHECKPOINT_EVERY = 50  # steps
RANK, PROCESSES = (int(os.environ.get(name, d)) for name, d in (("RANK", 0), ("WORLD_SIZE", 1)))


@dataclass
class Strokes:
    """Normalised drawings, split, with what undoes the normalisation."""

    train: list[Tensor]
    held_out: list[Tensor]
    normalization: data.Normalization

    @property
    def typical_length(self) -> int:
        """Number of points in the median drawing."""
        return sorted(map(len, self.train))[len(self.train) // 2]


def load_strokes(args: argparse.Namespace) -> Strokes:
    """Reads a file, or letters lines, and normalises and splits the drawings.

    Where writers are known, the held-out drawings are by writers not trained on.
    """
    generator = torch.Generator().manual_seed(args.seed)
    if args.data is None:
        drawings = [data.Drawing(points) for points in lettering(args.lines, args.seed)]
        points = [drawing.points for drawing in drawings]
    else:
        corpus = data.read(args.data, limit=args.limit, malformed="skip")
        if RANK == 0:
            print(f"Read {len(corpus)} drawings from {args.data}, skipped {len(corpus.skipped)}")
        drawings = list(corpus)
        points = even([drawing.points for drawing in drawings], args.spacing, generator)
    normalization = data.Normalization.fit(points, isotropic=True)
    points = [normalization.normalize(p) for p in points]
    groups = [drawing.writer or str(i) for i, drawing in enumerate(drawings)]
    names = sorted(set(groups))
    chosen = torch.randperm(len(names), generator=generator)[: max(1, round(HELD_OUT * len(names)))]
    held = {names[i] for i in chosen}
    split: dict[bool, list[Tensor]] = {True: [], False: []}
    for group, p in zip(groups, points, strict=True):
        split[group in held] += [piece for piece in p.split(LONGEST) if len(piece) > 1]
    return Strokes(split[False], split[True], normalization)


def even(drawings: list[Tensor], spacing: float, generator: torch.Generator) -> list[Tensor]:
    """Spaces points evenly and takes them off the lattice that mice and tablets report.

    Points come to lie `spacing` of a median drawing's extent apart; each then moves by uniform
    noise as wide as its drawing's smallest step, for on a lattice a density has no bound.
    """
    extents = [(d.cumsum(0).amax(0) - d.cumsum(0).amin(0))[:2].max() for d in drawings]
    distance = spacing * torch.stack(extents).median().item()
    spaced = []
    for points in drawings:
        steps = points[:, :2].abs()
        step = steps[steps > 0].min().item() if steps.any() else distance
        spaced.append(data.dequantize(data.resample(points, distance), step, generator))
    return spaced


def batches(drawings: list[Tensor], batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Collates drawings of like length into padded batches with their masks."""
    ordered = sorted(drawings, key=len)
    starts = range(0, len(ordered), batch_size)
    return [data.collate(ordered[start : start + batch_size]) for start in starts]


@torch.no_grad()
def evaluate(network: PredictionNetwork, drawings: list[Tensor]) -> tuple[float, float]:
    """Scores predictions: nats/point, and the squared error of the mean offset a point."""
    score = error = count = 0.0
    for strokes, mask in batches(drawings, 64):
        target, kept = strokes[:, 1:], mask[:, 1:]
        distribution, _ = network(strokes[:, :-1])
        score -= distribution.log_prob(target, mask=kept).sum().item()
        miss = (distribution.mean - target)[kept][:, :2]
        error += miss.square().sum().item()
        count += kept.sum().item()
    return score / count, error / count


def unconditional_score(strokes: Strokes, args: argparse.Namespace) -> float:
    """Scores the best distribution that takes no notice of the points before."""
    train, held_out = (
        torch.cat([p[1:] for p in part]) for part in (strokes.train, strokes.held_out)
    )
    sample = train[torch.randperm(len(train))[:100_000]]
    model = StrokeDistribution.fit(sample, args.components)
    return -model.log_prob(held_out).mean().item()


def train(
    network: PredictionNetwork, config: dict, drawings: list[Tensor], args: argparse.Namespace
) -> None:
    """Trains with Adam on nats a sequence, as the paper sums them, keeping checkpoints.

    What a step does depends on its number and the seed alone, so a resumed run takes the steps that
    an uninterrupted one takes, be it on another number of processes: they share out each batch.
    """
    checkpoint = args.out / "checkpoint.pt"
    optimizer = torch.optim.Adam(network.parameters())
    first = 0
    if args.resume and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["config"] != config:
            raise SystemExit(f"--resume needs the network of {checkpoint}: {saved['config']}")
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]

    def save(step: int) -> None:
        states = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**states, "step": step, "config": config}, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)  # all of it or none

    model = DistributedDataParallel(network) if PROCESSES > 1 else network
    pool = batches(drawings, args.batch_size)
    steps = range(first, args.steps)
    for step in (progress := tqdm(steps, initial=first, total=args.steps, disable=RANK > 0)):
        epoch, place = divmod(step, len(pool))
        shuffle = torch.Generator().manual_seed(args.seed + epoch)
        strokes, mask = pool[torch.randperm(len(pool), generator=shuffle)[place]]
        whole = len(strokes)
        if whole >= PROCESSES:
            strokes, mask = strokes[RANK::PROCESSES], mask[RANK::PROCESSES]
            whole /= PROCESSES  # for gradients are averaged over the processes
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * schedule(step / args.steps)
        distribution, _ = model(strokes[:, :-1])
        nats = -distribution.log_prob(strokes[:, 1:], mask=mask[:, 1:]).sum()
        optimizer.zero_grad()
        (nats / whole).backward()
        optimizer.step()
        if step % 10 == 0:
            progress.set_postfix_str(f"{nats.item() / mask[:, 1:].sum().item():.3f} nats/point")
        if RANK == 0 and ((step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == args.steps):
            save(step + 1)


def schedule(share: float) -> float:
    """Returns the learning rate's factor after a share of the run: a tenth up, then a cosine."""
    return min(share / 0.1 + 0.02, 0.5 * (1 + math.cos(math.pi * max(0.0, share - 0.1) / 0.9)))


def save_model(network: PredictionNetwork, config: dict, strokes: Strokes, path: Path) -> None:
    """Writes the weights as safetensors, with the configuration and normalisation beside them."""
    metadata = {
        "typical_length": str(strokes.typical_length),
        "config": json.dumps(config),
        "normalization": json.dumps(strokes.normalization.to_dict()),
    }
    save_file(network.state_dict(), path, metadata)


def load_model(path: Path) -> tuple[PredictionNetwork, data.Normalization, int]:
    """Reads what :func:`save_model` wrote: the network, the normalisation, the usual length."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        network = PredictionNetwork(**json.loads(metadata["config"]))
        network.load_state_dict({name: file.get_tensor(name) for name in network.state_dict()})
    normalization = data.Normalization.from_dict(json.loads(metadata["normalization"]))
    return network, normalization, int(metadata["typical_length"])


def write_samples(
    network: PredictionNetwork,
    normalization: data.Normalization,
    points: int,
    real: list[Tensor],
    args: argparse.Namespace,
) -> None:
    """Draws samples at every bias, below held-out drawings where there are any, to one page."""
    wide = points > 100  # lines of text, not single letters
    each = 2 if wide else 8
    drawings = [normalization.denormalize(p) for p in real[:: max(1, len(real) // each)][:each]]
    titles = ["held out"] * len(drawings)
    generator = torch.Generator().manual_seed(args.seed)
    for bias in args.bias:
        drawn = generate(network, points, batch_size=each, bias=bias, generator=generator)
        drawings += [normalization.denormalize(trim(p)) for p in drawn]
        titles += [f"bias {bias:g}"] * each
    paths = [args.out / "samples.svg", args.out / "samples.png"]
    plotting.strokes(drawings, titles=titles, columns=each, path=paths)


def trim(points: Tensor) -> Tensor:
    """Cuts a generated drawing after its last whole stroke, if it has one."""
    ends = points[:, 2].nonzero()
    return points[: int(ends[-1]) + 1] if len(ends) else points


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="stroke file to train on (default: made-up lettering)")
    add("--out", type=Path, default=Path("runs/handwriting"), help="folder for what is written")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")
    add("--load", type=Path, help="only sample from this model.safetensors")
    add("--bias", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0], help="biases to sample at")
    add("--lines", type=int, default=2000, help="lines of lettering to make")
    add("--spacing", type=float, default=0.04, help="of the points of --data, in drawing extents")
    add("--limit", type=int, help="read at most so many drawings")
    add("--steps", type=int, default=1200, help="training steps")
    add("--batch-size", type=int, default=32)
    add("--hidden-size", type=int, default=200)
    add("--layers", type=int, default=1)
    add("--components", type=int, default=20)
    add("--learning-rate", type=float, default=5e-3)
    add("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Runs the job."""
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.load:
        network, normalization, length = load_model(args.load)
        write_samples(network, normalization, length, [], args)
        print(f"Samples of {args.load}: {args.out / 'samples.svg'}")
        return
    torch.manual_seed(args.seed)
    strokes = load_strokes(args)
    config = {key: getattr(args, key) for key in ("hidden_size", "layers", "components")}
    network = PredictionNetwork(**config)
    network.initialize([p[1:] for p in strokes.train])
    if RANK == 0:
        points = sum(map(len, strokes.train))
        print(
            f"{len(strokes.train)} drawings, {points} points to train on; {len(strokes.held_out)} "
            "held out. Scores are held out, in nats/point at unit scale; lower is better."
        )
        print(f"(a) best unconditional mixture  {unconditional_score(strokes, args):8.3f}")
        print(f"(b) network before training     {evaluate(network, strokes.held_out)[0]:8.3f}")
    train(network, config, strokes.train, args)
    if RANK == 0:
        report(network, config, strokes, args)


def report(
    network: PredictionNetwork, config: dict, strokes: Strokes, args: argparse.Namespace
) -> None:
    """Scores the trained network and writes it, with pictures of what it does."""
    score, error = evaluate(network, strokes.held_out)
    print(f"(c) network after training      {score:8.3f}")
    print(f"(d) squared error of the mean   {error:8.3f} a point, in squared unit scales")
    save_model(network, config, strokes, args.out / "model.safetensors")
    length = strokes.typical_length
    write_samples(network, strokes.normalization, length, strokes.held_out, args)
    example = strokes.held_out[0]
    with torch.no_grad():
        distribution, _ = network(example[None, :-1])
    plotting.density(distribution[0], example, path=args.out / "density.png")
    print(f"Written to {args.out}: samples.svg, samples.png, density.png, model.safetensors")


if __name__ == "__main__":
    if PROCESSES > 1:
        torch.distributed.init_process_group()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted: --resume goes on from the last checkpoint")
    finally:
        if PROCESSES > 1:
            torch.distributed.destroy_process_group()
