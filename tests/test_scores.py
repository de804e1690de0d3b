"""Proper scores against integrals, another library, plain loops and what they must average to."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from cases import CASES, generator, mixture_parameters, normal
from scipy import special, stats
from torch.func import grad, jacfwd, jacrev, vmap
from torch.testing import assert_close

from mdn_dist import GaussianMixture

BATCHES = pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 1, 2)], ids=str)
SIZES = pytest.mark.parametrize("size", [1, 2, 6])
NODES, HEIGHTS = np.polynomial.legendre.leggauss(20)


def integral(weight, mean, scale, x):
    """Integral of the squared distance between a distribution function and a step at `x`."""
    steps = np.linspace(-40, 40, 81)  # of every component, and the point
    ends = np.unique(
        np.concatenate([*(m + s * steps for m, s in zip(mean, scale, strict=True)), [x]])
    )
    middle, half = (ends[1:] + ends[:-1]) / 2, (ends[1:] - ends[:-1]) / 2
    y = middle[:, None] + half[:, None] * NODES
    z = (y[..., None] - mean) / scale
    below, above = (special.ndtr(side * z) @ weight for side in (1, -1))
    return float((np.where(y < x, below, above) ** 2 * HEIGHTS * half[:, None]).sum())


def expected_crps(logits, loc, scale_tril, value):
    """The integral of each coordinate, ``(*, D)``, in float64."""
    logits, loc, factor, value = (
        np.asarray(t.detach().double()) for t in (logits, loc, scale_tril, value)
    )
    batch = np.broadcast_shapes(logits.shape[:-1], value.shape[:-1])
    size = loc.shape[-1]
    logits, value = (np.broadcast_to(t, (*batch, t.shape[-1])) for t in (logits, value))
    loc, factor = (np.broadcast_to(t, (*batch, *t.shape[-n:])) for n, t in ((2, loc), (3, factor)))
    deviation = np.sqrt((factor @ factor.swapaxes(-1, -2)).diagonal(0, -2, -1))
    found = np.empty((*batch, size))
    for i in np.ndindex(*batch, size):
        b, d = i[:-1], i[-1]
        weight = special.softmax(logits[b])
        found[i] = integral(weight, loc[b][:, d], deviation[b][:, d], value[i])
    return torch.from_numpy(found)


def two(weight, apart, scales=(1.0, 1.0), middle=0.0, dtype=torch.float32):
    """Two components in one coordinate; `weight` is that of the second."""
    logits = torch.tensor([1 - weight, weight], dtype=torch.float64).log().to(dtype)
    loc = torch.tensor([[middle], [middle + apart]], dtype=dtype)
    return logits, loc, torch.tensor(scales, dtype=dtype).view(2, 1, 1)


@BATCHES
@SIZES
def test_crps_is_the_integral(size, batch):
    parameters = mixture_parameters(batch, size)
    d = GaussianMixture(*parameters)
    for shape in ((), batch, (2, *batch)):
        value = normal(*shape, size, seed=5, scale=2.0)
        found = d.crps(value)
        assert found.shape == (*torch.broadcast_shapes(shape, batch), size)
        assert_close(found, expected_crps(*parameters, value), rtol=1e-11, atol=0)


def test_crps_is_that_of_another_library():
    reason = "scoringrules is not installed; the integral is held against it everywhere"
    scoringrules = pytest.importorskip("scoringrules", reason=reason)
    logits, loc, factor = mixture_parameters((50,), 1, components=4)
    value = normal(50, 1, seed=5, scale=3.0)
    found = GaussianMixture(logits, loc, factor).crps(value).squeeze(-1)
    parts = (t.numpy() for t in (loc.squeeze(-1), factor.flatten(1), logits.softmax(-1)))
    expected = scoringrules.crps_mixnorm(value.squeeze(-1).numpy(), *parts, backend="numpy")
    assert_close(found, torch.from_numpy(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("place", [-30.0, -5.0, 0.0, 0.3, 5.0, 30.0])
@pytest.mark.parametrize("middle", [0.0, 1e3, -1e6])
@pytest.mark.parametrize(
    ("weight", "apart", "scales"),
    [
        (0.5, 0.0, (1.0, 1.0)),
        (0.4, 3.0, (1.0, 0.5)),
        (1e-3, 1e6, (1.0, 1.0)),  # whose distances cancel, but for some millionths
        (1e-6, 1e6, (1.0, 1.0)),
        (0.3, 0.0, (1.0, 1e-3)),
    ],
)
def test_crps_is_precise_in_float32(weight, apart, scales, middle, place):
    parameters = two(weight, apart, scales, middle)
    value = torch.tensor([middle + place], dtype=torch.float32)
    expected = expected_crps(*parameters, value)
    found = GaussianMixture(*parameters).crps(value)
    assert_close(found.double(), expected, rtol=2e-6, atol=0)
    transformed = vmap(crps_of)(*(t.unsqueeze(0) for t in (*parameters, value)))
    assert_close(transformed[0].double(), expected, rtol=2e-6, atol=0)


def test_crps_of_a_network_sized_mixture_is_precise_in_float32():
    parameters = [p.float() for p in mixture_parameters((20,), 2, components=20, scale=3.0)]
    value = normal(20, 2, seed=5, scale=20.0).float()
    found = GaussianMixture(*parameters).crps(value)
    assert_close(found.double(), expected_crps(*parameters, value), rtol=2e-6, atol=0)
    wide = [p.double().requires_grad_() for p in parameters]
    leaves = [p.requires_grad_() for p in parameters]
    for a, b in zip(
        torch.autograd.grad(GaussianMixture(*leaves).crps(value).sum(), leaves),
        torch.autograd.grad(GaussianMixture(*wide).crps(value.double()).sum(), wide),
        strict=True,
    ):
        assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


def crps_of(logits, loc, scale_tril, value):
    return GaussianMixture(logits, loc, scale_tril.tril(), validate_args=False).crps(value)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_crps_has_derivatives_of_every_order(size):
    inputs = [*mixture_parameters((), size, components=2), normal(size, seed=7)]
    inputs = [t.requires_grad_() for t in inputs]
    modes = {"check_forward_ad": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(crps_of, inputs, **modes)
    assert torch.autograd.gradgradcheck(crps_of, inputs)


@pytest.mark.parametrize(
    ("own", "points"), [((2,), (3, 1)), ((3, 1), (2,)), ((), (4,)), ((2,), ())]
)
def test_crps_has_the_derivatives_of_what_points_share(own, points):
    inputs = [*mixture_parameters(own, 2, components=2), normal(*points, 2, seed=7)]
    inputs = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(crps_of, inputs)
    for found, expected in zip(
        torch.autograd.grad(crps_of(*inputs).sum(), inputs),
        torch.func.grad(lambda *t: crps_of(*t).sum(), argnums=(0, 1, 2, 3))(*inputs),
        strict=True,
    ):
        assert_close(found, expected)


def test_many_points_are_scored_as_few_are():
    tensors, value = mixture_parameters((6000,), 2, components=2), normal(6000, 2, seed=7)
    leaves = [t.requires_grad_() for t in tensors]
    score = crps_of(*leaves, value)
    found = torch.autograd.grad(score.sum(), leaves)
    for rows in (slice(0, 5), slice(4000, 4200), slice(5990, 6000)):
        few = [t[rows].detach().requires_grad_() for t in leaves]
        expected = crps_of(*few, value[rows])
        assert_close(score[rows], expected)
        for a, b in zip(found, torch.autograd.grad(expected.sum(), few), strict=True):
            assert_close(a[rows], b)


@pytest.mark.parametrize(("own", "points"), [((0,), (0,)), ((2, 0), (0,)), ((), (0,))])
def test_no_points_have_no_scores(own, points):
    leaves = [t.requires_grad_() for t in mixture_parameters(own, 2)]
    d, value = GaussianMixture(*leaves), torch.zeros(*points, 2, dtype=torch.float64)
    shape = torch.broadcast_shapes(own, points)
    assert d.crps(value).shape == (*shape, 2)
    assert d.energy_score(value, 3).shape == shape
    for gradient in torch.autograd.grad(d.crps(value).sum(), leaves):
        assert (gradient == 0).all()


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_crps_is_smooth_where_a_point_is_a_mean_and_means_are_equal(apart):
    parameters = two(0.3, apart, (1.0, 0.7), dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (*parameters, torch.zeros(1, dtype=torch.float64))]
    assert torch.autograd.gradcheck(crps_of, inputs)
    assert torch.autograd.gradgradcheck(crps_of, inputs)


def test_the_gradient_by_a_point_is_the_distribution_function():
    logits, loc, factor = mixture_parameters((), 1)
    value = torch.linspace(-4, 4, 9, dtype=torch.float64).unsqueeze(-1).requires_grad_()
    (found,) = torch.autograd.grad(GaussianMixture(logits, loc, factor).crps(value).sum(), value)
    x = value.detach().numpy()
    below = stats.norm.cdf(x, loc.flatten().numpy(), factor.flatten().numpy())
    expected = 2 * below @ logits.softmax(-1).numpy() - 1
    assert_close(found.squeeze(-1), torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


def test_under_the_truth_the_gradient_averages_to_nothing():
    """Which is what a proper score is; under another mixture it does not."""
    truth = mixture_parameters((), 2)
    points = GaussianMixture(*truth).sample((20_000,), generator(1))

    def largest(change):
        rows = [p.expand(20_000, *p.shape).clone().requires_grad_() for p in truth]
        scored = GaussianMixture(rows[0], rows[1] + change, rows[2]).crps(points).sum()
        gradients = [g.flatten(1) for g in torch.autograd.grad(scored, rows)]
        each = torch.cat(gradients, 1)[:, torch.cat(gradients, 1).abs().sum(0) > 0]
        return (each.mean(0) / each.std(0) * math.sqrt(len(points))).abs().max()

    assert largest(0.0) < 4.5  # false-alarm rate 2e-4 over seeds, for all 18 numbers
    assert largest(0.1) > 6


def test_vmap_and_grad_are_the_batch():
    tensors, value = mixture_parameters((6,), 2), normal(6, 2, seed=7)
    whole = crps_of(*tensors, value)
    assert_close(vmap(crps_of)(*tensors, value), whole)
    by = vmap(grad(lambda *t: crps_of(*t).sum(), argnums=(0, 1, 2, 3)))(*tensors, value)
    leaves = [t.clone().requires_grad_() for t in (*tensors, value)]
    expected = torch.autograd.grad(crps_of(*leaves).sum(), leaves)
    for a, b in zip(by, expected, strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-12)
    first = [t[0] for t in (*tensors, value)]
    assert_close(jacfwd(jacrev(crps_of, 1), 1)(*first), jacrev(jacfwd(crps_of, 1), 1)(*first))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_crps_compiles_to_one_graph(backend, monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)

    def loss(outputs, value):
        return GaussianMixture.from_outputs(outputs, 3).crps(value).mean()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for i, shape in enumerate([(4, 7), (3, 5), (6, 11)]):
        outputs, value = normal(*shape, 18, seed=3).requires_grad_(), normal(*shape, 2, seed=4)
        with torch._dynamo.config.patch(error_on_recompile=i > 1):
            found = compiled(outputs, value)
        expected = loss(outputs, value)
        assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert_close(*(torch.autograd.grad(x, outputs)[0] for x in (found, expected)))
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "name",
    ["mixture of 1 from outputs", "diagonal mixture from outputs", "pen states from outputs"],
)
def test_what_comes_from_outputs_is_scored_by_its_parameters(name):
    case = CASES[name]
    d, value = case.make((4,)), case.points(5, 4)
    mixture = getattr(d, "offset", d)
    offset = value[..., : case.size]
    parameters = (mixture.logits, mixture.loc, mixture.scale_tril)
    assert_close(d.crps(value), expected_crps(*parameters, offset), rtol=1e-11, atol=0)
    found, expected = (
        x.energy_score(v, 5, generator(1))
        for x, v in ((d, value), (GaussianMixture(*parameters), offset))
    )
    assert_close(found, expected)


@pytest.mark.parametrize("far", [1e300, -1e300])
def test_components_without_weight_do_not_count_however_far(far):
    logits, loc, factor = mixture_parameters((), 1)
    more = torch.tensor([-math.inf], dtype=torch.float64)
    inputs = [
        torch.cat([logits, more]).requires_grad_(),
        torch.cat([loc, more.new_full((1, 1), far)]).requires_grad_(),
        torch.cat([factor, factor[:1]]).requires_grad_(),
    ]
    value = normal(1, seed=5)
    found = GaussianMixture(*inputs).crps(value)
    assert_close(found, GaussianMixture(logits, loc, factor).crps(value))
    for gradient in torch.autograd.grad(found.sum(), inputs):
        assert gradient.isfinite().all()
        assert (gradient[-1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_farthest_points_and_the_least_scales_have_finite_scores(dtype):
    kind = torch.finfo(dtype)
    scales = torch.tensor([kind.tiny, 1.0, kind.max / 8], dtype=dtype).view(3, 1, 1)
    places = torch.tensor([[0.0], [1.0], [kind.max / 4], [-kind.max / 4]], dtype=dtype)
    for scale in scales:
        leaves = [
            torch.zeros(2, dtype=dtype).requires_grad_(),
            torch.tensor([[0.0], [1.0]], dtype=dtype).requires_grad_(),
            scale.expand(2, 1, 1).clone().requires_grad_(),
        ]
        score = GaussianMixture(*leaves).crps(places)
        assert score.isfinite().all()
        assert (score >= 0).all()
        gradients = torch.autograd.grad(score.sum(), leaves[1:])
        plain = grad(lambda *t: crps_of(*t, places).sum(), argnums=(1, 2))(*leaves)
        assert all(gradient.isfinite().all() for gradient in (*gradients, *plain))


@pytest.mark.parametrize("own", [(3,), ()], ids=str)
def test_points_that_are_not_numbers_leave_others_alone(own):
    leaves = [p.requires_grad_() for p in mixture_parameters(own, 2)]
    value = normal(3, 2, seed=5)
    value[1] = torch.nan
    d = GaussianMixture(*leaves, validate_args=False)
    score = d.crps(value)
    assert score.isnan().tolist() == [[False] * 2, [True] * 2, [False] * 2]
    kept = torch.tensor([0, 2])
    one_by_one = d[kept] if own else d
    found, expected = (
        torch.autograd.grad(s.sum(), leaves, retain_graph=True)
        for s in (score[kept], one_by_one.crps(value[kept]))
    )
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.float32, torch.float64])
def test_points_of_another_type(dtype):
    d = GaussianMixture(*(p.float() for p in mixture_parameters((), 2)))
    value = torch.tensor([[1, -2], [0, 3]]).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for score in (d.crps(value), d.energy_score(value, 3)):
        assert score.dtype == wide
    assert_close(d.crps(value).double(), d.crps(value.double()), rtol=2e-6, atol=0)


@BATCHES
@SIZES
def test_the_energy_score_is_the_mean_of_distances(size, batch):
    d = GaussianMixture(*mixture_parameters(batch, size))
    draws = d.sample((4,), generator(2))
    for shape in ((), batch, (2, 3, *batch)):
        value = normal(*shape, size, seed=5)
        found = d.energy_score(value, 4, generator(2))
        away = [(x - value).square().sum(-1).sqrt() for x in draws]
        within = [
            (draws[i] - draws[j]).square().sum(-1).sqrt()
            for i in range(4)
            for j in range(4)
            if i != j
        ]
        expected = sum(away) / 4 - sum(within) / 24
        assert_close(found, expected)
        assert found.shape == torch.broadcast_shapes(shape, batch)


@pytest.mark.parametrize("samples", [2, 5])
def test_the_energy_score_is_crps_in_one_coordinate_without_bias(samples):
    parameters, value = two(0.4, 3.0, (1.0, 0.5), dtype=torch.float64), torch.tensor([0.7]).double()
    d = GaussianMixture(*parameters).expand((20_000,))
    estimates = d.energy_score(value, samples, generator(1))
    exact = expected_crps(*parameters, value).item()
    z = (estimates.mean() - exact) / estimates.std() * math.sqrt(len(estimates))
    assert abs(z) < 4  # false-alarm rate 6e-5 over seeds
    # the mean over all pairs, equal ones too, would be wrong by far more
    biased = estimates.mean() + integral_of_spread(parameters) / samples
    assert (biased - exact) / estimates.std() * math.sqrt(len(estimates)) > 20


def integral_of_spread(parameters):
    """Half the mean distance of two draws: the mean score of a draw, from many scores."""
    draws = GaussianMixture(*parameters).sample((200,), generator(3))
    return expected_crps(*parameters, draws).mean().item()


def test_the_energy_score_of_a_gaussian_at_its_mean():
    factor = torch.eye(2, dtype=torch.float64).expand(1, 2, 2)
    d = GaussianMixture(factor.new_zeros(1), factor.new_zeros(1, 2), factor).expand((50_000,))
    estimates = d.energy_score(factor.new_zeros(2), 3, generator(1))
    # lengths of a point and of a difference have Rayleigh's distribution
    exact = stats.rayleigh.mean() - stats.rayleigh.mean(scale=math.sqrt(2)) / 2
    z = (estimates.mean() - exact) / estimates.std() * math.sqrt(len(estimates))
    assert abs(z) < 4  # false-alarm rate 6e-5 over seeds


def test_the_gradient_of_the_energy_score_is_that_of_crps_without_bias():
    parameters = two(0.4, 2.0, (1.0, 0.5), dtype=torch.float64)
    value = torch.tensor([0.7], dtype=torch.float64)
    once = [p.clone().requires_grad_() for p in parameters]
    exact = torch.autograd.grad(GaussianMixture(*once).crps(value).sum(), once)
    rows = [p.expand(40_000, *p.shape).clone().requires_grad_() for p in parameters]
    score = GaussianMixture(*rows).energy_score(value, 4, generator(1)).sum()
    for found, wanted in zip(torch.autograd.grad(score, rows), exact, strict=True):
        z = (found.mean(0) - wanted) / found.std(0) * math.sqrt(len(found))
        assert z.abs().max() < 4.5  # false-alarm rate 4e-5 over seeds, for the six numbers together
        assert ((wanted / found.std(0)).abs() * math.sqrt(len(found))).max() > 10


def test_descent_by_either_score_leads_to_the_distribution():
    truth = two(0.4, 3.0, (1.0, 0.5), dtype=torch.float64)
    points = GaussianMixture(*truth).sample((500,), generator(1))
    best = GaussianMixture(*truth).crps(points).mean()
    for name, arguments in {"crps": {}, "energy_score": {"generator": generator(2)}}.items():
        leaves = [p.requires_grad_() for p in two(0.5, 1.0, (2.0, 2.0), -4.0, torch.float64)]
        start = GaussianMixture(*leaves).crps(points).mean()
        optimizer = torch.optim.Adam(leaves, 0.1)
        for _ in range(150):
            d = GaussianMixture(*leaves, validate_args=False)
            optimizer.zero_grad()
            getattr(d, name)(points, **arguments).mean().backward()
            optimizer.step()
        assert d.crps(points).mean() - best < 0.03 * (start - best)


def test_draws_are_the_generators_and_points_share_them():
    d = GaussianMixture(*mixture_parameters((3,), 2))
    value = normal(3, 2, seed=5).expand(4, 3, 2)
    first, second, other = (d.energy_score(value, 5, generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert all(torch.equal(a, b) for a, b in pairwise(first))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_the_energy_score_is_batched_and_compiled(monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    tensors, value = mixture_parameters((6,), 2), normal(6, 2, seed=7)

    def score(logits, loc, scale_tril, value):
        return GaussianMixture(logits, loc, scale_tril, validate_args=False).energy_score(value, 4)

    found = vmap(score, randomness="different")(*tensors, value)
    assert found.shape == (6,)
    assert found.isfinite().all()
    torch._dynamo.reset()
    torch.manual_seed(1)
    found = torch.compile(score, fullgraph=True, backend="eager")(*tensors, value)
    torch.manual_seed(1)
    assert_close(found, score(*tensors, value))
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "value must be a torch.Tensor, got list", lambda d: d.crps([0.0, 0.0])),
        (ValueError, "value must end in 2 values", lambda d: d.crps(torch.zeros(3))),
        (ValueError, "must broadcast against batch", lambda d: d.crps(torch.zeros(5, 2))),
        (ValueError, "value must be finite", lambda d: d.crps(torch.full((2,), math.nan))),
        (ValueError, "value must end in 2 values", lambda d: d.energy_score(torch.zeros(3))),
        (ValueError, "value must be finite", lambda d: d.energy_score(torch.full((2,), math.inf))),
        (
            ValueError,
            "samples must be at least 2, got 1",
            lambda d: d.energy_score(torch.zeros(2), 1),
        ),
        (
            TypeError,
            "samples must be an integer, got 2.5",
            lambda d: d.energy_score(torch.zeros(2), 2.5),
        ),
    ],
)
def test_wrong_arguments_are_named(error, message, call):
    with pytest.raises(error, match=message):
        call(GaussianMixture(*mixture_parameters((3,), 2), validate_args=True))
