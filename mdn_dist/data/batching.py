"""Drawings of several lengths in one batch."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mdn_dist.data.drawing import Drawing, points_of


def collate(items: Iterable[Drawing | Tensor], padding_value: float = 0.0) -> tuple[Tensor, Tensor]:
    """Pad drawings to the longest of them; a ``collate_fn`` for ``torch.utils.data.DataLoader``.

    Args:
        items: Drawings, or stroke points of shape ``(T, 3)``, ``B`` of them.
        padding_value: What fills the rows after a drawing's end, flags included.

    Returns:
        The batch, shape ``(B, T, 3)``, and a bool mask, shape ``(B, T)``, true where a point is
        real.

    Raises:
        TypeError: If an item is neither a drawing nor a tensor.
        ValueError: If there is no item, or one has another shape or dtype.

    Example:
        >>> short, long = torch.ones(1, 3), torch.ones(2, 3)
        >>> batch, mask = collate([short, long])
        >>> batch.shape, mask.tolist()
        (torch.Size([2, 2, 3]), [[True, False], [True, True]])
    """
    rows = points_of(items, "items")
    if not rows:
        raise ValueError("items must hold at least one drawing, got none")
    for points in rows:
        if points.dtype != rows[0].dtype:
            raise ValueError(f"items must share one dtype, got {rows[0].dtype} and {points.dtype}")
    batch = pad_sequence(rows, batch_first=True, padding_value=padding_value)
    lengths = torch.tensor([len(points) for points in rows], device=batch.device)
    mask = torch.arange(batch.shape[1], device=batch.device) < lengths.unsqueeze(-1)  # (B, T)
    return batch, mask
