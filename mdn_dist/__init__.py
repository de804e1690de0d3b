"""A mixture density layer whose output is one distribution object, for PyTorch and Pyro."""

from mdn_dist import data, plotting
from mdn_dist.head import MixtureDensityHead
from mdn_dist.mixture import GaussianMixture
from mdn_dist.networks import PredictionNetwork
from mdn_dist.outputs import Bounds
from mdn_dist.regions import HighestDensityRegion
from mdn_dist.sampling import generate
from mdn_dist.stroke import StrokeDistribution

__all__ = [
    "Bounds",
    "GaussianMixture",
    "HighestDensityRegion",
    "MixtureDensityHead",
    "PredictionNetwork",
    "StrokeDistribution",
    "data",
    "generate",
    "plotting",
]
