"""Motion between two frames: dense optical flow, warping along it, and where it cannot be followed.

A flow is float32 [H, W, 2], in pixels, x then y: the point p of one frame lies at p + flow(p) in the other.
Knows nothing of clips or models. OpenCV is needed for `dense_flow` alone, and imported there.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn.functional import grid_sample

from stdcli.errors import ResourceError
from stdcli.media.arrays import check_rgb

_SMALLEST_SIDE_PX = 16
"""OpenCV refuses frames of 8 pixels; smaller ones than this are continued by their edges."""


def require_opencv() -> None:
    """Make sure that motion can be followed.

    Raises:
        ResourceError: OpenCV is not installed.
    """
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            "following motion needs OpenCV, which is not installed", hint="pip install 'stdcli[flow]'"
        ) from error


def dense_flow(frame: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where every point of a frame lies in another frame, by OpenCV's DIS at its medium preset.

    Args:
        frame, other: uint8 [H, W, 3].

    Returns:
        float32 [H, W, 2], pixels; the same for any number of threads.

    Raises:
        ResourceError: OpenCV is not installed.
        ValueError: other shapes or dtypes.
    Source: Kroeger 2016, "Fast optical flow using dense inverse search".
    """
    check_rgb(frame)
    if frame.shape != other.shape:
        raise ValueError(f"frames of different sizes: {list(frame.shape)} and {list(other.shape)}")
    check_rgb(other)
    require_opencv()
    import cv2

    height, width = frame.shape[:2]
    margins = [(0, max(_SMALLEST_SIDE_PX - side, 0)) for side in (height, width)]
    grey = [np.pad(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), margins, "edge") for rgb in (frame, other)]
    solver = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.ascontiguousarray(solver.calc(*grey, None)[:height, :width])


def warp(
    values: np.ndarray, flow: np.ndarray, *, kind: Literal["bilinear", "bicubic"] = "bilinear"
) -> np.ndarray:
    """Values fetched along a flow: at p those of p + flow(p), continued by the edges.

    Args:
        values: float32 [H, W, C] of the frame that the flow leads to.
        flow: float32 [H, W, 2], pixels.
        kind: bicubic stays sharper when warped again and again, and overshoots at edges.

    Returns:
        float32 [H, W, C].
    """
    height, width = values.shape[:2]
    scale = 2 / np.array([max(width - 1, 1), max(height - 1, 1)], np.float32)  # grid_sample: corners at +-1
    places = torch.from_numpy(_places(flow) * scale - 1)[None]
    pixels = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)[None]
    moved = grid_sample(pixels, places, kind, padding_mode="border", align_corners=True)
    return moved[0].permute(1, 2, 0).contiguous().numpy()


def can_follow(flow: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Where a flow can be trusted: it stays inside the frame, and the flow back returns to the start.

    Args:
        flow: float32 [H, W, 2], pixels, from a frame to another.
        back: the same from the other frame to this one.

    Returns:
        bool [H, W]; False where the other frame does not show what is there.

    Source: Ruder 2016, "Artistic style transfer for videos", section 4.2 (disocclusion), after Sundaram 2010.
    """
    height, width = flow.shape[:2]
    returned = warp(back, flow)
    gap = _squared(flow + returned)
    length = _squared(flow) + _squared(returned)
    x, y = np.moveaxis(_places(flow), 2, 0)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return inside & (gap <= 0.01 * length + 0.5)


def _places(flow: np.ndarray) -> np.ndarray:
    """Where the flow leads: float32 [H, W, 2], pixels, x then y."""
    height, width = flow.shape[:2]
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), 2).astype(np.float32) + flow


def _squared(flow: np.ndarray) -> np.ndarray:
    """Squared lengths [H, W], square pixels."""
    return np.square(flow[..., 0]) + np.square(flow[..., 1])
