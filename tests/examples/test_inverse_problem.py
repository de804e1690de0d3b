"""The introduction: its exact density, its pictures, and the order of what it prints."""

import math

import pytest
import torch
from scipy import integrate


@pytest.fixture
def example(script):
    return script("inverse_problem")


@pytest.mark.parametrize("y", [-0.05, 0.2, 0.5, 0.97])
def test_the_exact_density_is_bayes_rule(example, y):
    noise = 0.05

    def joint(x):
        miss = (y - x - 0.3 * math.sin(2 * math.pi * x)) / noise
        return math.exp(-0.5 * miss**2)

    evidence, _ = integrate.quad(joint, 0.0, 1.0, points=[0.2, 0.5, 0.8])
    x = torch.tensor([[0.03], [0.2], [0.5], [0.95]])
    ours = example.exact_log_density(x, torch.full_like(x, y), noise)
    theirs = [math.log(joint(each.item()) / evidence) for each in x]
    torch.testing.assert_close(ours, torch.tensor(theirs), rtol=1e-4, atol=1e-4)


def test_a_short_run_prints_three_scores_and_draws_a_picture(
    example, tmp_path, monkeypatch, capsys
):
    short = ["--points", "500", "--steps", "150", "--hidden-size", "16", "--components", "4"]
    monkeypatch.setattr("sys.argv", ["inverse_problem.py", "--out", str(tmp_path), *short])
    example.main()
    lines = capsys.readouterr().out.splitlines()
    one, several, exact = (float(line.split()[-1]) for line in lines[1:4])
    assert one > several + 0.2  # the mixture finds the branches
    assert several > exact  # nothing beats the exact density on 10,000 pairs
    for suffix in ("svg", "png"):
        assert (tmp_path / f"inverse_problem.{suffix}").stat().st_size > 1000
