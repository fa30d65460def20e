"""Arrays and tensors: exact values against NumPy and Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from stdcli.errors import NumericsError
from stdcli.media.arrays import fit_max_size, resize
from stdcli.media.tensors import crop_back, pad_to_multiple, to_tensor, to_uint8


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_to_tensor_maps_0_and_255_to_the_ends_of_the_range():
    rgb = np.zeros((1, 2, 3), np.uint8)
    rgb[0, 1] = (255, 51, 102)
    x = to_tensor(rgb)
    assert x.shape == (1, 3, 1, 2)
    assert x.dtype == torch.float32
    assert x[0, :, 0, 0].tolist() == [-1.0, -1.0, -1.0]
    assert x[0, :, 0, 1].tolist() == pytest.approx([1.0, -0.6, -0.2], abs=1e-7)


def test_every_level_survives_the_round_trip():
    rgb = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, axis=2)
    assert np.array_equal(to_uint8(to_tensor(rgb)), rgb[None])


def test_to_uint8_takes_the_nearest_level_and_clamps():
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float32) * 3 - 1.5
    exact = np.clip((x.double().numpy() + 1) * 127.5, 0, 255)
    clear = np.abs(exact % 1 - 0.5) > 1e-4
    shown = to_uint8(x).transpose(0, 3, 1, 2)
    assert np.array_equal(shown[clear], np.rint(exact)[clear])
    assert {0, 255} <= set(shown.ravel().tolist())
    assert to_uint8(torch.zeros(1, 3, 1, 1)).ravel().tolist() == [128, 128, 128]  # 127.5, a half


def test_to_uint8_keeps_channels_and_batch_apart():
    batch = torch.cat([to_tensor(noise(3, 5)), to_tensor(noise(3, 5)[::-1].copy())])
    assert np.array_equal(to_uint8(batch.to(torch.float64)), np.stack([noise(3, 5), noise(3, 5)[::-1]]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_to_uint8_refuses_what_no_pixel_can_show(value):
    x = torch.zeros(1, 3, 2, 2)
    x[0, 1, 1, 0] = value
    with pytest.raises(NumericsError, match="NaN or infinite"):
        to_uint8(x)


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 4, 4, 3), (1, 1, 4, 4)])
def test_to_uint8_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="expected"):
        to_uint8(torch.zeros(shape))


@pytest.mark.parametrize("rgb", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_to_tensor_refuses_other_arrays(rgb):
    with pytest.raises(ValueError, match="expected uint8"):
        to_tensor(rgb)


@pytest.mark.parametrize(
    "size", [(64, 32), (37, 53), (33, 31), (17, 95), (1, 1), (1, 40), (2, 3), (5, 100), (7, 3)]
)
@pytest.mark.parametrize("multiple", [1, 8, 32])
def test_padding_is_numpys_reflection_and_comes_off_exactly(size, multiple):
    rgb = noise(*size)
    padded, crop = pad_to_multiple(to_tensor(rgb), multiple)
    extra = [-side % multiple for side in size]
    widths = [(pad // 2, pad - pad // 2) for pad in extra]
    assert to_uint8(padded)[0].shape[:2] == tuple(side + pad for side, pad in zip(size, extra, strict=True))
    assert np.array_equal(to_uint8(padded)[0], np.pad(rgb, [*widths, (0, 0)], mode="reflect"))
    assert np.array_equal(to_uint8(crop_back(padded, crop))[0], rgb)


def test_padding_keeps_the_batch():
    batch = torch.cat([to_tensor(noise(5, 6)), to_tensor(noise(5, 6) // 2)])
    padded, crop = pad_to_multiple(batch, 8)
    assert padded.shape == (2, 3, 8, 8)
    assert torch.equal(crop_back(padded, crop), batch)


@pytest.mark.parametrize(("shape", "multiple"), [((1, 3, 0, 4), 8), ((1, 3, 4, 4), 0)])
def test_padding_refuses_nonsense(shape, multiple):
    with pytest.raises(ValueError, match="cannot pad"):
        pad_to_multiple(torch.zeros(shape), multiple)


def test_crop_back_refuses_a_picture_of_another_size():
    _, crop = pad_to_multiple(torch.zeros(1, 3, 9, 9), 8)
    with pytest.raises(ValueError, match="does not contain"):
        crop_back(torch.zeros(1, 3, 9, 9), crop)


@pytest.mark.parametrize(
    ("size", "max_size", "expected"),
    [
        ((400, 300), 200, (200, 150)),
        ((301, 97), 100, (100, 32)),
        ((1, 900), 90, (1, 90)),
        ((900, 1), 33, (33, 1)),
    ],
)
def test_shrinking_keeps_the_aspect_and_is_pillows_lanczos(size, max_size, expected):
    small = fit_max_size(noise(*size), max_size)
    truth = Image.fromarray(noise(*size)).resize(expected[::-1], Image.Resampling.LANCZOS)
    assert small.shape == (*expected, 3)
    assert np.array_equal(small, np.asarray(truth))
    assert resize(small, *size).shape == (*size, 3)


def test_a_picture_that_fits_is_not_touched():
    rgb = noise(20, 30)
    assert fit_max_size(rgb, 30) is rgb
    assert resize(rgb, 20, 30) is rgb


def test_max_size_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        fit_max_size(noise(4, 4), 0)
