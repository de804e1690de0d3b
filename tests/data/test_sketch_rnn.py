import io
import pickle
import pickletools
import struct
import time

import numpy as np
import pytest
import torch

from mdn_dist.data import StrokeFileError, read_sketch_rnn
from mdn_dist.data import corpus as corpus_module

GOOD = np.array([[0, 0, 0], [5, 300, 1], [-7, 2, 1]], dtype=np.int16)


def objects(*items):
    arrays = np.empty(len(items), dtype=object)
    arrays[:] = items
    return arrays


def npy(payload, shape="(1,)", descr="'|O'"):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + payload


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "<i8", "<f4", ">f8", "<f2"])
def test_every_protocol_and_numeric_dtype(write_zip, protocol, dtype):
    values = (np.abs(GOOD) % 100 if dtype == "u1" else GOOD).astype(dtype)
    fortran = np.asfortranarray(values)
    content = npy(pickle.dumps(objects(values, fortran), protocol=protocol), "(2,)")
    corpus = read_sketch_rnn(write_zip({"train.npy": content}))
    expected = values.astype(np.float32) * [1, -1, 1]
    for drawing in corpus:
        np.testing.assert_array_equal(drawing.points, expected)
    assert corpus[1].source.endswith("file.zip: train.npy, drawing 1")


def test_splits_and_numeric_members(tmp_path):
    path = tmp_path / "own.npz"
    np.savez_compressed(path, train=objects(GOOD, GOOD[1:]), valid=np.stack([GOOD] * 4))
    train, valid = read_sketch_rnn(path), read_sketch_rnn(path, "valid")
    assert len(train) == 2
    # The first point becomes the origin, whatever offset its row had.
    assert train[1].points.tolist() == [[0, 0, 1], [-7, -2, 1]]
    assert len(valid) == 4
    assert len(read_sketch_rnn(path, limit=1)) == 1
    with pytest.raises(StrokeFileError, match=r"own.npz: expected a member test\.npy, got"):
        read_sketch_rnn(path, "test")
    with pytest.raises(ValueError, match="split must be one of train, valid, test, got 'dev'"):
        read_sketch_rnn(path, "dev")


MALFORMED = {
    "a column too many": (np.zeros((2, 4), np.int16), r"shape \(T, 3\), got \(2, 4\)"),
    "one axis": (np.zeros(3, np.int16), r"shape \(T, 3\), got \(3,\)"),
    "empty": (np.zeros((0, 3), np.int16), "at least one point"),
    "flags": (GOOD * 2, "0 or 1"),
    "no end": (GOOD[:1], "last point must end a stroke"),
    "nan": (np.array([[0, 0, 0], [np.nan, 0, 1]]), "finite"),
    "above float32": (np.array([[0, 0, 0], [1e300, 0, 1]]), "finite"),
    "text": (np.array([["a", "b", "c"]]), "numeric dtype"),
    "complex": (np.ones((1, 3), complex), "numeric dtype"),
    "bool": (np.ones((1, 3), bool), "numeric dtype"),
    "structured": (np.zeros((1, 3), [("x", "i2")]), "numeric dtype"),
    "objects": (objects(GOOD, GOOD), "array data as bytes, got list"),
    "a number": (5, "expected an array, got int"),
    "a list": ([GOOD], "expected an array, got list"),
}


@pytest.mark.parametrize(("item", "match"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_drawings_are_named_or_skipped(write_zip, item, match):
    arrays = np.empty(2, dtype=object)
    arrays[0], arrays[1] = GOOD, item
    path = write_zip({"train.npy": npy(pickle.dumps(arrays, protocol=4), "(2,)")})
    if match == "numeric dtype" and item.dtype.names:  # a field dictionary is no opcode of ours
        match = "opcode"
    with pytest.raises(StrokeFileError, match=rf"file\.zip: train\.npy.*{match}"):
        read_sketch_rnn(path)
    if match != "opcode":
        corpus = read_sketch_rnn(path, malformed="skip")
        assert len(corpus) == len(corpus.skipped) == 1
        assert "train.npy, drawing 1" in corpus.skipped[0]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "magic"),
        (b"\x93NUMPY\x03\x00" + bytes(20), r"version 1\.0 or 2\.0"),
        (npy(b"", "(1,"), "damaged npy header"),
        (npy(b"", "(-1,)"), "a shape of sizes"),
        (npy(b"", "(True,)"), "a shape of sizes"),
        (npy(b"", "(10**9,)"), "damaged npy header"),
        (npy(b"", "(1000000000,)"), "more than 500000 drawings"),
        (npy(b"", "(2, 2)"), r"object array of shape \(N,\)"),
        (npy(b"", "(2, 2)", "'<i2'"), r"numeric array of shape \(N, T, 3\)"),
        (npy(b"12", "(1, 2, 3)", "'<i2'"), "got 2 bytes"),
        (npy(b"", "(1, 0, 3)", "'<U1'"), "integer or floating"),
        (npy(b"", "(1,)", "'<\\d1'"), "damaged npy header"),
        (npy(b"", "(" * 3000), "damaged npy header"),
        (npy(b""), "not a pickle of arrays: EOFError"),
        (npy(pickle.dumps(objects(GOOD), protocol=2), "(2,)"), "expected 2 arrays .* got 1"),
        (npy(pickle.dumps(GOOD, protocol=2)), "got str|got bytes"),
        (npy(pickle.dumps([GOOD], protocol=2)), "expected an array, got list"),
    ],
)
def test_damaged_members(write_zip, content, match):
    with pytest.raises(StrokeFileError, match=rf"train\.npy: .*({match})"):
        read_sketch_rnn(write_zip({"train.npy": content}), malformed="skip")


