"""Inpainting in latent space: what is known stays on its own path, at every level's own noise.

Legend: B batch, C latent channels, space: cells h w of pictures, F h w of clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stdcli.diffusion.levels import Level
from stdcli.diffusion.solvers import start_state


def shrink_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """A coarser mask: a cell is to be repainted where any of its pixels is.

    Args:
        mask: [B, 1, H, W] or [B, 1, frames, H, W], 1 where to repaint, 0 elsewhere.
        size: (h, w) or (F, h, w), at most the mask's; each side is shared out evenly among its cells.

    Returns:
        [B, 1, *size], dtype of `mask`.
    """
    shrink = F.adaptive_max_pool2d if len(size) == 2 else F.adaptive_max_pool3d
    return shrink(mask, size)


@dataclass(frozen=True)
class LatentBlend:
    """Puts the known part of a picture back into states along a path; an `OnStep` of `sample`.

    Attributes:
        latents: clean [B, C, *space], of the picture or clip itself.
        noise: the one that its path started from, like `latents`.
        mask: 1 where to repaint, [B, 1, *space], or of size 1 along what is all alike: [1, 1, F, 1, 1]
            repaints whole frames.
        evaluations: of the path; the state after the last one is clean.

    Source: Lugmayr 2022 (RePaint) eq. 8, with one fixed noise instead of a fresh one per level.
    """

    latents: Tensor
    noise: Tensor
    mask: Tensor
    evaluations: int

    def __call__(self, index: int, level: Level, state: Tensor) -> Tensor:
        """The state at `path.levels[index]` with the known part as it is there: [B, C, *space]."""
        is_end = index == self.evaluations
        known = self.latents if is_end else start_state(self.latents, self.noise, level)
        return torch.where(self.mask > 0.5, state, known.to(state))
