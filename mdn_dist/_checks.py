"""What arguments must be: each check raises an error that names the argument."""

import math
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor

from mdn_dist._torch import traced

Covariance = Literal["full", "diagonal", "spherical"]
"""A component's: any, one without correlations, or a multiple of the identity."""


def check_covariance(covariance: object) -> None:
    """Raise ValueError unless `covariance` is a kind of covariance."""
    if covariance not in get_args(Covariance):
        raise ValueError(
            f"covariance must be 'full', 'diagonal' or 'spherical', got {covariance!r}"
        )


def check_finite(name: str, numbers: Tensor) -> None:
    """Raise ValueError, saying where, unless all are finite; where they are, one sum tells."""
    if not (numbers.is_meta or numbers.sum().isfinite()):
        check_all(name, numbers.isfinite(), "finite", numbers)


def check_tensor(value: object, name: str) -> None:
    """Raise TypeError unless `value` is a tensor of real numbers.

    Args:
        value: An argument.
        name: Its name.

    Raises:
        TypeError: If it is anything else.

    Example:
        >>> check_tensor([0.0, 1.0], "points")
        Traceback (most recent call last):
        TypeError: points must be a torch.Tensor, got list
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.is_complex():
        raise TypeError(f"{name} must be a tensor of real numbers, got {value.dtype}")


def check_mask(mask: Tensor) -> None:
    """Raise TypeError unless `mask` is a boolean tensor.

    Args:
        mask: An argument.

    Raises:
        TypeError: If it is anything else.
    """
    check_tensor(mask, "mask")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean, got {mask.dtype}")


def check_all(name: str, valid: Tensor, expected: str, got: Tensor) -> None:
    """Raise ValueError, saying where, unless all of `valid` is True.

    Args:
        name: The argument's name.
        valid: Truth of each element, any shape.
        expected: What a valid element is.
        got: The elements, shaped like `valid`.

    Raises:
        ValueError: If an element is not valid.
    """
    if valid.is_meta or valid.all():
        return
    wrong = (~valid).nonzero()
    where = tuple(wrong[0].tolist())
    raise ValueError(
        f"{name} must be {expected}, got {got[where].item()} at index {where} "
        f"({len(wrong)} of {valid.numel()} elements are wrong)"
    )


def is_number(value: object) -> bool:
    """Tell whether `value` is one real number, of Python's or of NumPy's.

    Args:
        value: Anything.

    Returns:
        Whether it is.

    Example:
        >>> is_number(0.5), is_number("0.5")
        (True, False)
    """
    return isinstance(value, Real)


def check_counts(**counts: int) -> None:
    """Raise TypeError or ValueError unless every argument is an integer of at least 1.

    Args:
        **counts: Arguments by name.

    Raises:
        TypeError: If one is not an integer.
        ValueError: If one is less than 1.

    Example:
        >>> check_counts(components=20.0)
        Traceback (most recent call last):
        TypeError: components must be an integer, got 20.0
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not hasattr(count, "__index__"):
            raise TypeError(f"{name} must be an integer, got {count!r}")
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


def check_clip(**limits: float | None) -> None:
    """Raise TypeError or ValueError unless every limit of a gradient is positive, or None.

    Args:
        **limits: Arguments by name.

    Raises:
        TypeError: If one is not a number.
        ValueError: If one is not positive.

    Example:
        >>> check_clip(clip_lstm=-1.0)
        Traceback (most recent call last):
        ValueError: clip_lstm must be positive or None, got -1.0
    """
    for name, limit in limits.items():
        if limit is None:
            continue
        if not is_number(limit):
            raise TypeError(f"{name} must be a number or None, got {limit!r}")
        if not limit > 0:
            raise ValueError(f"{name} must be positive or None, got {limit}")


def check_bias(bias: float | Tensor) -> None:
    """Raise ValueError unless `bias` is finite and at least 0.

    Args:
        bias: A probability bias, or several.

    Raises:
        TypeError: If it is neither a number nor a tensor.
        ValueError: If one is negative, infinite or NaN.
    """
    _check_numbers("bias", bias)
    if not _all(bias >= 0, bias < math.inf):
        raise ValueError(f"bias must be finite and at least 0, got {bias}")


def check_temperature(temperature: float | Tensor) -> None:
    """Raise ValueError unless `temperature` is finite and positive.

    Args:
        temperature: A sampling temperature, or several.

    Raises:
        TypeError: If it is neither a number nor a tensor.
        ValueError: If one is not positive, or infinite or NaN.
    """
    _check_numbers("temperature", temperature)
    if not _all(temperature > 0, temperature < math.inf):
        raise ValueError(f"temperature must be finite and positive, got {temperature}")


def _check_numbers(name: str, given: object) -> None:
    if not is_number(given) and not isinstance(given, Tensor):
        raise TypeError(f"{name} must be a number or a tensor, got {type(given).__name__}")


def _all(*conditions: bool | Tensor) -> bool:
    """Tell whether all hold, as far as values are known."""
    return all(
        traced() or bool(each.all()) if isinstance(each, Tensor) else each for each in conditions
    )
