import gzip
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mdn_dist.data import Drawing, StrokeFileError, read, read_quickdraw, write_quickdraw
from mdn_dist.data import corpus as corpus_module
from mdn_dist.data import reading as reading_module

RAW = {"word": "cat", "drawing": [[[1, 2.5], [3, 9], [10, 27]], [[4], [4], [110]]]}
SIMPLE = {"word": "dog", "drawing": [[[0, 255], [255, 0]]]}


@pytest.fixture
def write_lines(tmp_path):
    def write(*lines, pack=bytes):
        path = tmp_path / "file.ndjson"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_bytes(pack("\n".join(texts).encode()))
        return path

    return write


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_raw_and_simplified(write_lines, pack):
    cat, dog = read_quickdraw(write_lines(RAW, "", SIMPLE, "", pack=pack))
    assert cat.points.tolist() == [[0, 0, 0], [1.5, -6, 1], [1.5, 5, 1]]
    assert (cat.label, cat.writer) == ("cat", "")
    torch.testing.assert_close(cat.times, torch.tensor([0, 0.017, 0.1]))
    assert dog.points.tolist() == [[0, 0, 0], [255, 255, 1]]
    assert dog.times is None
    assert dog.source.endswith("file.ndjson: line 3")


def with_strokes(*strokes):
    return json.dumps({"word": "x", "drawing": strokes})


MALFORMED = {
    "not json": ("{", "Expecting property name"),
    "not an object": ("[1]", "expected a JSON object, got list"),
    "not utf-8": ('{"word": "\udcff"}', "utf-8"),
    "no word": ('{"drawing": [[[1], [2]]]}', "'word'"),
    "word of another type": ('{"word": 5, "drawing": [[[1], [2]]]}', "'word'"),
    "no drawing": ('{"word": "x"}', "list of strokes"),
    "no strokes": (with_strokes(), "list of strokes"),
    "stroke of text": (with_strokes("ab"), "stroke 0: expected"),
    "one column": (with_strokes([[1]]), "stroke 0: expected"),
    "an empty stroke": (with_strokes([[1], [1]], [[], []]), "stroke 1: expected lists of one len"),
    "ragged": (with_strokes([[1, 2], [1]]), "stroke 0: expected lists of one length"),
    "mixed formats": (with_strokes([[1], [1], [0]], [[1], [1]]), "stroke 1: expected times in all"),
    "null": (with_strokes([[None], [1]]), "stroke 0: expected lists of numbers"),
    "true": (with_strokes([[True], [1]]), "stroke 0: expected lists of numbers"),
    "numbers as text": (with_strokes([["1"], [1]]), "stroke 0: expected lists of numbers"),
    "nan": ('{"word": "x", "drawing": [[[NaN], [1]]]}', "finite number, got NaN"),
    "infinity": ('{"word": "x", "drawing": [[[1], [-Infinity]]]}', "finite number, got -Inf"),
    "overflow to infinity": ('{"word": "x", "drawing": [[[1e999], [1]]]}', "finite float32"),
    "above float32": (with_strokes([[0, 1e39], [1, 1]]), "finite float32"),
    "more points than a drawing has": (with_strokes([[0] * 100_001] * 2), "at most 100000 points"),
    "a million numbers": (
        with_strokes([[0] * 500_000] * 2),
        "more values than a drawing of 100000",
    ),
    "a million lists": ("[" + "[]," * 1_000_000 + "[]]", "more values than a drawing of 100000"),
    "a huge integer": (with_strokes([[10**400], [1]]), "finite float32"),
    "more digits than Python reads": (
        '{"word": "x", "drawing": [[[%s], [1]]]}' % ("1" * 5000),
        "finite float32",
    ),
    "a huge integer alone": ("1" * 5000, "expected a JSON object, got float"),
    "deep nesting": ("[" * 100_000, "nested too deep"),
    "recognized as text": (json.dumps(SIMPLE | {"recognized": "true"}), "'recognized', got str"),
    "recognized as number": (json.dumps(SIMPLE | {"recognized": 1}), "'recognized', got float"),
    "country as number": (json.dumps(SIMPLE | {"countrycode": 1}), "'countrycode', got float"),
    "no country": (json.dumps(SIMPLE | {"countrycode": None}), "'countrycode', got NoneType"),
}


