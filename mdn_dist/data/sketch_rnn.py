"""Sketch-RNN's files: an npz of object arrays, read without running the pickle inside."""

import io
import os
import tokenize
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from mdn_dist.data.archive import open_archive
from mdn_dist.data.array_pickle import to_float64, unpickle_arrays
from mdn_dist.data.corpus import (
    MAX_FILE_BYTES,
    MAX_MEMBER_BYTES,
    MAX_RECORDS,
    Corpus,
    Record,
    StrPath,
    check_options,
    check_point_count,
    collect,
    file_errors,
)
from mdn_dist.data.drawing import Drawing, drawing_at_origin
from mdn_dist.data.text import shown

_SPLITS = ("train", "valid", "test")

# NumPy parses a header with Python's own tokenizer and parser, and lets some of their faults pass.
_HEADER_FAULTS = (
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


def read_sketch_rnn(
    path: StrPath,
    split: str = "train",
    *,
    malformed: Literal["raise", "skip"] = "raise",
    limit: int | None = None,
    max_bytes: int = MAX_FILE_BYTES,
) -> Corpus:
    """Reads one split of a Sketch-RNN data set.

    The file is an npz with members `train`, `valid`, `test`, each an object array of arrays `(T,
    3)`: `dx, dy, pen_lifted` with y down, the pen lifted after the point. An object array is a
    pickle; it is read by stand-ins that admit numeric arrays and nothing else, and nothing that the
    file names is called. A numeric member `(N, T, 3)` is read too.

    Args:
        path: The npz file.
        split: `"train"`, `"valid"` or `"test"`.
        malformed: `"raise"` for an error at the first malformed drawing, `"skip"` to list it in
            `Corpus.skipped`.
        limit: Stop after so many drawings; None for all.
        max_bytes: The most bytes to read of the member, after decompression, where that is less
            than `MAX_MEMBER_BYTES`.

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
        for number, build in enumerate(arrays):
            name = f"{member}, drawing {number}"
            yield name, partial(_to_drawing, build, f"{os.fspath(path)}: {name}")
    except ValueError as error:
        raise ValueError(f"{member}: {error}") from error


def _arrays(content: bytes) -> Iterator[Callable[[], npt.NDArray[np.float64]]]:
    stream = io.BytesIO(content)
    shape, is_fortran, dtype = _read_header(stream)
    body = content[stream.tell() :]
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"expected a shape of sizes, got {shape}")
    if shape and shape[0] > MAX_RECORDS:
        raise ValueError(f"more than {MAX_RECORDS} drawings")
    if dtype == np.dtype(object):
        if len(shape) != 1:
            raise ValueError(f"expected an object array of shape (N,), got {shape}")
        yield from unpickle_arrays(body, shape[0])
        return
    if len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"expected a numeric array of shape (N, T, 3), got {shape}")
    for drawing in to_float64(body, dtype, shape, "F" if is_fortran else "C"):
        yield partial(np.array, drawing)


def _read_header(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"expected npy version 1.0 or 2.0, got {version}")
    # Headers of Python 2, and literals with odd escapes, warn while they are parsed.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return readers[version](stream)
        except _HEADER_FAULTS as error:
            raise ValueError(f"damaged npy header: {error}") from error


def _to_drawing(build: Callable[[], npt.NDArray[np.float64]], source: str) -> Drawing:
    values = build()
    if values.ndim != 2 or values.shape[1] != 3:
        raise ValueError(f"expected an array of shape (T, 3), got {values.shape}")
    check_point_count(len(values))
    offsets = torch.from_numpy(values)
    absolute = torch.stack(
        [offsets[:, 0].cumsum(0), 0.0 - offsets[:, 1].cumsum(0), offsets[:, 2]], dim=1
    )
    return drawing_at_origin(absolute, source=source)
