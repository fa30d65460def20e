"""LPIPS's linear heads: how much each channel of a backbone's layers counts.

Legend: B pictures, C channels, h w cells of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from stdcli.models.perceptual.convolutions import ALEXNET, Convolution
from stdcli.models.perceptual.pth import check_tensors, read_published

CHANNELS = tuple(layer.channels for layer in ALEXNET.layers if isinstance(layer, Convolution))
SHAPES: dict[str, tuple[int, ...]] = {
    f"lin{i}.model.1.weight": (1, channels, 1, 1) for i, channels in enumerate(CHANNELS)
}


class LinearHeads(nn.Module):
    """Weighted sums over channels, averaged over cells and added over layers.

    Args:
        weights: one vector [C] per layer.

    Source: Zhang 2018 (LPIPS) eq. 1.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.layers = nn.ParameterList(weights)

    def forward(self, squares: Sequence[Tensor]) -> Tensor:
        """Distances [B] of squared differences [B, C, h, w], one tensor per layer."""
        pairs = zip(squares, self.layers, strict=True)
        return torch.stack([(s.mean(dim=(2, 3)) @ weight) for s, weight in pairs]).sum(dim=0)


def load_lpips_alex(weights: Path) -> LinearHeads:
    """The heads for AlexNet, version 0.1, from the published file.

    Raises:
        ModelError: the file is damaged, or not exactly these heads.
    """
    tensors = read_published(weights)
    check_tensors(tensors, SHAPES, what="LPIPS (alex)", where=weights)
    return LinearHeads([tensors[name].float().flatten() for name in SHAPES])
