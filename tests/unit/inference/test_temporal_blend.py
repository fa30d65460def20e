"""What a clip hands on from frame to frame: shares, warping, cuts, and going on from a state."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stdcli.inference.temporal_blend import LARGEST_WEIGHT, TemporalBlend

WHITE = np.full((64, 80, 3), 255, np.uint8)
BLACK = np.zeros_like(WHITE)


def scene(seed: int, height: int = 80, width: int = 110) -> np.ndarray:
    rng = np.random.default_rng(seed)
    gray = rng.integers(60, 180, (height // 5, width // 5, 1))
    coarse = (gray + rng.integers(0, 20, (1, 1, 3))).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def view(picture: np.ndarray, x: int, y: int = 0) -> np.ndarray:
    """The part of a picture that a camera moved by (x, y) shows, 64 x 80."""
    return np.ascontiguousarray(picture[8 + y : 72 + y, 15 + x : 95 + x])


SOURCE = view(scene(0), 0)


def steady(memory: TemporalBlend, source: np.ndarray, result: np.ndarray) -> np.ndarray:
    """One frame, [H, W, 3]."""
    return memory.steady(source[None], result[None])[0]


def small(picture: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels, [1, 3, 32, 40], as what a result shows is kept."""
    return picture.reshape(32, 2, 40, 2, 3).mean((1, 3)).transpose(2, 0, 1)[None]


def share(memory: TemporalBlend, source: np.ndarray) -> np.ndarray:
    """[64, 80] in [0, 1]: how much of an all white last result is in an all black new one."""
    return steady(memory, source, BLACK)[..., 0] / 255


def after(mode: str, source: np.ndarray) -> TemporalBlend:
    """A memory that has seen one frame, whose result was white."""
    memory = TemporalBlend(mode)
    assert np.array_equal(steady(memory, source, WHITE), WHITE)
    return memory


@pytest.mark.parametrize("mode", ["blend", "flow"])
def test_results_in_a_still_picture_are_a_moving_average(mode):
    memory, expected = TemporalBlend(mode), np.zeros(SOURCE.shape)
    rng = np.random.default_rng(1)
    for weight in (0, *[LARGEST_WEIGHT] * 5):
        result = rng.integers(0, 256, SOURCE.shape, dtype=np.uint8)
        mixed = steady(memory, SOURCE, result)
        expected = weight * expected + (1 - weight) * result
        np.testing.assert_allclose(mixed, expected, atol=0.51)
    assert 0 < LARGEST_WEIGHT < 1


def test_a_result_that_stays_comes_through_whole():
    """No rounding accumulates: a new level is reached, not approached to within a level or two."""
    memory = after("blend", SOURCE)
    for _ in range(40):
        mixed = steady(memory, SOURCE, BLACK)
    assert (mixed == 0).all()


def test_noise_is_no_change_and_a_moved_thing_is_one():
    rng = np.random.default_rng(3)
    before, now = (np.clip(SOURCE + rng.normal(0, 2, SOURCE.shape), 0, 255) for _ in range(2))
    now[20:40, 30:50] /= 3
    found = share(after("blend", before.astype(np.uint8)), now.astype(np.uint8))
    assert (found[20:40, 30:50] == 0).all()
    far = np.ones(found.shape, bool)
    far[10:50, 20:60] = False
    np.testing.assert_allclose(found[far], LARGEST_WEIGHT, atol=0.003)
    assert np.abs(np.diff(found, axis=0)).max() < 0.2 * LARGEST_WEIGHT, "the edge is hard"


def test_slow_changes_add_up():
    """A step of 3 of 255 is noise, however often; a fade in such steps is no noise."""
    memory, shares = after("blend", SOURCE), []
    for step in range(1, 15):
        before = memory.state()["result"].mean()
        mixed = steady(memory, SOURCE + np.uint8(3 * step), BLACK).mean()
        shares.append(mixed / before if before > 1 else 0)
        memory.restore(memory.state() | {"result": np.full((1, 3, 64, 80), 255, np.float32)})
    assert shares[0] == pytest.approx(LARGEST_WEIGHT, abs=0.01)
    assert shares[-1] < 0.95 * LARGEST_WEIGHT


def test_the_source_shown_is_mixed_as_the_results_are():
    memory = after("blend", SOURCE)
    steady(memory, SOURCE + np.uint8(2), BLACK)
    np.testing.assert_allclose(memory.state()["shown"], small(SOURCE) + 2 * (1 - LARGEST_WEIGHT), atol=1e-4)


@pytest.mark.parametrize("mode", ["blend", "flow"])
def test_nothing_is_carried_over_a_cut(mode):
    memory, other = after(mode, SOURCE), 255 - SOURCE // 4
    assert (steady(memory, other, BLACK) == 0).all()
    np.testing.assert_allclose(memory.state()["shown"], small(other), atol=1e-4)
    assert steady(memory, other, WHITE).mean() < 200, "the scene after the cut goes on"


