"""Presets: one YAML file per setting, named by task folder and file, such as `stylize/embedded-fast`.

They live in `presets/` beside the package in a checkout and in `stdcli/_presets` in an installed wheel. A
file says its task in the key `task`, so that a copy is still understood, and begins with a comment that
explains it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stdcli
from stdcli.config.check import check
from stdcli.config.mappings import read_mapping
from stdcli.config.names import near_misses
from stdcli.config.pasting import pasted
from stdcli.config.tasks import TASKS
from stdcli.disk.writing import write_durably
from stdcli.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """A preset file and its name."""

    name: str
    path: Path

    @property
    def text(self) -> str:
        """The file as it is."""
        return self.path.read_text(encoding="utf-8")

    @property
    def purpose(self) -> str:
        """The first line of the file's comment."""
        return self.text.partition("\n")[0].lstrip("# ").strip()


def presets_root() -> Path:
    """The folder of the presets, in a wheel or in a checkout."""
    package = Path(stdcli.__file__).parent
    installed = package / "_presets"
    return installed if installed.is_dir() else package.parent / "presets"


def list_presets() -> list[Preset]:
    """All presets, by name."""
    root = presets_root()
    paths = sorted(root.rglob("*.yaml"))
    return [Preset(path.relative_to(root).with_suffix("").as_posix(), path) for path in paths]


def find_preset(name: str, task: str | None = None) -> Preset:
    """The preset of that name; with a task, the part before the slash may be left out.

    Raises:
        ConfigError: no such preset; names near misses.
    """
    presets = {preset.name: preset for preset in list_presets()}
    for candidate in (name, f"{task}/{name}"):
        if candidate in presets:
            return presets[candidate]
    if Path(name).is_file():
        raise ConfigError(f"{name!r} is a file, not the name of a preset", hint=f"--config {pasted(name)}")
    names = [known for known in presets if task is None or known.startswith(f"{task}/")]
    wanted = name if task is None or "/" in name else f"{task}/{name}"
    raise ConfigError(
        f"no preset is called {name!r}; {near_misses(wanted, names)}", hint="stdcli presets list"
    )


def read_task_file(path: Path, task: str | None = None) -> tuple[str, dict[str, Any]]:
    """(task, values) of a preset, a copy of one, or the JSON file a run left beside its output.

    Args:
        path: YAML, or JSON; a JSON object with the key "config" is replayed from there.
        task: the task that is being run, if one is.

    Raises:
        ConfigError: unreadable, of no known task, or of another task than the one being run.
    """
    data = read_mapping(path)
    if path.suffix == ".json" and isinstance(data.get("config"), dict):
        data = {"task": data.get("task"), **data["config"]}
    stated = data.pop("task", None)
    if stated is None:
        stated = task or (path.parent.name if path.parent.name in TASKS else None)
    if stated is None:
        raise ConfigError(
            "does not say which task it is for", where=path, expected=_task_list(), hint="add `task: ...`"
        )
    if not isinstance(stated, str) or stated not in TASKS:
        raise ConfigError("unknown task", where=path, got=repr(stated), expected=_task_list())
    if task is not None and stated != task:
        raise ConfigError("belongs to another task", where=path, got=repr(stated), expected=repr(task))
    return stated, data


def validate_file(path: Path) -> str:
    """Check a preset file and return its task.

    Raises:
        ConfigError: with every problem.
    """
    task, data = read_task_file(path)
    check(TASKS[task], data, what=f"not a valid {task} preset", where=path)
    return task


def copy_preset(name: str, destination: Path, *, overwrite: bool = False) -> Path:
    """Copy a preset to a file, or into a folder, and return the new file.

    Raises:
        ConfigError: no such preset, no such folder, the preset itself, or the file exists and `overwrite` is
            False.
    """
    preset = find_preset(name)
    target = destination / preset.path.name if destination.is_dir() else destination
    try:
        if target.exists() and target.samefile(preset.path):
            raise ConfigError("that is the preset itself", where=target, hint="choose another name")
        if os.path.lexists(target) and not overwrite:
            raise ConfigError("the file exists already", where=target, hint="--overwrite replaces it")
        if not target.parent.is_dir():
            raise ConfigError("cannot be written: no such folder", where=target)
        write_durably(target, preset.path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=target) from error
    return target


def _task_list() -> str:
    return "one of " + ", ".join(TASKS)
