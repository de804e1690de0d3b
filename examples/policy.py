"""Two goals to reach: policies that keep both, by cloning an expert and by their own reward.

A state tells where two goals are, and an action in the square from -1 to 1 reaches for either. The
policy is a small network ending in ``MixtureDensityHead(pen=None)``, its action the ``tanh`` of
what that draws. First it clones an expert who takes either goal as often. Then it learns from the
reward alone, regularised by its entropy: it is to be the density that is proportional to
``exp(reward)``. The gradient is pathwise through ``rsample``; or that of draws of each component,
``elbo``; or the score function's, with the other draw of a pair as a baseline. One Gaussian stands
beside mixtures.

    python examples/policy.py

It prints, over runs from different first weights, how many actions reach a goal, how many runs
keep both (each with a fifth of the actions at least), and, of policies that learn by reward, how
far they end from the best there is, in nats; and draws actions for one state under ``--out``.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from command_line import Parser, claimed, errors_in_one_line, integer, save_figure, seed
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import TanhTransform
from tqdm import tqdm

from mdn_dist import GaussianMixture, MixtureDensityHead

PICTURES = ("policy.svg", "policy.png")
INK, RED = "#1b2a49", "#c1443c"
WIDTH = 0.12  # of a goal, and of the expert's aim
BATCH = 64
KEPT = 0.2  # of the actions, for a goal to be kept

Loss = Callable[[GaussianMixture, Tensor], Tensor]
"""Takes a policy and its states ``(N, 1)`` to a loss."""


def goals(state: Tensor) -> Tensor:
    """Returns the two goals ``(N, 2, 2)`` of states ``(N, 1)``."""
    height = 0.3 + 0.4 * state
    sides = (torch.cat([torch.full_like(state, x), height], -1) for x in (-0.6, 0.6))
    return torch.stack([*sides], -2)


def reward(state: Tensor, action: Tensor) -> Tensor:
    """Returns the log density ``(*, N)`` of the best policy, but for what is outside the square."""
    away = (action.unsqueeze(-2) - goals(state)).square().sum(-1)
    return (-away / (2 * WIDTH**2)).logsumexp(-1) - math.log(4 * math.pi * WIDTH**2)


def log_slope(unbounded: Tensor) -> Tensor:
    """Returns the log determinant ``(*)`` of ``tanh``, precise however near the walls."""
    return TanhTransform().log_abs_det_jacobian(unbounded, unbounded.tanh()).sum(-1)


def cloning(policy: GaussianMixture, state: Tensor) -> Tensor:
    """Scores an expert's actions, made up here."""
    which = torch.randint(2, (len(state), 1, 1)).expand(-1, 1, 2)
    aim = goals(state).gather(-2, which).squeeze(-2)
    action = (aim + WIDTH * torch.randn_like(aim)).clamp(-0.999, 0.999)
    return -(policy.log_prob(action.atanh()) - log_slope(action.atanh())).mean()


def pathwise(policy: GaussianMixture, state: Tensor) -> Tensor:
    """Estimates how far the policy is from the best, by draws with their derivatives."""
    unbounded = policy.rsample()
    log_prob = policy.log_prob(unbounded) - log_slope(unbounded)
    return (log_prob - reward(state, unbounded.tanh())).mean()


def stratified(policy: GaussianMixture, state: Tensor) -> Tensor:
    """Estimates the same by a draw of each component."""
    return -policy.elbo(lambda x: reward(state, x.tanh()) + log_slope(x)).mean()


def score_function(policy: GaussianMixture, state: Tensor) -> Tensor:
    """Has the gradient of the same, by pairs of draws without derivatives."""
    unbounded = policy.sample((2,))
    log_prob = policy.log_prob(unbounded)
    cost = (log_prob - log_slope(unbounded) - reward(state, unbounded.tanh())).detach()
    return (log_prob * (cost - cost.flip(0))).mean()


class Way(NamedTuple):
    """A way to a policy."""

    loss: Loss
    many: bool  # components, else one


