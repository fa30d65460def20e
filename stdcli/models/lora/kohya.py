"""Names of UNet layers in kohya's LoRA format, which ComfyUI, A1111, Forge and sd-scripts read.

    mid_block.attentions.0.proj_in  <->  lora_unet_mid_block_attentions_0_proj_in
    mid_block.attentions.0.proj_in  <->  lora_unet_middle_block_1_proj_in            of SDXL

SDXL's layers are called after the blocks of the original code, as sd-scripts does and as every reader
expects; both spellings are read. The way back needs the words that hold an underscore themselves. Knows names
only, no tensors.
"""

from __future__ import annotations

import re

from stdcli.models.original_names import RESNET, UNET_ENDS, unet_name

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
LAYERS_PER_BLOCK = 2
"""Of the UNets of SD1.5 and SDXL."""
SDXL = {
    "layers_per_block": LAYERS_PER_BLOCK,
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}

_FLAT = re.compile("[a-z0-9]+(_[a-z0-9]+)*")
_PART = re.compile(rf"({'|'.join(COMPOUND)}|[a-z0-9]+)(?:_|$)")
_BLOCK = re.compile(r"(input|output)_blocks_(\d+)_(\d)_(.+)")
_ENDS = {old.rstrip(".").replace(".", "_"): new.rstrip(".") for new, old in UNET_ENDS}
_RESNET = {old.rstrip(".").replace(".", "_"): new.rstrip(".") for new, old in RESNET}


def kohya_name(module: str, *, sdxl: bool = False) -> str:
    """Name of a layer from the full name of its module in diffusers' UNet.

    Args:
        module: such as `mid_block.attentions.0.proj_in`.
        sdxl: whether the UNet is SDXL's.

    Source: kohya-ss/sd-scripts, networks/lora.py: a prefix, then the module's name with "_" for "."; its
        library/sdxl_original_unet.py for SDXL's modules.
    """
    name = unet_name(f"{module}.weight", SDXL).removesuffix(".weight") if sdxl else module
    return PREFIX + name.replace(".", "_")


def module_name(name: str, *, layers_per_block: int = LAYERS_PER_BLOCK) -> str | None:
    """The module that a name of kohya's format stands for, diffusers' blocks or the original ones; None for
    any other name."""
    rest = name.removeprefix(PREFIX)
    if rest == name or not _FLAT.fullmatch(rest):
        return None
    if not ORIGINAL.match(rest):
        return split_name(rest)
    return original_module(rest, layers_per_block=layers_per_block)


def split_name(flat: str) -> str:
    """A module's name with its dots back."""
    return ".".join(_PART.findall(flat))


def original_module(flat: str, *, layers_per_block: int = LAYERS_PER_BLOCK) -> str | None:
    """The module in diffusers' UNet of a layer by its original name; None where there is no such block.

    Args:
        flat: "_" for ".", such as `input_blocks_4_1_proj_in`.
        layers_per_block: of the UNet.
    """
    if flat in _ENDS and not flat.startswith("middle"):
        return _ENDS[flat]
    head, rest = flat[: len("middle_block_0")], flat[len("middle_block_0_") :]
    if head.startswith("middle") and head in _ENDS:
        return _in_block(_ENDS[head], rest)
    match = _BLOCK.fullmatch(flat)
    if match is None:
        return None
    side, number, index, rest = match.groups()
    level, layer = divmod(int(number) - (side == "input"), layers_per_block + 1)
    block = f"{'down' if side == 'input' else 'up'}_blocks.{level}"
    last = layer == layers_per_block
    if side == "input" and last:
        return f"{block}.downsamplers.0.conv" if (index, rest) == ("0", "op") else None
    if rest == "conv":
        return f"{block}.upsamplers.0.conv" if last and index in "12" else None
    kind = {"0": "resnets", "1": "attentions"}.get(index)
    return None if kind is None or level < 0 else _in_block(f"{block}.{kind}.{layer}", rest)


def _in_block(block: str, rest: str) -> str | None:
    if ".resnets." in block:
        return f"{block}.{_RESNET[rest]}" if rest in _RESNET else None
    return f"{block}.{split_name(rest)}" if _FLAT.fullmatch(rest) else None
