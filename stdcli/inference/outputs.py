"""Where results go, and the record that goes with each.

A result never replaces anything unless told to, and never its own input. The record is a JSON file beside the
result (and text inside it, where the format has room); `--config RECORD` repeats the run.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import stdcli
from stdcli.config.schema import StylizeConfig
from stdcli.config.tasks import task_of
from stdcli.console import to_plain
from stdcli.disk.reading import read_object
from stdcli.disk.removing import remove_file
from stdcli.disk.writing import open_new
from stdcli.errors import ConfigError, MediaError
from stdcli.inference.job import job_folder
from stdcli.inference.sinks import partial_path
from stdcli.media.containers import CONTAINERS, container_of
from stdcli.media.image import WRITABLE
from stdcli.media.output import (
    check_length,
    check_name,
    existing_folder,
    identities,
    publish,
    temporary_path,
    try_folder,
    write_errors,
)
from stdcli.media.sources import MediaSource, has_number, resolve_input

KEPT_SUFFIXES = {"image": set(WRITABLE), "video": set(CONTAINERS), "sequence": set(WRITABLE)}
LOSSY_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".webp"}
DEFAULT_SUFFIX = {"image": ".png", "video": ".mp4", "sequence": ".png"}
MARK = ".std"
_PRINTF = re.compile(r"%(0\d+)?d(?![^\W\d_])")
"""A number's place in a name, and no word as in `50%discount.jpg`."""


def find_inputs(name: str, *, left_out: list[Path] | None = None) -> list[MediaSource]:
    """Inputs behind a name; earlier results (`.std` before the suffix) are left out unless named one by one.

    Args:
        name, left_out: see `resolve_input`.

    Raises:
        MediaError: see `resolve_input`.
    """
    sources = resolve_input(name, left_out=left_out)
    if len(sources) == 1 and sources[0].path == Path(name).expanduser():
        return sources
    return [source for source in sources if not source.path.stem.endswith(MARK)] or sources


def output_paths(
    sources: Sequence[MediaSource],
    output: str | None,
    *,
    overwrite: bool,
    metadata: bool = True,
    lossless: bool = False,
    protected: Sequence[Path] = (),
    is_finished: Callable[[MediaSource, Path], bool] = lambda source, path: False,
) -> list[Path]:
    """Choose a path per source and make sure that each may be written.

    Args:
        sources: inputs.
        output: what the user asked for: a file for one input, a folder (one that is there, or a name that
            ends in a slash) for any number, numbered pictures for a clip, None for "beside the input, with
            `.std` before the suffix".
        overwrite: whether existing files may be replaced.
        metadata: whether a record goes beside each result.
        lossless: whether pictures get another suffix than their input's where that loses something.
        protected: files beside the inputs that may not be replaced even so.
        is_finished: whether a result is there and right, so that nothing will be written.

    Returns:
        One path per source, in order.

    Raises:
        ConfigError: one file asked for several inputs, or two inputs with one output.
        MediaError: a result or its record exists, is one of the run's own files, has no picture or clip
            format, or its folder is missing or cannot be written to.
    """
    as_folder, wanted = _wanted(sources, output)
    paths = [_one_path(source, wanted, as_folder=as_folder, lossless=lossless) for source in sources]
    doubled = next((path for path, count in Counter(paths).items() if count > 1), None)
    if doubled is not None:
        raise ConfigError("two inputs would be written to one file", [("--output", str(doubled))])
    taken = identities([*(source.path for source in sources), *protected])
    folders = set()
    for source, path in zip(sources, paths, strict=True):
        _check_format(source, path)
        if is_finished(source, path):
            continue
        for file in _names(source, path, metadata=metadata):
            check_length(file)
        numbered = is_numbered(source, path)
        files, record_path = [] if numbered else [path], sidecar_path(path, numbered=numbered)
        if metadata and not _is_record(record_path):
            files.append(record_path)
        is_made = as_folder or numbered  # a folder that is not there
        for file in files:
            if not is_made or file.parent.exists():
                check_name(file, overwrite=overwrite, taken=taken)
        folders.add(existing_folder(path))
    for folder in sorted(folders):
        try_folder(folder)
    return paths


def is_numbered(source: MediaSource, path: Path) -> bool:
    """Whether a result is numbered pictures: those of a clip whose name has a number and no clip's suffix."""
    return source.kind != "image" and has_number(path) and path.suffix.lower() not in CONTAINERS


