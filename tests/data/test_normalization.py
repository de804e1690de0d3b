import json

import numpy as np
import pytest
import torch

from mdn_dist.data import Drawing, Normalization


@pytest.fixture
def drawings():
    generator = torch.Generator().manual_seed(3)
    result = []
    for length in (1, 4, 30):
        points = torch.randn(length, 3, generator=generator) * torch.tensor([3.0, 0.2, 1.0]) + 1
        points[:, 2] = 0
        points[-1, 2] = 1
        result.append(Drawing(points))
    return result


def test_fit_is_the_mean_and_deviation_of_all_rows_but_the_first(drawings):
    rows = np.concatenate([d.points.numpy()[1:, :2] for d in drawings]).astype(np.float64)
    fitted = Normalization.fit(drawings)
    np.testing.assert_allclose(fitted.loc, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(fitted.scale, rows.std(0), rtol=1e-12)
    isotropic = Normalization.fit([d.points for d in drawings], isotropic=True)
    assert isotropic.loc.tolist() == [0, 0]
    np.testing.assert_allclose(isotropic.scale, [np.sqrt((rows**2).mean())] * 2, rtol=1e-12)


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalize_and_denormalize_undo_each_other_on_every_row(drawings, isotropic, dtype):
    fitted = Normalization.fit(drawings, isotropic=isotropic)
    points = drawings[2].points.to(dtype).repeat(2, 1, 1)
    normalized = fitted.normalize(points)
    assert normalized.dtype == dtype
    assert torch.equal(normalized[..., 2], points[..., 2])
    torch.testing.assert_close(fitted.denormalize(normalized), points)
    if not isotropic:
        rows = torch.cat([fitted.normalize(d.points.double())[1:, :2] for d in drawings])
        torch.testing.assert_close(rows.mean(0), torch.zeros(2).double())
        torch.testing.assert_close(rows.std(0, correction=0), torch.ones(2).double())


def test_a_normalization_survives_json_and_text(drawings):
    fitted = Normalization.fit(drawings)
    stored = json.loads(json.dumps(fitted.to_dict()))
    text = {name: str(value) for name, value in stored.items()} | {"other": "kept out"}
    for values in (stored, text):
        again = Normalization.from_dict(values)
        assert torch.equal(again.loc, fitted.loc)
        assert torch.equal(again.scale, fitted.scale)


LINE = torch.tensor([[9.0, 9, 0], [1, 0.1, 0], [2, 0.1, 0], [3, 0.1, 1]])


@pytest.mark.parametrize(
    ("drawings", "match"),
    [
        ([], "none to fit to"),
        ([LINE[:1]], "none to fit to"),
        ([LINE], "vary in each coordinate"),
        (LINE, r"drawings\[0\] must have shape"),
    ],
)
def test_fit_refuses_what_has_no_spread(drawings, match):
    with pytest.raises(ValueError, match=match):
        Normalization.fit(drawings)


def test_an_isotropic_fit_needs_only_some_movement():
    assert Normalization.fit([LINE], isotropic=True).scale[0] > 1
    with pytest.raises(ValueError, match="vary"):
        Normalization.fit([LINE * 0], isotropic=True)


@pytest.mark.parametrize(
    ("loc", "scale", "match"),
    [
        (torch.zeros(3), torch.ones(2), r"loc must have shape \(2,\)"),
        (torch.zeros(2), torch.ones(2).int(), "scale must be finite floating point"),
        (torch.full((2,), torch.nan), torch.ones(2), "loc must be finite"),
        (torch.zeros(2), torch.tensor([1.0, 0.0]), "scale must be positive"),
    ],
)
def test_parameters_are_checked(loc, scale, match):
    with pytest.raises(ValueError, match=match):
        Normalization(loc, scale)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"loc_y": "x"}, "loc_y: could not convert"),
        ({"loc_y": "1_0"}, "loc_y: could not convert"),
        ({"loc_y": " 1"}, "loc_y: could not convert"),
        ({"loc_y": "\uff11"}, "loc_y: could not convert"),
        ({"loc_y": "infinity"}, "loc_y: could not convert"),
        ({"loc_y": "inf"}, "loc must be finite"),
        ({"loc_y": 10**400}, "loc_y: int too large"),
        ({"scale_x": -1.0}, "positive"),
    ],
)
def test_from_dict_refuses_what_is_no_normalization(change, match):
    values = {"loc_x": 0.0, "loc_y": 0.0, "scale_x": 1.0, "scale_y": 1.0}
    with pytest.raises(ValueError, match=match):
        Normalization.from_dict(values | change)
    for value in (None, True, [1.0], b"1"):
        with pytest.raises(TypeError, match="loc_x must be a number or text, got"):
            Normalization.from_dict(values | {"loc_x": value})
    with pytest.raises(ValueError, match="scale_y"):
        Normalization.from_dict({name: values[name] for name in ("loc_x", "loc_y", "scale_x")})
