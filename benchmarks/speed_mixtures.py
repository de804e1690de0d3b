"""Times the log density of a mixture by its parameters, against torch's own and the plain form."""

from functools import partial

import torch
from timing import Ratio, both_ways, interleave, must_agree, ratio
from torch import Tensor
from torch import distributions as td

from mdn_dist import GaussianMixture
from mdn_dist._maths.density import mixture_log_density


def mixture_parameters(*batch: int, components: int, size: int) -> list[Tensor]:
    """Returns logits, means and Cholesky factors that want gradients."""
    factor = 0.2 * torch.randn(*batch, components, size, size).tril(-1) + 1.5 * torch.eye(size)
    logits, loc = torch.randn(*batch, components), torch.randn(*batch, components, size)
    return [parameter.requires_grad_() for parameter in (logits, loc, factor)]


def our_score(logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    """Scores through the library."""
    mixture = GaussianMixture(logits, loc, scale_tril, validate_args=False)
    return mixture.log_prob(value).mean()


def stock_score(logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    """Scores with torch's own distributions."""
    weights = td.Categorical(logits=logits, validate_args=False)
    normal = td.MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
    mixture = td.MixtureSameFamily(weights, normal, validate_args=False)
    return mixture.log_prob(value).mean()


def plain_score(logits: Tensor, loc: Tensor, scale_tril: Tensor, value: Tensor) -> Tensor:
    """Scores by the library's plain form, which autograd differentiates."""
    return mixture_log_density(logits, loc, scale_tril, value).mean()


def shared_ratios(repeats: int) -> list[Ratio]:
    """Times many points under one mixture."""
    ratios = []
    for size, points in ((1, 50_000), (2, 50_000), (6, 20_000), (32, 1_000)):
        parameters, value = mixture_parameters(components=20, size=size), torch.randn(points, size)
        ours, stock = (partial(score, *parameters, value) for score in (our_score, stock_score))
        must_agree(ours, stock, *parameters)
        there = (torch.no_grad()(score) for score in (ours, stock))
        and_back = (both_ways(score, *parameters) for score in (ours, stock))
        for name, runs in (("forward", there), ("forward and backward", and_back)):
            what = f"shared parameters, D = {size}, {name}, against stock"
            ratios.append(Ratio(what, ratio(repeats, *runs), 0.8))
    return ratios


def mixture_ratios(repeats: int) -> list[Ratio]:
    """Times points that have a mixture each, forward and backward."""
    ratios = []
    for size, components, points, against_stock, against_better in (
        (1, 20, 19_200, None, 1.0),
        (2, 20, 19_200, None, 1.0),
        (6, 10, 9_600, 0.5, 0.7),
        (32, 5, 2_400, 0.7, 0.7),
    ):
        parameters = mixture_parameters(points, components=components, size=size)
        value = torch.randn(points, size)
        named = [our_score, stock_score]
        if size <= 6:  # at 32 the plain form takes some thirty times as long as stock
            named.append(plain_score)
        scores = [partial(score, *parameters, value) for score in named]
        for score in scores[1:]:
            must_agree(scores[0], score, *parameters)
        runs = (both_ways(score, *parameters) for score in scores)
        ours, *others = interleave(repeats, *runs)
        what, stock, better = f"mixture, D = {size}, against", others[0], min(others)
        if against_stock:
            ratios.append(Ratio(f"{what} stock", ours / stock, against_stock))
        ratios.append(Ratio(f"{what} the better of stock and plain", ours / better, against_better))
    return ratios
