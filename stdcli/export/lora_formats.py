"""The two formats that the layers of a student's LoRA are put into, diffusers' (PEFT names) and kohya's.

Tensors and alphas are never changed on the way, so that going from one format to the other and back gives the
same file. Knows no models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stdcli.models.lora.kohya import kohya_name
from stdcli.models.lora.reading import CROSS_WIDTHS, LoraLayer

SDXL_ATTENTION = frozenset(
    [f"down_blocks.{level}.attentions.{i}" for level in (1, 2) for i in range(2)]
    + [f"up_blocks.{level}.attentions.{i}" for level in (0, 1) for i in range(3)]
)
"""Blocks with attention, outside the middle."""


def family_of_layers(layers: Mapping[str, LoraLayer]) -> str | None:
    """Family of the base; None for others.

    By the width of the text tokens that cross-attention reads; where no layer shows it, by names.
    """
    widths = {x.down.shape[1] for name, x in layers.items() if re.search(r"attn2\.to_[kv]$", name)}
    if widths:
        return next((CROSS_WIDTHS[width] for width in widths if width in CROSS_WIDTHS), None)
    return "sdxl" if _only_sdxl(layers) else None


def has_sdxl_blocks(layers: Mapping[str, LoraLayer]) -> bool:
    """Whether layers are of SDXL's UNet, or of a smaller one of the same blocks."""
    family = family_of_layers(layers)
    blocks = {match[0] for name in layers if (match := re.match(r"\w+\.\d+\.attentions\.\d+", name))}
    return family == "sdxl" or (family is None and blocks == SDXL_ATTENTION)


def cast(layers: Mapping[str, LoraLayer], dtype: torch.dtype | None) -> dict[str, LoraLayer]:
    """The same in another dtype; None keeps each tensor's own."""
    if dtype is None:
        return dict(layers)
    return {
        name: replace(layer, down=layer.down.to(dtype), up=layer.up.to(dtype))
        for name, layer in layers.items()
    }


def to_diffusers(layers: Mapping[str, LoraLayer]) -> dict[str, Tensor]:
    """Tensors of a file for diffusers' `load_lora_weights`; the alphas go to `adapter_config`."""
    tensors = {}
    for name, layer in layers.items():
        tensors[f"unet.{name}.lora_A.weight"] = layer.down.contiguous()
        tensors[f"unet.{name}.lora_B.weight"] = layer.up.contiguous()
    return tensors


def adapter_config(layers: Mapping[str, LoraLayer]) -> dict[str, Any]:
    """Peft's config of the layers under diffusers' prefix: values that older versions know too."""
    ranks = {name: layer.rank for name, layer in layers.items()}
    alphas = {name: layer.alpha for name, layer in layers.items()}
    rank, alpha = _usual(ranks), _usual(alphas)
    config = {"r": rank, "lora_alpha": alpha, "target_modules": sorted(layers)}
    odd_ranks = {name: value for name, value in ranks.items() if value != rank}
    odd_alphas = {name: value for name, value in alphas.items() if value != alpha}
    config |= {"rank_pattern": odd_ranks} if odd_ranks else {}
    config |= {"alpha_pattern": odd_alphas} if odd_alphas else {}
    return {f"unet.{key}": value for key, value in config.items()}


def to_kohya(layers: Mapping[str, LoraLayer]) -> dict[str, Tensor]:
    """Tensors of a file in kohya's format, each layer with its alpha; SDXL's under the names of its original
    code."""
    tensors, sdxl = {}, has_sdxl_blocks(layers)
    for name, layer in layers.items():
        stem = kohya_name(name, sdxl=sdxl)
        tensors[f"{stem}.alpha"] = torch.tensor(float(layer.alpha))  # peft's config may have an int
        tensors[f"{stem}.lora_down.weight"] = layer.down.contiguous()
        tensors[f"{stem}.lora_up.weight"] = layer.up.contiguous()
    return tensors


def _usual(values: Mapping[str, float]) -> float:
    """The most frequent value, the largest of several, as an int where it is one."""
    counted = list(values.values())
    value = max(sorted(set(counted), reverse=True), key=counted.count)
    return int(value) if value == int(value) else value


def _only_sdxl(names: Iterable[str]) -> bool:
    """Whether a name is one that Stable Diffusion 1's UNet does not have."""
    sdxl_only = re.compile(r"up_blocks\.0\.attentions|add_embedding|.*transformer_blocks\.[1-9]")
    return any(sdxl_only.match(name) for name in names)
