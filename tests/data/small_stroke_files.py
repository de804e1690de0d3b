"""One small valid file of each kind, for tests of reading and for damage."""

import gzip
import json
import zipfile

import numpy as np


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
