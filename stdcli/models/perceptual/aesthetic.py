"""LAION's aesthetic predictor v2: one affine map of CLIP's picture embedding to a mark.

Legend: B pictures, D width of the embedding (768).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stdcli.models.perceptual.pth import check_tensors, read_published

WIDTHS = (768, 1024, 128, 64, 16, 1)
INDICES = (0, 2, 4, 6, 7)  # of the linear layers; dropout between them
SHAPES: dict[str, tuple[int, ...]] = {
    f"layers.{index}.{kind}": (outer, inner) if kind == "weight" else (outer,)
    for index, inner, outer in zip(INDICES, WIDTHS[:-1], WIDTHS[1:], strict=True)
    for kind in ("weight", "bias")
}


class AestheticHead(torch.nn.Module):
    """A mark of an embedding, from about 1 to about 10; the length of the embedding does not matter.

    Args:
        weight: [D].
        bias: a scalar.

    Source: christophschuhmann/improved-aesthetic-predictor `simple_inference.py`; changed: its linear layers,
        which have no activations between them, are one.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, embeds: Tensor) -> Tensor:
        """Marks [B] of embeddings [B, D]."""
        return normalize(embeds) @ self.weight + self.bias


def load_aesthetic(weights: Path) -> AestheticHead:
    """The head from the published file, folded in float64.

    Raises:
        ModelError: the file is damaged, or not exactly this head.
    """
    tensors = read_published(weights)
    check_tensors(tensors, SHAPES, what="LAION aesthetic v2", where=weights)
    matrix, bias = torch.eye(WIDTHS[0], dtype=torch.float64), torch.zeros(WIDTHS[0], dtype=torch.float64)
    for index in INDICES:
        layer = tensors[f"layers.{index}.weight"].double()
        matrix, bias = layer @ matrix, layer @ bias + tensors[f"layers.{index}.bias"].double()
    return AestheticHead(matrix[0].float(), bias[0].float())
