"""Calibration: tests of uniformity against SciPy, and what they say of right and wrong models."""

import pytest
import torch
from cases import generator, mixture_parameters
from scipy import stats

from mdn_dist import GaussianMixture
from mdn_dist.calibration import kolmogorov_smirnov


@pytest.mark.parametrize("count", [20, 300, 5000])
def test_kolmogorov_smirnov_is_scipys(count):
    u = torch.rand(count, 3, dtype=torch.float64, generator=generator(12))
    u[:, 1] **= 1.05
    u[:, 2] = u[:, 2] * 0.9
    statistic, p_value = kolmogorov_smirnov(u)
    for i in range(3):
        expected = stats.kstest(u[:, i].numpy(), "uniform", method="exact")
        assert statistic[i].item() == pytest.approx(expected.statistic, abs=1e-14)
        assert p_value[i].item() == pytest.approx(expected.pvalue, rel=0.06, abs=1e-3)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_right_model_passes_and_one_with_scales_a_fifth_off_fails(size):
    logits, loc, scale_tril = mixture_parameters((), size)
    points = GaussianMixture(logits, loc, scale_tril).sample((5000,), generator(13))
    for factor, right in ((1.0, True), (0.8, False), (1.2, False)):
        d = GaussianMixture(logits, loc, factor * scale_tril)
        _, p_value = kolmogorov_smirnov(d.rosenblatt(points))
        # false-alarm rate 1e-3 over seeds for each of the 6 coordinates
        assert (p_value > 1e-3).all() == right


@pytest.mark.parametrize("shape", [(0, 2), (4, 0), (), (5,)], ids=str)
def test_what_is_no_sample_is_refused(shape):
    with pytest.raises(ValueError, match=r"uniform must hold points .* got shape"):
        kolmogorov_smirnov(torch.zeros(shape))


@pytest.mark.parametrize("wrong", [torch.nan, -0.1, 1.1])
def test_numbers_outside_the_cube_are_refused(wrong):
    with pytest.raises(ValueError, match="uniform must be from 0 to 1; leave padding out"):
        kolmogorov_smirnov(torch.tensor([[0.5], [wrong]]))


def test_the_smallest_and_the_largest_distance():
    statistic, p_value = kolmogorov_smirnov(torch.tensor([[0.0, 0.25], [0.0, 0.75]]))
    assert statistic.tolist() == [1.0, 0.25]
    assert p_value[0] < 0.1
    assert p_value[1] > 0.99
    middles = (torch.arange(10_000.0) + 0.5).unsqueeze(-1) / 10_000
    assert kolmogorov_smirnov(middles)[1].item() == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 49, 50, 100, 1000, 100_000])
def test_p_values_are_as_good_as_they_say(count):
    worst = 0.0
    for distance in (*torch.linspace(0.01, 0.99, 25).tolist(), 0.5 / count**0.5, 1 / count**0.5):
        # a sample at this distance: evenly spaced, and pushed down
        places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        u = (places - max(0.0, distance - 0.5 / count)).clamp_min(0).unsqueeze(-1)
        statistic, p_value = kolmogorov_smirnov(u)
        worst = max(worst, abs(p_value.item() - stats.kstwo.sf(statistic.item(), count)))
    assert worst < (1e-12 if count < 50 else 3e-4)
