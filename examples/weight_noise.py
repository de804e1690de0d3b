"""The paper's adaptive weight noise, which is Pyro's ``AutoNormal(init_scale=0.075)``.

Adaptive weight noise gives every weight a normal distribution, draws all weights anew at each step,
and adds to the nats of the data the nats of the weights: the divergence of their distribution from
a prior. That is variational inference over the weights, so there is only the model to write. As in
the paper, a network is trained plainly and then retrained: here twice from the same weights, once
with weight noise and once on as before.

    python examples/weight_noise.py
    python examples/weight_noise.py --data strokes_background_small1.zip --limit 200

The prior is a normal for each weight matrix and bias vector, of learned mean and scale. Scores with
weight noise are those of the mean weights. It pays where the network learns noise by heart, as of a
few hundred real drawings; without ``--data`` it trains on lines of lettering.py, which are so
regular that few of them teach more than the prior lets the weights learn. ``--copies`` makes every
drawing count so many times against the prior.

It prints nats/point of the drawings trained on and held out, and the divergence in nats; the
picture shows the held-out scores step by step, and the deviations that the weights came to have.
"""

import argparse
import copy
import math
from collections.abc import Callable, Iterable
from operator import attrgetter
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from command_line import (
    Parser,
    check_trained,
    claimed,
    errors_in_one_line,
    existing_file,
    integer,
    number,
    save_figure,
    seed,
)
from handwriting import evaluate, schedule
from matplotlib.figure import Figure
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from stroke_data import batches, load_strokes
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.func import functional_call
from tqdm import tqdm

from mdn_dist import PredictionNetwork

EVALUATE_EVERY = 50  # steps
SCALES_RATE = 10.0  # of the learning rate: deviations have further to go than means
PICTURES = ("weight_noise.svg", "weight_noise.png")
INK, RED = "#1b2a49", "#c1443c"

Loss = Callable[[Tensor, Tensor], Tensor]  # of strokes and their mask, in nats a drawing


class NoisyWeights(nn.Module):
    """The model: weights drawn from a prior, then drawings by the network that has them.

    Args:
        network: The network's form; its own weights are left alone.
        drawings: How many drawings the batches stand for.
    """

    def __init__(self, network: PredictionNetwork, drawings: int) -> None:
        super().__init__()
        self.network = network
        self.drawings = drawings
        weights = list(network.parameters())
        self.loc = nn.Parameter(torch.stack([w.detach().mean() for w in weights]))
        self.log_scale = nn.Parameter(torch.stack([w.detach().std().log() for w in weights]))

    def prior(self) -> dict[str, dist.Normal]:
        """Returns the prior of every weight, by the name of its tensor."""
        named = self.network.named_parameters()
        return {
            name: dist.Normal(loc, log_scale.exp()).expand(weight.shape)
            for (name, weight), loc, log_scale in zip(named, self.loc, self.log_scale, strict=True)
        }

    def forward(self, strokes: Tensor, mask: Tensor) -> None:
        """Explains a batch, which the plate makes to count for all drawings."""
        weights = {name: pyro.sample(name, p.to_event()) for name, p in self.prior().items()}
        predicted, _ = functional_call(self.network, weights, (strokes[:, :-1],))
        with pyro.plate("drawings", self.drawings, subsample_size=len(strokes)):
            seen = predicted.mask(mask[:, 1:]).to_event(1)
            pyro.sample("strokes", seen, obs=strokes[:, 1:])


class WeightNoise:
    """Model, guide and evidence lower bound, from a trained network on."""

    def __init__(
        self,
        network: PredictionNetwork,
        drawings: list[Tensor],
        init_scale: float,
        copies: int = 1,
    ) -> None:
        self.model = NoisyWeights(copy.deepcopy(network), copies * len(drawings))
        trained = {name: weight.detach().clone() for name, weight in network.named_parameters()}
        start = init_to_value(values=trained)
        self.guide = AutoNormal(self.model, init_loc_fn=start, init_scale=init_scale)
        self.elbo = Trace_ELBO()(self.model, self.guide)
        self.elbo(*batches(drawings, 2)[0])  # the guide makes its parameters when first called

    def loss(self, strokes: Tensor, mask: Tensor) -> Tensor:
        """Returns the nats of all drawings and of the weights, shared out over the drawings."""
        return self.elbo(strokes, mask) / self.model.drawings

    def parameters(self) -> list[dict]:
        """Returns what is trained, with the rates of training relative to the means'."""
        means = [*self.guide.locs.parameters(), self.model.loc, self.model.log_scale]
        return [
            {"params": means},
            {"params": list(self.guide.scales.parameters()), "rate": SCALES_RATE},
        ]

    def posterior(self) -> dict[str, dist.Normal]:
        """Returns the distribution of every weight, by the name of its tensor."""
        locs, scales = self.guide.locs, self.guide.scales
        return {
            name: dist.Normal(attrgetter(name)(locs), attrgetter(name)(scales))
            for name in self.model.prior()
        }

    def mean(self) -> PredictionNetwork:
        """Returns the network of the mean weights."""
        network = copy.deepcopy(self.model.network)
        network.load_state_dict({name: normal.loc for name, normal in self.posterior().items()})
        return network

    def divergence(self) -> float:
        """Returns the nats of the weights, in closed form."""
        prior = self.model.prior()
        each = (kl_divergence(q, prior[name]).sum() for name, q in self.posterior().items())
        return sum(each).item()


