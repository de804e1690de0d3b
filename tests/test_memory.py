"""What scoring holds for the backward pass, and what a million points take at most."""

import subprocess
import sys

import pytest
import torch
from cases import CASES, normal, output_size

from mdn_dist import StrokeDistribution

COMPONENTS = 20


def held_bytes(score, *given):
    """Bytes that autograd keeps of `score()`, in storages other than those of `given`."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = score()
    assert result.requires_grad
    return sum(kept.values()) - sum(kept.get(t.untyped_storage().data_ptr(), 0) for t in given)


@pytest.mark.parametrize("change", [lambda d: d, lambda d: d.biased(0.5).tempered(0.5)])
@pytest.mark.parametrize("rows", [(7,), (50, 40), (9000,)])
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot"])
def test_the_backward_pass_holds_one_copy_of_the_outputs(pen, rows, change):
    outputs = normal(*rows, output_size(COMPONENTS, 2, pen), seed=1).float().requires_grad_()
    name = {"bernoulli": "stroke from outputs", "one_hot": "pen states from outputs"}[pen]
    value = CASES[name].points(*rows).float()
    d = change(StrokeDistribution.from_outputs(outputs, COMPONENTS, pen=pen))
    held = held_bytes(lambda: d.log_prob(value), outputs, value)
    assert 0 < held <= 1.1 * outputs.nbytes
    # the same density composed of torch's operations holds far more
    composed = held_bytes(
        lambda: d.offset.component_distribution.log_prob(value[..., None, :2]).logsumexp(-1),
        outputs,
        value,
    )
    assert composed > 2 * outputs.nbytes


MILLION = """
import gc, sys, torch
from mdn_dist import StrokeDistribution

def peak(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

def score(outputs, value):
    result = StrokeDistribution.from_outputs(outputs, validate_args=False).log_prob(value)
    if outputs.requires_grad:
        result.sum().backward()
    return result

wanted = sys.argv[1] == "with"
value = torch.zeros(1_000_000, 3)
score(torch.zeros(9000, 121, requires_grad=wanted), value[:9000])  # what torch itself loads
outputs = torch.empty(1_000_000, 121).normal_().requires_grad_(wanted)
before = peak("VmRSS")
assert peak("VmHWM") < before + 0.1 * outputs.nbytes
assert score(outputs, value).isfinite().all()
print((peak("VmHWM") - before) / outputs.nbytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("gradient", "least"), [("with", 1), ("without", 0)])
def test_a_million_points_are_scored_in_three_times_their_outputs(gradient, least):
    command = [sys.executable, "-c", MILLION, gradient]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    extra = float(ran.stdout)
    assert least < extra < 3
