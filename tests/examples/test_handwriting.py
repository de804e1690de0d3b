"""The main job on a small scale: interrupted, resumed, refused, by one process and by two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

safetensors = pytest.importorskip("safetensors.torch", reason="the examples extra is missing")

SCRIPT = Path(__file__).parents[2] / "examples" / "handwriting.py"
PICTURES = ["samples.svg", "samples.png", "density.png"]
SMALL = ["--lines=40", "--hidden-size=16", "--components=3", "--batch-size=9"]
TINY = ["--lines=6", "--hidden-size=3", "--components=2", "--batch-size=2", "--bias=0"]


def weights(out):
    return safetensors.load_file(out / "model.safetensors")


def assert_same_weights(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], **tolerance)


@pytest.fixture
def handwriting(script, monkeypatch):
    """The script, with a checkpoint every other step."""
    module = script("handwriting")
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 2)
    return module


@pytest.fixture
def interrupted(handwriting, run, tmp_path, monkeypatch):
    """A run of seven steps whose user presses Ctrl-C once there is a checkpoint, at the fourth."""
    save, taken = handwriting.save_checkpoint, []

    def save_and_press(path, options, step, *states):
        save(path, options, step, *states)
        taken.append(step)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(handwriting, "save_checkpoint", save_and_press)
        ended = run("handwriting", *TINY, "--steps=7", "--out", tmp_path)
    assert taken == [2, 4]
    assert ended.status == 1
    assert ended.err == "handwriting.py: Interrupted: --resume goes on from the last checkpoint\n"
    return tmp_path


def test_an_interrupted_run_resumes_where_it_was(interrupted, run, tmp_path_factory):
    assert [path.name for path in interrupted.iterdir()] == ["checkpoint.safetensors"]
    ended = run("handwriting", *TINY, "--steps=7", "--out", interrupted, "--resume", "--bias=1")
    assert ended.status == 0, ended.err
    whole = tmp_path_factory.mktemp("whole")
    assert run("handwriting", *TINY, "--steps=7", "--out", whole).status == 0
    assert_same_weights(weights(interrupted), weights(whole), rtol=0, atol=0)
    assert all((interrupted / name).stat().st_size > 1000 for name in PICTURES)


OTHERS = {
    "batch-size": 3,
    "components": 3,
    "hidden-size": 4,
    "layers": 2,
    "learning-rate": 0.001,
    "limit": 5,
    "lines": 7,
    "seed": 1,
    "spacing": 0.05,
    "steps": 8,
}


@pytest.mark.parametrize("option", OTHERS)
def test_a_run_is_not_resumed_with_other_options(interrupted, refused, option):
    value = OTHERS[option]
    line = refused(
        "handwriting", *TINY, "--steps=7", "--out", interrupted, "--resume", f"--{option}={value}"
    )
    assert f"--{option} " in line
    assert f", got {value}" in line


def test_every_option_but_a_few_is_held_against_the_checkpoint(interrupted):
    with safetensors.safe_open(interrupted / "checkpoint.safetensors", "pt") as file:
        options = json.loads(file.metadata()["options"])
    assert {name.replace("_", "-") for name in options} == OTHERS.keys() | {"data"}


def test_a_run_is_not_resumed_with_other_data(run, refused, tmp_path):
    pen = [{"word": "a", "drawing": [[[0, 9, i], [i, 5, 1]]]} for i in range(1, 9)]
    path, out = tmp_path / "pen.ndjson", tmp_path / "out"
    path.write_text("\n".join(map(json.dumps, pen)))
    options = ["--hidden-size=2", "--components=1", "--steps=2", "--bias=0", "--out", out]
    assert run("handwriting", *options, "--data", path).status == 0
    assert "--data " in refused("handwriting", *options, "--resume")
    elsewhere = path.rename(tmp_path / "moved.ndjson")
    assert run("handwriting", *options, "--resume", "--data", elsewhere).status == 0
    elsewhere.write_text("\n".join(map(json.dumps, pen[::-1])))
    assert "--data " in refused("handwriting", *options, "--resume", "--data", elsewhere)


def test_there_must_be_something_to_resume(interrupted, refused, tmp_path):
    line = refused("handwriting", *TINY, "--resume", "--out", tmp_path / "another")
    assert "--resume: expected " in line
    path = interrupted / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    line = refused("handwriting", *TINY, "--steps=7", "--resume", "--out", interrupted)
    assert str(path) in line
    assert "damaged" in line
    assert "--resume: not allowed with" in refused(
        "handwriting", "--load", path, "--resume", "--out", interrupted
    )


def test_a_finished_run_goes_on_to_more_steps(run, refused, tmp_path):
    assert run("handwriting", *TINY, "--steps=3", "--out", tmp_path).status == 0
    first = weights(tmp_path)
    assert run("handwriting", *TINY, "--steps=3", "--out", tmp_path, "--resume").status == 0
    assert_same_weights(weights(tmp_path), first, rtol=0, atol=0)
    assert run("handwriting", *TINY, "--steps=5", "--out", tmp_path, "--resume").status == 0
    assert any((weights(tmp_path)[name] != weight).any() for name, weight in first.items())
    refused("handwriting", *TINY, "--steps=3", "--out", tmp_path, "--resume")


def test_a_model_is_sampled_again_or_refused(run, refused, tmp_path):
    out, model = tmp_path / "out", tmp_path / "model.safetensors"
    assert run("handwriting", *TINY, "--steps=1", "--out", tmp_path).status == 0
    ended = run("handwriting", "--load", model, "--bias", "0", "1", "--out", out)
    assert ended.status == 0, ended.err
    assert (out / "samples.svg").stat().st_size > 1000
    model.write_bytes(model.read_bytes()[:-1])
    line = refused("handwriting", "--load", model, "--out", tmp_path / "another")
    assert str(model) in line
    for path in (tmp_path, tmp_path / "missing", tmp_path / "samples.png"):
        assert str(path) in refused("handwriting", "--load", path, "--out", out)


def test_training_that_is_lost_replaces_nothing(handwriting, run, refused, tmp_path, monkeypatch):
    assert run("handwriting", *TINY, "--steps=2", "--out", tmp_path).status == 0
    monkeypatch.setattr(handwriting, "schedule", lambda share: torch.nan if share else 0.0)
    line = refused("handwriting", *TINY, "--steps=3", "--out", tmp_path)
    assert "step 2 of training left values that are not finite" in line


def test_a_disk_that_fills_up_at_the_end_leaves_whole_files(run, tmp_path, files_up_to):
    assert run("handwriting", *TINY, "--steps=2", "--out", tmp_path).status == 0
    before = {name: (tmp_path / name).read_bytes() for name in PICTURES}
    old = weights(tmp_path)
    with files_up_to(10_000):  # a model has fewer bytes, a picture more
        ended = run("handwriting", *TINY, "--steps=2", "--out", tmp_path, "--seed=1")
    assert ended.status == 2
    assert "samples.png: cannot be written: File too large" in ended.err
    assert {name: (tmp_path / name).read_bytes() for name in PICTURES} == before
    assert any((weights(tmp_path)[name] != weight).any() for name, weight in old.items())
    assert not list(tmp_path.glob(".*"))


# ---------------------------------------------------------------------------- by torch's launcher


def call(out, *options, processes=1):
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*launch, str(SCRIPT), "--out", str(out), *SMALL, *options],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_it_prints_four_scores_and_writes_pictures_and_the_model(tmp_path):
    done = call(tmp_path, "--steps=150")
    assert done.returncode == 0, done.stderr
    scores = {line[:3]: float(line[32:41]) for line in done.stdout.splitlines() if line[0] == "("}
    assert list(scores) == ["(a)", "(b)", "(c)", "(d)"]
    assert abs(scores["(a)"] - scores["(b)"]) < 0.1
    assert scores["(c)"] < scores["(a)"] - 0.5
    assert all((tmp_path / name).stat().st_size > 1000 for name in PICTURES)


@pytest.mark.slow
def test_two_processes_take_the_same_steps_and_resume_what_one_began(tmp_path):
    """Sums are ordered differently, so that weights agree only to rounding, over a few steps."""
    both, one = (tmp_path / name for name in ("both", "one"))
    for out, processes in ((both, 2), (one, 1)):
        done = call(out, "--steps=12", processes=processes)
        assert done.returncode == 0, done.stderr
    assert_same_weights(weights(both), weights(one), rtol=1e-3, atol=1e-3)
    done = call(one, "--steps=20", "--resume", processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(c) network after training") == 1


@pytest.mark.slow
def test_of_two_processes_one_says_what_is_wrong_and_both_end(tmp_path, files_up_to):
    for option, size in (("--bias=-1", 10**9), ("--resume", 10**9), ("--steps=2", 1000)):
        with files_up_to(size):
            done = call(tmp_path / "out", option, processes=2)
        assert done.returncode != 0
        assert done.stderr.count("handwriting.py: error: ") == 1, done.stderr
        assert 'handwriting.py", line' not in done.stderr