@pytest.mark.parametrize(("line", "match"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_lines_are_named_or_skipped(tmp_path, line, match):
    path = tmp_path / "file.ndjson"
    content = "\n".join([json.dumps(RAW), line, json.dumps(SIMPLE)])
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(StrokeFileError, match=rf"file\.ndjson: line 2: .*{match}"):
        read_quickdraw(path)
    corpus = read_quickdraw(path, malformed="skip")
    assert [drawing.label for drawing in corpus] == ["cat", "dog"]
    assert len(corpus.skipped) == 1
    assert "line 2" in corpus.skipped[0]


@pytest.mark.parametrize("reader", [read_quickdraw, read])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_is_passed_over(tmp_path, reader, pack):
    path = tmp_path / "file.ndjson"
    path.write_bytes(pack(json.dumps(SIMPLE).encode("utf-8-sig")))
    assert [drawing.label for drawing in reader(path)] == ["dog"]
    path.write_bytes(pack(("\n" + json.dumps(RAW)).encode("utf-8-sig")))
    assert [drawing.label for drawing in reader(path)] == ["cat"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_blank_lines_count_as_records(write_lines, monkeypatch, pack):
    monkeypatch.setattr(corpus_module, "MAX_RECORDS", 4)
    assert len(read_quickdraw(write_lines("", " ", RAW, SIMPLE, pack=pack))) == 2
    path = write_lines("", " ", "\t", RAW, SIMPLE, pack=pack)
    with pytest.raises(StrokeFileError, match="more than 4 records"):
        read_quickdraw(path, malformed="skip")
    monkeypatch.setattr(reading_module, "MAX_RECORDS", 3)
    with pytest.raises(StrokeFileError, match="expected a zip of"):
        read(path)


def test_the_longest_drawing_is_read(write_lines):
    dots = {"word": "x", "drawing": [[[0.5], [1], [i]] for i in range(corpus_module.MAX_POINTS)]}
    (drawing,) = read_quickdraw(write_lines(dots))
    assert len(drawing.points) == 100_000


def test_a_limit_stops_reading(write_lines):
    assert len(read_quickdraw(write_lines(RAW, SIMPLE, "broken"), limit=2)) == 2


def test_bounds_are_kept_while_reading(write_lines, monkeypatch):
    path = write_lines(RAW, SIMPLE, RAW, pack=gzip.compress)
    with pytest.raises(StrokeFileError, match="more than max_bytes = 100 bytes"):
        read_quickdraw(path, max_bytes=100, malformed="skip")
    for name, value, match in [
        ("MAX_TOTAL_POINTS", 4, "more than 4 points"),
        ("MAX_RECORDS", 2, "more than 2 records"),
        ("MAX_POINTS", 2, "line 1: expected at most 2 points in a drawing, got 3"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(corpus_module, name, value)
            with pytest.raises(StrokeFileError, match=match):
                read_quickdraw(path)


def test_a_gzip_bomb_is_refused_as_one_long_line(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"[" * (50 << 20), compresslevel=1))
    with pytest.raises(StrokeFileError, match="line 1: more than"):
        read_quickdraw(path)


@pytest.mark.parametrize("cut", [5, 30, -4])
def test_a_truncated_gzip_is_a_damaged_file(write_lines, cut):
    path = write_lines(RAW, SIMPLE, pack=gzip.compress)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StrokeFileError, match="damaged file"):
        read_quickdraw(path, malformed="skip")


coordinate = st.floats(-1e4, 1e4, width=32)
row = st.tuples(coordinate, coordinate, st.sampled_from([0.0, 1.0]), st.floats(0, 60, width=32))


@given(
    st.lists(row, min_size=1, max_size=20), st.text(max_size=5), st.text(max_size=5), st.booleans()
)
def test_what_is_written_is_read_back_unchanged(tmp_path_factory, rows, label, writer, timed):
    table = torch.tensor(rows)
    table[0, :2] = table[0, 3] = 0
    table[-1, 2] = 1
    drawing = Drawing(table[:, :3], label, writer, times=table[:, 3] if timed else None)
    path = tmp_path_factory.mktemp("own") / "own.ndjson"
    write_quickdraw(path, [drawing, drawing])
    first, second = read_quickdraw(path)
    assert (first.label, first.writer) == (second.label, second.writer) == (label, writer)
    # A float32 offset above 1e-5 beside positions of 1e5 fits float64; below, rounding may show.
    torch.testing.assert_close(first.points, drawing.points, rtol=0, atol=1e-9)
    if timed:
        torch.testing.assert_close(first.times, drawing.times, rtol=1e-6, atol=1e-9)
    else:
        assert first.times is None


def test_country_and_recognition_are_kept_and_written_back(write_lines, tmp_path):
    lines = [
        SIMPLE,
        RAW | {"recognized": True, "countrycode": "DE"},
        SIMPLE | {"recognized": False},
        SIMPLE | {"recognized": None},
    ]
    expected = [(None, ""), (True, "DE"), (False, ""), (None, "")]
    corpus = read_quickdraw(write_lines(*lines))
    assert [(d.recognized, d.countrycode) for d in corpus] == expected
    write_quickdraw(tmp_path / "again", corpus)
    again = read_quickdraw(tmp_path / "again")
    assert [(d.recognized, d.countrycode) for d in again] == expected
    written = [json.loads(line) for line in (tmp_path / "again").read_text().splitlines()]
    unset = {"word", "writer", "drawing"}
    assert [set(line) - unset for line in written] == [
        set(),
        {"recognized", "countrycode"},
        {"recognized"},
        set(),
    ]


@pytest.mark.parametrize(
    ("path", "drawings", "match"),
    [
        (5, [], "path must be a str or an os.PathLike of it, got int"),
        (b"own", [], "path must be a str or an os.PathLike of it, got bytes"),
        ("own", 5, "drawings must be an iterable of drawings, got int"),
        ("own", [torch.zeros(1, 3)], r"drawings\[0\] must be a Drawing, got Tensor"),
    ],
)
def test_writing_names_an_argument_of_a_wrong_type(tmp_path, monkeypatch, path, drawings, match):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=match):
        write_quickdraw(path, drawings)


def test_the_real_file(real_file, tmp_path):
    path = real_file("quickdraw/raw_16_categories.ndjson.gz")
    corpus = read_quickdraw(path)
    with gzip.open(path) as lines:
        known = [json.loads(line) for line in lines]
    assert [d.recognized for d in corpus] == [line["recognized"] for line in known]
    assert [d.countrycode for d in corpus] == [line["countrycode"] for line in known]
    assert len(corpus) == 494
    assert corpus.skipped == ()
    assert len({drawing.label for drawing in corpus}) == 16
    assert sum(len(drawing.points) for drawing in corpus) == 86444
    write_quickdraw(tmp_path / "again", corpus)
    for before, after in zip(corpus, read_quickdraw(tmp_path / "again"), strict=True):
        assert torch.equal(before.points, after.points)
        assert torch.equal(before.times, after.times)
        assert before.label == after.label
