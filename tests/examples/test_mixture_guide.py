"""The guide of a posterior with two modes, as the example trains it."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the examples extra is not installed")
pytest.importorskip("tqdm", reason="the examples extra is not installed")

SCRIPT = Path(__file__).parents[2] / "examples" / "mixture_guide.py"

pytestmark = pytest.mark.slow


def run(out, *options):
    command = [sys.executable, str(SCRIPT), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "guide.png").stat().st_size > 1000
    lines = [line for line in done.stdout.splitlines() if line.startswith("(")]
    return {line[1]: float(line.split()[-2 if line.endswith("nats") else -1]) for line in lines}


@pytest.mark.parametrize("seed", ["0", "1"])
def test_both_modes_are_covered_within_a_fiftieth_of_a_nat_of_the_best(tmp_path, seed):
    found = run(tmp_path, "--seed", seed)
    assert found["a"] > found["b"] > found["a"] - 0.05
    assert found["b"] + 1e-3 > found["c"] > found["b"] - 0.02
    assert 0.6 < found["d"] < 0.7
    assert abs(found["e"] - found["d"]) < 0.05


def test_one_gaussian_is_far_from_the_evidence(tmp_path):
    found = run(tmp_path, "--steps", "50", "--components", "1")
    assert found["b"] < found["a"] - 0.2
    assert found["c"] <= found["b"] + 1e-3
