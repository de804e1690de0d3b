"""Zip files, gzip files and lines: every read has a bound, every fault is a ValueError."""

import gzip
import io
import struct
import zipfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO

from mdn_dist.data.corpus import MAX_RECORD_BYTES, StrPath, stroke_file_error

_MAX_DIRECTORY_BYTES = 16 << 20
_PIECE_BYTES = 1 << 20
_LOCAL_HEADER_BYTES = 30

# What zipfile, gzip and zlib raise on damaged or hostile bytes.
_FAULTS = (
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def _container_errors() -> Generator[None]:
    try:
        yield
    except _FAULTS as error:
        raise ValueError(f"damaged file: {type(error).__name__}: {error}") from error


class _BoundedFile(io.FileIO):
    """A file that refuses single reads of a size that only a hostile zip directory asks for.

    Members are read in pieces, far below that size.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:  # zipfile reads so near the end only
            size = _PIECE_BYTES
        if size > _MAX_DIRECTORY_BYTES:
            raise ValueError(f"zip directory above {_MAX_DIRECTORY_BYTES} bytes")
        return super().read(size) or b""


class Archive:
    """The members of an open zip file, with a bound for each and one for all together."""

    def __init__(self, path: StrPath, archive: zipfile.ZipFile, max_bytes: int) -> None:
        self._path = path
        self._archive = archive
        self._max_bytes = max_bytes
        self._left = max_bytes
        self.members = archive.infolist()

    def read(self, member: zipfile.ZipInfo, max_member_bytes: int) -> bytes:
        """Return the bytes of a member; StrokeFileError means that the file holds too many."""
        # zlib alone stops at an output size: zipfile lets the other methods expand a chunk as they
        # like.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"compression method {member.compress_type} is not stored or deflated")
        bound = min(max_member_bytes, self._left)
        if member.file_size > bound:
            if bound == max_member_bytes:
                raise ValueError(f"more than {max_member_bytes} bytes")
            raise stroke_file_error(self._path, f"more than max_bytes = {self._max_bytes} bytes")
        # zipfile gives no more bytes of a member than its directory promises. They are counted
        # first, so that a member found to be damaged when it is read counts too.
        self._left -= member.file_size
        with _container_errors(), self._archive.open(member) as handle:
            return b"".join(iter(partial(handle.read, _PIECE_BYTES), b""))


@contextmanager
def open_archive(path: StrPath, max_bytes: int) -> Generator[Archive]:
    """Open a zip file, of whose members ``max_bytes`` may be read together."""
    with _BoundedFile(path) as handle:
        with _container_errors():
            archive = zipfile.ZipFile(handle)
        with archive:
            _check_apart(archive.infolist())
            yield Archive(path, archive, max_bytes)


def _check_apart(members: list[zipfile.ZipInfo]) -> None:
    """Raise if members overlap, by which a small file holds any number of large ones."""
    ordered = sorted(members, key=lambda member: member.header_offset)
    for member, following in pairwise(ordered):
        end = member.header_offset + _LOCAL_HEADER_BYTES + member.compress_size
        if following.header_offset < end:
            raise ValueError("damaged file: two members of the zip file share bytes")


def first_bytes(path: StrPath, count: int) -> bytes:
    """Return the first bytes of a file, of which its format is told."""
    with Path(path).open("rb") as handle:
        return handle.read(count)


def read_lines(path: StrPath, max_bytes: int) -> Iterator[bytes]:
    """Yield the lines of a file, gzipped or plain, ends included, a byte-order mark left out."""
    zipped = first_bytes(path, 2) == b"\x1f\x8b"
    left = max_bytes
    with Path(path).open("rb") as plain:
        handle: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=plain) if zipped else plain
        number = 0
        while True:
            number += 1
            with _container_errors():
                line = handle.readline(min(MAX_RECORD_BYTES, left) + 1)
            if not line:
                return
            left -= len(line)
            if left < 0:
                raise ValueError(f"more than max_bytes = {max_bytes} bytes")
            if len(line) > MAX_RECORD_BYTES:
                raise ValueError(f"line {number}: more than {MAX_RECORD_BYTES} bytes")
            yield line.removeprefix(BOM_UTF8) if number == 1 else line
