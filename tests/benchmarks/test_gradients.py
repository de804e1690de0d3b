"""The benchmark of gradients on a small scale: its table is whole, and its estimates agree."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gradients(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gradients

    yield gradients
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_a_short_run_prints_every_row(gradients, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gradients.py", "--draws=20"])
    monkeypatch.setattr(gradients, "EXACT", 2)
    gradients.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    expected = [[str(d), f"{a:.0f}"] for d in gradients.SIZES for a in gradients.DISTANCES]
    assert [row[:2] for row in rows] == expected
    assert all(float(number) > 0 for row in rows for number in row[2:5])
    assert {len(row) for row in rows} == {2 + 2 * len(gradients.ESTIMATES)}


@pytest.mark.parametrize("option", ["--draws=1", "--draws=x", "--seed=-1", "--distance=3"])
def test_a_wrong_option_ends_in_one_line(gradients, monkeypatch, capsys, option):
    monkeypatch.setattr(sys, "argv", ["gradients.py", option])
    with pytest.raises(SystemExit) as stop:
        gradients.main()
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# 18 differences within 4.5 standard errors, two-sided: a false alarm at 1.2e-4 over seeds.
def test_all_three_have_the_same_average_where_components_touch(gradients):
    torch.manual_seed(1)
    log_joint, parameters = gradients.problem(1, 2.0)
    means, errors = [], []
    for estimate, _ in gradients.ESTIMATES.values():
        found, _ = gradients.gradients(estimate, log_joint, parameters, 20_000)
        means.append(found.mean(0))
        errors.append(found.std(0) / len(found) ** 0.5)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert ((means[i] - means[j]).abs() < 4.5 * errors[i].hypot(errors[j])).all()
