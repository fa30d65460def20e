"""What one frame of a clip hands on to the next, so that paint stays where it was put.

The last result is mixed into the next one as far as it still fits: where the source has not changed
("blend"), or moved along with the source ("flow"). Beside it goes the source that it shows, mixed with the
same shares, so that slow changes add up and are seen. Nothing is handed on across a cut.

Results are mixed, not what they are made from: a result that is restyled frame after frame gathers ever more
texture, and is less steady than frames restyled each on their own (`tests/benchmarks/test_steadiness.py`).

Legend: H W pixels. Source: after Ruder 2016, "Artistic style transfer for videos", whose temporal loss ties
each result to the last one warped, wherever the flow can be followed.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn.functional import max_pool2d

from stdcli.media.arrays import check_rgb
from stdcli.media.cuts import is_cut
from stdcli.media.flow import box_mean, can_follow, dense_flows, warp

Mode = Literal["blend", "flow"]

LARGEST_WEIGHT = 0.5
"""Share of the last result where it fits; more is steadier, and wipes grain off what moves."""

_SAME, _OTHER = 4.0, 20.0
"""Differences of sources (0..255, local mean): up to the first it is noise, from the second on a change."""

_REACH_PX = 7  # side of the local mean, and of a change's soft edge


class Memory:
    """The last frame of a clip, its result, and what that shows.

    Args:
        mode: how the last result is brought to a new frame: as it is, or along the optical flow.
    """

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self._last: dict[str, np.ndarray] = {}

    def steady(self, source: np.ndarray, result: np.ndarray) -> np.ndarray:
        """A frame's result with the last one mixed in; remembered for the next frame.

        Args:
            source: uint8 [H, W, 3], the frame.
            result: the same, the frame restyled.

        Returns:
            uint8 [H, W, 3]; for the first frame and at a cut `result` as it is.

        Raises:
            ValueError: other shapes or dtypes, or the frame has another size than the last.
        """
        check_rgb(source)
        check_rgb(result)
        both = np.concatenate([source, result], 2).astype(np.float32)
        if self._last and not is_cut(self._last["source"], source):
            last, weight = self._carry(source)
            both += weight * (last - both)
        shown, mixed = np.split(both, 2, 2)
        self._last = {"source": source.copy(), "shown": shown, "result": mixed}
        return np.rint(mixed).astype(np.uint8)

    def _carry(self, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What was shown and its result, float32 [H, W, 6], at a frame's places, and weights [H, W, 1]."""
        shown, result = self._last["shown"], self._last["result"]
        weight = np.float32(LARGEST_WEIGHT)
        if self.mode == "flow":
            flow, back = dense_flows(source, self._last["source"])
            shown, result = warp(shown, flow), warp(result, flow, kind="bicubic").clip(0, 255)
            weight = weight * can_follow(flow, back)[..., None]
        return np.concatenate([shown, result], 2), weight * _agreement(source, shown)

    def state(self) -> dict[str, np.ndarray]:
        """All that is remembered, by name; empty before the first frame."""
        return {name: values.copy() for name, values in self._last.items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state`, to the same bytes."""
        self._last = {name: np.array(values) for name, values in state.items()}


def _agreement(source: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Float32 [H, W, 1] in [0, 1]: 1 where a frame is what the last result shows, 0 where it is not."""
    difference = torch.from_numpy(np.abs(source - shown)).mean(2)[None]
    change = ((box_mean(difference, _REACH_PX) - _SAME) / (_OTHER - _SAME)).clamp(0, 1)
    widened = _widened(change)  # so that the soft edge lies outside it
    return (1 - box_mean(widened, _REACH_PX)).clamp(0, 1).permute(1, 2, 0).numpy()


def _widened(values: torch.Tensor) -> torch.Tensor:
    """Maximum of [1, H, W] over a square, row by row and then column by column, for speed."""
    for along in ((1, _REACH_PX), (_REACH_PX, 1)):
        values = max_pool2d(values, along, 1, (along[0] // 2, along[1] // 2))
    return values
