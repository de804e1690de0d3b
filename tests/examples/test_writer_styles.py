"""Styles of writers: how the model scales, what the guide reads, and what a style is worth."""

import argparse
import zipfile

import pyro
import pytest
import torch
from pyro import poutine

SIZES = argparse.Namespace(hidden_size=8, components=3, style_size=2)


@pytest.fixture
def example(script):
    return script("writer_styles")


@pytest.fixture
def styles(example):
    return example.Styles(SIZES, writers=30, drawings=20).double()


def batch(writers=3, drawings=4, time=6):
    points = torch.randn(writers, drawings, time, 3, dtype=torch.float64)
    points[..., 2] = (points[..., 2] > 0).double()
    mask = torch.ones(writers, drawings, time, dtype=torch.bool)
    mask[0, 1, 4:] = False
    return points, mask


def test_a_batch_stands_for_all_drawings_of_all_writers(styles):
    points, mask = batch()
    style = torch.randn(3, 1, 2, dtype=torch.float64)
    model = poutine.condition(styles.model, {"style": style})
    trace = poutine.trace(model).get_trace((points, mask), (points, mask))
    expected = 0.0
    for writer in range(3):
        for drawing, kept in zip(points[writer], mask[writer], strict=True):
            each = drawing[kept]
            predicted, _ = styles.network(each[None, :-1], style[writer])
            expected += predicted.log_prob(each[None, 1:]).sum()
    trace.compute_log_prob()
    torch.testing.assert_close(
        trace.nodes["points"]["log_prob_sum"], expected * (30 / 3) * (20 / 4)
    )
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(
        trace.nodes["style"]["log_prob_sum"], normal.log_prob(style).sum() * (30 / 3)
    )


def test_the_guide_reads_what_is_shown_and_not_what_is_scored(styles):
    shown, scored = batch(), batch()
    nodes = poutine.trace(styles.guide).get_trace(shown, scored).nodes
    again = poutine.trace(styles.guide).get_trace(shown, batch()).nodes
    loc = nodes["style"]["fn"].base_dist.loc
    assert loc.shape == (3, 1, 2)
    torch.testing.assert_close(again["style"]["fn"].base_dist.loc, loc, rtol=0, atol=0)


def test_padding_is_no_part_of_a_style(styles):
    points, mask = batch()
    other = points.clone()
    other[~mask] = 7.0
    torch.testing.assert_close(styles.encoder(points, mask).loc, styles.encoder(other, mask).loc)


def test_a_hand_steps_as_the_network_runs(example, styles):
    points, _ = batch(1)
    style = torch.randn(2, dtype=torch.float64)
    whole, _ = styles.network(points[0], style.expand(4, -1))
    hand = example.Hand(styles.network, style)
    state = hand.initial_state(4)
    for t in range(5):
        stepped, state = hand.step(points[0, :, t], state)
        target = points[0, :, t + 1]
        torch.testing.assert_close(
            stepped.log_prob(target), whole.log_prob(target.unsqueeze(1))[:, t]
        )


def test_writers_are_told_by_alphabet_and_number_and_held_out_in_each(example, tmp_path):
    path = tmp_path / "strokes.zip"
    text = "START\n1,-2,0\n2,-1,40\n3,0,60\nBREAK\n5,5,900\nBREAK\n"
    with zipfile.ZipFile(path, "w") as archive:
        for alphabet in ("Greek", "Latin"):
            for name in ("character01/0001", "character02/0002"):
                for writer in range(1, 11):
                    archive.writestr(f"set/{alphabet}/{name}_{writer:02}.txt", text)
        archive.writestr("set/Latin/character01/0001_99.txt", text)
    writers = example.load(argparse.Namespace(data=path, seed=0))
    assert len(writers) == 21
    assert all(len(each) == 2 for name, each in writers.items() if name != "Latin/99")
    kept, held_out = example.split(writers, torch.Generator().manual_seed(0))
    assert len(kept.keys() | held_out.keys()) == 20
    assert not kept.keys() & held_out.keys()
    assert sorted(name.split("/")[0] for name in held_out) == ["Greek"] * 2 + ["Latin"] * 2


def test_a_file_without_writers_is_refused(refused, tmp_path):
    path = tmp_path / "drawings.ndjson"
    path.write_text('{"word": "cat", "drawing": [[[7, 8], [1, 3]]]}')
    line = refused("writer_styles", "--data", path, "--out", tmp_path / "out")
    assert "--data needs a file that knows its writers" in line


def run(example, out, monkeypatch, capsys, *options):
    monkeypatch.setattr("sys.argv", ["writer_styles.py", "--out", str(out), *options])
    example.main()
    assert all((out / f"styles.{suffix}").stat().st_size > 1000 for suffix in ("svg", "png"))
    assert not pyro.get_param_store().keys()
    lines = capsys.readouterr().out.splitlines()
    return [float(line.split()[-1]) for line in lines if " style " in line]


def test_a_short_run_prints_three_scores_and_draws_a_picture(
    example, tmp_path, monkeypatch, capsys
):
    small = ["--writers", "6", "--words", "2", "--hidden-size", "8", "--components", "2"]
    scores = run(example, tmp_path, monkeypatch, capsys, *small, "--steps", "2")
    assert len(scores) == 3
    assert all(abs(score) < 10 for score in scores)


@pytest.mark.slow
def test_the_inferred_style_scores_best(example, tmp_path, monkeypatch, capsys):
    data = ["--writers", "40", "--words", "12", "--batch-writers", "6", "--drawings", "4"]
    network = ["--hidden-size", "64", "--learning-rate", "0.01", "--steps", "500"]
    inferred, mean, another = run(example, tmp_path, monkeypatch, capsys, *data, *network)
    assert inferred < mean - 0.2
    assert inferred < another - 0.2
