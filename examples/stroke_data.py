"""Strokes to train on: read or lettered, spaced evenly, normalised, split and in batches."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from command_line import RANK, Refusal
from lettering import lettering
from model_files import UNITS, check_unit
from torch import Tensor

from mdn_dist import data

HELD_OUT = 0.1  # share of the drawings or, where they are known, of the writers
LONGEST = 300  # points; longer drawings are cut into pieces
MOST_POINTS = 10_000_000  # of all drawings, once spaced evenly


@dataclass
class Strokes:
    """Normalised drawings, split, with what undoes the normalisation."""

    train: list[Tensor]
    held_out: list[Tensor]
    normalization: data.Normalization

    @property
    def typical_length(self) -> int:
        """Number of points in the median drawing."""
        return sorted(map(len, self.train))[len(self.train) // 2]


def load_strokes(args: argparse.Namespace) -> Strokes:
    """Reads a file, or letters lines, and normalises and splits the drawings.

    Where writers are known, the held-out drawings are by writers not trained on.
    """
    generator = torch.Generator().manual_seed(args.seed)
    if args.data is None:
        drawings = [data.Drawing(points) for points in lettering(args.lines, args.seed)]
        points = [drawing.points for drawing in drawings]
    else:
        drawings = read_drawings(args.data, args.limit)
        points = even([drawing.points for drawing in drawings], args.spacing, generator)
    groups = [drawing.writer or str(i) for i, drawing in enumerate(drawings)]
    names = sorted(set(groups))
    if len(names) < 2:
        raise Refusal(
            f"--data {args.data}: expected two drawings, by two writers where they are known: one "
            "to train on, one to hold out; got one"
        )
    normalization = data.Normalization.fit(points, isotropic=True)
    check_unit(f"--data {args.data}", normalization)
    points = [normalization.normalize(p) for p in points]
    chosen = torch.randperm(len(names), generator=generator)[: max(1, round(HELD_OUT * len(names)))]
    held = {names[i] for i in chosen}
    split: dict[bool, list[Tensor]] = {True: [], False: []}
    for group, p in zip(groups, points, strict=True):
        split[group in held] += [piece for piece in p.split(LONGEST) if len(piece) > 1]
    return Strokes(split[False], split[True], normalization)


def read_drawings(path: Path, limit: int | None = None) -> list[data.Drawing]:
    """Reads the drawings that there is something to learn from: those that are not one dot."""
    corpus = data.read(path, limit=limit, malformed="skip")
    if RANK == 0:
        print(f"Read {len(corpus)} drawings from {path}, skipped {len(corpus.skipped)}")
    drawings = [drawing for drawing in corpus if drawing.points[1:, :2].any()]
    if not drawings:
        why = corpus.skipped[0] if corpus.skipped else f"{len(corpus)} of one dot"
        raise Refusal(f"--data {path}: expected drawings of some extent, got none: {why}")
    longest = max(drawing.points[:, :2].abs().max().item() for drawing in drawings)
    if not UNITS[0] <= longest <= UNITS[1]:
        sizes = f"from {UNITS[0]:g} to {UNITS[1]:g}"
        raise Refusal(f"--data {path}: expected a largest offset {sizes}, got {longest:g}")
    return drawings


def even(drawings: list[Tensor], spacing: float, generator: torch.Generator) -> list[Tensor]:
    """Spaces points evenly and takes them off the lattice that mice and tablets report.

    Points come to lie `spacing` of a median drawing's extent apart; each then moves by uniform
    noise as wide as its drawing's smallest step, for on a lattice a density has no bound.
    """
    extents = [(d.cumsum(0).amax(0) - d.cumsum(0).amin(0))[:2].max() for d in drawings]
    distance = spacing * torch.stack(extents).median().item()
    length = sum(points[1:, :2].double().norm(dim=-1).sum().item() for points in drawings)
    if length / distance > MOST_POINTS:
        raise Refusal(
            f"--data: expected at most {MOST_POINTS} points, got {length / distance:.0f} at "
            f"--spacing {spacing}: some drawings are far larger than the others"
        )
    spaced = []
    for points in drawings:
        steps = points[:, :2].abs()
        step = steps[steps > 0].min().item() if steps.any() else distance
        spaced.append(data.dequantize(data.resample(points, distance), step, generator))
    return spaced


def batches(drawings: list[Tensor], batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Collates drawings of like length into padded batches with their masks."""
    ordered = sorted(drawings, key=len)
    starts = range(0, len(ordered), batch_size)
    return [data.collate(ordered[start : start + batch_size]) for start in starts]
