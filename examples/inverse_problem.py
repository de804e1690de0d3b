"""Bishop's inverse problem: the five-minute introduction, with the head alone and no pen.

Draw x evenly from 0 to 1 and let y = x + 0.3 sin(2 pi x) + noise. To predict y from x is plain
regression. To predict x from y is not: a y near the middle comes from three separate places, and
their mean is none of them. A small network ending in ``MixtureDensityHead(pen=None)`` gives the
whole density of x; with one component it is the usual regression with a learned error bar.

    python examples/inverse_problem.py

It prints held-out nats a point of both, and of the exact density of x given y, which no model can
beat but by luck of the draw, and writes a picture under ``--out``.
"""

import argparse
import math
from pathlib import Path

import torch
from command_line import (
    Parser,
    claimed,
    errors_in_one_line,
    integer,
    number,
    save_figure,
    seed,
)
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from mdn_dist import MixtureDensityHead

PICTURES = ("inverse_problem.svg", "inverse_problem.png")
INK, RED = "#1b2a49", "#c1443c"


def forward(x: Tensor) -> Tensor:
    """Returns y without its noise."""
    return x + 0.3 * torch.sin(2 * math.pi * x)


def draw(points: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws pairs x and y, each ``(points, 1)``."""
    x = torch.rand(points, 1, generator=generator)
    return x, forward(x) + noise * torch.randn(points, 1, generator=generator)


def make_network(hidden_size: int, components: int) -> nn.Sequential:
    """Builds a network from y ``(*, 1)`` to the distribution of x, batch shape ``(*)``."""
    return nn.Sequential(
        nn.Linear(1, hidden_size),
        nn.Tanh(),
        nn.Linear(hidden_size, hidden_size),
        nn.Tanh(),
        MixtureDensityHead(hidden_size, components, event_size=1, pen=None),
    )


def train(network: nn.Sequential, x: Tensor, y: Tensor, steps: int) -> None:
    """Trains on all pairs at once, for they are few."""
    network[-1].initialize(x)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in (progress := tqdm(range(steps), disable=None)):
        loss = -network(y).log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            progress.set_postfix_str(f"{loss.item():.3f} nats/point")


def exact_log_density(x: Tensor, y: Tensor, noise: float, cells: int = 2000) -> Tensor:
    """Returns log p(x | y) of each pair, ``(N)``, by Bayes' rule and the midpoint rule."""
    grid = (torch.arange(cells) + 0.5) / cells
    evidence = torch.distributions.Normal(forward(grid), noise).log_prob(y)  # (N, cells)
    joint = torch.distributions.Normal(forward(x), noise).log_prob(y).squeeze(-1)
    return joint - (evidence.logsumexp(-1) - math.log(cells))


def draw_picture(
    mixture: nn.Sequential, gaussian: nn.Sequential, pairs: tuple[Tensor, Tensor], out: Path
) -> None:
    """Draws the pairs and one Gaussian, the mixture's density, and x drawn for the same y."""
    x, y = (part[:600].squeeze(-1) for part in pairs)
    at = torch.linspace(-0.1, 1.1, 160)
    with torch.no_grad():
        one = gaussian(at[:, None])
        density = mixture(at[:, None]).log_prob(at[:, None, None]).exp()  # (x, y)
        drawn = mixture(y[:, None]).sample().squeeze(-1)
    figure = Figure(figsize=(7.5, 2.7), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    mean, deviation = one.mean.squeeze(-1), one.variance.squeeze(-1).sqrt()
    dots = {"color": INK, "markersize": 1.5, "alpha": 0.5, "rasterized": True}
    panels[0].plot(y, x, ".", **dots)
    panels[0].plot(at, mean, color=RED, linewidth=1.5)
    panels[0].fill_between(
        at, mean - 2 * deviation, mean + 2 * deviation, color=RED, alpha=0.15, linewidth=0
    )
    extent = (-0.1, 1.1, -0.1, 1.1)
    heat = {"cmap": "OrRd", "extent": extent, "origin": "lower", "aspect": "auto"}
    panels[1].imshow(density.sqrt().numpy(), **heat)  # the root, so that faint branches are seen
    panels[2].plot(y, drawn, ".", **dots)
    titles = ["pairs, and one Gaussian ± 2 σ", "the mixture's density", "x drawn from it"]
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("y, given", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.set(xlim=(-0.1, 1.1), ylim=(-0.1, 1.1))
    panels[0].set_ylabel("x, asked for", fontsize=8)
    save_figure(figure, out, PICTURES)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/inverse_problem"), help="folder for the picture")
    add("--points", type=integer(2, 1_000_000), default=2000, help="pairs to train on")
    noise_help = "standard deviation of the noise in y"
    add("--noise", type=number(0.001, 10), default=0.05, help=noise_help)
    add("--components", type=integer(1, 200), default=8)
    add("--hidden-size", type=integer(1, 1000), default=32)
    add("--steps", type=integer(1, 10_000_000), default=1000, help="training steps")
    add("--seed", type=seed, default=0)
    return parser.parse_args()


@errors_in_one_line()
def main() -> None:
    """Runs the example."""
    args = parse()
    with claimed(args.out, *PICTURES):
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Trains one Gaussian and a mixture, and holds both against the exact density."""
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    pairs = draw(args.points, args.noise, generator)
    x, y = draw(10_000, args.noise, generator)
    networks = {}
    scores = {}
    for components in (1, args.components):
        networks[components] = make_network(args.hidden_size, components)
        train(networks[components], *pairs, args.steps)
        with torch.no_grad():
            scores[components] = -networks[components](y).log_prob(x).mean().item()
    exact = -exact_log_density(x, y, args.noise).mean().item()
    print("Held out, in nats/point; lower is better.")
    print(f"one Gaussian         {scores[1]:8.3f}")
    print(f"{args.components:2d} Gaussians         {scores[args.components]:8.3f}")
    print(f"exact density        {exact:8.3f}")
    draw_picture(networks[args.components], networks[1], pairs, args.out)
    print(f"Written to {args.out}: {', '.join(PICTURES)}")


if __name__ == "__main__":
    main()
