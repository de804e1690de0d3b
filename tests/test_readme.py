"""The README's Python runs, from top to bottom, as its reader would paste it."""

import re
from pathlib import Path

import pyro
import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def param_store():
    yield
    pyro.clear_param_store()


@pytest.mark.usefixtures("param_store")
def test_readme_code_runs():
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert namespace["next_points"].shape == (8, 49, 3)
    assert namespace["written"].shape == (4, 30, 3)


def test_readme_names_files_that_exist():
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
