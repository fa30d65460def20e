"""Where results go, and the record that goes with each.

A result never replaces anything unless told to, and never its own input. The record is a JSON file beside the
result (and text inside it, where the format has room); `--config RECORD` repeats the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import stdcli
from stdcli.config.schema import StylizeConfig
from stdcli.console import to_plain
from stdcli.errors import ConfigError
from stdcli.media.containers import CONTAINERS
from stdcli.media.image import WRITABLE
from stdcli.media.output import check_output, publish, temporary_path
from stdcli.media.sources import Source, is_pattern, resolve_input

KEPT_SUFFIXES = {"image": set(WRITABLE), "video": set(CONTAINERS), "sequence": set(WRITABLE)}
DEFAULT_SUFFIX = {"image": ".png", "video": ".mp4", "sequence": ".png"}
MARK = ".std"


def find_inputs(name: str) -> list[Source]:
    """Inputs behind a name; a folder's earlier results (`.std` before the suffix) are left out.

    Raises:
        MediaError: see `resolve_input`.
    """
    sources = resolve_input(name)
    if not Path(name).is_dir():
        return sources
    return [source for source in sources if not source.path.stem.endswith(MARK)] or sources


def output_paths(sources: Sequence[Source], output: Path | None, *, overwrite: bool) -> list[Path]:
    """Choose a path per source and make sure that each may be written.

    Args:
        sources: inputs.
        output: what the user asked for: a file for one input, a folder for any number, None for "beside the
            input, with `.std` before the suffix".
        overwrite: whether existing files may be replaced.

    Returns:
        One path per source, in order.

    Raises:
        ConfigError: one file asked for several inputs, or two inputs with one output.
        MediaError: a result exists, is its own input, or its folder is missing.
    """
    numbered = output is not None and is_pattern(output)
    as_folder = (
        output is not None
        and not numbered
        and (output.is_dir() or str(output).endswith(("/", os.sep)) or len(sources) > 1)
    )
    if len(sources) > 1 and output is not None and not output.is_dir() and (numbered or output.suffix):
        raise ConfigError(
            f"{len(sources)} inputs cannot go to one file",
            [("--output", f"{output} looks like a file; name a folder")],
        )
    if numbered and sources[0].kind == "image":
        raise ConfigError("numbered results are for clips", [("--output", f"{output}; name one file")])
    paths = [_one_path(source, output, as_folder=as_folder) for source in sources]
    for path in {p for p in paths if paths.count(p) > 1}:
        raise ConfigError("two inputs would be written to one file", [("--output", str(path))])
    inputs = [source.path for source in sources]
    for path in paths:
        if as_folder or is_pattern(path):
            _check_parent(path)
        if not (as_folder and not path.parent.exists()) and not is_pattern(path):
            check_output(path, overwrite=overwrite, inputs=inputs)
    return paths


def _check_parent(path: Path) -> None:
    """Try to write where a folder exists or will be made."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    check_output(temporary_path(folder / path.name), overwrite=False)


def _one_path(source: Source, output: Path | None, *, as_folder: bool) -> Path:
    suffix = source.path.suffix.lower()
    if suffix not in KEPT_SUFFIXES[source.kind]:
        suffix = DEFAULT_SUFFIX[source.kind]
    if output is not None and not as_folder:
        return output
    if source.kind == "sequence":
        folder = output or source.path.parent.with_name(f"{source.path.parent.name or 'frames'}{MARK}")
        return folder / f"{source.path.stem}{suffix}"
    folder = output or source.path.parent
    return folder / f"{source.path.stem}{MARK}{suffix}"


def record(
    config: StylizeConfig, settings: Mapping[str, Any], model: Mapping[str, Any], *, source: Path
) -> dict[str, Any]:
    """What was run, enough to run it again.

    The paths of style pictures are stored as given; the input's name is stored without its folder.

    Args:
        config: the user's values.
        settings: `Settings.facts()`.
        model: `Bundle.identity`.
        source: the input.

    Returns:
        JSON-ready mapping; its `config` is what `--config` reads.
    """
    kept = config.model_dump(mode="json", exclude_defaults=True)
    return to_plain(
        {
            "task": "stylize",
            "config": kept,
            "settings": dict(settings),
            "model": dict(model),
            "input": source.name,
            "versions": {"stdcli": stdcli.__version__}
            | {name: version(name) for name in ("torch", "diffusers")},
        }
    )


def sidecar_path(result: Path) -> Path:
    """`in.std.png` -> `in.std.json`; `frames/%05d.png` -> `frames.json`."""
    if is_pattern(result):
        return result.parent.with_name(f"{result.parent.name}.json")
    return result.with_suffix(".json")


def write_sidecar(result: Path, data: Mapping[str, Any]) -> None:
    """Write the record beside its result, atomically."""
    path = sidecar_path(result)
    temporary = temporary_path(path)
    temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    publish(temporary, path, overwrite=True)
