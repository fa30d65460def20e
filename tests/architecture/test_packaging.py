"""pyproject.toml: bounds with reasons that the installed versions meet, and presets inside the wheel."""

import importlib
import importlib.metadata
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import stdcli
from stdcli.cli import doctor
from stdcli.config.presets import list_presets

ROOT = Path(stdcli.__file__).parent.parent
TEXT = (ROOT / "pyproject.toml").read_text("utf-8")
PROJECT = tomllib.loads(TEXT)["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra]


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_a_bound_has_a_reason_and_the_installed_version_keeps_it(line: str) -> None:
    lines = [text.strip() for text in TEXT.splitlines()]
    assert lines[lines.index(f'"{line}",') - 1].startswith("# "), "no comment above it"
    requirement = Requirement(line)
    assert requirement.specifier.contains(importlib.metadata.version(requirement.name))


def test_no_dependency_is_unbounded_and_none_is_click() -> None:
    for line in REQUIREMENTS:
        assert Requirement(line).specifier, line
        assert Requirement(line).name not in ("click", "torchvision")


def test_the_command_is_main() -> None:
    module, _, name = PROJECT["scripts"]["stdcli"].partition(":")
    assert getattr(importlib.import_module(module), name)(["--version"]) == 0


def test_doctor_knows_the_packages_it_reports() -> None:
    core = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert set(doctor.CORE) <= core
    for extra, modules in doctor.EXTRAS.items():
        assert set(modules.values()) == {Requirement(line).name for line in EXTRAS[extra]}


@pytest.mark.slow
def test_the_wheel_holds_the_presets_the_page_and_the_license(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(path).namelist())
    assert {f"stdcli/_presets/{preset.name}.yaml" for preset in list_presets()} <= names
    page = {f"stdcli/evaluate/page/page.{kind}" for kind in ("html", "css", "js")}
    assert page <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {"stdcli/py.typed", "stdcli/__init__.pyi"} <= names
    assert not any(name.startswith("tests/") for name in names)
