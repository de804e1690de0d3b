"""What every reader shares: the corpus it returns, the error it raises, the limits it keeps."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import overload

from mdn_dist.data.arguments import check_integer, check_path
from mdn_dist.data.drawing import Drawing
from mdn_dist.data.text import printable, shown

StrPath = str | os.PathLike[str]

MAX_FILE_BYTES = 1 << 30
"""The most bytes a reader takes from a file, decompressed; ``max_bytes`` sets another."""

MAX_RECORD_BYTES = 8 << 20
"""The most bytes of one text record: a line of JSON, a member of a zip file."""

MAX_MEMBER_BYTES = 256 << 20
"""The most bytes of one array member of an npz file."""

MAX_POINTS = 100_000
"""The most points of one drawing, read or resampled."""

MAX_TOTAL_POINTS = 50_000_000
"""The most points of one file's drawings together."""

MAX_RECORDS = 500_000
"""The most records of one file, skipped and blank ones included."""

# A record once read: how many points it has, and what builds its drawing.
Measured = tuple[int, Callable[[], Drawing]]

# A record's name in its file and what reads it, None for a blank line. Reading and building may
# raise ValueError, which is then this record's own.
Record = tuple[str, Callable[[], Measured] | None]


class StrokeFileError(ValueError):
    """A stroke file that breaks its format or a limit; it names the file and the record."""


def stroke_file_error(path: StrPath, fault: object, record: str = "") -> StrokeFileError:
    """Make the error of a file: one printable line, whatever names and text the file holds."""
    parts = (printable(os.fspath(path)), shown(record), shown(str(fault), at_most=300))
    return StrokeFileError(": ".join(filter(None, parts)))


@dataclass(frozen=True, eq=False, repr=False)
class Corpus(Sequence[Drawing]):
    """The drawings of one file, in the file's order.

    It serves as a map-style dataset of torch's ``DataLoader``, with ``collate`` as its
    ``collate_fn``.

    Args:
        drawings: The drawings.
        skipped: The message of each malformed record that was skipped.

    Example:
        >>> corpus = Corpus(drawings=(), skipped=("a.ndjson: line 3: no 'word'",))
        >>> len(corpus), corpus
        (0, Corpus(0 drawings, 1 skipped))
    """

    drawings: tuple[Drawing, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of drawings."""
        return len(self.drawings)

    @overload
    def __getitem__(self, index: int) -> Drawing: ...
    @overload
    def __getitem__(self, index: slice) -> "Corpus": ...
    def __getitem__(self, index: int | slice) -> "Drawing | Corpus":
        """Return one drawing, or a corpus of several with the same ``skipped``."""
        if isinstance(index, slice):
            return Corpus(self.drawings[index], self.skipped)
        return self.drawings[index]

    def __iter__(self) -> Iterator[Drawing]:
        """Go over the drawings in the file's order."""
        return iter(self.drawings)

    def __repr__(self) -> str:
        """Return the two counts; the drawings are too many to show."""
        return f"Corpus({len(self.drawings)} drawings, {len(self.skipped)} skipped)"


def check_options(path: StrPath, malformed: str, limit: int | None, max_bytes: int) -> None:
    """Raise unless the arguments that all readers share make sense."""
    check_path(path)
    if malformed not in ("raise", "skip"):
        raise ValueError(f"malformed must be 'raise' or 'skip', got {malformed!r}")
    if limit is not None:
        check_integer(limit, "limit")
        if limit < 1:
            raise ValueError(f"limit must be None or at least 1, got {limit}")
    check_integer(max_bytes, "max_bytes")
    if max_bytes <= 0:
        raise ValueError(f"max_bytes must be positive, got {max_bytes}")


@contextmanager
def file_errors(path: StrPath) -> Generator[None]:
    """Turn a ValueError about the file as a whole into a StrokeFileError that names it."""
    try:
        yield
    except StrokeFileError:
        raise
    except ValueError as error:
        raise stroke_file_error(path, error) from error


def collect(
    path: StrPath, records: Iterable[Record], *, malformed: str, limit: int | None
) -> Corpus:
    """Read records into a corpus, within the limits on their number and their points."""
    drawings: list[Drawing] = []
    skipped: list[str] = []
    total = 0
    with file_errors(path):
        for count, (name, read) in enumerate(records, start=1):
            if count > MAX_RECORDS:
                raise ValueError(f"more than {MAX_RECORDS} records")
            if read is None:
                continue
            try:
                # Counted before a drawing is built of them: a record that is skipped counts too.
                points, build = read()
                total += points
                if total > MAX_TOTAL_POINTS:
                    raise stroke_file_error(path, f"more than {MAX_TOTAL_POINTS} points")
                check_point_count(points)
                drawing = build()
            except StrokeFileError:
                raise
            except ValueError as error:
                record_error = stroke_file_error(path, error, record=name)
                if malformed == "raise":
                    raise record_error from error
                skipped.append(str(record_error))
                continue
            drawings.append(drawing)
            if len(drawings) == limit:
                break
    return Corpus(tuple(drawings), tuple(skipped))


def check_point_count(count: int) -> None:
    """Raise if one drawing has no points, or more than the limit."""
    if count == 0:
        raise ValueError("expected a drawing of at least one point, got none")
    if count > MAX_POINTS:
        raise ValueError(f"expected at most {MAX_POINTS} points in a drawing, got {count}")
