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

import argparse
import hashlib
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from command_line import (
    PROCESSES,
    RANK,
    Parser,
    Refusal,
    check_trained,
    claimed,
    errors_in_one_line,
    existing_file,
    integer,
    number,
    replacing,
    seed,
)
from model_files import (
    SIZES,
    Model,
    load_checkpoint,
    load_model,
    save_checkpoint,
    save_model,
)
from stroke_data import Strokes, batches, load_strokes
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from mdn_dist import PredictionNetwork, StrokeDistribution, generate, plotting

CHECKPOINT_EVERY = 50  # steps
CHECKPOINT, MODEL, DENSITY = "checkpoint.safetensors", "model.safetensors", "density.png"
SAMPLES = ("samples.svg", "samples.png")
FREE_OPTIONS = ("out", "resume", "load", "bias")  # --resume may be given others of these


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
    network: PredictionNetwork,
    optimizer: torch.optim.Adam,
    drawings: list[Tensor],
    args: argparse.Namespace,
    save: Callable[[int], None],
    first: int,
) -> None:
    """Trains with Adam on nats a sequence, as the paper sums them, keeping checkpoints.

    What a step does depends on its number and the seed alone, so a resumed run takes the steps that
    an uninterrupted one takes, be it on another number of processes: they share out each batch.
    """
    model = DistributedDataParallel(network) if PROCESSES > 1 else network
    pool = batches(drawings, args.batch_size)
    steps = range(first, args.steps)
    quiet = RANK > 0 or None  # None: unless a person looks on
    for step in (progress := tqdm(steps, initial=first, total=args.steps, disable=quiet)):
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
        check_trained(step + 1, network.parameters())
        if step % 10 == 0:
            progress.set_postfix_str(f"{nats.item() / mask[:, 1:].sum().item():.3f} nats/point")
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == args.steps:
            by_the_first_process(partial(save, step + 1))


def by_the_first_process(save: Callable[[], None]) -> None:
    """Saves once; where that is refused, no process waits for another that has left."""
    refusal = None
    if RANK == 0:
        try:
            save()
        except Refusal as error:
            refusal = error
    if PROCESSES > 1:
        refused = torch.tensor(int(refusal is not None))
        torch.distributed.broadcast(refused, src=0)
        if refused and RANK > 0:
            refusal = Refusal("the first process cannot save")
    if refusal:
        raise refusal


