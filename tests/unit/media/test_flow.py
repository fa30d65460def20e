"""Optical flow of pictures moved by known amounts, and warping in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stdcli.media.flow import can_follow, dense_flows, warp


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours, with detail at every place."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def constant(x: float, y: float, height: int, width: int) -> np.ndarray:
    return np.broadcast_to(np.float32([x, y]), (height, width, 2)).copy()


@pytest.mark.parametrize(("x", "y"), [(0, 0), (5, 3), (-4, 7)])
def test_flow_of_a_moved_view_is_the_move(x, y):
    picture = scene(120, 150)
    frame, other = picture[10:110, 10:140], picture[10 - y : 110 - y, 10 - x : 140 - x]
    flow, back = dense_flows(np.ascontiguousarray(frame), np.ascontiguousarray(other))
    assert np.abs(back[12:-12, 12:-12] + (x, y)).mean() < 0.1
    assert flow.shape == (100, 130, 2) and flow.dtype == np.float32
    inner = flow[12:-12, 12:-12]
    assert np.abs(inner - (x, y)).mean() < 0.1
    fetched = warp(other.astype(np.float32), flow)
    assert np.abs(fetched - frame)[12:-12, 12:-12].mean() < 2


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (5, 40)])
def test_flow_of_the_smallest_frames(size):
    frame = np.full((*size, 3), 90, np.uint8)
    for flow in dense_flows(frame, frame):
        assert np.abs(flow).max() == 0
        assert flow.shape == (*size, 2)


def test_flow_needs_frames_of_one_size():
    with pytest.raises(ValueError, match="different sizes"):
        dense_flows(np.zeros((20, 20, 3), np.uint8), np.zeros((20, 21, 3), np.uint8))


def test_both_ways_agree_and_agree_with_opencv():
    """On a turned and moved view: each way undoes the other, and OpenCV's DIS says the same."""
    cv2 = pytest.importorskip("cv2")
    picture = scene(120, 150)
    turn = cv2.getRotationMatrix2D((75, 60), 3.0, 1.02)
    other = cv2.warpAffine(picture, turn, (150, 120), borderMode=cv2.BORDER_REFLECT)
    there, back = dense_flows(picture, other)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (picture, other)]
    wanted = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    y, x = np.mgrid[:120, :150]
    exact = np.stack([x, y, np.ones_like(x)], 2) @ turn.T - np.stack([x, y], 2)
    inner = (slice(15, -15), slice(15, -15))
    assert np.abs(there - exact)[inner].mean() < 0.25
    assert np.abs(there - wanted)[inner].mean() < 0.3
    assert np.abs(there + warp(back, there))[inner].mean() < 0.2


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_warp_by_whole_pixels_moves_pixels(kind):
    values = scene(12, 17).astype(np.float32)
    moved = warp(values, constant(2, -3, 12, 17), kind=kind)
    np.testing.assert_allclose(moved[3:, :-2], values[:-3, 2:], atol=1e-3)
    np.testing.assert_allclose(moved[:3, -2:], np.broadcast_to(values[0, -1], (3, 2, 3)), atol=1e-3)


def test_warp_of_a_plane_is_exact_between_pixels():
    """Bilinear: on values linear in x and y the result is those values at the place, whatever the flow."""
    y, x = np.mgrid[:20, :30].astype(np.float64)
    planes = np.stack([2 * x - y, x + 3 * y + 7], 2)
    flow = np.random.default_rng(1).uniform(-0.9, 0.9, (20, 30, 2))
    flow[[0, -1]] = flow[:, [0, -1]] = 0
    wanted = np.stack(
        [
            2 * (x + flow[..., 0]) - (y + flow[..., 1]),
            (x + flow[..., 0]) + 3 * (y + flow[..., 1]) + 7,
        ],
        2,
    )
    result = warp(planes.astype(np.float32), flow.astype(np.float32))
    np.testing.assert_allclose(result, wanted, atol=1e-3)


def test_bicubic_warps_keep_what_bilinear_ones_wipe_out():
    """A wave of 6 pixels, sent half a pixel forth and back ten times."""
    wave = np.broadcast_to(np.sin(np.arange(60) * 2 * np.pi / 6)[None, :, None], (8, 60, 1)).astype(
        np.float32
    )
    left = {}
    for kind in ("bilinear", "bicubic"):
        values = wave
        for _ in range(10):
            values = warp(
                warp(values, constant(0.5, 0, 8, 60), kind=kind), constant(-0.5, 0, 8, 60), kind=kind
            )
        left[kind] = np.std(values[:, 20:-20]) / np.std(wave[:, 20:-20])
    assert left["bilinear"] == pytest.approx(np.cos(np.pi / 6) ** 20, abs=0.01)
    assert left["bicubic"] > 0.8


def test_a_flow_that_returns_is_followed_and_one_that_leaves_is_not():
    flow = constant(4, 0, 10, 20)
    followed = can_follow(flow, -flow)
    assert followed[:, :16].all() and not followed[:, 16:].any()


@pytest.mark.parametrize(("gap", "expected"), [(0.70, True), (0.72, False)])
def test_the_tolerance_at_rest_is_half_a_squared_pixel(gap, expected):
    """|w + b|^2 <= 0.01 (|w|^2 + |b|^2) + 0.5 with w = 0: b^2 <= 0.5 / 0.99, b <= 0.7107."""
    followed = can_follow(constant(0, 0, 6, 6), constant(gap, 0, 6, 6))
    assert (followed == expected).all()


def test_what_comes_from_behind_something_is_not_followed():
    """A square moves 6 px to the right over still ground: what it uncovers the frame before does not show."""
    back, forth = constant(0, 0, 40, 40), constant(0, 0, 40, 40)
    forth[10:30, 10:20] = (6, 0)  # from before to now
    back[10:30, 16:26] = (-6, 0)  # from now to before
    followed = can_follow(back, forth)
    assert not followed[10:30, 10:16].any(), "uncovered ground"
    assert followed[10:30, 16:26].all() and followed[:, 27:].all() and followed[:10].all()
