"""Where is the receiver? A posterior with two modes, and a mixture as its guide.

Two beacons stand on a road, and a receiver measures how far it is from each, with noise: it may be
on either side of the road, more probably on the side that the prior prefers. A guide of one
Gaussian would have to choose; a ``GaussianMixture`` covers both sides. Pyro's ``Trace_ELBO`` trains
it through its pathwise samples.

    python examples/mixture_guide.py
    python examples/mixture_guide.py --components 1
    python examples/mixture_guide.py --noise 0.3

It prints the ELBO reached beside the best that the family has, the share of each side, and the
variance of the gradient beside that of the score-function estimator, and draws the posterior and
the guide under ``--out``. With less noise the sides come to lie further apart in units of their
width; beyond some eight of them hardly a draw falls between, where alone a pathwise derivative
shows the weights of the components anything, and (e) misses (d). For such a posterior take a draw
of each component, by ``GaussianMixture.elbo``, as docs/pyro.md has it; benchmarks/gradients.py
tells from what distance on.
"""

import argparse
import math
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from command_line import (
    Parser,
    check_trained,
    claimed,
    errors_in_one_line,
    integer,
    number,
    replacing,
    seed,
)
from matplotlib.figure import Figure
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor
from torch.distributions import constraints
from tqdm import tqdm

from mdn_dist import GaussianMixture

BEACONS = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
MEASURED = torch.tensor([1.6, 2.0])
PRIOR = torch.tensor([0.0, 0.3])  # the receiver is near the road, rather above than below
PARAMETERS = ("logits", "loc", "scale_tril")
PICTURE = "guide.png"
DRAWS = 400  # of a gradient, to tell its variance
# The grid for quadrature: an even number of rows, so that none lies on the road; too coarse for a
# --noise below 0.1.
LIMIT, CELLS = 4.5, 120


def distances(place: Tensor) -> Tensor:
    """Returns the distances ``(*, 2)`` of places ``(*, 2)`` from the beacons."""
    return (place.unsqueeze(-2) - BEACONS).norm(dim=-1)


def model(noise: float, components: int) -> None:  # noqa: ARG001  # the guide's
    """Places the receiver and measures."""
    place = pyro.sample("place", dist.Normal(PRIOR, 1.0).to_event(1))
    pyro.sample("measured", dist.Normal(distances(place), noise).to_event(1), obs=MEASURED)


def guide(noise: float, components: int, pathwise: bool = True) -> None:  # noqa: ARG001
    """Draws the place from a mixture, pathwise or for the score-function estimator."""
    angle = (torch.arange(components) / components + 0.25) * 2 * torch.pi
    start = torch.stack([angle.cos(), angle.sin()], -1)  # around the middle of the road
    mixture = GaussianMixture(
        pyro.param("logits", torch.zeros(components)),
        pyro.param("loc", start),
        pyro.param(
            "scale_tril", 0.7 * torch.eye(2).repeat(components, 1, 1), constraints.lower_cholesky
        ),
    )
    pyro.sample("place", mixture.has_rsample_(pathwise))


def learned() -> GaussianMixture:
    """Returns the guide's distribution as it stands."""
    return GaussianMixture(*(pyro.param(name).detach() for name in PARAMETERS))


class Grid:
    """Cells over the plane, for what quadrature can tell about the posterior."""

    def __init__(self, noise: float) -> None:
        axis = torch.linspace(-LIMIT, LIMIT, CELLS, dtype=torch.float64)
        self.points = torch.cartesian_prod(axis, axis)
        self.log_area = 2 * (axis[1] - axis[0]).log()
        prior = dist.Normal(PRIOR.double(), 1.0).to_event(1)
        likelihood = dist.Normal(distances(self.points), noise).to_event(1)
        self.log_joint = prior.log_prob(self.points) + likelihood.log_prob(MEASURED)
        self.log_evidence = (self.log_joint.logsumexp(0) + self.log_area).item()

    def elbo(self, mixture: GaussianMixture) -> Tensor:
        """Returns the ELBO of a guide, in nats; what the grid misses of it counts as the worst."""
        log_prob = mixture.log_prob(self.points)
        share = (log_prob + self.log_area).exp()
        within = (share * (self.log_joint - log_prob)).sum()
        return within + (1 - share.sum()).abs() * self.log_joint.min()

    def above(self, log_prob: Tensor) -> float:
        """Returns the share above the road of a density given by its logarithm at the points."""
        return (log_prob + self.log_area).exp()[self.points[:, 1] > 0].sum().item()

    def best_elbo(self, start: GaussianMixture) -> float:
        """Returns the ELBO of the best mixture to be found from a start, by quasi-Newton steps."""
        logits, loc, scale_tril = (getattr(start, name).double().clone() for name in PARAMETERS)
        diagonal = scale_tril.diagonal(dim1=-2, dim2=-1).log()
        free = [p.requires_grad_() for p in (logits, loc, scale_tril, diagonal)]
        optimizer = torch.optim.LBFGS(free, max_iter=300, line_search_fn="strong_wolfe")

        def mixture() -> GaussianMixture:
            lower = scale_tril.tril(-1) + diagonal.exp().diag_embed()
            return GaussianMixture(logits, loc, lower, validate_args=False)

        found = []

        def loss() -> Tensor:
            optimizer.zero_grad()
            loss = -self.elbo(mixture())
            loss.backward()
            found.append(-loss.item())
            return loss

        optimizer.step(loss)
        return max(filter(math.isfinite, found))  # a step may go too far


