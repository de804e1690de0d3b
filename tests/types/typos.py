"""Mistakes: a type checker reports each line that ends in ``# wrong``, and no other."""

import torch

from mdn_dist import (
    Bounds,
    GaussianMixture,
    MixtureDensityHead,
    PredictionNetwork,
    StrokeDistribution,
    generate,
)

x = torch.zeros(4, 7, 8)
y = torch.zeros(4, 7, 3)
points = torch.zeros(100, 2)
head = MixtureDensityHead(8)
bare = MixtureDensityHead(8, pen=None)
d = head(x)
network = PredictionNetwork(hidden_size=8)
mixture = GaussianMixture.fit(points)

# Names of methods and attributes
d.log_porb(y)  # wrong
d.samle()  # wrong
d.pem  # wrong
d.pen.logit  # wrong
d.offset.scale_trill  # wrong
d.biased(0.5).tempred(0.5)  # wrong
d.marginal(0).condition(0, 1.0).mena  # wrong
d[0].lob_prob(y[0])  # wrong
d.expand((4, 7)).offest  # wrong
d.mask(x[..., 0] > 0).log_porb(y)  # wrong
head(x).log_prb(y)  # wrong
head(x).outputs  # wrong
head.initialize(y)(x).log_prb(y)  # wrong
head.initialise(y)  # wrong
bare(x).offset  # wrong
bare(x).output  # wrong
network(y)[0].ofset  # wrong
network.step(y[:, 0], network.initial_state(4))[0].samle()  # wrong
network.inital_state(4)  # wrong
mixture.rosenblat(points)  # wrong
mixture.mixture_distribution.prob  # wrong
StrokeDistribution.from_output(x)  # wrong
StrokeDistribution.fit(y).ofset  # wrong
GaussianMixture.from_outputs(x).output  # wrong

# Names of arguments
MixtureDensityHead(8, component=5)  # wrong
MixtureDensityHead(8, pen=None, bound=None)  # wrong
MixtureDensityHead(8, pens="one_hot")  # wrong
PredictionNetwork(hiddensize=4)  # wrong
GaussianMixture.fit(points, restart=3)  # wrong
StrokeDistribution.from_outputs(x, bound=None)  # wrong
StrokeDistribution.fit(y, generators=None)  # wrong
generate(network, step=10)  # wrong
Bounds(min_scal=1e-3)  # wrong
d.log_prob(y, masks=None)  # wrong
network(y, maks=None)  # wrong

# Values
MixtureDensityHead(8, covariance="diag")  # wrong
MixtureDensityHead(8, pen="bernouli")  # wrong
MixtureDensityHead("8")  # wrong
MixtureDensityHead(8, pen=GaussianMixture)  # wrong
MixtureDensityHead(8, bounds=1e-4)  # wrong
PredictionNetwork(pen=None)  # wrong
StrokeDistribution.from_outputs(x, 20, 2)  # wrong
StrokeDistribution(d)  # wrong
StrokeDistribution(mixture, "bernoulli")  # wrong
GaussianMixture.fit(points, covariance="diag")  # wrong
GaussianMixture.fit([[0.0, 1.0]])  # wrong
d.biased("0.5")  # wrong
d.marginal("x")  # wrong
d.condition(0, [1.5])  # wrong
d.sample(64)  # wrong
d.expand(4, 7)  # wrong
d.log_prob([0.0, 0.0, 1.0])  # wrong
head([0.0] * 8)  # wrong
generate(head, 10)  # wrong
generate(network, 10.0)  # wrong
loss: float = -d.log_prob(y).mean()  # wrong
written: StrokeDistribution = generate(network, 10)  # wrong
