"""Hand-written losses for the doctor: right ones, and ones with a planted fault each.

All are of K = 3 components. They share no code with the library but where they call it by name.
"""

import math
import random
import warnings

import numpy as np
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, MultivariateNormal
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from mdn_dist import StrokeDistribution

K = 3
LOG_2_PI = math.log(2 * math.pi)


def split(outputs):
    """End of stroke, weights, means, scales, correlations in the paper's order."""
    end, *blocks = outputs.split([1] + [K] * 6, -1)
    return end.squeeze(-1), *blocks


def pen_nats(logit, strokes):
    return binary_cross_entropy_with_logits(logit, strokes[..., 2], reduction="none")


def log_normal(strokes, mu_1, mu_2, s_1, s_2, r):
    """Log density of each component, without log(2 pi), where scales are logarithms."""
    z_1 = (strokes[..., 0:1] - mu_1) * torch.exp(-s_1)
    z_2 = (strokes[..., 1:2] - mu_2) * torch.exp(-s_2)
    y_2 = z_2 * torch.cosh(r) - z_1 * torch.sinh(r)
    return torch.log(torch.cosh(r)) - s_1 - s_2 - (z_1**2 + y_2**2) / 2


def offset_nats(strokes, pi, *rest):
    return LOG_2_PI - torch.logsumexp(pi.log_softmax(-1) + log_normal(strokes, *rest), -1)


def exact(outputs, strokes):
    end, *rest = split(outputs)
    return offset_nats(strokes, *rest) + pen_nats(-end, strokes)


def mixture_density(outputs, strokes):
    """Density of the offset, which underflows."""
    _, pi, *rest = split(outputs)
    return (pi.softmax(-1) * log_normal(strokes, *rest).exp()).sum(-1) / (2 * math.pi)


# Right ones


def mean_of_plus(outputs, strokes):
    end, *rest = split(outputs)
    return (offset_nats(strokes, *rest) + pen_nats(end, strokes)).mean()


def sum_of_pen_last(outputs, strokes):
    mu, pi, s, r, end = outputs.split([2 * K, K, 2 * K, K, 1], -1)
    mu_1, mu_2 = mu[..., 0::2], mu[..., 1::2]
    s_1, s_2 = s.chunk(2, -1)
    score = offset_nats(strokes, pi, mu_1, mu_2, s_1, s_2, r)
    return (score + pen_nats(end.squeeze(-1), strokes)).sum()


def component_by_component(outputs, strokes):
    end, rest = outputs[..., 0], outputs[..., 1:]
    pi, mu_1, mu_2, s_1, s_2, r = rest.reshape(*rest.shape[:-1], K, 6).unbind(-1)
    return offset_nats(strokes, pi, mu_1, mu_2, s_1, s_2, r) + pen_nats(end, strokes)


def sequence_sums(outputs, strokes):
    return exact(outputs, strokes).sum(1)


def sequence_means(outputs, strokes):
    return exact(outputs, strokes).mean(1)


def steps_in_a_loop(outputs, strokes):
    total = 0.0
    for t in range(outputs.shape[1]):
        total = total + exact(outputs[:, t], strokes[:, t])
    return total.mean()


def flat(outputs, strokes):
    return exact(outputs.reshape(-1, outputs.shape[-1]), strokes.reshape(-1, 3))


def distributions(outputs, strokes):
    end, pi, mu_1, mu_2, s_1, s_2, r = split(outputs)
    zero = torch.zeros_like(s_1)
    first = torch.stack([s_1.exp(), zero], -1)
    second = torch.stack([s_2.exp() * r.tanh(), s_2.exp() / r.cosh()], -1)
    normal = MultivariateNormal(
        torch.stack([mu_1, mu_2], -1), scale_tril=torch.stack([first, second], -2)
    )
    offset = MixtureSameFamily(Categorical(logits=pi), normal)
    pen = Bernoulli(logits=-end)
    return -(offset.log_prob(strokes[..., :2]) + pen.log_prob(strokes[..., 2])).sum()


def library(outputs, strokes):
    return -StrokeDistribution.from_outputs(outputs, K).log_prob(strokes).mean()


def single_precision(outputs, strokes):
    return exact(outputs.float(), strokes.float()).mean()


def refuses_double(outputs, strokes):
    assert outputs.dtype == strokes.dtype == torch.float32
    return exact(outputs, strokes).sum(1)


