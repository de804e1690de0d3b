"""Learn how people draw: a latent style for each writer, in Pyro, under an autoregressive network.

Every writer has a style, a few normal numbers that the network reads beside each point; all
drawings of a writer share it. A guide infers it from some of a writer's drawings while the model
explains others, so what pays is what carries over from one drawing to the next: size, slant, speed.

    python examples/writer_styles.py
    python examples/writer_styles.py --data strokes_background_small1.zip --out runs/omniglot_styles

Without ``--data`` the writers are those of lettering.py. With Omniglot's zip a writer is a drawer
of one alphabet: its numbers 1 to 20 stand for other people in every alphabet.

Some writers are held out. Each half of the drawings of such a writer gives the style for the other
half; it prints nats/point in that style, in the prior's mean, and in the style of another writer of
the same alphabet. The picture shows two held-out writers, and what the network writes in the style
of each.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from command_line import (
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
from lettering import WORDS, Writer
from pyro.infer import TraceMeanField_ELBO
from stroke_data import read_drawings
from torch import Tensor, nn
from tqdm import tqdm

from mdn_dist import MixtureDensityHead, StrokeDistribution, data, generate, plotting

HELD_OUT = 0.2  # share of the writers
PICTURES = ("styles.svg", "styles.png")
LONGEST = 100  # points read of a drawing
WARM_UP = 0.5  # of the steps, for the weight of the style's divergence to come to one
HIDDEN = 0.5  # share of the points hidden at first, none after the warm-up

State = tuple[Tensor, Tensor]
Batch = tuple[Tensor, Tensor]  # drawings (W, N, T, 3) of W writers, and their masks


class StyledNetwork(nn.Module):
    """An LSTM that reads each point beside a style, ending in the head."""

    def __init__(self, hidden_size: int, components: int, style_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3 + style_size, hidden_size, batch_first=True)
        self.head = MixtureDensityHead(hidden_size, components)
        self.hidden = 0.0  # share of the points read that are hidden from it

    def forward(
        self, points: Tensor, style: Tensor, state: State | None = None
    ) -> tuple[StrokeDistribution, State]:
        """Predicts the point after each of `points`, ``(*, T, 3)``, in the styles ``(*, S)``."""
        style = style.unsqueeze(-2).expand(*points.shape[:-1], -1)
        if self.hidden:
            points = points * (torch.rand_like(points[..., :1]) > self.hidden)
        inputs = torch.cat([points, style], -1)  # (*, T, 3 + S)
        features, state = self.lstm(inputs.flatten(0, -3), state)
        return self.head(features.view(*points.shape[:-1], -1)), state


class Hand(NamedTuple):
    """The network in one style ``(S)``, as `generate` asks for it."""

    network: StyledNetwork
    style: Tensor

    def initial_state(self, batch_size: int) -> State:
        """Returns zeros, which the LSTM starts from."""
        zeros = self.style.new_zeros(1, batch_size, self.network.lstm.hidden_size)
        return zeros, zeros

    def step(self, point: Tensor, state: State) -> tuple[StrokeDistribution, State]:
        """Returns the distribution of the point after `point`, ``(B, 3)``, and the state."""
        style = self.style.expand(len(point), -1)
        distribution, state = self.network(point.unsqueeze(1), style, state)
        return distribution[:, 0], state


class Encoder(nn.Module):
    """From some drawings of a writer to a normal distribution of the style."""

    def __init__(self, hidden_size: int, style_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, hidden_size, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 2 * style_size)
        )

    def forward(self, points: Tensor, mask: Tensor) -> dist.Normal:
        """Reads drawings ``(W, N, T, 3)``; returns a normal of batch shape ``(W, S)``."""
        features, _ = self.lstm(points.flatten(0, 1))  # (W * N, T, H)
        share = mask / mask.sum((1, 2), keepdim=True)  # all points of a writer count alike
        pooled = (features.view(*mask.shape, -1) * share.unsqueeze(-1)).sum((1, 2))
        loc, log_scale = self.head(pooled).tensor_split(2, -1)
        return dist.Normal(loc, (log_scale - 2).exp())  # at first little noise hides the mean


class Styles(nn.Module):
    """Model and guide: both take the drawings `shown` to the guide and those that are `scored`."""

    def __init__(self, args: argparse.Namespace, writers: int, drawings: int) -> None:
        super().__init__()
        self.network = StyledNetwork(args.hidden_size, args.components, args.style_size)
        self.encoder = Encoder(args.hidden_size // 2, args.style_size)
        self.prior = dist.Normal(torch.zeros(args.style_size), 1.0).to_event(1)
        self.sizes = writers, drawings  # in all, and of each writer on average
        self.warmth = 1.0  # weight of the style's divergence from its prior

    def model(self, shown: Batch, scored: Batch) -> None:  # noqa: ARG002
        """Draws a style for each writer, and the writer's drawings in it."""
        points, mask = scored
        writers, drawings = points.shape[:2]
        with pyro.plate("writers", self.sizes[0], subsample_size=writers, dim=-2):
            with pyro.poutine.scale(scale=self.warmth):
                style = pyro.sample("style", self.prior)  # (W, 1, S)
            with pyro.plate("drawings", self.sizes[1], subsample_size=drawings, dim=-1):
                style = style.expand(writers, drawings, -1)
                predicted, _ = self.network(points[..., :-1, :], style)
                seen = predicted.mask(mask[..., 1:]).to_event(1)
                pyro.sample("points", seen, obs=points[..., 1:, :])

    def guide(self, shown: Batch, scored: Batch) -> None:
        """Infers each writer's style from the drawings `shown`, not from those that are scored."""
        with pyro.plate("writers", self.sizes[0], subsample_size=len(scored[0]), dim=-2):
            normal = self.encoder(*shown)
            style = dist.Normal(normal.loc.unsqueeze(1), normal.scale.unsqueeze(1))
            with pyro.poutine.scale(scale=self.warmth):
                pyro.sample("style", style.to_event(1))


