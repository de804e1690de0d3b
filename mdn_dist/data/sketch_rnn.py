"""Sketch-RNN's files: an npz of object arrays, read without running the pickle inside."""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import torch

from mdn_dist.data.archive import open_archive
from mdn_dist.data.array_pickle import NumericArray, numeric_array, unpickle_arrays
from mdn_dist.data.corpus import (
    MAX_FILE_BYTES,
    MAX_MEMBER_BYTES,
    MAX_RECORDS,
    Corpus,
    Measured,
    Record,
    StrPath,
    check_options,
    collect,
    file_errors,
)
from mdn_dist.data.drawing import Drawing
from mdn_dist.data.text import shown

_SPLITS = ("train", "valid", "test")
_MAX_HEADER_BYTES = 1000

# What NumPy writes, and no more: its own parser takes any Python literal, in time that grows with
# the square of the length. Python 2 wrote sizes as 12L.
_HEADER = re.compile(
    r"\{'descr': '([<>|][A-Za-z][0-9]*)', 'fortran_order': (True|False), "
    r"'shape': \(((?:[0-9]{1,18}L?(?:,|(?:, [0-9]{1,18}L?)+))?)\), \} *\n"
)


def read_sketch_rnn(
    path: StrPath,
    split: str = "train",
    *,
    malformed: Literal["raise", "skip"] = "raise",
    limit: int | None = None,
    max_bytes: int = MAX_FILE_BYTES,
) -> Corpus:
    """Read one split of a Sketch-RNN data set.

    The file is an npz with members ``train``, ``valid``, ``test``, each an object array of arrays
    ``(T, 3)``: ``dx, dy, pen_lifted`` with y down, the pen lifted after the point. An object array
    is a pickle; it is read by stand-ins that admit numeric arrays and nothing else, and nothing
    that the file names is called. A numeric member ``(N, T, 3)`` is read too. Where the pen is
    never lifted after the last point, as in some exports, the drawing ends a stroke there all the
    same.

    Args:
        path: The npz file.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        malformed: ``"raise"`` for an error at the first malformed drawing, ``"skip"`` to list it in
            ``Corpus.skipped``.
        limit: Stop after so many drawings; None for all.
        max_bytes: The most bytes to read of the member, after decompression, where that is less
            than ``MAX_MEMBER_BYTES``.

    Returns:
        The drawings, y up and without times; label and writer are empty, as the file does not tell.

    Raises:
        StrokeFileError: If the file is damaged, lacks the split, pickles anything but numeric
            arrays, or has a malformed drawing.
        ValueError: If an option is out of range.
        FileNotFoundError: If there is no such file.

    Source:
        Ha and Eck, "A Neural Representation of Sketch Drawings", arXiv:1704.03477 (2017).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp(), "own.npz")
        >>> np.savez(path, test=np.array([[[0, 0, 0], [5, -2, 1]]], dtype=np.int16))
        >>> read_sketch_rnn(path, split="test")[0].points.tolist()
        [[0.0, 0.0, 0.0], [5.0, 2.0, 1.0]]
    """
    check_options(path, malformed, limit, max_bytes)
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
    with file_errors(path):
        name = f"{split}.npy"
        content = _read_member(path, name, max_bytes)
        return collect(path, _records(content, path, name), malformed=malformed, limit=limit)


def _read_member(path: StrPath, name: str, max_bytes: int) -> bytes:
    with open_archive(path, max_bytes) as archive:
        found = {member.filename: member for member in archive.members}
        if name not in found:
            raise ValueError(f"expected a member {name}, got {shown(repr(sorted(found)[:10]))}")
        try:
            return archive.read(found[name], MAX_MEMBER_BYTES)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _records(content: bytes, path: StrPath, member: str) -> Iterator[Record]:
    try:
        arrays = _arrays(content)
        for number, read in enumerate(arrays):
            name = f"{member}, drawing {number}"
            yield name, partial(_read_array, read, f"{os.fspath(path)}: {name}")
    except ValueError as error:
        raise ValueError(f"{member}: {error}") from error


def _arrays(content: bytes) -> Iterator[Callable[[], NumericArray]]:
    descr, is_fortran, shape, start = _read_header(content)
    body = memoryview(content)[start:]
    if shape and shape[0] > MAX_RECORDS:
        raise ValueError(f"more than {MAX_RECORDS} drawings")
    if descr in ("|O", "|O4", "|O8"):
        if len(shape) != 1:
            raise ValueError(f"expected an object array of shape (N,), got {shape}")
        yield from unpickle_arrays(bytes(body), shape[0])
        return
    if len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"expected a numeric array of shape (N, T, 3), got {shape}")
    drawings = numeric_array(body, descr, shape, is_fortran=is_fortran)
    for values in drawings:
        yield partial(np.asarray, values)


def _read_header(content: bytes) -> tuple[str, bool, tuple[int, ...], int]:
    """Return dtype, memory order and shape of an npy file, and where its data starts."""
    if not content.startswith(b"\x93NUMPY"):
        raise ValueError("expected an npy file, got other magic bytes")
    version = tuple(content[6:8])
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"expected npy version 1.0 or 2.0, got {version}")
    start = 10 if version == (1, 0) else 12
    stop = start + int.from_bytes(content[8:start], "little")
    if stop - start > _MAX_HEADER_BYTES:
        raise ValueError(f"damaged npy header: more than {_MAX_HEADER_BYTES} bytes")
    text = content[start:stop].decode("latin1")
    header = _HEADER.fullmatch(text)
    if header is None:
        raise ValueError(
            "damaged npy header: expected a dtype and a shape of sizes as NumPy writes them, "
            f"got {shown(repr(text))}"
        )
    descr, is_fortran, shape = header.groups()
    sizes = tuple(int(size.strip(" L")) for size in shape.split(",") if size)
    return descr, is_fortran == "True", sizes, stop


def _read_array(read: Callable[[], NumericArray], source: str) -> Measured:
    values = read()
    if values.ndim != 2 or values.shape[1] != 3:
        raise ValueError(f"expected an array of shape (T, 3), got {values.shape}")
    return len(values), partial(_to_drawing, values, source)


def _to_drawing(values: NumericArray, source: str) -> Drawing:
    # What overflows, or a signalling NaN, would make NumPy warn; a drawing refuses it in any case.
    with np.errstate(all="ignore"):
        rows = values.astype(np.float64)
        rows[:, 1] = 0.0 - rows[:, 1]
        rows[0, :2] -= rows[0, :2]
        if rows[-1, 2] == 0:
            rows[-1, 2] = 1
        points = torch.from_numpy(rows.astype(np.float32))
    return Drawing(points, source=source)
