"""Every planted fault is named, and no right loss is accused."""

import copy
import functools
import inspect
import os
import random
import subprocess
import sys
from pathlib import Path

import doctor_losses as losses
import numpy as np
import pytest
import torch
from doctor_losses import K
from torch.testing import assert_close

from mdn_dist import StrokeDistribution
from mdn_dist.doctor import FAULTS, Fault, Report, diagnose
from mdn_dist.doctor.__main__ import main
from mdn_dist.doctor.convention import recognise
from mdn_dist.doctor.orders import orders
from mdn_dist.doctor.subject import Subject, unchanged

PAPER = "end of stroke, weights, means, scales, correlations"
RIGHT = {
    "exact": (PAPER, "minus", "one per point"),
    "mean_of_plus": (PAPER, "plus", "their mean"),
    "sum_of_pen_last": (
        "means (x, y of each side by side), weights, scales, correlations, end of stroke",
        "plus",
        "their sum",
    ),
    "component_by_component": (
        "end of stroke, for each component weight, means, scales, correlation",
        "plus",
        "one per point",
    ),
    "sequence_sums": (PAPER, "minus", "sums, one per sequence"),
    "sequence_means": (PAPER, "minus", "means, one per sequence"),
    "steps_in_a_loop": (PAPER, "minus", "the mean of the sequences' sums"),
    "flat": (PAPER, "minus", "one per point"),
    "distributions": (PAPER, "minus", "their sum"),
    "library": (PAPER, "minus", "their mean"),
    "single_precision": (PAPER, "minus", "their mean"),
    "refuses_double": (PAPER, "minus", "sums, one per sequence"),
    "own_backward": (PAPER, "minus", "one per point"),
    "warns": (PAPER, "minus", "one per point"),
    "clipped_backward": (PAPER, "minus", "one per point"),
}
FAULTY = {
    "no_constant": {"constant"},
    "bits": {"factor"},
    "log_likelihood": {"factor"},
    "no_exponential": {"weights"},
    "no_sum_of_weights": {"weights"},
    "softmax_over_time": {"weights"},
    "sum_in_logarithm": {"batch"},
    "product_in_logarithm": {"batch"},
    "floor": {"floor"},
    "added_floor": {"floor"},
    "high_floor": {"floor"},
    "underflows": {"underflow"},
    "pen_floor": {"floor"},
    "pen_underflows": {"underflow"},
    "no_pen": {"pen"},
    "sigmoid_twice": {"pen"},
    "pen_of_ends_only": {"pen"},
    "epsilon_in_scale": {"epsilon"},
    "large_epsilon_in_scale": {"epsilon"},
    "epsilon_in_single_precision": {"epsilon"},
    "epsilon_without_double": {"epsilon"},
    "epsilon_in_determinant": {"epsilon"},
    "epsilon_in_correlation": {"epsilon"},
    "clamped_scale": {"clamp"},
    "clamped_correlation": {"clamp"},
    "rounded_correlation": {"correlation"},
    "softplus_scale": {"map"},
    "log_variance": {"map"},
    "plain_correlation": {"map"},
    "limited_correlation": {"map"},
    "no_correlation": {"normal"},
    "no_root": {"normal"},
    "no_scales": {"normal"},
    "in_place": {"in_place"},
    "strokes_in_place": {"in_place"},
    "naive_softmax": {"nan"},
    "wrong_backward": {"gradient"},
    "raising_backward": {"gradient"},
    "detached": {"gradient"},
    "detached_in_part": {"gradient"},
    "dropout": {"random"},
    "weighted_by_step": {"reduction"},
    "another_loss": {"unknown"},
    "absolute_means": {"unknown"},
    "other_tails": {"unknown"},
    "falling_tails": {"unknown"},
    "always_nan": {"nan"},
    "constant": {"unknown"},
}


def names(report):
    return {fault.name for fault in report.faults}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_loss_is_recognised_and_not_accused(name):
    report = diagnose(getattr(losses, name), K)
    assert report.faults == ()
    assert (report.order, report.sign, report.reduction) == RIGHT[name]
    assert report.time_ratio > 0
    assert "No fault found" in str(report)


