"""The scripts as modules, command lines run in this process, and what they may leave behind."""

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyro
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


class Ended(NamedTuple):
    """How a script ended, and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _clean_param_store():
    yield
    pyro.clear_param_store()


@pytest.fixture
def script(monkeypatch):
    """Imports a script, or a module beside it, by name."""
    for package in ("HersheyFonts", "matplotlib", "safetensors", "statsmodels", "tqdm"):
        pytest.importorskip(package, reason="the examples extra is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.fixture
def run(script, monkeypatch, capsys):
    """Runs a script's command line."""

    def run(name, *options):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, options)])
        capsys.readouterr()
        status = 0
        try:
            script(name).main()
        except SystemExit as stop:
            status = stop.code
        pyro.clear_param_store()
        return Ended(status, *capsys.readouterr())

    return run


@pytest.fixture
def everything(tmp_path):
    """Returns all that lies in the test's folder: files by content, folders as None."""
    return lambda: {
        str(path.relative_to(tmp_path)): path.read_bytes() if path.is_file() else None
        for path in tmp_path.rglob("*")
    }


@pytest.fixture
def refused(run, everything):
    """Runs a command line that must end in one line and change nothing; returns the line."""

    def refused(name, *options):
        before = everything()
        status, _, err = run(name, *options)
        assert status == 2, err
        assert err.startswith(f"{name}.py: error: "), err
        assert err.endswith("\n"), err
        assert len(err.splitlines()) == 1, err
        assert everything() == before
        return err

    return refused


@pytest.fixture
def files_up_to():
    """Lets no file grow beyond so many bytes, as on a disk that is full by then."""
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX's")

    @contextmanager
    def files_up_to(size):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return files_up_to
