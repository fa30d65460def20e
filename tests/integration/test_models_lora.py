"""LoRA files in every key format: fused exactly, with scale and alpha, and refused unless all of it fits."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from safetensors.torch import load_file, save_file

from stdcli.config.recipe import Recipe
from stdcli.errors import ModelError
from stdcli.models.load import load_model
from stdcli.models.lora.fusing import apply_lora
from stdcli.models.spec import ModelSpec
from tests.real_configs import SDXL
from tests.sparse_models import measure_loading, save_sparse_lora, save_sparse_model
from tests.tiny_models import (
    _original_name,
    _unet_names,
    save_tiny_embedded,
    save_tiny_lora,
    save_tiny_sd15,
    save_tiny_sdxl,
)

CHANGED = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sd15(tmp_path_factory.mktemp("sd15"))


@cache
def base_weights(model: Path) -> dict[str, torch.Tensor]:
    return UNet2DConditionModel.from_pretrained(model / "unet").state_dict()


def fused_weights(model: Path, *loras: str) -> dict[str, torch.Tensor]:
    return load_model(
        ModelSpec(str(model), dtype="float32", device="cpu", loras=loras)
    ).network.denoiser.network.state_dict()


def product(lora: Path, layer: str = CHANGED) -> torch.Tensor:
    """B A of one layer, read from the file by hand."""
    tensors = load_file(lora)
    stems = (
        f"unet.{layer}.lora_A",
        f"unet.{layer}.lora.down",
        f"lora_unet_{layer.replace('.', '_')}.lora_down",
    )
    (down,) = (tensors[f"{s}.weight"] for s in stems if f"{s}.weight" in tensors)
    ups = (f"unet.{layer}.lora_B", f"unet.{layer}.lora.up", f"lora_unet_{layer.replace('.', '_')}.lora_up")
    (up,) = (tensors[f"{s}.weight"] for s in ups if f"{s}.weight" in tensors)
    return up @ down


def assert_fused(model: Path, lora: Path, factor: float, text: str) -> None:
    before, after = base_weights(model), fused_weights(model, text)
    assert after.keys() == before.keys(), "no trace of peft may stay in the UNet"
    expected = before[f"{CHANGED}.weight"] + factor * product(lora)
    assert torch.allclose(after[f"{CHANGED}.weight"], expected, atol=1e-6)
    assert not torch.allclose(after[f"{CHANGED}.weight"], before[f"{CHANGED}.weight"], atol=1e-3)
    changed = {k for k, v in before.items() if not torch.equal(v, after[k])}
    assert changed == {
        k for k in before if k.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"))
    }


@pytest.mark.parametrize(
    ("style", "suffix", "scale"), [("peft", "", 1.0), ("diffusers", ":0.5", 0.5), ("kohya", ":-1", -1.0)]
)
def test_key_formats_and_scales(tmp_path: Path, sdxl: Path, style: str, suffix: str, scale: float) -> None:
    lora = save_tiny_lora(tmp_path / "a.safetensors", sdxl, style=style)
    assert_fused(sdxl, lora, scale, f"{lora}{suffix}")


def test_original_block_names(tmp_path: Path, sdxl: Path) -> None:
    """What kohya's trainer writes for SDXL: input_blocks, middle_block, output_blocks."""
    lora = save_tiny_lora(tmp_path / "a.safetensors", sdxl, style="kohya-sgm", rank=4, alpha=2.0)
    assert any("output_blocks_3_1" in key for key in load_file(lora))
    same = save_tiny_lora(tmp_path / "b.safetensors", sdxl, style="kohya", rank=4, alpha=2.0)
    mine, expected = fused_weights(sdxl, str(lora)), fused_weights(sdxl, str(same))
    assert all(torch.equal(v, mine[k]) for k, v in expected.items())
    assert not torch.equal(mine[f"{CHANGED}.weight"], base_weights(sdxl)[f"{CHANGED}.weight"])


def test_half_precision_file_in_a_bfloat16_model(tmp_path: Path, sdxl: Path) -> None:
    lora = save_tiny_lora(tmp_path / "a.safetensors", sdxl)
    save_file({k: v.half() for k, v in load_file(lora).items()}, lora)
    bundle = load_model(ModelSpec(str(sdxl), dtype="bfloat16", device="cpu", loras=[str(lora)]))
    weight = bundle.network.denoiser.network.get_submodule(CHANGED).weight
    assert weight.dtype == torch.bfloat16
    expected = base_weights(sdxl)[f"{CHANGED}.weight"] + product(lora)
    assert torch.allclose(weight.float(), expected, atol=0.01)