@pytest.mark.parametrize("name", FAULTY)
def test_a_planted_fault_is_named(name):
    report = diagnose(getattr(losses, name), K)
    assert names(report) == FAULTY[name]
    assert report.time_ratio is None


def test_several_faults_are_all_named():
    report = diagnose(losses.customary, K)
    assert [fault.name for fault in report.faults] == ["floor", "floor", "correlation"]
    assert (report.sign, report.reduction) == ("plus", "their mean")


def test_a_floor_does_not_hide_wrong_weights():
    report = diagnose(losses.floor_of_wrong_weights, K)
    # joint with the pen's, which is below it too
    assert [fault.name for fault in report.faults] == ["weights", "floor", "floor"]


def test_the_four_faults_of_the_readme_are_named_at_once():
    report = diagnose(losses.four_faults, K)
    # and what comes of them: autograd refuses what in-place changes overwrote; 1 - rho^2 gets 0
    four = {"in_place", "weights", "batch", "floor"}
    assert names(report) == four | {"gradient", "correlation"}
    assert (report.order, report.sign, report.reduction) == (PAPER, "minus", None)


@pytest.mark.parametrize("name", ["flag_first", "checked_flag_first"])
def test_strokes_may_have_the_flag_first(name):
    report = diagnose(getattr(losses, name), K)
    assert (report.faults, report.flag_first, report.order) == ((), True, PAPER)
    assert "Strokes hold end_of_stroke, dx, dy." in " ".join(str(report).split())
    assert not diagnose(losses.exact, K).flag_first


@pytest.mark.parametrize(
    ("halve", "cross", "divide"), [(1, 2, True), (2, 1, True), (2, -2, True), (2, 2, False)]
)
def test_a_wrong_exponent_is_named(halve, cross, divide):
    assert names(diagnose(losses.exponent(halve, cross, divide), K)) == {"normal"}


def test_the_right_exponent_is_no_fault_of_the_normal():
    # else the test above would prove nothing; 1 - rho^2 is exact here, but rho is rounded to 1
    assert names(diagnose(losses.exponent(2, 2, divide=True), K)) <= {"correlation"}


@pytest.mark.parametrize(
    ("name", "expected", "shift"),
    [
        ("shifts", set(), 1),
        ("does_not_shift", {"alignment"}, 0),
        ("shifts_backwards", {"alignment"}, -1),
    ],
)
def test_whole_sequences_are_scored_by_the_outputs_before(name, expected, shift):
    report = diagnose(getattr(losses, name), K, whole_sequences=True)
    assert (names(report), report.shift, report.order) == (expected, shift, PAPER)


def test_a_shift_is_found_unasked():
    report = diagnose(losses.shifts, K)
    assert (report.faults, report.shift) == ((), 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("masked", set()),
        ("library_masked", set()),
        ("mask_times_score", {"padding"}),
        ("mask_ignored", {"padding"}),
        ("mean_over_padding", {"padding"}),
        ("mask_of_the_outputs", {"padding"}),
        ("checks_padding", {"padding"}),
        ("gradient_of_padding", {"padding"}),
    ],
)
def test_padding_is_left_out(name, expected):
    assert names(diagnose(getattr(losses, name), K, mask=True)) == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("half", set()), ("library", set()), ("computes_in_half", {"half"})]
)
def test_half_precision_is_probed_where_it_is_asked_for(name, expected):
    assert names(diagnose(getattr(losses, name), K, half=True)) == expected


def test_a_faulty_loss_of_twenty_components_is_recognised():
    def loss(outputs, strokes):
        rows = torch.cat([-outputs[..., -1:], outputs[..., :-1]], -1)
        d = StrokeDistribution.from_outputs(rows, 20)
        return -torch.log(d.log_prob(strokes).exp() + 1e-12).mean()

    report = diagnose(loss)
    assert names(report) == {"floor"}
    assert report.order == "weights, means, scales, correlations, end of stroke"
    assert report.sign == "plus"


# Orders


