"""The distinct modes and what leads to them, against local maxima on a fine grid."""

import math

import numpy as np
import pytest
import torch
from cases import mixture_parameters, output_case, stock_mixture
from torch.distributions import Distribution
from torch.func import vmap
from torch.testing import assert_close

from mdn_dist import GaussianMixture
from mdn_dist._maths import modes as ascents

BATCHES = [(), (4,), (2, 3), (2, 1, 3)]
SIZES = pytest.mark.parametrize("size", [1, 2, 6])
STEPS = {1: 20_001, 2: 401}


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


class Grid:
    """Heights over all of a mixture, and the cell to which the steepest way up leads from each."""

    def __init__(self, logits, loc, scale_tril):
        self.size = loc.shape[-1]
        low, high = loc.amin(0) - 1.5, loc.amax(0) + 1.5
        self.low, self.step = low, (high - low) / (STEPS[self.size] - 1)
        axes = [torch.linspace(a, b, STEPS[self.size]).double() for a, b in zip(low, high)]  # noqa: B905
        self.points = torch.cartesian_prod(*axes).view(-1, self.size)
        self.height = stock_mixture(logits, loc, scale_tril).log_prob(self.points)
        square = self.height.view([STEPS[self.size]] * self.size)
        index = torch.arange(square.numel()).view_as(square)
        best, self.up = square.clone(), index.clone()
        for shift in torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * self.size).view(
            -1, self.size
        ):
            dims = tuple(range(self.size))
            neighbour = square.roll(shift.tolist(), dims)
            higher = neighbour > best
            best = torch.where(higher, neighbour, best)
            self.up = torch.where(higher, index.roll(shift.tolist(), dims), self.up)
        self.up = self.up.flatten()
        while not torch.equal(self.up, self.up[self.up]):
            self.up = self.up[self.up]

    def maxima(self):
        """Cells that are local maxima, by falling height."""
        cells = self.up.unique()
        return cells[self.height[cells].argsort(descending=True)]

    def cell(self, points):
        """The nearest cells of points ``(N, D)``."""
        places = ((points - self.low) / self.step).round().long()
        index = places[:, 0]
        for column in places.unbind(-1)[1:]:
            index = index * STEPS[self.size] + column
        return index


def mixtures(size, components, spread, seed):
    logits, loc, scale_tril = mixture_parameters((), size, components, seed=seed)
    return logits, spread * loc, scale_tril


GRIDS = [(1, 4, 2.0), (1, 8, 3.0), (1, 3, 0.7), (2, 3, 2.0), (2, 6, 3.0), (2, 2, 0.5)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("size", "components", "spread"), GRIDS)
def test_the_modes_are_the_maxima_of_a_grid(size, components, spread, seed):
    parameters = mixtures(size, components, spread, 20 * seed)
    grid, count = Grid(*parameters), 2 * components
    points, log_density, mass = GaussianMixture(*parameters).modes(count)
    cells = grid.maxima()
    there = log_density.isfinite()
    assert there.sum() == len(cells)
    assert (there == (torch.arange(count) < len(cells))).all()
    apart = torch.cdist(points[there], grid.points[cells]).amin(-1)
    assert (apart < 2 * grid.step.norm()).all()
    height = stock_mixture(*parameters).log_prob(points[there])
    assert_close(log_density[there], height)
    assert (height >= grid.height[cells]).all()
    assert points[~there].isnan().all()
    assert (mass[~there] == 0).all()
    assert_close(mass.sum(), double(1.0).squeeze())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("size", "components", "spread"), GRIDS)
def test_the_mass_is_the_weight_of_what_climbs_there(size, components, spread, seed):
    parameters = mixtures(size, components, spread, 20 * seed)
    grid = Grid(*parameters)
    points, log_density, mass = GaussianMixture(*parameters).modes(2 * components)
    top = grid.points[grid.up[grid.cell(parameters[1])]]
    there = log_density.isfinite()
    nearest = torch.cdist(top, points[there]).argmin(-1)
    expected = torch.zeros_like(mass).index_add(0, nearest, parameters[0].softmax(-1))
    assert_close(mass, expected)


