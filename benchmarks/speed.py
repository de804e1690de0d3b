"""Time scoring, sampling and generating against torch's own and other ways, as ratios in one run.

    python benchmarks/speed.py --json speed.json
    python benchmarks/speed.py --only loss peers
    python benchmarks/speed.py --growth growth.png

Each ratio is ours over the other, from the medians of interleaved runs in one process: below 1,
ours is faster. Peers that are not installed are left out; ``pip install -e ".[benchmarks]"`` brings
them. Before it is timed, a peer's answer is held against ours.
"""

import gc
import io
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from options import Parser, errors_in_one_line, within, writable, write
from peers import hand_nats, log_space_nats, stock_distributions, stock_nats
from torch import Tensor, nn
from torch import distributions as td
from torch.autograd.graph import saved_tensors_hooks

from mdn_dist import (
    GaussianMixture,
    MixtureDensityHead,
    PredictionNetwork,
    StrokeDistribution,
)
from mdn_dist._maths.draw import draw_offset
from mdn_dist.outputs import OutputMap

POINTS, COMPONENTS = 19_200, 20
Run = Callable[[], object]


@dataclass
class Ratio:
    """Ours over another, with the target where there is one."""

    what: str
    ratio: float
    target: float | None = None


def interleave(ours: Run, other: Run, repeats: int) -> float:
    """Returns the ratio of the medians of `repeats` runs of each, one after the other."""
    times: dict[Run, list[float]] = {ours: [], other: []}
    for run in times:
        run()
        run()
    gc.disable()
    for _ in range(repeats):
        for run, taken in times.items():
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    gc.enable()
    return statistics.median(times[ours]) / statistics.median(times[other])


def strokes_like(count: int) -> Tensor:
    """Returns points ``(count, 3)`` of unit scale, one in ten at the end of a stroke."""
    points = torch.randn(count, 3)
    points[:, 2] = (points[:, 2] > 1.3).float()
    return points


def stock_loss(outputs: Tensor, points: Tensor) -> Tensor:
    """Scores with torch's own distributions."""
    return stock_nats(outputs, points, validate_args=False).mean()


def written_loss(outputs: Tensor, points: Tensor) -> Tensor:
    """Scores with the usual hand-written density and its floor."""
    return hand_nats(outputs, points).mean()


def log_space_loss(outputs: Tensor, points: Tensor) -> Tensor:
    """Scores by the exact closed form in log space, written out."""
    return log_space_nats(outputs, points).mean()


def our_loss(outputs: Tensor, points: Tensor) -> Tensor:
    """Scores through the library, with its bounds."""
    return -StrokeDistribution.from_outputs(outputs, validate_args=False).log_prob(points).mean()


def both_ways(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, points: Tensor) -> Run:
    """Returns a run of a loss, forward and backward."""

    def run() -> None:
        outputs.grad = None
        loss(outputs, points).backward()

    return run


def loss_ratios(repeats: int) -> list[Ratio]:
    """Times the loss from outputs, forward and backward."""
    outputs = torch.randn(POINTS, 6 * COMPONENTS + 1, requires_grad=True)
    points = strokes_like(POINTS)
    for loss in (stock_loss, written_loss, log_space_loss):
        torch.testing.assert_close(
            loss(outputs, points), our_loss(outputs, points), rtol=1e-3, atol=0
        )
    ours, stock, written = (
        both_ways(loss, outputs, points) for loss in (our_loss, stock_loss, written_loss)
    )
    compiled = both_ways(torch.compile(log_space_loss, fullgraph=True), outputs, points)
    ours_compiled = both_ways(torch.compile(our_loss, fullgraph=True), outputs, points)
    return [
        Ratio("loss against stock", interleave(ours, stock, repeats), 1 / 7.5),
        Ratio("loss against hand-written", interleave(ours, written, repeats), 0.85),
        Ratio("loss, eager, against compiled", interleave(ours, compiled, repeats), 1.5),
        Ratio(
            "loss, compiled, against compiled", interleave(ours_compiled, compiled, repeats), 1.1
        ),
    ]


