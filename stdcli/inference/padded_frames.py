"""One picture through a model: size, padding and alpha kept.

Legend: H W pixels of the picture, B batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from stdcli.diffusion.masks import shrink_mask
from stdcli.media.arrays import fit_max_size, fitting_size, resize
from stdcli.media.tensors import crop_back, pad_to_multiple, to_tensor, to_uint8

Stylize = Callable[..., torch.Tensor]
"""(pixels [B, 3, h, w] in [-1, 1]), or with a mask [B, 1, h, w] of 0 and 1 behind them -> the same shape."""


def compute_size(size_px: tuple[int, int], *, max_size: int | None, multiple_px: int) -> tuple[int, int]:
    """The padded size (H, W) at which a picture of `size_px` (H, W) is computed."""
    fitting = size_px if max_size is None else fitting_size(size_px, max_size)
    height, width = (-(-side // multiple_px) * multiple_px for side in fitting)
    return height, width


def stylize_frames(
    frames: np.ndarray,
    stylize: Stylize,
    *,
    max_size: int | None,
    multiple_px: int,
    masks: np.ndarray | None = None,
) -> np.ndarray:
    """Restyle frames of one size; what comes back has exactly that size.

    Args:
        frames: uint8 [B, H, W, 3].
        stylize: called with sides h and w that are multiples of `multiple_px`.
        max_size: longer side while computing, or None for the frames' own.
        multiple_px: what sides are padded to, by reflection.
        masks: bool [B, H, W], where to repaint; given to `stylize` in its size.

    Returns:
        uint8 [B, H, W, 3].
    """
    height, width = frames.shape[1:3]
    small = np.stack([fit_max_size(frame, max_size) for frame in frames]) if max_size else frames
    pixels = torch.cat([to_tensor(frame) for frame in small])
    padded, crop = pad_to_multiple(pixels, multiple_px)
    given = [] if masks is None else [_shrunk(masks, pixels.shape[-2:], multiple_px)]
    result = to_uint8(crop_back(stylize(padded, *given), crop))
    return np.stack([resize(frame, height, width) for frame in result])


def _shrunk(masks: np.ndarray, size: tuple[int, int], multiple_px: int) -> torch.Tensor:
    """Masks as frames of `size` are padded: float32 [B, 1, h, w]."""
    small = shrink_mask(torch.from_numpy(masks)[:, None].float(), size)
    return pad_to_multiple(small, multiple_px)[0]
