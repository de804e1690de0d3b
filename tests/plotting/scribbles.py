"""Drawings to make pictures of, and what their pictures must show."""

import itertools
import math

import torch

SVG = "{http://www.w3.org/2000/svg}"


def scribble(length, seed, lift=0.3):
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randn(length, 2, generator=generator)
    flags = (torch.rand(length, 1, generator=generator) < lift).float()
    return torch.cat([offsets, flags], 1)


def drawn_segments(axes):
    rows = axes.lines[0].get_xydata().tolist()
    return [
        (*start, *end)
        for start, end in itertools.pairwise(rows)
        if not any(map(math.isnan, start + end))
    ]


def expected_segments(drawing):
    places = drawing[:, :2].double().cumsum(0).tolist()
    return [
        (*places[t], *places[t + 1]) for t in range(len(drawing) - 1) if drawing[t, 2].item() != 1
    ]
