"""What a loss makes of several points: what scores which, and how scores are joined."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mdn_dist.doctor.report import Fault
from mdn_dist.doctor.subject import Subject

SHARE = 1e-3  # of what a point adds that others may change by rounding in float32


def alignment(subject: Subject) -> int:
    """Return by how many steps a point is behind the outputs that score it, from -1 to 1.

    Outputs score a point where changing both does something else than the two changes together.
    """
    outputs, strokes = subject.plain(1, 3)
    other_outputs, other_strokes = subject.plain(1, 3)

    def total(i: int | None, j: int | None) -> float:
        x, y = outputs.clone(), strokes.clone()
        if i is not None:
            x[:, i] = other_outputs[:, i]
        if j is not None:
            y[:, j] = other_strokes[:, j]
        return subject.total(x, y)

    base, steps = total(None, None), range(3)
    by_outputs, by_strokes = ([total(i, None) for i in steps], [total(None, j) for j in steps])
    joint = torch.tensor(
        [[total(i, j) - by_outputs[i] - by_strokes[j] + base for j in steps] for i in steps]
    ).nan_to_num()
    return max((0, 1, -1), key=lambda shift: joint.diagonal(shift).abs().mean().item())


def misaligned(subject: Subject, *, whole_sequences: bool) -> Iterator[Fault]:
    """Tell of outputs that score another point than the next."""
    if subject.shift < 0 or (whole_sequences and not subject.shift):
        point = "the point of the same step" if not subject.shift else "the point before"
        yield Fault(
            "alignment",
            f"Given whole sequences, outputs at step t score {point}: a change of both points and "
            "outputs at t interacts there, and not at t and t + 1.",
            "strokes[:, 1:] scored by outputs[:, :-1]: outputs at t score the point at t + 1 "
            "(equation 26).",
        )


def reduction(subject: Subject) -> str | None:
    """Return what becomes of the scores of a batch, in words; None where no word fits."""
    outputs, strokes = subject.plain(3, 4 + abs(subject.shift))
    found = subject.result(outputs, strokes).detach().cpu().double().flatten()
    rows, points = _pairs(subject, outputs, strokes)
    alone = subject.scores(rows.flatten(0, 1), points.flatten(0, 1)).view(3, 4)
    for words, joined in _joined(alone).items():
        if joined.numel() == found.numel() and torch.allclose(
            joined.flatten(), found, rtol=1e-4, atol=1e-5
        ):
            return words
    return None


def _pairs(subject: Subject, outputs: Tensor, strokes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows and points ``(B, T, ...)`` of sequences that score each other."""
    late, early = max(subject.shift, 0), max(-subject.shift, 0)
    count = outputs.shape[1] - late - early
    return outputs[:, early : early + count], strokes[:, late : late + count]


def _joined(scores: Tensor) -> dict[str, Tensor]:
    """Return what becomes of scores ``(B, T)``, by its name."""
    return {
        "one per point": scores,
        "their mean": scores.mean(),
        "their sum": scores.sum(),
        "sums, one per sequence": scores.sum(1),
        "means, one per sequence": scores.mean(1),
        "the mean of the sequences' sums": scores.sum(1).mean(),
        "the sum of the sequences' means": scores.mean(1).sum(),
        "sums, one per step": scores.sum(0),
        "means, one per step": scores.mean(0),
    }


def unjoined(subject: Subject, found: str | None) -> Iterator[Fault]:
    """Tell of scores that depend on other points, or are joined in no usual way."""
    coupled = {where: _coupling(subject, *others) for where, others in _OTHERS.items()}
    bad = {where: share for where, share in coupled.items() if share > SHARE}
    if bad:
        probe = " and ".join(f"{share:.2g} times over {where}" for where, share in bad.items())
        yield Fault(
            "batch",
            "What a point adds to the loss depends on other points, which should not matter: "
            f"changing one changes it by up to {probe}.",
            "the logarithm of each point's density, summed over its components alone, and "
            "only then the sum or mean over points (equation 26).",
        )
        return
    outputs, strokes = subject.plain(3, 4 + abs(subject.shift))
    total = subject.total(outputs, strokes)
    if found is None and math.isfinite(total):
        rows, points = _pairs(subject, outputs, strokes)
        alone = subject.scores(rows.flatten(0, 1), points.flatten(0, 1)).sum().item()
        yield Fault(
            "reduction",
            f"Twelve points that alone score {alone:.5g} in all come to {total:.5g}: neither a sum "
            "nor a mean of them.",
            "one number a point, or their sum or mean.",
        )


_OTHERS = {"the batch": (2, 1), "time": (1, 2)}
"""The shapes of two points that may change each other."""


def _coupling(subject: Subject, batch: int, steps: int) -> float:
    """Return the largest change by another point of what a point adds, as a share of that."""
    shares = []
    for _ in range(3):
        outputs, strokes = subject.plain(batch, steps + abs(subject.shift))
        others, _ = subject.plain(batch, steps)
        totals = []
        for first, second in ((False, False), (True, False), (False, True), (True, True)):
            changed = outputs.clone()
            rows, _ = _pairs(subject, changed, strokes)  # a view
            for place, is_changed in (((0, 0), first), ((batch - 1, steps - 1), second)):
                if is_changed:
                    rows[place] = others[place]
            totals.append(subject.total(changed, strokes))
        neither, one, two, both = totals
        shares.append(abs(both - two - one + neither) / max(abs(one - neither), 1e-30))
    return max(shares)
