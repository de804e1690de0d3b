"""Text that others wrote: what a message shows of it, and the numbers in it."""

import re

# What Python and C print for a float; ``float`` itself also takes 1_0, spaces and other digits.
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|nan)")


def printable(text: str) -> str:
    """Escape line ends and every other character that does not print, as ``repr`` does."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def shown(text: str, at_most: int = 100) -> str:
    """Make foreign text fit for a message: printable, on one line, cut in the middle if long."""
    return _cut(printable(_cut(text, at_most)), at_most)


def _cut(text: str, at_most: int) -> str:
    half = (at_most - 3) // 2
    return text if len(text) <= at_most else f"{text[:half]}...{text[-half:]}"


def to_number(text: str) -> float:
    """Read a decimal number, or raise ValueError for anything else."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"could not convert to a number: {shown(repr(text))}")
    return float(text)