def train(args: argparse.Namespace) -> None:
    """Trains the guide, whose parameters are in Pyro's store."""
    optimizer = ClippedAdam({"lr": args.learning_rate, "lrd": 0.02 ** (1 / args.steps)})
    elbo = Trace_ELBO(args.particles, vectorize_particles=True, max_plate_nesting=0)
    svi = SVI(model, guide, optimizer, elbo)
    found = []
    for _ in (progress := tqdm(range(args.steps), disable=None)):
        found.append(-svi.step(args.noise, args.components))
        check_trained(len(found), map(pyro.param, PARAMETERS))
        if len(found) % 20 == 0:
            progress.set_postfix_str(f"ELBO {sum(found[-20:]) / 20:.3f}")


def gradient_variance(args: argparse.Namespace, pathwise: bool) -> float:
    """Returns the total variance of the ELBO's gradient from a single draw of the guide."""
    parameters = [pyro.param(name).unconstrained() for name in PARAMETERS]
    gradients = []
    for _ in range(DRAWS):
        loss = Trace_ELBO().differentiable_loss(
            model, lambda *sizes: guide(*sizes, pathwise=pathwise), args.noise, args.components
        )
        gradient = torch.autograd.grad(loss, parameters)
        gradients.append(torch.cat([g.flatten() for g in gradient]))
    return torch.stack(gradients).var(0).sum().item()


def draw(grid: Grid, mixture: GaussianMixture, out: Path) -> None:
    """Draws the posterior as a map, the guide as contours, and the beacons."""
    posterior = (grid.log_joint - grid.log_evidence).exp()
    found = mixture.log_prob(grid.points).exp()
    x, y, shade, lines = (
        v.reshape(CELLS, CELLS).numpy() for v in (*grid.points.unbind(-1), posterior, found)
    )
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.pcolormesh(x, y, shade, cmap="OrRd", shading="auto", rasterized=True)
    axes.contour(x, y, lines, levels=8, colors="#1b2a49", linewidths=0.8)
    axes.plot(*BEACONS.T.numpy(), "^", color="#1b2a49", label="beacons")
    axes.axhline(0, color="#5f6673", linewidth=1)
    axes.set(
        aspect="equal", xlim=(-3, 3), ylim=(-3, 3), title="Posterior (map) and guide (contours)"
    )
    axes.legend(loc="upper right")  # looking for the best place takes a second
    with replacing(out / PICTURE) as (path,):
        figure.savefig(path)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/mixture_guide"), help="folder for the picture")
    add("--components", type=integer(1, 32), default=2, help="of the guide")
    noise_help = "standard deviation of a measured distance"
    add("--noise", type=number(0.1, 10), default=0.5, help=noise_help)
    add("--steps", type=integer(1, 10_000_000), default=500, help="training steps")
    add("--particles", type=integer(1, 10_000), default=32, help="draws of the guide a step")
    add("--learning-rate", type=number(1e-9, 0.5), default=0.05)
    add("--seed", type=seed, default=0)
    return parser.parse_args()


@errors_in_one_line()
def main() -> None:
    """Runs the example."""
    args = parse()
    with claimed(args.out, PICTURE):
        infer(args)


def infer(args: argparse.Namespace) -> None:
    """Trains the guide and holds it against quadrature."""
    pyro.set_rng_seed(args.seed)
    grid = Grid(args.noise)
    guide(args.noise, args.components)
    start = learned()
    print("Total variance of the gradient from one draw, at the start:")
    pathwise, score = (gradient_variance(args, pathwise) for pathwise in (True, False))
    print(f"pathwise {pathwise:.3g}, score function {score:.3g}: {score / pathwise:.2g} times")
    train(args)
    mixture = learned()
    reached = grid.elbo(mixture).item()
    best = max(grid.best_elbo(mixture), grid.best_elbo(start))
    print(f"(a) log evidence, by quadrature   {grid.log_evidence:8.4f} nats")
    print(f"(b) best ELBO of this family      {best:8.4f}")
    print(f"(c) ELBO of the trained guide     {reached:8.4f}")
    print(
        f"(d) share above, posterior        {grid.above(grid.log_joint - grid.log_evidence):8.4f}"
    )
    print(f"(e) share above, trained guide    {grid.above(mixture.log_prob(grid.points)):8.4f}")
    draw(grid, mixture, args.out)
    print(f"Written to {args.out}: {PICTURE}")


if __name__ == "__main__":
    main()
