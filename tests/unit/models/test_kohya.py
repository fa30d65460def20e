"""Names in kohya's LoRA format: the rule by hand for every kind of module, and back for every real module."""

from __future__ import annotations

import re

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from torch import nn

from stdcli.models.locate import EMBEDDED_FOLDER
from stdcli.models.lora.kohya import kohya_name, module_name
from stdcli.models.original_names import original_unet
from stdcli.models.unet_denoiser import lora_targets
from tests.real_configs import SD15, SDXL

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0"
FLAT = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0"
RULE = {
    f"{ATTENTION}.attn1.to_q": f"{FLAT}_attn1_to_q",
    f"{ATTENTION}.attn1.to_k": f"{FLAT}_attn1_to_k",
    f"{ATTENTION}.attn2.to_v": f"{FLAT}_attn2_to_v",
    f"{ATTENTION}.attn2.to_out.0": f"{FLAT}_attn2_to_out_0",
    f"{ATTENTION}.ff.net.0.proj": f"{FLAT}_ff_net_0_proj",
    f"{ATTENTION}.ff.net.2": f"{FLAT}_ff_net_2",
    "mid_block.attentions.0.proj_in": "lora_unet_mid_block_attentions_0_proj_in",
    "mid_block.attentions.0.proj_out": "lora_unet_mid_block_attentions_0_proj_out",
    "up_blocks.2.resnets.1.conv1": "lora_unet_up_blocks_2_resnets_1_conv1",
    "up_blocks.2.resnets.1.conv2": "lora_unet_up_blocks_2_resnets_1_conv2",
    "up_blocks.2.resnets.1.conv_shortcut": "lora_unet_up_blocks_2_resnets_1_conv_shortcut",
    "up_blocks.2.resnets.1.time_emb_proj": "lora_unet_up_blocks_2_resnets_1_time_emb_proj",
    "down_blocks.0.downsamplers.0.conv": "lora_unet_down_blocks_0_downsamplers_0_conv",
    "up_blocks.0.upsamplers.0.conv": "lora_unet_up_blocks_0_upsamplers_0_conv",
    "time_embedding.linear_1": "lora_unet_time_embedding_linear_1",
    "add_embedding.linear_2": "lora_unet_add_embedding_linear_2",
    "conv_in": "lora_unet_conv_in",
    "conv_out": "lora_unet_conv_out",
}


@pytest.mark.parametrize("module", sorted(RULE))
def test_the_rule(module: str) -> None:
    assert kohya_name(module) == RULE[module]
    assert module_name(RULE[module]) == module


def test_every_layer_of_the_real_networks_comes_back() -> None:
    embedded = UNet2DConditionModel.load_config(EMBEDDED_FOLDER / "unet")
    with torch.device("meta"):
        unets = [UNet2DConditionModel(**SD15), UNet2DConditionModel(**SDXL)]
        unets.append(UNet2DConditionModel.from_config(embedded))
    for unet in unets:
        names = [n for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        assert len(names) > 80
        flat = [kohya_name(name) for name in names]
        assert len(set(flat)) == len(names)
        assert [module_name(name) for name in flat] == names


def test_the_library_names_them_alike() -> None:
    """diffusers' own converter, whose alphas are not taken: they are the rank whatever was trained."""
    peft = {f"unet.{name}.lora_A.weight": torch.zeros(1) for name in RULE}
    theirs = {key for key in convert_state_dict_to_kohya(peft) if key.endswith("lora_down.weight")}
    assert theirs == {f"{name}.lora_down.weight" for name in RULE.values()}


ORIGINAL = {
    "down_blocks.1.attentions.0.proj_in": "input_blocks_4_1_proj_in",
    f"{ATTENTION}.attn2.to_out.0": "input_blocks_4_1_transformer_blocks_0_attn2_to_out_0",
    "down_blocks.0.resnets.1.time_emb_proj": "input_blocks_2_0_emb_layers_1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_3_0_op",
    "mid_block.resnets.1.conv2": "middle_block_2_out_layers_3",
    "mid_block.attentions.0.proj_in": "middle_block_1_proj_in",
    "up_blocks.0.upsamplers.0.conv": "output_blocks_2_2_conv",
    "up_blocks.1.attentions.0.proj_in": "output_blocks_3_1_proj_in",
    "up_blocks.2.resnets.2.conv_shortcut": "output_blocks_8_0_skip_connection",
    "time_embedding.linear_1": "time_embed_0",
    "add_embedding.linear_2": "label_emb_0_2",
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
}
"""sd-scripts, library/sdxl_original_unet.py: SDXL's modules by the blocks of the original code."""


@pytest.mark.parametrize("module", sorted(ORIGINAL))
def test_the_rule_of_sdxl(module: str) -> None:
    name = f"lora_unet_{ORIGINAL[module]}"
    assert kohya_name(module, sdxl=True) == name
    assert module_name(name) == module


def test_every_trained_layer_of_sdxl_has_its_original_name() -> None:
    """788 of 788, under the names by which ComfyUI's own table knows them: that of whole checkpoints."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL)
    names = lora_targets(unet)
    flat = [kohya_name(name, sdxl=True) for name in names]
    assert len(names) == len(set(flat)) == 788
    assert [module_name(name) for name in flat] == names
    assert all(re.match("lora_unet_(input_blocks|middle_block|output_blocks)_", name) for name in flat)
    layout = original_unet({f"{name}.weight": torch.zeros(0) for name in names}, unet.config)
    published = {key.removeprefix("model.diffusion_model.").removesuffix(".weight") for key in layout}
    assert {name.replace(".", "_") for name in published} == {
        name.removeprefix("lora_unet_") for name in flat
    }


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_input_blocks_3_1_proj_in",
        "lora_unet_output_blocks_1_2_conv",
        "lora_unet_middle_block_3_proj_in",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_unet_",
        "lora_unet_mid_block.proj_in",
        "lora_unet__mid_block",
        "mid_block_proj_in",
    ],
)
def test_other_names_are_none(name: str) -> None:
    assert module_name(name) is None
