"""Parameters, points and independent twins that several test files share."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.distributions import OneHotCategorical as PyroOneHotCategorical
from scipy import stats
from torch.distributions import (
    Bernoulli,
    Categorical,
    MixtureSameFamily,
    MultivariateNormal,
    OneHotCategorical,
)
from torch.distributions.utils import lazy_property

from mdn_dist import GaussianMixture, StrokeDistribution
from mdn_dist.pens import Pen

K = 3
PEN_SIZE = {None: 0, "bernoulli": 1, "one_hot": 3}


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed, scale=1.0):
    return scale * torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def mixture_parameters(batch=(), size=2, components=K, scale=1.0, seed=0):
    """Logits, means and Cholesky factors of condition number about ten, in float64."""
    lower = normal(*batch, components, size, size, seed=seed + 1, scale=0.4).tril(-1)
    diagonal = normal(*batch, components, size, seed=seed + 2).tanh() * 0.4 + 0.8
    return (
        normal(*batch, components, seed=seed),
        normal(*batch, components, size, seed=seed + 3, scale=scale),
        scale * (lower + torch.diag_embed(diagonal)),
    )


class ToolPen(Pen, PyroOneHotCategorical):
    """One of five tools: a kind of pen that the library does not know."""

    size = 5
    sign = -1
    valid_values = "a single 1 among five"
    logits = None
    _parts = {"logits": 1}  # noqa: RUF012
    _derived = ("_categorical",)

    @lazy_property
    def _categorical(self):
        return Categorical(logits=self.logits, validate_args=False)

    @staticmethod
    def score(logits, value):
        return (logits.log_softmax(-1) * value).sum(-1)

    @staticmethod
    def draw(logits, generator):
        uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
        index = (logits - (-uniform.log()).log()).argmax(-1)  # Gumbel's way
        return torch.nn.functional.one_hot(index, 5).to(logits)

    @staticmethod
    def likeliest(logits):
        return torch.nn.functional.one_hot(logits.argmax(-1), 5).to(logits)

    @staticmethod
    def valid(value):
        return ((value == 0) | (value == 1)) & (value.sum(-1, keepdim=True) == 1)

    @staticmethod
    def log_odds(value):
        return (value.mean(0) + 0.01).log()


def output_size(components=K, size=2, pen="bernoulli", covariance="full", states=None):
    pairs = size * (size - 1) // 2 if covariance == "full" else 0
    scales = 1 if covariance == "spherical" else size
    return (states or PEN_SIZE[pen]) + components * (1 + size + scales + pairs)


def parameters_of_outputs(outputs, components, size, pen, covariance="full", states=None):
    """Pen logits, logits, loc and scale_tril by the documented order and the exact maps."""
    columns = iter(outputs.unbind(-1))

    def take(count):
        return [next(columns) for _ in range(count)]

    pen_logits = take(states or PEN_SIZE[pen])
    logits = take(components)
    loc = [take(components) for _ in range(size)]
    if covariance == "spherical":
        sigma = [[s.exp() for s in take(components)]] * size
    else:
        sigma = [[s.exp() for s in take(components)] for _ in range(size)]
    zeros = [torch.zeros_like(outputs[..., 0])] * components
    full = covariance == "full"
    row_of = {i: [take(components) if full else zeros for _ in range(i)] for i in range(size)}
    assert next(columns, None) is None
    factors = []
    for k in range(components):
        rows = []
        for i in range(size):
            entries = [torch.sinh(row_of[i][j][k]) for j in range(i)]
            norm = (1 + sum(entry**2 for entry in entries)) ** 0.5
            row = [entry / norm for entry in entries] + [1 / norm]
            row += [0.0] * (size - i - 1)
            rows.append(torch.stack([sigma[i][k] * entry for entry in row], -1))
        factors.append(torch.stack(rows, -2))
    stacked_loc = torch.stack([torch.stack(plane, -1) for plane in loc], -1)
    if pen == "bernoulli" or states == 5:
        pen_logits = [-logit for logit in pen_logits]
    pen_logits = torch.stack(pen_logits, -1) if pen_logits else outputs[..., :0]
    return pen_logits, torch.stack(logits, -1), stacked_loc, torch.stack(factors, -3)


def stock_mixture(logits, loc, scale_tril):
    components = MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
    return MixtureSameFamily(
        Categorical(logits=logits, validate_args=False), components, validate_args=False
    )


def stock_log_prob(pen_logits, logits, loc, scale_tril, value):
    """Score by torch's own classes; a Bernoulli where `pen_logits` ends in 1, none in 0."""
    size = loc.shape[-1]
    score = stock_mixture(logits, loc, scale_tril).log_prob(value[..., :size])
    if pen_logits.shape[-1] == 1:
        pen = Bernoulli(logits=pen_logits.squeeze(-1), validate_args=False)
        return score + pen.log_prob(value[..., size])
    if pen_logits.shape[-1] > 1:
        pen = Categorical(logits=pen_logits, validate_args=False)
        return score + pen.log_prob(value[..., size:].argmax(-1))
    return score