@pytest.mark.parametrize("components", [1, 2, 20])
def test_columns_give_the_papers_order(components):
    # its own names say where a block stands
    size = 6 * components + 1
    paper = torch.arange(size)
    for order in orders(components)[::7]:
        mine = order.from_paper(paper)
        assert_close(mine[list(order.columns)], paper)
        if order.name.startswith("correlations"):
            assert mine[:components].tolist() == list(range(1 + 5 * components, size))
        if order.name.endswith("end of stroke"):
            assert mine[-1] == 0
    names = [order.name for order in orders(components)]
    assert len(names) == len(set(names)) == (240 if components > 1 else 48)


@pytest.mark.parametrize("sign", ["plus", "minus"])
def test_every_order_and_sign_is_recognised(sign):
    for order in orders(K)[:: 5 if sign == "plus" else 11]:
        columns = torch.tensor(order.columns)

        def loss(outputs, strokes, columns=columns):
            rows = outputs[..., columns]
            end = rows[..., :1]
            rows = torch.cat([-end if sign == "plus" else end, rows[..., 1:]], -1)
            return losses.exact(rows, strokes).sum()

        found = recognise(Subject(loss, K, masked=False))
        assert (found.order, found.pen.sign, found.exact) == (order, sign, True)


def test_columns_take_a_row_to_the_library():
    outputs, strokes = torch.randn(4, 5, 6 * K + 1), torch.zeros(4, 5, 3)
    report = diagnose(losses.sum_of_pen_last, K)
    rows = outputs[..., report.columns]
    rows = torch.cat([-rows[..., :1], rows[..., 1:]], -1)
    expected = -StrokeDistribution.from_outputs(rows, K).log_prob(strokes).sum()
    assert_close(losses.sum_of_pen_last(outputs, strokes), expected)


# What the report says


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("floor", "9.3 standard deviations"),
        ("floor", "1e-20"),
        ("no_constant", "1.83788 nats lower than it should be, which is log(2 pi)"),
        ("bits", "1.4427 times"),
        ("no_exponential", "a softmax without the exponential"),
        ("epsilon_in_determinant", "integrates to 0."),
        ("epsilon_in_scale", "integrates to 1:"),
        ("rounded_correlation", "tanh is rounded to 1 from 9.01 on"),
        ("sum_in_logarithm", "over the batch"),
        ("product_in_logarithm", "over time"),
        ("in_place", "changes the outputs that"),
        ("strokes_in_place", "changes the strokes that"),
        ("raising_backward", "Backward raises NotImplementedError: todo."),
        ("dropout", "Three calls with the same arguments give"),
    ],
)
def test_a_probe_has_its_numbers(name, words):
    (fault,) = diagnose(getattr(losses, name), K).faults
    assert words in fault.probe


def test_the_report_holds_every_probe_and_remedy():
    report = diagnose(losses.customary, K)
    text = " ".join(str(report).split())
    assert "3 faults:" in text
    assert "The pen's logit is its output" in text
    for fault in report.faults:
        assert fault.name in FAULTS
        assert fault.probe in text
        assert f"Instead: {fault.remedy}" in text


def test_the_names_of_faults_are_documented_and_found():
    documented = inspect.getdoc(diagnose)
    assert all(f"- ``{name}``: " in documented for name in FAULTS)
    options = {"alignment", "padding", "half"}  # which tests above have found
    assert set().union(*FAULTY.values()) | options == set(FAULTS)


def test_reports_and_faults_are_values():
    fault = Fault("floor", "probe", "remedy")
    assert Report((fault,)) == Report((Fault("floor", "probe", "remedy"),))
    with pytest.raises(AttributeError):
        fault.name = "nan"
    assert "an order that was not recognised" in str(Report((fault,)))


# Nothing is left changed


def test_a_module_is_left_as_it_was():
    module = losses.Module()
    module.unused.grad = torch.tensor([3.0, 4.0])
    before = copy.deepcopy(module.state_dict())
    assert diagnose(module, K).faults == ()
    assert module.training
    assert_close(module.state_dict(), before, rtol=0, atol=0)
    assert module.unused.grad.tolist() == [3, 4]


def test_global_state_is_left_as_it_was():
    # conftest holds dtype, threads, modes and validation, too
    module = losses.Leaky()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    report = diagnose(module, K)
    assert report.faults == ()
    assert module.calls == 0
    assert module.training
    assert module.weight == 1
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2][1]).all()  # noqa: NPY002


