"""Where the score or its gradient ends: far points, narrow scales, near-certain pens."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mdn_dist.doctor.patient import Measured, Patient
from mdn_dist.doctor.report import Fault

FAR = 60.0  # standard deviations whose density no float64 holds
FARTHEST = 1000.0
SUREST = 200.0  # output of a pen
DIRECTION = (0.6, 0.8)  # of far points
LOG_SPACE = (
    "log space throughout: log_softmax of the weights, the exponent and the log determinant added, "
    "then torch.logsumexp over the components. Nothing there needs a floor."
)


def from_afar(patient: Patient, distance: float) -> Measured:
    """Score a point at some standard deviations from a row whose components are all the same."""
    place = distance * patient.scale()
    point = torch.tensor([[place * DIRECTION[0], place * DIRECTION[1], 0.0]])
    return patient.measure(patient.row().unsqueeze(0), point, torch.float32)


def far(patient: Patient) -> Iterator[Fault]:
    """Tell of a density that ends at some distance."""

    def at(distance: float) -> Measured:
        return from_afar(patient, distance)

    def alive(m: Measured) -> bool:
        return _alive(patient, m.score, m.exact, m.slope.means, m.exact_slope.means)

    end = _end(lambda d: alive(at(d)), (1.0, FAR, FARTHEST))
    if end is None:
        return
    m = at(max(end, FAR))
    where = f"From {end:.1f} standard deviations on, in float32, the score or its gradient is wrong"
    if m.score.isfinite() and m.slope.means.isfinite().all():
        what = (
            f"{where}: at {max(end, FAR):.0f}, the score is {m.score.item():.4g} nats, and should "
        )
        what += f"be {m.exact.item():.4g}" + _slopes(patient, m.slope.means, m.exact_slope.means)
        if (at(FARTHEST).score - m.score).abs() < 0.01 * (1 + m.score.abs()):
            level = (math.log(2) - m.score).exp().item()  # the pen's share is log 2
            yield Fault("floor", f"{what}. The floor under it is about {level:.0e}.", LOG_SPACE)
        else:
            yield Fault("unknown", f"{what}.", LOG_SPACE)
    else:
        broken = "" if m.slope.means.isfinite().all() else ", with a broken gradient"
        yield Fault(
            "underflow",
            f"{where}: at {max(end, FAR):.0f}, the score is {m.score.item():.4g} nats{broken}, "
            f"and should be {m.exact.item():.4g}. The density is rounded to 0 before its "
            "logarithm is taken.",
            LOG_SPACE,
        )


def sure_pen(patient: Patient) -> Iterator[Fault]:
    """Tell of a pen whose logarithm ends where it is nearly certain, and wrong."""
    for flag in (0.0, 1.0):

        def at(output: float, flag: float = flag) -> Measured:
            row = patient.row(pen=output if flag else -output).unsqueeze(0)
            return patient.measure(row, torch.tensor([[0.0, 0.0, flag]]), torch.float32)

        def alive(output: float, at: Callable[[float], Measured] = at) -> bool:
            m = at(output)
            return _alive(patient, m.score, m.exact, m.pen_slope, m.exact_pen_slope)

        end = _end(alive, (1.0, 20.0, 50.0, SUREST))
        if end is None:
            continue
        m = at(SUREST)
        sound = bool((m.score.isfinite() & m.pen_slope.isfinite()).all())
        yield Fault(
            "floor" if sound else "underflow",
            f"Where the pen's output is {end:.1f} or more on the wrong side of flag {flag:.0f}, in "
            f"float32, its score or gradient is wrong: at {SUREST:.0f}, the score is "
            f"{m.score.item():.4g} nats, and should be {m.exact.item():.4g}"
            + _slopes(patient, m.pen_slope, m.exact_pen_slope)
            + ".",
            "binary_cross_entropy_with_logits, or logsigmoid of plus and of minus the logit; never "
            "the logarithm of a sigmoid.",
        )
        return


def _slopes(patient: Patient, slope: Tensor, exact_slope: Tensor) -> str:
    """Return the norms of gradients in words, if there are any."""
    if not patient.subject.differentiable:
        return ""
    found, expected = slope.norm().item(), exact_slope.norm().item()
    return f"; the norm of its gradient is {found:.3g}, and should be {expected:.3g}"


def _alive(
    patient: Patient, score: Tensor, exact: Tensor, slope: Tensor, exact_slope: Tensor
) -> bool:
    """Tell whether a score is right to a hundredth, and its gradient there and not dead."""
    close = (score - exact).abs() <= 0.01 * (1 + exact.abs())
    if not patient.subject.differentiable:
        return bool(close.all())
    led = slope.norm() > 1e-4 * exact_slope.norm()  # a clipped gradient still leads
    return bool(close.all() and slope.isfinite().all() and led)


def _end(alive: Callable[[float], bool], places: tuple[float, ...]) -> float | None:
    """Return where something that is alive at the first place ends; None if it never does."""
    low, *others = places
    if not alive(low):
        return None  # wrong from the start, which other probes tell
    high = next((place for place in others if not alive(place)), None)
    if high is None:
        return None
    while high - low > 0.05:
        middle = (low + high) / 2
        low, high = (middle, high) if alive(middle) else (low, middle)
    return high
