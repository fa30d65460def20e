"""Whether the edges of a result are where those of its content are."""

from __future__ import annotations

from statistics import fmean

import numpy as np

from stdcli.metrics.luminance import luma
from stdcli.metrics.metric import Backbones, Metric, NotMeasurable, Subject
from stdcli.metrics.optional_packages import load_extra

SIGMA_PX = 1.5
FLAT = 1e-6
"""A standard deviation of gradients, in levels of 0..255, that is only rounding."""


def measure(subject: Subject, backbones: Backbones) -> float:
    """Pearson correlation of the gradient magnitudes; 1 where all edges are the same but for contrast.

    A flat result has correlation 0 with a content that has edges.

    Raises:
        NotMeasurable: no frame of the content has edges.
        ResourceError: scikit-image is not installed.
    """
    frames, contents = (map(gradient_magnitude, luma(clip)) for clip in (subject.frames, subject.content))
    pairs = zip(frames, contents, strict=True)
    found = [_correlation(frame, content) for frame, content in pairs if content.std() > FLAT]
    if not found:
        raise NotMeasurable("the content has no edges")
    return fmean(found)


def gradient_magnitude(luma: np.ndarray) -> np.ndarray:
    """Length of the gradient (central differences) after a Gaussian blur, borders continued: [H, W] both."""
    blurred = load_extra("skimage.filters").gaussian(luma, SIGMA_PX, mode="nearest", preserve_range=True)
    return np.hypot(*np.gradient(blurred))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    spread = one.std()
    return float((one * other).mean() / (spread * other.std())) if spread > FLAT else 0.0


METRIC = Metric(
    name="edges",
    title="edge correlation",
    group="content",
    better="higher",
    lowest=-1,
    highest=1,
    needs=("content",),
    cite="Pearson correlation of gradient magnitudes",
    protocol=(
        f"luma (BT.601), Gaussian blur of sigma {SIGMA_PX} px cut off at 4 sigma, central differences; mean "
        "over those frames whose content is not flat"
    ),
    measure=measure,
    packages=("skimage",),
)
