import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdn_dist.data import (
    Drawing,
    Normalization,
    collate,
    dequantize,
    from_pen_states,
    from_polylines,
    polylines,
    resample,
    to_absolute,
    to_offsets,
    to_pen_states,
)


def random_points(seed, lengths, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(sum(lengths), 3, generator=generator, dtype=dtype)
    points[:, 2] = 0
    points[torch.tensor(lengths).cumsum(0) - 1, 2] = 1
    return points


lengths = st.lists(st.integers(1, 7), min_size=1, max_size=6)


@given(st.integers(0, 999), st.lists(st.integers(1, 3), max_size=2))
@settings(max_examples=30)
def test_offsets_and_positions_undo_each_other_exactly_on_a_lattice(seed, batch):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randint(-300, 300, (*batch, 11, 3), generator=generator).float() / 8
    assert torch.equal(to_offsets(to_absolute(points)), points)
    assert torch.equal(to_absolute(to_offsets(points)), points)


def test_absolute_positions_do_not_gather_rounding():
    points = torch.tensor([0.1, -0.1, 0.0]).expand(100_000, 3)
    exact = points[:, :2].double().cumsum(0)
    assert torch.equal(to_absolute(points)[:, :2], exact.float())


@given(st.integers(0, 999), lengths)
@settings(max_examples=30)
def test_polylines_split_where_the_flags_are_and_join_again(seed, lengths):
    points = random_points(seed, lengths, torch.float64)
    strokes = polylines(points)
    assert [len(stroke) for stroke in strokes] == lengths
    torch.testing.assert_close(from_polylines(strokes), points, rtol=0, atol=1e-13)
    # An independent walk over the rows.
    x, walked = torch.zeros(2, dtype=torch.float64), []
    for row in points:
        x = x + row[:2]
        walked.append(x)
    torch.testing.assert_close(torch.cat(strokes), torch.stack(walked), rtol=0, atol=1e-13)


def test_points_after_the_last_flag_are_one_more_stroke():
    points = torch.tensor([[0.0, 0, 1], [1, 0, 0], [1, 0, 0]])
    assert [len(stroke) for stroke in polylines(points)] == [1, 2]
    assert from_polylines(polylines(points))[-1, 2] == 1


@pytest.mark.parametrize(
    ("function", "argument", "error", "match"),
    [
        (to_absolute, torch.zeros(3), ValueError, r"\(\.\.\., T, 3\), got \(3,\)"),
        (to_absolute, torch.zeros(2, 3).int(), ValueError, "floating point, got torch.int32"),
        (to_absolute, [[0, 0, 1]], TypeError, "Tensor, got list"),
        (to_offsets, torch.zeros(4, 2), ValueError, r"absolute .* got \(4, 2\)"),
        (polylines, torch.zeros(0, 3), ValueError, "T >= 1"),
        (polylines, torch.zeros(2, 2, 3), ValueError, r"\(T, 3\)"),
        (from_polylines, [], ValueError, "at least one stroke"),
        (from_polylines, [torch.zeros(1, 2), torch.zeros(0, 2)], ValueError, r"strokes\[1\]"),
        (from_polylines, [torch.zeros(1, 2).int()], ValueError, "floating point"),
        (collate, [], ValueError, "at least one drawing"),
        (collate, [torch.zeros(2)], ValueError, r"items\[0\]"),
        (collate, [torch.zeros(1, 3), torch.zeros(1, 3).double()], ValueError, "one dtype"),
    ],
)
def test_errors_name_the_argument(function, argument, error, match):
    with pytest.raises(error, match=match):
        function(argument)


END = torch.tensor([[0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"points": END.numpy()}, TypeError, "points must be a torch.Tensor"),
        ({"points": END[0]}, ValueError, r"got \(3,\)"),
        ({"points": END[:0]}, ValueError, "T >= 1"),
        ({"points": END.double()}, ValueError, "float32, got torch.float64"),
        ({"points": END * torch.tensor([torch.nan, 1, 1])}, ValueError, "finite"),
        ({"points": END / 2}, ValueError, "0 or 1"),
        ({"points": END * 0}, ValueError, "last point must end a stroke"),
        ({"points": END, "label": None}, TypeError, "label must be a str, got NoneType"),
        ({"points": END, "writer": 7}, TypeError, "writer must be a str, got int"),
        ({"points": END, "source": Path()}, TypeError, "source must be a str, got PosixPath"),
        ({"points": END, "countrycode": None}, TypeError, "countrycode must be a str"),
        ({"points": END, "recognized": 1}, TypeError, "recognized must be a bool or None, got int"),
        ({"points": END, "times": [0.0]}, TypeError, "times must be a torch.Tensor"),
        ({"points": END, "times": torch.zeros(2)}, ValueError, r"times must have shape \(1,\)"),
        ({"points": END, "times": torch.zeros(1).double()}, ValueError, "times must be float32"),
        ({"points": END, "times": torch.tensor([torch.inf])}, ValueError, "times must be finite"),
        ({"points": END, "times": torch.ones(1)}, ValueError, r"times\[0\] = 0"),
    ],
)
def test_a_drawing_checks_its_format(arguments, error, match):
    with pytest.raises(error, match=match):
        Drawing(**arguments)


