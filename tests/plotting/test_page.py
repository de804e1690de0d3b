"""What holds for every picture: files, a missing matplotlib, and what importing leaves alone."""

import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
import torch
from matplotlib.figure import Figure
from scribbles import scribble

from mdn_dist import plotting


def test_files_are_written_and_repeat(tmp_path):
    names = [tmp_path / "a.svg", str(tmp_path / "a.png"), tmp_path / "b.SVG"]
    figure = plotting.strokes([scribble(30, 0)], titles=["<1> & $2"], path=names)
    assert isinstance(figure, Figure)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "a.svg").read_bytes()
    assert b"dc:date" not in svg
    assert svg == (tmp_path / "b.SVG").read_bytes()
    plotting.strokes([scribble(30, 0)], titles=["<1> & $2"], path=tmp_path / "c.svg")
    assert svg == (tmp_path / "c.svg").read_bytes()
    assert "<1> & $2" in "".join(ET.fromstring(svg).itertext())


def test_a_missing_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mdn_dist\[plotting\]"'):
        plotting.strokes(torch.zeros(1, 4, 3))


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path):
    names = [str(tmp_path / "a.svg"), str(tmp_path / "a.png")]
    program = f"""
import sys, torch
from mdn_dist import plotting
assert "matplotlib" not in sys.modules
import matplotlib
before = matplotlib.rcParams.copy()
plotting.strokes(torch.zeros(1, 4, 3), path={names!r})
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    subprocess.run([sys.executable, "-c", program], check=True)
