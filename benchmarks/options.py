"""Checked options, refusals of one line, whole files: what examples/command_line.py does, in short.

A script finds the modules of its own folder alone, hence this small copy.
"""

import argparse
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import NoReturn, TypeVar

from filelock import FileLock, Timeout

from mdn_dist.data import StrokeFileError

Number = TypeVar("Number", int, float)


class Refusal(Exception):  # noqa: N818  # it is no error of the script's
    """What the person asked for cannot be done; the message says what would be needed."""


def leave(message: str, status: int = 2) -> NoReturn:
    """Ends the script with one line on stderr."""
    printable = "".join(c if c.isprintable() else " " for c in message[:600])
    print(f"{Path(sys.argv[0]).name}: {printable}", file=sys.stderr)
    raise SystemExit(status)


@contextmanager
def errors_in_one_line() -> Generator[None]:
    """Ends in one line what a person or a full disk did wrong; decorates a script's `main`."""
    try:
        yield
    except (Refusal, StrokeFileError) as error:
        leave(f"error: {error}")
    except OSError as error:
        leave(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
    except KeyboardInterrupt:
        leave("interrupted", status=1)


class Parser(argparse.ArgumentParser):
    """A parser whose errors take one line, without the usage before it."""

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        """Ends the script."""
        leave(f"error: {message}")


def within(kind: type[Number], least: Number, most: Number) -> Callable[[str], Number]:
    """Returns what reads an option that is a number within limits."""

    def read(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:  # NaN is not within
            what = f"expected {kind.__name__} from {least} to {most}, got {text[:40]!r}"
            raise argparse.ArgumentTypeError(what)
        return value

    return read


def writable(text: str) -> Path:
    """Reads the path of a file that is to be written, and tries its folder before any work."""
    path = Path(os.path.realpath(text))
    try:
        if path.exists() and not path.is_file():
            raise argparse.ArgumentTypeError(f"expected a file, got something else at {text!r}")
        TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from error
    return path


@contextmanager
def claimed(path: Path) -> Generator[None]:
    """Keeps other runs from a file."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise Refusal(f"{path}: another run is writing there") from None
    try:
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


def write(path: Path, content: bytes) -> None:
    """Replaces a file by a new one, or leaves it as it was."""
    with TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as folder:
        new = Path(folder) / path.name
        new.write_bytes(content)
        new.replace(path)
