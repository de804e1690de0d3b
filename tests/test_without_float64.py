"""On a device without float64, what needs it goes by way of the CPU, and comes back."""

import pytest
import torch
from cases import CASES, generator
from torch.testing import assert_close
from without_float64 import CPU, MPS, OnMPS, WithoutFloat64

from mdn_dist import GaussianMixture, MixtureDensityHead, PredictionNetwork, StrokeDistribution


@pytest.fixture
def device():
    with WithoutFloat64():
        yield MPS


def points(count):
    offsets = torch.randn(count, 2, generator=generator(1))
    return torch.cat([offsets, (offsets[:, :1] > 1).float()], -1)


def test_the_device_refuses_float64(device):
    with pytest.raises(TypeError, match="no float64"):
        torch.zeros(2).to(device).double()


def test_a_mixture_is_fitted_there(device):
    expected = GaussianMixture.fit(points(300)[:, :2], 3, generator=generator(2))
    fitted = GaussianMixture.fit(points(300)[:, :2].to(device), 3, generator=generator(2))
    for name in ("logits", "loc", "scale_tril"):
        found = getattr(fitted, name)
        assert isinstance(found, OnMPS)
        assert torch.equal(found.to(CPU), getattr(expected, name))


def test_strokes_are_fitted_there(device):
    fitted = StrokeDistribution.fit(points(300).to(device), 3, generator=generator(2))
    expected = StrokeDistribution.fit(points(300), 3, generator=generator(2))
    assert isinstance(fitted.offset.loc, OnMPS)
    assert_close(fitted.mean.to(CPU), expected.mean)


@pytest.mark.parametrize("name", ["mixture of 2", "stroke from outputs"])
def test_a_mode_is_found_there(device, name):
    tensors = [t.float() for t in CASES[name].tensors((5,))]
    expected = CASES[name].build(*tensors).mode
    found = CASES[name].build(*(t.to(device) for t in tensors)).mode
    assert isinstance(found, OnMPS)
    assert_close(found.to(CPU), expected)


@pytest.mark.parametrize(
    "make", [lambda: MixtureDensityHead(4, 3), lambda: PredictionNetwork(4, 1, 3)]
)
def test_a_start_from_the_data_is_made_there(device, make):
    modules = []
    for where in (CPU, device):
        torch.manual_seed(0)
        module = make()
        for owner in module.modules():
            for name, parameter in list(owner.named_parameters(recurse=False)):
                owner._parameters[name] = torch.nn.Parameter(parameter.to(where))
        modules.append(module.initialize(points(300).to(where), generator=generator(3)))
    for ours, expected in zip(*(m.parameters() for m in reversed(modules)), strict=True):
        assert isinstance(ours, OnMPS)
        assert_close(ours.to(CPU), expected)
