"""Hostile starts: ours survive, and the count notices a loss that does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_ours_survives_and_a_failure_is_counted(tmp_path):
    path = tmp_path / "rows.json"
    code = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import hostile

hostile.LOSSES = {
    "ours": hostile.ours,
    "NaN at once": lambda outputs, points: hostile.ours(outputs, points) * float("nan"),
    "error": lambda outputs, points: hostile.ours(outputs, points / 0),
}
hostile.main()
"""
    arguments = ["--starts=40", "--json", path]
    subprocess.run([sys.executable, "-c", code, FOLDER, *arguments], check=True)
    rows = json.loads(path.read_text())
    assert len(rows) == sum(row["starts"] for row in rows) == 40
    assert [row["ours"] for row in rows] == [0] * 40
    assert [row["NaN at once"] for row in rows] == [1] * 40
    assert [row["error"] for row in rows] == [1] * 40
