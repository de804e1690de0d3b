"""Points in the plane, and what a fitted mixture says of them: regions, modes, conditionals.

Two crescents and a dense spot, drawn anew each run, are fitted by ``GaussianMixture.fit``: no
network, no training loop. The mixture then tells in closed form what a histogram cannot.

    python examples/density.py

It prints held-out nats a point of one Gaussian and of the mixture, what share of held-out points
the regions of highest density of 50, 80 and 95 % hold, and the highest modes, and draws regions,
modes, one conditional and points that cover the density evenly under ``--out``.
"""

import argparse
import math
from pathlib import Path

import torch
from command_line import Parser, claimed, errors_in_one_line, integer, number, save_figure, seed
from matplotlib.figure import Figure
from torch import Tensor

from mdn_dist import GaussianMixture

PICTURES = ("density.svg", "density.png")
INK, RED = "#1b2a49", "#c1443c"
LEVELS = (0.95, 0.8, 0.5)
MODES = 4


def draw(count: int, noise: float, generator: torch.Generator) -> Tensor:
    """Draws points ``(count, 2)``: two fifths in each crescent, a fifth in the spot."""
    part = torch.randint(5, (count,), generator=generator)
    angle = math.pi * torch.rand(count, generator=generator)
    upper = torch.stack([angle.cos(), angle.sin()], -1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], -1)
    points = torch.where((part < 2).unsqueeze(-1), upper, lower)
    points[part == 4] = torch.tensor([0.5, 1.6])
    return points + noise * torch.randn(count, 2, generator=generator)


def draw_picture(mixture: GaussianMixture, points: Tensor, given: float, out: Path) -> None:
    """Draws regions and modes, the density where x is `given`, and evenly spread points."""
    figure = Figure(figsize=(7.5, 2.7), layout="constrained")
    plane, line, even = figure.subplots(1, 3)

    x, y = torch.linspace(-2, 3, 120), torch.linspace(-1.2, 2.4, 120)
    height = mixture.log_prob(torch.cartesian_prod(x, y)).view(len(x), len(y)).T
    edges = [mixture.hdr(level).log_density.item() for level in LEVELS]
    plane.contourf(x, y, height, [*edges, math.inf], colors=["#f3d3cf", "#e09a94", RED])
    modes, _, mass = mixture.modes(MODES, min_distance=0.3)
    plane.scatter(*modes.T, s=100 * mass, color=INK)
    plane.set_title("95, 80 and 50 % of the mass, and modes", fontsize=8)

    sliced = mixture.condition(0, given)
    line.plot(y, sliced.log_prob(y.unsqueeze(-1)).exp(), color=RED)
    low, high = sliced.interval(0.8)
    line.axvspan(low.item(), high.item(), color=RED, alpha=0.15, linewidth=0)
    line.set_title(f"y where x is {given:g}, and 80 % of it", fontsize=8)

    sobol = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(400)
    even.plot(*points[:400].T, ".", color=INK, markersize=1.5)
    even.plot(*mixture.inverse_rosenblatt(sobol).T, ".", color=RED, markersize=1.5)
    even.set_title("points, and Sobol points of the fit", fontsize=8)
    for panel in (plane, line, even):
        panel.tick_params(labelsize=7)
    save_figure(figure, out, PICTURES)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/density"), help="folder for the picture")
    add("--points", type=integer(2, 1_000_000), default=5000, help="points to fit to")
    noise_help = "standard deviation of the noise in both coordinates"
    add("--noise", type=number(0.001, 10), default=0.12, help=noise_help)
    add("--components", type=integer(1, 200), default=12)
    add("--seed", type=seed, default=0)
    return parser.parse_args()


@errors_in_one_line()
def main() -> None:
    """Runs the example."""
    args = parse()
    with claimed(args.out, *PICTURES):
        tell(args)


def tell(args: argparse.Namespace) -> None:
    """Fits one Gaussian and a mixture, and asks the mixture what there is to know."""
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    points, held_out = (draw(n, args.noise, generator) for n in (args.points, 10_000))
    one, mixture = (
        GaussianMixture.fit(points, components, generator=generator)
        for components in (1, args.components)
    )
    print("Held out, in nats/point; lower is better.")
    for name, fitted in {"one Gaussian": one, f"{args.components} Gaussians": mixture}.items():
        print(f"{name:20} {-fitted.log_prob(held_out).mean().item():8.3f}")
    for level in sorted(LEVELS):
        held = mixture.hdr(level, generator=generator).contains(held_out).float().mean().item()
        print(f"region of {level:4.0%} holds  {held:8.1%} of the points held out")
    for mode, mass in zip(*mixture.modes(MODES, min_distance=0.3)[::2], strict=True):
        if mass > 0:
            print(f"a mode at ({mode[0]:5.2f}, {mode[1]:5.2f}), {mass:4.0%} of the mass around it")
    draw_picture(mixture, points, 0.5, args.out)
    print(f"Written to {args.out}: {', '.join(PICTURES)}")


if __name__ == "__main__":
    main()
