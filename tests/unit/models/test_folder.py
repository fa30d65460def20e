"""What a model's folder may say, and what it may hold."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stdcli.errors import ModelError
from stdcli.models.folder import read_folder, read_json
from stdcli.models.weights import hash_file, read_shapes

INDEX = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}


@pytest.mark.parametrize(
    ("key", "value", "is_fine"),
    [
        ("layers_per_block", 1000, True),
        ("layers_per_block", 1001, False),
        ("num_hidden_layers", 10**7, False),
        ("transformer_layers_per_block", [1, 2, 10**7], False),
        ("down_block_types", ["x"] * 1001, True),
        ("num_train_timesteps", 10**12, False),
        ("vocab_size", 250_000, True),
        ("block_out_channels", [320, 10**8], False),
        ("vision_config", {"num_hidden_layers": 10**7}, False),
        ("num_attention_heads", 10**7, False),
        ("sample_size", 1e300, False),
    ],
)
def test_networks_without_end_are_refused(tmp_path: Path, key: str, value: object, is_fine: bool) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_text(json.dumps({key: value}))
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    if is_fine:
        assert read_folder(tmp_path).config("unet") == {key: value}
        return
    for read in (lambda: read_folder(tmp_path), lambda: read_json(tmp_path / "unet/config.json")):
        with pytest.raises(ModelError, match="no network that can be built") as told:
            read()
        assert str(tmp_path / "unet/config.json") in told.value.where


@pytest.mark.parametrize("part", [[{}, "A"], [[], "A"], ["diffusers", {}], ["diffusers", 3], [3, "A"]])
def test_parts_of_odd_kinds_are_refused(tmp_path: Path, part: list) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX | {"vae": part}))
    with pytest.raises(ModelError, match="does not say of what kind a part is"):
        read_folder(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    os.mkfifo(tmp_path / "tokenizer/vocab.json")
    os.mkfifo(tmp_path / "a.safetensors")
    for read in (read_shapes, hash_file):
        with pytest.raises(ModelError, match="not a plain file"):
            read(tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="not a plain file"):
        read_folder(tmp_path)


def test_what_no_part_reads_is_nobodys_business(tmp_path: Path) -> None:
    """A cache's link to a file that was cleaned away, another program's settings, a folder of one's own."""
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    (tmp_path / "whole.safetensors").symlink_to(tmp_path / "gone")
    for name, text in (("mine", "[1, 2]"), ("more", '{"size": 1e9}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.ckpt").symlink_to(tmp_path / "gone")
    assert read_folder(tmp_path).path == tmp_path