def head_ratios(repeats: int) -> list[Ratio]:
    """Times head and loss against the linear map that the head contains."""
    features, points = torch.randn(POINTS, 400), strokes_like(POINTS)
    head = MixtureDensityHead(400, COMPONENTS, validate_args=False)
    linear = nn.Linear(400, 6 * COMPONENTS + 1)
    weight = torch.randn(POINTS, 6 * COMPONENTS + 1) / POINTS

    def ours() -> None:
        head.zero_grad()
        (-head(features).log_prob(points)).mean().backward()

    def bare() -> None:
        linear.zero_grad()
        linear(features).backward(weight)

    def stock() -> None:
        linear.zero_grad()
        stock_loss(linear(features), points).backward()

    return [
        Ratio("head and loss against a bare linear map", interleave(ours, bare, repeats), 1.2),
        Ratio("(stock's head and loss against it)", interleave(stock, bare, repeats)),
    ]


def held_bytes(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, points: Tensor) -> int:
    """Returns the bytes that a loss keeps for its backward pass, beyond its inputs."""
    inputs = {tensor.untyped_storage().data_ptr() for tensor in (outputs, points)}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in inputs:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = loss(outputs, points)
    del kept
    return sum(held.values())


def memory_ratios(repeats: int) -> list[Ratio]:  # noqa: ARG001  # counted, not timed
    """Counts the bytes held for the backward pass, as multiples of the outputs."""
    outputs = torch.randn(POINTS, 6 * COMPONENTS + 1, requires_grad=True)
    points = strokes_like(POINTS)
    ours, stock, written = (
        held_bytes(loss, outputs, points) / outputs.nbytes
        for loss in (our_loss, stock_loss, written_loss)
    )
    return [
        Ratio("bytes held, ours", ours, 1.1),
        Ratio("(bytes held, stock)", stock),
        Ratio("(bytes held, hand-written)", written),
    ]


def sample_ratios(repeats: int) -> list[Ratio]:
    """Times outputs -> distribution -> sample."""
    ratios = []
    for batch, target in ((1, 0.5), (64, 0.5), (1024, 0.6)):
        outputs = torch.randn(batch, 6 * COMPONENTS + 1)

        def ours(outputs: Tensor = outputs) -> Tensor:
            return StrokeDistribution.from_outputs(outputs, validate_args=False).sample()

        def stock(outputs: Tensor = outputs) -> Tensor:
            offset, pen = stock_distributions(outputs, validate_args=False)
            return torch.cat([offset.sample(), pen.sample().unsqueeze(-1)], -1)

        ratio = interleave(ours, stock, 20 * repeats)
        ratios.append(Ratio(f"sample, batch {batch}, against stock", ratio, target))
    return ratios


def mixture_parameters(points: int, components: int, size: int) -> list[Tensor]:
    """Returns logits, means and Cholesky factors that want gradients."""
    factor = 0.2 * torch.randn(points, components, size, size).tril(-1) + 1.5 * torch.eye(size)
    logits, loc = torch.randn(points, components), torch.randn(points, components, size)
    return [parameter.requires_grad_() for parameter in (logits, loc, factor)]


def mixture_ratios(repeats: int) -> list[Ratio]:
    """Times the mixture's log density in more coordinates, forward and backward."""
    ratios = []
    for size, components, points, target in ((6, 10, 9_600, 0.5), (32, 5, 2_400, 0.7)):
        parameters, value = mixture_parameters(points, components, size), torch.randn(points, size)

        def ours(parameters: list[Tensor] = parameters, value: Tensor = value) -> None:
            for parameter in parameters:
                parameter.grad = None
            GaussianMixture(*parameters, validate_args=False).log_prob(value).mean().backward()

        def stock(parameters: list[Tensor] = parameters, value: Tensor = value) -> None:
            logits, loc, factor = parameters
            for parameter in parameters:
                parameter.grad = None
            mixture = td.Categorical(logits=logits, validate_args=False)
            normal = td.MultivariateNormal(loc, scale_tril=factor, validate_args=False)
            distribution = td.MixtureSameFamily(mixture, normal, validate_args=False)
            distribution.log_prob(value).mean().backward()

        ratio = interleave(ours, stock, repeats)
        ratios.append(Ratio(f"mixture, D = {size}, against stock", ratio, target))
    return ratios


