"""The Rosenblatt transform and its inverse, against integrals, SciPy, mpmath and each other."""

import pytest
import torch
from cases import generator, mixture_parameters
from torch.testing import assert_close

from mdn_dist import GaussianMixture
from mdn_dist.rosenblatt import inverse_rosenblatt, rosenblatt

SIZES = pytest.mark.parametrize("size", [1, 2, 3, 6])


def uniform(*shape, seed):
    return torch.rand(shape, dtype=torch.float64, generator=generator(seed))


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=str)
@SIZES
def test_the_inverse_returns_the_point(size, batch):
    d = GaussianMixture(*mixture_parameters(batch, size))
    for shape in (batch, (5, *batch)):
        u = uniform(*shape, size, seed=5)
        assert_close(d.rosenblatt(d.inverse_rosenblatt(u)), u, rtol=1e-13, atol=1e-14)
        x = d.sample(shape[: len(shape) - len(batch)], generator(6))
        assert_close(d.inverse_rosenblatt(d.rosenblatt(x)), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("transform", [rosenblatt, inverse_rosenblatt])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_first_and_second_derivatives(transform, size):
    inputs = [p.requires_grad_() for p in mixture_parameters((), size, components=2)]
    inputs.append(uniform(size, seed=7).requires_grad_())

    def function(logits, loc, scale_tril, value):
        return transform(logits, loc, scale_tril.tril(), value)

    # for the inverse, these are differences of what the root finder finds
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
