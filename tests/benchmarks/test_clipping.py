"""The benchmark of clipping on a small scale: its lines are whole, and its runs are paired."""

import json
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mdn_dist import data

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--steps=2", "--hidden-size=4", "--layers=2", "--batch-size=3", "--drawers=1"]


@pytest.fixture
def clipping(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import clipping

    yield clipping
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def archive(tmp_path):
    """Three drawers' letters of 30 points each, as Omniglot publishes them."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "strokes.zip"
    with zipfile.ZipFile(path, "w") as file:
        for drawer, letter in [(d, n) for d in range(1, 4) for n in range(1, 4)]:
            steps = torch.randint(-3, 4, (30, 2), generator=generator)
            rows = [f"{x},{y},{t}" for t, (x, y) in enumerate(steps.cumsum(0).tolist())]
            text = "\n".join(["START", *rows, "BREAK"])
            file.writestr(f"set/Latin/character{letter:02}/0001_{drawer:02}.txt", text)
    return path


def test_letters_stand_side_by_side_on_one_line(clipping):
    letters = [torch.randn(5, 3), torch.randn(9, 3), torch.randn(7, 3)]
    line = clipping.join(letters)
    places = data.to_absolute(line)[:, :2].split([5, 9, 7])
    alone = [data.to_absolute(points)[:, :2] for points in letters]
    widths = torch.stack([place[:, 0].max() - place[:, 0].min() for place in alone])
    for place, before in zip(places, alone, strict=True):
        torch.testing.assert_close(place - place[0], before - before[0], rtol=0, atol=1e-5)
        assert place[:, 1].min() == pytest.approx(places[0][:, 1].min().item(), abs=1e-5)
    for left, right in pairwise(places):
        gap = right[:, 0].min() - left[:, 0].max()
        assert gap.item() == pytest.approx(widths.mean().item() / 4, abs=1e-5)
    assert torch.equal(line[:, 2], torch.cat(letters)[:, 2])


def test_lines_are_longer_than_letters_and_each_by_one_part(clipping, archive):
    train, held_out = clipping.load(archive, 1, 80)
    assert train.shape == (2, 81, 3)
    assert held_out.shape == (1, 81, 3)


@pytest.mark.parametrize("limit", [1e-6, None])
def test_derivatives_are_those_that_reach_the_clipping(clipping, limit):
    arm = clipping.quality.Arm("ours", "data", "own", "sequence", {"clip_lstm": limit})
    model = clipping.quality.Ours(4, arm, 2).double()
    points = torch.randn(3, 6, 3, dtype=torch.float64)
    points[..., 2] = 0
    size = clipping.derivatives(model, points)
    assert size.shape == (2 * 5, 3, 4)  # layers and steps, lines, activations
    assert size.max() > 1e-3  # as they come, not as they leave
    assert [layer.clip_lstm for layer in model.network.layers] == [limit, limit]
    counted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.nats(points[:, :-1], points[:, 1:]).sum().backward()
    for before, after in zip(counted, model.parameters(), strict=True):
        torch.testing.assert_close(before, after.grad)


def test_a_limit_that_nothing_reaches_leaves_a_pair_alike(clipping, archive, monkeypatch):
    monkeypatch.setattr(clipping, "ARMS", {"with": 1e9, "without": None})
    args = clipping.parse(["--data", str(archive), *SMALL, "--window=20"])
    clipped, free = clipping.run_pair(1e-3, 0, clipping.load(archive, 1, 20), args)
    assert clipped["score"] == pytest.approx(free["score"], abs=1e-4)
    assert clipped["largest"] == pytest.approx(free["largest"], rel=1e-3)
    assert len(clipped["curve"]) == len(free["norms"]) == 2


def test_the_table_pairs_runs_and_marks_failures(clipping):
    run = {"rate": 0.001, "seed": 0, "curve": [1.0, 0.0], "norms": [3.0, 2.0], "beyond": [0.0]}
    run |= {"largest": [4.0], "failed_at": None}
    runs = [
        run | {"arm": "with", "seconds": 4.0, "score": 0.5, "scores": [0.4, 0.5]},
        run | {"arm": "without", "seconds": 2.0, "score": 0.3, "scores": [0.3]},
    ]
    lines = [line.split() for line in clipping.table(runs, worst=0.4).splitlines()]
    ends = ["3", "0.000%", "4"]
    assert lines[1] == ["0.001", "0", "with", "0.500", "0.500!", "0.400", *ends, "2.000"]
    assert lines[2] == ["0.001", "0", "without", "0.500", "0.300", "0.300", *ends, "1.000"]
    assert "+0.200 nats/point at 2.00 times" in " ".join(lines[3])


def test_the_script_prints_a_table_and_keeps_the_runs_it_holds(
    clipping, archive, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "clipping.json"
    command = ["clipping.py", *SMALL, "--data", str(archive), "--window=20", "--seeds=1"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(out)])
    clipping.main()
    first = capsys.readouterr().out.splitlines()
    assert first[:2] == [
        "learning rate 0.001, seed 0 is done",
        "learning rate 0.005, seed 0 is done",
    ]
    runs = json.loads(out.read_text())["runs"]
    assert [(run["rate"], run["arm"]) for run in runs] == [
        (rate, arm) for rate in (1e-3, 5e-3) for arm in ("with", "without")
    ]
    clipping.main()
    assert capsys.readouterr().out.splitlines() == first[2:]
