"""Structural similarity of a result to its content."""

from __future__ import annotations

from statistics import fmean

from stdcli.metrics.luminance import luma
from stdcli.metrics.metric import Backbones, Metric, NotMeasurable, Subject
from stdcli.metrics.optional_packages import load_extra

WINDOW_PX = 11


def measure(subject: Subject, backbones: Backbones) -> float:
    """SSIM of luma, by scikit-image; 1 is the same picture.

    Raises:
        NotMeasurable: a side is below 11 pixels.
        ResourceError: scikit-image is not installed.
    Source: Wang 2004, "Image quality assessment: from error visibility to structural similarity".
    """
    if min(subject.frames.shape[1:3]) < WINDOW_PX:
        raise NotMeasurable(f"SSIM needs pictures of at least {WINDOW_PX} px")
    similarity = load_extra("skimage.metrics").structural_similarity
    wang = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(luma(subject.frames), luma(subject.content), strict=True)
    return fmean(float(similarity(frame, content, **wang)) for frame, content in pairs)


METRIC = Metric(
    name="ssim",
    title="SSIM",
    group="content",
    better="higher",
    lowest=-1,
    highest=1,
    needs=("content",),
    cite="Wang et al. 2004",
    protocol=(
        "scikit-image on luma (BT.601, not rounded) in 0..255, Gaussian window of 11 x 11 with sigma 1.5, "
        "K1 0.01, K2 0.03, population covariance, borders left out, no downsampling; mean over frames"
    ),
    measure=measure,
    packages=("skimage",),
)