def rsample_ratios(repeats: int) -> list[Ratio]:
    """Times samples with exact derivatives, forward and backward.

    Against three: the draw of one component, with derivatives by that component alone, forward and
    backward; torch's own way to the same, which draws from all components; and a bare ``sample``.
    """
    ratios = []
    for size, components, points in ((2, COMPONENTS, POINTS), (6, 10, 9_600)):
        parameters, pull = mixture_parameters(points, components, size), torch.randn(points, size)

        def drawn(logits: Tensor, loc: Tensor, factor: Tensor) -> Tensor:
            return draw_offset(logits, loc, factor, torch.Size())

        def ours(logits: Tensor, loc: Tensor, factor: Tensor) -> Tensor:
            return GaussianMixture(logits, loc, factor, validate_args=False).rsample()

        def stock(logits: Tensor, loc: Tensor, factor: Tensor) -> Tensor:
            index = td.Categorical(logits=logits, validate_args=False).sample()
            normal = td.MultivariateNormal(loc, scale_tril=factor, validate_args=False)
            index = index[:, None, None].expand(-1, 1, loc.shape[-1])
            return normal.rsample().gather(-2, index).squeeze(-2)

        def run(
            draw: Callable[..., Tensor],
            parameters: list[Tensor] = parameters,
            pull: Tensor = pull,
        ) -> None:
            for parameter in parameters:
                parameter.grad = None
            draw(*parameters).backward(pull)

        def bare(parameters: list[Tensor] = parameters) -> Tensor:
            return GaussianMixture(*parameters, validate_args=False).sample()

        for name, other, target in (
            ("sample, both with backward", partial(run, drawn), 4.0),
            ("stock's draw, both with backward", partial(run, stock), 4.0),
            ("a bare sample", bare, None),
        ):
            ratio = interleave(partial(run, ours), other, repeats)
            what = f"rsample, D = {size}, against {name}"
            ratios.append(Ratio(what if target else f"({what})", ratio, target))
    return ratios


@torch.no_grad()
def step_ratios(repeats: int) -> list[Ratio]:
    """Times a step of generating with the paper's 1 x 900 network against its matrices alone."""
    network = PredictionNetwork(hidden_size=900, layers=1, validate_args=False)
    cell, linear = nn.LSTMCell(3, 900), nn.Linear(900, 6 * COMPONENTS + 1)
    ratios = []
    for batch, target in ((1, 1.4), (64, 1.15)):
        point, state = strokes_like(batch), network.initial_state(batch)

        def ours(point: Tensor = point, state: tuple = state) -> Tensor:
            distribution, _ = network.step(point, state)
            return distribution.sample()

        def bare(point: Tensor = point, state: tuple = state) -> Tensor:
            return linear(cell(point, state[0])[0])

        ratio = interleave(ours, bare, 5 * repeats)
        ratios.append(Ratio(f"step of 1 x 900, batch {batch}, against its maps", ratio, target))
    return ratios


def peer_ratios(repeats: int) -> list[Ratio]:
    """Times libraries that offer the same density, after holding their answers against ours."""
    logits, loc, factor = (p.detach() for p in mixture_parameters(4_800, COMPONENTS, 2))
    value = torch.randn(4_800, 2)
    mixture = GaussianMixture(logits, loc, factor, validate_args=False)
    peers = {
        "Pyro's MixtureOfDiagNormals": pyro_peer,
        "zuko's Mixture": zuko_peer,
        "sbi's mixture density estimator": sbi_peer,
    }
    ratios = []
    for name, make in peers.items():
        try:
            ours, peer = make(mixture, value)
        except ImportError:
            print(f"({name}: not installed)")
            continue
        ratios.append(Ratio(f"log density against {name}", interleave(ours, peer, repeats)))
    return ratios


