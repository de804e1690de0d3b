"""One function for every kind of stroke file."""

from itertools import islice
from typing import Literal

from mdn_dist.data.archive import first_bytes, open_archive, read_lines
from mdn_dist.data.corpus import (
    MAX_FILE_BYTES,
    MAX_RECORDS,
    Corpus,
    StrPath,
    check_options,
    file_errors,
)
from mdn_dist.data.omniglot import is_stroke_member, read_omniglot
from mdn_dist.data.quickdraw import read_quickdraw
from mdn_dist.data.sketch_rnn import read_sketch_rnn
from mdn_dist.data.text import shown


def read(
    path: StrPath,
    *,
    split: str | None = None,
    malformed: Literal["raise", "skip"] = "raise",
    limit: int | None = None,
    max_bytes: int = MAX_FILE_BYTES,
) -> Corpus:
    """Read a stroke file of any known kind, told by its content and not by its name.

    A zip of ``.npy`` members goes to ``read_sketch_rnn``, a zip of ``.txt`` members to
    ``read_omniglot``, JSON lines, gzipped or plain, to ``read_quickdraw``.

    Args:
        path: The file.
        split: For Sketch-RNN's files only, as in ``read_sketch_rnn``; ``"train"`` by default.
        malformed: ``"raise"`` for an error at the first malformed record, ``"skip"`` to list it in
            ``Corpus.skipped``.
        limit: Stop after so many drawings; None for all.
        max_bytes: The most bytes to read, after decompression.

    Returns:
        The drawings.

    Raises:
        StrokeFileError: If the file is of no known kind, damaged, or has a malformed record.
        ValueError: If an option is out of range, or ``split`` is given for a file without splits.
        FileNotFoundError: If there is no such file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp(), "unnamed")
        >>> _ = path.write_text('{"word": "cat", "drawing": [[[7, 8], [1, 3]]]}')
        >>> read(path)
        Corpus(1 drawings, 0 skipped)
    """
    check_options(path, malformed, limit, max_bytes)
    with file_errors(path):
        kind = _kind(path, max_bytes)
    if kind == "sketch_rnn":
        split = "train" if split is None else split
        return read_sketch_rnn(path, split, malformed=malformed, limit=limit, max_bytes=max_bytes)
    if split is not None:
        raise ValueError(f"split is for Sketch-RNN's files, got {split!r}")
    reader = read_omniglot if kind == "omniglot" else read_quickdraw
    return reader(path, malformed=malformed, limit=limit, max_bytes=max_bytes)


def _kind(path: StrPath, max_bytes: int) -> Literal["omniglot", "quickdraw", "sketch_rnn"]:
    if first_bytes(path, 2) == b"PK":
        with open_archive(path, max_bytes) as archive:
            names = [member.filename for member in archive.members]
        if any(name.endswith(".npy") for name in names):
            return "sketch_rnn"
        if any(is_stroke_member(name) for name in names):
            return "omniglot"
        raise ValueError(f"expected .npy or .txt members, got {shown(repr(names[:10]))}")
    lines = islice(read_lines(path, max_bytes), MAX_RECORDS)
    if next(filter(bytes.strip, lines), b"").lstrip().startswith(b"{"):
        return "quickdraw"
    raise ValueError("expected a zip of .npy or .txt members, or JSON lines")