def load(args: argparse.Namespace) -> dict[str, list[Tensor]]:
    """Reads, or letters, the drawings of each writer; a name begins with the alphabet's."""
    writers = defaultdict(list)
    if args.data is None:
        for number in range(args.writers):
            rng = np.random.default_rng([args.seed, number])
            writer = Writer.draw(rng)
            for word in rng.choice(WORDS, args.words):
                writers[f"lettering/{number}"].append(writer.write(word, rng))
        return writers
    for drawing in read_drawings(args.data):
        if not drawing.writer:
            raise Refusal(f"--data needs a file that knows its writers, got {args.data}")
        alphabet = drawing.label.split("/")[0]
        writers[f"{alphabet}/{drawing.writer}"].append(drawing.points)
    # Noise as wide as a pixel: on a lattice a density has no bound.
    steps = torch.tensor([smallest_step(points) for each in writers.values() for points in each])
    step = steps.median().item()
    generator = torch.Generator().manual_seed(args.seed)
    return {
        name: [data.dequantize(points, step, generator) for points in drawings]
        for name, drawings in writers.items()
    }


def smallest_step(points: Tensor) -> float:
    """Returns a drawing's smallest offset but 0."""
    steps = points[:, :2].abs()
    return steps[steps > 0].min().item()


def split(
    writers: dict[str, list[Tensor]], generator: torch.Generator
) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    """Normalises all drawings alike, and returns those of the writers kept and held out.

    Of each alphabet the same share is held out, two writers at least, for their styles are held
    against each other. Writers of a single drawing are left out: there is no other to tell their
    style from.
    """
    writers = {name: drawings for name, drawings in writers.items() if len(drawings) > 1}
    alphabets = defaultdict(list)
    for name in sorted(writers):
        alphabets[name.split("/")[0]].append(name)
    held = set()
    for names in alphabets.values():
        order = torch.randperm(len(names), generator=generator)
        if len(names) > 1:
            held |= {names[i] for i in order[: max(2, round(HELD_OUT * len(names)))]}
    if not held or len(held) == len(writers):
        raise Refusal(
            "--data: expected writers of two drawings or more, three at least of one alphabet: two "
            f"to hold out, one to learn from; got {len(writers)} of {len(alphabets)} alphabets"
        )
    kept = [points for name, each in writers.items() if name not in held for points in each]
    normalization = data.Normalization.fit(kept, isotropic=True)
    parts: dict[bool, dict[str, list[Tensor]]] = {False: {}, True: {}}
    for name, each in writers.items():
        parts[name in held][name] = [normalization.normalize(points)[:LONGEST] for points in each]
    return parts[False], parts[True]


def collate(groups: list[list[Tensor]]) -> Batch:
    """Pads equally many drawings of each of some writers to one batch."""
    points, mask = data.collate([points for group in groups for points in group])
    shape = len(groups), -1, points.shape[1]
    return points.view(*shape, 3), mask.view(shape)


