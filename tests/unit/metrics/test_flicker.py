"""Flicker at rest against closed forms."""

import numpy as np
import pytest

from stdcli.metrics.flicker import METRIC, flicker
from stdcli.metrics.metric import NotMeasurable, Subject
from tests.tiny_subjects import NoBackbones, flat, noise


def test_a_frozen_clip_does_not_flicker():
    clip = np.stack([noise(0)] * 3)
    assert flicker(clip, clip) == 0


@pytest.mark.parametrize("levels", [[100, 130, 100], [130, 100, 130]])
def test_a_step_of_brightness_is_what_it_is_up_and_down(levels):
    frames, source = np.stack([flat(level) for level in levels]), np.stack([noise(0)] * 3)
    subject = Subject(frames, content=source)
    assert METRIC.measure(subject, NoBackbones()) == pytest.approx(30 / 255, rel=1e-12)


def test_channels_count_alike():
    frames = np.stack([flat((10, 10, 10)), flat((10, 40, 10))])
    assert flicker(frames, np.zeros_like(frames)) == pytest.approx(10 / 255, rel=1e-12)


def test_only_what_stands_still_counts_by_pixels():
    source = np.zeros((3, 40, 50, 3), np.uint8)
    source[1, :, :25, 1] = 3  # moves there and back in one channel
    source[2, :10] = 2  # still
    frames = np.zeros_like(source)
    frames[1:, :, 25:] = 51  # 0.2, at rest in the first pair
    frames[2, :, :25] = 255  # where it moves
    source[2, :, :25, 1] = 0
    assert flicker(frames, source) == pytest.approx(0.2 / 2, rel=1e-12)  # two pairs, one with the step


@pytest.mark.parametrize(("change", "value"), [(2, 0.2), (3, None)])
def test_the_threshold_of_rest(change, value):
    source = np.stack([flat(100), flat((100, 100, 100 - change))])
    frames = np.stack([flat(0), flat(51)])
    if value is None:
        with pytest.raises(NotMeasurable, match="stands still"):
            flicker(frames, source)
    else:
        assert flicker(frames, source) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("rows", "is_enough"), [(1, True), (0, False)])
def test_a_hundredth_must_stand_still(rows, is_enough):
    source = np.stack([flat(0, 100, 20), flat(200, 100, 20)])
    source[1, :rows] = 0
    frames = np.stack([flat(0, 100, 20), flat(51, 100, 20)])
    if is_enough:
        assert flicker(frames, source) == pytest.approx(0.2, rel=1e-12)
    else:
        with pytest.raises(NotMeasurable):
            flicker(frames, source)


def test_the_floor_is_what_the_source_itself_does():
    source = np.stack([flat(100), flat(102), flat(100)])
    assert flicker(source, source) == pytest.approx(2 / 255, rel=1e-12)


def test_one_frame_and_other_sizes():
    with pytest.raises(NotMeasurable, match="one frame"):
        flicker(noise(0)[None], noise(0)[None])
    with pytest.raises(ValueError, match="of a source"):
        flicker(noise(0, 20, 20)[None], noise(0)[None])
