"""What a loss costs beside this library's."""

import statistics
import time

import torch
from torch import Tensor

from mdn_dist.doctor.subject import Subject
from mdn_dist.stroke import StrokeDistribution

BATCH, STEPS, ROUNDS = 8, 50, 5


def time_ratio(subject: Subject) -> float:
    """Return the time of a forward and a backward pass over this library's, interleaved."""
    outputs, strokes = subject.plain(BATCH, STEPS)
    outputs = outputs.to(subject.device, torch.float32).requires_grad_()
    strokes = strokes.to(subject.device, torch.float32)

    def theirs() -> Tensor:
        return subject.result(outputs, strokes)

    def ours() -> Tensor:
        return -StrokeDistribution.from_outputs(outputs, subject.components).log_prob(strokes)

    ratios = []
    for _ in range(1 + ROUNDS):  # the first warms up
        times = []
        for loss in (theirs, ours):
            start = time.perf_counter()
            torch.autograd.grad(loss().sum(), outputs)
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    return statistics.median(ratios[1:])
