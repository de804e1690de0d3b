"""What a gradient of the ELBO costs a mixture as the guide: stratified, pathwise, score function.

    python benchmarks/gradients.py

Posterior and guide have two components each, of unit scale, as far apart as a row says; the
posterior's weights are 0.7 and 0.3 and the guide's equal, its components are half a standard
deviation off, and the log evidence is -5. A gradient is by logits, means and factors, from a single
draw: of each component for `GaussianMixture.elbo`, of the mixture for `rsample` and for the score
function, as Pyro's `Trace_ELBO` has these two. Its variance is the total over the parameters, times
the evaluations of the posterior that it takes, two for the first: less is better, and ten times
less is as good as ten times the draws. The last columns are the share of the exact derivative by
the logits that the average over all draws has: 1 but for chance, where draws show it at all.
"""

import argparse
from collections.abc import Callable

import torch
from options import Parser, errors_in_one_line, within
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from mdn_dist import GaussianMixture

SIZES = (1, 2, 6)
DISTANCES = (1.0, 3.0, 6.0, 10.0, 20.0)
WEIGHTS = (0.7, 0.3)
OFF = 0.5  # of the guide's components
COMPONENTS = 2
EVIDENCE = -5.0
EXACT = 16  # times as many draws tell the exact derivative

LogJoint = Callable[[Tensor], Tensor]
Estimate = Callable[[GaussianMixture, LogJoint], Tensor]


def stratified(guide: GaussianMixture, log_joint: LogJoint) -> Tensor:
    """Returns the ELBO by a draw of each component."""
    return guide.elbo(log_joint)


def pathwise(guide: GaussianMixture, log_joint: LogJoint) -> Tensor:
    """Returns the ELBO by a draw that moves with all parameters."""
    points = guide.rsample()
    return log_joint(points) - guide.log_prob(points)


def score_function(guide: GaussianMixture, log_joint: LogJoint) -> Tensor:
    """Returns what has the ELBO's gradient by a draw that does not move."""
    points = guide.sample()
    log_prob = guide.log_prob(points)
    return log_prob * (log_joint(points) - log_prob).detach()


ESTIMATES: dict[str, tuple[Estimate, int]] = {
    "stratified": (stratified, COMPONENTS),
    "pathwise": (pathwise, 1),
    "score": (score_function, 1),
}


def problem(size: int, distance: float) -> tuple[LogJoint, list[Tensor]]:
    """Returns the posterior's log density and the guide's parameters."""
    loc = torch.zeros(COMPONENTS, size, dtype=torch.float64)
    loc[:, 0] = torch.tensor([-distance / 2, distance / 2])
    factors = torch.eye(size, dtype=torch.float64).expand(COMPONENTS, size, size)
    posterior = MixtureSameFamily(
        Categorical(torch.tensor(WEIGHTS, dtype=torch.float64)),
        MultivariateNormal(loc, scale_tril=factors, validate_args=False),
        validate_args=False,
    )
    logits = torch.zeros(COMPONENTS, dtype=torch.float64)
    start = [logits, loc + OFF / size**0.5, factors]
    return lambda points: posterior.log_prob(points) + EVIDENCE, start


def gradients(
    estimate: Estimate, log_joint: LogJoint, parameters: list[Tensor], draws: int
) -> tuple[Tensor, Tensor]:
    """Returns gradients ``(draws, parameters)`` and those by the second logit ``(draws)``."""
    leaves = [p.expand(draws, *p.shape).clone().requires_grad_() for p in parameters]
    found = estimate(GaussianMixture(*leaves, validate_args=False), log_joint)
    by_logits, by_loc, by_factor = torch.autograd.grad(found.sum(), leaves)
    every = [by_logits, by_loc.flatten(1), by_factor.tril().flatten(1)]
    return torch.cat(every, 1), by_logits[:, 1]


def row(size: int, distance: float, draws: int) -> tuple[list[float], list[float]]:
    """Returns variances times evaluations, and shares of the derivative by the logits."""
    log_joint, parameters = problem(size, distance)
    parts = [gradients(stratified, log_joint, parameters, draws)[1].mean() for _ in range(EXACT)]
    exact = torch.stack(parts).mean()
    variances, shares = [], []
    for estimate, evaluations in ESTIMATES.values():
        every, by_logit = gradients(estimate, log_joint, parameters, draws)
        variances.append(evaluations * every.var(0).sum().item())
        shares.append((by_logit.mean() / exact).item())
    return variances, shares


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(__doc__)
    draws_help = "gradients of each kind a row (default: %(default)s)"
    parser.add_argument("--draws", type=within(int, 2, 1_000_000), default=4000, help=draws_help)
    parser.add_argument("--seed", type=within(int, 0, 2**32), default=0)
    return parser.parse_args()


@errors_in_one_line()
def main() -> None:
    """Runs the benchmark and prints its table."""
    args = parse()
    torch.manual_seed(args.seed)
    names = " ".join(f"{name:>11}" for name in ESTIMATES)
    print(f"{'':>12} variance an evaluation".ljust(49) + "share of the logits' derivative")
    print(f"{'D':>3} {'distance':>8} {names} {names}")
    for size in SIZES:
        for distance in DISTANCES:
            variances, shares = row(size, distance, args.draws)
            numbers = [f"{v:>11.3g}" for v in variances] + [f"{s:>11.2f}" for s in shares]
            print(f"{size:>3} {distance:>8.0f} {' '.join(numbers)}", flush=True)


if __name__ == "__main__":
    main()
