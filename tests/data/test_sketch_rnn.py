import io
import pickle
import pickletools
import re
import struct
import sys
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from mdn_dist import data
from mdn_dist.data import StrokeFileError, read_sketch_rnn
from mdn_dist.data import corpus as corpus_module
from mdn_dist.data import sketch_rnn as sketch_rnn_module
from mdn_dist.data.array_pickle import _OPCODES, _check_opcodes, unpickle_arrays
from mdn_dist.data.sketch_rnn import _read_header as read_header

GOOD = np.array([[0, 0, 0], [5, 300, 1], [-7, 2, 1]], dtype=np.int16)


def objects(*items):
    arrays = np.empty(len(items), dtype=object)
    arrays[:] = items
    return arrays


def npy(payload, shape="(1,)", descr="'|O'"):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + payload


@contextmanager
def memory_below(limit):
    """Fail if the block has more bytes at once than this."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


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


def test_a_pen_that_is_never_lifted_ends_with_the_drawing(tmp_path):
    path = tmp_path / "own.npz"
    drawn = GOOD * np.int16([1, 1, 0])
    np.savez(path, train=objects(drawn, GOOD[:1]), valid=np.stack([drawn, GOOD]))
    ends = {
        split: [d.points[:, 2].tolist() for d in read_sketch_rnn(path, split)]
        for split in ("train", "valid")
    }
    assert ends == {"train": [[0, 0, 1], [1]], "valid": [[0, 0, 1], [0, 1, 1]]}


HEADERS = [
    (descr, order, shape)
    for descr in ("<i2", ">f8", "|u1", "|O", "<U3")
    for order in (False, True)
    for shape in ((), (7,), (28_334, 100, 3), (2**40, 2**40))
]


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_headers_that_numpy_writes_are_read_as_numpy_reads_them(version):
    formats = np.lib.format
    for descr, is_fortran, shape in HEADERS:
        stream = io.BytesIO()
        write = {(1, 0): formats.write_array_header_1_0, (2, 0): formats.write_array_header_2_0}
        write[version](stream, {"descr": descr, "fortran_order": is_fortran, "shape": shape})
        content = stream.getvalue()
        assert read_header(content + b"data") == (descr, is_fortran, shape, len(content))
        with pytest.raises(ValueError, match="damaged npy header"):
            read_header(content[:-1])
    assert read_header(npy(b"", "(12L, 100L, 3L)", "'<i2'"))[:3] == ("<i2", False, (12, 100, 3))
    assert read_header(npy(b"", "(12L,)"))[:3] == ("|O", False, (12,))


@pytest.mark.parametrize(
    "header",
    [
        b"1" + b" " * 9980 + b"?\n",
        b"{'descr': '<i2', 'fortran_order': False, 'shape': (1, 2, 3), }" + b" " * 9980 + b"\n",
        b"#" * 9980,
    ],
)
def test_a_long_header_is_refused_before_it_is_parsed(write_zip, header):
    for start in (
        b"\x01\x00" + struct.pack("<H", len(header)),
        b"\x02\x00" + struct.pack("<I", 2**31),
    ):
        path = write_zip({"train.npy": b"\x93NUMPY" + start + header})
        with pytest.raises(StrokeFileError, match="damaged npy header: more than 1000 bytes"):
            read_sketch_rnn(path)


@pytest.mark.parametrize(
    "header",
    [
        "1" + " " * 900 + "?",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (1, 2, 3), 'more': 1, }",
        "{'descr': '<i2', 'fortran_order': 0, 'shape': (1, 2, 3), }",
        "{'descr': [('x', '<i2')], 'fortran_order': False, 'shape': (1, 2, 3), }",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (1_0, 2, 3), }",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (" + "9" * 500 + ",), }",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (5), }",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (\uff11, 2, 3), }",
    ],
)
def test_other_headers_are_refused_with_a_short_message(write_zip, header):
    content = (header + "\n").encode()
    path = write_zip(
        {"train.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content)) + content}
    )
    with pytest.raises(StrokeFileError, match="damaged npy header: expected a dtype") as error:
        read_sketch_rnn(path)
    assert len(str(error.value)) < len(str(path)) + 250


def test_reading_in_threads_leaves_the_filters_of_warnings(tmp_path):
    np.savez(tmp_path / "own.npz", train=objects(GOOD))
    interval = sys.getswitchinterval()
    before = list(warnings.filters)
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: read_sketch_rnn(tmp_path / "own.npz"), range(200)))
    finally:
        sys.setswitchinterval(interval)
    after, warnings.filters[:] = list(warnings.filters), before
    assert after == before


def test_no_module_swaps_the_filters_of_warnings():
    sources = Path(data.__file__).parent.glob("*.py")
    assert [path.name for path in sources if "warnings" in path.read_text()] == []


def test_a_limit_leaves_the_rest_as_it_is(tmp_path):
    np.savez(tmp_path / "own.npz", train=objects(GOOD, GOOD * 2), valid=np.stack([GOOD, GOOD * 2]))
    for split in ("train", "valid"):
        assert len(read_sketch_rnn(tmp_path / "own.npz", split, limit=1)) == 1
        with pytest.raises(StrokeFileError, match="drawing 1: "):
            read_sketch_rnn(tmp_path / "own.npz", split, limit=2)


MALFORMED = {
    "a column too many": (np.zeros((2, 4), np.int16), r"shape \(T, 3\), got \(2, 4\)"),
    "one axis": (np.zeros(3, np.int16), r"shape \(T, 3\), got \(3,\)"),
    "empty": (np.zeros((0, 3), np.int16), "at least one point"),
    "flags": (GOOD * 2, "0 or 1"),
    "an open end of another value": (GOOD * [1, 1, -1], "0 or 1"),
    "nan": (np.array([[0, 0, 0], [np.nan, 0, 1]]), "finite"),
    "infinite at first": (np.array([[np.inf, 0, 0], [0, 0, 1]]), "finite"),
    "above float32": (np.array([[0, 0, 0], [1e300, 0, 1]]), "finite"),
    "text": (np.array([["a", "b", "c"]]), "numeric dtype"),
    "a long text": (np.array([["a" * 10**6] * 3]), "numeric dtype"),
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
        (npy(b""), "not a pickle of arrays: .* exhausted"),
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
ARRAY = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n" + NDARRAY + b"K\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R"
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
    "build on a stand-in's class": b"\x80\x02cnumpy\ndtype\n)b.",
    "a call of a list": b"\x80\x02])R.",
    "a call of an array": ARRAY + b")R.",
    "a call with a text's letters": b"\x80\x02cnumpy\ndtype\nU\x03abcR.",
    "a call with a long tuple": b"\x80\x02cnumpy\ndtype\n(" + b"N" * 200 + b"tR.",
    "an append to an array": ARRAY + b"Na.",
    "a call of ndarray": b"\x80\x02" + NDARRAY + b")R.",
    "reconstruct without ndarray": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.",
    "another codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__new__\x93.",
    "a name that is a list": b"\x80\x04]]\x93.",
    "an empty stack": b"\x80\x02R.",
    "no mark": b"\x80\x02t.",
    "an unknown memo": b"\x80\x02h\x05.",
    "an array that holds itself": ARRAY
    + b"q\x00(K\x01K\x01\x85"
    + DTYPE
    + b"(K\x03U\x01|NNNtb\x89]h\x00atb.",
}


@pytest.mark.parametrize("stream", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles_are_refused_in_little_memory(write_zip, stream):
    path = write_zip({"train.npy": npy(stream)})
    with memory_below(4 << 20), pytest.raises(StrokeFileError, match=r"file\.zip: train\.npy"):
        read_sketch_rnn(path)


@pytest.mark.parametrize("opcode", [b"c", b"S", b"I", b"L", b"F"])
def test_long_lines_are_refused_in_little_memory(opcode):
    stream = b"\x80\x02" + opcode + bytes(8 << 20) + b"\nx\n."
    with memory_below(1 << 20), pytest.raises(ValueError, match="no newline") as error:
        list(unpickle_arrays(stream, 1))
    assert len(str(error.value)) < 200


def test_no_frame_hides_opcodes():
    # A text of ten letters crosses a frame's end; C's unpickler drops the three inside, reads ten
    # more, and so finds a dict in what are the bytes of a number.
    frame = b"\x95" + struct.pack("<Q", 5) + b"U\x0aabc"
    stream = b"\x80\x04" + frame + b"defghij" + b"J\x00\x00}." + b"."
    assert pickle.loads(stream[:2] + stream[11:]) == 0x2E7D0000
    assert pickle.Unpickler(io.BytesIO(stream)).load() == {}
    with pytest.raises(ValueError, match="expected an array, got int"):
        list(unpickle_arrays(stream, 1))


def test_frames_are_read_whole():
    arrays = [np.full((40_000, 3), index, np.int16) for index in range(3)] + [GOOD] * 3
    payload = pickle.dumps(objects(*arrays), protocol=4)
    assert payload.count(b"\x95") > 1
    for build, expected in zip(unpickle_arrays(payload, 6), arrays, strict=True):
        np.testing.assert_array_equal(build(), expected)


FAULTS = {
    "a huge memo index": (b"\x80\x02]r\xff\xff\xff\x7f.", "memo index 2147483647 at opcode 2"),
    "one state again and again": (ARRAY + b"q\x01" + b"h\x01)b" * 200 + b".", "more opcodes than"),
    "a number as state": (ARRAY + b"K\x01b.", "a state that is not a tuple"),
    "another class": (ARRAY.replace(NDARRAY, b"U\x01a") + b".", "expected an array, got"),
    "a dictionary": (ARRAY + b"}b.", "opcode EMPTY_DICT is not one of an array's pickle"),
}


@pytest.mark.parametrize(("stream", "match"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_with_a_pickle_is_told(stream, match):
    with pytest.raises(ValueError, match=f"not a pickle of arrays: ValueError: {match}"):
        list(unpickle_arrays(stream, 1))


STATES = {
    "four values": (b"K\x01\x85NNtb.", "state of 5 values, got 4"),
    "no shape": (b"NN\x89]tb.", "a shape of up to 4 sizes"),
    "a negative size": (b"J\xff\xff\xff\xff\x85N\x89]tb.", "a shape of up to 4 sizes"),
    "no dtype": (b"K\x01\x85N\x89]tb.", "a dtype, got NoneType"),
    "a dtype without a state": (b"K\x01\x85" + DTYPE + b"\x89]tb.", "a plain dtype, got"),
    "a structured dtype": (
        b"K\x01\x85" + DTYPE + b"(K\x03U\x01|N]]tb\x89]tb.",
        "a plain dtype, got a structured one",
    ),
    "a long dtype": (
        b"K\x01\x85cnumpy\ndtype\nT"
        + struct.pack("<i", 9)
        + b"i" * 9
        + b"K\x00K\x01\x87R(K\x03U\x01|NNNtb\x89]tb.",
        "a dtype of a few letters",
    ),
    "another byte order": (
        b"K\x01\x85" + DTYPE + b"(K\x03U\x01?NNNtb\x89]tb.",
        "a dtype with a byte order",
    ),
    "numbers": (b"K\x01\x85" + DTYPE + b"(K\x03U\x01|NNNtb\x89Ntb.", "got NoneType of |O8"),
}


@pytest.mark.parametrize(("state", "match"), STATES.values(), ids=STATES)
def test_a_damaged_state_is_told(state, match):
    with pytest.raises(ValueError, match=re.escape(match)):
        list(unpickle_arrays(ARRAY + b"(K\x01" + state, 1))


FLOODS = {"lists": b"](", "memo": b"]\x94", "tuples": b")\x85", "numbers": b"K\x01"}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("length", [1, 100_000])
def test_opcodes_that_make_no_array_are_refused(flood, length):
    stream = io.BytesIO(b"\x80\x04" + flood * 2_000_000 + b".")
    with pytest.raises(ValueError, match="more opcodes than arrays"):
        _check_opcodes(stream, length)
    assert stream.tell() < (260 + 2 * length) * len(flood)


def test_arrays_with_a_dtype_each_and_arrays_named_again_are_within_the_opcodes():
    # A dtype of another byte order is pickled anew with every array.
    own = [(GOOD + index).astype(GOOD.dtype.newbyteorder(">")) for index in range(300)]
    for array in own:
        array[:, 2] = 1
    for protocol in (2, 3, 4):
        payload = pickle.dumps(objects(*own, *[GOOD] * 3000), protocol=protocol)
        arrays = [build() for build in unpickle_arrays(payload, 3300)]
        assert len(arrays) == 3300
        np.testing.assert_array_equal(arrays[299], own[299])
        np.testing.assert_array_equal(arrays[3299], GOOD)


def test_one_text_encoded_many_times_is_refused(write_zip):
    text = b"X" + struct.pack("<I", 1000) + b"a" * 1000 + b"q\x01"
    encode = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R"
    with pytest.raises(StrokeFileError, match="more encoded text"):
        read_sketch_rnn(write_zip({"train.npy": npy(b"\x80\x02" + text + encode * 40 + b".")}))


@pytest.mark.parametrize("malformed", ["raise", "skip"])
@pytest.mark.parametrize("item", [GOOD, GOOD * 2], ids=["good", "malformed"])
def test_one_array_named_many_times_meets_the_limit_on_points(
    write_zip, monkeypatch, malformed, item
):
    monkeypatch.setattr(corpus_module, "MAX_TOTAL_POINTS", 20)
    path = write_zip({"train.npy": npy(pickle.dumps(objects(*[item] * 9), protocol=2), "(9,)")})
    if malformed == "raise" and item is not GOOD:
        with pytest.raises(StrokeFileError, match=r"drawing 0: .* 0 or 1"):
            read_sketch_rnn(path)
    else:
        with pytest.raises(StrokeFileError, match="more than 20 points"):
            read_sketch_rnn(path, malformed=malformed)


def test_points_are_counted_before_they_are_converted(tmp_path, monkeypatch):
    large = np.zeros((corpus_module.MAX_POINTS + 1, 3), np.uint8)
    arrays = objects(*[large] * 1000)
    np.savez_compressed(tmp_path / "own.npz", train=arrays)
    converted = []
    monkeypatch.setattr(sketch_rnn_module, "_to_drawing", lambda *_: converted.append(1))
    with pytest.raises(StrokeFileError, match="more than 50000000 points"):
        read_sketch_rnn(tmp_path / "own.npz", malformed="skip")
    assert converted == []
    with pytest.raises(StrokeFileError, match="drawing 0: expected at most 100000 points"):
        read_sketch_rnn(tmp_path / "own.npz")


@pytest.mark.parametrize("order", ["C", "F"])
def test_small_numbers_are_widened_a_drawing_at_a_time(tmp_path, order):
    points = np.full((40, 50_000, 3), 9, np.uint8, order=order)
    points[0, :, 2] = 0
    np.savez_compressed(tmp_path / "own.npz", train=points)
    size = points.nbytes
    with memory_below(4 * size):  # in float64 it has eight times the size
        corpus = read_sketch_rnn(tmp_path / "own.npz", malformed="skip")
    assert (len(corpus), len(corpus.skipped)) == (1, 39)


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
    used = set()
    for protocol in (2, 3, 4):
        stream = pickle.dumps(objects(GOOD, np.zeros((90, 3))), protocol=protocol)
        used |= {opcode.name for opcode, _, _ in pickletools.genops(stream)}
    assert used <= _OPCODES