def checked(
    distribution: GaussianMixture, value: Tensor, peer: Callable[[], Tensor]
) -> tuple[Run, Run]:
    """Returns our run and a peer's, after comparing what they compute."""
    torch.testing.assert_close(peer(), distribution.log_prob(value), rtol=1e-4, atol=1e-4)
    return lambda: distribution.log_prob(value), peer


def pyro_peer(mixture: GaussianMixture, value: Tensor) -> tuple[Run, Run]:
    """Pyro's mixture of diagonal normals: ours with the same diagonal factors."""
    from pyro.distributions import MixtureOfDiagNormals  # noqa: PLC0415

    scale = mixture.scale_tril.diagonal(dim1=-2, dim2=-1)
    diagonal = GaussianMixture(
        mixture.logits, mixture.loc, torch.diag_embed(scale), validate_args=False
    )
    theirs = MixtureOfDiagNormals(mixture.loc, scale, mixture.logits)
    return checked(diagonal, value, lambda: theirs.log_prob(value))


def zuko_peer(mixture: GaussianMixture, value: Tensor) -> tuple[Run, Run]:
    """The mixture of zuko, over torch's multivariate normals."""
    from zuko.distributions import Mixture  # noqa: PLC0415

    normal = td.MultivariateNormal(mixture.loc, scale_tril=mixture.scale_tril, validate_args=False)
    theirs = Mixture(normal, mixture.logits)
    return checked(mixture, value, lambda: theirs.log_prob(value))


def sbi_peer(mixture: GaussianMixture, value: Tensor) -> tuple[Run, Run]:
    """The log density of sbi's mixture density networks, from precision factors."""
    from sbi.neural_nets.estimators.mog import MoG  # noqa: PLC0415

    identity = torch.eye(2).expand_as(mixture.scale_tril)
    inverse = torch.linalg.solve_triangular(mixture.scale_tril, identity, upper=False)
    precision = inverse.mT @ inverse
    factor = torch.linalg.cholesky(precision).mT
    theirs = MoG(
        logits=mixture.logits, means=mixture.loc, precisions=precision, precision_factors=factor
    )
    return checked(mixture, value, lambda: theirs.log_prob(value))