def train(styles: Styles, writers: dict[str, list[Tensor]], args: argparse.Namespace) -> None:
    """Maximises the evidence lower bound, in nats/point, on some drawings of some writers."""
    generator = torch.Generator().manual_seed(args.seed)
    groups = list(writers.values())
    points = sum(len(p) - 1 for each in groups for p in each)
    elbo = TraceMeanField_ELBO()
    model, guide = (pyro.poutine.scale(f, 1 / points) for f in (styles.model, styles.guide))
    optimizer = torch.optim.Adam(styles.parameters(), lr=args.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, args.steps)
    here = min(args.drawings, min(map(len, groups)) // 2)
    for step in (progress := tqdm(range(args.steps), disable=None)):
        # Before the network reads the style, its divergence alone would make it say nothing; and
        # while points are hidden, the style says what they else would, down to the face.
        styles.warmth = min(1.0, (step + 1) / (WARM_UP * args.steps))
        styles.network.hidden = HIDDEN * (1.0 - styles.warmth)
        shown, scored = [], []
        for i in torch.randperm(len(groups), generator=generator)[: args.batch_writers]:
            order = torch.randperm(len(groups[i]), generator=generator)[: 2 * here]
            chosen = [groups[i][j] for j in order]
            shown.append(chosen[:here])
            scored.append(chosen[here:])
        loss = elbo.differentiable_loss(model, guide, collate(shown), collate(scored))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(styles.parameters(), 1.0)
        optimizer.step()
        check_trained(step + 1, styles.parameters())
        schedule.step()
        if step % 10 == 0:
            progress.set_postfix_str(f"{loss.item():.3f} nats/point")


@torch.no_grad()
def infer(styles: Styles, drawings: list[Tensor]) -> Tensor:
    """Returns the guide's mean style ``(S)`` of the writer of some drawings."""
    return styles.encoder(*collate([drawings])).loc[0]


@torch.no_grad()
def evaluate(styles: Styles, writers: dict[str, list[Tensor]]) -> dict[str, float]:
    """Scores held-out drawings in three styles, in nats/point."""
    names = sorted(writers)
    halves = {name: (writers[name][::2], writers[name][1::2]) for name in names}
    inferred = {name: [infer(styles, half) for half in halves[name]] for name in names}
    nats: dict[str, float] = defaultdict(float)
    count = 0
    for name in names:
        peers = [peer for peer in names if peer.split("/")[0] == name.split("/")[0]]
        peer = peers[peers.index(name) - 1]
        for half, drawings in enumerate(halves[name]):
            points, mask = data.collate(drawings)
            count += mask[:, 1:].sum().item()
            own = inferred[name][1 - half]
            tried = {
                "inferred": own,
                "prior's mean": torch.zeros_like(own),
                "another's": inferred[peer][1 - half],
            }
            for kind, style in tried.items():
                predicted, _ = styles.network(points[:, :-1], style.expand(len(points), -1))
                nats[kind] -= predicted.log_prob(points[:, 1:], mask=mask[:, 1:]).sum().item()
    return {kind: total / count for kind, total in nats.items()}


def draw_picture(
    styles: Styles, writers: dict[str, list[Tensor]], args: argparse.Namespace
) -> None:
    """Draws the two held-out writers whose styles are furthest apart, and writing in both."""
    names = sorted(writers)
    inferred = torch.stack([infer(styles, writers[name]) for name in names])
    pair = divmod(int(torch.cdist(inferred, inferred).argmax()), len(names))
    columns = min(5, *(len(writers[names[i]]) for i in pair))
    drawings, titles = [], []
    for i in pair:
        generator = torch.Generator().manual_seed(args.seed)
        hand = Hand(styles.network, inferred[i])
        drawn = generate(hand, LONGEST, batch_size=columns, bias=args.bias, generator=generator)
        drawings += [*writers[names[i]][:columns], *drawn]
        titles += [names[i]] * columns + ["in this style"] * columns
    with replacing(*(args.out / name for name in PICTURES)) as paths:
        plotting.strokes(drawings, titles=titles, columns=columns, path=paths)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=existing_file, help="Omniglot's stroke zip (default: made-up lettering)")
    add("--out", type=Path, default=Path("runs/writer_styles"), help="folder for the pictures")
    add("--writers", type=integer(3, 100_000), default=100, help="writers of lettering to make")
    add("--words", type=integer(2, 10_000), default=24, help="words of lettering by each")
    add("--steps", type=integer(1, 10_000_000), default=1000, help="training steps")
    add("--batch-writers", type=integer(1, 10_000), default=10, help="writers in a step")
    drawings_help = "drawings of each shown, and scored, in a step"
    add("--drawings", type=integer(1, 10_000), default=6, help=drawings_help)
    add("--hidden-size", type=integer(2, 1000), default=128)
    add("--components", type=integer(1, 200), default=10)
    add("--style-size", type=integer(0, 1000), default=4, help="numbers in a style; 0 for none")
    add("--learning-rate", type=number(1e-9, 0.1), default=5e-3)
    add("--bias", type=number(0, 100), default=0.5, help="bias to write at")
    add("--seed", type=seed, default=0)
    return parser.parse_args()


@errors_in_one_line()
def main() -> None:
    """Runs the example."""
    args = parse()
    with claimed(args.out, *PICTURES):
        learn(args)


def learn(args: argparse.Namespace) -> None:
    """Trains model and guide, and scores the styles of writers held out."""
    torch.manual_seed(args.seed)
    writers = load(args)
    kept, held_out = split(writers, torch.Generator().manual_seed(args.seed))
    drawings = [points for each in kept.values() for points in each]
    print(
        f"{len(drawings)} drawings by {len(kept)} writers to learn from; {len(held_out)} writers "
        "held out.\nHeld-out drawings, in nats/point at unit scale; lower is better."
    )
    styles = Styles(args, len(kept), round(len(drawings) / len(kept)))
    styles.network.head.initialize([points[1:] for points in drawings])
    train(styles, kept, args)
    for kind, score in evaluate(styles, held_out).items():
        print(f"{kind + ' style':24s}{score:8.3f}")
    draw_picture(styles, held_out, args)
    print(f"Written to {args.out}: {', '.join(PICTURES)}")


if __name__ == "__main__":
    main()
