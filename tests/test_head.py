import copy
import io
import math
import pickle
from pathlib import Path

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.nn.utils.rnn import pack_padded_sequence

from mdn_dist import Bounds, GaussianMixture, MixtureDensityHead, StrokeDistribution
from mdn_dist.data import Normalization, dequantize, read_omniglot

PEN_SIZE = {None: 0, "bernoulli": 1, "one_hot": 3}
REAL = Path(__file__).parents[1].parent / "shared" / "data"


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=seeded(seed))


def head_of(*arguments, seed=0, dtype=torch.float64, **named):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MixtureDensityHead(*arguments, dtype=dtype, **named)


def with_pen(offset, pen, seed=0):
    """Points: `offset`, then a flag that is 1 in three of ten or a state of shares .6, .3, .1."""
    uniform = torch.rand(offset.shape[:-1], dtype=torch.float64, generator=seeded(seed + 50))
    if pen is None:
        return offset
    if pen == "bernoulli":
        return torch.cat([offset, (uniform < 0.3).to(offset)[..., None]], -1)
    state = (uniform > 0.6).long() + (uniform > 0.9).long()
    return torch.cat([offset, torch.nn.functional.one_hot(state, 3).to(offset)], -1)


@pytest.mark.parametrize("batch", [(), (5,), (4, 2), (3, 1, 2)])
@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_the_batch_shape_is_that_of_the_features(batch, size, pen):
    head = head_of(7, 4, size, pen)
    distribution = head(normal(*batch, 7))
    kind = GaussianMixture if pen is None else StrokeDistribution
    assert isinstance(distribution, kind)
    assert distribution.batch_shape == batch
    assert distribution.event_shape == (size + PEN_SIZE[pen],)
    offset = distribution if pen is None else distribution.offset
    assert offset.loc.shape == (*batch, 4, size)
    points = with_pen(normal(*batch, size), pen)
    assert distribution.log_prob(points).shape == batch
    assert distribution.log_prob(points).dtype == torch.float64


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_outputs_of_zero_are_standard_normal_with_an_even_pen(size, pen):
    head = head_of(7, 4, size, pen)
    torch.nn.init.zeros_(head.linear.weight)
    torch.nn.init.zeros_(head.linear.bias)
    offset = normal(9, size)
    even = {None: 0.0, "bernoulli": math.log(2), "one_hot": math.log(3)}[pen]
    expected = -offset.square().sum(-1) / 2 - size / 2 * math.log(2 * math.pi) - even
    found = head(normal(9, 7)).log_prob(with_pen(offset, pen))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pen", ["bernoulli", None])
def test_features_reach_the_density_through_the_weights(pen):
    head, features = head_of(7, 4, 2, pen), normal(5, 7).requires_grad_()
    points = with_pen(normal(5, 2, seed=1), pen)
    linear = head.linear
    outputs = features @ linear.weight.T + linear.bias
    if pen is None:
        twin = GaussianMixture.from_outputs(outputs, 4)
    else:
        twin = StrokeDistribution.from_outputs(outputs, 4)
    score = head(features).log_prob(points)
    torch.testing.assert_close(score, twin.log_prob(points), rtol=1e-12, atol=1e-12)
    score.sum().backward()
    assert (features.grad.abs() > 1e-6).all()


def test_bounds_and_validation_reach_the_distribution():
    for bounds, low, high in (
        (Bounds(), 1e-4, 1.03e-4),
        (Bounds(min_scale=0.5), 0.5, 0.52),
        (None, math.exp(-50) * 0.999, math.exp(-50) * 1.001),
    ):
        head = head_of(3, 1, 1, None, bounds=bounds)
        with torch.no_grad():
            head.linear.weight.zero_()
            head.linear.bias.copy_(torch.tensor([0.0, 0.0, -50.0]))
        scale = head(torch.zeros(3).double()).scale_tril.item()
        assert low <= scale < high
    wrong = torch.full((1, 3), 0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match="pen in value must be 0 or 1"):
        head_of(3, validate_args=True)(normal(1, 3)).log_prob(wrong)
    assert head_of(3, validate_args=False)(normal(1, 3)).log_prob(wrong).isfinite().all()


