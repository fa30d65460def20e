"""Folders that cannot be loaded: one clear error each, before any weights are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stdcli.errors import ModelError, ResourceError
from stdcli.models import locate, pipeline
from stdcli.models.diffusers_api import UNet2DConditionModel
from stdcli.models.families import sdxl
from stdcli.models.load import load_denoiser, load_model
from stdcli.models.spec import ModelSpec
from stdcli.models.weights import count_values
from stdcli.runtime.free_memory import Room
from tests.tiny_models import (
    add_style_adapter,
    save_tiny_checkpoint,
    save_tiny_embedded,
    save_tiny_sd15,
    save_tiny_sdxl,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sdxl(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "model")


def edit(path: Path, change: Callable[[dict], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def error_of(model: Path, **options: object) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(ModelSpec(str(model), device="cpu", dtype="float32", **options))
    assert caught.value.exit_code == 4
    return caught.value


def test_folder_without_an_index(tmp_path: Path) -> None:
    assert "not a diffusers folder" in error_of(tmp_path).what
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    assert error_of(tmp_path).hint == f"this is a LoRA: --lora {tmp_path}"


def test_folder_around_the_model(model: Path) -> None:
    assert error_of(model.parent).hint == f"did you mean {model}"


def test_unknown_pipeline_class(model: Path) -> None:
    edit(model / "model_index.json", lambda index: index.update(_class_name="FluxPipeline"))
    error = error_of(model)
    assert error.got == "FluxPipeline"
    assert "StableDiffusionXLPipeline" in error.expected


def test_pipeline_code_in_the_repository_is_not_run(model: Path) -> None:
    edit(model / "model_index.json", lambda index: index.update(_class_name=["evil", "EvilPipeline"]))
    assert "its own pipeline code, which is never done" in error_of(model).what


@pytest.mark.parametrize("library", ["os", "evil", "stdcli.models.load"])
def test_component_code_is_not_imported(model: Path, library: str) -> None:
    (model / "unet" / "evil.py").write_text("raise SystemExit('ran')")
    edit(model / "model_index.json", lambda index: index.update(unet=[library, "UNet2DConditionModel"]))
    error = error_of(model)
    assert "never imported" in error.what
    assert error.got == library


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder_2", "tokenizer", "scheduler"])
def test_missing_part(model: Path, part: str) -> None:
    shutil.rmtree(model / part)
    assert error_of(model).what == f"this model lacks {part}"


def test_part_that_is_null(model: Path) -> None:
    edit(
        model / "model_index.json",
        lambda index: index.update(text_encoder=[None, None], tokenizer=[None, None]),
    )
    assert error_of(model).what == "this model lacks text_encoder, tokenizer"


def test_pickle_weights_are_refused(model: Path) -> None:
    (model / "unet" / "diffusion_pytorch_model.safetensors").rename(
        model / "unet" / "diffusion_pytorch_model.bin"
    )
    error = error_of(model)
    assert "only pickle weights here, which are never loaded" in error.what
    assert error.where == str(model / "unet")
    assert error.got == "diffusion_pytorch_model.bin"


PICKLE = "diffusion_pytorch_model.bin"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARD = "diffusion_pytorch_model-00001-of-00001.safetensors"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (PICKLE, "leads elsewhere"),
        ("../vae/" + WEIGHTS, "leads elsewhere"),
        ("/elsewhere/" + WEIGHTS, "leads elsewhere"),
        (7, "leads elsewhere"),
        (None, "leads elsewhere"),
        (SHARD, "do not agree"),
    ],
)
@pytest.mark.parametrize("index", [f"{WEIGHTS}.index.json", f"{WEIGHTS}.index.fp16.json"])
def test_shard_indexes_that_lead_to_other_files(model: Path, named: object, message: str, index: str) -> None:
    place = model / "unet"
    if "fp16" in index:
        (place / WEIGHTS).rename(place / "diffusion_pytorch_model.fp16.safetensors")
    torch.save({}, place / PICKLE)
    (place / index).write_text(json.dumps({"weight_map": {"conv_in.weight": named}} if named else {}))
    error = error_of(model)
    assert message in error.what
    assert error.where == str(place / index)


def test_a_shard_beside_those_of_the_index(model: Path) -> None:
    network = UNet2DConditionModel.from_pretrained(model / "unet")
    (model / "unet" / WEIGHTS).unlink()
    network.save_pretrained(model / "unet", max_shard_size="200KB")
    shards = sorted((model / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    bundle = load_model(ModelSpec(str(model), device="cpu", dtype="float32"))
    assert bundle.network.weight_files["unet"] == shards
    shutil.copy(shards[0], model / "unet" / "diffusion_pytorch_model-00009-of-00009.safetensors")
    error = error_of(model)
    assert error.what == "this shard index and the weights beside it do not agree"
    assert error.got == "diffusion_pytorch_model-00009-of-00009.safetensors"


@pytest.mark.parametrize(
    "name",
    [
        "unet/diffusers.py",
        "unet/anything.py",
        "tokenizer/transformers.py",
        "scheduler/x.pyc",
        "diffusers.py",
        "unet.py",
    ],
)
def test_code_beside_a_model_is_refused(model: Path, name: str) -> None:
    (model / name).write_text(f"raise SystemExit({name!r})")
    error = error_of(model)
    assert error.what == "this model brings code of its own, which is never run"
    assert error.got == Path(name).name


def test_scripts_beside_the_parts_are_nobodys_business(model: Path) -> None:
    (model / "convert.py").write_text("raise SystemExit")
    assert load_model(ModelSpec(str(model), device="cpu", dtype="float32")).network.family.name == "sdxl"


def test_no_weights(model: Path) -> None:
    (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert error_of(model).what == "no weights here"


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1000], lambda b: b"", lambda b: b"not safetensors at all", lambda b: b[:20]]
)
def test_damaged_weights(model: Path, damage: Callable[[bytes], bytes]) -> None:
    path = model / "text_encoder_2" / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    error = error_of(model)
    assert "damaged, cut short or not safetensors" in error.what
    assert error.where == str(path)
    assert error.hint


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_file_that_lacks_a_tensor(model: Path, part: str) -> None:
    (path,) = (model / part).glob("*.safetensors")
    tensors = load_file(path)
    tensors.pop(max(tensors, key=lambda k: tensors[k].numel()))
    save_file(tensors, path, {"format": "pt"})
    error = error_of(model)
    assert error.where in (str(path), str(model))


def test_config_of_another_size(model: Path) -> None:
    edit(model / "unet" / "config.json", lambda config: config.update(block_out_channels=[16, 16, 32]))
    error = error_of(model)
    assert error.what == "this model's files do not fit together"
    assert error.where == str(model)


def test_config_that_is_not_json(model: Path) -> None:
    (model / "unet" / "config.json").write_text("{")
    assert error_of(model).where == str(model / "unet" / "config.json")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet/config.json", {"in_channels": 8}, "an edit model"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "embedded guidance value"),
        ("model_index.json", {"requires_aesthetics_score": True}, "refiner"),
        ("model_index.json", {"unet": ["diffusers", "FlaxUNet2DConditionModel"]}, "unknown kind of unet"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderDC"]}, "unknown kind of vae"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "wavy"}, "do not fit together|not supported"),
        ("scheduler/scheduler_config.json", {"prediction_type": "wavy"}, "not supported"),
    ],
)
def test_unsupported_networks(model: Path, file: str, change: dict, message: str) -> None:
    edit(model / file, lambda config: config.update(change))
    error = error_of(model)
    assert any(part in error.what for part in message.split("|"))


def test_stable_diffusion_2_is_refused(tmp_path: Path) -> None:
    model = save_tiny_sd15(tmp_path / "m")
    edit(model / "unet" / "config.json", lambda config: config.update(cross_attention_dim=1024))
    assert "Stable Diffusion 2" in error_of(model).what


def test_bad_recipe(model: Path) -> None:
    (model / "recipe.json").write_text('{"steps": 0}')
    error = error_of(model)
    assert error.what == "cannot read this recipe"
    assert error.where.endswith("recipe.json steps")


def test_recipe_that_is_not_text(model: Path) -> None:
    (model / "recipe.json").write_bytes(b"{\xff}")
    assert error_of(model).what == "cannot read this recipe"


def test_a_tensor_under_another_name_is_missed(model: Path) -> None:
    """The number of values is right, and upstream would leave the parameter without data."""
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.wait"] = tensors.pop("conv_in.weight")
    save_file(tensors, path, {"format": "pt"})
    error = error_of(model)
    assert (error.what, error.where) == ("this weights file lacks tensors", str(path))
    assert error.expected == "conv_in.weight"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("image_encoder/config.json", '{"model_type": "clip_vision_model", "patch_size": "x"}'),
        ("image_encoder/config.json", '{"model_type": "clip_vision_model", "num_attention_heads": 0}'),
        ("image_encoder/config.json", "{"),
        ("feature_extractor/preprocessor_config.json", "{"),
        ("feature_extractor/preprocessor_config.json", '{"size": "x"}'),
    ],
)
def test_damaged_configs_of_the_embedded_kind(tmp_path: Path, file: str, content: str) -> None:
    model = save_tiny_embedded(tmp_path / "m")
    (model / file).write_text(content)
    error = error_of(model)
    if content == "{":
        assert (error.what, error.where) == ("cannot read this config", str(model / file))
        return
    assert "fit together" in error.what
    assert error.where in (str(model), str(model / file.partition("/")[0]))


def test_damaged_loras_are_refused_before_the_model_is_opened(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_open_folder", lambda *_: pytest.fail("the model was opened"))
    save_file(
        {"unet.x.lora_A.weight": torch.ones(2), "unet.x.lora_B.weight": torch.ones(2, 2)}, tmp_path / "a"
    )
    save_file({"unet.x.weight": torch.ones(2, 2)}, tmp_path / "b")
    (tmp_path / "c").write_bytes((tmp_path / "b").read_bytes()[:-1])
    for name, message in (("a", "not a LoRA"), ("b", "not a LoRA"), ("c", "damaged"), ("d", "no such LoRA")):
        path = tmp_path / f"{name}.safetensors"
        if name != "d":
            (tmp_path / name).rename(path)
        error = error_of(model, loras=[f"{path}:0.5"])
        assert message in error.what
        assert error.where == str(path)


def test_embedded_model_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "EMBEDDED_FOLDER", tmp_path / "gone")
    error = error_of(Path("embedded"))
    assert "not in this installation" in error.what
    assert error.hint == "pip install --force-reinstall stdcli"


def test_out_of_memory_is_a_resource_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, device: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sdxl.FAMILY.pipeline, "to", fail)
    with pytest.raises(ResourceError, match="not enough memory") as caught:
        load_model(ModelSpec(str(model), device="cpu", dtype="float32"))
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_model_without_room_is_told_before_its_weights_are_read(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """By what its files hold: every value of them in four bytes; the denoiser alone takes less."""
    file = save_tiny_checkpoint(tmp_path / "x.safetensors", model)
    name, base = (str(model), None) if kind == "folder" else (str(file), str(model))
    counts = {path.parent.name: count_values([path]) for path in model.rglob("*.safetensors")}
    needed = 4 * sum(counts.values())
    monkeypatch.setattr(pipeline, "measure_room", lambda: Room(needed - 1, needed, 0, limited=False))
    with monkeypatch.context() as patch:
        for opener in ("load_part", "open_checkpoint", "_check_complete"):
            patch.setattr(pipeline, opener, lambda *_, **__: pytest.fail("weights were read"))
        with pytest.raises(ResourceError, match="not enough main memory") as caught:
            load_model(ModelSpec(name, base=base, device="cpu", dtype="float32"))
    assert caught.value.exit_code == 7
    load_denoiser(ModelSpec(name, base=base, device="cpu", dtype="float32"))
    room = Room(needed, needed, 0, limited=False)
    monkeypatch.setattr(pipeline, "measure_room", lambda: room)
    (note,) = load_model(ModelSpec(name, base=base, device="cpu", dtype="float32")).network.notes
    assert "little main memory" in note


def test_the_style_adapter_counts_where_it_is_going_to_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = add_style_adapter(save_tiny_sdxl(tmp_path / "sdxl"))
    adapter = list((folder / "ip_adapter").rglob("*.safetensors"))
    without = count_values(set(folder.rglob("*.safetensors")) - set(adapter))
    rooms = {True: 4 * (without + count_values(adapter)), False: 4 * without}
    for styles, needed in rooms.items():
        room = Room(needed - 1, needed, 0, limited=False)
        monkeypatch.setattr(pipeline, "measure_room", lambda room=room: room)
        with pytest.raises(ResourceError, match="not enough main memory"):
            load_model(ModelSpec(str(folder), device="cpu", dtype="float32"), styles=styles)
    monkeypatch.setattr(pipeline, "measure_room", lambda: Room(rooms[False], 0, 0, limited=False))
    load_model(ModelSpec(str(folder), device="cpu", dtype="float32"))