def _names(source: MediaSource, path: Path, *, metadata: bool) -> Iterator[Path]:
    """All that comes to be beside an input or where else results go."""
    numbered = is_numbered(source, path)
    yield path
    if metadata:
        yield sidecar_path(path, numbered=numbered)
    if source.kind != "image":
        yield job_folder(path.parent if numbered else path)
        if not numbered:
            yield partial_path(path)


def _wanted(sources: Sequence[MediaSource], output: str | None) -> tuple[bool, Path | None]:
    """Whether a folder was asked for, and what."""
    if output is None:
        return False, None
    path = Path(output).expanduser()
    is_folder = _is_folder(path) or str(output).endswith(("/", os.sep))
    if not is_folder and sources[0].kind == "image" and _PRINTF.search(path.name):
        raise ConfigError("numbered results are for clips", [("--output", f"{output}; name one file")])
    if len(sources) > 1 and not is_folder and path.suffix:
        raise ConfigError(
            f"{len(sources)} inputs cannot go to one file",
            [("--output", f"{output} looks like a file; name a folder")],
        )
    return is_folder or len(sources) > 1, path


def _is_record(path: Path) -> bool:
    """Whether a file is a record by an earlier run, which goes with its result."""
    return _read_record(path) is not None


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        data = read_object(path, MediaError)
    except MediaError:
        return None
    return data if {"task", "config", "versions"} <= data.keys() else None


def is_made_by(result: Path, given: Mapping[str, Any], source: MediaSource, others: Sequence[Path]) -> bool:
    """Whether a result is there, by its record from the same values, and newer than what it was made from.

    Args:
        result: where it would be.
        given: the `given_values`.
        source: the input.
        others: further files it depends on.
    """
    data = _read_record(sidecar_path(result, numbered=is_numbered(source, result)))
    if data is None or not result.exists():
        return False
    is_same = data["config"] == given and data.get("input") == source.path.name
    changed_ns = result.stat().st_mtime_ns
    return is_same and all(
        file.exists() and file.stat().st_mtime_ns <= changed_ns for file in (source.path, *others)
    )


def given_values(config: StylizeConfig) -> dict[str, Any]:
    """The values that differ from the defaults, JSON-ready."""
    return to_plain(config.model_dump(mode="json", exclude_defaults=True))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long for anything
        return False


def _check_format(source: MediaSource, path: Path) -> None:
    if source.kind != "image" and not is_numbered(source, path):
        container_of(path)
    elif path.suffix.lower() not in WRITABLE:
        raise MediaError("no picture format has this suffix", where=path, expected=" ".join(WRITABLE))


def _one_path(source: MediaSource, output: Path | None, *, as_folder: bool, lossless: bool) -> Path:
    suffix = source.path.suffix.lower()
    if suffix not in KEPT_SUFFIXES[source.kind] or (lossless and suffix in LOSSY_SUFFIXES):
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
        settings: `SamplingSettings.metadata()`.
        model: `Bundle.identity`.
        source: the input.

    Returns:
        JSON-ready mapping; its `config` is what `--config` reads.
    """
    return to_plain(
        {
            "task": task_of(config),
            "config": given_values(config),
            "settings": dict(settings),
            "model": dict(model),
            "input": source.name,
            "versions": {"stdcli": stdcli.__version__}
            | {name: version(name) for name in ("torch", "diffusers")},
        }
    )


def sidecar_path(result: Path, *, numbered: bool = False) -> Path:
    """`in.std.png` -> `in.std.png.json`; of numbered results `frames/%05d.png` -> `frames.json`."""
    if numbered:
        return result.parent.with_name(f"{result.parent.name}.json")
    return result.with_name(f"{result.name}.json")


def write_sidecar(path: Path, data: Mapping[str, Any]) -> None:
    """Write the record of a result at its `sidecar_path`, atomically.

    Raises:
        MediaError: it cannot be written.
        ResourceError: the disk is full.
    """
    temporary = temporary_path(path)
    try:
        with write_errors(path):
            with open_new(temporary) as file:
                file.write((json.dumps(data, indent=2) + "\n").encode())
            publish(temporary, path, overwrite=True)
    finally:
        remove_file(temporary)
