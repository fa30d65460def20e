"""Small pictures and flows for tests of metrics, from formulas, and networks for those that want none."""

from __future__ import annotations

import numpy as np

from stdcli.metrics.metric import Backbone, Flows


class NoBackbones:
    """What a metric without networks is handed."""

    def get(self, name: str) -> Backbone:
        raise AssertionError(f"asked for {name}")


def noise(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Independent pixels, uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(
    seed: int, height: int = 48, width: int = 64, *, shift: tuple[float, float] = (0, 0)
) -> np.ndarray:
    """A sum of waves of 8 to 24 pixels, uint8 [H, W, 3]; moved right and down by `shift` (x, y) pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width][..., None].astype(float)
    x, y = x - shift[0], y - shift[1]
    angles, lengths, phases = rng.uniform(0, np.pi, 12), rng.uniform(8, 24, 12), rng.uniform(0, 6.28, (12, 3))
    waves = [
        np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / length + phase)
        for angle, length, phase in zip(angles, lengths, phases, strict=True)
    ]
    return np.clip(128 + 24 * sum(waves), 0, 255).round().astype(np.uint8)


def flat(level: int | tuple[int, int, int], height: int = 48, width: int = 64) -> np.ndarray:
    """One colour all over, uint8 [H, W, 3]."""
    return np.broadcast_to(np.array(level, np.uint8), (height, width, 3)).copy()


def still(frames: np.ndarray, method: str = "opencv-dis-medium") -> Flows:
    """Flows of a clip in which nothing moves."""
    zeros = np.zeros((len(frames) - 1, *frames.shape[1:3], 2), np.float32)
    return Flows(backward=zeros, forward=zeros.copy(), method=method)
