"""Every metric that needs no network: its entry, its perfect value, and values that must not drift."""

from math import isclose

import numpy as np
import pytest

from stdcli.metrics.metric import Flows, Subject
from stdcli.metrics.registry import METRICS, find_metric
from tests.tiny_subjects import NoBackbones, noise, smooth

pytest.importorskip("skimage")

PERFECT = {
    "palette": 0,
    "texture": 0,
    "edges": 1,
    "ssim": 1,
    "sharpness": 0,
    "warping": 0,
    "flicker": 0,
}
KNOWN = {
    "palette": 3.845375,
    "texture": 2.271551,
    "edges": 0.8698777,
    "ssim": 0.7594293,
    "sharpness": 5.275461,
    "warping": 0.1171369,
    "flicker": 0.140352,
}
"""Of the clip below, measured by the first version; each file tests how such values come about."""


def clip(*, mixed: int) -> np.ndarray:
    """Three frames of waves that move by 2 px, with so many percent of noise over the right half."""
    frames = np.stack([smooth(0, shift=(2 * i, 0)) for i in range(3)]).astype(float)
    frames[:, :, 32:] *= 1 - mixed / 100
    grain = np.stack([noise(10 + i) for i in range(3)])
    return (frames + mixed / 100 * grain * (np.arange(64) >= 32)[:, None]).astype(np.uint8)


def subject(*, mixed: int = 40, resting: bool = False) -> Subject:
    source = np.stack([smooth(0)] * 3) if resting else clip(mixed=0)
    forward = np.zeros((2, 48, 64, 2), np.float32) + np.array([2, 0], np.float32)
    flows = Flows(backward=-forward, forward=forward, method="opencv-dis-medium")
    styles = (smooth(7, 60, 90), smooth(8, 90, 50))
    return Subject(clip(mixed=mixed), content=source, styles=styles, flows=flows)


def measured(name: str, shown: Subject) -> float:
    return find_metric(name).measure(shown, NoBackbones())


@pytest.mark.parametrize("name", sorted(PERFECT))
def test_an_entry_is_whole(name):
    metric = find_metric(name)
    assert metric.name == name in METRICS
    assert metric.cite and metric.protocol and metric.title
    assert metric.backbones == ()
    assert PERFECT[name] == (metric.lowest if metric.better == "lower" else metric.highest)
    assert ("clip" in metric.needs) == (metric.group == "video")


@pytest.mark.parametrize("name", sorted(PERFECT))
def test_what_is_the_same_is_perfect(name):
    frames = np.stack([smooth(0)] * 3) if name == "flicker" else clip(mixed=0)
    shown = Subject(frames, content=frames, styles=(frames[0],), flows=subject().flows)
    if name in ("palette", "texture", "sharpness"):
        shown = Subject(frames[:1], styles=(frames[0],))
    assert isclose(measured(name, shown), PERFECT[name], abs_tol=1e-9)


@pytest.mark.parametrize("name", sorted(PERFECT))
def test_values_stay(name):
    shown = subject(resting=name == "flicker")
    value = measured(name, shown)
    assert value == pytest.approx(KNOWN[name], rel=1e-3)
    assert value == measured(name, shown)
    assert value != pytest.approx(measured(name, subject(mixed=20, resting=name == "flicker")), rel=0.02)
