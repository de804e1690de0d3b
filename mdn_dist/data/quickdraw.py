"""Quick, Draw!'s files: one JSON object a line, gzipped or plain."""

import json
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch

from mdn_dist._maths.floats import in_float64
from mdn_dist.data.archive import read_lines
from mdn_dist.data.arguments import check_path, items_of, wrong_type
from mdn_dist.data.corpus import (
    MAX_FILE_BYTES,
    MAX_POINTS,
    Corpus,
    Measured,
    Record,
    StrPath,
    check_options,
    check_point_count,
    collect,
)
from mdn_dist.data.drawing import Drawing, points_at_origin, seconds
from mdn_dist.data.strokes import stroke_lengths


def read_quickdraw(
    path: StrPath,
    *,
    malformed: Literal["raise", "skip"] = "raise",
    limit: int | None = None,
    max_bytes: int = MAX_FILE_BYTES,
) -> Corpus:
    """Read a file of Quick, Draw! drawings, in the raw or the simplified format.

    Each line is a JSON object with ``word`` and ``drawing``, a list of strokes
    ``[[x...], [y...], [ms...]]`` (raw) or ``[[x...], [y...]]`` (simplified), y down in the file. A
    gzipped file is told by its first bytes; blank lines and a byte-order mark are passed over.

    Args:
        path: The file.
        malformed: ``"raise"`` for an error at the first malformed line, ``"skip"`` to list it in
            ``Corpus.skipped``.
        limit: Stop after so many drawings, and read no further; None for all.
        max_bytes: The most bytes to read, after decompression.

    Returns:
        The drawings, y up: ``label`` is the word, ``countrycode`` and ``recognized`` are set where
        the line has them, ``times`` in the raw format, and ``writer`` is empty but in files of
        ``write_quickdraw``, since Quick, Draw! does not tell. To keep the drawings that the game
        recognized, take ``[drawing for drawing in corpus if drawing.recognized]``.

    Raises:
        TypeError: If an argument is of a wrong type.
        StrokeFileError: If the file is damaged, or a line malformed.
        ValueError: If an option is out of range.
        FileNotFoundError: If there is no such file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "cats.ndjson")
        >>> _ = path.write_text('{"word": "cat", "drawing": [[[7, 8], [1, 3]]]}')
        >>> drawing = read_quickdraw(path)[0]
        >>> drawing.label, drawing.points.tolist()
        ('cat', [[0.0, 0.0, 0.0], [1.0, -2.0, 1.0]])
    """
    check_options(path, malformed, limit, max_bytes)
    return collect(path, _records(path, max_bytes), malformed=malformed, limit=limit)


def write_quickdraw(path: StrPath, drawings: Iterable[Drawing]) -> None:
    """Write drawings in Quick, Draw!'s layout, raw where times are known, else simplified.

    ``read_quickdraw`` gives points, times and what else a drawing holds back unchanged, but for the
    source; a first point off the origin comes back at the origin.

    Args:
        path: The file to write, plain JSON lines; one that exists is replaced.
        drawings: The drawings.

    Raises:
        TypeError: If an argument is of a wrong type.
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "own.ndjson")
        >>> points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 1.0]])
        >>> write_quickdraw(path, [Drawing(points, label="i")])
        >>> path.read_text().strip()
        '{"word": "i", "writer": "", "drawing": [[[0.0, 1.0], [0.0, -2.0]]]}'
    """
    check_path(path)
    items = items_of(drawings, "drawings", "an iterable of drawings")
    with Path(path).open("w", encoding="ascii", newline="\n") as handle:
        for index, drawing in enumerate(items):
            if not isinstance(drawing, Drawing):
                raise wrong_type(f"drawings[{index}]", "a Drawing", drawing)
            record: dict[str, object] = {"word": drawing.label, "writer": drawing.writer}
            if drawing.countrycode:
                record["countrycode"] = drawing.countrycode
            if drawing.recognized is not None:
                record["recognized"] = drawing.recognized
            record["drawing"] = _json_strokes(drawing)
            handle.write(json.dumps(record) + "\n")