@pytest.mark.parametrize("style", ["peft", "kohya"])
def test_alpha_is_obeyed(tmp_path: Path, sd15: Path, style: str) -> None:
    lora = save_tiny_lora(tmp_path / "a.safetensors", sd15, style=style, rank=4, alpha=1.0)
    assert_fused(sd15, lora, 0.5 * 1.0 / 4, f"{lora}:0.5")


def test_two_loras_add_up(tmp_path: Path, sdxl: Path) -> None:
    first = save_tiny_lora(tmp_path / "a.safetensors", sdxl)
    second = save_tiny_lora(tmp_path / "b.safetensors", sdxl, style="kohya", rank=3)
    after = fused_weights(sdxl, f"{first}:0.5", f"{second}:2")[f"{CHANGED}.weight"]
    expected = base_weights(sdxl)[f"{CHANGED}.weight"] + 0.5 * product(first) + 2 * product(second)
    assert torch.allclose(after, expected, atol=1e-6)


def test_equals_plain_diffusers(tmp_path: Path, sdxl: Path) -> None:
    lora = save_tiny_lora(tmp_path / "a.safetensors", sdxl, style="kohya", alpha=1.0)
    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(sdxl)
    pipe.load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    pipe.fuse_lora(lora_scale=0.7)
    pipe.unload_lora_weights()
    mine = fused_weights(sdxl, f"{lora}:0.7")
    assert all(torch.equal(v, mine[k]) for k, v in pipe.unet.state_dict().items())


def test_text_encoder_lora(tmp_path: Path, sdxl: Path) -> None:
    """As kohya's trainer writes them: every projection and both MLP layers of every block."""
    tensors, expected = {}, {}
    for prefix, part in (("lora_te1", "text_encoder"), ("lora_te2", "text_encoder_2")):
        (path,) = (sdxl / part).glob("*.safetensors")
        for key, weight in load_file(path).items():
            name = key.removeprefix("text_model.").removesuffix(".weight")
            if ".layers." not in name or weight.ndim != 2:
                continue
            down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
            stem = f"{prefix}_text_model_{name.replace('.', '_')}"
            tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
            tensors[f"{stem}.alpha"] = torch.tensor(1.0)
            expected[part, name] = weight + 0.5 * 0.5 * up @ down
    lora = tmp_path / "te.safetensors"
    save_file(tensors, lora)
    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(sdxl)
    assert apply_lora(pipe, f"{lora}:0.5", family="sdxl", offline=True).scale == 0.5
    assert len(expected) == 36
    for (part, name), value in expected.items():
        stored = getattr(pipe, part).state_dict()
        weight = stored.get(f"{name}.weight", stored.get(f"text_model.{name}.weight"))
        assert torch.allclose(weight, value, atol=1e-6)


def test_embedded_model_takes_a_lora_and_keeps_its_style_projections(tmp_path: Path) -> None:
    model = save_tiny_embedded(tmp_path / "m")
    lora = save_tiny_lora(tmp_path / "a.safetensors", model)
    plain, styled = fused_weights(model), fused_weights(model, str(lora))
    assert any("to_k_ip" in k for k in plain)
    same = {k for k, v in plain.items() if torch.equal(v, styled[k])}
    assert all(k in same for k in plain if "_ip." in k or "encoder_hid_proj" in k)
    assert torch.allclose(styled[f"{CHANGED}.weight"], plain[f"{CHANGED}.weight"] + product(lora), atol=1e-6)


def test_student_folder_brings_its_recipe(tmp_path: Path, sdxl: Path) -> None:
    save_tiny_lora(tmp_path / "s" / "pytorch_lora_weights.safetensors", sdxl)
    recipe = Recipe(timesteps=(739, 559), strength=0.75, guidance_fused=True)
    (tmp_path / "s" / "recipe.json").write_text(recipe.model_dump_json())
    bundle = load_model(ModelSpec(str(sdxl), device="cpu", dtype="float32", loras=[f"{tmp_path / 's'}:0.9"]))
    assert bundle.network.recipe == recipe
    assert "recipe" in bundle.network.notes[0]
    (entry,) = bundle.network.identity["loras"]
    assert entry["name"] == str(tmp_path / "s")
    assert entry["scale"] == 0.9
    assert len(entry["sha256"]) == 64


