"""Layering: where each value of a run comes from.

Lowest first: field default < --preset < --config < --set < flag. All problems of all layers are reported
together.

Commands import this module at their top and must answer --help at once, so schemas and YAML are imported only
when something is resolved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stdcli.errors import ConfigError

if TYPE_CHECKING:
    from stdcli.config.schema import Section

COMMANDS = {"teacher": "teacher train"}  # where a task is not the command's own name
Layer = tuple[str, dict[str, Any]]
Problem = tuple[str, str]


@dataclass(frozen=True)
class Resolved:
    """A task's configuration, and the layer each of its values came from."""

    config: Any
    origins: dict[str, str]

    def rows(self) -> list[tuple[str, Any, str]]:
        """(dotted key, value, layer) of every value, as in the schema; sections in lists are dicts."""
        return [(name, _plain(value_at(self.config, name)), layer) for name, layer in self.origins.items()]


def value_at(config: Section, name: str) -> Any:
    """The value under a dotted key; None inside a section that is not there."""
    value: Any = config
    for part in name.split("."):
        value = None if value is None else getattr(value, part)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return value.model_dump(exclude_defaults=True) if hasattr(value, "model_dump") else value


def resolve(
    task: str,
    *,
    preset: str | None = None,
    config_file: Path | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Resolved:
    """Merge the layers of a task and check the outcome.

    Args:
        task: a key of `TASKS`.
        preset: name of a preset; the task's own folder may be left out.
        config_file: YAML file, or the JSON file a run left beside its output.
        sets: "dotted.key=value" from the command line. A value is text for the schema to read; "null",
            "[...]" and "{...}" are read as YAML.
        flags: dotted key -> value of explicit flags; None and empty lists mean "not given".

    Raises:
        ConfigError: an unreadable file, an unknown preset, or any number of wrong values.
    """
    from pydantic import ValidationError

    from stdcli.config.check import dotted_names, problems_of
    from stdcli.config.tasks import TASKS

    schema = TASKS[task]
    layers, problems = _layers(task, preset, config_file, sets, flags or {})
    data: dict[str, Any] = {}
    written: dict[str, str] = {}
    for layer, values in layers:
        leaves = dict(_leaves(values))
        for other in {
            other for name in leaves for other in schema.mutually_exclusive.get(name, ())
        } - leaves.keys():
            data.pop(other, None)
            written.pop(other, None)
        for name, value in leaves.items():
            _put(data, name, value)
            written[name] = layer
    try:
        config = schema.model_validate(data)
    except ValidationError as error:
        problems += [
            (path, _with_layer(message, path, written)) for path, message in problems_of(schema, error)
        ]
    if problems:
        hint = f"stdcli {COMMANDS.get(task, task)} --help"
        raise ConfigError(f"wrong configuration for {task}", problems, hint=hint)
    origins = {name: _nearest(written, name) or "default" for name in dotted_names(schema)}
    return Resolved(config, origins)


def _layers(
    task: str, preset: str | None, config_file: Path | None, sets: Sequence[str], flags: Mapping[str, Any]
) -> tuple[list[Layer], list[Problem]]:
    """The layers, lowest first, and the problems of reading `--set`."""
    from yaml import YAMLError

    from stdcli.config.presets import find_preset, read_task_file

    layers: list[Layer] = []
    problems: list[Problem] = []
    if preset is not None:
        found = find_preset(preset, task)
        layers.append((f"preset {found.name}", read_task_file(found.path, task)[1]))
    if config_file is not None:
        layers.append((f"--config {config_file}", read_task_file(config_file, task)[1]))
    for text in sets:
        name, equals, value = text.partition("=")
        if not (equals and name.strip()):
            problems.append((f"--set {text}", "must look like key=value"))
            continue
        try:
            layers.append(("--set", {name.strip().replace("-", "_"): _read_value(value)}))
        except YAMLError:
            problems.append((name, f"{value!r} is not a list or mapping that YAML can read"))
    given = {name: value for name, value in flags.items() if value is not None and value not in ((), [])}
    layers.append(("flag", given))
    return layers, problems


def _read_value(text: str) -> Any:
    stripped = text.strip()
    if stripped in ("null", "~") or stripped[:1] in ("[", "{"):
        from yaml import safe_load

        return safe_load(stripped)
    return text


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested mappings; keys may hold dots themselves."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _put(data: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        inner = data.get(parent)
        if not isinstance(inner, dict):
            inner = data[parent] = {}
        data = inner
    data[last] = value


def _with_layer(message: str, path: str, written: Mapping[str, str]) -> str:
    layer = _nearest(written, path)
    return message if layer is None else f"{message} (from {layer})"


def _nearest(written: Mapping[str, str], path: str) -> str | None:
    """The layer that wrote this key or the section around it."""
    parts = path.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((written[name] for name in names if name in written), None)
