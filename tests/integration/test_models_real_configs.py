"""The published UNets of SD1.5 and SDXL, without weights: sizes, shapes and what our code derives from them.

Parameter counts are the published ones.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import IPAdapterMixin

from stdcli.models.condition import Condition
from stdcli.models.families.sdxl import style_block_only, time_ids
from stdcli.models.unet_denoiser import UNetDenoiser
from tests.real_configs import SD15, SDXL


@pytest.fixture(scope="module")
def unets() -> dict[str, UNet2DConditionModel]:
    with torch.device("meta"):
        return {"sd15": UNet2DConditionModel(**SD15), "sdxl": UNet2DConditionModel(**SDXL)}


@pytest.mark.parametrize(("name", "count"), [("sd15", 859_520_964), ("sdxl", 2_567_463_684)])
def test_parameter_counts(unets: dict[str, UNet2DConditionModel], name: str, count: int) -> None:
    assert sum(p.numel() for p in unets[name].parameters()) == count


@pytest.mark.parametrize(("name", "pixels"), [("sd15", 64), ("sdxl", 32)])
def test_picture_sides(unets: dict[str, UNet2DConditionModel], name: str, pixels: int) -> None:
    assert 8 * UNetDenoiser(unets[name]).multiple == pixels


def test_sdxl_forward_with_our_condition(unets: dict[str, UNet2DConditionModel]) -> None:
    ids = time_ids((1024, 768), device=torch.device("meta"))
    pooled = torch.zeros(1, 1280, device="meta")
    cond = Condition(torch.zeros(1, 77, 2048, device="meta"), {"text_embeds": pooled, "time_ids": ids})
    out = UNetDenoiser(unets["sdxl"])(torch.zeros(2, 4, 16, 12, device="meta"), 499, cond)
    assert out.shape == (2, 4, 16, 12)


def test_sd15_forward_with_our_condition(unets: dict[str, UNet2DConditionModel]) -> None:
    cond = Condition(torch.zeros(1, 77, 768, device="meta"))
    out = UNetDenoiser(unets["sd15"])(torch.zeros(2, 4, 8, 16, device="meta"), 499, cond)
    assert out.shape == (2, 4, 8, 16)


def test_style_reaches_one_transformer_of_sdxl_only(unets: dict[str, UNet2DConditionModel]) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL)
        _give_adapter(unet, style_dim=1280)
    IPAdapterMixin.set_ip_adapter_scale(SimpleNamespace(unet=unet, unet_name="unet"), style_block_only(0.7))
    scales = {n: p.scale for n, p in unet.attn_processors.items() if n.endswith("attn2.processor")}
    assert len(scales) == 70
    styled = {name for name, scale in scales.items() if scale == [0.7]}
    assert {name.split(".transformer_blocks")[0] for name in styled} == {"up_blocks.0.attentions.1"}
    assert len(styled) == 10
    assert all(scales[name] == [0.0] for name in scales.keys() - styled)


def _give_adapter(unet: UNet2DConditionModel, *, style_dim: int) -> None:
    cross = unet.config.cross_attention_dim
    keys = {}
    for i, name in enumerate(n for n in unet.attn_processors if n.endswith("attn2.processor")):
        width = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
        for part in ("to_k_ip", "to_v_ip"):
            keys[f"{2 * i + 1}.{part}.weight"] = torch.zeros(width, cross)
    projection = {
        "proj.weight": torch.zeros(4 * cross, style_dim),
        "proj.bias": torch.zeros(4 * cross),
        "norm.weight": torch.zeros(cross),
        "norm.bias": torch.zeros(cross),
    }
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": keys}], low_cpu_mem_usage=False)