@pytest.fixture(scope="module")
def pipe(sdxl: Path) -> StableDiffusionXLImg2ImgPipeline:
    """For files that are refused before anything is changed."""
    return StableDiffusionXLImg2ImgPipeline.from_pretrained(sdxl)


def error_of(pipe: StableDiffusionXLImg2ImgPipeline, lora: Path | str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        apply_lora(pipe, str(lora), family="sdxl", offline=True)
    return caught.value


@pytest.mark.parametrize("style", ["peft", "diffusers", "kohya"])
def test_wrong_family_counts_layers(
    pipe: StableDiffusionXLImg2ImgPipeline, tmp_path: Path, sdxl: Path, sd15: Path, style: str
) -> None:
    lora = save_tiny_lora(tmp_path / "a.safetensors", sd15, style=style)
    error = error_of(pipe, lora)
    total = sum(k.endswith(("lora_A.weight", "down.weight")) for k in load_file(lora))
    assert error.where == str(lora)
    assert error.expected == f"all {total}"
    matched = int(error.got.split()[0])
    assert 0 < matched < total
    assert "first that do not: " in error.got
    assert "down_blocks" in error.got


def test_real_width_names_the_base_it_was_made_for(
    pipe: StableDiffusionXLImg2ImgPipeline, tmp_path: Path, sdxl: Path
) -> None:
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file(
        {f"{layer}.lora_A.weight": torch.zeros(2, 768), f"{layer}.lora_B.weight": torch.zeros(320, 2)},
        tmp_path / "a.safetensors",
    )
    assert error_of(pipe, tmp_path / "a.safetensors").what == "this LoRA was made for sd15, not for sdxl"


def test_layers_that_upstream_would_skip_are_an_error(
    pipe: StableDiffusionXLImg2ImgPipeline, tmp_path: Path, sdxl: Path
) -> None:
    """diffusers#9291: keys without a place in the model were dropped with a log line."""
    good = load_file(save_tiny_lora(tmp_path / "good.safetensors", sdxl))
    extra = {
        "text_encoder_3.layer.lora_A.weight": torch.ones(2, 4),
        "text_encoder_3.layer.lora_B.weight": torch.ones(4, 2),
    }
    save_file(good | extra, tmp_path / "bad.safetensors")
    plain = StableDiffusionXLImg2ImgPipeline.from_pretrained(sdxl)
    plain.load_lora_weights(str(tmp_path), weight_name="bad.safetensors")  # the library says nothing
    error = error_of(pipe, tmp_path / "bad.safetensors")
    total = len(good) // 2 + 1
    assert error.got == f"{total - 1} of {total} layers match; first that do not: text_encoder_3.layer"


def test_file_that_matches_nothing_is_an_error(
    pipe: StableDiffusionXLImg2ImgPipeline, tmp_path: Path, sdxl: Path
) -> None:
    """The whole file under an unknown prefix: upstream loads nothing and goes on."""
    tensors = load_file(save_tiny_lora(tmp_path / "good.safetensors", sdxl))
    save_file({k.replace("unet.", "model."): v for k, v in tensors.items()}, tmp_path / "bad.safetensors")
    error = error_of(pipe, tmp_path / "bad.safetensors")
    assert error.got.startswith(f"0 of {len(tensors) // 2} layers match")


@pytest.mark.parametrize(
    "key", ["unet.x.hada_w1_a", "unet.x.lokr_w1", "lora_unet_x.dora_scale", "unet.x.diff"]
)
def test_other_adapter_kinds_are_refused(
    pipe: StableDiffusionXLImg2ImgPipeline, tmp_path: Path, sdxl: Path, key: str
) -> None:
    tensors = load_file(save_tiny_lora(tmp_path / "good.safetensors", sdxl))
    save_file(tensors | {key: torch.ones(2, 2)}, tmp_path / "bad.safetensors")
    error = error_of(pipe, tmp_path / "bad.safetensors")
    assert "DoRA, LoHa, LoKr" in error.what
    assert key in error.got


def test_half_a_pair_is_refused(pipe: StableDiffusionXLImg2ImgPipeline, tmp_path: Path, sdxl: Path) -> None:
    tensors = load_file(save_tiny_lora(tmp_path / "good.safetensors", sdxl))
    del tensors[f"unet.{CHANGED}.lora_B.weight"]
    save_file(tensors, tmp_path / "bad.safetensors")
    assert f"unet.{CHANGED}" in error_of(pipe, tmp_path / "bad.safetensors").got


def test_nan_is_refused(pipe: StableDiffusionXLImg2ImgPipeline, tmp_path: Path, sdxl: Path) -> None:
    tensors = load_file(save_tiny_lora(tmp_path / "good.safetensors", sdxl))
    tensors[f"unet.{CHANGED}.lora_B.weight"][0, 0] = torch.nan
    save_file(tensors, tmp_path / "bad.safetensors")
    assert "NaN" in error_of(pipe, tmp_path / "bad.safetensors").what


def test_damaged_file_is_refused(pipe: StableDiffusionXLImg2ImgPipeline, tmp_path: Path, sdxl: Path) -> None:
    whole = save_tiny_lora(tmp_path / "good.safetensors", sdxl).read_bytes()
    (tmp_path / "bad.safetensors").write_bytes(whole[:-100])
    assert "damaged, cut short" in error_of(pipe, tmp_path / "bad.safetensors").what


@pytest.mark.parametrize("text", [":0.5", "a.safetensors:nan", "a.safetensors:inf"])
def test_bad_scales(pipe: StableDiffusionXLImg2ImgPipeline, sdxl: Path, text: str) -> None:
    assert "PATH:SCALE" in error_of(pipe, text).expected


def test_metadata_alpha_pattern(tmp_path: Path, sdxl: Path) -> None:
    tensors = load_file(save_tiny_lora(tmp_path / "good.safetensors", sdxl, rank=4))
    config = {"unet.r": 4, "unet.lora_alpha": 4, "unet.alpha_pattern": {CHANGED: 2}, "unet.use_rslora": False}
    config["unet.target_modules"] = ["to_q", "to_k", "to_v", "to_out.0"]
    lora = tmp_path / "a.safetensors"
    save_file(tensors, lora, {"format": "pt", "lora_adapter_metadata": json.dumps(config)})
    after, before = fused_weights(sdxl, str(lora)), base_weights(sdxl)
    assert torch.allclose(
        after[f"{CHANGED}.weight"], before[f"{CHANGED}.weight"] + 0.5 * product(lora), atol=1e-6
    )
    other = CHANGED.replace("to_k", "to_v")
    assert torch.allclose(
        after[f"{other}.weight"], before[f"{other}.weight"] + product(lora, other), atol=1e-6
    )


def save_peft(folder: Path, model: Path, rank: int = 4, **config: object) -> Path:
    """A folder as peft writes it: no alpha in the weights, all of it in the config beside."""
    tensors = load_file(save_tiny_lora(folder / "adapter_model.safetensors", model, rank=rank))
    named = {k.replace("unet.", "base_model.model."): v for k, v in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    if config:
        text = json.dumps({"peft_type": "LORA", "r": rank} | config)
        (folder / "adapter_config.json").write_text(text)
    save_tiny_lora(folder / "plain" / "a.safetensors", model, rank=rank)
    return folder


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ({"lora_alpha": 1}, 1 / 4),
        ({"lora_alpha": 1, "use_rslora": True}, 1 / 2),
        ({"lora_alpha": 8, "alpha_pattern": {r"mid_block.*attn2\.to_k": 3}}, 3 / 4),
        ({"lora_alpha": 8, "alpha_pattern": {"attn1.to_k": 3}}, 2.0),
        ({"r": 16, "lora_alpha": 2, "rank_pattern": {"to_k": 4, "to_q": 4, "to_v": 4, "to_out.0": 4}}, 1 / 2),
    ],
)
def test_peft_says_alpha_beside_the_weights(tmp_path: Path, sdxl: Path, config: dict, factor: float) -> None:
    folder = save_peft(tmp_path / "p", sdxl, **config)
    bundle = load_model(ModelSpec(str(sdxl), dtype="float32", device="cpu", loras=[str(folder)]))
    mine = bundle.network.denoiser.network.get_submodule(CHANGED).weight
    expected = base_weights(sdxl)[f"{CHANGED}.weight"] + factor * product(folder / "plain" / "a.safetensors")
    assert torch.allclose(mine, expected, atol=1e-6)
    assert not any("alpha" in note for note in bundle.network.notes)
    before = bundle.network.identity["loras"][0]["sha256"]
    (folder / "adapter_config.json").write_text(json.dumps(config | {"r": 4, "lora_alpha": 7}))
    assert (
        before
        != load_model(ModelSpec(str(sdxl), device="cpu", loras=[str(folder)])).network.identity["loras"][0][
            "sha256"
        ]
    )


