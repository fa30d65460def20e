"""Networks from nothing: seeded without touching anything global, and saved without being changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from stdcli.config.recipe import Recipe
from stdcli.errors import ModelError
from stdcli.teacher.networks import (
    StylizerNetworks,
    build_codec,
    build_networks,
    encode_style,
    load_weights,
    make_scheduler,
    predict,
    save_folder,
)
from tests.tiny_teachers import tensors_of


def tiny(seed: int = 0) -> StylizerNetworks:
    return build_networks(
        latent_channels=4,
        channels=(32, 64),
        style_dim=16,
        style_width=32,
        style_layers=1,
        cross_dim=16,
        seed=seed,
    )


def save(folder: Path, networks: StylizerNetworks) -> None:
    codec = build_codec(latent_channels=4, hidden_channels=4)
    save_folder(folder, networks=networks, codec=codec, scheduler=make_scheduler(), recipe=Recipe())


def test_weights_come_from_the_seed() -> None:
    first, again, other = (tensors_of(tiny(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["unet.conv_in.weight"], other["unet.conv_in.weight"])
    codecs = [build_codec(latent_channels=4, hidden_channels=4, seed=seed) for seed in (0, 0, 1)]
    weights = [codec.refine[0].weight for codec in codecs]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_default_generator_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    save(tmp_path, tiny())
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_leaves_the_networks_as_they_were(tmp_path: Path) -> None:
    networks = tiny()
    before = {name: tensor.clone() for name, tensor in tensors_of(networks).items()}
    save(tmp_path, networks)
    for name, tensor in tensors_of(networks).items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])
    stored = load_file(tmp_path / "image_encoder/model.safetensors")
    name = "visual_projection.weight"
    assert torch.equal(stored[name], before[f"style_encoder.{name}"].half())


def test_the_feature_extractor_is_named_as_transformers_knows_it(tmp_path: Path) -> None:
    save(tmp_path, tiny())
    config = json.loads((tmp_path / "feature_extractor/preprocessor_config.json").read_text())
    assert config["image_processor_type"] == "CLIPImageProcessor"
    assert config["crop_size"] == {"height": 256, "width": 256}


def test_the_schedule_is_stable_diffusions_with_smaller_betas() -> None:
    alpha_bars = np.cumprod(1 - 0.03 * np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    assert np.allclose(make_scheduler().alphas_cumprod.numpy(), alpha_bars, rtol=1e-5)
    assert make_scheduler().config.prediction_type == "v_prediction"
    ratios = np.sqrt(1 / alpha_bars - 1)[[499, 999]]
    assert ratios == pytest.approx([0.20, 0.42], abs=0.005)  # as its docstring says


def test_saved_weights_can_be_started_from(tmp_path: Path) -> None:
    networks, codec = tiny(), build_codec(latent_channels=4, hidden_channels=4)
    recipe = Recipe()
    save_folder(tmp_path, networks=networks, codec=codec, scheduler=make_scheduler(), recipe=recipe)
    others, other_codec = tiny(seed=1), build_codec(latent_channels=4, hidden_channels=4, seed=1)
    load_weights(tmp_path, networks=others, codec=other_codec)
    wanted = tensors_of(networks) | codec.state_dict()
    loaded = tensors_of(others) | other_codec.state_dict()
    assert wanted.keys() == loaded.keys()
    for name, tensor in wanted.items():
        stored = tensor.half().float() if tensor.is_floating_point() else tensor
        assert torch.equal(loaded[name], stored), name


@pytest.mark.parametrize(
    ("missing", "message"),
    [("unet", "lacks unet"), ("ip_adapter", "cannot start from this model"), ("vae", "lacks vae")],
)
def test_a_folder_without_all_parts_is_no_start(tmp_path: Path, missing: str, message: str) -> None:
    save(tmp_path, tiny())
    shutil.rmtree(tmp_path / missing)
    start_from(tmp_path, message=message)


def start_from(folder: Path, *, message: str) -> None:
    codec = build_codec(latent_channels=4, hidden_channels=4)
    with pytest.raises(ModelError, match=message):
        load_weights(folder, networks=tiny(), codec=codec)


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder"])
def test_pickles_are_no_start(tmp_path: Path, part: str) -> None:
    save(tmp_path, tiny())
    (path,) = (tmp_path / part).glob("*.safetensors")
    name = "pytorch_model.bin" if part == "image_encoder" else "diffusion_pytorch_model.bin"
    torch.save(load_file(path), tmp_path / part / name)
    path.unlink()
    start_from(tmp_path, message="pickle weights here, which are never loaded")


def test_a_folder_that_is_no_model_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers and diffusers take a path that is not there for a Hub id."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # so that conftest's guard would notice
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    start_from(Path("mine"), message="not a diffusers folder")


def test_another_autoencoder_is_no_start(tmp_path: Path) -> None:
    save(tmp_path, tiny())
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderKL"]}))
    start_from(tmp_path, message="cannot start from this model")


def test_networks_of_other_sizes_are_no_start(tmp_path: Path) -> None:
    save(tmp_path, tiny())
    with pytest.raises(ModelError) as caught:
        load_weights(tmp_path, networks=tiny(), codec=build_codec(latent_channels=6, hidden_channels=4))
    assert "networks of the same sizes" in caught.value.expected


def test_every_weight_learns() -> None:
    networks = tiny()
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    style = encode_style(networks.style_encoder, pictures)
    predict(networks.unet, x, torch.tensor([10, 900]), style).square().sum().backward()
    named = [*networks.unet.named_parameters(), *networks.style_encoder.named_parameters()]
    still = [name for name, p in named if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert {name.split("attn2.")[-1] for name in still} == {"to_k.weight", "to_v.weight"}  # of text: zeros


def test_a_style_has_no_place() -> None:
    """The encoder sees 8x8 patches and not where they are."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1
    patches = torch.nn.functional.unfold(picture, 8, stride=8)
    shuffled = patches[..., torch.randperm(16, generator=generator)]
    moved = torch.nn.functional.fold(shuffled, 32, 8, stride=8)
    encoder = tiny().style_encoder
    assert not torch.equal(moved, picture)
    assert torch.allclose(encode_style(encoder, moved), encode_style(encoder, picture), atol=1e-5)
    brighter = encode_style(encoder, (picture + 0.3).clamp(-1, 1))
    assert not torch.allclose(brighter, encode_style(encoder, picture), atol=1e-2)