class Module(nn.Module):
    """Has parameters, a buffer, state and a mode, none of which it may lose."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("calls", torch.zeros(()))
        self.dropout = nn.Dropout(0.5)

    def forward(self, outputs, strokes):
        self.calls += 1
        self.dropout(outputs)
        return exact(outputs, strokes).mean() + 0 * self.unused.sum()


class RightBackward(torch.autograd.Function):
    scale = 1.0

    @staticmethod
    def forward(ctx, outputs, strokes):
        ctx.save_for_backward(outputs, strokes)
        return exact(outputs, strokes)

    @classmethod
    def slopes(cls, outputs, strokes):
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            (slope,) = torch.autograd.grad(exact(leaf, strokes).sum(), leaf)
        return slope

    @staticmethod
    def backward(ctx, weight):
        return RightBackward.slopes(*ctx.saved_tensors) * weight.unsqueeze(-1), None


def own_backward(outputs, strokes):
    return RightBackward.apply(outputs, strokes)


def warns(outputs, strokes):
    warnings.warn("a loss that warns", stacklevel=1)
    return exact(outputs, strokes)


def clipped_backward(outputs, strokes):
    """The paper's clip of derivatives by the outputs, no fault."""
    if outputs.requires_grad:
        outputs.register_hook(lambda gradient: gradient.clamp(-100, 100))
    return exact(outputs, strokes)


def shifts(outputs, strokes):
    return exact(outputs[:, :-1], strokes[:, 1:]).mean()


def masked(outputs, strokes, mask):
    strokes = torch.where(mask.unsqueeze(-1), strokes, 0.0)
    return (exact(outputs, strokes) * mask).sum() / mask.sum()


def library_masked(outputs, strokes, mask):
    return -StrokeDistribution.from_outputs(outputs, K).log_prob(strokes, mask=mask)


def flag_first(outputs, strokes):
    return exact(outputs, strokes.roll(-1, -1))


def checked_flag_first(outputs, strokes):
    flag = strokes[..., 0]
    assert ((flag == 0) | (flag == 1)).all()
    return exact(outputs, strokes.roll(-1, -1))


def half(outputs, strokes):
    return exact(outputs.float(), strokes)


# Each with one fault


def computes_in_half(outputs, strokes):
    return exact(outputs, strokes.to(outputs.dtype))


def no_constant(outputs, strokes):
    return exact(outputs, strokes) - LOG_2_PI


def bits(outputs, strokes):
    return exact(outputs, strokes).mean() / math.log(2)


def log_likelihood(outputs, strokes):
    return -exact(outputs, strokes).sum()


def with_log_weights(log_weights, outputs, strokes):
    end, _, *rest = split(outputs)
    score = LOG_2_PI - torch.logsumexp(log_weights + log_normal(strokes, *rest), -1)
    return score + pen_nats(-end, strokes)


def no_exponential(outputs, strokes):
    pi = split(outputs)[1]
    return with_log_weights((pi / pi.sum(-1, keepdim=True)).log(), outputs, strokes)


def no_sum_of_weights(outputs, strokes):
    return with_log_weights(split(outputs)[1], outputs, strokes)


def softmax_over_time(outputs, strokes):
    return with_log_weights(split(outputs)[1].log_softmax(1), outputs, strokes)


def sum_in_logarithm(outputs, strokes):
    score = exact(outputs, strokes)
    return -torch.logsumexp(-score, 0).mean()


def product_in_logarithm(outputs, strokes):
    """One logarithm of a sum over all points of a sequence."""
    return -torch.logsumexp(-exact(outputs, strokes), 1)


def floor(outputs, strokes):
    end = split(outputs)[0]
    return -mixture_density(outputs, strokes).clamp(min=1e-20).log() + pen_nats(-end, strokes)


def added_floor(outputs, strokes):
    end = split(outputs)[0]
    return (-(mixture_density(outputs, strokes) + 1e-5).log() + pen_nats(-end, strokes)).mean()


def high_floor(outputs, strokes):
    end = split(outputs)[0]
    return -(mixture_density(outputs, strokes) + 1e-3).log() + pen_nats(end, strokes)


def underflows(outputs, strokes):
    end = split(outputs)[0]
    return -mixture_density(outputs, strokes).log() + pen_nats(-end, strokes)


def with_pen(pen, outputs, strokes):
    _, *rest = split(outputs)
    return offset_nats(strokes, *rest) + pen


def pen_floor(outputs, strokes):
    e = torch.sigmoid(-split(outputs)[0])
    p = torch.where(strokes[..., 2] == 1, e, 1 - e)
    return with_pen(-p.clamp(min=1e-10).log(), outputs, strokes)


