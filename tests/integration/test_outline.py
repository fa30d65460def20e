"""Models without their weights, as dry runs see them, against the same models loaded."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stdcli.cli.main import main
from stdcli.errors import ModelError
from stdcli.models import load, pipeline
from stdcli.models.bundle import Bundle
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from stdcli.models.weights import count_values
from stdcli.runtime.free_memory import Room
from tests.real_configs import SDXL
from tests.sparse_models import save_sparse_model
from tests.tiny_models import (
    add_style_adapter,
    save_tiny_checkpoint,
    save_tiny_embedded,
    save_tiny_lora,
    save_tiny_sd15,
    save_tiny_sdxl,
)

RED = Image.new("RGB", (50, 40), "red")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "sd15": add_style_adapter(save_tiny_sd15(root / "sd15")),
        "sdxl": add_style_adapter(save_tiny_sdxl(root / "sdxl")),
        "embedded": save_tiny_embedded(root / "embedded"),
    }


def outline(name: object, *, styles: bool = False, **options: object) -> Bundle:
    spec = ModelSpec(str(name), device="cpu", dtype="float32", **options)
    return load_model(spec, styles=styles, weights=False)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "embedded"])
def test_an_outline_says_what_the_model_says(folders: dict[str, Path], name: str) -> None:
    asked = {"prompt": "x " * 90, "styles": [RED], "size_px": (64, 96), "guidance": 3.0}
    drawn = outline(folders[name], styles=True)
    whole = load_model(ModelSpec(str(folders[name]), device="cpu", dtype="float32"), styles=True)
    assert all(parameter.is_meta for parameter in drawn.network.denoiser.network.parameters())
    assert drawn.network.identity == whole.network.identity
    for what in ("family", "recipe", "prediction", "dtype_reason", "need"):
        assert getattr(drawn.network, what) == getattr(whole.network, what)
    assert drawn.multiple_px == whole.multiple_px
    assert drawn.network.denoiser.sees_mask == whole.network.denoiser.sees_mask
    assert drawn.network.schedule.fingerprint() == whole.network.schedule.fingerprint()
    told = drawn.condition(**asked)[0].notes
    assert told == whole.condition(**asked)[0].notes and told


def test_the_outline_of_a_single_file(folders: dict[str, Path], tmp_path: Path) -> None:
    base = str(folders["sdxl"])
    file = save_tiny_checkpoint(tmp_path / "x.safetensors", folders["sdxl"], markers=("v_pred",))
    drawn, whole = (
        outline(file, base=base),
        load_model(ModelSpec(str(file), base=base, device="cpu", dtype="float32")),
    )
    assert drawn.network.identity == whole.network.identity and drawn.network.need == whole.network.need
    assert drawn.network.prediction == whole.network.prediction == "v_prediction"
    tensors = load_file(file)
    tensors["model.diffusion_model.out.0.weight"] = torch.zeros(30)
    save_file(tensors, file)
    with pytest.raises(ModelError, match="do not make a model") as caught:
        outline(file, base=base)
    assert "out.0.weight" in caught.value.got


@pytest.mark.parametrize("part", ["unet", "text_encoder_2"])
def test_weights_of_another_network_are_noticed_from_their_headers(tmp_path: Path, part: str) -> None:
    folder = save_tiny_sdxl(tmp_path / "m")
    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file(tensors | {name: torch.cat([tensors[name]] * 2)}, path)
    with pytest.raises(ModelError, match="do not fit together") as caught:
        outline(folder)
    assert name in caught.value.got
    del tensors[name]
    save_file(tensors, path)
    with pytest.raises(ModelError, match="lacks tensors"):
        outline(folder)


def test_students_and_loras_are_compared_with_the_outline(folders: dict[str, Path], tmp_path: Path) -> None:
    fits = str(save_tiny_lora(tmp_path / "a.safetensors", folders["sdxl"]))
    other = str(save_tiny_lora(tmp_path / "b.safetensors", folders["sd15"]))
    drawn = outline(folders["sdxl"], student=fits, loras=[f"{fits}:0.5"])
    whole = load_model(
        ModelSpec(str(folders["sdxl"]), device="cpu", dtype="float32", student=fits, loras=[f"{fits}:0.5"])
    )
    assert drawn.network.identity == whole.network.identity and drawn.network.notes == whole.network.notes
    for asked in ({"student": other}, {"loras": [other]}):
        with pytest.raises(ModelError, match="LoRA"):
            outline(folders["sdxl"], **asked)


def test_a_style_adapter_of_another_family_is_noticed(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = add_style_adapter(save_tiny_sdxl(tmp_path / "m"), unet=folders["sd15"] / "unet")
    with pytest.raises(ModelError, match="another model family"):
        outline(folder, styles=True)


def test_a_dry_run_loads_nothing_and_says_what_a_run_takes(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    RED.save(tmp_path / "a.png")
    monkeypatch.setattr(load, "open_model", lambda *_, **__: pytest.fail("the model was loaded"))
    asked = ["stylize", tmp_path / "a.png", "--style", tmp_path / "a.png", "--model", folders["sdxl"]]
    asked += ["--device", "cpu", "--dtype", "float32", "--dry-run", "--json"]
    assert main([*map(str, asked)]) == 0
    told = capsys.readouterr()
    values = count_values(folders["sdxl"].rglob("*.safetensors"))
    assert json.loads(told.out)["weight_bytes"] == 4 * values
    assert "of weights in float32" in told.err
    monkeypatch.setattr(pipeline, "measure_room", lambda: Room(values, values, 0, limited=False))
    assert main([*map(str, asked)]) == 7


def test_the_outline_of_full_sdxl_takes_seconds_and_no_memory(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """5 GB of weights in half precision; reading them takes longer, and as much memory."""
    folder = save_sparse_model(tmp_path / "m", folders["sdxl"], SDXL)
    before_s, before = time.process_time(), psutil.Process().memory_info().rss
    drawn = load_model(ModelSpec(str(folder), device="cpu", dtype="bfloat16"), weights=False)
    assert time.process_time() - before_s < 10
    assert psutil.Process().memory_info().rss - before < 2**28
    assert 5.1e9 < drawn.network.need.weight_bytes < 5.2e9
    assert drawn.network.hash_of("unet") is None, "that would read all of it"
