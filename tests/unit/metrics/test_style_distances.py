"""Palette and texture against closed forms of CIELAB and slow recomputations."""

import numpy as np
import pytest

from stdcli.metrics import palette, texture
from stdcli.metrics.metric import NotMeasurable, Subject
from stdcli.metrics.wasserstein import _directions
from tests.tiny_subjects import NoBackbones, flat, noise, smooth

color = pytest.importorskip("skimage.color")


def distance(metric, result, *styles) -> float:
    frames = result if result.ndim == 4 else result[None]
    return metric.measure(Subject(frames, styles=styles), NoBackbones())


def lightness(level: int) -> float:
    """L* of a grey of sRGB, by the formulas of IEC 61966-2-1 and CIE 15."""
    linear = ((level / 255 + 0.055) / 1.055) ** 2.4
    return 116 * linear ** (1 / 3) - 16


def slowly(one: np.ndarray, other: np.ndarray) -> float:
    """Direction by direction, by numpy's own quantiles."""
    places = np.linspace(0, 1, 1001)[1:-1]
    apart = [
        np.abs(np.quantile(one @ d, places) - np.quantile(other @ d, places)).mean()
        for d in _directions(one.shape[1])
    ]
    return float(np.mean(apart))


def patches(rgb: np.ndarray, scale: int) -> np.ndarray:
    """Patches of L*, by loops."""
    light = color.rgb2lab(rgb)[..., 0]
    height, width = (side // scale for side in light.shape)
    small = np.array(
        [
            [light[scale * r : scale * (r + 1), scale * c : scale * (c + 1)].mean() for c in range(width)]
            for r in range(height)
        ]
    )
    found = [small[r : r + 7, c : c + 7].ravel() for r in range(height - 6) for c in range(width - 6)]
    return np.array([patch - patch.mean() for patch in found])


@pytest.mark.parametrize("metric", [palette, texture], ids=["palette", "texture"])
def test_a_picture_has_its_own_style(metric):
    assert distance(metric, noise(0), noise(0)) == 0
    large = noise(1, 300, 280)  # more points than are taken
    assert distance(metric, large, large) == 0


def test_grays_are_apart_by_their_lightness():
    share = np.abs(_directions(3)[:, 0]).mean()
    expected = share * (lightness(200) - lightness(119))
    assert distance(palette, flat(119), flat(200)) == pytest.approx(expected, rel=1e-3)


def test_a_palette_knows_no_places():
    picture = smooth(0)
    shuffled = np.random.default_rng(0).permutation(picture.reshape(-1, 3)).reshape(picture.shape)
    assert distance(palette, shuffled, picture) < 1e-9


def test_palette_recomputed():
    one, other = smooth(0), smooth(1) // 2 + 60
    expected = slowly(*(color.rgb2lab(rgb).reshape(-1, 3) for rgb in (one, other)))
    assert distance(palette, one, other) == pytest.approx(expected, rel=0.01)


def test_texture_recomputed_at_both_scales():
    one, other = smooth(0, 33, 40), noise(1, 33, 45)
    expected = [slowly(patches(one, scale), patches(other, scale)) for scale in (1, 2)]
    assert abs(expected[0] - expected[1]) > 0.1 * expected[0]
    assert distance(texture, one, other) == pytest.approx(np.mean(expected), rel=0.01)


def test_texture_knows_no_brightness():
    assert distance(texture, flat(60), flat(200)) < 1e-9


def test_a_fine_board_is_texture_at_full_size_alone():
    board = flat(0)
    board[(np.indices(board.shape[:2]).sum(0) % 2).astype(bool)] = 255
    one = patches(board, 1)
    assert np.abs(patches(board, 2)).max() < 1e-9
    expected = np.mean([np.abs(one @ d).mean() for d in _directions(49)]) / 2
    assert distance(texture, board, flat(128)) == pytest.approx(expected, rel=0.01)


def test_strokes_of_another_direction_are_another_texture():
    stripes = smooth(0)
    stripes[:] = (np.arange(stripes.shape[1]) // 3 % 2 * 255)[None, :, None]
    turned = np.ascontiguousarray(np.rot90(stripes))
    assert distance(texture, stripes, turned) > 5
    assert distance(palette, stripes, turned) < 0.5


def test_a_small_picture_has_no_texture():
    with pytest.raises(NotMeasurable, match="14 px"):
        distance(texture, noise(0, 13, 40), noise(1))
    assert distance(texture, noise(0, 14, 40), noise(1)) > 0


def test_styles_are_shrunk_to_the_result_and_never_enlarged():
    result, style = smooth(0, 48, 64), smooth(1, 48, 64)
    double = np.repeat(np.repeat(style, 2, 0), 2, 1)
    assert distance(texture, result, double) == pytest.approx(distance(texture, result, style), rel=0.05)
    small = smooth(1, 24, 32)
    expected = [slowly(patches(result, scale), patches(small, scale)) for scale in (1, 2)]
    assert distance(texture, result, small) == pytest.approx(np.mean(expected), rel=0.01)


@pytest.mark.parametrize("metric", [palette, texture], ids=["palette", "texture"])
def test_styles_and_frames_count_alike_in_any_order(metric):
    frames, styles = np.stack([smooth(0), smooth(1)]), (noise(2), smooth(3), flat((200, 40, 30)))
    alone = [distance(metric, frame, style) for frame in frames for style in styles]
    whole = distance(metric, frames, *styles)
    assert whole == pytest.approx(np.mean(alone), rel=1e-9)
    assert distance(metric, frames[::-1], *styles[::-1]) == pytest.approx(whole, rel=1e-9)
    assert whole == distance(metric, frames, *styles)