def plain_loss(network: PredictionNetwork) -> Loss:
    """Returns the usual loss."""

    def loss(strokes: Tensor, mask: Tensor) -> Tensor:
        predicted, _ = network(strokes[:, :-1])
        return -predicted.log_prob(strokes[:, 1:], mask=mask[:, 1:]).sum() / len(strokes)

    return loss


def train(
    loss: Loss,
    parameters: Iterable,
    score: Callable[[], float],
    drawings: list[Tensor],
    args: argparse.Namespace,
) -> list[float]:
    """Minimises `loss` with Adam; returns the held-out score before and every so many steps."""
    optimizer = torch.optim.Adam(parameters)
    pool = batches(drawings, args.batch_size)
    curve = [score()]
    for step in (progress := tqdm(range(args.steps), disable=None)):
        for group in optimizer.param_groups:
            rate = args.learning_rate * group.get("rate", 1.0)
            group["lr"] = rate * schedule(step / args.steps)
        optimizer.zero_grad()
        loss(*pool[int(torch.randint(len(pool), ()))]).backward()
        optimizer.step()
        for group in optimizer.param_groups:
            check_trained(step + 1, group["params"])
        if (step + 1) % EVALUATE_EVERY == 0:
            curve.append(score())
            progress.set_postfix_str(f"held out {curve[-1]:.3f} nats/point")
    return curve


def draw_picture(
    plain: list[float], noisy: list[float], noise: WeightNoise, init_scale: float, out: Path
) -> None:
    """Draws the held-out scores of both retrainings, and the deviations of the weights."""
    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [EVALUATE_EVERY * i for i in range(len(plain))]
    left.plot(steps, plain, color=RED, label="plainly")
    left.plot(steps, noisy, color=INK, label="with weight noise")
    left.set(xlabel="step of retraining", ylabel="held out, nats/point")
    left.legend(loc="upper right", frameon=False, fontsize=8)
    scales = torch.cat([normal.scale.detach().flatten() for normal in noise.posterior().values()])
    right.hist(scales.log10().numpy(), bins=80, color=INK)
    right.axvline(math.log10(init_scale), color=RED)
    right.set(xlabel="log10 of a weight's deviation; red: at first", ylabel="weights")
    save_figure(figure, out, PICTURES, dpi=150)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=existing_file, help="stroke file to train on (default: made-up lettering)")
    add("--out", type=Path, default=Path("runs/weight_noise"), help="folder for the picture")
    add("--lines", type=integer(2, 100_000), default=100, help="lines of lettering to make")
    spacing_help = "of the points of --data, in drawing extents"
    add("--spacing", type=number(0.001, 1), default=0.04, help=spacing_help)
    add("--limit", type=integer(2, 1_000_000), help="read at most so many drawings")
    steps_help = "steps of training, and of each retraining"
    add("--steps", type=integer(1, 10_000_000), default=1000, help=steps_help)
    add("--batch-size", type=integer(1, 10_000), default=16)
    add("--hidden-size", type=integer(1, 1000), default=100)
    add("--components", type=integer(1, 200), default=10)
    add("--learning-rate", type=number(1e-9, 0.1), default=5e-3)
    scale_help = "deviation of the weights at first"
    add("--init-scale", type=number(1e-6, 10), default=0.075, help=scale_help)
    copies_help = "how often each drawing counts against the prior"
    add("--copies", type=integer(1, 10_000), default=1, help=copies_help)
    add("--seed", type=seed, default=0)
    return parser.parse_args()


@errors_in_one_line()
def main() -> None:
    """Runs the example."""
    args = parse()
    with claimed(args.out, *PICTURES):
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Trains plainly, trains on in both ways, and says what came of it."""
    torch.manual_seed(args.seed)
    strokes = load_strokes(args)
    points = sum(len(p) - 1 for p in strokes.train)
    network = PredictionNetwork(args.hidden_size, 1, args.components, clip_lstm=None)
    network.head.initialize([p[1:] for p in strokes.train])
    weights = sum(weight.numel() for weight in network.parameters())
    print(
        f"{len(strokes.train)} drawings, {points} points, to fit {weights} weights to; "
        f"{len(strokes.held_out)} drawings held out."
    )

    def score(network: PredictionNetwork) -> float:
        return evaluate(network, strokes.held_out)[0]

    def train_plainly(network: PredictionNetwork) -> list[float]:
        loss, weights = plain_loss(network), network.parameters()
        return train(loss, weights, lambda: score(network), strokes.train, args)

    train_plainly(network)
    onward = copy.deepcopy(network)
    plain = train_plainly(onward)
    noise = WeightNoise(network, strokes.train, args.init_scale, args.copies)
    noisy = train(noise.loss, noise.parameters(), lambda: score(noise.mean()), strokes.train, args)
    rows = {"trained": network, "retrained plainly": onward, "retrained with noise": noise.mean()}
    print("In nats/point; lower is better.   trained on   held out")
    for name, each in rows.items():
        print(f"{name:32s}{evaluate(each, strokes.train)[0]:12.3f}{score(each):11.3f}")
    nats = noise.divergence()
    print(f"divergence from the prior: {nats:.0f} nats, {nats / points:.3f} a point trained on")
    draw_picture(plain, noisy, noise, args.init_scale, args.out)
    print(f"Written to {args.out}: {', '.join(PICTURES)}")


if __name__ == "__main__":
    main()