WAYS = {
    "cloned": Way(cloning, many=True),
    "cloned, one Gaussian": Way(cloning, many=False),
    "pathwise": Way(pathwise, many=True),
    "pathwise, one Gaussian": Way(pathwise, many=False),
    "stratified": Way(stratified, many=True),
    "score function": Way(score_function, many=True),
}
SHOWN = ("cloned", "cloned, one Gaussian", "stratified")


def make_network(hidden_size: int, components: int) -> nn.Sequential:
    """Builds a network from states ``(N, 1)`` to policies before ``tanh``, batch shape ``(N)``."""
    return nn.Sequential(
        nn.Linear(1, hidden_size),
        nn.Tanh(),
        nn.Linear(hidden_size, hidden_size),
        nn.Tanh(),
        MixtureDensityHead(hidden_size, components, event_size=2, pen=None),
    )


def states(count: int) -> Tensor:
    """Draws states ``(count, 1)``."""
    return 2 * torch.rand(count, 1) - 1


def train(network: nn.Sequential, loss: Loss, steps: int) -> None:
    """Trains on new states each step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        state = states(BATCH)
        optimizer.zero_grad()
        loss(network(state), state).backward()
        optimizer.step()


@torch.no_grad()
def reached(network: nn.Sequential, count: int = 4000) -> list[float]:
    """Returns the share of actions that reach each goal, to three of its widths."""
    state = states(count)
    action = network(state).sample().tanh()
    near = (action.unsqueeze(-2) - goals(state)).norm(dim=-1) < 3 * WIDTH
    return near.float().mean(0).tolist()


@torch.no_grad()
def regret(network: nn.Sequential, count: int = 20_000) -> float:
    """Estimates how far a policy is from the best, in nats."""
    state = states(count)
    return pathwise(network(state), state).item()


@torch.no_grad()
def draw_picture(networks: dict[str, nn.Sequential], out: Path) -> None:
    """Draws actions of the policies shown, for one state."""
    state = torch.zeros(600, 1)
    figure = Figure(figsize=(7.5, 2.7), layout="constrained")
    panels = figure.subplots(1, len(networks), sharex=True, sharey=True)
    for panel, (name, network) in zip(panels, networks.items(), strict=True):
        panel.plot(*network(state).sample().tanh().T, ".", color=INK, markersize=1.5)
        panel.plot(*goals(state[:1])[0].T, "x", color=RED)
        panel.set_title(name, fontsize=9)
        panel.set(xlim=(-1, 1), ylim=(-1, 1))
        panel.tick_params(labelsize=7)
    save_figure(figure, out, PICTURES)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/policy"), help="folder for the picture")
    add("--runs", type=integer(1, 10_000), default=5, help="first weights to start from")
    add("--components", type=integer(1, 200), default=5)
    add("--hidden-size", type=integer(1, 1000), default=32)
    add("--steps", type=integer(1, 10_000_000), default=400, help="training steps of a run")
    add("--seed", type=seed, default=0)
    return parser.parse_args()


@errors_in_one_line()
def main() -> None:
    """Runs the example."""
    args = parse()
    with claimed(args.out, *PICTURES):
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Trains policies in all ways, each from several first weights."""
    shown = {}
    print(f"{'':24}{'reach a goal':>14}{'keep both':>11}{'nats from best':>16}")
    for name, way in WAYS.items():
        shares, costs = [], []
        for run in tqdm(range(args.runs), desc=name, leave=False, disable=None):
            torch.manual_seed(args.seed + run)
            network = make_network(args.hidden_size, args.components if way.many else 1)
            train(network, way.loss, args.steps)
            shares.append(reached(network))
            costs.append(regret(network))
        if name in SHOWN:
            shown[name] = network
        reach = sum(map(sum, shares)) / args.runs
        kept = sum(min(share) >= KEPT for share in shares)
        cost = "" if way.loss is cloning else f"{sum(costs) / args.runs:.2f}"
        print(f"{name:24}{reach:>14.0%}{f'{kept} of {args.runs}':>11}{cost:>16}")
    draw_picture(shown, args.out)
    print(f"Written to {args.out}: {', '.join(PICTURES)}")


if __name__ == "__main__":
    main()
