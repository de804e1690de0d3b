"""A loss of a known convention, measured against the exact one."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mdn_dist.doctor.convention import Convention
from mdn_dist.doctor.formulas import Blocks, split
from mdn_dist.doctor.subject import Subject


class Measured(NamedTuple):
    """Scores ``(N)`` and gradients of a loss and what they should be, in the paper's order."""

    score: Tensor
    slope: Blocks
    pen_slope: Tensor
    exact: Tensor
    exact_slope: Blocks
    exact_pen_slope: Tensor


class Patient(NamedTuple):
    """A loss and the convention that it was found to have."""

    subject: Subject
    convention: Convention

    def row(
        self, pen: float = 0.0, scale: float = 0.5, correlation: float = 0.0, weight: float = 0.5
    ) -> Tensor:
        """Return a row ``(size)`` of the paper's order, all components of which are the same."""
        k = self.subject.components
        blocks = [(1, pen), (k, weight), (2 * k, 0.0), (2 * k, scale), (k, correlation)]
        return torch.cat([torch.full((n,), x, dtype=torch.float64) for n, x in blocks])

    def scale(self, scale: float = 0.5) -> float:
        """Return the standard deviation that such a row has, a number for each."""
        formula, blocks = self.convention.formula, split(self.row(scale=scale))[1]
        if formula is not None:
            blocks = formula.change(blocks)
        return blocks.scales[0].exp().item()

    def measure(self, rows: Tensor, points: Tensor, dtype: torch.dtype | None = None) -> Measured:
        """Score rows ``(N, size)`` of the paper's order by the loss and exactly."""
        dtype = dtype or self.subject.dtype
        points = points.to(dtype).double()
        rows = self.convention.rows(rows).to(dtype).double()
        score, slope = self.subject.slopes(rows, points, dtype)
        rows = rows.requires_grad_()
        exact = self.convention.scores(rows, points)
        (exact_slope,) = torch.autograd.grad(exact.sum(), rows)
        (pen, blocks), (exact_pen, exact_blocks) = (
            split(self.convention.order.to_paper(each)) for each in (slope, exact_slope)
        )
        return Measured(score, blocks, pen, exact.detach(), exact_blocks, exact_pen)

    def integral(self, scale: float = 0.5, correlation: float = 0.0) -> float:
        """Return the integral of ``exp(-loss)`` over the points: 1 if it is a density.

        The trapezoidal rule at unit steps of the whitened coordinates is right to 1e-8.
        """
        axis = torch.arange(-6.0, 7.0, dtype=torch.float64)
        white = torch.cartesian_prod(axis, axis)
        sigma, rho = self.scale(scale), math.tanh(correlation)
        root = math.sqrt(1 - rho**2)
        x, y = sigma * white[:, 0], sigma * (rho * white[:, 0] + root * white[:, 1])
        points = torch.stack([x, y, torch.zeros_like(x)], -1).repeat(2, 1)
        points[len(x) :, 2] = 1
        rows = self.row(scale=scale, correlation=correlation).expand(len(points), -1)
        scores = self.subject.scores(self.convention.rows(rows), points)
        return (-scores).exp().sum().item() * sigma**2 * root