def pen_underflows(outputs, strokes):
    e = torch.sigmoid(-split(outputs)[0])
    return with_pen(-torch.where(strokes[..., 2] == 1, e, 1 - e).log(), outputs, strokes)


def no_pen(outputs, strokes):
    return with_pen(0.0, outputs, strokes).sum()


def sigmoid_twice(outputs, strokes):
    return with_pen(pen_nats(torch.sigmoid(split(outputs)[0]), strokes), outputs, strokes)


def pen_of_ends_only(outputs, strokes):
    score = strokes[..., 2] * softplus(split(outputs)[0])
    return with_pen(score, outputs, strokes)


def with_scales(change, outputs, strokes):
    end, pi, mu_1, mu_2, s_1, s_2, r = split(outputs)
    score = offset_nats(strokes, pi, mu_1, mu_2, change(s_1), change(s_2), r)
    return score + pen_nats(-end, strokes)


def epsilon_in_scale(outputs, strokes):
    return with_scales(lambda s: (s.exp() + 1e-6).log(), outputs, strokes)


def large_epsilon_in_scale(outputs, strokes):
    return with_scales(lambda s: (s.exp() + 1e-3).log(), outputs, strokes)


def epsilon_in_single_precision(outputs, strokes):
    return with_scales(lambda s: (s.exp() + 1e-5).log(), outputs.float(), strokes.float())


def epsilon_without_double(outputs, strokes):
    assert outputs.dtype == torch.float32
    return with_scales(lambda s: (s.exp() + 1e-5).log(), outputs, strokes)


def epsilon_in_determinant(outputs, strokes):
    end, pi, *rest = split(outputs)
    s_1, s_2, r = rest[2:]
    determinant = (s_1 + s_2).exp() / r.cosh()
    log_share = log_normal(strokes, *rest) + determinant.log() - (determinant + 1e-8).log()
    score = LOG_2_PI - torch.logsumexp(pi.log_softmax(-1) + log_share, -1)
    return score + pen_nats(-end, strokes)


def epsilon_in_correlation(outputs, strokes):
    end, pi, mu_1, mu_2, s_1, s_2, r = split(outputs)
    rho = r.tanh()
    z_1 = (strokes[..., 0:1] - mu_1) * torch.exp(-s_1)
    z_2 = (strokes[..., 1:2] - mu_2) * torch.exp(-s_2)
    rest = 1 - rho**2 + 1e-6
    z = (z_1**2 + z_2**2 - 2 * rho * z_1 * z_2) / rest
    log_share = pi.log_softmax(-1) - s_1 - s_2 - rest.log() / 2 - z / 2
    return LOG_2_PI - torch.logsumexp(log_share, -1) + pen_nats(-end, strokes)


def clamped_scale(outputs, strokes):
    return with_scales(lambda s: s.clamp(min=-6), outputs, strokes)


def with_correlations(change, outputs, strokes):
    end, *rest, r = split(outputs)
    return offset_nats(strokes, *rest, change(r)) + pen_nats(-end, strokes)


def clamped_correlation(outputs, strokes):
    return with_correlations(lambda r: r.tanh().clamp(-0.99, 0.99).atanh(), outputs, strokes)


def rounded_correlation(outputs, strokes):
    end, pi, mu_1, mu_2, s_1, s_2, r = split(outputs)
    rho = r.tanh()
    z_1 = (strokes[..., 0:1] - mu_1) * torch.exp(-s_1)
    z_2 = (strokes[..., 1:2] - mu_2) * torch.exp(-s_2)
    z = (z_1**2 + z_2**2 - 2 * rho * z_1 * z_2) / (1 - rho**2)
    log_share = pi.log_softmax(-1) - s_1 - s_2 - (1 - rho**2).log() / 2 - z / 2
    return LOG_2_PI - torch.logsumexp(log_share, -1) + pen_nats(-end, strokes)


def softplus_scale(outputs, strokes):
    return with_scales(lambda s: softplus(s).log(), outputs, strokes)


def log_variance(outputs, strokes):
    return with_scales(lambda s: s / 2, outputs, strokes).mean()


def plain_correlation(outputs, strokes):
    return with_correlations(torch.atanh, outputs, strokes)


def no_correlation(outputs, strokes):
    return with_correlations(torch.zeros_like, outputs, strokes)