def schedule(share: float) -> float:
    """Returns the learning rate's factor after a share of the run: a tenth up, then a cosine."""
    return min(share / 0.1 + 0.02, 0.5 * (1 + math.cos(math.pi * max(0.0, share - 0.1) / 0.9)))


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that decide what the steps of a run do, the file of --data by content."""
    options = {name: value for name, value in vars(args).items() if name not in FREE_OPTIONS}
    if args.data is not None:
        with args.data.open("rb") as file:
            options["data"] = "sha256 " + hashlib.file_digest(file, "sha256").hexdigest()
    return options


def write_samples(model: Model, real: list[Tensor], args: argparse.Namespace) -> None:
    """Draws samples at every bias, below held-out drawings where there are any, to one page."""
    wide = model.typical_length > 100  # lines of text, not single letters
    each = 2 if wide else 8
    restore = model.normalization.denormalize
    drawings = [restore(p) for p in real[:: max(1, len(real) // each)][:each]]
    titles = ["held out"] * len(drawings)
    generator = torch.Generator().manual_seed(args.seed)
    for bias in args.bias:
        drawn = generate(
            model.network, model.typical_length, batch_size=each, bias=bias, generator=generator
        )
        drawings += [restore(trim(p)) for p in drawn]
        titles += [f"bias {bias:g}"] * each
    with replacing(*(args.out / name for name in SAMPLES)) as paths:
        plotting.strokes(drawings, titles=titles, columns=each, path=paths)


def trim(points: Tensor) -> Tensor:
    """Cuts a generated drawing after its last whole stroke, if it has one."""
    ends = points[:, 2].nonzero()
    return points[: int(ends[-1]) + 1] if len(ends) else points


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=existing_file, help="stroke file to train on (default: made-up lettering)")
    add("--out", type=Path, default=Path("runs/handwriting"), help="folder for what is written")
    only = parser.add_mutually_exclusive_group().add_argument
    only("--resume", action="store_true", help="go on from the checkpoint in --out")
    only("--load", type=existing_file, help="only sample from this model.safetensors")
    biases = {"nargs": "+", "default": [0.0, 0.5, 1.0, 2.0]}
    add("--bias", type=number(0, 100), **biases, help="biases to sample at")
    add("--lines", type=integer(2, 100_000), default=2000, help="lines of lettering to make")
    spacing_help = "of the points of --data, in drawing extents"
    add("--spacing", type=number(0.001, 1), default=0.04, help=spacing_help)
    add("--limit", type=integer(2, 1_000_000), help="read at most so many drawings")
    steps_help = "training steps; a finished run can be resumed to take more"
    add("--steps", type=integer(1, 10_000_000), default=1200, help=steps_help)
    add("--batch-size", type=integer(1, 10_000), default=32)
    add("--hidden-size", type=integer(*SIZES["hidden_size"]), default=200)
    add("--layers", type=integer(*SIZES["layers"]), default=1)
    add("--components", type=integer(*SIZES["components"]), default=20)
    add("--learning-rate", type=number(1e-9, 1), default=5e-3)
    add("--seed", type=seed, default=0)
    return parser.parse_args()


@errors_in_one_line(interrupted="Interrupted: --resume goes on from the last checkpoint")
def main() -> None:
    """Runs the job."""
    args = parse()
    names = (CHECKPOINT, MODEL, DENSITY, *SAMPLES)
    with claimed(args.out, *names) if RANK == 0 else nullcontext():
        if not args.load:
            learn(args)
        elif RANK == 0:
            write_samples(load_model(args.load), [], args)
            print(f"Samples of {args.load}: {args.out / SAMPLES[0]}")


def learn(args: argparse.Namespace) -> None:
    """Trains a network, or trains on, and reports what it came to."""
    torch.manual_seed(args.seed)
    options = run_options(args)
    checkpoint = load_checkpoint(args.out / CHECKPOINT) if args.resume else None
    if checkpoint:
        checkpoint.check_options(options)
    strokes = load_strokes(args)
    sizes = {name: getattr(args, name) for name in SIZES}
    network = PredictionNetwork(**sizes)
    network.initialize([p[1:] for p in strokes.train])
    if RANK == 0:
        points = sum(map(len, strokes.train))
        print(
            f"{len(strokes.train)} drawings, {points} points to train on; {len(strokes.held_out)} "
            "held out. Scores are held out, in nats/point at unit scale; lower is better."
        )
        print(f"(a) best unconditional mixture  {unconditional_score(strokes, args):8.3f}")
        print(f"(b) network before training     {evaluate(network, strokes.held_out)[0]:8.3f}")
    optimizer = torch.optim.Adam(network.parameters())
    if checkpoint:
        checkpoint.restore(network, optimizer)

    def save(step: int) -> None:
        save_checkpoint(args.out / CHECKPOINT, options, step, network, optimizer)

    with process_group():
        first = checkpoint.step if checkpoint else 0
        train(network, optimizer, strokes.train, args, save, first)
    if RANK == 0:
        model = Model(sizes, network, strokes.normalization, strokes.typical_length)
        report(model, strokes.held_out, args)


@contextmanager
def process_group() -> Generator[None]:
    """Joins the other processes, where there are any, once nothing is left to be refused."""
    if PROCESSES > 1:
        torch.distributed.init_process_group()
    try:
        yield
    finally:
        if PROCESSES > 1:
            torch.distributed.destroy_process_group()


def report(model: Model, held_out: list[Tensor], args: argparse.Namespace) -> None:
    """Scores the trained network and writes it, with pictures of what it does."""
    score, error = evaluate(model.network, held_out)
    print(f"(c) network after training      {score:8.3f}")
    print(f"(d) squared error of the mean   {error:8.3f} a point, in squared unit scales")
    save_model(model, args.out / MODEL)
    write_samples(model, held_out, args)
    example = held_out[0]
    with torch.no_grad():
        distribution, _ = model.network(example[None, :-1])
    with replacing(args.out / DENSITY) as (path,):
        plotting.density(distribution[0], example, path=path)
    print(f"Written to {args.out}: {', '.join((*SAMPLES, DENSITY, MODEL))}")


if __name__ == "__main__":
    main()