def test_slow_state_is_left_as_it_was():
    # changed for a whole examination, it would take long
    with unchanged():
        torch.autograd.set_detect_anomaly(mode=True)
        torch.set_num_threads(1 + torch.get_num_threads())
    assert not torch.is_anomaly_enabled()  # and conftest holds threads


def test_it_works_where_gradients_are_off_and_leaves_them_off():
    with torch.no_grad():
        assert diagnose(losses.exact, K).faults == ()
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert diagnose(losses.exact, K).faults == ()
        assert torch.is_inference_mode_enabled()


def test_a_default_device_is_no_hindrance():
    with torch.device("meta"):
        assert diagnose(losses.exact, K).faults == ()
        assert torch.get_default_device().type == "meta"


@pytest.mark.parametrize(
    "loss",
    [
        functools.partial(losses.with_scales, lambda s: s),
        losses.Module().forward,
    ],
    ids=["partial", "method"],
)
def test_any_callable_is_examined(loss):
    assert diagnose(loss, K).faults == ()


def test_two_examinations_say_the_same():
    torch.manual_seed(1)
    first = diagnose(losses.customary, K)
    torch.manual_seed(2)
    assert diagnose(losses.customary, K) == first


# No losses


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("raises", ValueError, "RuntimeError: the size of tensor a must match"),
        ("needs_two_sequences", ValueError, r"\(1, 3, 19\).*IndexError: where is the batch"),
        ("raises_type_error", ValueError, "TypeError: exact.. takes 2 positional arguments"),
        ("wrong_shape", ValueError, r"got shape \(2, 3, 3\) for outputs \(2, 3, 19\)"),
        ("a_number", TypeError, "must return a tensor, got float"),
        ("whole_numbers", TypeError, "must return real numbers, got torch.int64"),
        ("K", TypeError, "loss must be callable, got int"),
    ],
)
def test_what_is_no_loss_is_refused(name, kind, words):
    with pytest.raises(kind, match=words):
        diagnose(getattr(losses, name), K)


@pytest.mark.parametrize(("components", "kind"), [(0, ValueError), (2.5, TypeError)])
def test_components_are_counted(components, kind):
    with pytest.raises(kind, match="components"):
        diagnose(losses.exact, components)


def test_another_number_of_components_is_refused_by_the_loss():
    with pytest.raises(ValueError, match="split_with_sizes"):
        diagnose(losses.exact, K + 1)


def test_a_module_that_cannot_be_copied_is_refused():
    module = losses.Module()
    module.derived = module.unused * 2  # no leaf
    with pytest.raises(ValueError, match="loss must be copyable"):
        diagnose(module, K)


# The command line

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["exact"], 0, "No fault found"),
        (["Module"], 0, "No fault found"),
        (["customary"], 1, "3 faults:"),
        (["mask_times_score", "--mask"], 1, "padding: "),
        (["does_not_shift", "--whole-sequences"], 1, "alignment: "),
        (["computes_in_half", "--half"], 1, "half: "),
    ],
)
def test_the_command_line_prints_the_report(arguments, status, words, capsys):
    name, *options = arguments
    assert main([f"doctor_losses:{name}", "--components", str(K), *options]) == status
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:loss", "No module named 'no_such_module'"),
        ("doctor_losses:no_such_loss", "no attribute 'no_such_loss'"),
        ("doctor_losses", "module:name"),
        ("doctor_losses:raises", "the size of tensor a must match"),
        ("doctor_losses:K", "loss must be callable"),
    ],
)
def test_the_command_line_refuses_in_one_line(name, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--components", str(K)])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_the_module_runs(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from mdn_dist import StrokeDistribution\n\n"
        "def loss(outputs, strokes):\n"
        "    return StrokeDistribution.from_outputs(outputs, 2).log_prob(strokes).mean()\n"
    )
    command = [sys.executable, "-m", "mdn_dist.doctor", "mine:loss", "--components", "2"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "1 fault:" in done.stdout
    assert "the log likelihood itself" in " ".join(done.stdout.split())
