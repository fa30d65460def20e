"""Scene cuts: where the frame before tells nothing about this one."""

from __future__ import annotations

import numpy as np
from PIL import Image

THRESHOLD = 27.0
"""Mean change of hue, saturation and value, each on a scale of 0..255."""
SMALL_PX = 64


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a scene ends between two frames of one size, uint8 [H, W, 3].

    The rule and threshold of PySceneDetect's content detector, on small copies; hue is a circle here, so that
    two reds are neighbours.
    """
    return change(before, after) >= THRESHOLD


def change(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute difference of hue, saturation and value, 0..255."""
    apart = np.abs(_small_hsv(before) - _small_hsv(after))
    apart[..., 0] = np.minimum(apart[..., 0], 256 - apart[..., 0])
    return float(apart.mean())


def _small_hsv(frame: np.ndarray) -> np.ndarray:
    image = Image.fromarray(frame)
    image.thumbnail((SMALL_PX, SMALL_PX), Image.Resampling.BOX)
    return np.asarray(image.convert("HSV")).astype(np.int16)
