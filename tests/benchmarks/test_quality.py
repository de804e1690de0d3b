"""The quality benchmark on a small scale: its losses agree, and its runs are paired."""

import importlib.util
import json
import math
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from mdn_dist import StrokeDistribution
from mdn_dist.outputs import OutputMap

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "quality.py"
SMALL = ["--steps", "3", "--hidden-size", "8", "--batch-size", "4", "--window", "6"]


@pytest.fixture(scope="module")
def quality():
    spec = importlib.util.spec_from_file_location("quality", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["quality"] = module  # dataclasses look their module up
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # as for a script, whose neighbours can be imported
        spec.loader.exec_module(module)
    yield module
    del sys.modules["quality"]


@pytest.fixture
def strokes():
    """Windows of seven points, with a flag in ten."""
    points = torch.randn(40, 7, 3)
    points[..., 2] = (torch.rand(40, 7) < 0.1).float()
    return points


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Five drawers' walks over a lattice, as Omniglot publishes them."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("data") / "strokes.zip"
    with zipfile.ZipFile(path, "w") as file:
        for drawer in range(1, 6):
            steps = torch.randint(-3, 4, (60, 2), generator=generator)
            rows = [f"{x},{y},{t}" for t, (x, y) in enumerate(steps.cumsum(0).tolist())]
            text = "\n".join(["START", *rows[:40], "BREAK", *rows[40:], "BREAK"])
            file.writestr(f"set/Latin/character01/0001_{drawer:02}.txt", text)
    return path


def small_arguments(quality, archive, *options):
    return quality.parse(["--data", str(archive), "--drawers", "2", *SMALL, *options])


def benign_outputs():
    return torch.randn(50, 121, dtype=torch.float64)


def points_for(outputs):
    points = torch.randn(len(outputs), 3, dtype=outputs.dtype)
    points[:, 2] = (points[:, 2] > 1).to(outputs.dtype)
    return points


def test_the_losses_of_the_peers_are_ours_on_benign_outputs(quality):
    outputs = benign_outputs()
    points = points_for(outputs)
    exact = quality.exact_nats(outputs, points, OutputMap(bounds=None))
    ours = -StrokeDistribution.from_outputs(outputs).log_prob(points)
    torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(quality.stock_nats(outputs, points), exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(quality.hand_nats(outputs, points), exact, rtol=1e-9, atol=1e-9)


def test_the_floor_of_the_hand_written_loss_does_not_reach_its_score(quality):
    outputs = torch.zeros(1, 121, dtype=torch.float64)
    far = torch.tensor([[30.0, 0.0, 0.0]], dtype=torch.float64)
    pen = math.log(2)
    floored = quality.hand_nats(outputs, far).item()
    assert floored == pytest.approx(-math.log(1e-20) + pen)
    exact = quality.exact_nats(outputs, far, OutputMap(bounds=None)).item()
    assert exact == pytest.approx(30**2 / 2 + math.log(2 * math.pi) + pen)


def test_a_batch_depends_on_the_seed_and_the_step_alone(quality, strokes):
    first = quality.batch(strokes, 4, seed=1, step=2)
    torch.manual_seed(99)
    assert torch.equal(first, quality.batch(strokes, 4, seed=1, step=2))
    assert not torch.equal(first, quality.batch(strokes, 4, seed=1, step=3))
    assert not torch.equal(first, quality.batch(strokes, 4, seed=2, step=2))


def test_arms_share_the_first_weights_of_their_seed_and_start(quality, strokes):
    first = {}
    for name, arm in quality.ARMS.items():
        model = quality.make_model(arm, 8, seed=0, train=strokes)
        trunk = torch.cat([p.flatten() for p in model.lstm.parameters()])
        kind = "trunk from data" if arm.start == "data" else "trunk"
        assert torch.equal(trunk, first.setdefault(kind, trunk)), name
        linear = torch.cat([p.flatten() for p in model.linear.parameters()])
        maps = (
            arm.start != "default" and model.output_map.bounds
        )  # a mixture is written for its maps
        assert torch.equal(linear, first.setdefault((arm.start, maps), linear)), name
    assert len(first) == 6  # two trunks, the default start, the head's, the data's for two maps
    other = quality.make_model(quality.ARMS["ours"], 8, seed=1, train=strokes)
    assert not torch.equal(next(other.lstm.parameters()).flatten()[:5], first["trunk"][:5])


def test_unclipped_arms_with_one_start_take_the_same_steps(quality, archive):
    """Three losses, one density: their runs part by rounding and Adam's epsilon alone."""
    args = small_arguments(quality, archive)
    names = ["ours/no-clip", "stock/our-start/no-clip", "hand/our-start/no-clip"]
    scores = [quality.run(name, 0, args)["score"] for name in names]
    assert scores == pytest.approx([scores[0]] * 3, rel=1e-3)


def test_drawers_held_out_are_not_trained_on(quality, archive):
    train, held_out = quality.load(archive, 2, 6)
    assert train.shape == (3 * 9, 7, 3)
    assert held_out.shape == (2 * 9, 7, 3)
    assert not torch.isin(held_out[..., 0], train[..., 0]).any()


def test_scores_at_another_scale_compare(quality, archive):
    """A start from the data knows of no unit, and three steps change little."""
    scores = [
        quality.run("ours", 0, small_arguments(quality, archive, "--scale", scale))["score"]
        for scale in ("1", "0.5")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


def test_a_run_that_fails_says_where_and_is_scored_with_its_last_weights(quality, strokes):
    arm = quality.ARMS["hand"]
    model = quality.make_model(arm, 8, seed=0, train=strokes)
    with torch.no_grad():
        model.linear.bias[101:] = 30.0  # correlations that round to one
    before = quality.evaluate(model, strokes)
    args = quality.parse(["--data", "unused", *SMALL])
    curve, failed_at = quality.fit(model, arm, strokes, 0, args)
    assert (curve, failed_at) == ([], 0)
    assert quality.evaluate(model, strokes) == pytest.approx(before, nan_ok=True)


def test_the_table_pairs_seeds_and_marks_runs_that_failed(quality):
    rows = [("ours", 0, -0.2, None), ("ours", 1, -0.1, None), ("hand", 0, 0.1, 0)]
    names = ("arm", "seed", "score", "failed_at")
    runs = [dict(zip(names, row, strict=True)) | {"seconds": 2.0} for row in rows]
    lines = [line.split() for line in quality.table(runs).splitlines()]
    assert lines[1] == ["ours", "-0.200", "-0.100", "-0.150", "+0.000", "+0.000", "2.0"]
    assert lines[2] == ["hand", "0.100!", "0.100", "+0.300", "+0.300", "2.0"]


def test_the_script_prints_a_table_and_keeps_the_runs_it_holds(
    quality, archive, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "quality.json"
    options = ["--seeds", "1", "--out", str(out), "--data", str(archive), "--drawers", "2"]
    command = [str(SCRIPT), *SMALL, *options, "--arms", "hand", "ours"]
    monkeypatch.setattr(sys, "argv", command)
    quality.main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-2:]] == [
        "ours",
        "hand",
    ]
    written = json.loads(out.read_text())["runs"]
    monkeypatch.setattr(sys, "argv", [*command, "stock"])
    quality.main()
    runs = json.loads(out.read_text())["runs"]
    assert runs[:2] == written
    assert [run["arm"] for run in runs] == ["ours", "hand", "stock"]
    monkeypatch.setattr(sys, "argv", [*command, "--steps", "4"])
    with pytest.raises(SystemExit):
        quality.main()
    assert "other settings" in capsys.readouterr().err
