import os

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch.distributions import Distribution

collect_ignore = ["types"]  # for type checkers to read, not to be run

# A busy machine is no fault of the code.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# The tensors are small: threads would mostly wait for each other, long on a busy machine.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

GLOBAL_STATE = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, torch.set_default_device),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomaly detection": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "validation of distributions": (
        lambda: Distribution._validate_args,
        Distribution.set_default_validate_args,
    ),
}


@pytest.fixture(autouse=True)
def unchanged_torch_state():
    """Seed torch, and fail a test that leaves torch's global state changed."""
    before = {name: read() for name, (read, _) in GLOBAL_STATE.items()}
    torch.manual_seed(0)
    yield
    changed = []
    for name, (read, write) in GLOBAL_STATE.items():
        if (after := read()) != before[name]:
            write(before[name])  # the next test is not to fail for this one
            changed.append(f"{name} from {before[name]} to {after}")
    if changed:
        pytest.fail("the test changed torch's global state: " + ", ".join(changed))
