"""What one frame of a clip hands on to the next, so that paint stays where it was put.

The last result is mixed into the next one as far as it still fits: where the source has not changed
("blend"), or moved along with the source ("flow"). Beside it goes the source that it shows, mixed with the
same shares, so that slow changes add up and are seen. Nothing is handed on across a cut.

Results are mixed, not what they are made from: a result that is restyled frame after frame gathers ever more
texture, and is less steady than frames restyled each on their own (`tests/benchmarks/test_steadiness.py`).

What fits is found out on small copies of the frames; only results are moved and mixed at full size.

Legend: B frames, H W pixels, h w pixels of the small copies. Source: after Ruder 2016, "Artistic style
transfer for videos", whose temporal loss ties each result to the last one warped, wherever the flow can be
followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from stdcli.media.arrays import check_rgb
from stdcli.media.cuts import is_cut
from stdcli.media.flow import box_mean, can_follow, dense_flows, resize_flow, warp

Mode = Literal["blend", "flow"]

LARGEST_WEIGHT = 0.5
"""Share of the last result where it fits; more is steadier, and wipes grain off what moves."""

_SAME, _OTHER = 4.0, 20.0
"""Differences of sources (0..255, local mean): up to the first it is noise, from the second on a change."""

_LARGEST_SIDE_PX = 384  # of the small copies: half the frames, or less, so that the longer side fits
_REACH_PX = 3  # on the small copies: side of the local mean, and of a change's soft edge
_MARGIN_PX = 2  # on the small copies: by how much a change is widened, so that its soft edge lies outside it


@dataclass(frozen=True)
class _Last:
    """The last frame, uint8 [H, W, 3], and float32 in 0..255: what its result shows, and the result.

    `painted` is 1 where there is paint and 0 where there is not; None where all is painted.
    """

    source: np.ndarray
    shown: torch.Tensor  # [1, 3, h, w]
    result: torch.Tensor  # [1, 3, H, W]
    painted: torch.Tensor | None  # [1, 1, h, w]


class TemporalBlend:
    """The last frame of a clip, its result, and what that shows.

    Args:
        mode: how the last result is brought to a new frame: as it is, or along the optical flow.
        device: where it is worked out.
    """

    def __init__(self, mode: Mode, device: torch.device | str = "cpu") -> None:
        self.mode = mode
        self._device = torch.device(device)
        self._last: _Last | None = None

    def steady(self, sources: np.ndarray, results: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
        """Results of frames that follow each other, each with the one before mixed in.

        Args:
            sources: uint8 [B, H, W, 3], the frames.
            results: the same, the frames restyled.
            masks: bool [B, H, W], where results are painted at all; nothing is mixed in from elsewhere.

        Returns:
            uint8 [B, H, W, 3]; for the first frame of a clip and after a cut the result as it is.

        Raises:
            ValueError: other shapes or dtypes, or the frames have another size than the last.
        """
        for rgb in (*sources, *results):
            check_rgb(rgb)
        last = self._last
        before = [last.source if last else sources[0], *sources[:-1]]
        goes_on = [not is_cut(*pair) for pair in zip(before, sources, strict=True)]
        smalls, mixed = _shrunk(self._tensor(sources)), self._tensor(results)
        flows = None
        if self.mode == "flow" and any(goes_on):
            first = _shrunk(self._tensor(before[0][None]))
            flows = dense_flows(smalls, torch.cat([first, smalls[:-1]]))
        painted = None if masks is None else self._shrink_masks(masks)
        for index, source in enumerate(sources):
            one = slice(index, index + 1)
            if last and goes_on[index]:
                shown, result, weight, painted_before = last.shown, last.result, LARGEST_WEIGHT, last.painted
                if flows is not None:
                    flow, back = (way[one] for way in flows)
                    shown, weight = warp(shown, flow), weight * can_follow(flow, back)
                    large = resize_flow(flow, result.shape[2:])
                    result = warp(result, large, kind="bicubic").clamp(0, 255)
                    painted_before = None if painted_before is None else warp(painted_before, flow)
                weight = weight * _agreement(smalls[one], shown)
                weight = weight if painted_before is None else weight * painted_before
                smalls[one].lerp_(shown, weight)
                mixed[one].lerp_(result, interpolate(weight, result.shape[2:], mode="bilinear"))
            last = _Last(source, smalls[one], mixed[one], None if painted is None else painted[one])
        last_painted = None if last.painted is None else last.painted.clone()
        self._last = _Last(last.source.copy(), last.shown.clone(), last.result.clone(), last_painted)
        return mixed.round().byte().permute(0, 2, 3, 1).cpu().contiguous().numpy()

    def _tensor(self, frames: np.ndarray) -> torch.Tensor:
        """uint8 [B, H, W, 3] as float32 [B, 3, H, W] in 0..255."""
        return torch.tensor(frames, device=self._device).permute(0, 3, 1, 2).float().contiguous()

    def _shrink_masks(self, masks: np.ndarray) -> torch.Tensor:
        """Bool [B, H, W] as [B, 1, h, w]: 1 only where all is painted, a cell around included."""
        bare = torch.tensor(~masks, device=self._device)[:, None].float()
        return 1 - max_pool2d((_shrunk(bare) > 0).float(), 3, 1, 1)

    def state(self) -> dict[str, np.ndarray]:
        """All that is remembered, by name; empty before the first frame."""
        if self._last is None:
            return {}
        tensors = {name: getattr(self._last, name) for name in ("shown", "result", "painted")}
        arrays = {name: values.cpu().numpy().copy() for name, values in tensors.items() if values is not None}
        return {"source": self._last.source.copy(), **arrays}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state`, to the same bytes."""
        shown, result, painted = (
            torch.tensor(state[name], device=self._device) if name in state else None
            for name in ("shown", "result", "painted")
        )
        self._last = _Last(np.array(state["source"]), shown, result, painted)


def _shrunk(frames: torch.Tensor) -> torch.Tensor:
    """Copies [B, 3, h, w] of half the size, or of a quarter and so on until they are small."""
    height, width = frames.shape[2:]
    factor = 2
    while max(height, width) > factor * _LARGEST_SIDE_PX:
        factor *= 2
    return avg_pool2d(frames, factor, ceil_mode=True)


def _agreement(source: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """[1, 1, h, w] in [0, 1]: 1 where a frame is what the last result shows, 0 where it is not."""
    difference = (source - shown).abs().mean(1, keepdim=True)
    change = ((box_mean(difference, _REACH_PX) - _SAME) / (_OTHER - _SAME)).clamp(0, 1)
    widened = max_pool2d(change, 2 * _MARGIN_PX + 1, 1, _MARGIN_PX)
    return (1 - box_mean(widened, _REACH_PX)).clamp(0, 1)
