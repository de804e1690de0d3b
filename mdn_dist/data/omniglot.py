"""Omniglot's stroke files: a zip of one small text file for each drawing."""

import io
import math
import os
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Literal

import torch

from mdn_dist.data.archive import Archive, open_archive
from mdn_dist.data.corpus import (
    MAX_FILE_BYTES,
    MAX_RECORD_BYTES,
    Corpus,
    Measured,
    Record,
    StrPath,
    check_options,
    check_point_count,
    collect,
    file_errors,
)
from mdn_dist.data.drawing import Drawing, points_at_origin, seconds
from mdn_dist.data.text import shown, to_number

_STEM = re.compile(r"[0-9]+_([0-9]+)")


def read_omniglot(
    path: StrPath,
    *,
    malformed: Literal["raise", "skip"] = "raise",
    limit: int | None = None,
    max_bytes: int = MAX_FILE_BYTES,
) -> Corpus:
    """Read the stroke files of Omniglot, a zip as published.

    Members are ``.../alphabet/character/NNNN_WW.txt``: a line ``START``, lines ``x,y,milliseconds``
    with y up, and a line ``BREAK`` after each stroke. Coordinates are in the file's units; they sit
    on a pixel lattice, see ``dequantize``.

    Args:
        path: The zip file.
        malformed: ``"raise"`` for an error at the first malformed member, ``"skip"`` to list it in
            ``Corpus.skipped``.
        limit: Stop after so many drawings; None for all.
        max_bytes: The most bytes to read of all members together, after decompression.

    Returns:
        The drawings: ``label`` is ``alphabet/character``, ``writer`` the drawer's number ``WW``,
        and ``times`` are set.

    Raises:
        StrokeFileError: If the file is damaged, or a member malformed.
        ValueError: If an option is out of range.
        FileNotFoundError: If there is no such file.

    Source:
        Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic
        program induction", Science 350 (2015).

    Example:
        >>> import tempfile, zipfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp(), "strokes.zip")
        >>> lines = ["START", "2,5,0", "3,9,40", "BREAK"]
        >>> with zipfile.ZipFile(path, "w") as archive:
        ...     archive.writestr("set/Latin/character01/0001_07.txt", chr(10).join(lines))
        >>> drawing = read_omniglot(path)[0]
        >>> drawing.label, drawing.writer, drawing.points.tolist()
        ('Latin/character01', '07', [[0.0, 0.0, 0.0], [1.0, 4.0, 1.0]])
    """
    check_options(path, malformed, limit, max_bytes)
    with file_errors(path), open_archive(path, max_bytes) as archive:
        return collect(path, _records(archive, path), malformed=malformed, limit=limit)


def is_stroke_member(name: str) -> bool:
    """Tell a stroke file from the folders and the desktop's debris beside it."""
    return name.endswith(".txt") and not name.startswith("__MACOSX/")


def _records(archive: Archive, path: StrPath) -> Iterator[Record]:
    members = [member for member in archive.members if is_stroke_member(member.filename)]
    if not members:
        raise ValueError("expected .txt stroke files in the zip file, got none")
    for member in members:
        yield member.filename, partial(_parse_member, archive, member, path)


def _parse_member(archive: Archive, member: zipfile.ZipInfo, path: StrPath) -> Measured:
    parts = PurePosixPath(member.filename).parts
    stem = _STEM.fullmatch(PurePosixPath(member.filename).stem)
    if len(parts) < 3 or stem is None:
        raise ValueError("expected a name .../alphabet/character/NNNN_WW.txt")
    rows = _parse_text(archive.read(member, MAX_RECORD_BYTES).decode("ascii"))
    build = partial(
        _to_drawing,
        rows,
        label=f"{parts[-3]}/{parts[-2]}",
        writer=stem[1],
        source=f"{os.fspath(path)}: {member.filename}",
    )
    return len(rows), build


def _to_drawing(rows: list[list[float]], **fields: Any) -> Drawing:
    table = torch.tensor(rows, dtype=torch.float64, device="cpu")  # (T, 4): x, y, flag, ms
    return Drawing(points_at_origin(table[:, :3]), times=seconds(table[:, 3]), **fields)


def _parse_text(text: str) -> list[list[float]]:
    """Return rows ``x, y, end_of_stroke, milliseconds`` of one stroke file."""
    lines = enumerate((line.rstrip("\n") for line in io.StringIO(text, newline=None)), start=1)
    number, start = next(lines, (1, ""))
    if start != "START":
        raise ValueError(f"line 1: expected START, got {shown(repr(start or 'nothing'))}")
    rows: list[list[float]] = []
    is_open = False
    for number, line in lines:
        if line == "BREAK":
            if not is_open:
                raise ValueError(f"line {number}: expected a point, got BREAK (an empty stroke)")
            rows[-1][2] = 1.0
        else:
            rows.append(_parse_point(line, number))
            check_point_count(len(rows))
        is_open = line != "BREAK"
    if is_open or not rows:
        raise ValueError(f"line {number}: expected BREAK at the end, the file breaks off")
    return rows


def _parse_point(line: str, number: int) -> list[float]:
    try:
        x, y, milliseconds = map(to_number, line.split(","))
    except ValueError:
        raise ValueError(
            f"line {number}: expected x,y,milliseconds, got {shown(repr(line))}"
        ) from None
    if not math.isfinite(x + y + milliseconds):
        raise ValueError(f"line {number}: expected finite numbers, got {shown(repr(line))}")
    return [x, y, 0.0, milliseconds]
