"""Names of LoRA layers, in every program's spelling, as places in diffusers' pipelines.

    unet.mid_block.attentions.0.proj_in                     diffusers, peft
    base_model.model.mid_block.attentions.0.proj_in         peft
    lora_unet_mid_block_attentions_0_proj_in                kohya, LCM-LoRA
    lora_unet_middle_block_1_proj_in                        kohya, for SDXL
    diffusion_model.middle_block.1.proj_in                  ComfyUI

are all `("unet", "mid_block.attentions.0.proj_in")`. Knows names only, no tensors.
"""

from __future__ import annotations

import re

from stdcli.models.layout import NETWORKS
from stdcli.models.lora.kohya import LAYERS_PER_BLOCK, PREFIX, module_name, original_module

WRAPPER = "base_model.model."
"""What peft puts before a wrapped model's names; the code of Single Trajectory Distillation stores it."""
COMPONENTS = (*NETWORKS, "text_encoder", "text_encoder_2")
UNUSED = ("text_encoders.clip_l.transformer.text_projection",)
"""Layers that no picture depends on: ComfyUI keeps them, diffusers' text encoders have none."""

ParameterKey = tuple[str, str]
"""Component of a pipeline and module in it; those of text encoders without `text_model.` before them."""

_ROOTS = re.compile(r"(down_blocks|mid_block|up_blocks|time_embedding|add_embedding|conv_in|conv_out)(\.|$)")
_TEXTS = {
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "text_model.": "text_encoder",
}
_FLAT_TEXT = re.compile(r"text_model_encoder_layers_(\d+)_(self_attn|mlp)_(\w+)")


def module_key(stem: str, *, layers_per_block: int = LAYERS_PER_BLOCK) -> ParameterKey | None:
    """Where a layer belongs, or None for a name that is no layer's.

    Args:
        stem: a key without what makes it the down, up or alpha of its layer.
        layers_per_block: of the UNet, by which original blocks are counted.
    """
    name = stem.replace(WRAPPER, "", 1)
    for prefix in (PREFIX, "lycoris_"):
        if name.startswith(prefix):
            flat = PREFIX + name.removeprefix(prefix)
            return _at("unet", module_name(flat, layers_per_block=layers_per_block))
    for prefix in ("model.diffusion_model.", "diffusion_model."):
        if name.startswith(prefix):
            flat = name.removeprefix(prefix).replace(".", "_")
            return _at("unet", original_module(flat, layers_per_block=layers_per_block))
    for prefix, component in _TEXTS.items():
        if name.startswith(prefix):
            return _at(component, _text_module(name.removeprefix(prefix)))
    component, _, module = name.partition(".")
    if component not in COMPONENTS:
        component, module = ("unet", name) if _ROOTS.match(name) else ("", "")
    return _at(component, _network_module(module) if component in NETWORKS else _text_module(module))


def _at(component: str, module: str | None) -> ParameterKey | None:
    return (component, module) if module else None


def _network_module(name: str) -> str:
    name = name.replace(".processor.", ".")
    return f"{name}.0" if name.endswith(".to_out") else name  # diffusers' oldest spelling


def _text_module(name: str) -> str:
    match = _FLAT_TEXT.fullmatch(name)
    if match is not None:
        name = "encoder.layers.{}.{}.{}".format(*match.groups())
    name = re.sub(r"self_attn\.to_(q|k|v|out)$", r"self_attn.\1_proj", name)
    return name.removeprefix("text_model.")
