"""Checks of arguments, so that a wrong one gives a TypeError that names it."""

import math
import os
from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from typing import TypeVar

_Item = TypeVar("_Item")


def wrong_type(name: str, expected: str, value: object) -> TypeError:
    """Return the error for an argument of a wrong type."""
    return TypeError(f"{name} must be {expected}, got {type(value).__name__}")


def check_text(value: object, name: str) -> None:
    """Raise unless ``value`` is text."""
    if not isinstance(value, str):
        raise wrong_type(name, "a str", value)


def check_path(value: object) -> None:
    """Raise unless ``value`` is a path of text; open() would take a number for an open file."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise wrong_type("path", "a str or an os.PathLike of it", value)


def check_integer(value: object, name: str) -> None:
    """Raise unless ``value`` is an integer, and no bool."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise wrong_type(name, "an int", value)


def to_positive(value: object, name: str) -> float:
    """Return a positive finite number as a float, or raise for anything else, a bool too."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise wrong_type(name, "a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{name} must be positive and finite, got {number}")
    return number


def items_of(values: Iterable[_Item], name: str, expected: str) -> Iterator[_Item]:
    """Return an iterator over an argument, or raise a TypeError that says what it holds."""
    try:
        return iter(values)
    except TypeError as error:
        raise wrong_type(name, expected, values) from error
