"""What a person may do wrong at the command line of any example ends in one line."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

from mdn_dist import data

EXAMPLES = Path(__file__).parents[2] / "examples"

# A run of a second: no more than the least of everything.
SMALL = {
    "density": ["--points=9", "--components=2"],
    "forecast": ["--hidden-size=2", "--components=1", "--steps=2", "--held-out=1999"],
    "handwriting": ["--lines=4", "--hidden-size=2", "--components=1", "--steps=2", "--bias=0"],
    "inverse_problem": ["--points=9", "--hidden-size=2", "--components=2", "--steps=2"],
    "lettering": ["--lines=1"],
    "mixture_guide": ["--components=1", "--steps=2", "--particles=2"],
    "policy": ["--runs=1", "--components=1", "--hidden-size=2", "--steps=2"],
    "weight_noise": ["--lines=4", "--hidden-size=2", "--components=1", "--steps=2"],
    "writer_styles": ["--writers=3", "--words=2", "--hidden-size=2", "--components=1", "--steps=2"],
}
WRITTEN = {
    "density": ["density.svg"],
    "forecast": ["forecast.svg"],
    "handwriting": ["model.safetensors", "samples.png", "density.png"],
    "inverse_problem": ["inverse_problem.svg"],
    "lettering": ["page.png"],
    "mixture_guide": ["guide.png"],
    "policy": ["policy.svg"],
    "weight_noise": ["weight_noise.svg"],
    "writer_styles": ["styles.svg"],
}
FOLDERS = [name for name in SMALL if name != "lettering"]  # which writes one file
READERS = ["handwriting", "weight_noise", "writer_styles"]


@pytest.fixture(autouse=True)
def _few_draws(request, script, monkeypatch):
    if "mixture_guide" in request.node.name:
        monkeypatch.setattr(script("mixture_guide"), "DRAWS", 2)


# Of every option that takes a number, what lies just outside its limits.
OUTSIDE = {
    "--batch-size": ["0", "10001"],
    "--batch-writers": ["0", "10001"],
    "--bias": ["-0.1", "101"],
    "--components": ["0", "201"],
    "--copies": ["0", "10001"],
    "--drawings": ["0", "10001"],
    "--held-out": ["1699", "2009"],
    "--hidden-size": ["0", "1001"],
    "--horizon": ["0", "51"],
    "--init-scale": ["0", "11"],
    "--lags": ["0", "51"],
    "--layers": ["0", "11"],
    "--learning-rate": ["0", "2"],
    "--limit": ["1", "1000001"],
    "--lines": ["0", "100001"],
    "--noise": ["0", "11"],
    "--particles": ["0", "10001"],
    "--runs": ["0", "10001"],
    "--points": ["1", "1000001"],
    "--seed": ["-1", str(2**32)],
    "--spacing": ["0", "1.1"],
    "--steps": ["0", "10000001"],
    "--style-size": ["-1", "1001"],
    "--words": ["1", "10001"],
    "--writers": ["2", "100001"],
}
NO_NUMBERS = ["", "x", "nan", "-inf", "1e999", "9" * 5000, "1\n2"]


@pytest.mark.parametrize("name", SMALL)
def test_every_number_has_limits(name, run, refused, tmp_path):
    told = run(name, "--help")
    assert told.status == 0
    options = set(re.findall(r"--[a-z-]+", told.out[told.out.index("options:") :]))
    numbers = options - {"--help", "--data", "--out", "--resume", "--load"}
    assert numbers <= OUTSIDE.keys()
    for option in sorted(numbers):
        for value in OUTSIDE[option] + NO_NUMBERS:
            line = refused(name, "--out", tmp_path / "out.png", f"{option}={value}")
            assert f"argument {option}: expected " in line


@pytest.mark.parametrize("name", SMALL)
def test_what_is_no_option_is_named(name, refused):
    assert "--frobnicate" in refused(name, "--frobnicate", "1")
    assert "a stray  word [2J" in refused(name, "a stray \nword\x1b[2J")


# ------------------------------------------------------------------------------------------- data


def stroke_files(folder):
    """Writes files that there is nothing to learn from, by what is wrong with each."""
    line = [[[0, 9, 20], [0, 5, 1]]]
    dot, still = [[[3], [4]]], [[[3, 3, 3], [4, 4, 4]]]
    far, near = [[[0, 3e38], [0, 3e38]]], [[[0, 1e-42], [0, 2e-42]]]
    ink = {
        "one drawing": [line],
        "dots": [dot] * 9,
        "drawings without extent": [still] * 9,
        "drawings beyond float32's sums": [far] * 9,
        "drawings of hardly any extent": [near] * 9,
        "one drawing far larger than the others": [[[[0, 1e9], [0, 1]]]] + [line] * 9,
    }
    for what, drawings in ink.items():
        records = [json.dumps({"word": "a", "drawing": each}) for each in drawings]
        (folder / what).write_text("\n".join(records))
    (folder / "nothing").write_bytes(b"")
    (folder / "noise").write_bytes(bytes(range(256)) * 4)
    (folder / "records without ink").write_text('{"word": "a"}\n' * 9)
    for what, writers, place in (
        ("one writer", 1, 9),
        ("far writers", 5, 3e38),
        ("tiny", 5, 1e-42),
    ):
        with zipfile.ZipFile(folder / what, "w") as archive:
            for writer in range(writers):
                for letter in range(5):
                    text = f"START\n0,0,0\n{place},{place},9\nBREAK\n"
                    name = f"set/Latin/character0{letter}/0001_{writer:02}.txt"
                    archive.writestr(name, text)
    whole = (folder / "one writer").read_bytes()
    (folder / "a truncated zip").write_bytes(whole[: len(whole) // 2])


STROKE_FILES = [
    "one drawing",
    "dots",
    "drawings without extent",
    "drawings beyond float32's sums",
    "drawings of hardly any extent",
    "one drawing far larger than the others",
    "nothing",
    "noise",
    "records without ink",
    "one writer",
    "far writers",
    "tiny",
    "a truncated zip",
]


@pytest.mark.parametrize("what", STROKE_FILES)
@pytest.mark.parametrize("name", READERS)
def test_a_file_with_nothing_to_learn_from_is_refused(name, what, refused, tmp_path):
    stroke_files(tmp_path)
    line = refused(name, "--steps=1", "--out", tmp_path / "new", "--data", tmp_path / what)
    assert "--data" in line or str(tmp_path / what) in line


@pytest.mark.parametrize("name", READERS)
def test_data_must_be_a_file_that_can_be_read(name, refused, tmp_path, monkeypatch):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path / "missing", tmp_path, fifo, tmp_path / ("x" * 300)):
        refused(name, "--out", tmp_path / "out", "--data", path)
    locked = tmp_path / "locked"
    locked.touch()

    def forbidden(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(data, "read", forbidden)  # root may read anything
    line = refused(name, "--out", tmp_path / "out", "--data", locked)
    assert line.endswith(f"{locked}: Permission denied\n")


# ---------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("name", FOLDERS)
def test_out_must_be_a_folder_that_can_be_written_to(name, refused, tmp_path):
    (tmp_path / "file").write_text("in the way")
    blocked = tmp_path / "blocked"
    for each in WRITTEN[name]:
        (blocked / each).mkdir(parents=True)
    outs = [tmp_path / "file", tmp_path / "file" / "below", tmp_path / "new" / ("x" * 300)]
    for out in [*outs, Path("/dev/null/below"), blocked]:
        assert str(out) in refused(name, *SMALL[name], "--out", out)


def test_a_page_must_be_a_file_that_can_be_written(refused, tmp_path):
    (tmp_path / "folder.png").mkdir()
    for out in ("page.pdf", "page", tmp_path / "folder.png", tmp_path / "none" / "page.png"):
        assert str(out) in refused("lettering", "--lines=1", "--out", out)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_takes_one_run_at_a_time(name, run, refused, tmp_path):
    with FileLock(tmp_path / ".lock"):
        assert "another run" in refused(name, *SMALL[name], "--out", tmp_path)
    assert (tmp_path / ".lock").exists()  # as a killed run leaves it
    ended = run(name, *SMALL[name], "--out", tmp_path)
    assert ended.status == 0, ended.err
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def out(request, tmp_path):
    """Where a script is to write, with files of an earlier run there."""
    name = request.node.callspec.params["name"]
    for each in WRITTEN[name]:
        (tmp_path / each).write_text("as it was")
    return tmp_path / WRITTEN[name][0] if name == "lettering" else tmp_path


@pytest.mark.parametrize("name", SMALL)
def test_a_full_disk_leaves_what_was_there(name, refused, out, files_up_to):
    with files_up_to(1000):
        assert "File too large" in refused(name, *SMALL[name], "--out", out)


@pytest.mark.parametrize("name", SMALL)
def test_an_interrupted_run_says_so_and_leaves_what_was_there(
    name, run, everything, out, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)  # once a new file is written
    before = everything()
    status, _, err = run(name, *SMALL[name], "--out", out)
    assert status == 1
    assert "nterrupted" in err
    assert len(err.splitlines()) == 1
    assert everything() == before


@pytest.mark.parametrize("name", SMALL)
def test_faults_of_the_script_keep_their_traceback(name, script, run, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(script(name), "Parser", broken)
    with pytest.raises(ZeroDivisionError):
        run(name, *SMALL[name], "--out", tmp_path)


# ------------------------------------------------------------------------------ as they are called


def call(code, *options, **more):
    command = [sys.executable, *code, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def test_a_script_that_is_called_ends_in_one_line_and_status_2(tmp_path):
    ended = call([EXAMPLES / "handwriting.py"], "--load", tmp_path, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"handwriting\.py: error: argument --load: .*\n", ended.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SMALL)
def test_missing_packages_are_asked_for(name, script, monkeypatch, capsys):
    script(name)
    for module in list(sys.modules):
        if (EXAMPLES / f"{module}.py").exists():
            monkeypatch.delitem(sys.modules, module)
    for package in ("HersheyFonts", "matplotlib", "safetensors", "tqdm"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as stop:
        script(name)
    assert stop.value.code == 2
    packages = "HersheyFonts, matplotlib, safetensors, tqdm"
    assert capsys.readouterr().err.endswith(
        f'error: needs {packages}: pip install -e ".[examples]"\n'
    )
