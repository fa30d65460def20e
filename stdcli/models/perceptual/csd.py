"""CSD: CLIP's vision tower, trained further to tell styles apart, with a head for style and one for content.

The published checkpoint has OpenAI's names of the tower; here it becomes transformers' class.

Legend: B pictures, W width of the tower, D width of the heads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stdcli.errors import ModelError
from stdcli.models.diffusers_api import FAULTS, CLIPVisionConfig, CLIPVisionModel, first_line
from stdcli.models.perceptual.pth import check_tensors, read_published

HEAD_WIDTH = 64  # of attention, in all of OpenAI's towers
STYLE, CONTENT = "last_layer_style", "last_layer_content"
NAMES = {
    "backbone.class_embedding": "embeddings.class_embedding",
    "backbone.positional_embedding": "embeddings.position_embedding.weight",
    "backbone.conv1.weight": "embeddings.patch_embedding.weight",
    "backbone.ln_pre": "pre_layrnorm",
    "backbone.ln_post": "post_layernorm",
}
BLOCK = re.compile(r"backbone\.transformer\.resblocks\.(\d+)\.(.+)")
BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


class CsdEncoder(torch.nn.Module):
    """Style and content embeddings, each of length 1.

    Args:
        tower: CLIP's vision tower; its projection is not used.
        style: head [W, D].
        content: head [W, D].

    Source: Somepalli 2024 (Measuring Style Similarity in Diffusion Models) section 4; learn2phoenix/CSD
        `CSD/model.py`.
    """

    def __init__(self, tower: CLIPVisionModel, style: Tensor, content: Tensor) -> None:
        super().__init__()
        self.tower = tower
        self.register_buffer("style", style)
        self.register_buffer("content", content)
        self.size: int = tower.config.image_size
        """Side in pixels of the pictures it takes."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Style and content, [B, D] each, of pictures [B, 3, size, size] as CLIP takes them."""
        pooled = self.tower(pixel_values=pixels).pooler_output
        return normalize(pooled @ self.style), normalize(pooled @ self.content)


def load_csd(weights: Path) -> CsdEncoder:
    """CSD from the published checkpoint.

    Raises:
        ModelError: the file is damaged, or not exactly a CSD checkpoint.
    """
    tensors = read_published(weights)
    config = _config(tensors, weights)
    head = tensors.get(STYLE)
    width = config.projection_dim if head is None or head.ndim != 2 else head.shape[1]
    check_tensors(tensors, published_shapes(config, width), what="CSD", where=weights)
    tensors = {name: value.float() for name, value in tensors.items()}
    style, content = tensors.pop(STYLE), tensors.pop(CONTENT)
    tower = CLIPVisionModel.from_pretrained(
        None, config=config, state_dict=_translate(tensors), dtype=torch.float32
    )
    return CsdEncoder(tower, style, content)


def published_shapes(config: CLIPVisionConfig, width: int) -> dict[str, tuple[int, ...]]:
    """Shape by published name of all tensors of a CSD checkpoint, without `module.`.

    Args:
        config: of the tower.
        width: of the heads.
    """
    inner, mlp, patch = config.hidden_size, config.intermediate_size, config.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.class_embedding": (inner,),
        "backbone.positional_embedding": ((config.image_size // patch) ** 2 + 1, inner),
        "backbone.conv1.weight": (inner, 3, patch, patch),
        STYLE: (inner, width),
        CONTENT: (inner, width),
    }
    block = {
        "attn.in_proj_weight": (3 * inner, inner),
        "attn.in_proj_bias": (3 * inner,),
        "attn.out_proj.weight": (inner, inner),
        "mlp.c_fc.weight": (mlp, inner),
        "mlp.c_fc.bias": (mlp,),
        "mlp.c_proj.weight": (inner, mlp),
    }
    norms = (f"ln_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias"))
    block |= dict.fromkeys(("attn.out_proj.bias", "mlp.c_proj.bias", *norms), (inner,))
    shapes |= {f"backbone.ln_{at}.{kind}": (inner,) for at in ("pre", "post") for kind in ("weight", "bias")}
    for i in range(config.num_hidden_layers):
        shapes |= {f"backbone.transformer.resblocks.{i}.{name}": shape for name, shape in block.items()}
    return shapes


def _config(tensors: Mapping[str, Tensor], where: Path) -> CLIPVisionConfig:
    """The tower's sizes, as its tensors say them."""
    needed = ("conv1.weight", "positional_embedding", "transformer.resblocks.0.mlp.c_fc.weight")
    found = [tensors.get(f"backbone.{name}") for name in needed]
    missing = [f"backbone.{n}" for n, v in zip(needed, found, strict=True) if v is None or v.ndim < 2]
    if missing:
        raise ModelError("this CSD file lacks tensors", where=where, expected=", ".join(missing))
    conv, positions, mlp = found
    blocks = {int(match[1]) for match in map(BLOCK.fullmatch, tensors) if match}
    patch = conv.shape[-1]
    try:
        return CLIPVisionConfig(
            hidden_size=conv.shape[0],
            intermediate_size=mlp.shape[0],
            num_hidden_layers=max(blocks) + 1,
            num_attention_heads=conv.shape[0] // HEAD_WIDTH,
            image_size=round((len(positions) - 1) ** 0.5) * patch,
            patch_size=patch,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
        )
    except FAULTS as e:  # widths that no tower has
        raise ModelError("not a CSD checkpoint", where=where, got=first_line(e)) from e


def _translate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tower in transformers' names; queries, keys and values apart."""
    out = {}
    for name, value in tensors.items():
        stem, _, kind = name.rpartition(".")
        block = BLOCK.fullmatch(name)
        if block is None:
            out[NAMES.get(name) or f"{NAMES[stem]}.{kind}"] = value
        elif block[2].startswith("attn.in_proj_"):
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                out[f"encoder.layers.{block[1]}.self_attn.{part}_proj.{name.rpartition('_')[2]}"] = rows
        else:
            out[f"encoder.layers.{block[1]}.{BLOCK_NAMES[block[2].removesuffix(f'.{kind}')]}.{kind}"] = value
    return out
