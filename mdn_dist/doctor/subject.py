"""A loss under examination: called on copies, and with nothing left changed behind it."""

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

LOW, HIGH = 0.05, 0.95  # between them, a number is good for any place of a row
GLOBAL_STATE: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (lambda: Distribution._validate_args, Distribution.set_default_validate_args),
    (random.getstate, random.setstate),
    (np.random.get_state, np.random.set_state),
]


@contextmanager
def unchanged() -> Iterator[None]:
    """Let gradients be taken and warnings pass, and restore the global state that was found."""
    before = [(read(), read, write) for read, write in GLOBAL_STATE]
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    try:
        with (
            warnings.catch_warnings(),
            torch.random.fork_rng(devices),
            torch.inference_mode(mode=False),
            torch.enable_grad(),
            on(torch.device("cpu")),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for found, read, write in before:
            if not _same(read(), found):
                write(found)


class CallError(ValueError):
    """Raised where a loss raises an error."""


def one_line(error: BaseException | None) -> str:
    """Return the class of an error and the first line of what it says."""
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device the default one; nothing where it is, since that slows every operation."""
    return nullcontext() if torch.get_default_device() == device else device


def _same(one: Any, other: Any) -> bool:
    """Tell whether two states are one; tuples, which may hold arrays, count as changed."""
    return not isinstance(one, tuple) and bool(one == other)


class Subject:
    """A loss, and how to ask it for the score of a row.

    Args:
        loss: The callable; probed on a deep copy.
        components: Number of mixture components ``K``.
        masked: Whether to give it a mask, as a third argument.

    Raises:
        TypeError: If `loss` is not callable, or returns anything but a tensor of real numbers.
        ValueError: If it cannot be copied, raises, or returns another shape.
    """

    def __init__(self, loss: Callable[..., Tensor], components: int, *, masked: bool) -> None:
        if not callable(loss):
            raise TypeError(f"loss must be callable, got {type(loss).__name__}")
        try:
            self.loss = deepcopy(loss)
        except Exception as error:
            raise ValueError(
                f"loss must be copyable, as a function around it is: {one_line(error)}"
            ) from error
        self.components, self.size, self.masked = components, 6 * components + 1, masked
        tensors = [*loss.parameters(), *loss.buffers()] if isinstance(loss, nn.Module) else []
        self.device = next((t.device for t in tensors), torch.device("cpu"))
        self.generator = torch.Generator().manual_seed(0)
        self.flag_first = False  # whether it takes strokes as end_of_stroke, dx, dy
        self.shift = 0  # by how many steps a point is behind its outputs
        self.changed: list[str] = []  # arguments that the last call changed
        self.together = False  # whether a batch of rows gives a score each
        self.negated = False  # whether it is the log density itself
        self.raised = ""  # what it raised last
        self.dtype = self._open()
        self.precise = self._is_precise()
        self.differentiable = True
        self.differentiable = self._differentiates()

    def plain(self, *shape: int) -> tuple[Tensor, Tensor]:
        """Return outputs ``(*shape, size)`` good in any order, and points ``(*shape, 3)``."""
        uniform = torch.rand(
            *shape, self.size + 3, generator=self.generator, dtype=torch.float64, device="cpu"
        )
        outputs = LOW + (HIGH - LOW) * uniform[..., 3:]
        offset, flag = 4 * uniform[..., :2] - 1.5, (uniform[..., 2:3] > 0.5).double()
        return outputs, torch.cat([offset, flag], -1)

    def result(
        self,
        outputs: Tensor,
        strokes: Tensor,
        mask: Tensor | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Return what the loss says of outputs ``(B, T, size)`` and strokes ``(B, T, 3)``."""
        outputs = outputs.to(self.device, dtype or self.dtype)
        strokes = strokes.to(self.device, torch.float32 if self._half(dtype) else outputs.dtype)
        if not outputs.requires_grad:
            outputs = outputs.detach().clone().requires_grad_()
        if self.flag_first:
            strokes = strokes.roll(1, -1)
        arguments = [outputs.clone(), strokes.clone()]  # a network's outputs are no leaf
        if self.masked:
            kept = torch.ones(strokes.shape[:2], dtype=torch.bool) if mask is None else mask
            arguments.append(kept.to(self.device, copy=True))
        try:
            with torch.enable_grad(), on(self.device):
                result = self.loss(*arguments)
        except Exception as error:
            raise CallError(
                f"loss raised an error for outputs {tuple(outputs.shape)} and strokes "
                f"{tuple(strokes.shape)}: {one_line(error)}"
            ) from error
        self.changed = [
            name
            for name, given, kept in zip(
                ("outputs", "strokes"), arguments, (outputs, strokes), strict=False
            )
            if given._version or not torch.equal(given, kept)
        ]
        if not isinstance(result, Tensor):
            raise TypeError(f"loss must return a tensor, got {type(result).__name__}")
        if not result.is_floating_point():
            raise TypeError(f"loss must return real numbers, got {result.dtype}")
        return result

    def total(self, outputs: Tensor, strokes: Tensor) -> float:
        """Return the sum of what the loss says, whatever its shape."""
        return self.result(outputs, strokes).detach().double().sum().item()

    def scores(self, rows: Tensor, points: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the scores ``(N)`` of rows ``(N, size)``; NaN where the loss raises."""
        return self.slopes(rows, points, dtype, gradients=False)[0]

    def slopes(
        self,
        rows: Tensor,
        points: Tensor,
        dtype: torch.dtype | None = None,
        *,
        gradients: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return the scores ``(N)`` and their gradients ``(N, size)``; NaN where it raises."""
        self.raised = ""
        chunks = [slice(None)] if self.together else [slice(i, i + 1) for i in range(len(rows))]
        found = [self._slopes(rows[c], points[c], dtype, gradients) for c in chunks]
        scores, slopes = (torch.cat(each) for each in zip(*found, strict=True))
        return (-scores, -slopes) if self.negated else (scores, slopes)

    def _slopes(
        self, rows: Tensor, points: Tensor, dtype: torch.dtype | None, gradients: bool
    ) -> tuple[Tensor, Tensor]:
        """Return scores and gradients of rows that the loss is given at once."""
        leaf = rows.to(self.device, dtype or self.dtype).clone().requires_grad_()
        unknown = torch.full((len(rows), self.size), torch.nan, dtype=torch.float64)
        try:
            result = self.result(*self.place(leaf, points), dtype=dtype)
            if result.numel() != len(rows):
                result = result.sum().expand(len(rows))
        except CallError as error:
            self.raised = one_line(error.__cause__)
            return unknown[:, 0], unknown
        slope = self.gradient(result, leaf) if gradients else unknown
        return result.detach().cpu().double().reshape(len(rows)), slope

    def gradient(self, result: Tensor, leaf: Tensor) -> Tensor:
        """Return the gradient of what the loss said, in float64; NaN where backward raises."""
        if not (result.requires_grad and self.differentiable):
            return torch.zeros(leaf.shape, dtype=torch.float64)
        try:
            (found,) = torch.autograd.grad(
                result.sum(), leaf, allow_unused=True, materialize_grads=True
            )
        except Exception as error:  # noqa: BLE001  # of a backward that a person wrote
            self.raised = one_line(error)
            return torch.full(leaf.shape, torch.nan, dtype=torch.float64)
        return found.cpu().double()

    def said_on_raising(self) -> str:
        """Return a sentence on what the loss raised last, if it did."""
        return f" It raised {self.raised}." if self.raised else ""

    def place(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return sequences ``(N, 1 + |shift|)`` in which each row scores its point alone."""
        if not self.shift:
            return rows.unsqueeze(1), points.unsqueeze(1)
        outputs, strokes = self.plain(1, 1)
        outputs = outputs.to(rows).expand(len(rows), 1, -1)
        strokes = strokes.to(points).expand(len(rows), 1, -1)
        late = [outputs, rows.unsqueeze(1)], [points.unsqueeze(1), strokes]
        early = [rows.unsqueeze(1), outputs], [strokes, points.unsqueeze(1)]
        first, second = early if self.shift > 0 else late
        return torch.cat(first, 1), torch.cat(second, 1)

    def _open(self) -> torch.dtype:
        """Call the loss for the first time; return the finest type that it takes."""
        outputs, strokes = self.plain(2, 3)
        failures = []
        for self.flag_first in (False, True):  # which a check of flags may mind
            for dtype in (torch.float64, torch.float32):
                try:
                    result = self.result(outputs, strokes, dtype=dtype)
                except CallError as error:
                    failures.append(error)
                else:
                    if result.numel() not in (1, 2, 3, 4, 6):
                        raise ValueError(
                            "loss must return a number for each point or sequence, or one for all, "
                            f"got shape {tuple(result.shape)} for outputs {tuple(outputs.shape)}"
                        )
                    return dtype
        raise failures[1]  # in float32, with the flag last

    def _is_precise(self) -> bool:
        """Tell whether the loss computes in float64, in which a change of 1e-10 shows."""
        outputs, strokes = self.plain(1, 3)
        if self.dtype != torch.float64:
            return False
        return self.total(outputs, strokes) != self.total(outputs + 1e-10, strokes)

    def _differentiates(self) -> bool:
        """Tell whether ordinary rows have a gradient; keep what backward raises."""
        outputs, strokes = self.plain(1, 3)
        leaf = outputs.to(self.device, self.dtype).requires_grad_()
        result = self.result(leaf, strokes)
        self.gradient(result, leaf)
        self.refused = self.raised
        return result.requires_grad and not self.refused

    @staticmethod
    def _half(dtype: torch.dtype | None) -> bool:
        return dtype is not None and dtype.itemsize < 4
