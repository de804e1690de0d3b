"""Ratios of interleaved runs, and the comparison of answers that comes before them."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Run = Callable[[], object]
Loss = Callable[[], Tensor]


@dataclass
class Ratio:
    """Ours over another, with the target where there is one."""

    what: str
    ratio: float
    target: float | None = None


def interleave(repeats: int, *runs: Run) -> list[float]:
    """Returns the median seconds of each run, of `repeats` taken in turns."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
        run()
    gc.disable()
    for _ in range(repeats):
        for run, taken in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    gc.enable()
    return [statistics.median(taken) for taken in times]


def ratio(repeats: int, ours: Run, other: Run) -> float:
    """Returns the time of ours over the other's."""
    our_time, other_time = interleave(repeats, ours, other)
    return our_time / other_time


def both_ways(loss: Loss, *leaves: Tensor) -> Run:
    """Returns a run of a loss, forward and backward to `leaves`."""

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        loss().backward()

    return run


def must_agree(ours: Loss, other: Loss, *leaves: Tensor) -> None:
    """Raises AssertionError unless two losses agree, and their gradients by `leaves`."""
    torch.testing.assert_close(other(), ours(), rtol=1e-3, atol=0)
    if leaves:
        gradients = (torch.autograd.grad(loss(), leaves) for loss in (ours, other))
        for mine, theirs in zip(*gradients, strict=True):
            if not (mine - theirs).norm() <= 1e-3 * theirs.norm():
                raise AssertionError(f"gradients by a tensor {tuple(mine.shape)} differ")
