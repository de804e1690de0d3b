import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

REAL = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def real_file():
    def find(name):
        path = REAL / name
        if not path.exists():
            pytest.skip(f"the real file {name} is not beside the project")
        return path

    return find


@pytest.fixture
def write_zip(tmp_path):
    def write(members, name="file.zip", compression=zipfile.ZIP_DEFLATED):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", compression) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return path

    return write


def small_omniglot(path):
    text = "START\n1.5,-2,0\n2,-1,40\nBREAK\n5,5,900\nBREAK\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for writer in (1, 2, 3):
            archive.writestr(f"set/Latin/character04/0001_{writer:02}.txt", text)


def small_quickdraw(path):
    raw = {"word": "cat", "drawing": [[[1, 2.5], [3, 9], [0, 17]], [[4], [4], [99]]]}
    simple = {"word": "dog", "drawing": [[[0, 255], [255, 0]]]}
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, [raw, simple, raw])).encode()))


def small_sketch_rnn(path):
    arrays = np.empty(3, dtype=object)
    for index in range(3):
        arrays[index] = np.array([[0, 0, 0], [5, 300, 1], [-7, index, 1]], dtype=np.int16)
    with path.open("wb") as handle:
        np.savez_compressed(handle, train=arrays)


WRITERS = {
    "omniglot": small_omniglot,
    "quickdraw": small_quickdraw,
    "sketch_rnn": small_sketch_rnn,
}


@pytest.fixture(params=WRITERS)
def small_file(request, tmp_path):
    """One valid file of each kind, with three drawings."""
    path = tmp_path / "small"
    WRITERS[request.param](path)
    return request.param, path