def test_without_any_alpha_it_is_the_rank_and_said(tmp_path: Path, sdxl: Path) -> None:
    folder = save_peft(tmp_path / "p", sdxl)
    bundle = load_model(ModelSpec(str(sdxl), dtype="float32", device="cpu", loras=[str(folder)]))
    expected = base_weights(sdxl)[f"{CHANGED}.weight"] + product(folder / "plain" / "a.safetensors")
    assert torch.allclose(bundle.network.denoiser.network.get_submodule(CHANGED).weight, expected, atol=1e-6)
    (note,) = [note for note in bundle.network.notes if "alpha" in note]
    assert "adapter_config.json" in note and "a factor of 1" in note


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"lora_alpha": 4, "use_dora": True}, "DoRA"),
        ({"lora_alpha": 4, "peft_type": "LOHA"}, "LOHA"),
        ({"lora_alpha": 4, "init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"lora_alpha": "four"}, "lora_alpha: 'four'"),
        ({"r": 8, "lora_alpha": 4}, "rank 4"),
        ({"lora_alpha": 4, "alpha_pattern": {"(a+)+b": 1}}, "alpha_pattern"),
    ],
)
def test_a_config_that_asks_for_more_is_refused(
    pipe: StableDiffusionXLImg2ImgPipeline, tmp_path: Path, sdxl: Path, config: dict, named: str
) -> None:
    folder = save_peft(tmp_path / "p", sdxl, **config)
    error = error_of(pipe, folder)
    assert named in error.got and error.where == str(folder / "adapter_config.json")


