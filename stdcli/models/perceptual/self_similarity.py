"""DINO's last keys: what each patch of a picture looks for, whatever its colours.

Legend: B pictures, T tokens (the picture's own first, then patches row by row), D width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from stdcli.errors import ModelError
from stdcli.models.diffusers_api import FAULTS, ViTModel, first_line
from stdcli.models.weights import read_shapes

UNUSED = ("pooler.",)  # some files have one; it comes after the tokens


class KeyExtractor(torch.nn.Module):
    """Keys of the last layer's attention, heads side by side.

    Args:
        model: a vision transformer.

    Source: Tumanyan 2022 (Splicing ViT Features for Semantic Appearance Transfer) section 3.
    """

    def __init__(self, model: ViTModel) -> None:
        super().__init__()
        self.model = model
        self.size: int = model.config.image_size
        """Side in pixels of the pictures it takes."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Keys [B, T, D] of normalised pictures [B, 3, size, size]."""
        hidden = self.model(pixel_values=pixels, output_hidden_states=True).hidden_states
        last = self.model.layers[-1]
        return last.attention.k_proj(last.layernorm_before(hidden[-2]))


def load_keys(weights: Path) -> KeyExtractor:
    """DINO from the folder of its `model.safetensors` or `pytorch_model.bin` (read as data alone).

    Raises:
        ModelError: damaged, incomplete, or another kind of network.
    Source: Caron 2021 (DINO).
    """
    folder, is_safe = weights.parent, weights.suffix == ".safetensors"
    if is_safe:
        read_shapes(weights)  # damaged weights are told from damaged configs
    try:
        kind = ViTModel.config_class.get_config_dict(folder, local_files_only=True)[0].get("model_type")
        if kind != "vit":  # its relatives load too, with other layers
            raise ModelError("not a DINO model", where=folder, got=kind, expected="vit")
        model, report = ViTModel.from_pretrained(
            folder,
            add_pooling_layer=False,
            dtype=torch.float32,
            use_safetensors=is_safe,
            local_files_only=True,
            output_loading_info=True,
        )
    except FAULTS as e:
        raise ModelError("this DINO model is damaged", where=folder, got=first_line(e)) from e
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError("this weights file lacks tensors", where=weights, expected=missing)
    extra = sorted(name for name in report["unexpected_keys"] if not name.startswith(UNUSED))
    if extra:
        raise ModelError("not the tensors of DINO", where=weights, got=", ".join(extra[:3]))
    return KeyExtractor(model)
