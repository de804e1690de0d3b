"""The lines and dots of a page are those of the drawings, each in a cell of its size."""

import itertools
import math
from xml.etree import ElementTree as ET

import pytest
import torch
from scribbles import SVG, drawn_segments, expected_segments, scribble

from mdn_dist import plotting


def lone_points(drawing):
    flags = [1.0, *drawing[:-1, 2].tolist(), 1.0]
    return sum(flags[t] == 1 == flags[t + 1] for t in range(len(drawing)))


@pytest.mark.parametrize("seed", range(10))
def test_lines_run_between_points_unless_the_pen_was_lifted(seed):
    drawing = scribble(length=1 + 4 * seed, seed=seed)
    axes = plotting.strokes([drawing]).axes[0]
    assert drawn_segments(axes) == expected_segments(drawing)
    dots = axes.lines[1].get_xydata() if len(axes.lines) > 1 else []
    assert len(dots) == lone_points(drawing)


def test_svg_holds_one_path_a_drawing_with_one_move_a_stroke(tmp_path):
    drawings = [scribble(40, seed) for seed in range(3)]
    plotting.strokes(drawings, path=tmp_path / "page.svg")
    root = ET.parse(tmp_path / "page.svg").getroot()
    lines = [group for group in root.iter(f"{SVG}g") if group.get("id", "").startswith("line2d")]
    paths = [path.get("d") for group in lines for path in group.findall(f"{SVG}path")]
    dots = [use for group in lines for use in group.iter(f"{SVG}use")]
    strokes = [int(drawing[:-1, 2].sum()) + 1 - lone_points(drawing) for drawing in drawings]
    assert [path.count("M") for path in paths] == strokes
    assert len(dots) == sum(map(lone_points, drawings))


def test_mask_hides_padding_whatever_it_holds():
    drawings = torch.stack([scribble(20, 0), scribble(20, 1)])
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1, 12:] = False
    drawings[1, 12:] = math.nan
    axes = plotting.strokes(drawings, mask=mask).axes
    assert drawn_segments(axes[0]) == expected_segments(drawings[0])
    assert drawn_segments(axes[1]) == expected_segments(drawings[1, :12])


def test_cells_take_the_size_of_their_content_at_one_scale():
    wide = torch.tensor([[0.0, 0.0, 0.0], [20.0, 2.0, 1.0]])
    square = torch.tensor([[0.0, 0.0, 0.0], [2.0, 2.0, 1.0]])
    figure = plotting.strokes([wide, wide], columns=1)
    page = figure.get_size_inches()
    assert page[0] > 3 * page[1]
    page = plotting.strokes([square] * 4, columns=2).get_size_inches()
    assert page[0] == pytest.approx(page[1])
    for axes in plotting.strokes([wide, square], columns=2).axes:
        box = axes.get_position()
        size = axes.figure.get_size_inches()
        units = (axes.get_xlim()[1] - axes.get_xlim()[0], axes.get_ylim()[1] - axes.get_ylim()[0])
        inches = (box.width * size[0], box.height * size[1])
        assert inches[0] / units[0] == pytest.approx(inches[1] / units[1])


def test_cells_and_titles_lie_on_the_page_row_by_row_and_apart():
    drawings = [scribble(20, seed) for seed in range(5)]
    figure = plotting.strokes(drawings, titles=[f"title {k}" for k in range(5)], columns=2)
    cells = [axes.get_position() for axes in figure.axes]
    to_page = figure.transFigure.inverted()
    titles = [text.get_window_extent().transformed(to_page) for text in figure.texts]
    for box in cells + titles:
        assert 0 < box.x0 < box.x1 < 1
        assert 0 < box.y0 < box.y1 < 1
    assert not any(one.overlaps(other) for one, other in itertools.combinations(cells + titles, 2))
    for cell, title in zip(cells, titles, strict=True):
        assert cell.y1 < title.y0 < cell.y1 + 0.2 / figure.get_size_inches()[1]
    assert cells[0].x0 == cells[2].x0 == cells[4].x0 < cells[1].x0 == cells[3].x0
    assert cells[0].y0 == cells[1].y0 > cells[2].y0 == cells[3].y0 > cells[4].y0


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_drawing_without_extent_is_drawn(length, tmp_path):
    points = torch.zeros(length, 3)
    figure = plotting.strokes([points], path=tmp_path / "page.png")
    assert len(figure.axes) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drawings": torch.zeros(4, 3)}, r"drawings must have shape \(B, T, 3\), got \(4, 3\)"),
        ({"drawings": [torch.zeros(4, 5)]}, r"drawings\[0\] must have shape .*got \(4, 5\)"),
        ({"drawings": []}, "at least one drawing"),
        ({"drawings": torch.full((1, 2, 3), math.inf)}, r"drawings\[0\] must be finite"),
        ({"mask": torch.ones(1, 3, dtype=torch.bool)}, r"mask must be bool of shape \(1, 4\)"),
        ({"mask": torch.ones(1, 4)}, "got torch.float32"),
        ({"drawings": [torch.zeros(4, 3)], "mask": torch.ones(1, 4)}, "mask belongs to a batch"),
        ({"titles": ["a", "b"]}, "expected 1, got 2"),
        ({"columns": 0}, "columns must be at least 1, got 0"),
        ({"path": "page.jpeg"}, r"path must end in \.svg or \.png, got 'page\.jpeg'"),
        ({"path": ["page.svg", "page"]}, "got 'page'"),
    ],
)
def test_strokes_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        plotting.strokes(**{"drawings": torch.zeros(1, 4, 3)} | arguments)
