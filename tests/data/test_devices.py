"""Where tensors are: a device without float64, and another default device."""

import pytest
import torch
from small_stroke_files import WRITERS
from without_float64 import MPS, OnMPS, WithoutFloat64

from mdn_dist.data import (
    Drawing,
    Normalization,
    collate,
    dequantize,
    from_pen_states,
    from_polylines,
    polylines,
    read,
    read_quickdraw,
    resample,
    to_absolute,
    to_offsets,
    to_pen_states,
    write_quickdraw,
)

POINTS = torch.tensor([[0.0, 0, 0], [0.1, 4, 1], [1, 1, 0], [5, 5, 1]])
ALONG = torch.tensor([0.0, 0.3, 0.5, 1.1])
FITTED = Normalization.fit([POINTS])

TRANSFORMS = {
    "to_absolute": to_absolute,
    "to_offsets": to_offsets,
    "polylines": lambda points: torch.cat(polylines(points)),
    "from_polylines": lambda points: from_polylines(polylines(points)),
    "to_pen_states": to_pen_states,
    "from_pen_states": lambda points: from_pen_states(to_pen_states(points)),
    "resample": lambda points: resample(points, 0.7),
    "resample along": lambda points: resample(points, 0.1, along=ALONG.to(points.device)),
    "fit": lambda points: torch.stack(list(vars(Normalization.fit([points])).values())),
    "isotropic": lambda points: Normalization.fit([points], isotropic=True).scale,
    "normalize": FITTED.normalize,
    "denormalize": FITTED.denormalize,
    "fitted there": lambda points: Normalization.fit([points]).normalize(points),
    "collate": lambda points: collate([points, Drawing(points)])[0],
}


def test_the_stand_in_refuses_float64_and_nothing_else():
    with WithoutFloat64():
        points = POINTS.to(MPS)
        assert points.device == (points + 1).device == torch.zeros(2, device=MPS).device == MPS
        assert type(points.cpu()) is torch.Tensor
        assert torch.equal((2 * points).cpu(), 2 * POINTS)
        for call in (
            points.double,
            lambda: points.to(torch.float64),
            lambda: points.sum(dtype=torch.float64),
            lambda: POINTS.double().to(MPS),
            lambda: torch.zeros(2, device=MPS, dtype=torch.float64),
            lambda: points.new_zeros(2, dtype=torch.float64),
        ):
            with pytest.raises(TypeError, match="no float64"):
                call()
        with pytest.raises(RuntimeError, match="one device"):
            points + POINTS
        assert POINTS.double().to(points).dtype == torch.float32
        assert POINTS.double().to(points).device == MPS


class WithoutDoubles(torch.Tensor):
    def double(self):
        raise RuntimeError("Required aspect fp64 is not supported on the device")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_a_device_may_refuse_by_another_error():
    points = POINTS.as_subclass(WithoutDoubles)
    assert torch.equal(to_absolute(points), to_absolute(POINTS))


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_stay_on_a_device_without_float64(transform):
    expected = transform(POINTS)
    with WithoutFloat64():
        result = transform(POINTS.to(MPS))
        assert result.device == MPS
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.cpu(), expected.float(), rtol=1e-6, atol=1e-6)


def test_gradients_come_back_to_a_device_without_float64():
    with WithoutFloat64():
        points = POINTS.to(MPS).requires_grad_()
        (to_absolute(points)[:, :2] ** 2).sum().backward()
        assert isinstance(points.grad, OnMPS)
        twin = POINTS.clone().requires_grad_()
    (twin[:, :2].cumsum(0) ** 2).sum().backward()
    torch.testing.assert_close(points.grad.as_subclass(torch.Tensor), twin.grad)


def test_noise_and_files_need_no_float64(tmp_path):
    with WithoutFloat64():
        points = POINTS.to(MPS)
        moved = dequantize(points, 0.5)
        assert moved.device == MPS
        assert (to_absolute(moved) - to_absolute(points)).abs().max() <= 0.25 + 1e-5
        write_quickdraw(tmp_path / "own", [Drawing(points, times=(ALONG * 1).to(MPS))])
    (drawing,) = read_quickdraw(tmp_path / "own")
    torch.testing.assert_close(drawing.points, POINTS)
    torch.testing.assert_close(drawing.times, ALONG)


@pytest.mark.parametrize("kind", WRITERS)
def test_files_are_read_to_the_cpu_under_any_default_device(tmp_path, kind):
    WRITERS[kind](tmp_path / "small")
    expected = read(tmp_path / "small")
    with torch.device("meta"):
        corpus = read(tmp_path / "small")
        fitted = Normalization.from_dict(FITTED.to_dict())
        joined = from_polylines(polylines(corpus[0].points))
    assert torch.equal(joined, corpus[0].points)
    assert torch.equal(fitted.loc, FITTED.loc)
    for one, other in zip(corpus, expected, strict=True):
        assert torch.equal(one.points, other.points)
