"""Times samples and modes against torch's own ways to them."""

from collections.abc import Callable
from functools import partial

import torch
from peers import stock_distributions, stock_nats
from speed_mixtures import mixture_parameters
from speed_scores import COMPONENTS, POINTS, strokes_like
from timing import Ratio, ratio
from torch import Tensor
from torch import distributions as td

from mdn_dist import GaussianMixture, StrokeDistribution
from mdn_dist._maths.draw import draw_offset


def sample_ratios(repeats: int) -> list[Ratio]:
    """Times outputs -> distribution -> sample."""
    ratios = []
    for batch, target in ((1, 0.45), (64, 0.4), (1024, 0.3)):
        outputs, points = torch.randn(batch, 6 * COMPONENTS + 1), strokes_like(batch)

        def made(outputs: Tensor = outputs) -> StrokeDistribution:
            return StrokeDistribution.from_outputs(outputs, validate_args=False)

        def ours(made: Callable[[], StrokeDistribution] = made) -> Tensor:
            return made().sample()

        def stock(outputs: Tensor = outputs) -> Tensor:
            offset, pen = stock_distributions(outputs, validate_args=False)
            return torch.cat([offset.sample(), pen.sample().unsqueeze(-1)], -1)

        scores = -made().log_prob(points), stock_nats(outputs, points, validate_args=False)
        torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-3)
        measured = ratio(20 * repeats, ours, stock)
        ratios.append(Ratio(f"sample, batch {batch}, against stock", measured, target))
    return ratios


def exact_draw(logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """Draws with exact derivatives by all parameters."""
    return GaussianMixture(logits, loc, scale_tril, validate_args=False).rsample()


def component_draw(logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """Draws one component, with derivatives by that component alone."""
    return draw_offset(logits, loc, scale_tril, torch.Size())


def stock_draw(logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """Draws with the same derivatives by torch's own way, from all components."""
    index = td.Categorical(logits=logits, validate_args=False).sample()
    normal = td.MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
    index = index[:, None, None].expand(-1, 1, loc.shape[-1])
    return normal.rsample().gather(-2, index).squeeze(-2)


def rsample_ratios(repeats: int) -> list[Ratio]:
    """Times samples with exact derivatives against other draws, and a bare ``sample``."""
    ratios = []
    for size, components, points, target in ((2, COMPONENTS, POINTS, 3.0), (6, 10, 9_600, 4.0)):
        parameters = mixture_parameters(points, components=components, size=size)
        pull, mixture = torch.randn(points, size), GaussianMixture(*parameters, validate_args=False)
        for draw in (exact_draw, component_draw, stock_draw):
            error = (draw(*parameters) - mixture.mean) / mixture.stddev  # of size 1 / sqrt(points)
            if not (error.mean(0).abs() * points**0.5 < 6).all():
                raise AssertionError(f"{draw.__name__} has another mean")

        def run(
            draw: Callable[..., Tensor],
            parameters: list[Tensor] = parameters,
            pull: Tensor = pull,
        ) -> None:
            for parameter in parameters:
                parameter.grad = None
            draw(*parameters).backward(pull)

        def bare(parameters: list[Tensor] = parameters) -> Tensor:
            return GaussianMixture(*parameters, validate_args=False).sample()

        for name, other, limit in (
            ("sample, both with backward", partial(run, component_draw), target),
            ("stock's draw, both with backward", partial(run, stock_draw), 4.0),
            ("a bare sample", bare, None),
        ):
            measured = ratio(repeats, partial(run, exact_draw), other)
            what = f"rsample, D = {size}, against {name}"
            ratios.append(Ratio(what if limit else f"({what})", measured, limit))
    return ratios


def climbed(mixture: GaussianMixture, steps: int) -> Tensor:
    """Climbs from every mean by steps of expectation maximisation; returns the highest points."""
    normal = td.MultivariateNormal(
        mixture.loc.unsqueeze(-3), scale_tril=mixture.scale_tril.unsqueeze(-4), validate_args=False
    )
    log_weight = mixture.logits.log_softmax(-1).unsqueeze(-2)
    precision = normal.precision_matrix.squeeze(-4)
    points = mixture.loc  # (*, M, D), one climb a component
    for _ in range(steps):
        share = (log_weight + normal.log_prob(points.unsqueeze(-2))).softmax(-1)  # (*, M, K)
        curvature = torch.einsum("...mk,...kij->...mij", share, precision)
        slope = torch.einsum("...mk,...kij,...kj->...mi", share, precision, mixture.loc)
        points = torch.linalg.solve(curvature, slope)
    height = (log_weight + normal.log_prob(points.unsqueeze(-2))).logsumexp(-1)
    best = height.argmax(-1)[..., None, None].expand(*points.shape[:-2], 1, points.shape[-1])
    return points.gather(-2, best).squeeze(-2)


@torch.no_grad()
def mode_ratios(repeats: int) -> list[Ratio]:
    """Times modes, climbed to until none gains, against a plain climb of fixed length."""
    parameters, steps = mixture_parameters(400, components=COMPONENTS, size=2), 50
    mixture = GaussianMixture(*parameters, validate_args=False)

    def ours() -> Tensor:  # of a new mixture, which has kept nothing
        return GaussianMixture(*parameters, validate_args=False).mode

    gain = mixture.log_prob(ours()) - mixture.log_prob(climbed(mixture, steps))
    if not ((gain > -1e-4).all() and (gain < 1e-3).float().mean() > 0.9):
        raise AssertionError("modes are lower than a plain climb, or seldom the same")
    measured = ratio(max(1, repeats // 5), ours, partial(climbed, mixture, steps))
    return [Ratio(f"(400 modes against plain climbs of {steps} steps)", measured)]
