"""In which order a person's row of outputs may hold what the paper's holds."""

from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import torch
from torch import Tensor

from mdn_dist.outputs import BLOCKS

SINGULAR = {"weights": "weight", "correlations": "correlation"}


@dataclass(frozen=True)
class Order:
    """One order of a row.

    Args:
        name: The order in words.
        layout: For each place of the person's row, the place of the same in the paper's.

    Example:
        >>> Order("correlation first", (1, 2, 0)).columns
        (2, 0, 1)
    """

    name: str
    layout: tuple[int, ...]

    @property
    def columns(self) -> tuple[int, ...]:
        """For each place of the paper's row, the place of the same in the person's."""
        return tuple(sorted(range(len(self.layout)), key=self.layout.__getitem__))

    def from_paper(self, rows: Tensor) -> Tensor:
        """Return rows ``(*, size)`` of the paper's order in this one."""
        return rows[..., list(self.layout)]

    def to_paper(self, rows: Tensor) -> Tensor:
        """Invert `from_paper`."""
        return rows[..., list(self.columns)]


@cache
def orders(components: int) -> tuple[Order, ...]:
    """Return all orders that are recognised, the paper's first.

    The pen stands first or last, the four blocks anyhow, and the coordinates of means and of scales
    apart or side by side; or each component's six numbers stand together.

    Example:
        >>> len(orders(20)), orders(20)[0].name
        (240, 'end of stroke, weights, means, scales, correlations')
    """
    k = components
    place = dict(zip(BLOCKS, (1, 1 + k, 1 + 3 * k, 1 + 5 * k), strict=True))
    # of each block, the places (K, n) that its components have in the paper's row
    blocks = {
        name: start + torch.arange(k * n).view(n, k).T
        for (name, start), n in zip(place.items(), (1, 2, 2, 1), strict=True)
    }
    found = []
    for first, names in product((True, False), permutations(BLOCKS)):
        for means, scales in product((False, True), repeat=2):
            beside = {"means": means, "scales": scales}
            parts = [
                (blocks[n] if beside.get(n) else blocks[n].T).flatten().tolist() for n in names
            ]
            words = [n + " (x, y of each side by side)" * beside.get(n, False) for n in names]
            found.append(_with_pen(words, parts, first=first))
        each = torch.cat([blocks[n] for n in names], -1).flatten().tolist()
        words = ["for each component " + ", ".join(SINGULAR.get(n, n) for n in names)]
        found.append(_with_pen(words, [each], first=first))
    # with one component, several are the same
    return tuple({order.layout: order for order in reversed(found)}.values())[::-1]


def _with_pen(words: list[str], parts: list[list[int]], *, first: bool) -> Order:
    """Return the order of parts in a row whose pen stands first or last."""
    pen, none = ["end of stroke"], list[str]()
    words = (pen if first else none) + words + (none if first else pen)
    parts = [[0], *parts] if first else [*parts, [0]]
    return Order(", ".join(words), tuple(place for part in parts for place in part))
