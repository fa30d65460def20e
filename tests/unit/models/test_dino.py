"""DINOv2 from local folders: what is loaded, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model

from stdcli.errors import HubError, ModelError
from stdcli.models.perceptual.dino import load_dino


def tiny_dino() -> Dinov2Model:
    config = Dinov2Config(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Dinov2Model(config).half()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_dino().save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_is_loaded_frozen_in_float32(folder: Path) -> None:
    model = load_dino(str(folder), device="cpu", offline=True)
    assert not model.training
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(torch.float32, False)}
    saved = tiny_dino().float().state_dict()
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_offline_and_not_cached() -> None:
    with pytest.raises(HubError, match="not in the local Hub cache, and offline") as caught:
        load_dino("facebook/dinov2-small", device="cpu", offline=True)
    assert "hf download facebook/dinov2-small" in caught.value.hint


def test_no_such_folder() -> None:
    with pytest.raises(ModelError, match="no such DINOv2 model"):
        load_dino("./gone", device="cpu", offline=True)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_is_not_there(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelError, match="not complete") as caught:
        load_dino(str(folder), device="cpu", offline=True)
    assert caught.value.got == f"no {file}"


def test_other_networks_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "dinov2_with_registers"}))
    with pytest.raises(ModelError, match="not a DINOv2 model") as caught:
        load_dino(str(folder), device="cpu", offline=True)
    assert caught.value.got == "dinov2_with_registers"


def test_networks_without_end_are_refused_at_once(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for name, value in {"num_hidden_layers": 10**6, "hidden_size": 10**8, "image_size": 10**9}.items():
        (folder / "config.json").write_text(json.dumps(config | {name: value}))
        with pytest.raises(ModelError, match="this DINOv2 model is damaged") as caught:
            load_dino(str(folder), device="cpu", offline=True)
        assert caught.value.where == f"{folder / 'config.json'} {name}"
        assert caught.value.got == f"this config is of no network that can be built: {value}"


def test_missing_tensors_are_not_made_up(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["layernorm.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match="lacks tensors") as caught:
        load_dino(str(folder), device="cpu", offline=True)
    assert caught.value.expected == "layernorm.weight"


@pytest.mark.parametrize(
    ("file", "message"), [("config.json", "model is damaged"), ("model.safetensors", "this weights file")]
)
def test_damaged_files(folder: Path, file: str, message: str) -> None:
    path = folder / file
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ModelError, match=message):
        load_dino(str(folder), device="cpu", offline=True)