def fit_ratios(repeats: int) -> list[Ratio]:
    """Times fits to 100,000 points against scikit-learn's, both by their defaults, in float64."""
    try:
        from sklearn.mixture import GaussianMixture as Theirs  # noqa: PLC0415
    except ImportError:
        print("(scikit-learn: not installed)")
        return []
    theirs = partial(Theirs, COMPONENTS, reg_covar=1e-6, random_state=0)
    ratios = []
    for name in ("first", "second", "third"):
        logits, loc, factor = (p.detach()[0].double() for p in mixture_parameters(1, COMPONENTS, 2))
        points = GaussianMixture(logits, 4 * loc, 0.3 * factor).sample((100_000,))
        array = points.numpy()
        ours = GaussianMixture.fit(points, COMPONENTS)
        onward = theirs(
            weights_init=ours.logits.softmax(-1).numpy(),
            means_init=ours.loc.numpy(),
            precisions_init=torch.cholesky_inverse(ours.scale_tril).numpy(),
        ).fit(array)
        score = ours.log_prob(points).mean().item()
        if abs(onward.score(array) - score) > 1e-3:
            raise SystemExit("scikit-learn goes on from our fit, or scores it otherwise")
        run, other = partial(GaussianMixture.fit, points, COMPONENTS), theirs()
        ratio = interleave(run, partial(other.fit, array), max(1, repeats // 20))
        ratios += [
            Ratio(f"fit, {name} data, against scikit-learn's", ratio, 1.0),
            Ratio("(our nats a point more than its)", score - other.score(array)),
        ]
    return ratios


GROUPS: dict[str, Callable[[int], list[Ratio]]] = {
    "loss": loss_ratios,
    "head": head_ratios,
    "memory": memory_ratios,
    "sample": sample_ratios,
    "rsample": rsample_ratios,
    "mixture": mixture_ratios,
    "step": step_ratios,
    "peers": peer_ratios,
    "fit": fit_ratios,
}


def growth(path: Path) -> None:
    """Plots time and bytes held against the numbers of points, components and coordinates."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    ranges = {
        "points N": ([1_200 * 2**i for i in range(6)], lambda n: (n, 20, 2)),
        "components K": ([5 * 2**i for i in range(5)], lambda k: (4_800, k, 2)),
        "coordinates D": ([1, 2, 4, 8, 16, 32], lambda d: (1_200, 10, d)),
    }
    figure = Figure(figsize=(12, 7), layout="constrained")
    columns = figure.subplots(2, 3).T
    for column, (name, (sizes, shape)) in zip(columns, ranges.items(), strict=True):
        power = 2 if name.endswith("D") else 1  # outputs grow with D squared
        measured = zip(*(cost_of_loss(*shape(size)) for size in sizes), strict=True)
        for axes, unit, costs in zip(column, ("ms", "MB held"), measured, strict=True):
            axes.loglog(sizes, costs, "o-", label=unit)
            trend = [costs[-1] * (size / sizes[-1]) ** power for size in sizes]
            axes.loglog(sizes, trend, ":", label="quadratic" if power == 2 else "linear")
            axes.set(xlabel=name)
            axes.legend(loc="upper left", frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:])
    write(path, picture.getvalue())
    print(f"Growth drawn to {path}")


def cost_of_loss(points: int, components: int, size: int) -> tuple[float, float]:
    """Returns milliseconds, forward and backward, and megabytes held, of a loss from outputs."""
    output_map = OutputMap(components, size)
    outputs = torch.randn(points, 1 + output_map.size, requires_grad=True)
    value = torch.cat([torch.randn(points, size), torch.zeros(points, 1)], -1)

    def loss(outputs: Tensor, value: Tensor) -> Tensor:
        distribution = StrokeDistribution.from_outputs(
            outputs, components, event_size=size, validate_args=False
        )
        return -distribution.log_prob(value).mean()

    run, taken = both_ways(loss, outputs, value), []
    for _ in range(9):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken), held_bytes(loss, outputs, value) / 1e6


@errors_in_one_line()
def main() -> None:
    """Runs the groups asked for and prints one table."""
    parser = Parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--repeats", type=within(int, 1, 10_000), default=40, help="of each run")
    parser.add_argument("--threads", type=within(int, 1, 1024), default=2)
    parser.add_argument("--json", type=writable, help="write the ratios here too")
    parser.add_argument("--growth", type=writable, help="plot growth with N, K and D here")
    arguments = parser.parse_args()
    if arguments.growth and arguments.growth.suffix not in (".png", ".svg"):
        parser.error(f"argument --growth: expected a .png or .svg file, got {arguments.growth}")
    if arguments.growth and not find_spec("matplotlib"):
        parser.error('argument --growth: needs matplotlib: pip install -e ".[benchmarks]"')
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    print(f"{'ours / other':>12}  {'target':>6}")
    ratios = []
    for group in arguments.only:
        for ratio in GROUPS[group](arguments.repeats):
            target = f"{ratio.target:6.3f}" if ratio.target else " " * 6
            print(f"{ratio.ratio:12.3f}  {target}  {ratio.what}", flush=True)
            ratios.append(ratio)
    if arguments.json:
        text = json.dumps([asdict(ratio) for ratio in ratios], indent=1) + "\n"
        write(arguments.json, text.encode())
    if arguments.growth:
        growth(arguments.growth)


if __name__ == "__main__":
    main()
