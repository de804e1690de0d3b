"""Forecast a real series with honest error bars: sunspots, a mixture on statsmodels' own model.

statsmodels ships the yearly number of sunspots, 1700 to 2008, and an autoregressive model,
``AutoReg``, whose forecasts are Gaussian: as wide in a quiet year as in an active one, and below
zero. A small network reads its forecasts, the horizon and the last values, and ends in
``MixtureDensityHead(pen=None)``: what it makes is the distribution of ``AutoReg``'s error in units
of its deviation, and ``affine`` puts it back into sunspots. Neither is fitted to years held out.

    python examples/forecast.py

It prints, for the years held out and all horizons, the continuous ranked probability score (CRPS,
in sunspots), nats a forecast and how many central intervals of 50, 80 and 95 % hold what came, and
writes a fan chart of both under ``--out``.
"""

import argparse
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from command_line import Parser, Refusal, claimed, errors_in_one_line, integer, save_figure, seed
from matplotlib.figure import Figure
from statsmodels.datasets import sunspots
from statsmodels.tsa.ar_model import AutoReg
from torch import Tensor, nn
from tqdm import tqdm

from mdn_dist import GaussianMixture, MixtureDensityHead

PICTURES = ("forecast.svg", "forecast.png")
INK, RED = "#1b2a49", "#c1443c"
LEVELS = (0.5, 0.8, 0.95)


class Forecasts(NamedTuple):
    """What was forecast after each of ``N`` years, ``H`` years ahead, and what came."""

    year: Tensor  # (N), the first that is forecast
    mean: Tensor  # (N, H)
    deviation: Tensor  # (N, H)
    lags: Tensor  # (N, L), the last values
    value: Tensor  # (N, H, 1)

    def gaussian(self) -> GaussianMixture:
        """Returns AutoReg's own distribution, batch shape ``(N, H)``: a mixture of one."""
        logits = torch.zeros(*self.mean.shape, 1)
        loc, scale = self.mean[..., None, None], self.deviation[..., None, None, None]
        return GaussianMixture(logits, loc, scale)

    def features(self, unit: float) -> Tensor:
        """Returns what the network reads, ``(N, H, 3 + L)``."""
        count, horizon = self.mean.shape
        ahead = torch.linspace(0, 1, horizon).expand(count, -1)
        own = torch.stack([self.mean / unit, self.deviation / unit, ahead], -1)
        return torch.cat([own, (self.lags / unit).unsqueeze(1).expand(-1, horizon, -1)], -1)


@cache
def load() -> tuple[np.ndarray, np.ndarray]:
    """Returns years and their sunspots, each ``(T)``."""
    data = sunspots.load_pandas().data
    return data["YEAR"].to_numpy(int), data["SUNACTIVITY"].to_numpy(float)


def forecast(lags: int, horizon: int, held_out: int) -> tuple[Forecasts, Forecasts]:
    """Fits AutoReg before the year `held_out`; returns its forecasts before and after."""
    years, values = load()
    split = int((years < held_out).sum())
    first, last = 2 * lags + 2, len(values) - horizon + 1
    if not first + horizon < split < last:
        earliest, latest = years[first + horizon + 1], years[last - 1]
        raise Refusal(f"--held-out must be from {earliest} to {latest}, got {held_out}")
    fitted = AutoReg(values[:split], lags).fit()
    deviation = fitted.get_prediction(split, split + horizon - 1).se_mean  # the same for any year
    on_all = fitted.apply(values)
    rows: dict[bool, list[tuple[np.ndarray, ...]]] = {False: [], True: []}
    for t in range(first, last):
        if split - horizon < t < split:  # what came is held out in part
            continue
        ahead = on_all.get_prediction(t, t + horizon - 1, dynamic=True)  # of values before t alone
        came = values[t : t + horizon, None]
        row = (years[t], ahead.predicted_mean, deviation, values[t - lags : t], came)
        rows[t >= split].append(row)
    before, after = (
        Forecasts(*(torch.tensor(np.array(column)).float() for column in zip(*part, strict=True)))
        for part in rows.values()
    )
    return before, after


class ErrorNetwork(nn.Module):
    """AutoReg's forecasts to the distribution of what comes, batch shape ``(N, H)``."""

    def __init__(self, lags: int, hidden_size: int, components: int, unit: float) -> None:
        super().__init__()
        self.unit = unit
        self.trunk = nn.Sequential(
            nn.Linear(3 + lags, hidden_size),
            nn.Tanh(),
            nn.Dropout(0.1),
            nn.Linear(hidden_size, hidden_size),
            nn.Tanh(),
            nn.Dropout(0.1),
        )
        self.head = MixtureDensityHead(hidden_size, components, event_size=1, pen=None)

    def forward(self, given: Forecasts) -> GaussianMixture:
        """Returns the distribution of sunspots."""
        error = self.head(self.trunk(given.features(self.unit)))
        return error.affine(given.mean.unsqueeze(-1), given.deviation.unsqueeze(-1))


