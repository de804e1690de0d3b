"""What the scripts share at the command line: checked options, refusals of one line, whole files.

What a person can do wrong, or a full disk, ends in one line on stderr and exit status 2, and leaves
the files that were there as they were. Any other exception is a fault of the script, and keeps its
traceback.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NoReturn, TypeVar

from filelock import FileLock, Timeout
from torch import Tensor

from mdn_dist.data import StrokeFileError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Number = TypeVar("Number", int, float)

RANK, PROCESSES = (int(os.environ.get(name, d)) for name, d in (("RANK", 0), ("WORLD_SIZE", 1)))
LONGEST_LINE = 600  # characters: a hostile file may put anything into an error
PATIENCE = 10.0  # seconds


class Refusal(Exception):  # noqa: N818  # it is no error of the script's
    """What the person asked for cannot be done; the message says what would be needed."""


def leave(message: str, status: int = 2) -> NoReturn:
    """Ends the script with one line on stderr."""
    if RANK > 0:  # the first process mostly says the same, and torchrun then ends the others
        time.sleep(PATIENCE)
    printable = "".join(c if c.isprintable() else " " for c in message[:LONGEST_LINE])
    print(f"{Path(sys.argv[0]).name}: {printable}", file=sys.stderr)
    raise SystemExit(status)


@contextmanager
def errors_in_one_line(interrupted: str = "interrupted") -> Generator[None]:
    """Ends in one line what a person or a full machine did wrong; decorates a script's `main`."""
    if sys.stdout:  # or it is closed
        sys.stdout.reconfigure(errors="backslashreplace")  # any path can be printed
    try:
        yield
        print(end="", flush=True)
    except (Refusal, StrokeFileError) as error:
        leave(f"error: {error}")
    except OSError as error:
        _forget_output()
        if isinstance(error, BrokenPipeError):  # whoever read the output has seen enough
            raise SystemExit(1) from None
        leave(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        leave("error: not enough memory for these sizes")
    except KeyboardInterrupt:
        if RANK > 0:
            raise SystemExit(1) from None
        leave(interrupted, status=1)


def _forget_output() -> None:
    """Drops what cannot be printed, or Python would complain again when it ends."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_trained(step: int, values: Iterable[Tensor]) -> None:
    """Refuses to go on, and to write, once a step of training has lost its way."""
    if not all(value.isfinite().all() for value in values):
        raise Refusal(
            f"step {step} of training left values that are not finite: nothing is written"
        )


# ---------------------------------------------------------------------------------------- options


class Parser(argparse.ArgumentParser):
    """A parser whose errors take one line, without the usage before it."""

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        """Ends the script."""
        leave(f"error: {message}")


def integer(least: int, most: int) -> Callable[[str], int]:
    """Returns what reads an option that is a whole number within limits."""
    return _within(int, "a whole number", least, most)


def number(least: float, most: float) -> Callable[[str], float]:
    """Returns what reads an option that is a number within limits."""
    return _within(float, "a number", least, most)


def _within(
    kind: Callable[[str], Number], what: str, least: Number, most: Number
) -> Callable[[str], Number]:
    def read(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:  # NaN is not within
            message = f"expected {what} from {least} to {most}, got {text[:40]!r}"
            raise argparse.ArgumentTypeError(message)
        return value

    return read


seed = integer(0, 2**32 - 1)  # numpy's global generator takes no more


def existing_file(text: str) -> Path:
    """Reads the path of a file that is to be read."""
    path = Path(text)
    if not path.is_file():
        got = "something else" if path.exists() else "nothing"
        raise argparse.ArgumentTypeError(f"expected a file, got {got} at {text!r}")
    return path


def picture(text: str) -> Path:
    """Reads the path of a picture that is to be written."""
    path = Path(text)
    if path.suffix.lower() not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"expected a name ending in .svg or .png, got {text!r}")
    return path


# ---------------------------------------------------------------------------------------- writing


@contextmanager
def claimed(folder: Path, *names: str) -> Generator[None]:
    """Makes a folder and keeps other runs out of it; what it made and stays empty goes again.

    Args:
        folder: The folder, which may exist.
        names: The files that are going to be written there.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / ".lock")  # the system's own: that of a killed run is free
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            raise Refusal(f"--out {folder}: another run is writing there") from None
        except OSError as error:
            raise Refusal(f"--out {folder}: cannot be written to: {error.strerror}") from error
        for name in names:
            check_target(folder / name)
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                Path(lock.lock_file).unlink()
            lock.release()
        for path in made:
            with suppress(OSError):
                path.rmdir()


def check_target(path: Path) -> None:
    """Refuses to put a file where there is a folder or a device."""
    if path.exists() and not path.is_file():
        raise Refusal(f"{path}: cannot be written: something else than a file is there")


@contextmanager
def replacing(*paths: Path) -> Generator[list[Path]]:
    """Yields paths to write files to, which take the place of `paths` once all are written.

    They lie in a new folder beside them. If the block fails, what was there stays.
    """
    targets = [Path(os.path.realpath(path)) for path in paths]
    for path in targets:
        check_target(path)
    try:
        with TemporaryDirectory(prefix=".unfinished-", dir=targets[0].parent) as folder:
            unfinished = [Path(folder) / path.name for path in targets]
            yield unfinished
            for path in unfinished:
                with path.open("rb+") as file:
                    os.fsync(file.fileno())  # some disks say only here that they are full
            for new, path in zip(unfinished, targets, strict=True):
                new.replace(path)
    except OSError as error:
        names = ", ".join(map(str, paths))
        raise Refusal(f"{names}: cannot be written: {error.strerror or error}") from error


def save_figure(figure: "Figure", out: Path, names: Iterable[str], dpi: int = 80) -> None:
    """Writes a picture to a folder in several formats, all of them or none."""
    with replacing(*(out / name for name in names)) as paths:
        for path in paths:
            figure.savefig(path, dpi=dpi)


# ----------------------------------------------------------------------------- optional packages

# Asked here, for a script imports this module before it imports any of them.
if missing := [
    n
    for n in ("HersheyFonts", "matplotlib", "safetensors", "statsmodels", "tqdm")
    if not find_spec(n)
]:
    leave(f'error: needs {", ".join(missing)}: pip install -e ".[examples]"')
