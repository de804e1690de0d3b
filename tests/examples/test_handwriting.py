"""The main job on a small scale: interrupted and resumed, by one process and by two."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("HersheyFonts", reason="the examples extra is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="the examples extra is missing")

SCRIPT = Path(__file__).parents[2] / "examples" / "handwriting.py"
SMALL = ["--lines", "40", "--hidden-size", "16", "--components", "3", "--batch-size", "9"]
PICTURES = ["samples.svg", "samples.png", "density.png"]

pytestmark = pytest.mark.slow


def command(out, *options, processes=1):
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launch, str(SCRIPT), "--out", str(out), *SMALL, *options]


def run(*arguments, **options):
    done = subprocess.run(
        command(*arguments, **options), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def weights(out):
    return safetensors.load_file(out / "model.safetensors")


def assert_same_weights(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], **tolerance)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    printed = run(out, "--steps", "150")
    return out, printed


def test_it_prints_four_scores_and_writes_pictures_and_the_model(uninterrupted):
    out, printed = uninterrupted
    scores = {line[:3]: float(line[32:41]) for line in printed.splitlines() if line[0] == "("}
    assert list(scores) == ["(a)", "(b)", "(c)", "(d)"]
    assert abs(scores["(a)"] - scores["(b)"]) < 0.1
    assert scores["(c)"] < scores["(a)"] - 0.5
    assert all((out / name).stat().st_size > 1000 for name in PICTURES)


def test_a_loaded_model_samples_again(uninterrupted, tmp_path):
    out, _ = uninterrupted
    run(tmp_path, "--load", str(out / "model.safetensors"), "--bias", "1")
    assert (tmp_path / "samples.svg").stat().st_size > 1000


def test_an_interrupted_run_resumes_where_it_was(uninterrupted, tmp_path):
    with subprocess.Popen(
        command(tmp_path, "--steps", "150"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while not (tmp_path / "checkpoint.pt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode != 0
    assert not (tmp_path / "model.safetensors").exists()
    run(tmp_path, "--steps", "150", "--resume")
    assert_same_weights(weights(tmp_path), weights(uninterrupted[0]), rtol=0, atol=0)


def test_two_processes_take_the_same_steps_and_resume_what_one_began(tmp_path):
    """Sums are ordered differently, so that weights agree only to rounding, over a few steps."""
    both, one = (tmp_path / name for name in ("both", "one"))
    run(both, "--steps", "52", processes=2)
    run(one, "--steps", "52")
    close = {"rtol": 1e-3, "atol": 1e-3}
    assert_same_weights(weights(both), weights(one), **close)
    checkpoint = torch.load(one / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] == 52
    printed = run(one, "--steps", "60", "--resume", processes=2)
    assert printed.count("(c) network after training") == 1


def test_resuming_another_network_is_refused(uninterrupted):
    out, _ = uninterrupted
    refused = subprocess.run(
        [*command(out, "--resume"), "--layers", "2"], capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "--resume needs the network of" in refused.stderr
