"""What a loss makes of narrow scales, correlations close to one and large outputs."""

import math
from collections.abc import Iterator

import torch

from mdn_dist.doctor.patient import Measured, Patient
from mdn_dist.doctor.report import Fault
from mdn_dist.doctor.tails import FAR, LOG_SPACE, from_afar

NARROW = -8.0  # log of a scale that `Bounds` leaves alone
STEEP = 3.85  # likewise an output that stands for a correlation: 0.9991
ROUNDED = 12.0  # an output whose tanh is 1 in float32
WHITE = ((0.0, 0.0), (1.0, -0.7), (-0.4, 1.3))  # points in standard deviations
SURE = 100.0  # an output whose exponential is beyond float32
WILD = 20.0  # log of a scale


def shifted(patient: Patient) -> Iterator[Fault]:
    """Tell of parameters that are moved or held, where the paper's maps are exact."""
    places = {
        f"a standard deviation of {patient.scale(NARROW):.1e}": (NARROW, 0.0),
        "a correlation of 0.9991": (0.0, STEEP),
        "a correlation of -0.9991": (0.0, -STEEP),
    }
    end = from_afar(patient, FAR).score
    usual = _measure(patient, 0.0, 0.9, patient.subject.dtype)
    for where, (scale, correlation) in places.items():
        m = _measure(patient, scale, correlation, patient.subject.dtype)
        block = "correlations" if correlation else "scales"
        slope, exact = getattr(m.slope, block), getattr(m.exact_slope, block)
        if (slope == 0).all() and (exact != 0).any() and (getattr(usual.slope, block) != 0).any():
            yield Fault(
                "clamp",
                f"At {where}, the gradient by the {block} is 0, where its norm should be "
                f"{exact.norm().item():.3g}: what once gets there never comes back.",
                "no hard limit (clamp, min, max), but a smooth one of the parameter, as "
                "mdn_dist.Bounds has.",
            )
            return
        error = m.score - m.exact
        floor = (m.exact - end).exp().nan_to_num(0.0)  # what a floor under the density takes here
        if (error.abs() > (3e-7 if patient.subject.precise else 1e-3) + 2 * floor).any():
            worst = error.abs().argmax()
            integral = patient.integral(scale, correlation)
            yield Fault(
                "epsilon",
                f"At {where} of every component, the score is {m.score[worst].item():.6g} nats "
                f"where it should be {m.exact[worst].item():.6g}, and the density integrates to "
                f"{integral:.6g}: a scale, a correlation or a determinant is not the one that the "
                "outputs say.",
                "the exact maps, with nothing added to a scale, a variance or a determinant, or a "
                "smooth limit of the parameters, as mdn_dist.Bounds has.",
            )
            return


def correlation(patient: Patient) -> Iterator[Fault]:
    """Tell of a correlation that is rounded to one."""
    for output in (ROUNDED, -ROUNDED):
        m = _measure(patient, 0.0, output, torch.float32)
        if not _finite(m):
            yield Fault(
                "correlation",
                f"Where correlations have the output {output:.0f}, in float32, scores are "
                f"{_listed(m)}: tanh is rounded to 1 from 9.01 on, and 1 - rho^2 to 0."
                + patient.subject.said_on_raising(),
                "log cosh(output) for -log sqrt(1 - rho^2), and z2 cosh(output) - z1 sinh(output) "
                "for the second whitened coordinate; or a smooth limit below one.",
            )
            return


def large_outputs(patient: Patient) -> Iterator[Fault]:
    """Tell of large outputs whose scores or gradients are no numbers."""
    places = {
        "all weights have the output 100": (SURE, 0.5),
        "all weights have the output -100": (-SURE, 0.5),
        "log scales are 20": (0.5, WILD),
        "log scales are -20": (0.5, -WILD),
    }
    for where, (weight, scale) in places.items():
        m = _measure(patient, scale, 0.0, torch.float32, weight)
        sound = m.exact.isfinite().all() and all(x.isfinite().all() for x in m.exact_slope)
        if sound and not _finite(m):
            yield Fault(
                "nan",
                f"Where {where}, in float32, scores are {_listed(m)}, and should be "
                f"{', '.join(f'{x:.4g}' for x in m.exact.tolist())}."
                + patient.subject.said_on_raising(),
                "log_softmax and logsumexp for the weights, and log scales that are added, not "
                "logarithms of products of exponentials.",
            )
            return


def ordinary(patient: Patient) -> Iterator[Fault]:
    """Tell of rows with numbers of both signs that are scored by another formula."""
    if patient.convention.formula is not None or not patient.convention.exact:
        return
    size, generator = patient.subject.size, patient.subject.generator
    numbers = torch.randn(12, size + 3, generator=generator, dtype=torch.float64)
    rows, points = 0.7 * numbers[:, 3:], numbers[:, :3]
    points[:, 2] = (points[:, 2] > 0).double()
    m = patient.measure(rows, points)
    wrong = (m.score - m.exact).abs() > 1e-3
    if not _finite(m):
        yield Fault(
            "nan",
            f"Of 12 ordinary rows, {int((~m.score.isfinite()).sum())} have no number for a score."
            + patient.subject.said_on_raising(),
            LOG_SPACE,
        )
    elif wrong.any():
        first = int(wrong.nonzero()[0])
        yield Fault(
            "unknown",
            f"Of 12 ordinary rows, {int(wrong.sum())} are scored by another formula than rows of "
            f"positive numbers: {m.score[first].item():.6g} nats, not "
            f"{m.exact[first].item():.6g}.",
            "the paper's maps for outputs of both signs.",
        )


def _measure(
    patient: Patient, scale: float, correlation: float, dtype: torch.dtype, weight: float = 0.5
) -> Measured:
    """Score a few points near the mean of a row whose components are all the same."""
    rho = math.tanh(correlation)
    white = torch.tensor(WHITE, dtype=torch.float64)
    second = rho * white[:, 0] + math.sqrt(1 - rho**2) * white[:, 1]
    flag = torch.zeros_like(second)
    points = torch.stack([white[:, 0], second, flag], -1)
    points[:, :2] *= patient.scale(scale)
    row = patient.row(scale=scale, correlation=correlation, weight=weight)
    return patient.measure(row.expand(len(points), -1), points, dtype)


def _finite(m: Measured) -> bool:
    """Tell whether scores are finite, and gradients where there are any."""
    slopes = (*m.slope, m.pen_slope)
    return bool(m.score.isfinite().all() and all(slope.isfinite().all() for slope in slopes))


def _listed(m: Measured) -> str:
    """Return the scores in words, and whether gradients are broken."""
    scores = ", ".join(f"{score:.4g}" for score in m.score.tolist())
    finite = all(slope.isfinite().all() for slope in (*m.slope, m.pen_slope))
    return scores if finite else f"{scores} with broken gradients"
