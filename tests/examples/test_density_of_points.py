"""What is printed of points in the plane is what they are."""

import math
import re

import pytest
import torch


@pytest.fixture
def example(script):
    return script("density")


def test_a_fifth_is_the_spot_and_the_crescents_are_half_circles(example):
    points = example.draw(20_000, 0.001, torch.Generator().manual_seed(0))
    spot = (points - torch.tensor([0.5, 1.6])).norm(dim=-1) < 0.01
    upper = ((points.norm(dim=-1) - 1).abs() < 0.01) & (points[:, 1] > -0.01)
    centre = torch.tensor([1.0, 0.5])
    lower = (((points - centre).norm(dim=-1) - 1).abs() < 0.01) & (points[:, 1] < 0.51)
    assert (spot | upper | lower).all()
    for part, share in ((spot, 0.2), (upper, 0.4), (lower, 0.4)):
        # four standard errors, one in 16,000 seeds; and where the crescents cross
        assert abs(part.float().mean() - share) < 4 * math.sqrt(share * (1 - share) / 20_000) + 8e-3


def test_a_run_prints_scores_regions_and_modes(example, tmp_path, monkeypatch, capsys):
    command = ["density.py", "--out", str(tmp_path), "--points", "3000", "--noise", "0.1"]
    monkeypatch.setattr("sys.argv", command)
    example.main()
    lines = capsys.readouterr().out.splitlines()
    one, several = (float(line.split()[-1]) for line in lines[1:3])
    assert one > several + 0.5
    for line in lines[3:6]:
        level, held = map(float, re.findall(r"([\d.]+)%", line))
        assert held == pytest.approx(level, abs=2.5)  # of points that the fit has not seen
    x, y = map(float, re.findall(r"-?\d\.\d\d", lines[6]))  # the highest mode, the spot
    assert (x, y) == pytest.approx((0.5, 1.6), abs=0.03)
    assert int(re.search(r"(\d+)% of the mass", lines[6])[1]) == pytest.approx(20, abs=2)
    for suffix in ("svg", "png"):
        assert (tmp_path / f"density.{suffix}").stat().st_size > 1000
