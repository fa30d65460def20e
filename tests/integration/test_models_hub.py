"""Models, style adapters and LoRAs out of the Hub's local cache, with the network cut off."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file

from stdcli.errors import HubError, ModelError
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from tests.tiny_models import add_style_adapter, save_tiny_lora, save_tiny_sd15, save_tiny_sdxl

SHA = "0123456789abcdef0123456789abcdef01234567"
RED = Image.new("RGB", (40, 40), "red")


def put(cache: Path, repo: str, *, refs: tuple[str, ...] = ("main",)) -> Path:
    """An empty repository in a Hub cache, as a download leaves it; returns its snapshot folder."""
    place = cache / f"models--{repo.replace('/', '--')}"
    for ref in refs:
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / ref).write_text(SHA)
    snapshot = place / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """o/sd15 and o/sdxl, the published style adapter at small size, and o/lora."""
    root = tmp_path_factory.mktemp("cache")
    sd15 = save_tiny_sd15(put(root, "o/sd15", refs=("main", "v1")))
    sdxl = save_tiny_sdxl(put(root, "o/sdxl"))
    adapters = put(root, "h94/IP-Adapter")
    for family, model, place in (("sd15", sd15, "models"), ("sdxl", sdxl, "sdxl_models")):
        made = add_style_adapter(tmp_path_factory.mktemp(family), unet=model / "unet") / "ip_adapter"
        shutil.copytree(made / "image_encoder", adapters / place / "image_encoder")
        shutil.copy(made / "ip_adapter.safetensors", adapters / place / f"ip-adapter_{family}.safetensors")
    save_tiny_lora(put(root, "o/lora") / "students" / "four.safetensors", sd15)
    other = save_tiny_sd15(tmp_path_factory.mktemp("other"), seed=8)
    shutil.copytree(other / "unet", put(root, "o/student") / "unet")
    return root


@pytest.fixture(autouse=True)
def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


@pytest.mark.parametrize(("family", "name"), [("sd15", "o/sd15"), ("sdxl", "o/sdxl")])
def test_model_and_published_style_adapter(family: str, name: str) -> None:
    bundle = load_model(ModelSpec(name, device="cpu", dtype="float32", offline=True))
    assert (bundle.network.family.name, bundle.network.name, bundle.network.revision) == (family, name, SHA)
    cond, uncond = bundle.condition(prompt="x", styles=[RED], size_px=(64, 64), guidance=2.0)
    with torch.no_grad():
        under, without = bundle.network.denoiser.pair(torch.ones(1, 4, 8, 8), 499, cond, uncond)
    assert not torch.allclose(under, without)
    assert bundle.network.identity["revision"] == SHA


def test_environment_variable_means_offline_too() -> None:
    assert constants.is_offline_mode()
    assert load_model(ModelSpec("o/sd15@v1", device="cpu", dtype="float32")).network.revision == SHA


def test_lora_file_in_a_repository() -> None:
    lora = "o/lora/students/four.safetensors"
    bundle = load_model(
        ModelSpec("o/sd15", device="cpu", dtype="float32", offline=True, loras=[f"{lora}:0.5"])
    )
    (entry,) = bundle.network.identity["loras"]
    assert (entry["name"], entry["scale"]) == (lora, 0.5)


def test_students_in_a_repository(cache: Path) -> None:
    """All weights under their own name, and adapters by the name of a file."""
    options = {"device": "cpu", "dtype": "float32", "offline": True}
    bundle = load_model(ModelSpec("o/sd15", student="o/student", **options))
    (file,) = (cache / "models--o--student").rglob("*.safetensors")
    stored = load_file(file)
    weights = bundle.network.denoiser.network.state_dict()
    assert weights.keys() == stored.keys() and all(torch.equal(weights[k], v) for k, v in stored.items())
    assert bundle.network.identity["student"]["name"] == "o/student"
    lora = "o/lora/students/four.safetensors"
    assert (
        load_model(ModelSpec("o/sd15", student=lora, **options)).network.identity["student"]["name"] == lora
    )
    with pytest.raises(HubError, match="not in the local Hub cache"):
        load_model(ModelSpec("o/sd15", student="o/nowhere", **options))


def test_unknown_revision_is_not_in_the_cache() -> None:
    with pytest.raises(HubError, match="not in the local Hub cache") as caught:
        load_model(ModelSpec("o/sd15@v2", offline=True))
    assert caught.value.where == "o/sd15@v2"


def test_incomplete_style_adapter_names_what_lacks(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = shutil.copytree(cache, tmp_path / "cache")
    (mine / "models--h94--IP-Adapter" / "snapshots" / SHA / "models/image_encoder/model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(mine))
    bundle = load_model(ModelSpec("o/sd15", device="cpu", dtype="float32", offline=True))
    with pytest.raises(ModelError, match="not complete in the local Hub cache") as caught:
        bundle.condition(styles=[RED], size_px=(64, 64))
    assert caught.value.got == "no models/image_encoder/model.safetensors"
    assert caught.value.hint.startswith("hf download h94/IP-Adapter --include ")


def test_half_downloaded_model(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = shutil.copytree(cache, tmp_path / "cache")
    shutil.rmtree(mine / "models--o--sd15" / "snapshots" / SHA / "text_encoder")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(mine))
    with pytest.raises(ModelError, match="lacks text_encoder"):
        load_model(ModelSpec("o/sd15", offline=True))
