import math
import zipfile

import pytest
import torch

from mdn_dist.data import StrokeFileError, polylines, read_omniglot, to_absolute
from mdn_dist.data.text import to_number

GOOD = "START\n1.5,-2,100\n2,-1,140\nBREAK\n5,5,900\nBREAK\n"
NAME = "set/Latin/character04/0001_07.txt"


def test_a_small_file(write_zip):
    path = write_zip({NAME: GOOD, "__MACOSX/set/._a.txt": "x", "set/.DS_Store": "x"})
    (drawing,) = read_omniglot(path)
    assert drawing.points.tolist() == [[0, 0, 0], [0.5, 1, 1], [3, 6, 1]]
    assert (drawing.label, drawing.writer) == ("Latin/character04", "07")
    assert drawing.source == f"{path}: {NAME}"
    torch.testing.assert_close(drawing.times, torch.tensor([0, 0.04, 0.8]))


MALFORMED = {
    "empty": ("", "line 1: expected START, got 'nothing'"),
    "no start": ("1,2,3\nBREAK\n", "line 1: expected START, got '1,2,3'"),
    "only start": ("START\n", "expected BREAK at the end"),
    "breaks off": ("START\n1,2,3\n", "line 2: expected BREAK at the end"),
    "empty stroke": ("START\nBREAK\n", "line 2: expected a point, got BREAK"),
    "empty second stroke": ("START\n1,2,3\nBREAK\nBREAK\n", "line 4: expected a point"),
    "two fields": ("START\n1,2\nBREAK\n", "line 2: expected x,y,milliseconds, got '1,2'"),
    "four fields": ("START\n1,2,3,4\nBREAK\n", "line 2: expected x,y,milliseconds"),
    "text": ("START\n1,b,3\nBREAK\n", "line 2: expected x,y,milliseconds"),
    "nan": ("START\n1,nan,3\nBREAK\n", "line 2: expected finite numbers"),
    "infinite": ("START\n1,2,1e999\nBREAK\n", "line 2: expected finite numbers"),
    "above float32": ("START\n0,0,0\n1e60,2,1\nBREAK\n", "finite float32"),
    "digits in groups": (
        "START\n1,1_0,3\nBREAK\n",
        "line 2: expected x,y,milliseconds, got '1,1_0",
    ),
    "a space": ("START\n1, 2,3\nBREAK\n", "line 2: expected x,y,milliseconds"),
    "a tab at the end": ("START\n1,2,3\t\nBREAK\n", "line 2: expected x,y,milliseconds"),
    "infinity": ("START\n1,infinity,3\nBREAK\n", "line 2: expected x,y,milliseconds"),
    "hexadecimal": ("START\n1,0x2,3\nBREAK\n", "line 2: expected x,y,milliseconds"),
    "a blank line": ("START\n\n1,2,3\nBREAK\n", "line 2: expected x,y,milliseconds, got ''"),
    "a blank line at the end": ("START\n1,2,3\nBREAK\n\n", "line 4: expected x,y,milliseconds"),
    "another word": ("START\n1,2,3\nBREAKFAST\n", "line 3: expected x,y,milliseconds"),
    "not ascii": ("START\n١,2,3\nBREAK\n", "ascii"),
}


@pytest.mark.parametrize(("text", "match"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_members_are_named_or_skipped(write_zip, text, match):
    path = write_zip({NAME: text, "a/b/0001_08.txt": GOOD})
    with pytest.raises(StrokeFileError, match=f"file.zip: {NAME}: .*{match}"):
        read_omniglot(path)
    corpus = read_omniglot(path, malformed="skip")
    assert [drawing.writer for drawing in corpus] == ["08"]
    assert len(corpus.skipped) == 1
    assert NAME in corpus.skipped[0]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system(write_zip, end):
    (drawing,) = read_omniglot(write_zip({NAME: GOOD.replace("\n", end)}))
    assert len(drawing.points) == 3


@pytest.mark.parametrize(
    "text", ["7", "-7.", "+7.5", ".5", "7e2", "-7.25E-02", "007", "1e400", "nan"]
)
def test_numbers_are_read_as_python_and_c_write_them(text):
    assert to_number(text) == pytest.approx(float(text), rel=0, nan_ok=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "1\n",
        "1_0",
        "٣",
        "１",
        "0x1",
        "1e",
        "e1",
        ".",
        "--1",
        "infinity",
        "1,0",
        "1" * 99 + "x",
    ],
)
def test_what_else_float_may_take_is_no_number(text):
    with pytest.raises(ValueError, match="could not convert to a number") as error:
        to_number(text)
    assert len(str(error.value)) < 150


@pytest.mark.parametrize("name", ["a/0001_01.txt", "a/b/notes.txt", "a/b/0001_x.txt"])
def test_names_that_tell_no_label_are_malformed(write_zip, name):
    with pytest.raises(StrokeFileError, match="expected a name"):
        read_omniglot(write_zip({name: GOOD}))


def test_a_zip_without_strokes(write_zip):
    with pytest.raises(StrokeFileError, match=r"expected \.txt stroke files"):
        read_omniglot(write_zip({"a.png": "x"}))


def test_a_limit_leaves_the_rest_unread(write_zip):
    path = write_zip({NAME: GOOD, "a/b/0001_08.txt": "broken"})
    assert len(read_omniglot(path, limit=1)) == 1


def test_other_compressions_are_refused(write_zip):
    path = write_zip({NAME: GOOD}, compression=zipfile.ZIP_BZIP2)
    with pytest.raises(StrokeFileError, match="compression method 12"):
        read_omniglot(path)


def test_the_real_file(real_file):
    path = real_file("omniglot/strokes_background_small1.zip")
    corpus = read_omniglot(path)
    assert len(corpus) == 2720
    assert corpus.skipped == ()
    assert len({drawing.writer for drawing in corpus}) == 20
    assert len({drawing.label.split("/")[0] for drawing in corpus}) == 5
    with zipfile.ZipFile(path) as archive:
        for drawing in corpus[::400]:
            lines = archive.read(drawing.source.split(": ")[1]).decode().split()[1:]
            rows = [[float(v) for v in line.split(",")] for line in lines if line != "BREAK"]
            expected = torch.tensor(rows, dtype=torch.float64)
            expected -= expected[0].clone()
            got = to_absolute(drawing.points.double())[:, :2]
            torch.testing.assert_close(got, expected[:, :2], rtol=0, atol=1e-4)
            assert len(polylines(drawing.points)) == lines.count("BREAK")
            assert math.isclose(drawing.times[-1], expected[-1, 2] / 1000, rel_tol=1e-6)