def test_the_config_of_another_file_is_not_taken(tmp_path: Path, sdxl: Path) -> None:
    folder = save_peft(tmp_path / "p", sdxl, lora_alpha=1)
    other = save_tiny_lora(folder / "other.safetensors", sdxl, rank=4)
    assert_fused(sdxl, other, 1.0, str(other))


def comfy_names(model: Path, lora: Path) -> dict[str, torch.Tensor]:
    """The layers of a LoRA as ComfyUI names what it extracts."""
    found = {}
    for key, value in load_file(lora).items():
        stem, end = key.removeprefix("unet.").split(".lora_")
        name = _original_name(f"{stem}.", _unet_names(model))
        end = {"A": "down", "B": "up"}[end[0]]
        found[f"diffusion_model.{name}lora_{end}.weight"] = value
        found[f"diffusion_model.{name}alpha"] = torch.tensor(1.0)
    return found


def test_what_comfyui_extracts_is_loaded(tmp_path: Path, sdxl: Path) -> None:
    """Names by original blocks, and differences of biases and of other vectors beside the pairs."""
    plain = save_tiny_lora(tmp_path / "plain.safetensors", sdxl)
    tensors = comfy_names(sdxl, plain)
    assert "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.lora_down.weight" in tensors
    before = base_weights(sdxl)
    extra = {
        "input_blocks.4.0.in_layers.0.diff": "down_blocks.1.resnets.0.norm1.weight",
        "output_blocks.8.0.out_layers.3.diff_b": "up_blocks.2.resnets.2.conv2.bias",
        "out.2.diff_b": "conv_out.bias",
    }
    changes = {name: torch.randn(before[name].shape) for name in extra.values()}
    tensors |= {f"diffusion_model.{key}": changes[name] for key, name in extra.items()}
    tensors["text_encoders.clip_l.transformer.text_projection.lora_down.weight"] = torch.ones(1, 4)
    tensors["text_encoders.clip_l.transformer.text_projection.lora_up.weight"] = torch.ones(4, 1)
    save_file(tensors, tmp_path / "a.safetensors")
    after = fused_weights(sdxl, f"{tmp_path / 'a.safetensors'}:0.5")
    expected = before[f"{CHANGED}.weight"] + 0.5 * 0.5 * product(plain)
    assert torch.allclose(after[f"{CHANGED}.weight"], expected, atol=1e-6)
    for name, change in changes.items():
        assert torch.allclose(after[name], before[name] + 0.5 * change, atol=1e-6), name


