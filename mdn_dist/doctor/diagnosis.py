"""The examination of a loss from beginning to end."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mdn_dist._checks import check_counts
from mdn_dist.doctor.batches import alignment, misaligned, reduction, unjoined
from mdn_dist.doctor.convention import Convention, recognise
from mdn_dist.doctor.cost import time_ratio
from mdn_dist.doctor.edges import correlation, large_outputs, ordinary, shifted
from mdn_dist.doctor.formulas import LOG_2_PI
from mdn_dist.doctor.gradients import derivatives, half_precision
from mdn_dist.doctor.masks import padding
from mdn_dist.doctor.patient import Patient
from mdn_dist.doctor.report import Fault, Report
from mdn_dist.doctor.subject import Subject, unchanged
from mdn_dist.doctor.tails import far, sure_pen

SINGLE_SOFTMAX = "over points"
SMALL = {"epsilon", "floor", "clamp"}  # faults that leave ordinary rows nearly right


def diagnose(
    loss: Callable[..., Tensor],
    components: int = 20,
    *,
    mask: bool = False,
    whole_sequences: bool = False,
    half: bool = False,
) -> Report:
    """Tell what a loss computes and what is wrong with it, from probes alone.

    The loss is called on made-up rows, most of them one at a time, and held against the exact
    score, this library's in float64. First comes what it computes: in which order it takes a row
    of outputs, with which sign of the pen, and how it joins the scores of points. Then, by name,

    - ``alignment``: outputs score another point than the next;
    - ``batch``: points change each other's scores, as in a sum over the batch inside the logarithm;
    - ``clamp``: a hard limit of scales or correlations, where the gradient is 0;
    - ``constant``: something is missing that does not vary, as ``log(2 pi)``;
    - ``correlation``: one that is rounded to 1 gives no number;
    - ``epsilon``: a scale, a variance or a determinant is not the one that the outputs say;
    - ``factor``: a multiple of the exact loss, as bits, or the log likelihood itself;
    - ``floor``: under the density or the pen's probability, where the gradient ends;
    - ``gradient``: it is missing, or not the derivative of the score;
    - ``half``: half precision spoils the score;
    - ``in_place``: outputs or strokes are changed;
    - ``map``: outputs become scales or correlations by another function than the paper's;
    - ``nan``: outputs of ordinary or large size give no number;
    - ``normal``: the bivariate normal is another;
    - ``padding``: masked points count, or NaN in them spoils gradients;
    - ``pen``: the pen's score is another, or none;
    - ``random``: the same arguments give different scores;
    - ``reduction``: neither a score a point, nor a sum, nor a mean;
    - ``underflow``: a density is rounded to 0 before its logarithm is taken;
    - ``unknown``: another formula than all of these;
    - ``weights``: the mixture's weights are another function of their outputs than a softmax.

    A fault hides others at times: mend one, and ask again. The loss is probed on a deep copy, and
    no global state is left changed; tensors that a plain function has in its scope are not copied.
    A module is probed on the device of its parameters, a function on the CPU.

    Args:
        loss: Takes outputs ``(B, T, 6 K + 1)`` and strokes ``(B, T, 3)``, rows of ``dx, dy,
            end_of_stroke``; returns a number for each point or sequence, or one for all, in nats.
            A function or an ``nn.Module``.
        components: Number of mixture components ``K``.
        mask: Whether `loss` takes a third argument, boolean, shape ``(B, T)``, True where a point
            is real; then padding is probed too.
        whole_sequences: Whether `loss` is given outputs and strokes of the same steps, and itself
            scores each point by the outputs before it.
        half: Whether `loss` is to take outputs in bfloat16 and float16.

    Returns:
        A report: ``report.faults`` is empty for a right loss, and ``print(report)`` is for people.

    Raises:
        TypeError: If `loss` is not callable or does not return a tensor of real numbers, or
            `components` is not an integer.
        ValueError: If `loss` raises, cannot be copied, or returns another shape, or `components` is
            not positive.

    Source:
        Graves 2013 (arXiv:1308.0850), equations 16 to 26, which the exact score follows.

    Example:
        >>> from mdn_dist import StrokeDistribution
        >>> def loss(outputs, strokes):
        ...     return StrokeDistribution.from_outputs(outputs, 3).log_prob(strokes).mean()
        >>> report = diagnose(loss, components=3)
        >>> [fault.name for fault in report.faults], report.sign, report.reduction
        (['factor'], 'minus', 'their mean')
    """
    check_counts(components=components)
    with unchanged():
        return _diagnose(Subject(loss, components, masked=mask), whole_sequences, half)


def _diagnose(subject: Subject, whole_sequences: bool, half: bool) -> Report:
    """Examine a loss, within ``unchanged``."""
    faults = list(_manners(subject))
    if any(fault.name == "random" for fault in faults):
        return Report(tuple(faults))
    subject.shift = alignment(subject)
    faults += misaligned(subject, whole_sequences=whole_sequences)
    joined = reduction(subject)
    joins = list(unjoined(subject, joined))
    subject.together = joined is not None and "per" in joined and "step" not in joined
    convention = recognise(subject)
    if convention is not None and not convention.known and not subject.flag_first:
        subject.flag_first = True
        other = recognise(subject)
        subject.flag_first = other is not None and other.exact
        convention = other if subject.flag_first else convention
    if convention is None or not convention.known:
        faults += [*joins, _unknown(subject, convention), *derivatives(subject)]
        faults += padding(subject, joined) if subject.masked else ()
        return Report(tuple(faults), reduction=joined, shift=subject.shift)
    if convention.factor < 0:
        subject.negated = True
        convention = convention._replace(factor=-convention.factor, constant=-convention.constant)
        faults.append(
            Fault(
                "factor",
                "The loss is minus what it should be: the log likelihood itself, which falls as "
                "the model gets worse.",
                "its negative.",
            )
        )
    over_points = convention.formula is not None and SINGLE_SOFTMAX in convention.formula.what
    faults += [] if over_points else joins
    faults += _formula(convention)
    faults += _limits(Patient(subject, convention), half=half)
    faults += padding(subject, joined) if subject.masked else ()
    if not (convention.exact or any(fault.name in SMALL for fault in faults)):
        faults.append(_unknown(subject, convention))
    return Report(
        tuple(faults),
        convention.order.name,
        convention.pen.sign,
        joined,
        subject.shift,
        subject.flag_first,
        convention.order.columns,
        None if faults else time_ratio(subject),
    )


def _manners(subject: Subject) -> Iterator[Fault]:
    """Tell of a loss that changes its arguments, or says something else each time."""
    outputs, strokes = subject.plain(2, 3)
    first = subject.result(outputs, strokes)
    if subject.changed:
        yield Fault(
            "in_place",
            f"The loss changes the {' and the '.join(subject.changed)} that it is given: what uses "
            "them next, backward included, uses the changed ones.",
            "operations without a trailing underscore, and no assignment to slices: exp(), not "
            "exp_().",
        )
    again = [subject.result(outputs, strokes) for _ in range(2)]
    if not all(torch.allclose(first, other, rtol=1e-5, equal_nan=True) for other in again):
        others = ", ".join(f"{each.sum().item():.6g}" for each in (first, *again))
        yield Fault(
            "random",
            f"Three calls with the same arguments give {others}.",
            "a loss without noise or dropout, in eval mode; nothing else could be told.",
        )


def _formula(convention: Convention) -> Iterator[Fault]:
    """Tell of what makes every score wrong."""
    if convention.formula is not None:
        formula = convention.formula
        what = formula.what[0].upper() + formula.what[1:]
        probe = f"{what}: so, scores of 12 rows agree to {convention.misfit:.0e} of their spread."
        yield Fault(formula.name, probe, formula.remedy)
    if convention.pen.what is not None:
        probe = f"Scores agree to {convention.misfit:.0e} of their spread if {convention.pen.what}."
        remedy = "binary_cross_entropy_with_logits(logit, end_of_stroke), added for every point."
        yield Fault("pen", probe, remedy)
    if abs(convention.factor - 1) > 1e-3:
        yield Fault(
            "factor",
            f"Every score is {convention.factor:.6g} times what it should be in nats.",
            "natural logarithms, and a division by the number of points alone.",
        )
    if abs(convention.constant) > 1e-3:
        low = "lower" if convention.constant < 0 else "higher"
        known = abs(convention.constant + LOG_2_PI) < 1e-3
        yield Fault(
            "constant",
            f"Every score is {abs(convention.constant):.6g} nats {low} than it should be"
            + (", which is log(2 pi)." if known else "."),
            "the normaliser of the bivariate normal whole, log(2 pi) included: gradients are the "
            "same, but scores compare with nothing else.",
        )


def _limits(patient: Patient, *, half: bool) -> Iterator[Fault]:
    """Tell of what is wrong far from ordinary rows."""
    formula, pen = patient.convention.formula, patient.convention.pen
    yield from ordinary(patient)
    yield from far(patient)
    if pen.what is None:
        yield from sure_pen(patient)
    if formula is None or formula.name != "map":
        yield from shifted(patient)
        yield from correlation(patient)
        yield from large_outputs(patient)
    yield from derivatives(patient.subject)
    if half:
        yield from half_precision(patient)


def _unknown(subject: Subject, convention: Convention | None) -> Fault:
    """Return the fault of a loss that nothing explains."""
    if convention is not None:
        return Fault(
            "unknown",
            "The scores differ from every known convention: the nearest, in the order "
            f"({convention.order.name}), leaves {convention.misfit:.0%} of their spread "
            "unexplained.",
            "the README's three lines, StrokeDistribution.from_outputs(...).log_prob(...).",
        )
    score = subject.scores(*subject.plain(3))
    if score.isfinite().all():
        probe = f"All of 12 different rows score {score[0].item():.6g}: outputs have no part in it."
        return Fault("unknown", probe, "minus the log density of each point.")
    probe = f"Ordinary rows score {', '.join(f'{x:.4g}' for x in score.tolist())}."
    probe += subject.said_on_raising()
    return Fault("nan", probe, "log_softmax, logsumexp and log scales, as in equation 26.")
