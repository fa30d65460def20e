"""`stdcli doctor`."""

import importlib.metadata
import json
import re
import shutil
import tempfile
import tomllib
from pathlib import Path

import psutil
import pytest
import torch

import stdcli
from stdcli.cli import doctor
from stdcli.cli.doctor import EMBEDDED_FILES, Finding, embedded_model, preset_models
from stdcli.cli.main import main
from stdcli.models.layout import wanted_files
from stdcli.runtime import devices

MISSING = Finding("embedded model", "it lacks x", ok=False, needed=True, fix="get it")


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model is there, whether it is in this checkout or not."""
    monkeypatch.setattr(doctor, "embedded_model", lambda: Finding("embedded model", "there", needed=True))


def findings(capsys) -> dict[str, dict]:
    report = json.loads(capsys.readouterr().out)
    return {row["name"]: row for row in report["rows"]}


def test_a_healthy_installation_is_0(whole, capsys) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in (
        "torch",
        "diffusers",
        "device",
        "ffmpeg",
        "embedded model",
        "hub cache",
        "extra demo",
    ):
        assert f"\n{word} " in out


def test_json_holds_versions_device_ffmpeg_and_cache(whole, capsys) -> None:
    assert main(["doctor", "--json"]) == 0
    found = findings(capsys)
    assert found["stdcli"]["value"] == stdcli.__version__
    assert found["torch"]["value"] == importlib.metadata.version("torch")
    assert found["device"]["value"].split(":")[0] in ("cpu", "cuda", "mps")
    program = Path(found["ffmpeg"]["value"].split(" at ")[1])
    assert program.is_file()
    assert found["hub downloads"]["value"] == "off (HF_HUB_OFFLINE is set)"
    assert found["hub cache"]["value"].startswith("0.00 GiB in ")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_of_presets_that_are_not_cached_come_with_the_command(
    whole, capsys, monkeypatch, dtype
) -> None:
    """The files are those that a run with `--dtype auto` fetches of the published repository."""
    choice = devices.DeviceChoice(torch.device("cpu"), getattr(torch, dtype), "cpu: so")
    monkeypatch.setattr(devices, "choose", lambda *_: choice)
    main(["doctor", "--json"])
    found = findings(capsys)
    name = "stabilityai/stable-diffusion-xl-base-1.0"
    published = [
        f"{part}/{stem}{kind}.safetensors"
        for part, stem in (
            ("unet", "diffusion_pytorch_model"),
            ("vae", "diffusion_pytorch_model"),
            ("text_encoder", "model"),
            ("text_encoder_2", "model"),
        )
        for kind in ("", ".fp16")
    ]
    wanted = set(wanted_files(published, half=dtype == "bfloat16"))
    fix = found[name].pop("fix")
    assert found[name] == {
        "name": name,
        "value": "not in the hub cache: model_index.json",
        "ok": False,
        "needed": False,
    }
    assert fix.startswith(f'hf download {name} --include "*.json" --include "*.txt" --include "unet/')
    assert {word.strip('"') for word in fix.split() if "safetensors" in word} == wanted
    fix = found["h94/IP-Adapter for SDXL"]["fix"]
    assert fix.startswith('hf download h94/IP-Adapter --include "sdxl_models/ip-adapter_sdxl.safetensors" ')
    lora = "latent-consistency/lcm-lora-sdv1-5"
    assert found[lora]["fix"] == f'hf download {lora} --include "pytorch_lora_weights.safetensors"'


def test_memory_and_disk_are_told(whole, capsys) -> None:
    main(["doctor", "--json"])
    found = findings(capsys)
    total = psutil.virtual_memory().total / 2**30
    free, of = (float(word) for word in re.findall(r"([\d.]+) GiB", found["memory"]["value"]))
    assert 0 < free <= of <= round(total, 1)
    free = float(found["disk"]["value"].split(" GiB free for ")[0])
    assert abs(free - shutil.disk_usage(tempfile.gettempdir()).free / 2**30) < 1


def put(cache: Path, repo: str, files: dict[str, str]) -> None:
    """Files of a repository as a download leaves them in the cache."""
    place = cache / f"models--{repo.replace('/', '--')}"
    for name, text in {"refs/main": "abc", **{f"snapshots/abc/{k}": v for k, v in files.items()}}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)


@pytest.mark.parametrize("lacking", [None, "vae", "tokenizer"])
def test_a_cached_model_is_there_with_all_its_parts(
    whole, capsys, tmp_path, monkeypatch, lacking: str | None
) -> None:
    from huggingface_hub import constants

    name = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    names = ("unet", "vae", "text_encoder", "scheduler", "tokenizer")
    index = {part: ["x", "X"] for part in names} | {"_class_name": "Y", "safety_checker": ["x", "X"]}
    index["image_encoder"] = index["text_encoder_2"] = [None, None]
    weights = {
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model.fp16",
        "text_encoder": "model",
    }
    files = {"model_index.json": json.dumps(index), "vae/config.json": "{}", "unet/other.bin": " " * 2**24}
    files |= {f"{part}/{weights[part]}.safetensors": "" for part in weights if part != lacking}
    files |= {f"{part}/config.json": "" for part in ("scheduler", "tokenizer") if part != lacking}
    put(tmp_path, name, files)
    put(tmp_path, "h94/IP-Adapter", {"models/ip-adapter_sd15.safetensors": ""})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "_device", lambda: Finding("device", "cpu"))
    main(["doctor", "--json"])
    found = findings(capsys)
    assert found[name]["ok"] is (lacking is None)
    assert found[name]["value"] == (f"not in the hub cache: {lacking}" if lacking else "in the hub cache")
    assert found["hub cache"]["value"] == f"0.02 GiB in {tmp_path}"
    half = "not in the hub cache: models/image_encoder/config.json, models/image_encoder/model.safetensors"
    assert found["h94/IP-Adapter for SD1.5"]["value"] == half
    put(tmp_path, name, {"model_index.json": "["})
    main(["doctor", "--json"])
    assert findings(capsys)[name]["value"] == "not in the hub cache: model_index.json"


def test_something_needed_is_missing(monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "embedded_model", lambda: MISSING)
    assert main(["doctor"]) == 7
    out, err = capsys.readouterr()
    assert "embedded model" in out and "MISSING" in out
    assert "to get embedded model: get it" in err
    assert err.endswith("error: the embedded model cannot run; missing: embedded model\n  hint: get it\n")


def test_something_missing_in_json(monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "embedded_model", lambda: MISSING)
    assert main(["doctor", "--json"]) == 7
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"] is False
    assert json.loads(err)["error"]["type"] == "ResourceError"


def test_broken_parts_are_findings_not_tracebacks(whole, monkeypatch, capsys) -> None:
    import imageio_ffmpeg

    def no_ffmpeg() -> str:
        raise RuntimeError("no ffmpeg exe could be found")

    def no_package(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", no_ffmpeg)
    monkeypatch.setattr(importlib.metadata, "version", no_package)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert main(["doctor", "--json"]) == 7
    found = findings(capsys)
    assert found["ffmpeg"]["fix"] == "pip install imageio-ffmpeg"
    assert found["ffmpeg"]["value"] == "no ffmpeg exe could be found"
    assert found["diffusers"]["fix"] == "pip install diffusers"
    assert found["extra eval"]["fix"] == 'pip install "stdcli[eval]"'


def test_the_embedded_model_is_whole_only_with_every_file(tmp_path: Path) -> None:
    for pattern in EMBEDDED_FILES:
        path = tmp_path / pattern.replace("*", "weights")
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert embedded_model(tmp_path).ok
    (tmp_path / "recipe.json").unlink()
    finding = embedded_model(tmp_path)
    assert not finding.ok
    assert finding.value == f"{tmp_path} lacks recipe.json"


def test_the_style_adapter_is_the_one_that_is_loaded() -> None:
    models = Path(stdcli.__file__).parent / "models"
    loaders = "".join(path.read_text("utf-8") for path in models.rglob("*.py"))
    assert f'"{doctor.STYLE_ADAPTER}"' in loaders
    assert all(f'"{name}"' in loaders for names in doctor.ADAPTER_FILES.values() for name in names)


def test_the_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(stdcli.__file__).parents[1] / "pyproject.toml").read_text("utf-8"))[
        "project"
    ]
    named = {extra: set(modules.values()) for extra, modules in doctor.EXTRAS.items()}
    extras = {
        extra: {wanted.partition(">=")[0] for wanted in packages}
        for extra, packages in project["optional-dependencies"].items()
        if extra != "test"
    }
    assert named == extras


def test_models_that_presets_name_are_hub_ids() -> None:
    models = ["stabilityai/stable-diffusion-xl-base-1.0", "stable-diffusion-v1-5/stable-diffusion-v1-5"]
    assert preset_models() == (models, ["latent-consistency/lcm-lora-sdv1-5"])
