"""Zip files that are large, damaged or hostile."""

import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from mdn_dist.data import StrokeFileError, read, read_omniglot, read_sketch_rnn
from mdn_dist.data import archive as archive_module

TEXT = "START\n1.5,-2,100\n2,-1,140\nBREAK\n"


def omniglot_names(count):
    return [f"set/Latin/character{index:02}/0001_01.txt" for index in range(count)]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_member_may_be_larger_than_a_zip_directory(tmp_path, save):
    points = np.zeros((28_334, 100, 3), np.int16)
    points[:, -1, 2] = 1
    points[-1, -1, :2] = 7, -9
    save(tmp_path / "own.npz", train=points)
    if save is np.savez:
        assert (tmp_path / "own.npz").stat().st_size > 1.01 * archive_module._MAX_DIRECTORY_BYTES
    for reader in (read, read_sketch_rnn):
        assert len(reader(tmp_path / "own.npz", limit=3)) == 3


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_is_read_whole_in_pieces(write_zip, monkeypatch, compression):
    monkeypatch.setattr(archive_module, "_PIECE_BYTES", 100)
    path = write_zip({omniglot_names(1)[0]: TEXT + TEXT[6:] * 50}, compression=compression)
    (drawing,) = read_omniglot(path)
    assert len(drawing.points) == 102


def test_a_large_directory_is_refused_before_it_is_read(write_zip, monkeypatch):
    path = write_zip(dict.fromkeys(omniglot_names(20), TEXT))
    monkeypatch.setattr(archive_module, "_MAX_DIRECTORY_BYTES", 1000)
    with pytest.raises(StrokeFileError, match="zip directory above 1000 bytes"):
        read(path)


def change_directory(path, **fields):
    """Overwrite fields of every entry of a zip's directory."""
    places = {"compressed": (20, "<I"), "size": (24, "<I"), "offset": (42, "<I")}
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02")
    while entry >= 0:
        for name, value in fields.items():
            place, kind = places[name]
            struct.pack_into(kind, content, entry + place, value)
        entry = content.find(b"PK\x01\x02", entry + 1)
    path.write_bytes(content)
    return path


def test_members_that_share_bytes_are_refused(write_zip):
    for fields in ({"offset": 0}, {"compressed": 150}):
        path = write_zip(dict.fromkeys(omniglot_names(3), TEXT))
        assert len(read(path)) == 3
        with pytest.raises(StrokeFileError, match="two members of the zip file share bytes"):
            read(change_directory(path, **fields), malformed="skip")


def test_no_more_is_read_of_a_member_than_its_directory_promises(write_zip):
    path = change_directory(write_zip({omniglot_names(1)[0]: TEXT}), size=len("START\n1,"))
    with archive_module.open_archive(path, 100) as archive:
        with pytest.raises(ValueError, match="CRC"):
            archive.read(archive.members[0], 100)
        archive.members[0].CRC = zlib.crc32(TEXT[:8].encode())
        assert archive.read(archive.members[0], 100) == TEXT[:8].encode()


def test_damaged_members_count_towards_max_bytes(write_zip):
    path = write_zip(dict.fromkeys(omniglot_names(3), TEXT), compression=zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"START", b"STURT"))
    corpus = read(path, max_bytes=3 * len(TEXT), malformed="skip")
    assert len(corpus.skipped) == 3
    assert "CRC" in corpus.skipped[0]
    with pytest.raises(StrokeFileError, match="more than max_bytes"):
        read(path, max_bytes=3 * len(TEXT) - 1, malformed="skip")


def test_a_zip_bomb_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("train.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(270):
            member.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(StrokeFileError, match=r"train\.npy: more than 268435456 bytes"):
            read_sketch_rnn(path)
        with pytest.raises(StrokeFileError, match="more than max_bytes = 1000 bytes"):
            read_sketch_rnn(path, max_bytes=1000)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