@pytest.mark.parametrize("lengths", [[5, 3, 1], [2, 6, 4]])
def test_packed_points_score_as_the_padded_batch_under_its_mask(lengths):
    head = head_of(7, 4, clip_outputs=None)
    longest = max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    padded = normal(3, longest, 7).requires_grad_()
    strokes = with_pen(normal(3, longest, 2, seed=1), "bernoulli")
    strokes[~mask] = math.nan

    def pack(tensor):
        return pack_padded_sequence(tensor, lengths, batch_first=True, enforce_sorted=False)

    leaves = [padded, *head.parameters()]
    packed = head(pack(padded))
    assert packed.batch_shape == (sum(lengths),)
    packed_loss = -packed.log_prob(pack(strokes).data).sum()
    masked_loss = -head(padded).log_prob(strokes, mask=mask).sum()
    torch.testing.assert_close(packed_loss, masked_loss, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(packed_loss, leaves)
    expected = torch.autograd.grad(masked_loss, leaves)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert expected[0].abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_the_density_has_the_dtype_of_the_weights(dtype, pen):
    head = head_of(7, 4, 2, pen, dtype=dtype)
    distribution = head(normal(3, 7, dtype=dtype))
    points = with_pen(normal(3, 2, dtype=dtype), pen)
    assert distribution.log_prob(points).dtype == dtype
    assert distribution.sample().dtype == dtype


@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
@pytest.mark.parametrize("inside", [True, False])
def test_under_autocast_the_map_is_bfloat16_and_the_density_float32(pen, inside):
    head = head_of(64, 4, 2, pen, dtype=torch.float32)
    features = normal(50, 64, dtype=torch.float32)
    points = with_pen(normal(50, 2, seed=1, dtype=torch.float32), pen)
    exact = head(features).log_prob(points)
    with torch.autocast("cpu", torch.bfloat16):
        distribution = head(features)
        if inside:
            score = distribution.log_prob(points)
    if not inside:
        score = distribution.log_prob(points)
    loc = distribution.loc if pen is None else distribution.offset.loc
    assert loc.dtype == torch.float32
    assert torch.equal(loc, loc.bfloat16().float())  # the map did run in half precision
    assert score.dtype == torch.float32
    assert not torch.equal(score, exact)
    torch.testing.assert_close(score, exact, rtol=0.1, atol=0.1)
    score.mean().backward()
    for parameter in head.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0


def test_the_clip_bounds_each_points_derivatives():
    head, free = (head_of(3, 4, 2, clip_outputs=clip) for clip in (7.0, None))
    features, points = normal(1, 3), with_pen(normal(1, 2, seed=1), "bernoulli")
    for each in (head, free):
        (-1e4 * each(features).log_prob(points)).sum().backward()
    assert free.linear.bias.grad.abs().max() > 100
    assert torch.equal(head.linear.bias.grad, free.linear.bias.grad.clamp(-7, 7))
    assert "clip_outputs=7.0" in repr(head)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0,), "in_features must be at least 1, got 0"),
        ((-1,), "in_features must be at least 1, got -1"),
        ((3, 0), "components must be at least 1, got 0"),
        ((3, 2, 0), "event_size must be at least 1, got 0"),
        ((3, 2, 2, "quill"), "pen must be 'bernoulli', 'one_hot' or a class of pens, got 'quill'"),
    ],
)
def test_errors_of_the_sizes(arguments, match):
    with pytest.raises(ValueError, match=match):
        MixtureDensityHead(*arguments)


@pytest.mark.parametrize("shape", [(), (6,), (7, 1), (4, 8)])
@pytest.mark.parametrize("pen", ["bernoulli", None])
def test_features_of_another_size_are_refused(shape, pen):
    with pytest.raises(ValueError, match=r"features must end in 7 values, got shape \("):
        head_of(7, 4, 2, pen)(torch.zeros(shape, dtype=torch.float64))


def test_packed_features_of_another_size_are_refused():
    packed = pack_padded_sequence(normal(2, 4, 8), [4, 2], batch_first=True)
    with pytest.raises(ValueError, match=r"features must end in 7 values, got shape \(6, 8\)"):
        head_of(7)(packed)


def saved_and_loaded(head):
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    other = head_of(7, 4, 3, "one_hot", seed=1, bounds=Bounds(min_scale=0.1))
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


@pytest.mark.parametrize(
    "copied",
    [saved_and_loaded, copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))],
    ids=["state_dict", "deepcopy", "pickle"],
)
def test_a_copy_gives_the_same_density_and_is_apart(copied):
    head = head_of(7, 4, 3, "one_hot", bounds=Bounds(min_scale=0.1))
    features, points = normal(5, 7), with_pen(normal(5, 3, seed=1), "one_hot")
    expected = head(features).log_prob(points)
    other = copied(head)
    assert torch.equal(other(features).log_prob(points), expected)
    with torch.no_grad():
        head.linear.bias.add_(1)
    assert torch.equal(other(features).log_prob(points), expected)
    assert not torch.equal(head(features).log_prob(points), expected)


