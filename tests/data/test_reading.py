import io
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stroke_files import WRITERS

from mdn_dist import data
from mdn_dist.data import Corpus, Drawing, StrokeFileError, read

READERS = {
    "omniglot": data.read_omniglot,
    "quickdraw": data.read_quickdraw,
    "sketch_rnn": data.read_sketch_rnn,
}


def test_read_tells_the_kind_by_content(small_file):
    kind, path = small_file
    corpus, expected = read(path), READERS[kind](str(path))
    assert len(corpus) == len(expected) == 3
    for one, other in zip(corpus, expected, strict=True):
        assert torch.equal(one.points, other.points)
        assert (one.label, one.writer, one.source) == (other.label, other.writer, other.source)
    assert len(read(path, limit=2)) == 2


def test_split_is_for_files_with_splits(small_file):
    kind, path = small_file
    if kind == "sketch_rnn":
        assert len(read(path, split="train")) == 3
        with pytest.raises(ValueError, match="split must be one of"):
            read(path, split="")
    else:
        with pytest.raises(ValueError, match="split is for Sketch-RNN's files, got 'train'"):
            read(path, split="train")


@pytest.mark.parametrize("reader", [*READERS.values(), read])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"malformed": "ignore"}, "malformed must be 'raise' or 'skip', got 'ignore'"),
        ({"limit": 0}, "limit must be None or at least 1, got 0"),
        ({"max_bytes": 0}, "max_bytes must be positive, got 0"),
    ],
)
def test_options_are_checked(reader, options, match):
    with pytest.raises(ValueError, match=match):
        reader("no such file", **options)


@pytest.mark.parametrize("reader", [*READERS.values(), read])
@pytest.mark.parametrize(
    ("path", "options", "match"),
    [
        (5, {}, "path must be a str or an os.PathLike of it, got int"),
        (None, {}, "path must be a str or an os.PathLike of it, got NoneType"),
        (b"file", {}, "path must be a str or an os.PathLike of it, got bytes"),
        (io.BytesIO(), {}, "path must be a str or an os.PathLike of it, got BytesIO"),
        ("file", {"limit": 2.0}, "limit must be an int, got float"),
        ("file", {"limit": True}, "limit must be an int, got bool"),
        ("file", {"limit": "2"}, "limit must be an int, got str"),
        ("file", {"max_bytes": 1e9}, "max_bytes must be an int, got float"),
        ("file", {"max_bytes": None}, "max_bytes must be an int, got NoneType"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(reader, path, options, match):
    with pytest.raises(TypeError, match=f"^{match}"):
        reader(path, **options)


def test_a_numpy_integer_is_an_integer(small_file):
    _, path = small_file
    assert len(read(path, limit=np.int64(2), max_bytes=np.int32(10**6))) == 2


@pytest.mark.parametrize("reader", [*READERS.values(), read])
def test_a_missing_file_is_the_ordinary_error(reader, tmp_path):
    with pytest.raises(FileNotFoundError):
        reader(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "expected a zip of"),
        (b"\n\n", "expected a zip of"),
        (b"hello", "expected a zip of"),
        (b"\x1f\x8b", "damaged file"),
        (b"PK", "damaged file: BadZipFile"),
    ],
)
def test_files_of_no_kind(tmp_path, content, match):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(StrokeFileError, match=match):
        read(tmp_path / "x")


def test_a_zip_of_something_else(write_zip):
    with pytest.raises(StrokeFileError, match=r"expected \.npy or \.txt members"):
        read(write_zip({"a.png": "x"}))


def test_max_bytes_counts_all_members(small_file):
    _, path = small_file
    with pytest.raises(StrokeFileError, match="more than max_bytes = 60 bytes"):
        read(path, max_bytes=60, malformed="skip")


def check_corpus_or_error(reader, path, malformed):
    message = str(path)
    with suppress(StrokeFileError):
        try:
            assert isinstance(reader(path, malformed=malformed), Corpus)
        except StrokeFileError as error:
            message = str(error)
            raise
    assert message.startswith(str(path))


@pytest.mark.parametrize("malformed", ["raise", "skip"])
@pytest.mark.parametrize("kind", WRITERS)
@given(drawn=st.data())
@settings(max_examples=120)
def test_any_bytes_give_a_corpus_or_the_error(kind, malformed, drawn):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        WRITERS[kind](path)
        content = bytearray(path.read_bytes())
        flips = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
        for position, value in drawn.draw(st.lists(flips, max_size=6)):
            content[position] = value
        path.write_bytes(content[: drawn.draw(st.integers(0, len(content)))])
        for reader in (read, READERS[kind]):
            check_corpus_or_error(reader, path, malformed)


@pytest.mark.parametrize("member", ["train.npy", "a/b/0001_01.txt"])
@given(drawn=st.data())
@settings(max_examples=150)
def test_any_member_gives_a_corpus_or_the_error(member, drawn):
    """As above, under a valid checksum, so that the damage reaches the pickle and the text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        WRITERS["sketch_rnn" if member == "train.npy" else "omniglot"](path)
        with zipfile.ZipFile(path) as archive:
            content = bytearray(archive.read(archive.namelist()[0]))
        flips = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
        for position, value in drawn.draw(st.lists(flips, min_size=1, max_size=4)):
            content[position] = value
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, bytes(content[: drawn.draw(st.integers(0, len(content)))]))
        check_corpus_or_error(read, path, "skip")


@pytest.mark.parametrize("reader", READERS.values())
@given(content=st.binary(max_size=200))
@settings(max_examples=50)
def test_random_bytes_give_a_corpus_or_the_error(reader, content):
    with tempfile.NamedTemporaryFile() as handle:
        handle.write(content)
        handle.flush()
        with suppress(StrokeFileError):
            assert len(reader(handle.name)) == 0


def test_a_corpus_is_a_sequence():
    drawings = tuple(Drawing(torch.tensor([[0.0, 0, 1]]), label=str(i)) for i in range(4))
    corpus = Corpus(drawings, ("line 3: bad",))
    assert [d.label for d in corpus] == ["0", "1", "2", "3"]
    assert corpus[-1] is drawings[3]
    assert corpus[1:3].drawings == drawings[1:3]
    assert corpus[1:3].skipped == corpus.skipped
    assert drawings[2] in corpus
    assert repr(corpus) == "Corpus(4 drawings, 1 skipped)"
    with pytest.raises(IndexError):
        corpus[4]
    loader = torch.utils.data.DataLoader(corpus, batch_size=3, collate_fn=data.collate)
    assert [mask.sum().item() for _, mask in loader] == [3, 1]
