"""What one frame of a clip hands on to the next, so that paint stays where it was put.

The last result is mixed into the next frame before the noise, as far as it still fits: where the source has
not changed ("blend"), or moved along with the source ("flow"). Beside it goes the source that it shows, mixed
with the same shares, so slow changes add up and are seen. Nothing is handed on across a cut.

Legend: H W pixels at computing size. Source: after Ruder 2016, "Artistic style transfer for videos", which
starts each frame from the last one warped.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, max_pool2d

from stdcli.apply.stylizer import Carried
from stdcli.media.cuts import is_cut
from stdcli.media.flow import can_follow, dense_flow, warp

Mode = Literal["blend", "flow"]

LARGEST_WEIGHT = 0.6
"""Share of the last result where nothing changed; below 1, so that what it shows wears off."""

_SAME, _OTHER = 4.0, 20.0
"""Differences of sources (0..255, local mean): up to the first it is noise, from the second on a change."""

_REACH_PX = 7  # side of the local mean, and of a change's soft edge


class Memory:
    """The last frame of a clip and its result.

    For each frame: `carry`, stylize, `keep`.
    """

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self._kept: dict[str, np.ndarray] = {}
        self._mixed: tuple[np.ndarray, np.ndarray] | None = None

    def carry(self, source: np.ndarray) -> Carried | None:
        """What to mix into a frame.

        Args:
            source: uint8 [H, W, 3], the frame.

        Returns:
            The last result with its weights, of batch 1; None for the first frame and at a cut.

        Raises:
            ResourceError: mode "flow" without OpenCV.
            ValueError: the frame has another size than the last.
        """
        self._mixed = None
        if not self._kept or is_cut(self._kept["source"], source):
            return None
        shown, result = self._kept["shown"], self._kept["result"].astype(np.float32)
        if self.mode == "blend":
            weight = _agreement(source, shown)
        else:
            flow = dense_flow(source, self._kept["source"])
            back = dense_flow(self._kept["source"], source)
            shown, result = np.split(warp(np.concatenate([shown, result], 2), flow), 2, 2)
            weight = _agreement(source, shown) * can_follow(flow, back)
        weight *= np.float32(LARGEST_WEIGHT)
        self._mixed = shown, weight[..., None]
        pixels = torch.from_numpy(result).permute(2, 0, 1)[None] / 127.5 - 1
        return Carried(pixels, torch.from_numpy(weight)[None, None])

    def keep(self, source: np.ndarray, result: np.ndarray) -> None:
        """Remember a frame and its result, both uint8 [H, W, 3]; the frame is the one last asked for."""
        shown = source.astype(np.float32)
        if self._mixed is not None:
            old, weight = self._mixed
            shown += weight * (old - shown)
        self._kept = {"source": source.copy(), "shown": shown, "result": result.copy()}
        self._mixed = None

    def state(self) -> dict[str, np.ndarray]:
        """All that is remembered, as it is between `keep` and `carry`; empty before the first frame."""
        return {name: values.copy() for name, values in self._kept.items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state`, to the same bytes."""
        self._kept = {name: np.array(values) for name, values in state.items()}
        self._mixed = None


def _agreement(source: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Float32 [H, W] in [0, 1]: 1 where a frame is what the last result shows, 0 where it is not at all."""
    difference = torch.from_numpy(np.abs(source - shown).mean(2))[None]
    change = ((_local_mean(difference) - _SAME) / (_OTHER - _SAME)).clamp(0, 1)
    widened = max_pool2d(change, _REACH_PX, 1, _REACH_PX // 2)  # so that the soft edge lies outside it
    return (1 - _local_mean(widened))[0].numpy()


def _local_mean(values: torch.Tensor) -> torch.Tensor:
    """Mean over a square, cut off at the frame's edges."""
    return avg_pool2d(values, _REACH_PX, 1, _REACH_PX // 2, count_include_pad=False)
