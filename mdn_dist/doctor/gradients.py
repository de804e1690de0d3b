"""Whether gradients are derivatives, and what half precision leaves of a loss."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mdn_dist.doctor.patient import Patient
from mdn_dist.doctor.report import Fault
from mdn_dist.doctor.subject import Subject

ROWS = 3  # that derivatives are taken of
FINE = -6.0  # log of a scale that coordinates in half precision are too coarse for
PLACE = 0.7  # of means in data units
HALF_ERROR = 0.02  # nats, and share of the score, that half precision may cost


def derivatives(subject: Subject) -> Iterator[Fault]:
    """Tell of gradients that central differences do not confirm."""
    remedy = (
        "torch operations on the outputs, whose backward autograd derives; no detach, no .data, no "
        "numpy. A backward of your own is for a torch.autograd.Function, held to gradcheck."
    )
    if not subject.differentiable:
        probe = "What the loss returns requires no gradient."
        if subject.refused:
            probe = f"Backward raises {subject.refused}."
        yield Fault("gradient", probe, remedy)
        return
    step, tolerance = (1e-5, 1e-5) if subject.precise else (1e-2, 0.05)
    rows, points = subject.plain(ROWS)
    scores, slopes = subject.slopes(rows, points)
    if not (scores.isfinite().all() and slopes.isfinite().all()):
        return  # which other probes tell
    place, along, difference = torch.zeros(3, subject.size, dtype=torch.float64)
    worst = 0.0
    for column in range(subject.size):
        moved = step * torch.nn.functional.one_hot(torch.tensor(column), subject.size)
        up, down = subject.scores(rows + moved, points), subject.scores(rows - moved, points)
        by_difference = (up - down) / (2 * step)
        error = (by_difference - slopes[:, column]).abs().max().item()
        if error > worst:
            worst, place = error, torch.tensor(column)
            along, difference = slopes[:, column], by_difference
    if worst > tolerance * slopes.abs().max().item():
        i = int((along - difference).abs().argmax())
        yield Fault(
            "gradient",
            f"The gradient by output {int(place)} is {along[i].item():.6g}, but differences of the "
            f"score give {difference[i].item():.6g}.",
            remedy,
        )


def half_precision(patient: Patient) -> Iterator[Fault]:
    """Tell of scores that half precision spoils."""
    rows, points = patient.subject.plain(ROWS)
    k = patient.subject.components
    narrow = patient.row(scale=FINE)
    narrow[1 + k : 1 + 3 * k] = PLACE
    offset = PLACE + 2 * patient.scale(FINE)
    near, far = [offset, offset, 0.0], [240.0, 320.0, 0.0]
    rows = torch.cat([rows, rows[:1], patient.convention.rows(narrow).unsqueeze(0)])
    points = torch.cat([points, torch.tensor([far, near], dtype=torch.float64)])
    for dtype in (torch.bfloat16, torch.float16):
        rounded = rows.to(dtype)
        found = patient.subject.scores(rounded, points.float(), dtype)
        exact: Tensor = patient.convention.scores(rounded, points.float())
        error = (found - exact).abs() / (1 + exact.abs())
        error = torch.where(exact.isfinite(), error.nan_to_num(torch.inf), 0.0)
        if error.max() > HALF_ERROR:
            i = int(error.argmax())
            yield Fault(
                "half",
                f"Given outputs in {str(dtype).removeprefix('torch.')}, a point scores "
                f"{found[i].item():.5g} nats, where the same outputs in float32 give "
                f"{exact[i].item():.5g}." + patient.subject.said_on_raising(),
                "outputs.float() before anything else; it costs little beside the network.",
            )
            return