NORMALIZATION = Normalization(torch.zeros(2), torch.ones(2))
# Where a tensor is due: the parameter's name, and a call with another value in its place.
TENSORS = {
    "to_absolute": ("points", to_absolute),
    "to_offsets": ("absolute", to_offsets),
    "polylines": ("points", polylines),
    "to_pen_states": ("points", to_pen_states),
    "from_pen_states": ("events", from_pen_states),
    "from_polylines": ("strokes[0]", lambda value: from_polylines([value])),
    "collate": ("items[1]", lambda value: collate([END, value])),
    "resample": ("points", lambda value: resample(value, 1.0)),
    "resample along": ("along", lambda value: resample(END, 1.0, along=value)),
    "dequantize": ("points", lambda value: dequantize(value, 1.0)),
    "Normalization loc": ("loc", lambda value: Normalization(value, torch.ones(2))),
    "Normalization scale": ("scale", lambda value: Normalization(torch.zeros(2), value)),
    "fit": ("drawings[0]", lambda value: Normalization.fit([value])),
    "normalize": ("points", NORMALIZATION.normalize),
    "denormalize": ("points", NORMALIZATION.denormalize),
    "Drawing": ("points", Drawing),
    "Drawing times": ("times", lambda value: Drawing(END, times=[value])),
}


@pytest.mark.parametrize("value", [END.numpy(), END.tolist(), 1.0, "points"], ids=type)
@pytest.mark.parametrize(("name", "call"), TENSORS.values(), ids=TENSORS)
def test_what_is_no_tensor_is_named(name, call, value):
    with pytest.raises(TypeError, match=f"^{re.escape(name)} must be a torch.Tensor, got "):
        call(value)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (from_polylines, "strokes must be tensors"),
        (collate, "items must be drawings or stroke points, got"),
        (Normalization.fit, "drawings must be drawings or stroke points, got"),
        (Normalization.from_dict, "values must be a mapping, got"),
    ],
)
@pytest.mark.parametrize("value", [5, Drawing(END), torch.tensor(1.0)], ids=type)
def test_what_holds_nothing_is_named(call, match, value):
    with pytest.raises(TypeError, match=f"^{match}"):
        call(value)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("spacing", lambda value: resample(END, value)),
        ("step", lambda value: dequantize(END, value)),
    ],
)
def test_what_is_no_positive_number_is_named(name, call):
    for value in ("1", None, True, END, 1j):
        with pytest.raises(TypeError, match=f"^{name} must be a number, got "):
            call(value)
    for value in (0, -1.0, float("nan"), float("inf"), 10**400):
        with pytest.raises(ValueError, match=f"^{name} must be positive and finite, got "):
            call(value)
    assert call(np.float32(2)).shape == END.shape


def test_several_may_come_from_any_iterable():
    strokes = [END[:, :2], END[:, :2] + 1]
    assert torch.equal(from_polylines(iter(strokes)), from_polylines(strokes))
    assert torch.equal(collate(iter([END]))[0], END[None])


def test_a_drawing_is_frozen_and_hashable():
    drawing = Drawing(END, label="dot")
    with pytest.raises(AttributeError):
        drawing.label = "line"
    assert {drawing: 1}[drawing] == 1


@pytest.mark.parametrize("padding_value", [0.0, -7.0])
def test_collate_masks_what_it_pads(padding_value):
    rows = [random_points(n, [n]) for n in (3, 1, 5)]
    batch, mask = collate([Drawing(rows[0]), rows[1], Drawing(rows[2])], padding_value)
    assert batch.shape == (3, 5, 3)
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [3, 1, 5]
    assert torch.equal(batch[mask], torch.cat(rows))
    assert (batch[~mask] == padding_value).all()


def test_collate_serves_a_data_loader():
    drawings = [Drawing(random_points(n, [n])) for n in range(1, 6)]
    loader = torch.utils.data.DataLoader(drawings, batch_size=2, collate_fn=collate)
    assert [tuple(batch.shape) for batch, _ in loader] == [(2, 2, 3), (2, 4, 3), (1, 5, 3)]
