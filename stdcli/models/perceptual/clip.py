"""CLIP, both towers, as metrics use it: pictures and texts to embeddings in one space.

Legend: B pictures or texts, D width of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from stdcli.errors import ModelError
from stdcli.models.diffusers_api import FAULTS, CLIPModel, CLIPTokenizer, first_line
from stdcli.models.weights import read_shapes

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


class ClipEncoder(torch.nn.Module):
    """Embeddings after the projections, not normalised.

    Args:
        model: CLIP.
        tokenizer: its tokenizer.

    Source: Radford 2021 (CLIP) figure 3.
    """

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.size: int = model.config.vision_config.image_size
        """Side in pixels of the pictures it takes."""

    def embed_pictures(self, pixels: Tensor) -> Tensor:
        """Embeddings [B, D] of pictures [B, 3, size, size] with CLIP's mean and deviation taken out."""
        return self.model.get_image_features(pixel_values=pixels).pooler_output

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [B, D] of texts; what is beyond the model's length (77 tokens) is cut."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        ids = tokens["input_ids"].to(self.model.device)
        return self.model.get_text_features(input_ids=ids).pooler_output


def load_clip(weights: Path) -> ClipEncoder:
    """CLIP from the folder of its `model.safetensors`.

    Raises:
        ModelError: damaged, incomplete, or another kind of network.
    """
    folder = weights.parent
    read_shapes(weights)  # damaged weights are told from damaged configs
    try:
        kind = CLIPModel.config_class.get_config_dict(folder, local_files_only=True)[0].get("model_type")
        if kind != "clip":
            raise ModelError("not a CLIP model", where=folder, got=kind, expected="clip")
        model, report = CLIPModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except FAULTS as e:
        raise ModelError("this CLIP model is damaged", where=folder, got=first_line(e)) from e
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError("this weights file lacks tensors", where=weights, expected=missing)
    words = model.config.text_config.vocab_size
    if len(tokenizer) != words:
        what = "the tokenizer does not belong to this CLIP model"
        raise ModelError(what, where=folder, got=f"{len(tokenizer)} tokens", expected=words)
    return ClipEncoder(model, tokenizer)
