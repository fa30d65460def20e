"""The sliced Wasserstein distance between clouds of points, such as the colours of two pictures.

W(p, q) = mean over unit directions d of the integral over u in [0, 1] of |P_d(u) - Q_d(u)|, where P_d(u) and
Q_d(u) are the quantiles of the points projected on d: what it takes to move one cloud into the other.

Source: Bonneel 2015, "Sliced and Radon Wasserstein barycenters of measures", with the 1-distance; Heitz 2021,
"A sliced Wasserstein loss for neural texture synthesis".

Legend: N points, D dimensions, K directions, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import numpy as np
import torch

from stdcli.metrics.luminance import shrink
from stdcli.metrics.metric import Subject
from stdcli.runtime.seeding import fold

NUM_DIRECTIONS, NUM_QUANTILES, MAX_POINTS = 64, 256, 65_536
PROTOCOL = (
    f"sliced 1-Wasserstein, {NUM_DIRECTIONS} fixed directions, {NUM_QUANTILES} quantiles, at most "
    f"{MAX_POINTS} points of a picture, drawn evenly; styles shrunk by Lanczos to the shorter side of the "
    "result, never enlarged; mean over styles and frames"
)


def wasserstein(one: np.ndarray, other: np.ndarray) -> float:
    """Sliced distance between two clouds, [N, D] each, in their own unit; they may differ in number."""
    return float(np.abs(quantiles(one) - quantiles(other)).mean())


def quantiles(points: np.ndarray) -> np.ndarray:
    """What the distance compares of a cloud.

    Args:
        points: [N, D], at least one.

    Returns:
        float64 [K, Q]: quantiles at (q + 1/2) / Q of the points along each direction. The n-th of N points in
        order is taken for the one at (n + 1/2) / N (Hazen's rule), with straight lines between.
    """
    along = np.sort(_directions(points.shape[1]) @ points.T, axis=1)
    places = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES * along.shape[1] - 0.5
    places = places.clip(0, along.shape[1] - 1)
    below = places.astype(int)
    above = np.minimum(below + 1, along.shape[1] - 1)
    return along[:, below] + (places - below) * (along[:, above] - along[:, below])


def _directions(num_dimensions: int) -> np.ndarray:
    """The same unit vectors every time: float64 [K, D]."""
    generator = fold(0, "directions", num_dimensions)
    drawn = torch.randn(NUM_DIRECTIONS, num_dimensions, generator=generator).double().numpy()
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def draw(count: int) -> np.ndarray:
    """Which of `count` points are taken: all of them up to a limit, then that many, the same every time.

    Returns:
        int64, at most `MAX_POINTS` distinct indices.
    """
    if count <= MAX_POINTS:
        return np.arange(count)
    return torch.randperm(count, generator=fold(0, "points", count))[:MAX_POINTS].numpy()


def mean_distance(subject: Subject, describe: Callable[[np.ndarray], np.ndarray]) -> float:
    """Mean distance of every frame to every style.

    Args:
        subject: with styles.
        describe: a picture, uint8 [H, W, 3], to what `quantiles` gives of it.

    Raises:
        NotMeasurable: a picture is too small for `describe`.
    """
    shorter_px = min(subject.frames.shape[1:3])
    styles = [describe(shrink(style, shorter_px)) for style in subject.styles]
    frames = map(describe, subject.frames)
    return fmean(float(np.abs(frame - style).mean()) for frame in frames for style in styles)
