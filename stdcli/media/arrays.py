"""Pictures as arrays, uint8 [H, W, 3] in 0..255, sRGB: checking and resizing. No files, no tensors."""

from __future__ import annotations

import numpy as np
from PIL import Image

from stdcli.errors import MediaError


def fit_max_size(rgb: np.ndarray, max_size: int) -> np.ndarray:
    """Shrink so that the longer side is at most `max_size` pixels, keeping the aspect; never enlarge.

    Args:
        rgb: uint8 [H, W, 3].
        max_size: in pixels, at least 1.

    Returns:
        uint8 [h, w, 3], each side at least one pixel; `rgb` itself where it fits.

    Raises:
        ValueError: `max_size` below 1, or `rgb` of another shape or dtype.
    """
    check_rgb(rgb)
    if max_size < 1:
        raise ValueError(f"max_size must be at least 1, got {max_size}")
    return resize(rgb, *fitting_size(rgb.shape[:2], max_size))


def fitting_size(size_px: tuple[int, int], max_size: int) -> tuple[int, int]:
    """(H, W) shrunk so that the longer side is at most `max_size`, each side at least 1; never enlarged."""
    longer = max(size_px)
    if longer <= max_size:
        return size_px
    height, width = (max(1, round(side * max_size / longer)) for side in size_px)
    return height, width


def resize(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize with Pillow's Lanczos filter, which averages when it shrinks.

    Args:
        rgb: uint8 [H, W, 3].
        height, width: wanted, in pixels.

    Returns:
        uint8 [height, width, 3]; `rgb` itself where it has that size.
    """
    check_rgb(rgb)
    if rgb.shape[:2] == (height, width):
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS))


def hide_transparent(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Replace colours that nobody sees: where alpha is 0, the mean of what is visible.

    Whatever an editor left there, an encoder and statistics of colour see the same; the mean adds no contrast
    of its own, and leaves the mean as it is.

    Args:
        rgb: uint8 [H, W, 3].
        alpha: uint8 [H, W], 0 transparent, 255 opaque; the weight of a pixel in the mean.

    Returns:
        uint8 [H, W, 3]; `rgb` itself where nothing is hidden. Mid-grey all over where all is.
    """
    hidden = alpha == 0
    if not hidden.any():
        return rgb
    weight = alpha.astype(np.int64)
    total = int(weight.sum())
    sums = [int((rgb[..., channel] * weight).sum()) for channel in range(3)]
    fill = [(2 * value + total) // (2 * total) for value in sums] if total else [128] * 3
    result = rgb.copy()
    result[hidden] = fill
    return result


def as_frames(array: np.ndarray) -> np.ndarray:
    """One picture or several as frames: uint8 [H, W, 3] or [N, H, W, 3] -> [N, H, W, 3].

    Raises:
        MediaError: another dtype or shape, or no pixels.
    """
    frames = array[None] if array.ndim == 3 else array
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or frames.size == 0:
        got = f"{array.dtype} {list(array.shape)}"
        raise MediaError("not an array of pictures", got=got, expected="uint8 [H, W, 3] or [N, H, W, 3]")
    return np.ascontiguousarray(frames)


def check_rgb(rgb: np.ndarray) -> None:
    """Raise ValueError unless `rgb` is uint8 [H, W, 3] with at least one pixel."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ValueError(f"expected uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
