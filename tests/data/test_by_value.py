"""Drawings and corpora travel to other processes by value."""

import copy
import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from mdn_dist.data import Corpus, Drawing, Normalization

POINTS = torch.tensor([[0.0, 0, 0], [1, 2, 1], [3, 4, 1]])


def drawing():
    times = torch.tensor([0.0, 0.5, 0.7])
    return Drawing(POINTS.clone(), "cat", "me", "file: line 1", times, "DE", recognized=True)


def by_forking_pickler(value):
    return pickle.loads(ForkingPickler.dumps(value))


COPIES = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "oldest pickle": lambda value: pickle.loads(pickle.dumps(value, protocol=0)),
    "worker": by_forking_pickler,
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_has_the_same_fields(copied):
    one, other = drawing(), copied(drawing())
    assert type(other) is Drawing
    assert torch.equal(one.points, other.points)
    assert torch.equal(one.times, other.times)
    for name in ("label", "writer", "source", "countrycode", "recognized"):
        assert getattr(one, name) == getattr(other, name)
    assert copied(Drawing(POINTS)).times is None
    with pytest.raises(AttributeError):
        other.label = "dog"
    corpus = copied(Corpus((one,), ("line 2: bad",)))
    assert torch.equal(corpus[0].points, POINTS)
    assert corpus.skipped == ("line 2: bad",)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_copy_of_a_normalization_keeps_its_dtype(copied, dtype):
    one = Normalization(torch.tensor([1.0, 2.0], dtype=dtype), torch.ones(2, dtype=dtype))
    other = copied(one)
    assert torch.equal(one.loc, other.loc)
    assert other.scale.dtype == dtype


def test_a_part_of_a_tensor_travels_without_the_rest():
    whole = torch.cat([POINTS, POINTS], dim=1).repeat(100_000, 1).requires_grad_()
    one = Drawing(whole[:6:2, :3], times=whole.detach()[:3, 0])
    assert len(pickle.dumps(one)) < 1000
    other = by_forking_pickler(one)
    assert torch.equal(other.points, one.points)
    assert torch.equal(other.times, one.times)
    assert not other.points.requires_grad


def test_nothing_is_moved_to_shared_memory():
    corpus = Corpus((drawing(),))
    normalization = Normalization(torch.zeros(2), torch.ones(2))
    ForkingPickler.dumps((corpus, normalization))
    tensors = [corpus[0].points, corpus[0].times, normalization.loc, normalization.scale]
    assert [tensor.is_shared() for tensor in tensors] == [False] * 4
    ForkingPickler.dumps(tensors)
    assert all(tensor.is_shared() for tensor in tensors)  # as torch sends tensors


LOADER = """
import resource
import sys

import torch

from mdn_dist.data import Corpus, Drawing, collate

if __name__ == "__main__":
    points = torch.tensor([[0.0, 0, 0], [1, 2, 1]])
    corpus = Corpus(tuple(Drawing(points * 1, times=points[:, 1] * 1) for _ in range(500)))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    loader = torch.utils.data.DataLoader(
        corpus, 50, num_workers=1, collate_fn=collate, multiprocessing_context=sys.argv[1]
    )
    print(sum(int(mask.sum()) for _, mask in loader))
"""


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_take_a_corpus_with_few_file_descriptors(tmp_path, context):
    pytest.importorskip("resource")
    script = tmp_path / "loader.py"
    script.write_text(LOADER)
    command = [sys.executable, str(script), context]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1000"], done.stderr[-2000:]
