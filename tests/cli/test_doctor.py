"""`stdcli doctor`."""

import importlib.metadata
import json
from pathlib import Path

import pytest

import stdcli
from stdcli.cli import doctor
from stdcli.cli.doctor import EMBEDDED_FILES, Finding, embedded_model, preset_models
from stdcli.cli.main import main

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
    for word in ("torch", "diffusers", "device", "ffmpeg", "embedded model", "hub cache", "extra demo"):
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


def test_models_of_presets_that_are_not_cached_come_with_the_command(whole, capsys) -> None:
    main(["doctor", "--json"])
    found = findings(capsys)
    name = "stabilityai/stable-diffusion-xl-base-1.0"
    assert found[name] == {
        "name": name,
        "value": "not in the hub cache",
        "ok": False,
        "needed": False,
        "fix": f"hf download {name}",
    }


def test_a_cached_model_is_found(whole, capsys, tmp_path, monkeypatch) -> None:
    from huggingface_hub import constants

    name = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    repository = tmp_path / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    with (repository / "snapshots" / "abc" / "model_index.json").open("wb") as file:
        file.truncate(2**24)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "_device", lambda: Finding("device", "cpu"))
    main(["doctor", "--json"])
    found = findings(capsys)
    assert found[name]["ok"] is True
    assert found["hub cache"]["value"] == f"0.02 GiB in {tmp_path}"


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
    assert all(f'"{name}"' in loaders for name in doctor.ENTRY_FILES if "ip-adapter" in name)


def test_models_that_presets_name_are_hub_ids() -> None:
    assert preset_models() == [
        "latent-consistency/lcm-lora-sdv1-5",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
    ]
