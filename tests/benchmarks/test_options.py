"""What a person may do wrong at the command line of a benchmark ends in one line."""

import importlib
import json
import re
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from filelock import FileLock

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--steps=2", "--hidden-size=2", "--batch-size=2", "--window=3", "--drawers=1"]
SMALL += ["--arms=hand", "--seeds=1"]

OUTSIDE = {
    "--seeds": ["0", "1001"],
    "--steps": ["0", "10000001"],
    "--hidden-size": ["0", "2001"],
    "--batch-size": ["0", "10001"],
    "--window": ["0", "10001"],
    "--drawers": ["0", "1000001"],
    "--scale": ["0", "1e7"],
    "--layers": ["0", "101"],
    "--jobs": ["0", "257"],
    "--repeats": ["0", "10001"],
    "--threads": ["0", "1025"],
}
NO_NUMBERS = ["", "x", "nan", "-inf", "1e999", "9" * 5000, "1\n2"]


@pytest.fixture
def script(monkeypatch):
    """Imports a script by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def run(script, monkeypatch, capsys):
    """Runs a script's command line and returns how it ended, and what it printed."""

    def run(name, *options):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, options)])
        capsys.readouterr()
        status = 0
        threads = torch.get_num_threads()
        try:
            script(name).main()
        except SystemExit as stop:
            status = stop.code
        torch.set_num_threads(threads)
        return status, *capsys.readouterr()

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
        assert len(err.splitlines()) == 1, err
        assert everything() == before
        return err

    return refused


def archive(path, drawers=3, points=9):
    """Writes walks of some drawers, as Omniglot publishes them."""
    with zipfile.ZipFile(path, "w") as file:
        for drawer in range(1, drawers + 1):
            rows = [f"{x},{x * drawer},{x}" for x in range(points)]
            text = "\n".join(["START", *rows, "BREAK"])
            file.writestr(f"set/Latin/character01/0001_{drawer:02}.txt", text)
    return path


@pytest.mark.parametrize("name", ["clipping", "quality", "speed"])
def test_every_number_has_limits(name, run, refused, tmp_path):
    status, out, _ = run(name, "--help")
    assert status == 0
    options = set(re.findall(r"--[a-z-]+", out[out.index("options:") :]))
    numbers = options - {"--help", "--data", "--out", "--arms", "--only", "--json", "--growth"}
    assert numbers <= OUTSIDE.keys()
    paths = ["--data", tmp_path, "--out", tmp_path / "out"] if name != "speed" else []
    for option in sorted(numbers):
        for value in OUTSIDE[option] + NO_NUMBERS:
            assert f"argument {option}: expected " in refused(name, *paths, f"{option}={value}")


def test_what_is_measured_is_named(refused, tmp_path):
    out = ["--data", archive(tmp_path / "zip"), "--out", tmp_path / "out"]
    assert "'mine'" in refused("quality", *out, "--arms", "ours", "mine")
    assert "'mine'" in refused("speed", "--only", "head", "mine")
    assert "--data" in refused("quality", "--out", tmp_path / "out")
    assert "a stray  word" in refused("speed", "a stray \nword")


def test_results_must_go_where_a_file_can_be(refused, tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    places = [tmp_path / "folder.png", tmp_path / "none" / "a.png", tmp_path / "file" / "a.png"]
    for path in [*places, "/dev/null", "/proc/a.png"]:
        for name, option in (("quality", "--out"), ("speed", "--json"), ("speed", "--growth")):
            assert str(path) in refused(name, option, path)
    assert "--growth" in refused("speed", "--growth", tmp_path / "picture.pdf")


def test_a_picture_of_growth_needs_matplotlib(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = refused("speed", "--growth", tmp_path / "a.png")
    assert 'needs matplotlib: pip install -e ".[benchmarks]"' in line


def test_a_file_with_nothing_to_learn_from_is_refused(refused, tmp_path):
    out = ["--out", tmp_path / "out"]
    (tmp_path / "nothing").touch()
    (tmp_path / "far").write_text('{"word": "a", "drawing": [[[0, 1e30], [0, 1]]]}')
    for path in (tmp_path, tmp_path / "missing", tmp_path / "nothing"):
        assert str(path) in refused("quality", *SMALL, *out, "--data", path)
    for path in (tmp_path / "far", archive(tmp_path / "one", drawers=1)):
        assert "drawings by more than --drawers 1" in refused(
            "quality", *SMALL, *out, "--data", path
        )
    short = archive(tmp_path / "short", points=3)
    assert "more than 3 points" in refused("quality", *SMALL, *out, "--data", short)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "null",
        '{"runs": {}}',
        '{"settings": SETTINGS, "runs": [3]}',
        '{"settings": SETTINGS, "runs": [{"arm": "hand"}]}',
        '{"settings": SETTINGS, "runs": [{"arm": [], "seed": 0, "failed_at": null}]}',
    ],
)
def test_a_file_of_something_else_is_kept(text, script, refused, tmp_path):
    options = [*SMALL, "--data", str(archive(tmp_path / "zip"))]
    quality = script("quality")
    settings = json.dumps(quality.settings(quality.parse(options)))
    out = tmp_path / "out.json"
    out.write_text(text.replace("SETTINGS", settings))
    assert "something else than runs" in refused("quality", *options, "--out", out)


def test_runs_are_kept_from_other_settings_other_data_and_other_runs(run, refused, tmp_path):
    data, out = archive(tmp_path / "zip"), tmp_path / "out.json"
    options = [*SMALL, "--data", data, "--out", out]
    status, _, err = run("quality", *options)
    assert status == 0, err
    assert "other settings" in refused("quality", *options, "--steps=3")
    with FileLock(tmp_path / ".out.json.lock"):
        assert "another run" in refused("quality", *options)
    assert run("quality", *options)[0] == 0
    assert not list(tmp_path.glob(".*"))
    archive(data, points=10)
    assert "other settings" in refused("quality", *options)


def test_a_full_disk_leaves_the_file_that_was_there(script, tmp_path):
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX's")
    path = tmp_path / "out.json"
    path.write_bytes(b"as it was")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            script("options").write(path, b"x" * 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"as it was"]


def test_ctrl_c_keeps_the_runs_that_are_done(script, run, tmp_path, monkeypatch):
    quality = script("quality")
    whole = quality.run

    def press(name, seed, args):
        if seed == 1:
            raise KeyboardInterrupt
        return whole(name, seed, args)

    monkeypatch.setattr(quality, "run", press)
    out = tmp_path / "out.json"
    options = [*SMALL, "--seeds=2", "--data", archive(tmp_path / "zip"), "--out", out]
    status, _, err = run("quality", *options)
    assert (status, err) == (1, "quality.py: interrupted\n")
    assert [made["seed"] for made in json.loads(out.read_text())["runs"]] == [0]
    assert not list(tmp_path.glob(".*"))
