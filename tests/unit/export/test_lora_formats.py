"""LoRA layers in memory: nothing changes on the way through a format, and what is odd is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stdcli.errors import ModelError, NumericsError
from stdcli.export.lora_formats import adapter_config, cast, family_of_layers, to_diffusers, to_kohya
from stdcli.models.lora.reading import LoraLayer
from stdcli.models.lora.unet_layers import check_finite, read_layers

CONV, LINEAR, OUT = "mid_block.resnets.0.conv1", "mid_block.attentions.0.proj_in", "conv_out"


def layers_of(dtype: torch.dtype = torch.float16) -> dict[str, LoraLayer]:
    """Three layers of several ranks and alphas, none of them alpha = rank."""
    draw = torch.Generator().manual_seed(0)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    return {
        OUT: LoraLayer(values(2, 8, 3, 3), values(4, 2, 1, 1), 0.7),
        LINEAR: LoraLayer(values(4, 6), values(5, 4), 8.0),
        CONV: LoraLayer(values(4, 6, 3, 3), values(7, 4, 1, 1), 8.0),
    }


def assert_same(mine: dict[str, LoraLayer], other: dict[str, LoraLayer]) -> None:
    assert mine.keys() == other.keys()
    for name, layer in mine.items():
        assert layer.alpha == pytest.approx(other[name].alpha, abs=1e-7)
        for part in ("down", "up"):
            a, b = getattr(layer, part), getattr(other[name], part)
            assert a.dtype == b.dtype and torch.equal(a, b)


def test_both_formats_give_back_what_was_put_in(tmp_path: Path) -> None:
    layers = layers_of()
    save_file(to_kohya(layers), tmp_path / "k.safetensors")
    config = {"lora_adapter_metadata": json.dumps(adapter_config(layers))}
    save_file(to_diffusers(layers), tmp_path / "d.safetensors", config)
    for name in ("k", "d"):
        assert_same(read_layers(tmp_path / f"{name}.safetensors"), layers)
    again = to_kohya(read_layers(tmp_path / "d.safetensors"))
    first = to_kohya(read_layers(tmp_path / "k.safetensors"))
    assert again.keys() == first.keys() and len(again) == 9
    assert all(torch.equal(again[key], value) for key, value in first.items())
    assert all(again[key].dtype == value.dtype for key, value in first.items())


def test_kohya_stores_alpha_and_not_the_rank() -> None:
    tensors = to_kohya(layers_of())
    assert tensors["lora_unet_mid_block_resnets_0_conv1.alpha"].item() == 8
    assert tensors["lora_unet_conv_out.alpha"].item() == pytest.approx(0.7)
    assert {tensors[key].shape for key in tensors if key.endswith("alpha")} == {torch.Size([])}


def test_config_names_what_differs_from_the_usual() -> None:
    assert adapter_config(layers_of()) == {
        "unet.r": 4,
        "unet.lora_alpha": 8,
        "unet.target_modules": sorted([OUT, LINEAR, CONV]),
        "unet.rank_pattern": {OUT: 2},
        "unet.alpha_pattern": {OUT: 0.7},
    }


def test_a_change_is_alpha_over_rank_times_the_convolution_of_both() -> None:
    layer = layers_of(torch.float32)[CONV]
    x = torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(1))
    twice = torch.conv2d(torch.conv2d(x, layer.down, padding=1), layer.up)
    once = torch.conv2d(x, layer.change((7, 6, 3, 3)), padding=1)
    assert torch.allclose(once, 2.0 * twice, atol=1e-4)
    linear = layers_of(torch.float32)[LINEAR]
    assert torch.allclose(linear.change((5, 6)), 2.0 * linear.up @ linear.down, atol=1e-5)
    assert linear.change((5, 6, 1, 1)).shape == (5, 6, 1, 1)


def test_fit_is_of_every_width() -> None:
    layers = layers_of()
    assert (
        layers[CONV].fits((7, 6, 3, 3)) and layers[LINEAR].fits((5, 6)) and layers[LINEAR].fits((5, 6, 1, 1))
    )
    for wrong in ((6, 7, 3, 3), (7, 6), (7, 6, 1, 1), (7, 5, 3, 3), (8, 6, 3, 3)):
        assert not layers[CONV].fits(wrong)


@pytest.mark.parametrize(
    "stem",
    [
        "unet.base_model.model.mid_block.attentions.0.proj_in",
        "base_model.model.mid_block.attentions.0.proj_in",
        "base_model.model.unet.mid_block.attentions.0.proj_in",
        "unet.mid_block.attentions.0.proj_in",
        "lora_unet_mid_block_attentions_0_proj_in",
        "lora_unet_middle_block_1_proj_in",
        "diffusion_model.middle_block.1.proj_in",
    ],
)
def test_spellings_of_a_name(tmp_path: Path, stem: str) -> None:
    down, up = ("lora_down", "lora_up") if stem.startswith(("lora", "diff")) else ("lora_A", "lora_B")
    layer = layers_of()[LINEAR]
    save_file(
        {f"{stem}.{down}.weight": layer.down, f"{stem}.{up}.weight": layer.up}, tmp_path / "a.safetensors"
    )
    (name,) = read_layers(tmp_path / "a.safetensors")
    assert name == LINEAR


def test_the_oldest_spelling_of_attention(tmp_path: Path) -> None:
    stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out"
    layer = layers_of()[LINEAR]
    tensors = {f"{stem}_lora.down.weight": layer.down, f"{stem}_lora.up.weight": layer.up}
    save_file(tensors, tmp_path / "a.safetensors")
    assert list(read_layers(tmp_path / "a.safetensors")) == [
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    ]


@pytest.mark.parametrize(
    "stem",
    [
        "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_unet_input_blocks_3_1_proj_in",
        "model.mid_block.attentions.0.proj_in",
        "unet.base_model.model.mid_block.attentions.0.proj_in",  # twice under one name
    ],
)
def test_a_layer_without_a_place_is_an_error(tmp_path: Path, stem: str) -> None:
    layers, layer = layers_of(), layers_of()[LINEAR]
    extra = {f"{stem}.lora_A.weight": layer.down, f"{stem}.lora_B.weight": layer.up}
    save_file(to_diffusers(layers) | extra, tmp_path / "a.safetensors")
    with pytest.raises(ModelError) as caught:
        read_layers(tmp_path / "a.safetensors")
    assert caught.value.got.startswith("1 of 4 layers: ")


def test_values_that_are_none_are_an_error(tmp_path: Path) -> None:
    layers = layers_of(torch.float32)
    layers[CONV].up[0, 0] = 1e6
    with pytest.raises(NumericsError) as caught:
        check_finite(cast(layers, torch.float16), tmp_path / "x")
    assert CONV in caught.value.where
    layers[CONV].up[0, 0] = torch.nan
    save_file(to_diffusers(layers), tmp_path / "a.safetensors")
    with pytest.raises(NumericsError):
        read_layers(tmp_path / "a.safetensors")


def sdxl_layers(width: int = 2048) -> dict[str, LoraLayer]:
    stem = "down_blocks.1.attentions.0"
    pairs = {"transformer_blocks.0.attn2.to_k": width, "proj_in": 6}
    return {
        f"{stem}.{name}": LoraLayer(torch.ones(2, size), torch.ones(5, 2), 1.0)
        for name, size in pairs.items()
    }


def test_kohya_names_of_sdxl_are_the_original_ones_and_come_back(tmp_path: Path) -> None:
    tensors = to_kohya(sdxl_layers())
    assert tensors["lora_unet_input_blocks_4_1_proj_in.alpha"].item() == 1
    assert len(tensors) == 6 and all("input_blocks_4_1" in key for key in tensors)
    save_file(tensors, tmp_path / "a.safetensors")
    assert_same(read_layers(tmp_path / "a.safetensors"), sdxl_layers())
    assert all("down_blocks_1_attentions_0" in key for key in to_kohya(sdxl_layers(768)))


@pytest.mark.parametrize(
    ("layers", "family"),
    [
        (sdxl_layers(), "sdxl"),
        (sdxl_layers(768), "sd15"),
        (sdxl_layers(32), None),
        ({"up_blocks.0.attentions.0.proj_in": sdxl_layers()["down_blocks.1.attentions.0.proj_in"]}, "sdxl"),
        ({"conv_in": sdxl_layers()["down_blocks.1.attentions.0.proj_in"]}, None),
    ],
)
def test_family(layers: dict[str, LoraLayer], family: str | None) -> None:
    assert family_of_layers(layers) == family


def test_alpha_of_peft_is_exported(tmp_path: Path) -> None:
    layer = layers_of()[LINEAR]
    stem = f"base_model.model.{LINEAR}"
    save_file(
        {f"{stem}.lora_A.weight": layer.down, f"{stem}.lora_B.weight": layer.up}, tmp_path / "a.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 6, "use_rslora": True}))
    (name,) = layers = read_layers(tmp_path / "a.safetensors")
    assert (name, layers[name].alpha) == (LINEAR, 12)
    assert to_kohya(layers)["lora_unet_mid_block_attentions_0_proj_in.alpha"].item() == 12