def with_share(extra, outputs, strokes):
    end, pi, *rest = split(outputs)
    log_share = pi.log_softmax(-1) + log_normal(strokes, *rest) + extra(*rest[2:])
    return LOG_2_PI - torch.logsumexp(log_share, -1) + pen_nats(-end, strokes)


def no_root(outputs, strokes):
    return with_share(lambda _1, _2, r: -r.cosh().log(), outputs, strokes)


def no_scales(outputs, strokes):
    return with_share(lambda s_1, s_2, _: s_1 + s_2, outputs, strokes).sum()


def exponent(halve, cross, divide):
    """A loss whose exponent lacks something of the bivariate normal's."""

    def loss(outputs, strokes):
        end, pi, mu_1, mu_2, s_1, s_2, r = split(outputs)
        rho, rest = r.tanh(), r.cosh() ** -2
        z_1 = (strokes[..., 0:1] - mu_1) * torch.exp(-s_1)
        z_2 = (strokes[..., 1:2] - mu_2) * torch.exp(-s_2)
        z = (z_1**2 + z_2**2 - cross * rho * z_1 * z_2) / (rest if divide else 1)
        log_share = pi.log_softmax(-1) - s_1 - s_2 - rest.log() / 2 - z / halve
        return LOG_2_PI - torch.logsumexp(log_share, -1) + pen_nats(-end, strokes)

    return loss


def in_place(outputs, strokes):
    outputs[..., -K:].tanh_()
    end, *rest, rho = split(outputs)
    rest = offset_nats(strokes, *rest, rho.clamp(-0.999999, 0.999999).atanh())
    return rest + pen_nats(-end, strokes)


def strokes_in_place(outputs, strokes):
    strokes[..., 2].mul_(1)
    return exact(outputs, strokes)


def naive_softmax(outputs, strokes):
    pi = split(outputs)[1].exp()
    return with_log_weights((pi / pi.sum(-1, keepdim=True)).log(), outputs, strokes)


class WrongBackward(RightBackward):
    @staticmethod
    def backward(ctx, weight):
        slope = RightBackward.slopes(*ctx.saved_tensors).clone()
        slope[..., -K:] *= 2  # by the correlations
        return slope * weight.unsqueeze(-1), None


def wrong_backward(outputs, strokes):
    return WrongBackward.apply(outputs, strokes)


def detached(outputs, strokes):
    return exact(outputs.detach(), strokes)


def detached_in_part(outputs, strokes):
    return with_scales(lambda s: s.detach(), outputs, strokes)


def does_not_shift(outputs, strokes):
    return exact(outputs, strokes).mean()


def shifts_backwards(outputs, strokes):
    return exact(outputs[:, 1:], strokes[:, :-1]).mean()


def mask_times_score(outputs, strokes, mask):
    return (exact(outputs, strokes) * mask).sum() / mask.sum()


def mask_ignored(outputs, strokes, _mask):
    return exact(outputs, strokes).mean()


def mean_over_padding(outputs, strokes, mask):
    strokes = torch.where(mask.unsqueeze(-1), strokes, 0.0)
    return (exact(outputs, strokes) * mask).mean()


def mask_of_the_outputs(outputs, strokes, mask):
    """Shifts outputs and strokes, and the mask as the outputs."""
    mask, strokes = mask[:, :-1], strokes[:, 1:]
    score = exact(outputs[:, :-1], torch.where(mask.unsqueeze(-1), strokes, 0.0))
    return (score * mask).sum() / mask.sum()


def checks_padding(outputs, strokes, mask):
    if not strokes.isfinite().all():
        raise ValueError("strokes must be finite")
    return masked(outputs, strokes, mask)


def gradient_of_padding(outputs, strokes, mask):
    """The score is dropped by a where that NaN passes backwards."""
    return torch.where(mask, exact(outputs, strokes), 0.0)


def dropout(outputs, strokes):
    return exact(torch.nn.functional.dropout(outputs, 0.2), strokes)


def weighted_by_step(outputs, strokes):
    score = exact(outputs, strokes)
    return (score * torch.arange(1, 1 + score.shape[1])).sum()


def another_loss(outputs, strokes):
    return ((outputs[..., :3] - strokes) ** 2).sum(-1)


def absolute_means(outputs, strokes):
    end, pi, mu_1, mu_2, *rest = split(outputs)
    return offset_nats(strokes, pi, mu_1.abs(), mu_2, *rest) + pen_nats(-end, strokes)


