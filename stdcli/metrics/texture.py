"""How far the small structures of a result, strokes and grain, are from those of its style."""

from __future__ import annotations

import numpy as np

from stdcli.metrics.luminance import lab
from stdcli.metrics.metric import Backbones, Metric, NotMeasurable, Subject
from stdcli.metrics.wasserstein import PROTOCOL, draw, mean_distance, quantiles

PATCH_PX, SCALES = 7, (1, 2)
SMALLEST_PX = PATCH_PX * max(SCALES)


def measure(subject: Subject, backbones: Backbones) -> float:
    """Sliced Wasserstein distance between patches of lightness; 0 is the same texture.

    Raises:
        NotMeasurable: a picture has a side below 14 pixels.
        ResourceError: scikit-image is not installed.
    """
    return mean_distance(subject, _describe)


def _describe(rgb: np.ndarray) -> np.ndarray:
    if min(rgb.shape[:2]) < SMALLEST_PX:
        raise NotMeasurable(f"texture needs pictures of at least {SMALLEST_PX} px")
    lightness = lab(rgb)[..., 0]
    return np.stack([quantiles(patches(_shrink(lightness, scale))) for scale in SCALES])


def patches(lightness: np.ndarray) -> np.ndarray:
    """Square patches, each without its mean.

    Args:
        lightness: [H, W], sides of at least 7.

    Returns:
        [N, 49], at most so many as `draw` takes.
    """
    windows = np.lib.stride_tricks.sliding_window_view(lightness, (PATCH_PX, PATCH_PX))
    rows, columns = np.divmod(draw(windows.shape[0] * windows.shape[1]), windows.shape[1])
    flat = windows[rows, columns].reshape(-1, PATCH_PX**2)
    return flat - flat.mean(1, keepdims=True)


def _shrink(lightness: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks; a rest at the right and lower edge is left out."""
    height, width = (side // factor for side in lightness.shape)
    whole = lightness[: height * factor, : width * factor]
    return whole.reshape(height, factor, width, factor).mean((1, 3))


METRIC = Metric(
    name="texture",
    title="texture distance",
    group="style",
    better="lower",
    lowest=0,
    highest=None,
    needs=("style",),
    cite="sliced Wasserstein distance: Bonneel et al. 2015; of patches: Heitz et al. 2021, who take features",
    protocol=(
        f"{PATCH_PX} x {PATCH_PX} patches of lightness L* less their mean, at full size and in means of "
        f"2 x 2 pixels, averaged; {PROTOCOL}"
    ),
    measure=measure,
    unit="L*",
    packages=("skimage",),
)