@pytest.mark.parametrize("mode", ["blend", "flow"])
def test_a_cut_counts_even_between_scenes_as_dark_as_each_other(mode):
    """Dark red to dark cyan: 15 of 255 apart, which alone would pass for slow change; in hue all the way."""
    red, cyan = np.zeros_like(SOURCE), np.zeros_like(SOURCE)
    red[..., 0], cyan[..., 1:] = 15, 15
    assert (steady(after(mode, red), cyan, BLACK) == 0).all()
    almost = np.zeros_like(SOURCE)
    almost[..., 0] = 4
    assert (steady(after(mode, red), almost, BLACK) > 0).any()


def test_flow_moves_the_result_along():
    """The camera pans: what it sees twice is carried in place, what comes in at the edges is new."""
    paint = scene(1)
    memory = TemporalBlend("flow")
    steady(memory, view(scene(0), 0), view(paint, 0))
    mixed = steady(memory, view(scene(0), 4, 2), view(paint, 4, 2))
    assert np.abs(mixed.astype(int) - view(paint, 4, 2))[8:-8, 8:-8].mean() < 3
    found = share(after("flow", view(scene(0), 0)), view(scene(0), 4, 2))
    assert found[8:-8, 8:-8].mean() > 0.9 * LARGEST_WEIGHT
    assert (found[:, -3:] == 0).all() and (found[-1:] == 0).all()
    assert share(after("blend", view(scene(0), 0)), view(scene(0), 4, 2)).mean() < 0.1 * LARGEST_WEIGHT


@pytest.mark.parametrize("mode", ["blend", "flow"])
def test_a_clip_goes_on_from_a_state_to_the_same_bytes(mode):
    frames = [view(scene(0), x) for x in (0, 1, 1, 3, 3, 4)]
    results = list(np.random.default_rng(2).integers(0, 256, (6, *SOURCE.shape), dtype=np.uint8))
    whole = TemporalBlend(mode)
    expected = [steady(whole, *pair) for pair in zip(frames, results, strict=True)]
    first = TemporalBlend(mode)
    for pair in zip(frames[:3], results[:3], strict=True):
        steady(first, *pair)
    state = first.state()
    steady(first, frames[3], WHITE)  # what the memory does later does not reach its state
    resumed, fresh = TemporalBlend(mode), TemporalBlend(mode)
    resumed.restore(state)
    for index in range(3, 6):
        np.testing.assert_array_equal(steady(resumed, frames[index], results[index]), expected[index])
    assert (steady(fresh, frames[3], results[3]) != expected[3]).any()
    assert TemporalBlend(mode).state() == {}


@pytest.mark.parametrize("mode", ["blend", "flow"])
def test_frames_of_a_batch_hand_on_in_their_order(mode):
    """As one by one, with a cut inside the batch."""
    frames = np.stack(
        [*(view(scene(0), x) for x in (0, 1, 2)), *(255 - view(scene(4), x) // 4 for x in (0, 2))]
    )
    results = np.random.default_rng(2).integers(0, 256, frames.shape, dtype=np.uint8)
    alone, together = TemporalBlend(mode), TemporalBlend(mode)
    expected = np.stack([steady(alone, *pair) for pair in zip(frames, results, strict=True)])
    np.testing.assert_array_equal(expected[3], results[3])
    assert (expected[[1, 2, 4]] != results[[1, 2, 4]]).any((1, 2, 3)).all()
    mixed = np.concatenate(
        [together.steady(frames[part], results[part]) for part in (slice(0, 2), slice(2, 5))]
    )
    assert np.abs(mixed.astype(int) - expected).max() <= 1


def test_frames_are_remembered_by_value():
    memory, frame, result = TemporalBlend("blend"), SOURCE.copy(), WHITE.copy()
    steady(memory, frame, result)
    frame[:], result[:] = 0, 0
    np.testing.assert_allclose(share(memory, SOURCE), LARGEST_WEIGHT, atol=0.003)


def test_frames_of_another_kind_are_refused():
    memory = after("blend", SOURCE)
    with pytest.raises(ValueError, match="uint8"):
        steady(memory, SOURCE / 255, BLACK)
    with pytest.raises(ValueError, match="different sizes"):
        steady(memory, SOURCE[:-1], BLACK[:-1])


@pytest.mark.parametrize("mode", ["blend", "flow"])
def test_what_was_not_painted_is_not_mixed_in(mode):
    """A mask that opens: at once full paint where it was closed, mixed where it was open."""
    memory = TemporalBlend(mode)
    left = np.zeros((1, *SOURCE.shape[:2]), bool)
    left[..., :40] = True
    memory.steady(SOURCE[None], WHITE[None], left)
    again = TemporalBlend(mode)
    again.restore(memory.state())
    for one in (memory, again):
        shares = one.steady(SOURCE[None], BLACK[None], np.ones_like(left))[0, ..., 0] / 255
        assert (shares[:, 40:] == 0).all()
        np.testing.assert_allclose(shares[:, :34], LARGEST_WEIGHT, atol=0.003)
    assert set(memory.state()) == {"source", "shown", "result", "painted"}
