"""What a diagnosis says."""

from dataclasses import dataclass, field
from textwrap import fill
from typing import Literal, get_args

FaultName = Literal[
    "alignment",
    "batch",
    "clamp",
    "constant",
    "correlation",
    "epsilon",
    "factor",
    "floor",
    "gradient",
    "half",
    "in_place",
    "map",
    "nan",
    "normal",
    "padding",
    "pen",
    "random",
    "reduction",
    "underflow",
    "unknown",
    "weights",
]
"""What a fault may be called; :func:`mdn_dist.doctor.diagnose` says what each means."""

FAULTS: tuple[FaultName, ...] = get_args(FaultName)
"""All names of faults."""

WIDTH = 90  # of the lines of a report


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a loss.

    Args:
        name: One of :data:`FAULTS`.
        probe: What was tried and what came of it, with numbers.
        remedy: What to write instead.

    Example:
        >>> print(Fault("floor", "The gradient ends at 9 deviations.", "Stay in log space."))
        floor: The gradient ends at 9 deviations.
          Instead: Stay in log space.
    """

    name: FaultName
    probe: str
    remedy: str

    def __str__(self) -> str:
        first = fill(f"{self.name}: {self.probe}", WIDTH, subsequent_indent="  ")
        second = fill(f"Instead: {self.remedy}", WIDTH, initial_indent="  ", subsequent_indent="  ")
        return f"{first}\n{second}"


@dataclass(frozen=True)
class Report:
    """What a loss computes, and what is wrong with it.

    Args:
        faults: What is wrong; empty for a right loss.
        order: Order of the blocks in a row of outputs, in words; None where it is not known.
        sign: Of the pen's logit against its output: ``"minus"`` in the paper, ``"plus"`` in most
            other code; None where it is not known.
        reduction: What becomes of the points' scores, in words; None where it is not known.
        shift: By how many steps a point is behind the outputs that score it: 1 for a loss that is
            given whole sequences and shifts them, 0 for one that scores what stands side by side.
        flag_first: Whether the loss takes strokes as ``end_of_stroke, dx, dy``.
        columns: With them, ``outputs[..., columns]`` is in the paper's order; empty where the order
            is not known.
        time_ratio: Time of a forward and a backward pass over that of this library; None where
            there are faults. It is measured once, on a machine that may be busy.

    Example:
        >>> report = Report((), "correlations, weights, end of stroke", "plus", "their sum")
        >>> print(report)
        A row of outputs holds: correlations, weights, end of stroke. The pen's logit is its
        output; minus it in the paper's equation 18. Scores come as their sum.
        <BLANKLINE>
        No fault found: where it was probed, it is the exact loss.
    """

    faults: tuple[Fault, ...]
    order: str | None = None
    sign: Literal["minus", "plus"] | None = None
    reduction: str | None = None
    shift: int = 0
    flag_first: bool = False
    columns: tuple[int, ...] = field(default=(), repr=False)
    time_ratio: float | None = None

    def __str__(self) -> str:
        verdict = [str(fault) for fault in self.faults]
        if verdict:
            count = f"{len(verdict)} fault{'s' * (len(verdict) > 1)}:"
            return "\n\n".join([fill(self._found(), WIDTH), count, *verdict])
        sound = "No fault found: where it was probed, it is the exact loss."
        if self.time_ratio is not None:
            sound += (
                f" A forward and a backward pass took {self.time_ratio:.2g} times as long as those "
                "of -StrokeDistribution.from_outputs(...).log_prob(...)."
            )
        return "\n\n".join([fill(self._found(), WIDTH), fill(sound, WIDTH)])

    def _found(self) -> str:
        """Return what the loss was found to compute, in sentences."""
        order = self.order or "an order that was not recognised"
        sign = {
            "minus": "The pen's logit is minus its output, as in the paper's equation 18.",
            "plus": "The pen's logit is its output; minus it in the paper's equation 18.",
            None: "The sign of the pen's logit was not recognised.",
        }[self.sign]
        reduction = f"Scores come as {self.reduction}."
        if self.reduction is None:
            reduction = "How scores are joined was not recognised."
        shift = {
            0: "",
            1: " The loss takes whole sequences: outputs score the next point.",
            -1: " Outputs score the point before.",
        }[self.shift]
        flag = " Strokes hold end_of_stroke, dx, dy." * self.flag_first
        return f"A row of outputs holds: {order}. {sign} {reduction}{shift}{flag}"
