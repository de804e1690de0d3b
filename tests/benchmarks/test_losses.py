"""The benchmark of losses on a small scale: its arm reaches, its runs are paired and scored."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--steps=3", "--hidden-size=4", "--batch-size=5", "--pairs=50"]


@pytest.fixture
def scores(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scores

    yield scores
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_the_arm_reaches_by_the_lengths_of_its_links(scores):
    """By the law of cosines: the elbow's angle is that between the links."""
    (ends, angles) = scores.draw(500, torch.Generator().manual_seed(0))
    shoulder, elbow = angles.unbind(-1)
    assert ((shoulder >= 0.3) & (shoulder <= 1.2)).all()
    assert ((elbow >= math.pi / 2) & (elbow <= 3 * math.pi / 2)).all()
    reached = scores.reach(angles)
    expected = (0.8**2 + 0.2**2 - 2 * 0.8 * 0.2 * elbow.cos()).sqrt()
    torch.testing.assert_close(reached.square().sum(-1).sqrt(), expected)
    off = (ends - reached).square().sum(-1).mean().sqrt()
    assert off == pytest.approx(0.01 * math.sqrt(2), rel=0.15)
    mirrored = torch.stack([shoulder, 2 * math.pi - elbow], -1)  # about the upper link
    torch.testing.assert_close(scores.reach(mirrored).square().sum(-1).sqrt(), expected)


def test_the_script_trains_by_every_loss_and_prints_a_table(scores, tmp_path, monkeypatch, capsys):
    out = tmp_path / "scores.json"
    monkeypatch.setattr(sys, "argv", ["scores.py", *SMALL, "--seeds=2", f"--out={out}"])
    monkeypatch.setattr(scores, "HELD_OUT", 20)
    scores.main()
    runs = json.loads(out.read_text())["runs"]
    assert [(run["seed"], run["loss"]) for run in runs] == [
        (seed, loss) for seed in (0, 1) for loss in ("likelihood", "crps", "energy")
    ]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["likelihood, seed 0 is done", "crps, seed 0 is done"]
    for line, loss in zip(lines[-3:], ("likelihood", "crps", "energy"), strict=True):
        pair = [run["nats"] for run in runs if run["loss"] == loss]
        assert line.split()[:2] == [loss, f"{sum(pair) / 2:.4f}"]


def test_runs_of_a_seed_differ_in_the_loss_alone(scores, monkeypatch):
    same = scores.LOSSES["crps"]
    monkeypatch.setattr(scores, "LOSSES", {"likelihood": same, "crps": same})
    args = scores.parse(SMALL)
    first, second, other = (
        scores.run(*which, args) for which in (("likelihood", 0), ("crps", 0), ("crps", 1))
    )
    assert first["nats"] == second["nats"] != other["nats"]


def test_what_cannot_be_takes_one_line(scores, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scores.py", "--steps=0"])
    with pytest.raises(SystemExit):
        scores.main()
    assert capsys.readouterr().err.strip() == (
        "scores.py: error: argument --steps: expected int from 1 to 10000000, got '0'"
    )