# Initialisation


def known_mixture(size, correlation, seed=0):
    """Four overlapping components; every pair of coordinates is correlated alike."""
    loc = 2.5 * normal(4, size, seed=seed)
    covariance = torch.full((size, size), correlation, dtype=torch.float64)
    covariance.fill_diagonal_(1.0)
    scale = torch.tensor([0.4, 0.7, 1.0, 1.5], dtype=torch.float64)[:, None, None]
    components = MultivariateNormal(loc, scale_tril=scale * torch.linalg.cholesky(covariance))
    share = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    return MixtureSameFamily(Categorical(share), components)


def draw(mixture, count, seed):
    components = mixture.component_distribution
    index = torch.multinomial(
        mixture.mixture_distribution.probs, count, replacement=True, generator=seeded(seed)
    )
    noise = normal(count, components.event_shape[0], seed=seed + 1)
    return components.loc[index] + torch.einsum("nij,nj->ni", components.scale_tril[index], noise)


def pen_entropy(points, size):
    """Cross entropy of the pen under its own shares, in nats a point."""
    pen = points[:, size:]
    if pen.shape[-1] == 1:
        pen = torch.cat([pen, 1 - pen], -1)
    return -sum(share * math.log(share) for share in pen.mean(0).tolist())


def loss(head, points, features):
    with torch.no_grad():
        return -head(features).log_prob(points).mean().item()


@pytest.mark.parametrize("correlation", [0.0, 0.9, 0.999])
@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("pen", ["bernoulli", "one_hot", None])
def test_an_initialized_head_scores_as_well_as_the_truth(size, pen, correlation):
    truth = known_mixture(size, correlation, seed=size)
    offset = draw(truth, 3000, seed=size)
    points = with_pen(offset, pen)
    best = -truth.log_prob(offset).mean().item() + pen_entropy(points, size)
    for width in (64, 400):
        head = head_of(width, 4, size, pen).initialize(points, generator=seeded(4))
        found = loss(head, points, normal(3000, width, seed=3))
        # Four components fit 3,000 points better than the truth by at most half their number of
        # parameters a point, 56 / 3,000 for D = 6; more would be no density.
        assert best - 0.04 < found < best + 0.05


def plain_em(points, components, seed, iterations=60):
    """Mean log density of a mixture fitted by textbook expectation maximisation."""
    start = torch.randperm(len(points), generator=seeded(seed))[:components]
    loc, share = points[start], torch.full((components,), 1 / components, dtype=points.dtype)
    covariance = torch.cov(points.T).repeat(components, 1, 1)
    for _ in range(iterations):
        density = MultivariateNormal(loc, covariance, validate_args=False)
        joint = density.log_prob(points[:, None]) + share.log()
        weights = joint.softmax(-1)
        share = weights.mean(0)
        loc = (weights.T @ points) / weights.sum(0)[:, None]
        covariance = torch.stack([torch.cov(points.T, aweights=w, correction=0) for w in weights.T])
        covariance = covariance + 1e-6 * torch.eye(points.shape[-1])
    return joint.logsumexp(-1).mean().item()


@pytest.fixture(scope="module")
def real_points():
    path = REAL / "omniglot" / "strokes_background_small1.zip"
    if not path.exists():
        pytest.skip(f"the real file {path.name} is not beside the project")
    drawings = read_omniglot(path, limit=80)
    noisy = [dequantize(d.points.double(), 1.0, seeded(i)) for i, d in enumerate(drawings)]
    fitted = Normalization.fit(noisy)
    points = torch.cat([fitted.normalize(drawing)[1:] for drawing in noisy])
    return points[torch.randperm(len(points), generator=seeded(0))[:3000]]


def test_an_initialized_head_scores_real_points_as_well_as_a_plain_mixture(real_points):
    points = real_points
    best = max(plain_em(points[:, :2], 8, seed) for seed in range(4))
    bound = pen_entropy(points, 2) - best
    for width in (64, 400):
        head = head_of(width, 8).initialize(points, generator=seeded(1))
        assert loss(head, points, normal(len(points), width, seed=2)) < bound + 0.05
        assert loss(head_of(width, 8), points, normal(len(points), width)) > bound + 0.3


