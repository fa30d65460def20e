"""How far the colours of a result are from those of its style, wherever in the picture they are."""

from __future__ import annotations

import numpy as np

from stdcli.metrics.luminance import lab
from stdcli.metrics.metric import Backbones, Metric, Subject
from stdcli.metrics.wasserstein import PROTOCOL, draw, mean_distance, quantiles


def measure(subject: Subject, backbones: Backbones) -> float:
    """Sliced Wasserstein distance between colours, in units of CIELAB; 0 is the same palette.

    Raises:
        ResourceError: scikit-image is not installed.
    """
    return mean_distance(subject, _describe)


def _describe(rgb: np.ndarray) -> np.ndarray:
    colors = rgb.reshape(-1, 3)
    return quantiles(lab(colors[draw(len(colors))][None])[0])


METRIC = Metric(
    name="palette",
    title="palette distance",
    group="style",
    better="lower",
    lowest=0,
    highest=None,
    needs=("style",),
    cite="sliced Wasserstein distance: Bonneel et al. 2015; colour space: CIELAB 1976",
    protocol=f"colours in CIELAB (sRGB, D65); {PROTOCOL}",
    measure=measure,
    unit="Lab",
    packages=("skimage",),
)