def train(network: ErrorNetwork, given: Forecasts, steps: int) -> None:
    """Trains on all forecasts at once, for they are few."""
    error = (given.value - given.mean.unsqueeze(-1)) / given.deviation.unsqueeze(-1)
    network.head.initialize(error)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.1)
    for step in (progress := tqdm(range(steps), disable=None)):
        loss = -network(given).log_prob(given.value).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            progress.set_postfix_str(f"{loss.item():.3f} nats/forecast")
    network.eval()


@torch.no_grad()
def describe(name: str, distribution: GaussianMixture, value: Tensor) -> str:
    """Returns one line: CRPS, nats, and the share that each central interval holds."""
    crps, nats = distribution.crps(value).mean(), -distribution.log_prob(value).mean()
    ends = (distribution.interval(level) for level in LEVELS)
    held = [((low <= value) & (value <= high)).float().mean() for low, high in ends]
    shares = "".join(f"{share:8.0%}" for share in held)
    return f"{name:24}{crps:7.1f}{nats:7.2f} {shares}"


@torch.no_grad()
def draw_picture(named: dict[str, GaussianMixture], given: Forecasts, year: int, out: Path) -> None:
    """Draws a fan chart of each model, `named` by its distributions, from one year on."""
    years, values = load()
    row = int((given.year == year).nonzero())
    ahead = np.arange(year, year + given.mean.shape[1])
    shown = (years >= year - 25) & (years <= ahead[-1])
    figure = Figure(figsize=(7.5, 2.7), layout="constrained")
    panels = figure.subplots(1, len(named), sharex=True, sharey=True)
    for panel, (name, distribution) in zip(panels, named.items(), strict=True):
        for level in reversed(LEVELS):
            low, high = (end[row, :, 0] for end in distribution.interval(level))
            panel.fill_between(ahead, low, high, color=RED, alpha=0.2, linewidth=0)
        panel.plot(ahead, distribution.quantile(0.5)[row, :, 0], color=RED, linewidth=1.5)
        panel.plot(years[shown], values[shown], ".-", color=INK, linewidth=0.8, markersize=4)
        panel.axhline(0, color=INK, linewidth=0.5)
        panel.set_title(f"{name}: median, 50, 80 and 95 %", fontsize=9)
        panel.tick_params(labelsize=7)
    panels[0].set_ylabel("sunspots a year", fontsize=8)
    save_figure(figure, out, PICTURES)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/forecast"), help="folder for the picture")
    add("--held-out", type=integer(1700, 2008), default=1921, help="first year held out")
    add("--horizon", type=integer(1, 50), default=10, help="years ahead")
    add("--lags", type=integer(1, 50), default=9, help="years that are read")
    add("--components", type=integer(1, 200), default=3)
    add("--hidden-size", type=integer(1, 1000), default=8)
    add("--steps", type=integer(1, 10_000_000), default=400, help="training steps")
    add("--seed", type=seed, default=0)
    return parser.parse_args()


@errors_in_one_line()
def main() -> None:
    """Runs the example."""
    args = parse()
    with claimed(args.out, *PICTURES):
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Trains a network on AutoReg's forecasts, and holds both against what came."""
    torch.manual_seed(args.seed)
    before, after = forecast(args.lags, args.horizon, args.held_out)
    unit = before.value.std().item()
    network = ErrorNetwork(args.lags, args.hidden_size, args.components, unit)
    train(network, before, args.steps)
    with torch.no_grad():
        named = {"AutoReg": after.gaussian(), "mixture on AutoReg": network(after)}
    count = len(after.year) * args.horizon
    print(f"{count} forecasts of {int(after.year[0])} and later. CRPS in sunspots and nats a")
    print("forecast: lower is better. Shares held by central intervals of 50, 80 and 95 %.")
    print(f"{'':24}{'CRPS':>7}{'nats':>7} {'50 %':>8}{'80 %':>8}{'95 %':>8}")
    for name, distribution in named.items():
        print(describe(name, distribution, after.value))
    draw_picture(named, after, int(after.year[len(after.year) // 2]), args.out)
    print(f"Written to {args.out}: {', '.join(PICTURES)}")


if __name__ == "__main__":
    main()
