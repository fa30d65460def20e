"""Damaged weights, LoRAs and configs are read or refused in the user's words, never by another exception."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from stdcli.config.load import resolve
from stdcli.config.mappings import read_mapping
from stdcli.errors import ConfigError, ModelError
from stdcli.models.folder import read_recipe
from stdcli.models.lora.fusing import check_lora
from stdcli.models.single_file import UNET_MARK, family_name
from stdcli.models.weights import count_values, read_metadata
from tests.mutations import at_most, mutate

LIMIT_S = 5.0
LORA = save(
    {
        "unet.mid.attn2.to_k.lora_A.weight": torch.ones(2, 8),
        "unet.mid.attn2.to_k.lora_B.weight": torch.ones(8, 2),
        "unet.mid.attn2.to_k.alpha": torch.tensor(2.0),
    },
    {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 3.0})},
)
CHECKPOINT = save(
    {UNET_MARK: torch.ones(8, 4, 3, 3), "model.diffusion_model.out.2.weight": torch.ones(4, 8, 3, 3)}
)
YAML = b"task: stylize\nsteps: 4\nstrength: 0.6\nstyle: [a.png, 'b c.png']\nprompt: \"night \xc3\xbc\"\n"
RECORD = json.dumps({"task": "stylize", "config": {"steps": 3, "style": ["a.png"], "gamma": 0.5}}).encode()
RECIPE = b'{"steps": 4, "strength": 0.6, "guidance": 2.0, "start": {"transform": "colours"}}'


def with_header(data: bytes, rng: np.random.Generator) -> bytes:
    """The same tensors under a header whose length fits and whose JSON says something else."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = sorted(header)[rng.integers(len(header))]
    wrong = [None, [], {}, -1, "x", {"dtype": "F8_E8M0", "shape": [2**40, 2**40], "data_offsets": [0, 4]}]
    entry, value = header[name], wrong[rng.integers(len(wrong))]
    if rng.integers(2):
        header[name] = value
    else:
        entry[sorted(entry)[rng.integers(len(entry))]] = value
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def check_local_lora(path: Path) -> None:
    check_lora(str(path), offline=True)


@pytest.mark.parametrize(("data", "reader"), [(LORA, check_local_lora), (CHECKPOINT, family_name)])
def test_damaged_weights_are_read_or_refused(tmp_path, data, reader):
    path = tmp_path / "a.safetensors"
    read = 0
    for index in range(300):
        rng = np.random.default_rng((1, index))
        path.write_bytes(with_header(data, rng) if index % 3 == 0 else mutate(data, LORA + CHECKPOINT, rng))
        with at_most(LIMIT_S):
            try:
                reader(path)
                assert count_values([path]) >= 0 and isinstance(read_metadata(path), dict)
                read += 1
            except ModelError as error:
                assert error.where == str(path)
    assert 0 < read < 300


def test_damaged_configs_are_read_or_refused(tmp_path):
    read = 0
    for index in range(600):
        rng = np.random.default_rng((2, index))
        data, name = ((YAML, "a.yaml"), (RECORD, "a.json"))[index % 2]
        path: Path = tmp_path / name
        path.write_bytes(mutate(data, YAML + RECORD, rng))
        with at_most(LIMIT_S):
            try:
                read_mapping(path)
                resolve("stylize", config_file=path)
                read += 1
            except ConfigError as error:
                assert error.where or error.problems or error.hint
    assert 0 < read < 600


def test_damaged_recipes_are_read_or_refused(tmp_path):
    for index in range(300):
        (tmp_path / "recipe.json").write_bytes(mutate(RECIPE, YAML, np.random.default_rng((3, index))))
        with at_most(LIMIT_S):
            try:
                assert read_recipe(tmp_path).steps >= 1
            except ModelError as error:
                assert "recipe.json" in error.where