@pytest.mark.parametrize("min_distance", [0.5, 2.0, 4.0, 1e3])
@pytest.mark.parametrize("size", [1, 2])
def test_modes_near_a_higher_one_are_dropped(size, min_distance):
    d = GaussianMixture(*mixtures(size, 12, 12.0, 7))
    every = [part[part2] for part2 in [d.modes(16)[1].isfinite()] for part in d.modes(16)]
    kept, dropped_for = [], []
    for i, point in enumerate(every[0]):
        near = [j for j in kept if (point - every[0][j]).norm() < min_distance]
        dropped_for.append(near[0] if near else i)
        kept += [] if near else [i]
    assert len(every[0]) > 3
    points, log_density, mass = d.modes(len(kept) + 1, min_distance)
    assert_close(points[:-1], every[0][kept])
    assert_close(log_density[:-1], every[1][kept])
    expected = [sum(m for m, j in zip(every[2], dropped_for, strict=True) if j == i) for i in kept]
    assert_close(mass[:-1], torch.stack(expected))
    assert points[-1].isnan().all()
    assert (log_density[-1], mass[-1]) == (-math.inf, 0)


@pytest.mark.parametrize("batch", BATCHES)
@SIZES
def test_of_one_component_it_is_the_mean(size, batch):
    logits, loc, scale_tril = mixture_parameters(batch, size, 1)
    points, log_density, mass = GaussianMixture(logits, loc, scale_tril).modes(2)
    assert points.shape == (*batch, 2, size)
    assert log_density.shape == mass.shape == (*batch, 2)
    assert_close(points[..., :1, :], loc, rtol=0, atol=1e-9)
    peak = scale_tril.diagonal(dim1=-2, dim2=-1).prod(-1) * (2 * math.pi) ** (size / 2)
    assert_close(log_density[..., :1].exp(), 1 / peak)
    assert (mass == double(1.0, 0.0)).all()
    assert points[..., 1, :].isnan().all()


@pytest.mark.parametrize("batch", BATCHES)
@SIZES
def test_of_components_far_apart_they_are_the_means(size, batch):
    logits, loc, scale_tril = mixture_parameters(batch, size)
    loc = loc + 100 * torch.arange(3.0).view(3, 1)
    points, log_density, mass = GaussianMixture(logits, loc, scale_tril).modes(3)
    weight = logits.softmax(-1)
    height = weight.log() - scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    order = height.argsort(-1, descending=True)
    means = loc.gather(-2, order.unsqueeze(-1).expand_as(loc))
    assert_close(points, means, rtol=0, atol=1e-8)
    assert_close(mass, weight.gather(-1, order))
    constant = size / 2 * math.log(2 * math.pi)
    assert_close(log_density, height.gather(-1, order) - constant)