@pytest.mark.parametrize("prefix", ["unet.base_model.model.", "unet.", "base_model.model.", ""])
def test_two_spellings_in_one_file(tmp_path: Path, sdxl: Path, prefix: str) -> None:
    """diffusers' training script of LCM-LoRA writes attention one way and all else another."""
    tensors = load_file(save_tiny_lora(tmp_path / "a.safetensors", sdxl))
    beside = "down_blocks.0.resnets.0.time_emb_proj"
    out_features, in_features = base_weights(sdxl)[f"{beside}.weight"].shape
    tensors[f"unet.{beside}.lora_A.weight"] = torch.ones(2, in_features) / 8
    tensors[f"unet.{beside}.lora_B.weight"] = torch.ones(out_features, 2) / 8
    save_file(tensors, tmp_path / "a.safetensors")
    named = {f"{prefix}{key.removeprefix('unet.')}": value for key, value in tensors.items()}
    mixed = convert_state_dict_to_diffusers(named)
    assert all(any(part in key for key in mixed) for part in (".lora.down", ".lora_A"))
    save_file(mixed, tmp_path / "b.safetensors")
    mine, expected = (fused_weights(sdxl, str(tmp_path / f"{name}.safetensors")) for name in "ba")
    assert all(torch.equal(value, mine[name]) for name, value in expected.items())
    change = mine[f"{beside}.weight"] - base_weights(sdxl)[f"{beside}.weight"]
    assert torch.allclose(change, torch.tensor(2 / 64), atol=1e-6)


def test_fusing_rounds_once(tmp_path: Path, sdxl: Path) -> None:
    lora = save_tiny_lora(tmp_path / "a.safetensors", sdxl)
    bundle = load_model(ModelSpec(str(sdxl), dtype="bfloat16", device="cpu", loras=[f"{lora}:0.3"]))
    base = base_weights(sdxl)[f"{CHANGED}.weight"].bfloat16().float()
    expected = (base + 0.3 * product(lora)).bfloat16()
    assert torch.equal(bundle.network.denoiser.network.get_submodule(CHANGED).weight, expected)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("bundle_emb.x.string_to_param.*", "a LoRA with an embedding (textual inversion) in it"),
        ("lora_unet_x.hada_w1_a", "a LoHa (LyCORIS)"),
        ("unet.x.lora_magnitude_vector", "a DoRA (weight-decomposed LoRA)"),
    ],
)
def test_other_kinds_are_named(
    pipe: StableDiffusionXLImg2ImgPipeline, tmp_path: Path, sdxl: Path, key: str, kind: str
) -> None:
    tensors = load_file(save_tiny_lora(tmp_path / "good.safetensors", sdxl))
    save_file(tensors | {key: torch.ones(2, 2)}, tmp_path / "bad.safetensors")
    assert kind in error_of(pipe, tmp_path / "bad.safetensors").what


def test_a_mis_shaped_layer_is_one_line(
    pipe: StableDiffusionXLImg2ImgPipeline, tmp_path: Path, sdxl: Path, capfd, caplog
) -> None:
    """The libraries print what does not fit, layer by layer, before the one line that counts."""
    tensors = load_file(save_tiny_lora(tmp_path / "good.safetensors", sdxl))
    key = f"unet.{CHANGED}.lora_B.weight"
    save_file(tensors | {key: torch.cat([tensors[key]] * 2)}, tmp_path / "a.safetensors")
    error = error_of(pipe, tmp_path / "a.safetensors")
    total = len(tensors) // 2
    assert error.got == f"{total - 1} of {total} layers match; first that do not: unet.{CHANGED}"
    save_file(tensors | {key: torch.ones(len(tensors[key]), 3)}, tmp_path / "b.safetensors")
    assert "down [2, " in error_of(pipe, tmp_path / "b.safetensors").got
    assert capfd.readouterr() == ("", "") and not caplog.records


@pytest.mark.slow
def test_fusing_takes_little_memory_beside_the_weights(sdxl: Path, tmp_path: Path) -> None:
    """A UNet of 0.3 GB, a student of rank 64: what comes and goes is a layer, not the model or the LoRA."""
    config = SDXL | {"block_out_channels": (128, 256, 512), "attention_head_dim": (2, 4, 8)}
    model = save_sparse_model(tmp_path / "m", sdxl, config | {"cross_attention_dim": 32})
    student = save_sparse_lora(tmp_path / "student.safetensors", model, rank=64)
    plain, fused = measure_loading(model), measure_loading(model, student)
    assert fused["weights"] > 2**28
    for when in ("peak", "left"):
        assert fused[when] - plain[when] < 0.25 * fused["weights"]