def rows(distribution):
    """The raw outputs ``(*, size)`` that a distribution of strokes was made from."""
    return distribution.pen.join(distribution.pen.rows, distribution.offset.outputs)


class Case(NamedTuple):
    """One way to make a distribution: its tensors, its constructor and its stock twin."""

    size: int
    pen: str | None
    tensors: Callable[..., tuple[torch.Tensor, ...]]  # (batch, seed)
    event_dims: tuple[int, ...]  # event dimensions of each tensor
    build: Callable[..., Any]  # (*tensors, validate_args)
    stock: Callable[..., torch.Tensor]  # (*tensors, value) -> log density
    states: int = 3  # of a pen that has states

    def make(self, batch=(), seed=0, validate_args=None):
        return self.build(*self.tensors(batch, seed), validate_args=validate_args)

    @property
    def event(self):
        return self.size + (self.states if self.pen == "one_hot" else PEN_SIZE[self.pen])

    def points(self, *shape, seed=100):
        """Points of the support, shape ``(*shape, event)``."""
        offset = normal(*shape, self.size, seed=seed)
        uniform = torch.rand(shape, dtype=torch.float64, generator=generator(seed + 1))
        if self.pen == "bernoulli":
            return torch.cat([offset, (uniform < 0.4).to(offset).unsqueeze(-1)], -1)
        if self.pen == "one_hot":
            state = torch.nn.functional.one_hot((uniform * self.states).long(), self.states)
            return torch.cat([offset, state.to(offset)], -1)
        return offset


def mixture_case(size):
    def stock(logits, loc, scale_tril, value):
        return stock_mixture(logits, loc, scale_tril).log_prob(value)

    def tensors(batch, seed=0):
        return mixture_parameters(batch, size, seed=seed)

    return Case(size, None, tensors, (1, 2, 3), GaussianMixture, stock)


def parameter_case(pen, argument="logits", size=2):
    def tensors(batch, seed=0):
        pen_shape = (*batch, 3) if pen == "one_hot" else batch
        parameter = normal(*pen_shape, seed=seed + 4)
        if argument == "probs":
            parameter = parameter.sigmoid()
        return (*mixture_parameters(batch, size, seed=seed), parameter)

    def build(logits, loc, scale_tril, parameter, validate_args=None):
        kind = OneHotCategorical if pen == "one_hot" else Bernoulli
        return StrokeDistribution(
            GaussianMixture(logits, loc, scale_tril, validate_args=validate_args),
            kind(**{argument: parameter}, validate_args=validate_args),
            validate_args=validate_args,
        )

    def stock(logits, loc, scale_tril, parameter, value):
        if argument == "probs":
            parameter = torch.logit(parameter)
        pen_logits = parameter if pen == "one_hot" else parameter.unsqueeze(-1)
        return stock_log_prob(pen_logits, logits, loc, scale_tril, value)

    event_dims = (1, 2, 3, int(pen == "one_hot"))
    return Case(size, pen, tensors, event_dims, build, stock)


