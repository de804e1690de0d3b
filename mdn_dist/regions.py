"""Regions of high density, which hold a share of the mass in the least volume."""

from dataclasses import dataclass

from torch import Tensor

from mdn_dist._batch import BatchDistribution


@dataclass(frozen=True, eq=False)
class HighestDensityRegion:
    """Where a distribution's density is at least a threshold, :meth:`GaussianMixture.hdr`'s.

    Attributes:
        distribution: Whose region it is, batch shape ``(*)``.
        log_density: The threshold, shape ``(*)``, in nats.
        standard_error: Of the mass that the region holds, about the level asked for, over draws of
            the threshold, shape ``(*)``.

    Source:
        Hyndman 1996, Computing and graphing highest density regions.

    Example:
        >>> import torch
        >>> from mdn_dist import GaussianMixture
        >>> d = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
        >>> edge = torch.tensor([2.0, 0.0])
        >>> region = HighestDensityRegion(d, d.log_prob(edge), torch.tensor(0.0))
        >>> region.contains(torch.tensor([[0.0, 1.9], [0.0, 2.1]]))
        tensor([ True, False])
    """

    distribution: BatchDistribution
    log_density: Tensor
    standard_error: Tensor

    def contains(self, value: Tensor) -> Tensor:
        """Tell which points lie within.

        Args:
            value: Points, shape ``(*, D)``.

        Returns:
            Booleans, shape ``(*)``.

        Raises:
            TypeError: If `value` is not a tensor.
            ValueError: If the shapes do not fit or, under ``validate_args``, if a point is not
                finite.
        """
        return self.distribution.log_prob(value) >= self.log_density
