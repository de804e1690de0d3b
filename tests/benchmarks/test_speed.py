"""The benchmark runs, and its peers compute what we compute."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "speed.py"


@pytest.mark.slow
def test_a_short_run_writes_its_ratios(tmp_path):
    path = tmp_path / "speed.json"
    groups = ["care", "bare", "diagonal", "head", "memory", "shared", "mixture", "sample"]
    groups += ["rsample", "mode", "step", "lstm", "peers"]
    subprocess.run(
        [sys.executable, SCRIPT, "--repeats=1", "--threads=1", "--json", path, "--only", *groups],
        check=True,
        capture_output=True,
    )
    ratios = {entry["what"]: entry["ratio"] for entry in json.loads(path.read_text())}
    assert all(ratio > 0 for ratio in ratios.values())
    assert ratios["bytes held, ours"] == pytest.approx(1, abs=0.1)
    assert "log density against Pyro's MixtureOfDiagNormals" in ratios
