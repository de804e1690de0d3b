"""Flags to Sketch-RNN's pen states and back."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdn_dist import StrokeDistribution
from mdn_dist.data import (
    from_pen_states,
    read_omniglot,
    read_sketch_rnn,
    to_absolute,
    to_pen_states,
)

# Two strokes, the second a dot, written out by hand.
POINTS = [[0.0, 0.0, 0.0], [1.0, -2.0, 0.0], [0.5, 4.0, 1.0], [7.0, 7.0, 1.0]]
EVENTS = [
    [0.0, 0.0, 1.0, 0.0, 0.0],
    [1.0, -2.0, 1.0, 0.0, 0.0],
    [0.5, 4.0, 0.0, 1.0, 0.0],
    [7.0, 7.0, 0.0, 1.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 1.0],
]
END = EVENTS[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_drawing_by_hand_there_and_back(dtype):
    points, events = torch.tensor(POINTS, dtype=dtype), torch.tensor(EVENTS, dtype=dtype)
    for given_, made in [(events, to_pen_states(points)), (points, from_pen_states(events))]:
        assert made.dtype == dtype
        assert torch.equal(made, given_)


@pytest.mark.parametrize(
    "after",
    [[END], [END] * 3, [END, [9.0, 9, 1, 0, 0]], [END, [0.0] * 5], [END, [torch.nan] * 5]],
    ids=["the end", "ends", "points", "zeros", "nan"],
)
def test_what_follows_the_end_is_left_out(after):
    assert from_pen_states(torch.tensor(EVENTS[:-1] + after)).tolist() == POINTS


def test_a_sequence_that_was_cut_off_is_taken_whole():
    assert from_pen_states(torch.tensor(EVENTS[:2])).tolist() == POINTS[:2]
    assert to_pen_states(torch.tensor(POINTS[:2])).tolist() == [*EVENTS[:2], END]


def rendered(events):
    """The lines that section 3.1 of Ha and Eck has drawn, a row at a time."""
    position, lines, pen_is_down = np.zeros(2), [], False
    for dx, dy, p1, _, p3 in events:
        if p3:
            break
        start, position = position, position + np.array([dx, dy])
        if pen_is_down:
            lines.append((*start, *position))
        pen_is_down = p1 == 1
    return lines


@given(st.integers(0, 999), st.integers(1, 12))
@settings(max_examples=30)
def test_the_paper_renders_the_strokes(seed, length):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randint(-9, 9, (length, 3), generator=generator).double()
    points[:, 2] = torch.randint(2, (length,), generator=generator)
    places = to_absolute(points).tolist()
    expected = [(*start[:2], *stop[:2]) for start, stop in pairwise(places) if not start[2]]
    assert rendered(to_pen_states(points).tolist()) == expected
    assert torch.equal(from_pen_states(to_pen_states(points)), points)


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda path: read_sketch_rnn(path, "test"), "sketch_rnn/omniglot.npz"),
        (lambda path: read_omniglot(path, limit=300), "omniglot/strokes_background_small1.zip"),
    ],
    ids=["sketch-rnn", "omniglot"],
)
def test_real_drawings_there_and_back(real_file, read, name):
    for drawing in read(real_file(name)):
        events = to_pen_states(drawing.points)
        assert events.shape == (len(drawing.points) + 1, 5)
        assert torch.equal(events[:, 2:].sum(1), torch.ones(len(events)))
        assert torch.equal(from_pen_states(events), drawing.points)


def test_the_rows_are_events_of_a_distribution():
    distribution = StrokeDistribution.from_outputs(torch.zeros(5, 6 * 2 + 3), 2, pen="one_hot")
    distribution = StrokeDistribution(distribution.offset, distribution.pen, validate_args=True)
    events = to_pen_states(torch.tensor(POINTS))
    assert distribution.log_prob(events).shape == (5,)
    assert len(from_pen_states(torch.cat([events[:1], distribution.sample()]))) >= 1


def test_gradients_go_through_the_offsets():
    points = torch.tensor(POINTS, requires_grad=True)
    from_pen_states(to_pen_states(points))[:, :2].sum().backward()
    assert points.grad.tolist() == [[1.0, 1.0, 0.0]] * 4


@pytest.mark.parametrize(
    ("points", "match"),
    [
        (torch.zeros(3), r"points must have shape \(\.\.\., T, 3\), got \(3,\)"),
        (torch.zeros(0, 3), "T >= 1"),
        (torch.zeros(2, 4, 3), r"shape \(T, 3\) with T >= 1, got \(2, 4, 3\)"),
        (torch.tensor(EVENTS), r"got \(5, 5\)"),
        (torch.zeros(1, 3).int(), "points must be floating point, got torch.int32"),
        (torch.full((1, 3), 0.5), r"flags points\[:, 2\] must be 0 or 1"),
        (torch.tensor([[0.0, 0.0, torch.nan]]), r"flags points\[:, 2\] must be 0 or 1"),
    ],
)
def test_points_that_are_none(points, match):
    with pytest.raises(ValueError, match=match):
        to_pen_states(points)


@pytest.mark.parametrize(
    ("events", "match"),
    [
        (torch.zeros(5), r"events must have shape \(T, 5\), got \(5,\)"),
        (torch.tensor(POINTS), r"events must have shape \(T, 5\), got \(4, 3\)"),
        (torch.zeros(2, 4, 5), r"got \(2, 4, 5\)"),
        (torch.zeros(1, 5).int(), "events must be floating point, got torch.int32"),
        (torch.zeros(0, 5), "a point before the end of the drawing, got none"),
        (torch.tensor([END, EVENTS[0]]), "a point before the end of the drawing, got none"),
        (torch.zeros(1, 5), "must be one-hot"),
        (torch.tensor([[0.0, 0, 1, 1, 0]]), "must be one-hot"),
        (torch.tensor([[0.0, 0, 0.5, 0.5, 0]]), "must be one-hot"),
        (torch.tensor([[0.0, 0, 2, -1, 0]]), "must be one-hot"),
        (torch.tensor([[0.0, 0, torch.nan, 1, 0]]), "must be one-hot"),
        (torch.tensor([EVENTS[0], [0.0, 0, 0, 1, 1]]), "must be one-hot"),
        (torch.tensor([EVENTS[0], [0.0, 0, 0, 0, 0.9]]), "must be one-hot"),
    ],
)
def test_events_that_are_none(events, match):
    with pytest.raises(ValueError, match=match):
        from_pen_states(events)
