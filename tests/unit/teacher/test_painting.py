"""The closed-form painting: flattening, patches moved to the style's distribution, their strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stdcli.teacher import painting
from stdcli.teacher.painting import flatten_detail, luminance, paint, stroke_strength, transport_patches

SIDE = 64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int = 0, *, batch: int = 1, side: int = SIDE) -> torch.Tensor:
    return torch.randn(batch, 1, side, side, generator=rng(seed))


def smooth(seed: int = 0, *, side: int = SIDE) -> torch.Tensor:
    """Soft blobs about 8 pixels wide, [1, 1, side, side], standard deviation about 0.1."""
    coarse = torch.randn(1, 1, side // 8 + 1, side // 8 + 1, generator=rng(seed))
    return 0.5 + 0.15 * F.interpolate(coarse, size=(side, side), mode="bicubic")


def colored(seed: int, *, slope: float, side: int = SIDE) -> torch.Tensor:
    """Noise with the spectrum 1 / f^slope, [1, 1, side, side], standard deviation 1."""
    frequency = torch.fft.fftfreq(side)
    falling = (frequency[:, None] ** 2 + frequency**2).sqrt().clamp(min=1 / side) ** -slope
    field = torch.fft.ifft2(torch.fft.fft2(noise(seed, side=side)) * falling).real
    return (field - field.mean()) / field.std()


def patch_distance(one: torch.Tensor, other: torch.Tensor, px: int) -> float:
    """Sliced Wasserstein-1 of 7x7 patches less their means, with directions of its own, by sorting."""
    directions = np.random.default_rng(99).standard_normal((49, 40))
    rows = []
    for picture in (one, other):
        gray = F.avg_pool2d(picture, px)[0, 0].numpy()
        windows = np.lib.stride_tricks.sliding_window_view(gray, (7, 7)).reshape(-1, 49)
        seen = (windows - windows.mean(1, keepdims=True)) @ (directions / np.linalg.norm(directions, axis=0))
        rows.append(np.quantile(seen, np.linspace(0, 1, 200), axis=0))
    return float(np.abs(rows[0] - rows[1]).mean())


def test_flat_areas_and_straight_edges_are_left_alone() -> None:
    picture = torch.full((1, 3, 32, 32), 0.3)
    picture[..., 16:] = 0.8
    assert (flatten_detail(picture) - picture).abs().max() < 0.02
    assert torch.allclose(flatten_detail(picture * 0 + 0.3), picture * 0 + 0.3, atol=1e-5)


def test_speckles_go_and_edges_stay_sharp() -> None:
    picture = torch.full((1, 3, 32, 64), 0.3)
    picture[..., 32:] = 0.8
    speckled = picture + 0.05 * torch.randn(picture.shape, generator=rng())
    result = flatten_detail(speckled)
    assert (result - picture).std() < 0.5 * 0.05
    step = result[..., 33].mean() - result[..., 30].mean()
    assert step > 0.45  # a blur of that strength leaves 0.3


def test_a_constant_plus_a_picture_is_flattened_alike() -> None:
    picture = torch.rand(1, 3, 24, 24, generator=rng()) * 0.5
    assert torch.allclose(flatten_detail(picture + 0.25), flatten_detail(picture) + 0.25, atol=1e-4)


@pytest.mark.parametrize("px", [1, 2])
def test_patches_become_those_of_the_style(px: int) -> None:
    """Pictures of the spectra of photos, with other contrast and other detail."""
    soft, rough = 0.5 + 0.2 * colored(1, slope=1.6, side=128), 0.5 + 0.15 * colored(2, slope=0.9, side=128)
    for picture, style in ((soft, rough), (rough, soft)):
        moved = transport_patches(picture, style)
        assert patch_distance(moved, style, px) < 0.5 * patch_distance(picture, style, px)


def test_a_picture_in_its_own_style_stays() -> None:
    picture = 0.5 + 0.2 * noise(4)
    assert (transport_patches(picture, picture) - picture).std() < 0.06 * 0.2


@pytest.mark.parametrize("gain", [0.25, 3.0])
def test_noise_in_the_manner_of_stronger_noise_is_scaled(gain: float) -> None:
    """Between Gaussians of one shape the map is a product: all that changes is the contrast."""
    moved = transport_patches(noise(5), gain * noise(6))
    assert moved.std().item() == pytest.approx(gain, rel=0.1)
    assert np.corrcoef(moved.flatten(), noise(5).flatten())[0, 1] > 0.97


def test_brightness_stays_the_pictures_own() -> None:
    picture, style = smooth(7), 0.2 * noise(8)
    moved = transport_patches(picture, style)
    assert torch.allclose(transport_patches(picture + 0.25, style) - moved, torch.tensor(0.25), atol=1e-3)
    assert torch.allclose(transport_patches(picture, style + 0.25), moved, atol=1e-3)
    assert (moved - picture).mean().abs() < 0.01


def test_every_picture_of_a_batch_has_its_own_style() -> None:
    pictures, styles = torch.cat([smooth(1), smooth(2)]), torch.cat([0.3 * noise(3), smooth(4)])
    both = transport_patches(pictures, styles)
    for i in range(2):
        alone = transport_patches(pictures[i : i + 1], styles[i : i + 1])
        assert torch.allclose(both[i : i + 1], alone, atol=1e-5)


def test_values_move_by_the_monotone_map() -> None:
    """Each value goes where the value of the same rank is."""
    values, wanted = (
        torch.rand(3, 4000, generator=rng(1)) ** 2,
        2 + torch.rand(3, 4000, generator=rng(2)) ** 3,
    )
    moved = values + painting._moves(values, wanted)
    for row in range(3):
        ranked = torch.empty(4000)
        ranked[values[row].argsort()] = wanted[row].sort().values
        assert (moved[row] - ranked).abs().mean() < 0.005
        assert (moved[row][values[row].argsort()].diff() > -1e-5).all()


def test_directions_are_orthonormal_and_blind_to_brightness() -> None:
    for turn in range(2):
        flat = painting._directions(turn).flatten(1)
        assert flat.shape == (48, 49)
        assert torch.allclose(flat @ flat.T, torch.eye(48), atol=1e-5)
        assert flat.sum(1).abs().max() < 1e-5
    assert not torch.allclose(painting._directions(0), painting._directions(1))


def test_strokes_grow_from_the_noise_where_nothing_else_is() -> None:
    gray, styles = torch.full((1, 3, SIDE, SIDE), 0.5), (0.5 + 0.15 * noise(9)).expand(1, 3, -1, -1)
    flat, one = paint(gray, styles, noise(1))
    again, other = (paint(gray, styles, noise(seed))[1] for seed in (1, 2))
    assert torch.allclose(flat, gray, atol=1e-5)
    assert torch.equal(one, again)
    assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.15
    assert one.std().item() == pytest.approx(0.15, rel=0.15)
    assert torch.allclose(paint(gray, styles, 7 * noise(1))[1], one, atol=1e-5)  # whatever its scale
    calm = paint(gray, torch.full_like(styles, 0.3), noise(1))[1]
    assert calm.std() < 0.3 * painting.GRAIN  # a style without texture takes it away


def test_strokes_are_luminance_over_the_flattened_picture() -> None:
    picture = torch.rand(1, 3, SIDE, SIDE, generator=rng())
    flat, strokes = paint(picture, picture.flip(-1), noise(3))
    assert torch.equal(flat, flatten_detail(picture))
    assert strokes.shape == (1, 1, SIDE, SIDE)


def test_more_noise_means_more_strokes_up_to_all_of_them() -> None:
    ratio = torch.tensor([0.0, 0.05, 0.1, 0.2, 0.4, 3.0])
    strength = stroke_strength(ratio)
    assert strength[0] == 0 and (strength.diff()[:-1] > 0).all()
    assert strength[1].item() == pytest.approx(9 / 16)
    assert strength[-2:].tolist() == pytest.approx([1, 1])
    assert stroke_strength(torch.tensor([torch.inf])) == 1


def test_luminance_is_that_of_rec_601() -> None:
    colors = torch.eye(3).view(3, 3, 1, 1)
    assert luminance(colors).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])
