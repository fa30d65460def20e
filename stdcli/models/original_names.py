"""Names of the original Stable Diffusion layout, which single-file checkpoints have, from diffusers' names.

The counterpart of `single_file.py`. Knows names and the few tensors whose form differs, nothing of files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

UNET = "model.diffusion_model."
VAE = "first_stage_model."
OPEN_CLIP = "conditioner.embedders.1.model."

UNET_ENDS = (
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("add_embedding.linear_1.", "label_emb.0.0."),
    ("add_embedding.linear_2.", "label_emb.0.2."),
    ("conv_in.", "input_blocks.0.0."),
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
    ("mid_block.resnets.0.", "middle_block.0."),
    ("mid_block.attentions.0.", "middle_block.1."),
    ("mid_block.resnets.1.", "middle_block.2."),
)
RESNET = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("time_emb_proj.", "emb_layers.1."),
    ("conv_shortcut.", "skip_connection."),
)
_VAE_PARTS = (
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
    ("mid_block.attentions.0.", "mid.attn_1."),
    ("conv_norm_out.", "norm_out."),
    ("conv_shortcut.", "nin_shortcut."),
    ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."),
    ("resnets.", "block."),
)
_VAE_ATTENTION = (
    ("group_norm.", "norm."),
    ("to_q.", "q."),
    ("to_k.", "k."),
    ("to_v.", "v."),
    ("to_out.0.", "proj_out."),
    ("query.", "q."),
    ("key.", "k."),
    ("value.", "v."),
    ("proj_attn.", "proj_out."),
)
_OPEN_CLIP = (
    ("encoder.layers.", "transformer.resblocks."),
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
    ("self_attn.", "attn."),
    ("final_layer_norm.", "ln_final."),
    ("embeddings.token_embedding.weight", "token_embedding.weight"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
)
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def original_unet(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A UNet's tensors under their original names.

    Args:
        tensors: by diffusers' names.
        config: of diffusers' UNet2DConditionModel, with one `layers_per_block` for all levels.

    Source: CompVis/latent-diffusion, ldm/modules/diffusionmodules/openaimodel.py, for the order of blocks.
    """
    return {UNET + unet_name(name, config): value for name, value in tensors.items()}


def unet_name(name: str, config: Mapping[str, Any]) -> str:
    """The original name of one tensor of a UNet; arguments as `original_unet`."""
    match = _BLOCK.match(name)
    if match is None:
        renamed = _replace_first(name, UNET_ENDS)
        return _resnet(renamed) if name.startswith("mid_block.resnets.") else renamed
    side, level, kind, layer, rest = match.groups()
    per_level = config["layers_per_block"] + 1
    first, index = int(level) * per_level, int(layer)
    if kind == "downsamplers":
        return f"input_blocks.{first + per_level}.0.{rest.replace('conv.', 'op.', 1)}"
    if kind == "upsamplers":
        attends = "CrossAttn" in config["up_block_types"][int(level)]
        return f"output_blocks.{first + per_level - 1}.{2 if attends else 1}.{rest}"
    block = f"input_blocks.{first + 1 + index}" if side == "down" else f"output_blocks.{first + index}"
    return f"{block}.0.{_resnet(rest)}" if kind == "resnets" else f"{block}.1.{rest}"


def _resnet(rest: str) -> str:
    for new, old in RESNET:
        rest = rest.replace(new, old)
    return rest


def original_vae(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """An AutoencoderKL's tensors under their original names; its attention's projections become 1x1
    convolutions.

    Args:
        tensors: by diffusers' names, the oldest spelling included.
        config: of diffusers' AutoencoderKL.
    """
    highest = len(config["block_out_channels"]) - 1
    found = {}
    for name, value in tensors.items():
        new = name
        for theirs, old in _VAE_PARTS:
            new = new.replace(theirs, old)
        new = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{highest - int(match[1])}", new)
        new = re.sub(r"down_blocks\.", "down.", new)
        if ".attn_1." in new:
            stem, _, end = new.partition(".attn_1.")
            new = f"{stem}.attn_1.{_replace_first(end, _VAE_ATTENTION)}"
            value = value[:, :, None, None] if value.ndim == 2 else value
        found[VAE + new] = value.contiguous()
    return found


def original_clip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The first text encoder's tensors under their original names, which are transformers' own.

    Args:
        tensors: by transformers' names, with or without `text_model.` before them.
        prefix: what stands before them.
    """
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": v for name, v in tensors.items()}


def original_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SDXL's second text encoder's tensors under OpenCLIP's names: query, key and value joined, the
    projection transposed.

    Args:
        tensors: by transformers' names, with or without `text_model.` before them.
    """
    found = {}
    for name, value in tensors.items():
        name = name.removeprefix("text_model.")
        if name.endswith("position_ids"):
            continue
        if name == "text_projection.weight":
            found["text_projection"] = value.T.contiguous()
            continue
        for theirs, old in _OPEN_CLIP:
            name = name.replace(theirs, old)
        found[name] = value
    for name in [name for name in found if ".q_proj." in name]:
        parts = [found.pop(name.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        found[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return {OPEN_CLIP + name: value for name, value in found.items()}


def _replace_first(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """The name with its beginning replaced by the first pair that fits."""
    for new, old in pairs:
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name