def test_padding_and_sequences_give_the_head_of_their_points():
    lengths = [6, 1, 4]
    sequences = [with_pen(normal(n, 2, seed=n), "bernoulli", seed=n) for n in lengths]
    padded = torch.full((3, 6, 3), math.nan, dtype=torch.float64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    alike = [
        head_of(5, 3).initialize(torch.cat(sequences), generator=seeded(0)),
        head_of(5, 3).initialize(torch.cat(sequences).reshape(1, 11, 1, 3), generator=seeded(0)),
        head_of(5, 3).initialize(padded, mask, generator=seeded(0)),
        head_of(5, 3).initialize(sequences, generator=seeded(0)),
        head_of(5, 3).initialize(tuple(sequences), generator=seeded(0)),
    ]
    for head in alike[1:]:
        assert torch.equal(head.linear.bias, alike[0].linear.bias)
        assert torch.equal(head.linear.weight, alike[0].linear.weight)
    fewer = head_of(5, 3).initialize(sequences[:1], generator=seeded(0))
    assert not torch.equal(fewer.linear.bias, alike[0].linear.bias)


@pytest.mark.parametrize("ones", [0, 1, 37, 500])
def test_the_flags_probability_is_its_share(ones):
    points = normal(500, 3)
    points[:, 2] = 0
    points[:ones, 2] = 1
    head = head_of(5, 3).initialize(points, generator=seeded(0))
    probability = head(torch.zeros(5).double()).pen.probs.item()
    assert abs(probability - ones / 500) < 1.01 / 500
    assert 0 < probability < 1


@pytest.mark.parametrize("counts", [(300, 150, 50), (500, 0, 0)])
def test_the_pen_states_probabilities_are_their_shares(counts):
    state = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    points = torch.cat([normal(500, 2), torch.nn.functional.one_hot(state, 3)], -1)
    head = head_of(5, 3, 2, "one_hot").initialize(points, generator=seeded(0))
    probabilities = head(torch.zeros(5).double()).pen.probs
    shares = torch.tensor(counts, dtype=torch.float64) / 500
    assert (probabilities - shares).abs().max() < 1.5 / 500
    assert probabilities.min() > 0


def test_the_components_differ_and_the_weights_are_small_but_not_zero():
    points = with_pen(draw(known_mixture(2, 0.5), 800, seed=0), "bernoulli")
    head = head_of(64, 4).initialize(points, generator=seeded(0))
    features = normal(200, 64).requires_grad_()
    mean = head(torch.zeros(64).double()).offset
    for i in range(4):
        for j in range(i):
            assert (mean.loc[i] - mean.loc[j]).abs().max() > 0.1
            assert (mean.scale_tril[i] - mean.scale_tril[j]).abs().max() > 0.01
    spread = head.linear.weight.detach().norm(dim=-1)
    assert (spread > 1e-4).all()
    assert (spread < 0.1).all()
    head(features).log_prob(points[:200]).sum().backward()
    assert (features.grad.abs().amax(-1) > 1e-3).all()
    for parameter in head.parameters():
        assert parameter.requires_grad
        assert (parameter.grad.abs().reshape(len(parameter), -1).amax(-1) > 0).all()


def test_the_unit_of_the_data_changes_only_the_unit_of_the_density():
    offset, features = draw(known_mixture(2, 0.5), 800, seed=0), normal(20, 64)
    head = head_of(64, 4, 2, None).initialize(offset, generator=seeded(0))
    other = head_of(64, 4, 2, None).initialize(100 * offset, generator=seeded(0))
    here, there = head(features), other(features)
    torch.testing.assert_close(there.logits, here.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(there.loc, 100 * here.loc, rtol=1e-3, atol=0.1)
    torch.testing.assert_close(there.scale_tril, 100 * here.scale_tril, rtol=1e-3, atol=0.1)
    assert (here.loc[0] - here.loc[1]).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e6])
def test_data_beyond_the_bounds_stays_finite_within_them(scale, dtype):
    points = with_pen(scale * normal(300, 2), "bernoulli")
    head = head_of(8, 4, dtype=dtype).initialize(points, generator=seeded(0))
    distribution = head(normal(300, 8, seed=1, dtype=dtype))
    score = distribution.log_prob(points.to(dtype))
    assert score.isfinite().all()
    deviation = distribution.offset.scale_tril.square().sum(-1).sqrt()
    low, high = (1e-4, 2e-3) if scale < 1 else (5e3, 1.0001e4)
    assert deviation.min() > low
    assert deviation.max() < high
    score.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize(
    ("bounds", "scale", "low", "high"),
    [
        (Bounds(min_scale=0.5), 1e-2, 0.5, 0.6),
        (Bounds(min_scale=1e-7), 1e-4, 0.8e-4, 1.2e-4),
        (Bounds(max_scale=2.0), 50.0, 1.8, 2.0),
        (None, 1.0, 0.9, 1.1),
    ],
)
def test_the_heads_own_bounds_hold(bounds, scale, low, high):
    head = head_of(8, 1, 2, None, bounds=bounds).initialize(
        scale * normal(500, 2), generator=seeded(0)
    )
    factor = head(torch.zeros(8).double()).scale_tril
    deviation = factor.square().sum(-1).sqrt()
    assert deviation.min() >= low
    assert deviation.max() < high


