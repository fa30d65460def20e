"""Single-file checkpoints give the model they were made from; the base folder fills in what they lack."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stdcli.diffusion.predictions import PredictionType
from stdcli.errors import ModelError
from stdcli.models.formulation import schedule_overrides
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from tests.tiny_models import save_tiny_checkpoint, save_tiny_lora, save_tiny_sd15, save_tiny_sdxl

BUILDERS = {"sd15": save_tiny_sd15, "sdxl": save_tiny_sdxl}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of both families with their weights, and `-base` folders with configs and tokenizers only."""
    root = tmp_path_factory.mktemp("models")
    made = {name: build(root / name) for name, build in BUILDERS.items()}
    for name, folder in list(made.items()):
        made[f"{name}-base"] = shutil.copytree(
            folder, root / f"{name}-base", ignore=shutil.ignore_patterns("*.safetensors")
        )
    return made


@torch.no_grad()
def outputs(name: Path, **options: object) -> list[torch.Tensor]:
    """Everything a checkpoint brings: latents, picture, text, denoiser."""
    bundle = load_model(ModelSpec(str(name), dtype="float32", device="cpu", **options))
    cond, _ = bundle.condition(prompt="a painting", size_px=(64, 64))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    z = bundle.codec.encode(pixels)
    return [z, bundle.codec.decode(z), cond.encoder_hidden_states, bundle.network.denoiser(z, 499, cond)]


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_equals_the_folder(tmp_path: Path, models: dict[str, Path], name: str) -> None:
    file = save_tiny_checkpoint(tmp_path / "m.safetensors", models[name])
    mine, expected = outputs(file, base=str(models[f"{name}-base"])), outputs(models[name])
    for a, b in zip(mine, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_base_weights_fill_what_the_file_lacks(tmp_path: Path, models: dict[str, Path]) -> None:
    file = save_tiny_checkpoint(tmp_path / "unet.safetensors", models["sdxl"], parts=("unet",))
    for a, b in zip(outputs(file, base=str(models["sdxl"])), outputs(models["sdxl"]), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    with pytest.raises(ModelError, match="no vae in this checkpoint, nor in its base folder"):
        load_model(ModelSpec(str(file), base=str(models["sdxl-base"])))


def test_missing_base_names_the_command(tmp_path: Path, models: dict[str, Path]) -> None:
    file = save_tiny_checkpoint(tmp_path / "m.safetensors", models["sdxl"])
    with pytest.raises(ModelError) as caught:
        load_model(ModelSpec(str(file)))
    text = caught.value.render()
    assert "no configs and no tokenizer" in text
    assert "--base FOLDER" in text
    assert "hf download stabilityai/stable-diffusion-xl-base-1.0" in text


def test_base_of_another_family(tmp_path: Path, models: dict[str, Path]) -> None:
    file = save_tiny_checkpoint(tmp_path / "m.safetensors", models["sd15"])
    with pytest.raises(ModelError, match="different families"):
        load_model(ModelSpec(str(file), base=str(models["sdxl-base"])))


def test_markers_of_v_prediction(tmp_path: Path, models: dict[str, Path]) -> None:
    base = str(models["sdxl-base"])
    plain = load_model(
        ModelSpec(str(save_tiny_checkpoint(tmp_path / "p.safetensors", models["sdxl"])), base=base)
    )
    assert plain.network.prediction == PredictionType.EPSILON
    marked = save_tiny_checkpoint(tmp_path / "v.safetensors", models["sdxl"], markers=("v_pred", "ztsnr"))
    bundle = load_model(ModelSpec(str(marked), base=base))
    assert bundle.network.prediction == PredictionType.V
    assert bundle.network.schedule.alphas[-1] < 1e-6
    assert plain.network.schedule.alphas[-1] > 0.06


@pytest.mark.parametrize(
    ("marks", "metadata", "got"),
    [
        (["edm_vpred.sigma_max", "edm_vpred.sigma_min"], {}, "edm_vpred.sigma_max, edm_vpred.sigma_min"),
        (["edm_mean", "edm_std"], {}, "edm_mean, edm_std"),
        (["edm_eps.sigma_max"], {}, "edm_eps.sigma_max"),
        (["sigma_data"], {}, "sigma_data"),
        ([], {"modelspec.prediction_type": "flow"}, "prediction type flow"),
        ([], {"modelspec.prediction_type": "edm_v"}, "prediction type edm_v"),
    ],
)
def test_other_formulations_are_refused_by_name(tmp_path: Path, models, marks, metadata, got) -> None:
    plain = save_tiny_checkpoint(tmp_path / "p.safetensors", models["sdxl"])
    file = tmp_path / "m.safetensors"
    save_file(load_file(plain) | {mark: torch.tensor(120.0) for mark in marks}, file, metadata)
    with pytest.raises(ModelError, match="formulation that is not sampled here") as caught:
        load_model(ModelSpec(str(file), base=str(models["sdxl-base"])))
    assert (caught.value.exit_code, caught.value.where, caught.value.got) == (4, str(file), got)


@pytest.mark.parametrize("told", ["epsilon", "", "v", "V_Prediction", "v-prediction", "v_pred"])
def test_predictions_told_by_metadata(told: str) -> None:
    found = schedule_overrides(Path("m"), ["first_stage_model.edm"], {"modelspec.prediction_type": told})
    assert found == ({"prediction_type": "v_prediction"} if told.lower().startswith("v") else {})


@pytest.mark.parametrize("base", ["folder", "plain"])
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_inpainting_models_equal_their_folders(tmp_path: Path, models, name: str, base: str) -> None:
    """With the configs of their own folder, and with those of the plain model, as they are published."""
    folder = BUILDERS[name](tmp_path / "folder", in_channels=9)
    file = save_tiny_checkpoint(tmp_path / "m.safetensors", folder)
    configs = {"folder": folder, "plain": models[f"{name}-base"]}[base]
    with pytest.raises(ModelError, match="needs a mask"):
        load_model(ModelSpec(str(file), base=str(configs), dtype="float32"))
    specs = [
        ModelSpec(str(file), base=str(configs), dtype="float32"),
        ModelSpec(str(folder), dtype="float32"),
    ]
    mine, theirs = (load_model(spec, masked=True) for spec in specs)
    assert mine.network.denoiser.sees_mask
    loaded = mine.network.denoiser.network.state_dict()
    for key, value in theirs.network.denoiser.network.state_dict().items():
        assert torch.equal(loaded[key], value), key


def test_identity_is_of_the_file(tmp_path: Path, models: dict[str, Path]) -> None:
    file = save_tiny_checkpoint(tmp_path / "m.safetensors", models["sd15"])
    identity = load_model(ModelSpec(str(file), base=str(models["sd15-base"]))).network.identity
    assert identity["family"] == "sd15"
    assert identity["unet_sha256"] == identity["vae_sha256"] == identity["text_encoder_sha256"]


def test_identity_names_the_base_for_what_came_from_it(tmp_path: Path, models: dict[str, Path]) -> None:
    file = save_tiny_checkpoint(tmp_path / "m.safetensors", models["sd15"], parts=("unet", "text_encoder"))
    bundle = load_model(ModelSpec(str(file), base=str(models["sd15"])))
    assert bundle.network.weight_files == {
        "unet": [file],
        "vae": [models["sd15"] / "vae" / "diffusion_pytorch_model.safetensors"],
        "text_encoder": [file],
    }
    assert len({bundle.network.identity[f"{part}_sha256"] for part in ("unet", "vae")}) == 2


def test_lora_is_not_a_checkpoint(tmp_path: Path, models: dict[str, Path]) -> None:
    lora = save_tiny_lora(tmp_path / "l.safetensors", models["sdxl"])
    with pytest.raises(ModelError, match="not a Stable Diffusion checkpoint") as caught:
        load_model(ModelSpec(str(lora)))
    assert caught.value.hint == f"this is a LoRA: --lora {lora}"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (4, 1024)}, "Stable Diffusion 2"),
        ({"input_blocks.0.0.weight": (4, 8, 3, 3)}, "more than a latent .an edit model"),
    ],
)
def test_other_families_are_refused(
    tmp_path: Path, changed: dict[str, tuple[int, ...]], message: str
) -> None:
    shapes = {"input_blocks.0.0.weight": (4, 4, 3, 3), "out.2.weight": (4, 4, 3, 3)} | changed
    file = tmp_path / "m.safetensors"
    save_file({f"model.diffusion_model.{k}": torch.zeros(s) for k, s in shapes.items()}, file)
    with pytest.raises(ModelError, match=message):
        load_model(ModelSpec(str(file)))