def output_case(pen, size=2, change=None, covariance="full", kind=None):
    states = kind.size if kind else 3
    form = {"covariance": covariance, "states": kind and states}

    def tensors(batch, seed=0):
        return (normal(*batch, output_size(K, size, pen, **form), seed=seed, scale=0.7),)

    def build(outputs, validate_args=None):
        if pen is None:
            made = GaussianMixture.from_outputs(
                outputs, K, event_size=size, covariance=covariance, validate_args=validate_args
            )
        else:
            made = StrokeDistribution.from_outputs(
                outputs,
                K,
                event_size=size,
                pen=kind or pen,
                covariance=covariance,
                validate_args=validate_args,
            )
        return made if change is None else change(made)

    def stock(outputs, value):
        pen_logits, logits, loc, scale_tril = parameters_of_outputs(outputs, K, size, pen, **form)
        if change is not None:  # biased(0.7).tempered(0.6)
            logits = logits * 1.7 / 0.6
            scale_tril = scale_tril * math.exp(-0.7) * math.sqrt(0.6)
            pen_logits = pen_logits / 0.6
        return stock_log_prob(pen_logits, logits, loc, scale_tril, value)

    return Case(size, pen, tensors, (1,), build, stock, states)


def _changed(distribution):
    return distribution.biased(0.7).tempered(0.6)


CASES = {
    "mixture of 1": mixture_case(1),
    "mixture of 2": mixture_case(2),
    "mixture of 3": mixture_case(3),
    "mixture from outputs": output_case(None),
    "stroke from parameters": parameter_case("bernoulli"),
    "stroke from probabilities": parameter_case("bernoulli", "probs"),
    "stroke of 1 from parameters": parameter_case("bernoulli", size=1),
    "pen states from parameters": parameter_case("one_hot"),
    "stroke from outputs": output_case("bernoulli"),
    "stroke of 3 from outputs": output_case("bernoulli", size=3),
    "pen states from outputs": output_case("one_hot"),
    "biased and tempered outputs": output_case("bernoulli", change=_changed),
    "mixture of 1 from outputs": output_case(None, size=1),
    "mixture of 3 from outputs": output_case(None, size=3),
    "diagonal mixture from outputs": output_case(None, size=3, covariance="diagonal"),
    "spherical mixture from outputs": output_case(None, covariance="spherical"),
    "diagonal stroke from outputs": output_case("bernoulli", covariance="diagonal"),
    "tools from outputs": output_case("one_hot", kind=ToolPen),
}


LIMIT, FINE = 6, 16  # unit cells over [-LIMIT, LIMIT], each FINE steps wide


def cells(distribution, size):
    """Probability ``(states, cell, ...)`` of unit cells and pen states, from the density."""
    pen = distribution.event_shape[0] - size
    states = torch.eye(pen) if pen > 1 else torch.tensor([[0.0], [1]])[: 1 + pen, :pen]
    states = states.double()
    axis = (torch.arange(2 * LIMIT * FINE, dtype=torch.float64) + 0.5) / FINE - LIMIT
    grid = torch.cartesian_prod(*[axis] * size).view(-1, size)
    points = [grid.expand(len(states), -1, -1), states.unsqueeze(1).expand(-1, len(grid), -1)]
    mass = distribution.log_prob(torch.cat(points, -1)).exp() / FINE**size
    blocks = mass.view(len(states), *[2 * LIMIT, FINE] * size)
    return blocks.sum(tuple(range(2, 2 * size + 1, 2)))


def chi_square(distribution, points, size):
    """Pearson's test that `points` come from the density; offset and pen jointly."""
    expected = len(points) * cells(distribution, size)
    pen = points[:, size:]
    state = pen.argmax(-1) if pen.shape[-1] > 1 else pen.sum(-1).long()
    place = (points[:, :size] + LIMIT).floor().long()
    inside = ((place >= 0) & (place < 2 * LIMIT)).all(-1)
    index = state[inside]
    for column in place[inside].unbind(-1):
        index = index * 2 * LIMIT + column
    observed = torch.bincount(index, minlength=expected.numel()).double()
    expected, order = expected.flatten().sort(descending=True)
    kept = max(int((expected >= 10).sum()), 2)
    observed, expected = observed[order][:kept], expected[:kept]
    # every other cell, and the outside, joins the least cell that is large enough
    observed[-1] = len(points) - observed[:-1].sum()
    expected[-1] = len(points) - expected[:-1].sum()
    return stats.chisquare(observed.numpy(), expected.numpy())