class Bomb:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_that_a_pickle_names_is_called(write_zip, tmp_path, protocol):
    touched = tmp_path / "touched"
    for bomb in (Bomb(exec, f"open({str(touched)!r}, 'w')"), Bomb(io.open, str(touched), "w")):
        path = write_zip({"train.npy": npy(pickle.dumps(objects(bomb), protocol=protocol))})
        with pytest.raises(StrokeFileError, match=r"refuses to unpickle|opcode"):
            read_sketch_rnn(path, malformed="skip")
        assert not touched.exists()
    pickle.loads(pickle.dumps(bomb)).close()
    assert touched.exists()  # the bomb is a real one


NDARRAY = b"cnumpy\nndarray\n"
HOSTILE = {
    "a huge memo index": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a huge frame": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f",
    "a huge bytearray": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.",
    "a huge string": b"\x80\x02T\xff\xff\xff\x7fa.",
    "a negative string": b"\x80\x02T\xff\xff\xff\xffa.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent id": b"\x80\x02NQ.",
    "a text persistent id": b"P1\n.",
    "inst": b"(S'true'\nios\nsystem\n.",
    "newobj": b"\x80\x02" + NDARRAY + b")\x81.",
    "a dict": b"\x80\x02}.",
    "dup": b"\x80\x02]2\x86.",
    "build on a global": b"\x80\x02" + NDARRAY + b"K\x01\x85b.",
    "build on a list": b"\x80\x02]K\x01\x85b.",
    "a call of a list": b"\x80\x02])R.",
    "a call of ndarray": b"\x80\x02" + NDARRAY + b")R.",
    "reconstruct without ndarray": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.",
    "another codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__new__\x93.",
    "a name that is a list": b"\x80\x04]]\x93.",
    "an empty stack": b"\x80\x02R.",
    "no mark": b"\x80\x02t.",
    "an unknown memo": b"\x80\x02h\x05.",
    "an array that holds itself": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"
    + NDARRAY
    + b"\x85Rq\x00(K\x01K\x01\x85cnumpy\ndtype\nU\x02O8\x85R(K\x03U\x01|NNNtb\x89]h\x00atb.",
}


@pytest.mark.parametrize("stream", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles_are_refused_at_once(write_zip, stream):
    start = time.perf_counter()
    with pytest.raises(StrokeFileError, match=r"file\.zip: train\.npy"):
        read_sketch_rnn(write_zip({"train.npy": npy(stream)}))
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("flood", [b"](" * 5_000_000, b"]\x94" * 5_000_000], ids=["lists", "memo"])
def test_a_flood_of_opcodes_is_refused_at_once(write_zip, flood):
    start = time.perf_counter()
    with pytest.raises(StrokeFileError, match="more opcodes than arrays"):
        read_sketch_rnn(write_zip({"train.npy": npy(b"\x80\x04" + flood + b".")}))
    assert time.perf_counter() - start < 1


def test_one_text_encoded_many_times_is_refused(write_zip):
    text = b"X" + struct.pack("<I", 1000) + b"a" * 1000 + b"q\x01"
    encode = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R"
    with pytest.raises(StrokeFileError, match="more encoded text"):
        read_sketch_rnn(write_zip({"train.npy": npy(b"\x80\x02" + text + encode * 40 + b".")}))


def test_one_array_named_many_times_meets_the_limit_on_points(write_zip, monkeypatch):
    monkeypatch.setattr(corpus_module, "MAX_TOTAL_POINTS", 20)
    payload = pickle.dumps(objects(*[GOOD] * 9), protocol=2)
    with pytest.raises(StrokeFileError, match="more than 20 points"):
        read_sketch_rnn(write_zip({"train.npy": npy(payload, "(9,)")}))


@pytest.mark.parametrize(
    ("split", "count"),
    [("valid", 1000), ("test", 1000), pytest.param("train", 30_000, marks=pytest.mark.slow)],
)
def test_the_real_file_against_numpy(real_file, split, count):
    path = real_file("sketch_rnn/omniglot.npz")
    corpus = read_sketch_rnn(path, split)
    assert len(corpus) == count
    # The oracle unpickles blindly: right for a file that we trust, and for no other.
    trusted = np.load(path, allow_pickle=True, encoding="latin1")[split]
    for drawing, expected in zip(corpus, trusted, strict=True):
        assert torch.equal(
            drawing.points, torch.from_numpy(expected * np.int16([1, -1, 1])).float()
        )


def test_the_opcode_table_covers_numpy_and_no_more():
    from mdn_dist.data.array_pickle import _OPCODES

    used = set()
    for protocol in (2, 3, 4):
        stream = pickle.dumps(objects(GOOD, np.zeros((90, 3))), protocol=protocol)
        used |= {opcode.code for opcode, _, _ in pickletools.genops(stream)}
    assert used <= {opcode.decode("latin1") for opcode in _OPCODES}
