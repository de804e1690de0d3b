"""Documented calls: a type checker has nothing to say of them. It is checked, never run."""

from typing import assert_type

import pyro
import torch
from torch.nn.utils.rnn import pack_sequence

from mdn_dist import (
    Bounds,
    GaussianMixture,
    MixtureDensityHead,
    PredictionNetwork,
    StrokeDistribution,
    generate,
)
from mdn_dist.data import Normalization, collate
from mdn_dist.mixture import OutputMixture
from mdn_dist.pens import BernoulliPen, OneHotPen, PenKind

x = torch.zeros(4, 7, 8)
y = torch.zeros(4, 7, 3)
m = torch.ones(4, 7, dtype=torch.bool)
generator = torch.Generator()


class Named(GaussianMixture):
    """A user's mixture."""

    name: str = "mine"


class Encoder(torch.nn.Module):
    """A user's network around a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(3, 8)
        self.head = MixtureDensityHead(8, clip_outputs=10.0)

    def forward(self, points: torch.Tensor) -> StrokeDistribution:
        return self.head(self.body(points).tanh())

    def initial_state(self, batch_size: int) -> torch.Tensor:
        return torch.zeros(batch_size, 8)

    def step(
        self, point: torch.Tensor, state: torch.Tensor
    ) -> tuple[StrokeDistribution, torch.Tensor]:
        return self.forward(point), state


# The head, by its pen

head = MixtureDensityHead(8)
assert_type(head, MixtureDensityHead[StrokeDistribution])
assert_type(head(x), StrokeDistribution)
assert_type(head(pack_sequence([torch.zeros(7, 8)])), StrokeDistribution)
assert_type(head.initialize([y[0], y[1]], generator=generator), MixtureDensityHead)
assert_type(head.at_floor(x), torch.Tensor)
assert_type(MixtureDensityHead(in_features=8, components=20).initialize(y)(x), StrokeDistribution)
assert_type(MixtureDensityHead(8, 20, 2, "one_hot", device="cpu")(x), StrokeDistribution)
assert_type(MixtureDensityHead(8, pen=OneHotPen, bounds=None)(x), StrokeDistribution)

bare = MixtureDensityHead(8, pen=None, event_size=3, covariance="diagonal", bounds=Bounds(1e-3))
assert_type(bare, MixtureDensityHead[OutputMixture])
assert_type(bare(x), OutputMixture)
assert_type(bare(x).outputs, torch.Tensor)
assert_type(MixtureDensityHead(8, 20, 2, None, dtype=torch.float64)(x), OutputMixture)


def either(pen: PenKind | None, given: MixtureDensityHead) -> torch.Tensor:
    """Narrow what is made by a pen that is known when it runs."""
    assert_type(given(x), StrokeDistribution)
    found = MixtureDensityHead(8, pen=pen).initialize(y)(x)
    assert_type(found, StrokeDistribution | OutputMixture)
    mixture = found.offset if isinstance(found, StrokeDistribution) else found
    assert_type(mixture.rsample((64,)), torch.Tensor)
    return mixture.loc


# Distributions

d = head(x)
loss: torch.Tensor = -head(x).log_prob(y, mask=m).mean()
assert_type(d.sample((64,)), torch.Tensor)
assert_type(d.sample([64], generator=generator), torch.Tensor)
assert_type(d.sample(torch.Size([64])), torch.Tensor)
assert_type(d.expand((4, 7)), StrokeDistribution)
assert_type(d[0, ..., :3], StrokeDistribution)
assert_type(d.to(torch.float64).detach(), StrokeDistribution)
assert_type(d.biased(0.5).tempered(torch.ones(4, 1)), StrokeDistribution)
assert_type(d.marginal(0).affine(0.0, 2.0), StrokeDistribution)
assert_type(d.marginal((1, 0)).condition([0], torch.ones(1)), StrokeDistribution)
assert_type(d.mode + d.component_mode + d.mean + d.stddev, torch.Tensor)
assert_type(d.responsibilities(y).shape + d.batch_shape + d.event_shape, torch.Size)
assert_type(d.mask(m).log_prob(y), torch.Tensor)
assert_type(d((64,)), torch.Tensor)
assert_type(d.event_dim, int)
total: torch.Tensor = d.to_event(1).log_prob(y)
assert_type(head(x).offset, GaussianMixture)
assert_type(head(x).offset.scale_tril, torch.Tensor)
assert_type(head(x).offset.rsample((64,)), torch.Tensor)
assert_type(d.pen.mean, torch.Tensor)
assert_type(d.pen.logits, torch.Tensor)
if isinstance(d.pen, BernoulliPen):
    assert_type(d.pen.probs, torch.Tensor)
if isinstance(d.offset, OutputMixture):
    assert_type(d.offset.outputs, torch.Tensor)

points = torch.zeros(100, 2)
mixture = GaussianMixture.fit(points, components=3, covariance="spherical", restarts=2)
assert_type(mixture, GaussianMixture)
assert_type(mixture.expand((4, 7)), GaussianMixture)
assert_type(mixture.condition(0, 1.5).icdf(torch.tensor(0.5)), torch.Tensor)
assert_type(mixture.inverse_rosenblatt(mixture.rosenblatt(points)), torch.Tensor)
assert_type(mixture.crps(points) + mixture.energy_score(points, samples=4)[:, None], torch.Tensor)
assert_type(d.crps(y), torch.Tensor)
assert_type(mixture.quantile(0.5) + mixture.quantile(torch.tensor([0.1, 0.9])), torch.Tensor)
assert_type(mixture.interval(level=0.9), tuple[torch.Tensor, torch.Tensor])
assert_type(mixture.hdr(0.9, samples=100).contains(points), torch.Tensor)
assert_type(mixture.component_distribution.scale_tril, torch.Tensor)
assert_type(mixture.mixture_distribution.probs, torch.Tensor)
assert_type(mixture.rsample_components((64,), generator=generator), torch.Tensor)
assert_type(mixture.elbo(lambda z: z.sum(-1), 8, importance_weighted=True), torch.Tensor)
modes, log_density, mass = mixture.modes(3, min_distance=0.5)
lower, upper = mixture.kl_bounds(d.offset)
estimate, error = d.kl_estimate(d, samples=100, generator=generator)
assert_type(modes.sum() + log_density + mass, torch.Tensor)
assert_type(lower + upper + estimate + error, torch.Tensor)
mixture.has_rsample_(False)
shapes = GaussianMixture.infer_shapes(logits=(8, 5), loc=(8, 5, 2), scale_tril=(5, 2, 2))
assert_type(shapes, tuple[torch.Size, torch.Size])
made = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), scale_tril=torch.eye(2)[None])
flags = torch.distributions.Bernoulli(torch.tensor(0.5))
assert_type(StrokeDistribution(made, flags, validate_args=False), StrokeDistribution)
assert_type(StrokeDistribution(made, pen=OneHotPen(torch.zeros(3))), StrokeDistribution)
assert_type(GaussianMixture.from_outputs(torch.zeros(7, 120), bounds=None), OutputMixture)
assert_type(StrokeDistribution.from_outputs(x, 1, pen=OneHotPen), StrokeDistribution)
assert_type(StrokeDistribution.fit([y[0], y[1]], 3, pen="bernoulli"), StrokeDistribution)

named = Named.fit(points)
assert_type(named, Named)
assert_type(named.expand((3,)).name, str)

# Networks and writing

network = PredictionNetwork(hidden_size=8, layers=1, pen="one_hot").initialize(y, mask=m)
predicted, state = network(y[:, :-1], mask=m[:, :-1])
assert_type(predicted, StrokeDistribution)
assert_type(network(y, state)[0].offset.log_prob(y[..., :2]), torch.Tensor)
assert_type(network.step(y[:, 0], network.initial_state(4))[0], StrokeDistribution)
assert_type(generate(network, 10, batch_size=4, bias=0.5, prime=y), torch.Tensor)
assert_type(generate(Encoder(), steps=10, temperature=torch.ones(1)), torch.Tensor)

# Pyro


def model(features: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Annotated, so that its body is checked."""
    with pyro.plate("sequences", len(features)):
        pyro.sample("offset", head(features).offset.to_event(0))
        return pyro.sample("points", head(features).mask(m).to_event(1), obs=observed)


# Data

batch, mask = collate([y[0], y[1, :3]], padding_value=float("nan"))
units = Normalization.fit([y[0]], isotropic=True)
assert_type(d.affine(units.loc, units.scale).log_prob(batch, mask), torch.Tensor)
