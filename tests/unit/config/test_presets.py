"""Finding, copying and validating presets, and the ones that ship."""

import os
from pathlib import Path

import pytest

import stdcli
from stdcli.config import presets
from stdcli.config.load import resolve
from stdcli.config.presets import (
    copy_preset,
    find_preset,
    list_presets,
    presets_root,
    read_task_file,
    validate_file,
)
from stdcli.errors import ConfigError


def test_presets_of_a_checkout_lie_beside_the_package() -> None:
    assert presets_root() == Path(stdcli.__file__).parent.parent / "presets"


def test_presets_of_a_wheel_lie_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "stdcli"
    (package / "_presets" / "stylize").mkdir(parents=True)
    (package / "_presets" / "stylize" / "a.yaml").write_text("# an a\ntask: stylize\n")
    monkeypatch.setattr(stdcli, "__file__", str(package / "__init__.py"))
    assert [(preset.name, preset.purpose) for preset in list_presets()] == [("stylize/a", "an a")]


def test_names_with_and_without_the_task() -> None:
    full = find_preset("stylize/embedded-fast")
    assert find_preset("embedded-fast", task="stylize") == full
    with pytest.raises(ConfigError, match=r"did you mean stylize/embedded-fast"):
        find_preset("embedded-fast")


def test_the_preset_of_another_task_is_not_found() -> None:
    with pytest.raises(ConfigError, match="valid: bank/"):
        find_preset("stylize/embedded-fast-ish", task="bank")


def test_copy_keeps_every_byte(tmp_path: Path) -> None:
    source = find_preset("stylize/sd15-lcm").path
    in_folder = copy_preset("stylize/sd15-lcm", tmp_path)
    as_file = copy_preset("stylize/sd15-lcm", tmp_path / "mine.yaml")
    assert in_folder == tmp_path / "sd15-lcm.yaml"
    assert in_folder.read_bytes() == as_file.read_bytes() == source.read_bytes()
    assert validate_file(as_file) == "stylize"


def test_copy_replaces_nothing_unless_told(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    target.write_text("precious")
    with pytest.raises(ConfigError, match="exists already"):
        copy_preset("stylize/sd15-lcm", target)
    assert target.read_text() == "precious"
    copy_preset("stylize/sd15-lcm", target, overwrite=True)
    assert target.read_text().startswith("# ")
    with pytest.raises(ConfigError, match="cannot be written"):
        copy_preset("stylize/sd15-lcm", tmp_path / "none" / "mine.yaml")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_preset_is_not_copied_over_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    folder = tmp_path / "stylize"
    folder.mkdir()
    (folder / "a.yaml").write_text("# an a\n")
    (tmp_path / "link.yaml").symlink_to(folder / "a.yaml")
    monkeypatch.setattr(presets, "presets_root", lambda: tmp_path)
    for place in (folder, folder / "a.yaml", tmp_path / "link.yaml"):
        with pytest.raises(ConfigError, match="the preset itself"):
            copy_preset("stylize/a", place, overwrite=overwrite)
    assert (folder / "a.yaml").read_text() == "# an a\n"


def test_a_copy_that_fails_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "mine.yaml"
    target.write_text("precious")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        copy_preset("stylize/sd15-lcm", target, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    assert target.read_text() == "precious"


def test_a_file_must_say_its_task_one_way_or_another(tmp_path: Path) -> None:
    (tmp_path / "stylize").mkdir()
    by_folder = tmp_path / "stylize" / "a.yaml"
    by_folder.write_text("steps: 3\n")
    assert read_task_file(by_folder) == ("stylize", {"steps": 3})
    alone = tmp_path / "a.yaml"
    alone.write_text("steps: 3\n")
    assert read_task_file(alone, "stylize") == ("stylize", {"steps": 3})
    with pytest.raises(ConfigError, match="does not say which task it is for"):
        read_task_file(alone)


def test_validation_reports_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("task: stylize\nsteps: 0\nstrenght: 0.5\n")
    with pytest.raises(ConfigError) as caught:
        validate_file(path)
    assert caught.value.where == str(path)
    assert {name for name, _ in caught.value.problems} == {"steps", "strenght"}


def test_sd15_lcm_samples_as_lcm_does() -> None:
    config = resolve("stylize", preset="sd15-lcm").config
    assert (config.sampler, config.final, config.guidance, config.steps) == ("renoise", "x0", 1.0, 4)
    assert config.lora == ("latent-consistency/lcm-lora-sdv1-5",)


def test_sdxl_ip_adapter_is_the_slow_reference() -> None:
    config = resolve("stylize", preset="sdxl-ip-adapter").config
    assert config.model == "stabilityai/stable-diffusion-xl-base-1.0"
    assert (config.steps, config.strength, config.guidance) == (30, 0.6, 5.0)


@pytest.mark.parametrize(("name", "steps"), [("embedded-fast", 2), ("embedded-detail", 8)])
def test_embedded_presets(name: str, steps: int) -> None:
    config = resolve("stylize", preset=name).config
    assert (config.model, config.steps) == ("embedded", steps)
