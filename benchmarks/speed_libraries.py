"""Times libraries that offer the same density, and fits; those not installed are left out."""

from collections.abc import Callable
from functools import partial

import torch
from speed_mixtures import mixture_parameters
from speed_scores import COMPONENTS
from timing import Ratio, Run, ratio
from torch import Tensor
from torch import distributions as td

from mdn_dist import GaussianMixture


def peer_ratios(repeats: int) -> list[Ratio]:
    """Times libraries that offer the same density, after holding their answers against ours."""
    parameters = mixture_parameters(4_800, components=COMPONENTS, size=2)
    value = torch.randn(4_800, 2)
    mixture = GaussianMixture(*(p.detach() for p in parameters), validate_args=False)
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
        ratios.append(Ratio(f"log density against {name}", ratio(repeats, ours, peer)))
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
        parameters = mixture_parameters(components=COMPONENTS, size=2)
        logits, loc, factor = (p.detach().double() for p in parameters)
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
        measured = ratio(max(1, repeats // 20), run, partial(other.fit, array))
        ratios += [
            Ratio(f"fit, {name} data, against scikit-learn's", measured, 1.0),
            Ratio("(our nats a point more than its)", score - other.score(array)),
        ]
    return ratios
