"""The forecasts: nothing held out is fitted to, and what is printed is what statsmodels says."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from statsmodels.tsa.ar_model import AutoReg


@pytest.fixture
def example(script):
    return script("forecast")


def test_forecasts_are_statsmodels_own_and_see_nothing_of_the_future(example):
    years, values = example.load()
    before, after = example.forecast(lags=9, horizon=4, held_out=1990)
    split = int((years < 1990).sum())
    assert before.year.max() == 1990 - 4  # the last whose four years are all before
    assert after.year.min() == 1990
    fitted = AutoReg(values[:split], 9).fit()
    there = fitted.get_prediction(split, split + 3)
    np.testing.assert_allclose(after.mean[0], there.predicted_mean, rtol=1e-5)
    np.testing.assert_allclose(after.deviation[0], there.se_mean, rtol=1e-5)
    by_hand = fitted.params[0] + fitted.params[1:] @ values[split + 4 : split - 5 : -1]
    np.testing.assert_allclose(after.mean[5, 0], by_hand, rtol=1e-5)
    assert torch.equal(after.value[5, :, 0], torch.tensor(values[split + 5 : split + 9]).float())


def test_a_line_tells_crps_nats_and_coverage(example):
    _, after = example.forecast(lags=9, horizon=2, held_out=2000)
    words = example.describe("AutoReg", after.gaussian(), after.value).split()
    mean, deviation = after.mean.double().flatten(), after.deviation.double().flatten()
    value = after.value.double().flatten()
    crps = []
    for m, s, x in zip(mean.tolist(), deviation.tolist(), value.tolist(), strict=True):
        normal = stats.norm(m, s)
        low = integrate.quad(lambda y, n=normal: n.cdf(y) ** 2, m - 12 * s, x)[0]
        crps.append(low + integrate.quad(lambda y, n=normal: n.sf(y) ** 2, x, m + 12 * s)[0])
    assert float(words[1]) == pytest.approx(np.mean(crps), abs=0.051)
    assert float(words[2]) == pytest.approx(
        -stats.norm(mean, deviation).logpdf(value).mean(), abs=6e-3
    )
    for word, level in zip(words[3:], (0.5, 0.8, 0.95), strict=True):
        held = (value - mean).abs() / deviation <= stats.norm.ppf((1 + level) / 2)
        assert float(word.rstrip("%")) == pytest.approx(100 * held.double().mean().item(), abs=0.51)


def test_a_short_run_beats_the_model_below_it_where_it_was_trained(example):
    before, _ = example.forecast(lags=9, horizon=5, held_out=1921)
    torch.manual_seed(0)
    network = example.ErrorNetwork(9, 8, 3, before.value.std().item())
    example.train(network, before, 60)
    with torch.no_grad():
        gain = network(before).log_prob(before.value) - before.gaussian().log_prob(before.value)
    assert gain.mean() > 0.02
