"""Optical flow of pictures moved by known amounts, and warping in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from stdcli.media.flow import box_mean, can_follow, dense_flows, resize_flow, warp


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours, with detail at every place."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def to_tensor(values: np.ndarray) -> torch.Tensor:
    """[H, W, C] -> float32 [1, C, H, W]."""
    return torch.tensor(np.ascontiguousarray(values)).permute(2, 0, 1)[None].float()


def to_array(values: torch.Tensor) -> np.ndarray:
    return values[0].permute(1, 2, 0).numpy()


def constant(x: float, y: float, height: int, width: int) -> torch.Tensor:
    return torch.tensor([x, y], dtype=torch.float32).view(1, 2, 1, 1).repeat(1, 1, height, width)


def inner(flow: torch.Tensor, margin_px: int = 12) -> torch.Tensor:
    return flow[..., margin_px:-margin_px, margin_px:-margin_px]


@pytest.mark.parametrize(("x", "y"), [(0, 0), (5, 3), (-4, 7)])
def test_flow_of_a_moved_view_is_the_move(x, y):
    picture = scene(120, 150)
    frame, other = to_tensor(picture[10:110, 10:140]), to_tensor(picture[10 - y : 110 - y, 10 - x : 140 - x])
    flow, back = dense_flows(frame, other)
    assert flow.shape == (1, 2, 100, 130) and flow.dtype == torch.float32
    assert inner(flow - constant(x, y, 100, 130)).abs().mean() < 0.1
    assert inner(back + constant(x, y, 100, 130)).abs().mean() < 0.1
    assert inner(warp(other, flow) - frame).abs().mean() < 2


def test_pairs_of_a_batch_are_on_their_own():
    frames = torch.cat([to_tensor(scene(48, 64, seed)) for seed in (0, 1)])
    others = torch.cat([frames[:1], frames[1:].roll(3, 2)])
    there, back = dense_flows(frames, others)
    for index in (slice(0, 1), slice(1, 2)):
        alone = dense_flows(frames[index], others[index])
        torch.testing.assert_close(
            torch.cat([there[index], back[index]]), torch.cat(alone), atol=1e-3, rtol=0
        )
    assert there[0].abs().max() < 1e-4 and there[1].abs().max() > 1


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (5, 40)])
def test_flow_of_the_smallest_frames(size):
    frame = torch.full((1, 3, *size), 90.0)
    for flow in dense_flows(frame, frame):
        assert flow.abs().max() == 0
        assert flow.shape == (1, 2, *size)


def test_flow_needs_frames_of_one_size():
    with pytest.raises(ValueError, match="different sizes"):
        dense_flows(torch.zeros(1, 3, 20, 20), torch.zeros(1, 3, 20, 21))


def test_both_ways_agree_and_agree_with_opencv():
    """On a turned and moved view: each way undoes the other, and OpenCV's DIS says the same."""
    cv2 = pytest.importorskip("cv2")
    picture = scene(120, 150)
    turn = cv2.getRotationMatrix2D((75, 60), 3.0, 1.02)
    other = cv2.warpAffine(picture, turn, (150, 120), borderMode=cv2.BORDER_REFLECT)
    there, back = dense_flows(to_tensor(picture), to_tensor(other))
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (picture, other)]
    wanted = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*gray, None)
    y, x = np.mgrid[:120, :150]
    exact = np.stack([x, y, np.ones_like(x)], 2) @ turn.T - np.stack([x, y], 2)
    assert inner(there - to_tensor(exact), 15).abs().mean() < 0.25
    assert inner(there - to_tensor(wanted), 15).abs().mean() < 0.3
    assert inner(there + warp(back, there), 15).abs().mean() < 0.2


def test_a_resized_flow_is_the_same_motion_in_the_other_size_s_pixels():
    resized = resize_flow(constant(3, -2, 10, 20), (25, 60))
    torch.testing.assert_close(resized, constant(9, -5, 25, 60))


def test_a_box_mean_is_the_mean_of_what_lies_inside():
    values = np.random.default_rng(0).random((2, 9, 7))
    means = box_mean(torch.from_numpy(values).float(), 5)
    for y, x in np.ndindex(9, 7):
        window = values[:, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        np.testing.assert_allclose(means[:, y, x], window.mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_warp_by_whole_pixels_moves_pixels(kind):
    values = scene(12, 17).astype(np.float32)
    moved = to_array(warp(to_tensor(values), constant(2, -3, 12, 17), kind=kind))
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
    result = to_array(warp(to_tensor(planes), to_tensor(flow)))
    np.testing.assert_allclose(result, wanted, atol=1e-3)


def test_bicubic_warps_keep_what_bilinear_ones_wipe_out():
    """A wave of 6 pixels, sent half a pixel forth and back ten times."""
    wave = torch.sin(torch.arange(60) * 2 * np.pi / 6).expand(1, 1, 8, 60)
    forth = constant(0.5, 0, 8, 60)
    left = {}
    for kind in ("bilinear", "bicubic"):
        values = wave
        for _ in range(10):
            values = warp(warp(values, forth, kind=kind), -forth, kind=kind)
        left[kind] = float(values[..., 20:-20].std() / wave[..., 20:-20].std())
    assert left["bilinear"] == pytest.approx(np.cos(np.pi / 6) ** 20, abs=0.01)
    assert left["bicubic"] > 0.8


def test_a_flow_that_returns_is_followed_and_one_that_leaves_is_not():
    flow = constant(4, 0, 10, 20)
    followed = can_follow(flow, -flow)[0, 0]
    assert followed[:, :16].all() and not followed[:, 16:].any()


@pytest.mark.parametrize(("gap", "expected"), [(0.70, True), (0.72, False)])
def test_the_tolerance_at_rest_is_half_a_squared_pixel(gap, expected):
    """|w + b|^2 <= 0.01 (|w|^2 + |b|^2) + 0.5 with w = 0: b^2 <= 0.5 / 0.99, b <= 0.7107."""
    followed = can_follow(constant(0, 0, 6, 6), constant(gap, 0, 6, 6))
    assert (followed == expected).all()


def test_what_comes_from_behind_something_is_not_followed():
    """A square moves 6 px to the right over still ground: what it uncovers the frame before does not show."""
    back, forth = constant(0, 0, 40, 40), constant(0, 0, 40, 40)
    forth[:, 0, 10:30, 10:20] = 6  # from before to now
    back[:, 0, 10:30, 16:26] = -6  # from now to before
    followed = can_follow(back, forth)[0, 0]
    assert not followed[10:30, 10:16].any(), "uncovered ground"
    assert followed[10:30, 16:26].all() and followed[:, 27:].all() and followed[:10].all()
