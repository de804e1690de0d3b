"""What arguments must be: each check raises an error that names the argument."""

import math
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor

from mdn_dist._torch import traced

Covariance = Literal["full", "diagonal", "spherical"]
"""A component's: any, one without correlations, or a multiple of the identity."""

COVARIANCES = get_args(Covariance)


def check_covariance(covariance: object) -> None:
    """Raise ValueError unless `covariance` is a kind of covariance."""
    if covariance not in COVARIANCES:
        raise ValueError(
            f"covariance must be 'full', 'diagonal' or 'spherical', got {covariance!r}"
        )


def check_finite(name: str, numbers: Tensor) -> None:
    """Raise ValueError, saying where, unless all are finite; where they are, one sum tells."""
    if not (numbers.is_meta or numbers.sum().isfinite()):
        check_all(name, numbers.isfinite(), "finite", numbers)


def check_tensor(value: object, name: str) -> None:
    """Raise TypeError unless `value` is a tensor of real numbers."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.is_complex():
        raise TypeError(f"{name} must be a tensor of real numbers, got {value.dtype}")


def check_mask(mask: Tensor) -> None:
    """Raise TypeError unless `mask` is a boolean tensor."""
    check_tensor(mask, "mask")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean, got {mask.dtype}")


def check_uniform(uniform: Tensor) -> None:
    """Raise TypeError or ValueError unless `uniform` holds points ``(*, D)`` of the unit cube."""
    check_tensor(uniform, "uniform")
    if uniform.dim() < 2 or not uniform.numel():
        raise ValueError(f"uniform must hold points (*, D), got shape {tuple(uniform.shape)}")
    if not ((uniform >= 0) & (uniform <= 1)).all():
        raise ValueError("uniform must be from 0 to 1; leave padding out")


def check_all(name: str, valid: Tensor, expected: str, got: Tensor) -> None:
    """Raise ValueError, saying where in `got`, unless all of `valid`, of its shape, is True."""
    if valid.is_meta or valid.all():
        return
    wrong = (~valid).nonzero()
    where = tuple(wrong[0].tolist())
    raise ValueError(
        f"{name} must be {expected}, got {got[where].item()} at index {where} "
        f"({len(wrong)} of {valid.numel()} elements are wrong)"
    )


def is_number(value: object) -> bool:
    """Tell whether `value` is one real number, of Python's or of NumPy's."""
    return isinstance(value, Real)


def check_counts(**counts: int) -> None:
    """Raise TypeError or ValueError unless every argument is an integer of at least 1."""
    for name, count in counts.items():
        if isinstance(count, bool) or not hasattr(count, "__index__"):
            raise TypeError(f"{name} must be an integer, got {count!r}")
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


def check_clip(**limits: float | None) -> None:
    """Raise TypeError or ValueError unless every limit of a gradient is positive, or None."""
    for name, limit in limits.items():
        if limit is None:
            continue
        if not is_number(limit):
            raise TypeError(f"{name} must be a number or None, got {limit!r}")
        if not limit > 0:
            raise ValueError(f"{name} must be positive or None, got {limit}")


def check_distance(name: str, distance: float) -> None:
    """Raise TypeError or ValueError unless a distance is a finite number of at least 0."""
    if not is_number(distance):
        raise TypeError(f"{name} must be a number, got {type(distance).__name__}")
    if not 0 <= distance < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {distance}")


def check_bias(bias: float | Tensor) -> None:
    """Raise TypeError or ValueError unless `bias` is finite and at least 0."""
    _check_numbers("bias", bias)
    if not _all(bias >= 0, bias < math.inf):
        raise ValueError(f"bias must be finite and at least 0, got {bias}")


def check_temperature(temperature: float | Tensor) -> None:
    """Raise TypeError or ValueError unless `temperature` is finite and positive."""
    _check_numbers("temperature", temperature)
    if not _all(temperature > 0, temperature < math.inf):
        raise ValueError(f"temperature must be finite and positive, got {temperature}")


def check_probabilities(name: str, given: float | Tensor) -> None:
    """Raise TypeError or ValueError unless `given` is one number or several from 0 to 1."""
    _check_numbers(name, given)
    if isinstance(given, Tensor):
        check_tensor(given, name)
        if given.dim() > 1:
            raise ValueError(f"{name} must have at most one dimension, got {tuple(given.shape)}")
    if not _all(given >= 0, given <= 1):
        raise ValueError(f"{name} must be from 0 to 1, got {given}")


def _check_numbers(name: str, given: object) -> None:
    if not is_number(given) and not isinstance(given, Tensor):
        raise TypeError(f"{name} must be a number or a tensor, got {type(given).__name__}")


def _all(*conditions: bool | Tensor) -> bool:
    """Tell whether all hold, as far as values are known."""
    return all(
        traced() or bool(each.all()) if isinstance(each, Tensor) else each for each in conditions
    )
