"""Whatever a file holds, a message about it is one short printable line."""

import json
import pickle
import struct
import zipfile

import pytest

from mdn_dist.data import StrokeFileError, read, read_omniglot, read_quickdraw, read_sketch_rnn
from mdn_dist.data.text import shown

EVIL = "a\x00b\r\nc\x1b[31m\x85\u2028\u202e\udcff\u200b\ufeff"
NAMES = {"controls": "a\r\nb\x1b[31m\x85\u2028\u202e\u200b", "long": "long" * 15_000}


def check(error, path):
    message = str(error.value)
    assert message.isprintable()
    assert message.startswith(str(path))
    assert len(message) < len(str(path)) + 420
    again = pickle.loads(pickle.dumps(error.value))
    assert (type(again), str(again)) == (StrokeFileError, message)


@pytest.mark.parametrize("text", [EVIL, "", "x" * 10**6, EVIL * 10**5, "\\", "'\"", "héé漢字"])
def test_shown_text_is_short_and_printable(text):
    assert shown(text).isprintable()
    assert len(shown(text)) <= 100
    assert len(shown(text, at_most=20)) <= 20
    if text.isprintable() and len(text) <= 100:
        assert shown(text) == text
    assert shown("abc" + "x" * 200 + "xyz").startswith("abcx")
    assert shown("abc" + "x" * 200 + "xyz").endswith("xxyz")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("content", ["", "STURT\n" * 2, "START\n1,2,\x1b[31m\n"])
def test_names_of_members(write_zip, name, content):
    for members in ({f"a/b/{name}.txt": content}, {f"{name}.png": ""}, {f"{name}.npy": ""}):
        path = write_zip(members)
        for reader in (read, read_omniglot, read_sketch_rnn):
            with pytest.raises(StrokeFileError) as error:
                reader(path)
            check(error, path)
    (skipped,) = read_omniglot(write_zip({f"a/b/{name}.txt": content}), malformed="skip").skipped
    assert skipped.isprintable()
    assert len(skipped) < len(str(path)) + 420


def test_names_in_what_zipfile_says(write_zip):
    name = "é" * 20_000 + "/b/0001_01.txt"
    path = write_zip({name: "START\n"})
    content = bytearray(path.read_bytes())
    content[40] ^= 1  # the name before the member is no longer the directory's
    path.write_bytes(content)
    with pytest.raises(StrokeFileError, match="damaged file") as error:
        read_omniglot(path)
    check(error, path)


@pytest.mark.parametrize("text", [EVIL, "x" * 60_000], ids=["controls", "long"])
def test_text_of_a_line(tmp_path, text):
    path = tmp_path / "file"
    lines = [
        {"word": text},
        {"word": "x", "drawing": text},
        {"word": "x", "drawing": [[[text], [1]]]},
        {text: text},
        [text],
        text,
    ]
    for line in [*map(json.dumps, lines), text, '{"' + text, '{"word": NaN}', "1" * 60_000]:
        path.write_bytes(b"{}\n" + line.encode("utf-8", "surrogatepass"))
        corpus = read_quickdraw(path, malformed="skip")
        assert len(corpus) == 0
        for message in corpus.skipped:
            assert message.isprintable()
            assert len(message) < len(str(path)) + 420


@pytest.mark.parametrize("text", [EVIL, "x" * 60_000], ids=["controls", "long"])
def test_names_in_a_pickle_and_a_header(write_zip, text):
    name = text.encode("utf-8", "surrogatepass").replace(b"\n", b"")
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    for start, payload in [
        (header, b"\x80\x02c" + name + b"\n" + name + b"\n."),
        (header, b"\x80\x04\x8c\x03a\nb\x8c\x02\x1b[\x93."),
        (name[:900] + b"\n", b""),
    ]:
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(start)) + start + payload
        path = write_zip({"train.npy": content})
        with pytest.raises(StrokeFileError) as error:
            read_sketch_rnn(path)
        check(error, path)


def test_a_path_is_whole_but_printable(tmp_path):
    folder = tmp_path / ("deep" * 40) / "a\nb\x1b[31m"
    folder.mkdir(parents=True)
    path = folder / "file"
    path.write_text("hello")
    for reader in (read, read_quickdraw, read_omniglot, read_sketch_rnn):
        with pytest.raises(StrokeFileError) as error:
            reader(path)
        message = str(error.value)
        assert message.isprintable()
        assert message.startswith(f"{folder.parent}/a\\nb\\x1b[31m/file: ")
    with pytest.raises(StrokeFileError, match="null") as error:
        read(f"{tmp_path}/a\0b")
    assert str(error.value).isprintable()


def test_an_unusual_compression_of_a_hostile_name(tmp_path):
    path = tmp_path / "file.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a/b\n/0001_01.txt", "START\n")
    with pytest.raises(
        StrokeFileError, match=r"a/b\\n/0001_01\.txt: compression method 12"
    ) as error:
        read(path)
    check(error, path)
