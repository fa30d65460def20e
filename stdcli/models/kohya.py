"""Names of UNet layers in kohya's LoRA format, in the spelling of LCM-LoRA, which ComfyUI and others read.

    mid_block.attentions.0.proj_in  <->  lora_unet_mid_block_attentions_0_proj_in

The way back needs the words that hold an underscore themselves. Knows names only, no tensors.
"""

from __future__ import annotations

import re

PREFIX = "lora_unet_"
COMPOUND = (
    "down_blocks",
    "mid_block",
    "up_blocks",
    "transformer_blocks",
    "time_embedding",
    "add_embedding",
    "linear_1",
    "linear_2",
    "time_emb_proj",
    "conv_in",
    "conv_out",
    "conv_shortcut",
    "proj_in",
    "proj_out",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
)
"""Parts of module names of diffusers' UNet2DConditionModel with an underscore inside."""
ORIGINAL = re.compile(r"(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)_\d")
"""How names begin that follow the blocks of the original Stable Diffusion code."""

_PART = re.compile(rf"({'|'.join(COMPOUND)}|[a-z0-9]+)(?:_|$)")


def kohya_name(module: str) -> str:
    """Name of a layer from the full name of its module in diffusers' UNet.

    Source: kohya-ss/sd-scripts, networks/lora.py: a prefix, then the module's name with "_" for ".".
    """
    return PREFIX + module.replace(".", "_")


def module_name(name: str) -> str | None:
    """The module that `kohya_name` made a name from; None for any other name."""
    rest = name.removeprefix(PREFIX)
    if rest == name or ORIGINAL.match(rest) or not re.fullmatch("[a-z0-9]+(_[a-z0-9]+)*", rest):
        return None
    return ".".join(_PART.findall(rest))
