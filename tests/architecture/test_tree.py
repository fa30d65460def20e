"""The rules of the house, applied to the tree. `test_rules.py` tries the rules themselves."""

from collections.abc import Callable
from pathlib import Path

import pytest

import stdcli
from stdcli.config.presets import list_presets, presets_root, validate_file
from stdcli.config.tasks import TASKS
from tests.architecture import rules
from tests.architecture.collection import collected_files, files_of_tests

PACKAGE = Path(stdcli.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("*.toml")),
    *(path for folder in ("stdcli", "tests", "presets") for path in sorted((ROOT / folder).rglob("*.*"))),
]


def name_of(path: Path) -> str:
    """Dotted name of a module of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def offenders(check: Callable[[str], list[str]], paths: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {fault}" for path in paths for fault in check(path.read_text("utf-8"))
    ]


def report(faults: list[str]) -> str:
    return "\n" + "\n".join(faults)


def test_there_is_a_tree_to_check() -> None:
    assert len(MODULES) > 15
    assert len(TEXTS) > 2 * len(MODULES) / 3


def test_every_package_has_a_layer() -> None:
    parts = {path.stem if path.parent == PACKAGE else path.relative_to(PACKAGE).parts[0] for path in MODULES}
    assert parts - {"__init__", "assets"} <= set(rules.LAYERS)


def test_imports_run_one_way() -> None:
    faults = [fault for path in MODULES for fault in rules.check_imports(path.read_text(), name_of(path))]
    assert not faults, report(faults)


def test_one_module_deletes_and_one_syncs() -> None:
    faults = [
        f"{name_of(path)} {fault}"
        for path in MODULES
        for fault in rules.check_disk(path.read_text("utf-8"), name_of(path))
    ]
    assert not faults, report(faults)


@pytest.mark.parametrize(
    "check", [rules.check_random, rules.check_habits, rules.check_size, rules.check_code]
)
def test_modules_keep_the_rule(check: Callable[[str], list[str]]) -> None:
    faults = offenders(check, MODULES)
    assert not faults, report(faults)


def test_inputs_of_ffmpeg_are_opened_in_one_place() -> None:
    faults = [fault for path in MODULES for fault in rules.check_inputs(path.read_text(), name_of(path))]
    assert not faults, report(faults)


def test_inits_are_light() -> None:
    """All but the package's own, the door for programs: see tests/unit/test_public_names.py."""
    inits = [path for path in MODULES if path.name == "__init__.py" and path.parent != PACKAGE]
    faults = offenders(rules.check_init, inits)
    assert not faults, report(faults)


def test_every_folder_of_modules_is_a_package() -> None:
    assert [path for path in {path.parent for path in MODULES} if not (path / "__init__.py").is_file()] == []


def test_no_path_of_a_machine() -> None:
    suffixes = {".py", ".md", ".toml", ".yaml", ".json"}
    faults = offenders(rules.check_paths, [path for path in TEXTS if path.suffix in suffixes])
    assert not faults, report(faults)


def test_every_preset_is_found_and_valid() -> None:
    files = {path for path in presets_root().rglob("*") if path.is_file()}
    presets = list_presets()
    assert {preset.path for preset in presets} == files
    for preset in presets:
        task = validate_file(preset.path)
        assert preset.name.split("/")[0] == task, f"{preset.name} says its task is {task}"


@pytest.mark.parametrize("preset", list_presets(), ids=lambda preset: preset.name)
def test_a_preset_explains_itself(preset) -> None:
    lines = preset.text.splitlines()
    header = "\n".join(line for line in lines[: lines.index(f"task: {preset.name.split('/')[0]}")])
    assert all(line.startswith("#") for line in header.splitlines())
    assert header.startswith("# ") and header.splitlines()[0].endswith(".")
    assert f"--preset {preset.name}" in header, "no command that uses it"
    assert "# Expected: " in header


def test_every_task_has_a_preset() -> None:
    assert {preset.name.split("/")[0] for preset in list_presets()} == set(TASKS)


def test_every_test_file_is_collected() -> None:
    files = files_of_tests(ROOT)
    assert len(files) > 10
    missed = files - collected_files(ROOT)
    assert not missed, report(sorted(map(str, missed)))


def test_every_file_in_a_test_folder_that_holds_tests_is_named_so() -> None:
    modules = [path for path in (ROOT / "tests").rglob("*.py") if not path.name.startswith("test_")]
    assert [path for path in modules if "\ndef test_" in path.read_text("utf-8")] == []
