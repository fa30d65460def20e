"""Warping error against known motion, known steps, and rules worked out by hand."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from stdcli.metrics.metric import Flows, NotMeasurable, Subject
from stdcli.metrics.warping import (
    METRIC,
    RULES,
    WarpProtocol,
    error_maps,
    fetch,
    followed,
    warping_error,
    warping_metric,
)
from tests.tiny_subjects import NoBackbones, flat, noise, smooth, still

DEFAULT = WarpProtocol()
NORMS = ("l1", "mse", "rmse")


def moved(frames: np.ndarray, motion: tuple[float, float]) -> Flows:
    """Flows of a clip in which everything moves by (x, y) from frame to frame."""
    forward = still(frames).forward + np.array(motion, np.float32)
    return Flows(backward=-forward, forward=forward, method=DEFAULT.flow)


def camera(motion: tuple[int, int], num_frames: int = 4) -> np.ndarray:
    """A window on a large picture; what it shows moves by (x, y) whole pixels from frame to frame."""
    whole = noise(0, 120, 120)
    corners = [(60 - i * motion[1], 50 - i * motion[0]) for i in range(num_frames)]
    return np.stack([whole[y : y + 30, x : x + 40] for y, x in corners])


def square_over_ground() -> tuple[np.ndarray, Flows]:
    """A square of 10 px that moves right by 4 px over a ground at rest, with its exact flows."""
    ground, square = noise(0, 30, 40), flat((250, 10, 10), 10, 10)
    frames, flows = np.stack([ground, ground]), still(np.stack([ground, ground]))
    frames[0, 10:20, 8:18] = frames[1, 10:20, 12:22] = square
    flows.forward[0, 10:20, 8:18] = (4, 0)
    flows.backward[0, 10:20, 12:22] = (-4, 0)
    return frames, flows


@pytest.mark.parametrize("motion", [(3, 0), (0, -2), (-4, 5), (0, 0)])
@pytest.mark.parametrize("norm", NORMS)
def test_whole_pixels_of_known_motion_leave_nothing(motion, norm):
    frames = camera(motion)
    assert warping_error(frames, moved(frames, motion), replace(DEFAULT, norm=norm)) == 0
    if any(motion):
        wrong = (-motion[0], -motion[1])
        assert warping_error(frames, moved(frames, wrong), replace(DEFAULT, norm=norm)) > 0.03


def test_half_a_pixel_of_a_ramp_leaves_nothing():
    x = np.arange(0, 240, 6)
    frames = np.stack([np.broadcast_to((x + 3 * i)[None, :, None], (20, 40, 3)) for i in range(3)])
    frames = frames.astype(np.uint8)
    assert warping_error(frames, moved(frames, (-0.5, 0)), DEFAULT) < 1e-12


@pytest.mark.parametrize("levels", [(100, 140, 100), (140, 100, 140)])
def test_a_step_of_brightness_is_what_it_is(levels):
    frames = np.stack([flat(level) for level in levels])
    step = 40 / 255
    expected = {("l1", 1): step, ("mse", 1): step**2, ("rmse", 1): step}
    expected |= {("l1", 255): 40, ("mse", 255): 1600, ("rmse", 255): 40}
    for (norm, white), value in sorted(expected.items()):
        protocol = replace(DEFAULT, norm=norm, white=white)
        assert warping_error(frames, still(frames), protocol) == pytest.approx(value, rel=1e-9)


def test_noise_recomputed():
    frames = np.stack([noise(seed) for seed in range(3)])
    d = (frames[1:].astype(float) - frames[:-1]) / 255
    values = {norm: warping_error(frames, still(frames), replace(DEFAULT, norm=norm)) for norm in NORMS}
    assert values["l1"] == pytest.approx(np.abs(d).mean(), rel=1e-9)
    assert values["mse"] == pytest.approx((d**2).mean(), rel=1e-9)
    assert values["rmse"] == pytest.approx(np.sqrt((d**2).mean()), rel=1e-9)


def test_the_root_is_that_of_the_mean_over_pairs():
    frames = np.stack([flat(level) for level in (0, 51, 51)])
    assert warping_error(frames, still(frames), DEFAULT) == pytest.approx(0.2 / np.sqrt(2), rel=1e-9)


@pytest.mark.parametrize("is_reversed", [False, True], ids=["covered", "uncovered"])
def test_ground_behind_a_moving_square_does_not_count(is_reversed):
    frames, flows = square_over_ground()
    if is_reversed:
        frames = frames[::-1]
        flows = Flows(backward=flows.forward, forward=flows.backward, method=flows.method)
    assert warping_error(frames, flows, DEFAULT) == 0
    hidden = ~followed(flows.forward[0], flows.backward[0], "forward-backward")
    expected = np.zeros((30, 40), bool)
    expected[10:20, slice(8, 12) if is_reversed else slice(18, 22)] = True
    np.testing.assert_array_equal(hidden, expected)
    gap = (frames[0].astype(float) - frames[1])[expected] / 255
    anyway = warping_error(frames, flows, replace(DEFAULT, occlusion="none", norm="mse"))
    assert anyway == pytest.approx((gap**2).mean() * 40 / 1200, rel=1e-9)


@pytest.mark.parametrize(("gap", "is_seen"), [(0.71, True), (0.72, False)])
def test_the_limit_between_forward_and_backward(gap, is_seen):
    forward = np.zeros((9, 9, 2), np.float32) + np.array([1, 0], np.float32)
    backward = np.zeros((9, 9, 2), np.float32) + np.array([-1 + gap, 0], np.float32)
    limit = 0.01 * (1 + (1 - gap) ** 2) + 0.5
    assert (gap**2 <= limit) == is_seen
    assert followed(forward, backward, "forward-backward")[:, :-1].all() == is_seen
    assert followed(forward, backward, "none")[:, :-1].all()


@pytest.mark.parametrize(("slope", "is_seen"), [(0.044, True), (0.046, False)])
def test_boundaries_of_motion_are_a_rule_of_their_own(slope, is_seen):
    forward = np.zeros((1, 41, 2), np.float32)
    forward = np.repeat(forward, 41, 0)
    forward[..., 1] = slope * (np.arange(41) - 20)[None, :]  # shears by so many pixels per pixel
    rule = "forward-backward+boundaries"
    seen = followed(forward, -forward, rule)
    assert seen[20, 20] == is_seen  # no motion there: the limit is 0.002 = 0.0447^2
    assert seen[20, 0]  # moves by 0.9 px: limit 0.01
    assert followed(forward, -forward, "forward-backward")[20].all()


def test_boundaries_are_one_sided_as_in_the_released_code():
    """A step between columns 4 and 5 marks column 4 alone, one between rows 6 and 7 row 6 alone."""
    forward = np.zeros((9, 9, 2), np.float32)
    forward[:, 5:] -= 0.1
    forward[7:] -= 0.1
    seen = followed(forward, -forward, "forward-backward+boundaries")
    inside = followed(forward, -forward, "forward-backward")
    expected = inside.copy()
    expected[:, 4] = expected[6] = False
    np.testing.assert_array_equal(seen, expected)


def test_what_leaves_the_frame_is_not_seen():
    forward = np.zeros((10, 12, 2), np.float32) + np.array([3, -2], np.float32)
    seen = followed(forward, -forward, "none")
    expected = np.zeros((10, 12), bool)
    expected[2:, :-3] = True
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("unknown", [1e10, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", list(RULES))
def test_unknown_flows_do_not_count(unknown, rule):
    frames = np.stack([flat(100), flat(100)])
    flows = still(frames)
    frames[0, 5, 6] = 200
    assert warping_error(frames, flows, replace(DEFAULT, occlusion=rule)) > 0
    flows.forward[0, 5, 6] = unknown
    assert warping_error(frames, flows, replace(DEFAULT, occlusion=rule)) == 0
    if rule != "none":
        flows.forward[0, 5, 6], flows.backward[0, 5, 6] = 0, unknown
        assert warping_error(frames, flows, replace(DEFAULT, occlusion=rule)) == 0


def test_pairs_without_a_view_do_not_count_and_a_clip_of_such_is_not_measured():
    frames = np.stack([flat(level) for level in (0, 51, 255)])
    flows = still(frames)
    flows.forward[1] = 1000  # a cut
    assert warping_error(frames, flows, DEFAULT) == pytest.approx(0.2, rel=1e-9)
    flows.forward[0] = 1000
    with pytest.raises(NotMeasurable, match="followed"):
        warping_error(frames, flows, DEFAULT)
    flows.forward[0, 0, :30] = 0  # of 3072 pixels
    with pytest.raises(NotMeasurable, match="followed"):
        warping_error(frames, flows, DEFAULT)
    flows.forward[0, 0, :31] = 0
    assert warping_error(frames, flows, DEFAULT) == pytest.approx(0.2, rel=1e-9)


def test_maps_are_the_error_at_each_pixel_of_the_earlier_frame():
    frames, flows = square_over_ground()
    frames[1, 15, 16] = (250, 10, 61)  # of the square, which was at 12
    for norm, value in (("l1", 0.2 / 3), ("mse", 0.04 / 3), ("rmse", 0.2 / np.sqrt(3))):
        for white in (1, 255):
            maps = error_maps(frames, flows, replace(DEFAULT, norm=norm, white=white))
            assert (maps.shape, maps.dtype) == ((1, 30, 40), np.float32)
            assert maps[0, 15, 12] == pytest.approx(value, rel=1e-5)
            maps[0, 15, 12] = 0
            assert maps.max() == 0


def test_maps_and_number_agree():
    frames = np.stack([smooth(0, shift=(i, 0)) for i in range(4)])
    flows = moved(frames, (1.3, 0.2))
    maps = error_maps(frames, flows, DEFAULT).astype(float)
    both = zip(flows.forward, flows.backward, strict=True)
    shares = np.array([followed(*pair, DEFAULT.occlusion).mean() for pair in both])
    expected = np.sqrt(((maps**2).mean((1, 2)) / shares).mean())
    assert warping_error(frames, flows, DEFAULT) == pytest.approx(expected, rel=1e-5)


def test_values_are_fetched_as_torch_does():
    rng = np.random.default_rng(0)
    values, flow = rng.uniform(0, 255, (20, 30, 3)), rng.normal(0, 6, (20, 30, 2))
    rows, columns = np.indices((20, 30))
    places = torch.tensor(np.stack([columns, rows], -1) + flow) * 2 / torch.tensor([29.0, 19.0]) - 1
    pixels = torch.tensor(values).permute(2, 0, 1)[None]
    expected = grid_sample(pixels, places[None].double(), padding_mode="border", align_corners=True)
    np.testing.assert_allclose(fetch(values, flow), expected[0].permute(1, 2, 0).numpy(), atol=1e-3)


def test_one_frame_has_no_error():
    frame = noise(0)[None]
    with pytest.raises(NotMeasurable, match="one frame"):
        METRIC.measure(Subject(frame, content=frame), NoBackbones())
    with pytest.raises(NotMeasurable, match="one frame"):
        error_maps(frame, still(frame), DEFAULT)


def test_flows_that_do_not_belong_are_refused():
    frames = np.stack([noise(0), noise(1), noise(2)])
    with pytest.raises(ValueError, match="frames want"):
        warping_error(frames[:2], still(frames), DEFAULT)
    with pytest.raises(ValueError, match="protocol says"):
        warping_error(frames, still(frames, "files"), DEFAULT)
    with pytest.raises(ValueError, match="needs flows"):
        METRIC.measure(Subject(frames, content=frames), NoBackbones())


def test_a_metric_carries_its_protocol():
    frames = np.stack([flat(100), flat(151)])
    protocol = WarpProtocol(flow="raft", norm="mse", white=255)
    metric = warping_metric(protocol)
    subject = Subject(frames, content=frames, flows=still(frames, "raft"))
    assert metric.measure(subject, NoBackbones()) == pytest.approx(51**2, rel=1e-9)
    assert (metric.protocol, metric.highest, METRIC.highest) == (protocol.line(), 255**2, 1)
    assert METRIC.protocol == DEFAULT.line()
    assert metric.measure(replace(subject, frames=frames[::-1]), NoBackbones()) == pytest.approx(51**2)


def test_equal_lines_mean_equal_protocols():
    options = product(("opencv-dis-medium", "raft"), ("content",), RULES, NORMS, (1, 255))
    protocols = [WarpProtocol(*option) for option in options]
    assert len({protocol.line() for protocol in protocols}) == len(protocols) == 36
    for word in ("rmse", "0..1", "opencv-dis-medium", "content", "forward-backward", "0.01", "0.5", "result"):
        assert word in DEFAULT.line()
