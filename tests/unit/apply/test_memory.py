"""What a clip hands on from frame to frame: weights, warping, cuts, and going on from a state."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stdcli.apply.memory import LARGEST_WEIGHT, Memory
from stdcli.media.tensors import to_tensor


def scene(seed: int, height: int = 80, width: int = 110) -> np.ndarray:
    rng = np.random.default_rng(seed)
    grey = rng.integers(60, 180, (height // 5, width // 5, 1))
    coarse = (grey + rng.integers(0, 20, (1, 1, 3))).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def view(picture: np.ndarray, x: int, y: int = 0) -> np.ndarray:
    """The part of a picture that a camera moved by (x, y) shows, 64 x 80."""
    return np.ascontiguousarray(picture[8 + y : 72 + y, 15 + x : 95 + x])


SOURCE, RESULT = view(scene(0), 0), view(scene(1), 0)


def weights(memory: Memory, source: np.ndarray) -> np.ndarray:
    return memory.carry(source).weight[0, 0].numpy()


@pytest.mark.parametrize("mode", ["blend", "flow"])
def test_the_first_frame_has_nothing_to_go_on(mode):
    memory = Memory(mode)
    assert memory.carry(SOURCE) is None
    assert memory.state() == {}


def test_a_still_picture_carries_the_result_as_it_is():
    memory = Memory("blend")
    memory.keep(SOURCE, RESULT)
    carried = memory.carry(SOURCE)
    assert carried.pixels.equal(to_tensor(RESULT))
    np.testing.assert_allclose(carried.weight[0, 0].numpy(), LARGEST_WEIGHT, rtol=1e-6)
    assert 0 < LARGEST_WEIGHT < 1


def test_noise_is_no_change_and_a_moved_thing_is_one():
    rng = np.random.default_rng(3)
    before, after = (np.clip(SOURCE + rng.normal(0, 2, SOURCE.shape), 0, 255) for _ in range(2))
    after[20:40, 30:50] /= 3
    memory = Memory("blend")
    memory.keep(before.astype(np.uint8), RESULT)
    weight = weights(memory, after.astype(np.uint8))
    assert (weight[20:40, 30:50] == 0).all()
    far = np.ones(weight.shape, bool)
    far[8:52, 18:62] = False
    np.testing.assert_allclose(weight[far], LARGEST_WEIGHT, rtol=1e-6)
    assert np.abs(np.diff(weight, axis=0)).max() < 0.2 * LARGEST_WEIGHT, "the edge of the weights is hard"


def test_slow_changes_add_up():
    """A step of 3 of 255 is noise, however often; a fade in such steps is no noise."""
    memory = Memory("blend")
    memory.keep(SOURCE, RESULT)
    seen = []
    for step in range(1, 15):
        frame = SOURCE + np.uint8(3 * step)
        seen.append(weights(memory, frame).mean())
        memory.keep(frame, RESULT)
    assert seen[0] == pytest.approx(LARGEST_WEIGHT)
    assert seen[-1] < 0.95 * LARGEST_WEIGHT


def test_the_source_shown_is_mixed_as_the_results_are():
    memory = Memory("blend")
    memory.keep(SOURCE, RESULT)
    frame = SOURCE + np.uint8(2)
    memory.carry(frame)
    memory.keep(frame, RESULT)
    shown = memory.state()["shown"]
    np.testing.assert_allclose(shown, SOURCE + 2 * (1 - LARGEST_WEIGHT), atol=1e-4)


@pytest.mark.parametrize("mode", ["blend", "flow"])
def test_nothing_is_carried_over_a_cut(mode):
    pytest.importorskip("cv2")
    memory = Memory(mode)
    memory.keep(SOURCE, RESULT)
    other = 255 - SOURCE // 4
    assert memory.carry(other) is None
    memory.keep(other, RESULT)
    np.testing.assert_array_equal(memory.state()["shown"], other)
    assert memory.carry(other) is not None


def test_flow_moves_the_result_along():
    """The camera pans by 4 pixels: what it sees twice is carried in place, the new edge is not."""
    pytest.importorskip("cv2")
    memory = Memory("flow")
    memory.keep(view(scene(0), 0), view(scene(1), 0))
    carried = memory.carry(view(scene(0), 4, 2))
    wanted = to_tensor(view(scene(1), 4, 2))
    assert (carried.pixels - wanted)[..., 8:-8, 8:-8].abs().mean() < 0.03
    weight = carried.weight[0, 0].numpy()
    assert weight[8:-8, 8:-8].mean() > 0.9 * LARGEST_WEIGHT
    assert (weight[:, -3:] == 0).all() and (weight[-1:] == 0).all()
    blend = Memory("blend")
    blend.keep(view(scene(0), 0), view(scene(1), 0))
    assert weights(blend, view(scene(0), 4, 2)).mean() < 0.1 * LARGEST_WEIGHT


def paint(memory: Memory, frames: list[np.ndarray]) -> list[np.ndarray]:
    """A stylizer of the plainest kind: half source, half a texture on the screen, and what is carried."""
    results = []
    for frame in frames:
        new = 0.5 * to_tensor(frame) + 0.5 * to_tensor(RESULT)
        carried = memory.carry(frame)
        if carried is not None:
            new = new + carried.weight * (carried.pixels - new)
        result = ((new[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        memory.keep(frame, result)
        results.append(result)
    return results


@pytest.mark.parametrize("mode", ["blend", "flow"])
def test_a_clip_goes_on_from_a_state_to_the_same_bytes(mode):
    pytest.importorskip("cv2")
    frames = [view(scene(0), x) for x in (0, 1, 1, 3, 3, 4)]
    whole = paint(Memory(mode), frames)
    first = Memory(mode)
    paint(first, frames[:3])
    state = first.state()
    paint(first, frames[3:])  # what happens to the memory later does not reach its state
    resumed = Memory(mode)
    resumed.restore(state)
    for got, expected in zip(paint(resumed, frames[3:]), whole[3:], strict=True):
        np.testing.assert_array_equal(got, expected)
    assert any((a != b).any() for a, b in zip(paint(Memory(mode), frames[3:]), whole[3:], strict=True))


def test_frames_are_remembered_by_value():
    memory = Memory("blend")
    frame, result = SOURCE.copy(), RESULT.copy()
    memory.keep(frame, result)
    frame[:], result[:] = 0, 0
    assert memory.carry(SOURCE).pixels.equal(to_tensor(RESULT))
