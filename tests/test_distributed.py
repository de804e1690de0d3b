"""Two processes that share a batch take the steps of one process that has it all."""

import warnings

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from mdn_dist import MixtureDensityHead, PredictionNetwork
from mdn_dist.pens import BernoulliPen, OneHotPen

pytestmark = pytest.mark.slow

PROCESSES, SEQUENCES, LENGTH, FEATURES, STEPS = 2, 6, 5, 4, 3
DOUBLE = {"dtype": torch.float64}


def head(pen, **arguments):
    return MixtureDensityHead(FEATURES, 3, pen=pen, **arguments, **DOUBLE)


def network(clip_outputs, clip_lstm):
    # limits so low that they are felt: see test_the_clips_are_felt
    return PredictionNetwork(
        6, 2, components=3, clip_outputs=clip_outputs, clip_lstm=clip_lstm, **DOUBLE
    )


MODELS = {
    "head": lambda: head("bernoulli"),
    "clipped head": lambda: head("bernoulli", clip_outputs=0.1),
    "head with pen states": lambda: head("one_hot"),
    "head without a pen": lambda: head(None),
    "network": lambda: network(None, None),
    "clipped network": lambda: network(0.1, 0.02),
    "network with clipped outputs": lambda: network(0.1, None),
}


def sharded(model):
    if isinstance(model, PredictionNetwork):
        for part in (*model.layers, model.head):
            fully_shard(part, reshard_after_forward=True)
    return fully_shard(model, reshard_after_forward=True)


WRAPPERS = {
    "DDP": DistributedDataParallel,
    "DDP that looks for unused parameters": lambda model: DistributedDataParallel(
        model, find_unused_parameters=True
    ),
    "FSDP": sharded,
}


def data():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(SEQUENCES, LENGTH, FEATURES, generator=generator, **DOUBLE)
    offsets = torch.randn(SEQUENCES, LENGTH, 2, generator=generator, **DOUBLE)
    states = torch.randint(3, (SEQUENCES, LENGTH), generator=generator)
    return features, offsets, states


def score(model, inner, features, offsets, states):
    """The sum over the points, so that each point's derivatives are clipped as anywhere."""
    if isinstance(inner, PredictionNetwork):
        strokes = torch.cat([offsets, (states == 0).to(offsets).unsqueeze(-1)], -1)
        distribution, _ = model(strokes[:, :-1])
        return distribution.log_prob(strokes[:, 1:]).sum()
    pen = {
        None: offsets[..., :0],
        BernoulliPen: (states == 0).to(offsets).unsqueeze(-1),
        OneHotPen: nn.functional.one_hot(states, 3).to(offsets),
    }[inner.pen]
    return model(features).log_prob(torch.cat([offsets, pen], -1)).sum()


def trained(model, inner, batch, share=1.0):
    """Parameters after a few steps, each along `share` times the gradient of the score."""
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (-score(model, inner, *batch)).backward()
        for parameter in model.parameters():
            parameter.grad *= share
        optimizer.step()
    values = {name: value.detach() for name, value in inner.named_parameters()}
    return {n: v.full_tensor() if isinstance(v, DTensor) else v for n, v in values.items()}


def fresh(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[name]()


def work(rank, folder):
    warnings.simplefilter("error")
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES
    )
    batch = [whole.chunk(PROCESSES)[rank] for whole in data()]
    found = {}
    for name in MODELS:
        for wrapper, wrap in WRAPPERS.items():
            model = fresh(name)
            try:
                found[name, wrapper] = trained(wrap(model), model, batch)
            except Exception as error:  # noqa: BLE001  # told by the test of this pair
                found[name, wrapper] = f"{type(error).__name__}: {error}"
    torch.save(found, f"{folder}/{rank}")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process ends with, by model and wrapper."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(work, (str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / str(rank)) for rank in range(PROCESSES)]


def alone(name, batch, share=1 / PROCESSES):
    model = fresh(name)
    return trained(model, model, batch, share)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", MODELS)
def test_two_processes_take_the_steps_of_one(found, name, wrapper):
    expected = alone(name, data())
    half = alone(name, [whole.chunk(PROCESSES)[0] for whole in data()], share=1.0)
    for each in found:
        parameters = each[name, wrapper]
        assert not isinstance(parameters, str), parameters
        assert parameters.keys() == expected.keys()
        for key, value in parameters.items():
            torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-9)
            # a process that kept its gradient to itself would end here
            assert not torch.allclose(half[key], expected[key], rtol=1e-6, atol=1e-6)


def test_the_clips_are_felt():
    clipped, outputs_only, free = (
        alone(name, data())
        for name in ("clipped network", "network with clipped outputs", "network")
    )
    for key, value in free.items():
        assert not torch.allclose(clipped[key], value, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(
        clipped["layers.0.weight_hh_l0"], outputs_only["layers.0.weight_hh_l0"], rtol=1e-6
    )
    assert not torch.allclose(
        alone("clipped head", data())["linear.weight"], alone("head", data())["linear.weight"]
    )