@SIZES
def test_the_first_is_the_mode(size):
    d = GaussianMixture(*mixture_parameters((50,), size, 5, scale=2.0))
    points, log_density, _ = d.modes(1)
    assert_close(d.log_prob(points.squeeze(-2)), d.log_prob(d.mode), rtol=0, atol=1e-9)
    assert_close(log_density.squeeze(-1), d.log_prob(d.mode), rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_saddle_counts_nor_keeps_what_starts_there(size):
    """Two bumps, and a wide one whose mean lies on the saddle between them."""
    side = torch.zeros(1, size, dtype=torch.float64)
    side[0, -1] = 2.0
    scale = double(0.5, 0.5, 3.0).view(3, 1, 1) * torch.eye(size, dtype=torch.float64)
    d = GaussianMixture(double(0.0, 0.0, -2.0), torch.cat([side, -side, 0 * side]), scale)
    points, _, mass = d.modes(4)
    assert_close(points[:2].abs(), side.expand(2, -1), rtol=0, atol=1e-2)
    assert points[2:].isnan().all()
    assert_close(mass.sum(), double(1.0).squeeze())
    diagonal = GaussianMixture(double(0.0, 0.0), torch.cat([side + 2, -side - 2]), scale[:2])
    assert diagonal.modes(4)[1].isfinite().sum() == 2


def test_an_ascent_that_has_not_ended_is_no_mode_unless_it_is_the_highest(monkeypatch):
    monkeypatch.setattr(ascents, "LIMIT", 1)
    parameters = mixture_parameters((30,), 2, 4)
    points, log_density, _ = GaussianMixture(*parameters).modes(8)
    there = log_density.isfinite()
    assert there[:, 0].all()
    x = torch.where(there.unsqueeze(-1), points, 0.0).movedim(1, 0).requires_grad_()
    (slope,) = torch.autograd.grad(stock_mixture(*parameters).log_prob(x).sum(), x)
    steep = (slope.movedim(0, 1).norm(dim=-1) > 1e-3) & there
    assert steep[:, 0].any()
    assert not steep[:, 1:].any()


def test_a_flat_top_is_one_mode():
    """Two bumps about to part, whose curvature in the middle is 0."""
    d = GaussianMixture(double(0.0, 0.0), double(-1.0, 1.0).view(2, 1), torch.ones(2, 1, 1))
    points, _, mass = d.modes(2, min_distance=0.1)
    assert abs(points[0].item()) < 0.02
    assert_close(mass, double(1.0, 0.0))


@SIZES
def test_a_component_without_weight_has_no_mass(size):
    logits, loc, scale_tril = mixtures(size, 3, 3.0, 4)
    dead = (
        torch.cat([logits, double(-math.inf)]),
        torch.cat([loc, loc[:1] + 30]),
        torch.cat([scale_tril, 1e-6 * scale_tril[:1]]),
    )
    found, expected = GaussianMixture(*dead).modes(6), GaussianMixture(logits, loc, scale_tril)
    assert_close(found, expected.modes(6), equal_nan=True, rtol=1e-7, atol=1e-7)


def test_the_modes_move_with_their_units_and_not_with_the_order():
    logits, loc, scale_tril = mixture_parameters((9,), 2, 5, scale=2.0)
    d = GaussianMixture(logits, loc, scale_tril)
    points, log_density, mass = d.modes(5)
    unit = double(1e-3, 1e4)
    moved = d.affine(3.0, unit).modes(5)
    flipped = GaussianMixture(logits.flip(-1), loc.flip(-2), scale_tril.flip(-3)).modes(5)
    assert_close(flipped, (points, log_density, mass), equal_nan=True, rtol=0, atol=1e-7)
    assert_close((moved[0] - 3) / unit, points, equal_nan=True, rtol=0, atol=1e-6)
    assert_close(moved[1], log_density - unit.log().sum())
    assert_close(moved[2], mass)


@pytest.mark.parametrize("batch", BATCHES)
def test_a_batch_is_its_elements(batch):
    d = GaussianMixture(*mixture_parameters(batch, 2, 4, scale=2.0))
    found = d.modes(4, 0.5)
    for each in np.ndindex(*batch):
        expected = d[each].modes(4, 0.5)
        assert_close([f[each] for f in found], list(expected), equal_nan=True, rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_mixtures_from_outputs_transforms_and_single_precision(monkeypatch, size):
    monkeypatch.setattr(ascents, "LIMIT", 40)  # steps are unrolled
    outputs = output_case(None, size=size).tensors((4,))[0].requires_grad_()
    d = GaussianMixture.from_outputs(outputs, 3, event_size=size)
    found = d.modes(3, 0.1)
    assert not any(part.requires_grad for part in found)
    same = GaussianMixture(d.logits, d.loc, d.scale_tril).modes(3, 0.1)
    assert_close(found, same, equal_nan=True)
    mapped = vmap(lambda d: d.modes(3, 0.1))(d.detach())
    assert_close(mapped, found, equal_nan=True, rtol=0, atol=1e-7)
    single = d.detach().to(torch.float32).modes(3, 0.1)
    assert {part.dtype for part in single} == {torch.float32}
    for ours, wanted in zip(single, found, strict=True):
        assert_close(ours.double(), wanted, equal_nan=True, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiler_makes_one_graph(monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", Distribution._validate_args)
    monkeypatch.setattr(ascents, "LIMIT", 20)  # steps are unrolled; a hundred take long to compile
    torch._dynamo.reset()
    outputs = output_case(None).tensors((4,))[0]

    def found(outputs):
        return GaussianMixture.from_outputs(outputs, 3).modes(3, 0.1)

    compiled = torch.compile(found, backend="eager", fullgraph=True)
    assert_close(compiled(outputs), found(outputs), equal_nan=True, rtol=1e-6, atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "k must be at least 1, got 0"),
        ((1.5,), TypeError, "k must be an integer, got 1.5"),
        ((1, -1.0), ValueError, "min_distance must be finite and at least 0, got -1.0"),
        ((1, math.nan), ValueError, "min_distance must be finite and at least 0, got nan"),
        ((1, "far"), TypeError, "min_distance must be a number, got str"),
    ],
)
def test_what_is_no_count_or_distance_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        GaussianMixture(*mixture_parameters()).modes(*arguments)
