"""One picture through a stylizer: size, padding and alpha kept.

Legend: H W pixels of the picture, B batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from stdcli.media.arrays import fit_max_size, fitting_size, resize
from stdcli.media.tensors import crop_back, pad_to_multiple, to_tensor, to_uint8

Stylize = Callable[[torch.Tensor], torch.Tensor]
Steady = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Finish = Callable[[], np.ndarray]


def compute_size(size_px: tuple[int, int], *, max_size: int | None, multiple_px: int) -> tuple[int, int]:
    """The padded size (H, W) at which a picture of `size_px` (H, W) is computed."""
    fitting = size_px if max_size is None else fitting_size(size_px, max_size)
    height, width = (-(-side // multiple_px) * multiple_px for side in fitting)
    return height, width


def begin_frames(
    frames: np.ndarray,
    stylize: Stylize,
    *,
    max_size: int | None,
    multiple_px: int,
    steady: Steady | None = None,
) -> Finish:
    """Restyle frames of one size; what is left to do may be done by another thread.

    Args:
        frames: uint8 [B, H, W, 3].
        stylize: [B, 3, h, w] in [-1, 1] -> the same, h and w multiples of `multiple_px`.
        max_size: longer side while computing, or None for the frames' own.
        multiple_px: what sides are padded to, by reflection.
        steady: (pixels, result) -> result, both as `stylize` has them; called in the order of frames.

    Returns:
        A call that gives uint8 [B, H, W, 3] of the frames' size; to be made once, in the order of frames.
    """
    height, width = frames.shape[1:3]
    small = np.stack([fit_max_size(frame, max_size) for frame in frames]) if max_size else frames
    pixels = torch.cat([to_tensor(frame) for frame in small])
    padded, crop = pad_to_multiple(pixels, multiple_px)
    result = stylize(padded)

    def finish() -> np.ndarray:
        kept = result if steady is None else steady(padded, result)
        return np.stack([resize(frame, height, width) for frame in to_uint8(crop_back(kept, crop))])

    return finish
