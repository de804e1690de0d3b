"""The Python of the README and of docs/ runs, from top to bottom, as its reader would paste it."""

import math
import re
from pathlib import Path

import pyro
import pytest
import torch

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def param_store():
    yield
    pyro.clear_param_store()


def run_blocks(page):
    """Run the Python of a page, and return the names that it leaves."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), namespace)
    return namespace


@pytest.mark.usefixtures("param_store")
def test_readme_code_runs():
    left = run_blocks(README)
    assert left["next_points"].shape == (8, 49, 3)
    assert left["written"].shape == (4, 30, 3)


@pytest.mark.usefixtures("param_store")
def test_pyro_page_runs_and_its_comments_hold():
    left = run_blocks(ROOT / "docs" / "pyro.md")
    assert left["sequences"].batch_shape == (8,)
    assert left["sequences"].event_shape == (50, 3)
    assert left["shapes"] == ((8,), (2,))
    assert math.isfinite(left["loss"])
    assert sum(left["losses"][-5:]) < sum(left["losses"][:5])
    assert left["drawn"].shape == (6, 8, 50, 3)
    mixture, points = left["mixture"], left["points"]
    assert left["summed"] == pytest.approx(mixture.log_prob(points).sum().item(), rel=1e-5)
    torch.testing.assert_close(left["posterior"], mixture.responsibilities(points))
    assert torch.equal(left["component"], mixture.responsibilities(points).argmax(-1))
    for bounds in (left["bounds"], left["stratified_bounds"]):
        assert all(map(math.isfinite, bounds))
    assert sum(left["bounds"][-10:]) > sum(left["bounds"][:10])
    assert left["action"].shape == (4, 2)
    assert left["scored"].isfinite().all()
    assert left["kept"].isfinite().all()
    # trained on from there
    assert sum(left["stratified_bounds"]) / 5 > sum(left["bounds"][:10])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_files_that_exist(page):
    text = page.read_text()
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    scripts = re.findall(r"(?:examples|benchmarks)/\w+\.py", text)
    assert links or page != README
    assert [script for script in scripts if not (ROOT / script).exists()] == []
