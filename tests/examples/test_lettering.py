"""The synthetic lettering of the examples: its format, its repeatability, its variety."""

import numpy as np
import pytest
import torch


@pytest.fixture
def examples(script):
    return script("lettering")


@pytest.fixture
def lines(examples):
    return examples.texts_and_lines(40, seed=1)


def test_the_same_seed_gives_the_same_lines(examples):
    first, again = examples.lettering(6, seed=3), examples.lettering(4, seed=3)
    for one, other in zip(first, again, strict=False):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    other = examples.lettering(6, seed=4)
    assert all(
        one.shape != two.shape or (one != two).any() for one, two in zip(first, other, strict=True)
    )


def test_lines_are_stroke_points(lines):
    for _, line in lines:
        assert line.dtype == torch.float32
        assert line.shape[1:] == (3,)
        assert line.isfinite().all()
        assert set(line[:, 2].tolist()) == {0.0, 1.0}
        assert line[0, :2].tolist() == [0.0, 0.0]
        assert line[-1, 2] == 1.0


def test_the_pen_is_lifted_once_a_glyph_stroke(examples):
    rng = np.random.default_rng(0)
    for seed in range(20):
        writer = examples.Writer.draw(np.random.default_rng(seed))
        shapes = examples.face_glyphs(writer.face)
        text = " ".join(rng.choice(examples.WORDS, size=3))
        strokes = sum(len(shapes[character].strokes) for character in text)
        assert int(writer.write(text, rng)[:, 2].sum()) == strokes


def test_every_letter_of_every_face_can_be_written(examples):
    rng = np.random.default_rng(0)
    writers = [examples.Writer.draw(np.random.default_rng(seed)) for seed in range(10)]
    assert {writer.face for writer in writers} == set(examples.FACES)
    for writer in writers:
        assert writer.write("the quick brown fox jumps over a lazy dog", rng).isfinite().all()


def test_sizes_are_sane(lines):
    for text, line in lines:
        letters = len(text.replace(" ", ""))
        assert 5 < len(line) / letters < 25
        places = line[:, :2].cumsum(0)
        width, height = (places.amax(0) - places.amin(0)).tolist()
        assert 0.4 < width / len(text) < 2.5
        assert 0.7 < height < 7.0
        within = line[1:][line[:-1, 2] == 0, :2]
        assert within.norm(dim=-1).amax() < 2.5  # no jump without a lifted pen
    assert 110 < np.median([len(line) for _, line in lines]) < 220


def test_writers_and_letters_differ(examples):
    writers = {examples.Writer.draw(np.random.default_rng(seed)) for seed in range(50)}
    assert len(writers) == 50
    rng = np.random.default_rng(0)
    writer = next(iter(writers))
    first, second = writer.write("noon", rng), writer.write("noon", rng)
    assert first.shape != second.shape or (first != second).any()


def test_the_pen_moves_evenly_in_time_and_slows_at_the_ends(examples):
    stem = examples.sampled("futural", "l", 0, 13)
    steps = np.hypot(*np.diff(stem, axis=0).T)
    assert max(steps[0], steps[-1]) < 0.8 * steps[6]
    assert np.abs(np.diff(steps)).max() < 0.5 * steps.max()


def test_a_page_can_be_drawn(examples, tmp_path, monkeypatch):
    page = tmp_path / "page.png"
    monkeypatch.setattr("sys.argv", ["lettering.py", "--out", str(page), "--lines", "3"])
    examples.main()
    assert page.stat().st_size > 1000
