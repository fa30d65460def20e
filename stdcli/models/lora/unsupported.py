"""What a file of weights is that is no LoRA of Stable Diffusion, by the names of its tensors.

For messages alone: whoever gave the wrong file learns which one it is. Knows names, no tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from stdcli.models.lora.spelling import WRAPPER

FLUX = "a LoRA of a transformer model (Flux)"
_KINDS = (
    (r"lora_magnitude_vector|dora_scale", "a DoRA (weight-decomposed LoRA)"),
    (r"hada_w\d", "a LoHa (LyCORIS)"),
    (r"lokr_w\d|lokr_t\d", "a LoKr (LyCORIS)"),
    (r"lora_mid\.|\.lora_mid", "a LoCon with Tucker decomposition"),
    (r"boft_[RSs]|\.boft", "a BOFT (orthogonal finetuning)"),
    (r"oft_blocks|oft_diag|\.oft_|_oft\.", "an OFT (orthogonal finetuning)"),
    (r"\.ia3_|on_input", "an IA3"),
    (r"glora|\.[ab][12]\.weight$", "a GLoRA"),
    (r"vera_lambda", "a VeRA"),
    (r"^bundle_emb\.", "a LoRA with an embedding (textual inversion) in it"),
    (r"^(emb_params|string_to_param.*|clip_[lg]|<.*>)$", "an embedding (textual inversion)"),
    (r"^lllite_", "a ControlNet-LLLite"),
    (r"lora_controlnet", "a control LoRA"),
    (r"^control_model\.|input_hint_block|controlnet_cond_embedding|zero_convs|^controlnet_", "a control net"),
    (r"^adapter\.body|^body\.\d+\.block", "a T2I-Adapter"),
    (r"^ip_adapter\.|^image_proj\.", "an IP-Adapter"),
    (r"motion_modules?[._]", "a motion module (AnimateDiff)"),
    (r"^photomaker|^id_encoder\.", "a PhotoMaker"),
    (r"hypernetwork", "a hypernetwork"),
)
_TRANSFORMERS = (
    (
        r"joint_blocks|add_k_proj|^lora_te3|text_encoder_3",
        "a LoRA of a transformer model (Stable Diffusion 3)",
    ),
    (r"double_blocks|single_blocks|single_transformer_blocks", FLUX),
    (r"^lora_prior_unet|^lora_prior_te", "a LoRA of Stable Cascade"),
    (
        r"^(base_model\.model\.)?(diffusion_model\.|lora_unet_)?blocks[._]\d|cross_attn|caption_projection",
        "a LoRA of a video model or another transformer",
    ),
    (r"^(base_model\.model\.)?(model\.)?layers\.\d+\.(self_attn|mlp)", "a LoRA of a language model"),
    (r"^transformer\.|^lora_transformer_", "a LoRA of a transformer model"),
)
_MODELS = (
    (r"^model\.diffusion_model\.", "a full model"),
    (r"^(first_stage_model|decoder|encoder\.down|encoder\.conv_in|quant_conv)", "an autoencoder (VAE)"),
    (r"^(cond_stage_model|conditioner|text_model|transformer\.resblocks)\.", "a text encoder"),
    (r"^vision_model\.", "an image encoder"),
    (r"^(down_blocks|conv_in|input_blocks|double_blocks)", "a full network"),
)


def adapter_kind(names: Iterable[str]) -> str | None:
    """The kind of adapter, with its article, that has such tensors beside or instead of a LoRA's."""
    return _first(_KINDS, names)


def base_kind(names: Iterable[str]) -> str | None:
    """What a LoRA with such names was made for, where that is no Stable Diffusion 1 or XL."""
    return _first(_TRANSFORMERS, names)


def file_kind(names: Iterable[str]) -> str | None:
    """What a file without any layer of a LoRA is."""
    names = list(names)
    if any(WRAPPER in name and name.endswith((".weight", ".bias")) for name in names):
        return "whole weights or biases of peft's (modules_to_save, bias)"
    return _first(_MODELS, names)


def _first(kinds: Iterable[tuple[str, str]], names: Iterable[str]) -> str | None:
    names = list(names)
    return next((kind for pattern, kind in kinds if any(re.search(pattern, name) for name in names)), None)
