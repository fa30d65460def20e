"""Weight files seen from outside, and what to pick of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stdcli.errors import ModelError
from stdcli.models.bundle import _hash_files
from stdcli.models.folder import ModelFolder, read_json, weight_files
from stdcli.models.weights import count_values, read_metadata, read_shapes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4)}, path, {"key": "value"})
    return path


def test_shapes_and_metadata(file: Path) -> None:
    assert read_shapes(file) == {"a": (2, 3), "b": (4,)}
    assert read_metadata(file) == {"key": "value"}
    assert count_values([file, file]) == 20


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"", lambda b: b"\xff" * 100]
)
def test_damage_is_noticed_from_the_header(file: Path, damage) -> None:
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match="damaged, cut short") as caught:
        read_shapes(file)
    assert caught.value.where == str(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        read_metadata(tmp_path / "gone.safetensors")


def test_shards_are_one_component(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name in names:
        save_file({name: torch.zeros(1)}, tmp_path / "unet" / name)
    folder = ModelFolder(tmp_path, "", {}, {})
    assert [p.name for p in weight_files(folder, "unet", half=True)] == names


def test_hash_of_one_file_and_of_shards(file: Path, tmp_path: Path) -> None:
    import hashlib

    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert _hash_files([file]) == digest
    assert _hash_files([file, file]) == hashlib.sha256((digest * 2).encode()).hexdigest()
    file.write_bytes(b"other")
    assert _hash_files([file]) == hashlib.sha256(b"other").hexdigest(), "a changed file is hashed again"
    file.unlink()
    with pytest.raises(ModelError, match="gone since the model was loaded"):
        _hash_files([file])


@pytest.mark.parametrize("text", ["[1]", "{", ""])
def test_config_must_be_an_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ModelError, match="cannot read this config"):
        read_json(path)
