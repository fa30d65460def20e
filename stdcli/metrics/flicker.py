"""Flicker where nothing moves: how much a result changes where its source stands still."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from stdcli.metrics.metric import Backbones, Metric, NotMeasurable, Subject

STILL_LEVELS = 2
LEAST_SHARE = 0.01


def measure(subject: Subject, backbones: Backbones) -> float:
    """Mean absolute change of a result between neighbouring frames, in [0, 1], where its source stands still.

    Raises:
        NotMeasurable: a clip of one frame, or less than 1 % of the source stands still.
    """
    return flicker(subject.frames, subject.content)


def flicker(frames: np.ndarray, source: np.ndarray) -> float:
    """The same of a clip and its source; of a source and itself it is the floor that its own noise makes.

    Args:
        frames, source: uint8 [F, H, W, 3].

    Raises:
        NotMeasurable: as in `measure`.
        ValueError: another shape.
    """
    if frames.shape != source.shape:
        raise ValueError(f"a clip {list(frames.shape)} of a source {list(source.shape)}")
    if len(frames) < 2:
        raise NotMeasurable("a clip of one frame has no flicker")
    total, count = 0.0, 0
    for pair, source_pair in zip(pairwise(frames), pairwise(source), strict=True):
        still = _change(*source_pair).max(-1) <= STILL_LEVELS
        total += float(_change(*pair)[still].mean(-1).sum())
        count += int(still.sum())
    if count < LEAST_SHARE * frames[1:, ..., 0].size:
        raise NotMeasurable(f"less than {LEAST_SHARE:.0%} of the source stands still")
    return total / count / 255


def _change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """|after - before| of uint8, without wrapping around: int16."""
    return np.abs(after.astype(np.int16) - before)


METRIC = Metric(
    name="flicker",
    title="flicker at rest",
    group="video",
    better="lower",
    lowest=0,
    highest=1,
    needs=("content", "clip"),
    cite="mean absolute difference, as temporal flickering of VBench (Huang et al. 2024), but at rest alone",
    protocol=(
        "mean |change| of RGB in 0..1 between neighbouring frames, over all pixels where no channel of the "
        f"source changes by more than {STILL_LEVELS} of 255; not measured below {LEAST_SHARE:.0%} of all"
    ),
    measure=measure,
)
