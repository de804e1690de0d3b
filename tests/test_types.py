"""Type checkers pass what is documented, and catch misspelt names and wrong values."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each checker reads all of torch

ROOT = Path(__file__).parents[1]
FILES = ("right_calls.py", "typos.py", "readme.py")
# The README's reader writes functions without annotations; all else is as strict as can be.
MYPY = """
[mypy]
strict = true
[mypy-readme]
disallow_untyped_calls = false
disallow_untyped_defs = false
"""
# What a typo may be called, so that no line is reported for another reason.
MISTAKES = {
    "arg-type",
    "assignment",
    "attr-defined",
    "call-arg",
    "call-overload",
    "list-item",  # numbers where a list of batches may stand
    "operator",  # "Tensor" not callable, of a misspelt method of a module
    "reportArgumentType",
    "reportAssignmentType",
    "reportAttributeAccessIssue",
    "reportCallIssue",
}


def output_of(folder, *command):
    """What a checker says of files in a folder, out of reach of the settings in pyproject.toml.

    The library is found as a user's is, among installed packages.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {**os.environ, "PYTHONPATH": path, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        cwd=folder,
        env=variables,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def run_mypy(folder):
    """File, line, kind and message of each error."""
    (folder / "mypy.ini").write_text(MYPY)
    code, output, trouble = output_of(
        folder, "mypy", "--config-file=mypy.ini", "--cache-dir=cache", "--output=json", *FILES
    )
    assert code in (0, 1), output + trouble
    for found in map(json.loads, output.splitlines()):
        if found["severity"] == "error":
            yield found["file"], found["line"], found["code"], found["message"]


def run_pyright(folder):
    """File, line, kind and message of each error."""
    pytest.importorskip("pyright")
    code, output, trouble = output_of(folder, "pyright", "--version")
    if code or not output.startswith("pyright "):
        reason = (trouble.strip() or output.strip() or "no output").splitlines()[-1]
        pytest.skip(f"pyright, which fetches itself from npm at the first run, failed: {reason}")
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard"}))
    code, output, trouble = output_of(folder, "pyright", "--outputjson")
    assert code in (0, 1), output + trouble
    for found in json.loads(output)["generalDiagnostics"]:
        if found["severity"] == "error":
            line = found["range"]["start"]["line"] + 1
            yield Path(found["file"]).name, line, found.get("rule"), found["message"]


CHECKERS = {"mypy": run_mypy, "pyright": run_pyright}


@pytest.fixture(scope="session", params=CHECKERS)
def errors(request, tmp_path_factory):
    """Kinds and messages of the errors on each line of each file."""
    folder = tmp_path_factory.mktemp(request.param)
    for path in (ROOT / "tests" / "types").glob("*.py"):
        shutil.copy(path, folder)
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    (folder / "readme.py").write_text("\n".join(blocks))
    assert sorted(path.name for path in folder.glob("*.py")) == sorted(FILES)
    found = {name: defaultdict(list) for name in FILES}
    for name, line, kind, message in CHECKERS[request.param](folder):
        found[name][line].append((kind, message))
    return found


@pytest.mark.parametrize("name", ["right_calls.py", "readme.py"])
def test_what_is_documented_passes(errors, name):
    assert errors[name] == {}


def test_every_typo_is_caught_on_its_line(errors):
    lines = (ROOT / "tests" / "types" / "typos.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert len(wrong) > 50
    caught = errors["typos.py"]
    assert [lines[number - 1] for number in sorted(wrong - set(caught))] == []
    assert {number: caught[number] for number in set(caught) - wrong} == {}
    kinds = {kind for found in caught.values() for kind, _ in found}
    assert kinds <= MISTAKES