def test_initialize_is_reproducible_returns_the_head_and_spares_the_global_generator():
    points = with_pen(normal(200, 2), "bernoulli")
    before, kept = torch.get_rng_state(), points.clone()
    head = head_of(8, 5)
    assert head.initialize(points, generator=seeded(0)) is head
    again, other = (head_of(8, 5).initialize(points, generator=seeded(s)) for s in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(points, kept)
    assert torch.equal(head.linear.weight, again.linear.weight)
    assert torch.equal(head.linear.bias, again.linear.bias)
    assert not torch.equal(head.linear.weight, other.linear.weight)
    assert head.linear.weight.grad is None
    global_heads = []
    with torch.random.fork_rng():
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            global_heads.append(copy.deepcopy(head).initialize(points).linear.weight)
    assert torch.equal(global_heads[0], global_heads[1])
    assert not torch.equal(global_heads[0], global_heads[2])


@pytest.mark.parametrize("states", [(0, 0, 0), (1, 1, 0), (0.5, 0.5, 0.0), (0, 3, -2)])
def test_initialize_refuses_pen_states_that_are_not_one_hot(states):
    points = torch.zeros(4, 5, dtype=torch.float64)
    points[:, 2] = 1
    points[3, 2:] = torch.tensor(states)
    with pytest.raises(ValueError, match="pen in strokes must be one-hot"):
        head_of(8, 2, 2, "one_hot").initialize(points)


MASK = torch.ones(4, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("strokes", "mask", "error", "match"),
    [
        (torch.zeros(4, 2), None, ValueError, r"must end in 3 values, got shape \(4, 2\)"),
        (torch.tensor(0.0), None, ValueError, r"must end in 3 values, got shape \(\)"),
        ([torch.zeros(4, 3), torch.zeros(4, 2)], None, ValueError, r"must end in 3 .*\(4, 2\)"),
        (torch.zeros(0, 3), None, ValueError, "at least one point"),
        ([], None, ValueError, "at least one point"),
        ([torch.zeros(0, 3)], None, ValueError, "at least one point"),
        (torch.zeros(4, 5, 3), ~MASK, ValueError, "at least one point"),
        (torch.full((4, 3), math.nan), None, ValueError, "finite where mask is True"),
        (torch.full((4, 5, 3), math.inf), MASK, ValueError, "finite where mask is True"),
        (torch.full((4, 3), 0.5), None, ValueError, r"pen in strokes must be 0 or 1, .*got 0.5"),
        (torch.zeros(4, 5, 3), MASK.long(), TypeError, "mask must be boolean, got torch.int64"),
        (torch.zeros(4, 5, 3), MASK[0], ValueError, r"mask must have shape \(4, 5\), got \(5,\)"),
        (torch.zeros(4, 5, 3), MASK[:, :4], ValueError, r"\(4, 5\), got \(4, 4\)"),
        ([torch.zeros(5, 3)], MASK[0], ValueError, "mask must come with one tensor of strokes"),
    ],
)
def test_initialize_names_what_is_wrong_and_leaves_the_head(strokes, mask, error, match):
    head = head_of(8, 2)
    before = head.linear.bias.clone()
    with pytest.raises(error, match=match):
        head.initialize(strokes, mask)
    assert torch.equal(head.linear.bias, before)


@pytest.mark.parametrize("features", [8, 400])
@pytest.mark.parametrize("seed", range(3))
def test_unit_features_move_the_score_of_a_start_by_what_is_said(features, seed):
    """Each point by some hundredths of a nat, and the mean by a few thousandths, downwards."""
    source = torch.Generator().manual_seed(seed)
    offset = torch.randn(3000, 2, generator=source) @ torch.tensor([[1.0, 0.9], [0.0, 0.1]])
    points = torch.cat([offset, (offset[:, :1] > 0.5).float()], -1)
    head = MixtureDensityHead(features, 20).initialize(points, generator=source)
    given = torch.randn(3000, features, generator=source)
    with torch.no_grad():
        moved = head(given).log_prob(points) - head(torch.zeros_like(given)).log_prob(points)
    assert 0.05 < moved.std() < 0.09
    assert -0.008 < moved.mean() < 0
