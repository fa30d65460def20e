"""`stdcli presets`: list, show, copy and validate presets."""

from __future__ import annotations

from pathlib import Path

from stdcli.cli.command import Call, argument, command, switch
from stdcli.cli.options import shared
from stdcli.cli.usage import make_group
from stdcli.errors import ConfigError

NAME = argument("name", str, "NAME", "Name of a preset, such as stylize/embedded-fast.")


@command()
def list_(call: Call) -> None:
    """List the presets that come with stdcli.

    \b
    Examples:
      stdcli presets list
      stdcli presets list --json | jq -r '.rows[].name'
    """
    from stdcli.config.presets import list_presets, presets_root

    console = call.console
    console.detail(f"presets are read from {presets_root()}")
    console.table(("name", "purpose"), [(preset.name, preset.purpose) for preset in list_presets()])


@command(
    NAME,
    switch("--resolved", "Print every setting and the layer it came from instead of the file."),
    *shared("set"),
)
def show(call: Call, *, name: str, resolved: bool) -> None:
    """Print a preset: the file, or with --resolved every setting that a run with it would use.

    \b
    Examples:
      stdcli presets show stylize/embedded-fast
      stdcli presets show stylize/embedded-fast --resolved --set steps=3
    """
    from stdcli.config.presets import find_preset, read_task_file

    console = call.console
    preset = find_preset(name)
    if not resolved:
        if call.set:
            raise ConfigError("--set needs --resolved", hint=f"stdcli presets show {name} --resolved")
        console.result(
            *preset.text.rstrip("\n").split("\n"), path=preset.path, name=preset.name, text=preset.text
        )
        return
    task, _ = read_task_file(preset.path)
    rows = call.resolve(task, preset=preset.name).rows()
    if console.mode != "json":
        rows = [(key, _worded(value), layer) for key, value, layer in rows]
    console.table(("key", "value", "from"), rows, preset=preset.name, task=task)


@command(NAME, argument("destination", Path, "DEST", "A folder, or the new file."), *shared("overwrite"))
def copy(call: Call, *, name: str, destination: Path, overwrite: bool) -> None:
    """Copy a preset, to edit it and run it with --config.

    \b
    Examples:
      stdcli presets copy stylize/embedded-fast .
      stdcli presets copy stylize/embedded-fast mine.yaml
    """
    from stdcli.config.presets import copy_preset

    console = call.console
    path = copy_preset(name, destination, overwrite=overwrite)
    console.result(f"wrote {path}", path=path)


@command(
    argument("files", list[Path], "[FILE]...", "YAML files; all presets when none is given.", default=None)
)
def validate(call: Call, *, files: list[Path] | None) -> None:
    """Check preset files and report every problem; exit code 2 if there is one.

    \b
    Examples:
      stdcli presets validate
      stdcli presets validate mine.yaml other.yaml
    """
    from stdcli.config.presets import list_presets, validate_file

    console = call.console
    rows: list[tuple[str, str]] = []
    problems: list[tuple[str, str]] = []
    for path in files or [preset.path for preset in list_presets()]:
        try:
            rows.append((str(path), f"a valid {validate_file(path)} preset"))
        except ConfigError as error:
            rows.append((str(path), "wrong"))
            problems += _located(path, error)
    console.table(("file", "outcome"), rows, valid=not problems)
    if problems:
        wrong = len({row[0] for row in rows if row[1] == "wrong"})
        raise ConfigError(f"{wrong} of {len(rows)} files are wrong", problems)


def _worded(value: object) -> str:
    """A setting as a person would write it."""
    if value is None or value == ():
        return "-"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _located(path: Path, error: ConfigError) -> list[tuple[str, str]]:
    """The problems of a file, each under the file's name."""
    if error.problems:
        return [(f"{path}: {name}", message) for name, message in error.problems]
    details = ", ".join(line.strip() for line in error.details() if not line.startswith("  at: "))
    return [(error.where or str(path), f"{error.what}{', ' if details else ''}{details}")]


GROUP = make_group(
    "presets",
    "List, show, copy and validate presets.",
    {"list": list_, "show": show, "copy": copy, "validate": validate},
)
