"""The guide of a posterior with two modes, as the example trains it."""

import pytest


@pytest.fixture
def results(run, tmp_path):
    """Runs the example and returns what it printed, by letter."""

    def results(*options):
        ended = run("mixture_guide", "--out", tmp_path, *options)
        assert ended.status == 0, ended.err
        assert (tmp_path / "guide.png").stat().st_size > 1000
        lines = [line for line in ended.out.splitlines() if line.startswith("(")]
        return {line[1]: float(line.split()[-2 if line.endswith("nats") else -1]) for line in lines}

    return results


def test_every_point_of_the_grid_is_on_one_side_of_the_road(script):
    height = script("mixture_guide").Grid(0.5).points[:, 1]
    assert (height.abs() > 0.01).all()
    assert (height > 0).sum() == (height < 0).sum()


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "1"])
def test_both_modes_are_covered_within_a_fiftieth_of_a_nat_of_the_best(results, seed):
    found = results("--seed", seed)
    assert found["a"] > found["b"] > found["a"] - 0.05
    assert found["b"] + 1e-3 > found["c"] > found["b"] - 0.02
    assert 0.6 < found["d"] < 0.7
    assert abs(found["e"] - found["d"]) < 0.05


@pytest.mark.slow
def test_one_gaussian_is_far_from_the_evidence(results):
    found = results("--steps", "50", "--components", "1")
    assert found["b"] < found["a"] - 0.2
    assert found["c"] <= found["b"] + 1e-3


@pytest.mark.slow
def test_the_best_is_no_better_than_the_evidence_where_the_grid_is_coarse(results):
    """There a search finds mixtures beside the grid, or between its points, if it may."""
    found = results("--steps", "5", "--noise", "0.1", "--components", "4")
    assert found["c"] <= found["b"] < found["a"] + 1e-3
