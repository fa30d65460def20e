"""Cuts between scenes: whether a frame goes on from the one before."""

from __future__ import annotations

import numpy as np
from PIL import Image

from stdcli.media.arrays import check_rgb

THRESHOLD = 27.0
"""PySceneDetect's default for `ContentDetector`."""

_LONGER_SIDE_PX = 64  # of the copies compared: averaging keeps noise and small motion out


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a new scene begins at `after`; both uint8 [H, W, 3] of one size, one following the other."""
    return content_change(before, after) >= THRESHOLD


def content_change(before: np.ndarray, after: np.ndarray) -> float:
    """How much two frames differ: the mean over hue, saturation and value of the mean absolute difference.

    Hue runs from 0 to 180, saturation and value from 0 to 255, as in OpenCV, which the threshold is made for.
    Unlike there, hue is a circle: 179 and 1 differ by 2.

    Args:
        before, after: uint8 [H, W, 3] of one size.

    Returns:
        0 for equal frames, at most 200.

    Raises:
        ValueError: other shapes or dtypes.
    Source: PySceneDetect 0.6, `ContentDetector`, default weights (1, 1, 1, 0).
    """
    if before.shape != after.shape:
        raise ValueError(f"frames of different sizes: {list(before.shape)} and {list(after.shape)}")
    difference = np.abs(_hsv(before) - _hsv(after))
    difference[..., 0] = np.minimum(difference[..., 0], 180 - difference[..., 0])
    return float(difference.mean())


def _hsv(rgb: np.ndarray) -> np.ndarray:
    check_rgb(rgb)
    height, width = rgb.shape[:2]
    scale = min(1.0, _LONGER_SIDE_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = Image.fromarray(rgb).resize(size, Image.Resampling.BOX)
    return np.asarray(small.convert("HSV"), np.float64) * (180 / 256, 1, 1)
