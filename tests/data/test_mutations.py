"""Files damaged at random: only the documented error comes out, in a bounded message."""

import gzip
import random
import zipfile
from contextlib import suppress

import pytest
from small_stroke_files import WRITERS

from mdn_dist.data import StrokeFileError, read

# What a format, a parser or a number type may stumble over.
TOKENS = [
    *(b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff" * 8, b"\n", b"\r\n", b" ", b"\xef\xbb\xbf"),
    *(b"PK\x01\x02", b"PK\x05\x06", b"\x1f\x8b", b"\x93NUMPY", b"\x80\x02", b"("),
    *(b"R", b"b", b"h\x00", b"K\x01", b"]", b"}", b"[[[[", b"{", b'"', b",", b"null", b"true"),
    *(b"-", b"1e999", b"1_0", b"nan", b"Infinity", b"9" * 400, b"0L", b"BREAK\n", b"START\n"),
]


def mutated(chance, content):
    """Change some bytes, or cut, repeat, move or put in a piece."""
    content = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        start = chance.randrange(len(content) + 1)
        stop = min(len(content), start + chance.choice((1, 2, 4, 8, 40)))
        piece = content[start:stop]
        other = chance.randrange(len(content) + 1)
        change = chance.randrange(7)
        if change == 0:
            content[start:stop] = bytes(chance.randrange(256) for _ in piece)
        elif change == 1:
            content[start:stop] = bytes(byte ^ (1 << chance.randrange(8)) for byte in piece)
        elif change == 2:
            del content[start:stop]
        elif change == 3:
            content[other:other] = piece * chance.choice((1, 2, 50))
        elif change == 4:
            content[other : other + len(piece)] = piece
        elif change == 5:
            content[start:start] = chance.choice(TOKENS)
        elif chance.random() < 0.2:
            del content[start:]
    return bytes(content)


def in_zip(path, name, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)


def layers(kind, path):
    """What may be damaged: the file, or what it holds under valid checksums; and what writes it."""
    WRITERS[kind](path)
    content = path.read_bytes()
    if kind == "quickdraw":
        inside = gzip.decompress(content)
    else:
        with zipfile.ZipFile(path) as archive:
            name = archive.namelist()[0]
            inside = archive.read(name)
    return {
        "file": (content, path.write_bytes),
        "inside": (
            inside,
            path.write_bytes
            if kind == "quickdraw"
            else lambda damaged: in_zip(path, name, damaged),
        ),
    }


COUNTS = [300, pytest.param(4000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("layer", ["file", "inside"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_damaged_file_gives_a_corpus_or_the_error(tmp_path, kind, layer, count):
    path = tmp_path / "file"
    content, write = layers(kind, path)[layer]
    chance = random.Random(f"{kind} {layer} {count}")
    outcomes = {"read": 0, "skipped": 0, "refused": 0}
    for _ in range(count):
        write(mutated(chance, content))
        messages = []
        try:
            corpus = read(path, malformed="skip")
            outcomes["read"] += len(corpus)
            outcomes["skipped"] += len(corpus.skipped)
            messages += corpus.skipped
        except StrokeFileError as error:
            outcomes["refused"] += 1
            messages.append(str(error))
        with suppress(StrokeFileError):
            read(path)
        for message in messages:
            assert message.startswith(str(path))
            assert message.isprintable()
            assert len(message) < len(str(path)) + 420
    assert outcomes["read"] > 0
    assert outcomes["skipped" if layer == "inside" else "refused"] > 0
