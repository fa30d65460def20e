"""Inpainting in latent space: what is known stays on its own path, at every level's own noise.

Legend: B batch, C latent channels, h w latent cells, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stdcli.diffusion.levels import Level
from stdcli.diffusion.solvers import start_state


def shrink_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A coarser mask: a cell is to be repainted where any of its pixels is.

    Args:
        mask: [B, 1, H, W], 1 where to repaint, 0 elsewhere.
        size: (h, w), at most (H, W).

    Returns:
        [B, 1, h, w], dtype of `mask`.
    """
    return F.adaptive_max_pool2d(mask, size)


@dataclass(frozen=True)
class LatentBlend:
    """Puts the known part of a picture back into states along a path; an `OnStep` of `sample`.

    Attributes:
        latents: clean [B, C, h, w], of the picture itself.
        noise: the one that its path started from, like `latents`.
        mask: [B, 1, h, w], 1 where to repaint.
        evaluations: of the path; the state after the last one is clean.

    Source: Lugmayr 2022 (RePaint) eq. 8, with one fixed noise instead of a fresh one per level.
    """

    latents: Tensor
    noise: Tensor
    mask: Tensor
    evaluations: int

    def __call__(self, index: int, level: Level, state: Tensor) -> Tensor:
        """The state at `path.levels[index]` with the known part as it is there: [B, C, h, w]."""
        is_end = index == self.evaluations
        known = self.latents if is_end else start_state(self.latents, self.noise, level)
        return torch.where(self.mask > 0.5, state, known.to(state))