def _json_strokes(drawing: Drawing) -> list[list[list[float]]]:
    # In float64 the sums of most float32 offsets are exact, and so are the differences that a
    # reader takes.
    positions = in_float64(drawing.points[:, :2]).cumsum(dim=0)
    columns = [positions[:, 0], 0.0 - positions[:, 1]]
    if drawing.times is not None:
        columns.append(in_float64(drawing.times) * 1000.0)
    lengths = stroke_lengths(drawing.points)
    splits = [column.split(lengths) for column in columns]
    return [[part.tolist() for part in stroke] for stroke in zip(*splits, strict=True)]


def _records(path: StrPath, max_bytes: int) -> Iterator[Record]:
    for number, line in enumerate(read_lines(path, max_bytes), start=1):
        name = f"line {number}"
        source = f"{os.fspath(path)}: {name}"
        yield name, partial(_parse_line, line, source) if line.strip() else None


def _parse_line(line: bytes, source: str) -> Measured:
    # A point has at most three numbers, and every list is there for a number in it.
    if line.count(b",") > 4 * MAX_POINTS:
        raise ValueError(f"more values than a drawing of {MAX_POINTS} points has")
    try:
        # Integers as floats: Python's own take time that grows with the square of their digits.
        record = json.loads(line.decode("utf-8"), parse_int=float, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {type(record).__name__}")  # noqa: TRY004
    strokes = record.get("drawing")
    if not isinstance(strokes, list) or not strokes:
        raise ValueError("expected a list of strokes as 'drawing'")
    recognized = record.get("recognized")
    if recognized is not None and not isinstance(recognized, bool):
        raise ValueError(f"expected true or false as 'recognized', got {type(recognized).__name__}")
    columns = _join_strokes(strokes)
    build = partial(
        _to_drawing,
        columns,
        label=_text(record, "word"),
        writer=_text(record, "writer", ""),
        countrycode=_text(record, "countrycode", ""),
        recognized=recognized,
        source=source,
    )
    return len(columns[0]), build


def _text(record: dict[str, object], key: str, default: str | None = None) -> str:
    value = record.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"expected text as {key!r}, got {type(value).__name__}")  # noqa: TRY004
    return value


def _to_drawing(columns: list[list[float]], **fields: Any) -> Drawing:
    rows = torch.tensor(columns, dtype=torch.float64, device="cpu")  # (3 or 4, T): x, y, flag, ms
    absolute = torch.stack([rows[0], 0.0 - rows[1], rows[2]], dim=1)
    times = seconds(rows[3]) if len(rows) == 4 else None
    return Drawing(points_at_origin(absolute), times=times, **fields)


def _join_strokes(strokes: list[object]) -> list[list[float]]:
    """Return columns x, y, end_of_stroke and, in the raw format, milliseconds."""
    joined: list[list[float]] = []
    for index, stroke in enumerate(strokes):
        columns = _check_stroke(stroke, index)
        flags = [0.0] * (len(columns[0]) - 1) + [1.0]
        columns = [*columns[:2], flags, *columns[2:]]
        if not joined:
            joined = [[] for _ in columns]
        if len(columns) != len(joined):
            raise ValueError(f"stroke {index}: expected times in all strokes or in none")
        for whole, part in zip(joined, columns, strict=True):
            whole.extend(part)
        check_point_count(len(joined[0]))
    return joined


def _check_stroke(stroke: object, index: int) -> list[list[float]]:
    if not isinstance(stroke, list) or len(stroke) not in (2, 3):
        raise ValueError(f"stroke {index}: expected [[x...], [y...]] or [[x...], [y...], [ms...]]")
    for column in stroke:
        if not isinstance(column, list) or not set(map(type, column)) <= {float}:
            raise ValueError(f"stroke {index}: expected lists of numbers")
        if not column or len(column) != len(stroke[0]):
            raise ValueError(f"stroke {index}: expected lists of one length, at least 1")
    return stroke


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"expected a finite number, got {name}")