def other_tails(outputs, strokes):
    """Right for points within 30 of the origin, and a fifth of it beyond."""
    far = strokes[..., :2].norm(dim=-1) > 30
    return torch.where(far, exact(outputs, strokes) / 5, exact(outputs, strokes))


def falling_tails(outputs, strokes):
    far = strokes[..., :2].norm(dim=-1) > 30
    return exact(outputs, strokes) * torch.where(far, -1, 1)


def always_nan(outputs, strokes):
    return exact(outputs, strokes) * math.nan


def constant(outputs, strokes):
    return exact(outputs, strokes) * 0


def customary(outputs, strokes):
    """As it is usually written, with three faults: two floors and a correlation of 1."""
    end, pi, mu_1, mu_2, s_1, s_2, r = split(outputs)
    e, s_1, s_2, rho = torch.sigmoid(end), s_1.exp(), s_2.exp(), r.tanh()
    z_1, z_2 = (strokes[..., 0:1] - mu_1) / s_1, (strokes[..., 1:2] - mu_2) / s_2
    z = z_1**2 + z_2**2 - 2 * rho * z_1 * z_2
    rest = 1 - rho**2
    normal = torch.exp(-z / (2 * rest)) / (2 * math.pi * s_1 * s_2 * torch.sqrt(rest))
    offset = (pi.softmax(-1) * normal).sum(-1)
    pen = strokes[..., 2] * e + (1 - strokes[..., 2]) * (1 - e)
    return (-torch.log(offset + 1e-20) - torch.log(pen + 1e-20)).mean()


class Leaky(nn.Module):
    """Changes all the global state that it can, and itself, but scores rightly."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, outputs, strokes):
        self.calls += 1
        if self.calls == 1:
            self.change()
        return exact(outputs, strokes).mean() + 0 * self.weight

    def change(self):
        with torch.no_grad():
            self.weight.add_(1)
        self.eval()
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        torch.set_default_dtype(torch.float64)
        torch.distributions.Distribution.set_default_validate_args(False)
        torch.set_grad_enabled(False)
        torch.set_grad_enabled(True)
        warnings.warn("a loss that warns", stacklevel=1)


def limited_correlation(outputs, strokes):
    return with_correlations(lambda r: (0.95 * r.tanh()).atanh(), outputs, strokes)


class RaisingBackward(RightBackward):
    @staticmethod
    def backward(ctx, weight):
        raise NotImplementedError("todo")


def raising_backward(outputs, strokes):
    return RaisingBackward.apply(outputs, strokes)


def four_faults(outputs, strokes):
    """The loss that this library was asked about, and its flaws."""
    outputs[..., 0] = torch.sigmoid(-outputs[..., 0])
    outputs[..., 1 + 3 * K : 1 + 5 * K].exp_()
    outputs[..., 1 + 5 * K :].tanh_()
    outputs[..., 1 : 1 + K] /= outputs[..., 1 : 1 + K].sum(-1, keepdim=True)
    total = 0.0
    for t in range(outputs.shape[1]):
        end, pi, mu_1, mu_2, s_1, s_2, rho = split(outputs[:, t])
        x, y, flag = strokes[:, t].split(1, -1)
        z_1, z_2 = (x - mu_1) / s_1, (y - mu_2) / s_2
        z = z_1**2 + z_2**2 - 2 * rho * z_1 * z_2
        rest = 1 - rho**2
        normal = torch.exp(-z / (2 * rest)) / (2 * math.pi * s_1 * s_2 * torch.sqrt(rest))
        pen = torch.where(flag[:, 0] == 1, end, 1 - end)
        total = total - torch.log(((pi * normal).sum(-1) * pen).sum().clamp(min=1e-20))
    return total


def floor_of_wrong_weights(outputs, strokes):
    return -torch.log(torch.exp(-no_exponential(outputs, strokes)) + 1e-6)


# No losses


def needs_two_sequences(outputs, strokes):
    if len(outputs) < 2:
        raise IndexError("where is the batch?")
    return exact(outputs, strokes)


def raises(_outputs, _strokes):
    raise RuntimeError("the size of tensor a must match\nthe size of tensor b")


def raises_type_error(outputs, strokes):
    return exact(outputs, strokes, None)


def wrong_shape(outputs, strokes):
    return exact(outputs, strokes).unsqueeze(-1) * strokes


def a_number(outputs, strokes):
    return exact(outputs, strokes).mean().item()


def whole_numbers(outputs, strokes):
    return exact(outputs, strokes).long()
