"""Whether a result is as sharp as its style: softer and harsher both count."""

from __future__ import annotations

from math import log2
from statistics import fmean

import numpy as np

from stdcli.metrics.luminance import luma, shrink
from stdcli.metrics.metric import Backbones, Metric, NotMeasurable, Subject

ROUNDING = 20 / 12
"""Variance that rounding to 8 bits (1/12) leaves after the Laplacian (sum of squared weights 20)."""


def measure(subject: Subject, backbones: Backbones) -> float:
    """|log2| of the ratio of Laplacian variances, result over style: 0 equally sharp, 1 a factor of two.

    Raises:
        NotMeasurable: a picture has a side below 3 pixels.
    """
    shorter_px = min(subject.frames.shape[1:3])
    styles = [_log_variance(shrink(style, shorter_px)) for style in subject.styles]
    frames = map(_log_variance, subject.frames)
    return fmean(abs(frame - style) for frame in frames for style in styles)


def _log_variance(rgb: np.ndarray) -> float:
    return log2(laplacian_variance(rgb) + ROUNDING)


def laplacian_variance(rgb: np.ndarray) -> float:
    """Variance, over all inner pixels, of 4 Y(p) less its four neighbours.

    Args:
        rgb: uint8 [H, W, 3].

    Returns:
        In squared levels of 0..255.

    Raises:
        NotMeasurable: a side is below 3.
    Source: Pech-Pacheco 2000, "Diatom autofocusing in brightfield microscopy".
    """
    if min(rgb.shape[:2]) < 3:
        raise NotMeasurable("sharpness needs pictures of at least 3 px")
    y = luma(rgb)
    around = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:]
    return float((4 * y[1:-1, 1:-1] - around).var())


METRIC = Metric(
    name="sharpness",
    title="sharpness gap to the style",
    group="looks",
    better="lower",
    lowest=0,
    highest=None,
    needs=("style",),
    cite="variance of the Laplacian: Pech-Pacheco et al. 2000",
    protocol=(
        "|log2(v(result) / v(style))|, v = variance of the 4-neighbour Laplacian of luma (BT.601) + 5/3 for "
        "rounding; softer and sharper than the style count alike; styles shrunk by Lanczos to the shorter "
        "side of the result, never enlarged; mean over styles and frames"
    ),
    measure=measure,
    unit="octaves",
)
