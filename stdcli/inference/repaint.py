"""Frames whose masked parts are repainted, and nothing else of them touched.

Legend: B batch, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from stdcli.inference.input_masks import Box
from stdcli.inference.session import StyleSession


class Repaint:
    """Frames of one input, in their order.

    Args:
        session: restyles.
        masks: bool [H, W], one per frame.
        feather_px: see `fade_in`.
        box: rows and columns to compute; None for whole frames.
    """

    def __init__(
        self, session: StyleSession, masks: Iterator[np.ndarray], *, feather_px: int, box: Box | None
    ):
        self._session = session
        self._masks = masks
        self._feather_px = feather_px
        self._box = (slice(None), slice(None)) if box is None else box

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Repaint the next frames: uint8 [B, H, W, 3] -> the same, equal outside the masks."""
        masks = np.stack([next(self._masks) for _ in frames])
        inside = (slice(None), *self._box)
        cut, part = np.ascontiguousarray(frames[inside]), np.ascontiguousarray(masks[inside])
        result = frames.copy()
        result[inside] = paste(cut, self._session.stylize(cut, part), part, feather_px=self._feather_px)
        return result


def paste(frames: np.ndarray, painted: np.ndarray, masks: np.ndarray, *, feather_px: int) -> np.ndarray:
    """Painted pictures inside masks, frames outside, bit for bit.

    Args:
        frames: uint8 [B, H, W, 3].
        painted: the same shape.
        masks: bool [B, H, W].
        feather_px: see `fade_in`.

    Returns:
        uint8 [B, H, W, 3].
    """
    weight = fade_in(masks, feather_px)[..., None]
    mixed = frames + weight * (painted.astype(np.float32) - frames)
    return np.where(masks[..., None], mixed.round().astype(np.uint8), frames)


def fade_in(masks: np.ndarray, feather_px: int) -> np.ndarray:
    """How much of the painting shows: 0 outside, rising smoothly to 1 within `feather_px` pixels inside.

    Where a mask is too narrow for that, it rises to 1 in its middle. Distances are counted in steps to any of
    eight neighbours; the picture's own border is none.

    Args:
        masks: bool [B, H, W].
        feather_px: 0 for a hard edge.

    Returns:
        float32 [B, H, W].
    """
    mask = inside = torch.from_numpy(masks)[:, None].float()
    depth = inside.clone()
    for _ in range(feather_px):
        inside = -_widened(-inside)
        depth += inside
    deepest = depth
    for _ in range(feather_px):
        deepest = _widened(deepest) * mask
    share = depth / deepest.clamp(min=1)
    return (share * share * (3 - 2 * share))[:, 0].numpy()


def _widened(values: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(values, 3, stride=1, padding=1)
