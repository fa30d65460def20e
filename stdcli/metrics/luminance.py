"""What measures see of a picture: luma, lightness and colour, at a size of their choice.

Legend: F frames, H W pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from stdcli.metrics.optional_packages import load_extra

LUMA = (0.299, 0.587, 0.114)


def luma(rgb: np.ndarray) -> np.ndarray:
    """Y' = 0.299 R' + 0.587 G' + 0.114 B', not rounded.

    Args:
        rgb: uint8 [..., 3].

    Returns:
        float64 [...] in [0, 255].
    Source: Recommendation ITU-R BT.601.
    """
    return rgb.astype(np.float64) @ np.array(LUMA)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of an sRGB picture (white point D65, observer of 2 degrees), by scikit-image.

    Args:
        rgb: uint8 [H, W, 3].

    Returns:
        float64 [H, W, 3]: L* in [0, 100], a* and b* within about +-110.

    Raises:
        ResourceError: scikit-image is not installed.
    """
    return load_extra("skimage.color").rgb2lab(rgb / 255)


def shrink(rgb: np.ndarray, shorter_px: int) -> np.ndarray:
    """A picture made smaller with Pillow's Lanczos filter; never larger.

    Args:
        rgb: uint8 [H, W, 3].
        shorter_px: the shorter side that is wanted.

    Returns:
        uint8 [h, w, 3] of the same aspect; `rgb` itself where it is no larger.
    """
    scale = shorter_px / min(rgb.shape[:2])
    if scale >= 1:
        return rgb
    height, width = (round(side * scale) for side in rgb.shape[:2])
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS))
