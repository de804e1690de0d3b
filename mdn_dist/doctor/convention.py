"""Which order, sign and formula a loss has, told from the scores of single rows."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mdn_dist.doctor.formulas import (
    FORMULAS,
    LOG_2_PI,
    PENS,
    Formula,
    PenFormula,
    offset_scores,
)
from mdn_dist.doctor.orders import Order, orders
from mdn_dist.doctor.subject import Subject

ROWS = 12  # that scores are compared on
NEAR = 0.05  # share of the scores' spread that an epsilon or a floor may take of ordinary rows
NEARER = 1e-3  # likewise if the formula is wrong, too


class Convention(NamedTuple):
    """What a loss was found to compute: ``factor`` times a formula, plus ``constant``."""

    order: Order
    pen: PenFormula
    formula: Formula | None  # None for the exact one
    factor: float
    constant: float
    misfit: float  # share of the scores' spread that this leaves unexplained
    strain: float  # the misfit, more for a factor and a constant
    runner_up: float  # misfit of the best other order or sign
    tolerance: float

    @property
    def known(self) -> bool:
        """Whether this is what the loss computes, but for an epsilon or a floor."""
        right = self.formula is None and self.pen.what is None
        near = self.misfit < (NEAR if right else NEARER) and self.misfit < self.runner_up / 3
        return self.exact or near

    @property
    def exact(self) -> bool:
        """Whether the scores agree to rounding."""
        return self.misfit <= self.tolerance

    def rows(self, rows: Tensor) -> Tensor:
        """Return rows of the paper's order and sign as the loss takes them."""
        pen, rest = rows.split([1, rows.shape[-1] - 1], -1)
        pen = -pen if self.pen.sign == "plus" else pen
        return self.order.from_paper(torch.cat([pen, rest], -1))

    def scores(self, rows: Tensor, points: Tensor) -> Tensor:
        """Return what the loss should say of `rows`, made by the method of that name."""
        rows, points = self.order.to_paper(rows.double()), points.double()
        pen = self.pen.score(rows[..., 0], points[..., 2])
        score = offset_scores(rows, points, self.formula) + pen
        return self.factor * score + self.constant


def recognise(subject: Subject) -> Convention | None:
    """Return the convention that explains the scores best; None where they are no numbers."""
    rows, points = subject.plain(ROWS)
    scores = subject.scores(rows, points)
    spread = (scores - scores.mean()).abs().max()
    if not spread > 0:  # a constant, or NaN
        return None
    every = orders(subject.components)
    in_paper = torch.stack([order.to_paper(rows) for order in every])  # (orders, N, size)
    at_back = torch.tensor([order.layout[0] != 0 for order in every]).long()
    ends = (rows[..., 0], rows[..., -1])
    pens = torch.stack(
        [torch.stack([pen.score(end, points[:, 2]) for pen in PENS]) for end in ends]
    )[at_back]  # (orders, pens, N)
    candidates: list[Convention] = []
    for formula in (None, *FORMULAS):
        expected = offset_scores(in_paper, points, formula).unsqueeze(1) + pens
        candidates.append(_best(subject, every, formula, *_fit(expected, scores)))
        if formula is None and candidates[0].exact:
            break
    best = min(candidates, key=lambda each: each.strain)
    clear = best.exact or best.misfit < candidates[0].misfit / 10
    return best if clear or not candidates[0].known else candidates[0]


def _best(
    subject: Subject,
    every: tuple[Order, ...],
    formula: Formula | None,
    misfit: Tensor,
    factor: Tensor,
    constant: Tensor,
) -> Convention:
    """Return the best order and pen for a formula, given how ``(orders, pens)`` fit."""
    tolerance = 1e-7 if subject.precise else 2e-4
    # of those that fit alike, the one that needs no other fault beside it
    strain = misfit.clamp_min(tolerance) * (1 + (factor - 1).abs() + constant.abs())
    strain = strain.nan_to_num(torch.inf)
    index = int(strain.argmin())
    order, pen = divmod(index, len(PENS))
    others = misfit.flatten()[torch.arange(misfit.numel()) != index]
    found = Convention(
        every[order],
        PENS[pen],
        formula,
        factor.flatten()[index].item(),
        constant.flatten()[index].item(),
        misfit.flatten()[index].item(),
        strain.flatten()[index].item(),
        others.min().item(),
        tolerance,
    )
    return found if found.exact else _rounded(found)


def _rounded(found: Convention) -> Convention:
    """Return a rough fit with the factor and the constant that are meant by it, if any are."""
    constant = min((0.0, -LOG_2_PI), key=lambda each: abs(each - found.constant))
    return found._replace(factor=math.copysign(1.0, found.factor), constant=constant)


def _fit(expected: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return misfit, factor and constant ``(*)`` of a line through scores ``(*, N)``."""
    x = expected - expected.mean(-1, keepdim=True)
    y = scores - scores.mean()
    factor = (x * y).sum(-1) / x.square().sum(-1)
    misfit = (y - factor.unsqueeze(-1) * x).abs().amax(-1) / y.abs().max()
    constant = scores.mean() - factor * expected.mean(-1)
    return misfit.nan_to_num(torch.inf), factor, constant
