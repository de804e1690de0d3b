"""Whether padding is left out."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mdn_dist.doctor.report import Fault
from mdn_dist.doctor.subject import CallError, Subject, one_line

REMEDY = (
    "replace padding before it is scored (torch.where(mask, x, 0) of outputs and strokes, or "
    "log_prob(strokes, mask=mask) of this library), and divide by mask.sum(). A product with 0 "
    "afterwards leaves NaN NaN."
)


def padding(subject: Subject, reduction: str | None) -> Iterator[Fault]:
    """Tell of padding that counts, or that spoils gradients."""
    outputs, strokes = subject.plain(2, 4 + abs(subject.shift))
    mask = torch.ones(strokes.shape[:2], dtype=torch.bool)
    mask[1, -2:] = False
    other_point = strokes.new_tensor([50.0, 50.0, 1.0])
    zeros, far, nan = (
        torch.where(mask.unsqueeze(-1), strokes, each)
        for each in (strokes.new_tensor(0.0), other_point, strokes.new_tensor(torch.nan))
    )
    value, gradient = _score(subject, outputs, zeros, mask)
    other_value, other_gradient = _score(subject, outputs, far, mask)
    if not torch.allclose(value, other_value, rtol=1e-5):
        yield Fault(
            "padding",
            f"The loss is {value.sum().item():.6g} where masked points hold zeros and "
            f"{other_value.sum().item():.6g} where they hold (50, 50, 1): padding counts.",
            REMEDY,
        )
        return
    if not torch.allclose(gradient, other_gradient, rtol=1e-4, atol=1e-6):
        yield Fault(
            "padding",
            "What masked points hold changes the gradients by the outputs by up to "
            f"{(gradient - other_gradient).abs().max().item():.3g}.",
            REMEDY,
        )
        return
    if reduction == "their mean":
        alone = _alone(subject, outputs, strokes, mask)
        if not torch.allclose(value, alone.mean(), rtol=1e-4, atol=1e-5):
            yield Fault(
                "padding",
                f"The mean of the {len(alone)} points that the mask keeps is "
                f"{alone.mean().item():.6g}, but the loss is {value.item():.6g}.",
                REMEDY,
            )
            return
    spoilt_value, spoilt_gradient = _score(subject, outputs, nan, mask)
    if not (spoilt_value.isfinite().all() and spoilt_gradient.isfinite().all()):
        where = "gradients" if spoilt_value.isfinite().all() else "loss"
        count = int((~spoilt_gradient.isfinite()).any(-1).sum())
        yield Fault(
            "padding",
            f"NaN in masked points reaches the {where}: the gradients of {count} of "
            f"{mask.numel()} rows are no numbers." + subject.said_on_raising(),
            REMEDY,
        )


def _score(
    subject: Subject, outputs: Tensor, strokes: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what the loss says of the kept points, and the gradient by all outputs."""
    subject.raised = ""
    leaf = outputs.to(subject.device, subject.dtype).clone().requires_grad_()
    try:
        result = subject.result(leaf, strokes, mask)
    except CallError as error:
        subject.raised = one_line(error.__cause__)
        return torch.full((1,), torch.nan).double(), torch.full(leaf.shape, torch.nan).double()
    if result.shape[:2] == mask.shape:
        result = result[mask.to(result.device)]
    return result.detach().cpu().double(), subject.gradient(result, leaf)


def _alone(subject: Subject, outputs: Tensor, strokes: Tensor, mask: Tensor) -> Tensor:
    """Return the scores of the kept points, each alone."""
    late, early = max(subject.shift, 0), max(-subject.shift, 0)
    count = outputs.shape[1] - late - early
    kept = mask[:, late : late + count]
    return subject.scores(
        outputs[:, early : early + count][kept], strokes[:, late : late + count][kept]
    )
