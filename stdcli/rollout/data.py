"""The files that paths start from: found, read once to see that they can be, told apart by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from stdcli.disk.opening import open_file
from stdcli.disk.reading import iter_objects, read_text
from stdcli.errors import ConfigError, MediaError
from stdcli.media.arrays import check_rgb
from stdcli.media.held_out import is_held_out
from stdcli.media.image import read_image
from stdcli.media.probe import probe
from stdcli.media.sources import Kind, is_left_out, kind_of, left_out_note, resolve_input
from stdcli.media.video import iter_frames

_THREADS = 4
MAX_CAPTION_BYTES = 2**20
"""Of a caption beside a picture; text encoders read the first hundred words."""


@dataclass(frozen=True)
class File:
    """One picture or clip.

    Attributes:
        path: where it is.
        name: its path below the folder that was named.
        kind: picture or clip.
        sha256: of its bytes.
        frames: how many pictures it holds.
    """

    path: Path
    name: str
    kind: Kind
    sha256: str
    frames: int = 1

    def read(self, frame: int = 0) -> np.ndarray:
        """Picture number `frame`, uint8 [H, W, 3].

        Raises:
            MediaError: it cannot be read.
        """
        if self.kind == "image":
            return read_image(self.path).rgb
        info = probe(self.path)
        with closing(iter_frames(self.path, replace(info, first=frame, frames=1, is_cut=True))) as frames:
            rgb = np.ascontiguousarray(next(frames)[..., :3])
        check_rgb(rgb)
        return rgb


@dataclass(frozen=True)
class Found:
    """Readable files in the order of their names, each content once, and (name, reason) of the others."""

    files: tuple[File, ...]
    skipped: tuple[tuple[str, str], ...]

    def part(self, split: Literal["all", "train", "held-out"]) -> Found:
        """The files of one side of the line that `is_held_out` draws."""
        if split == "all":
            return self
        wanted = split == "held-out"
        return Found(tuple(f for f in self.files if is_held_out(f.path.name) == wanted), self.skipped)


def find_files(
    names: Sequence[str],
    *,
    known: Collection[str] = (),
    advance: Callable[[], object] = lambda: None,
) -> Found:
    """Look for pictures and clips.

    Args:
        names: files, patterns, or folders, which are searched recursively.
        known: SHA-256 of files that were found readable before.
        advance: called after each file.

    Raises:
        MediaError: no such file or folder, or nothing in it.
    """
    listed = [item for name in names for item in _list(name)]

    def examine(item: tuple[Path, str]) -> File | tuple[str, str]:
        try:
            return _examine(*item, known=known)
        except MediaError as error:
            return item[1], error.what
        finally:
            advance()

    with ThreadPoolExecutor(_THREADS, "examine") as pool:
        results = list(pool.map(examine, listed))
    files: dict[str, File] = {}
    for result in results:
        if isinstance(result, File):
            files.setdefault(result.sha256, result)
    return Found(tuple(files.values()), tuple(item for item in results if not isinstance(item, File)))


def _list(name: str) -> list[tuple[Path, str]]:
    """(path, name below the folder) of what goes by its suffix for a picture or clip, of any kind."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return [(source.path, source.path.name) for source in resolve_input(name)]
    inside = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    shown = [path for path in inside if not any(part[0] == "." for part in path.parts)]
    seen = [path for path in shown if kind_of(path) or is_left_out(path)]
    if not seen:
        raise MediaError("no picture or clip in this folder", where=folder)
    return [(folder / path, path.as_posix()) for path in seen]


def _examine(path: Path, name: str, *, known: Collection[str]) -> File:
    try:
        with open_file(path, MediaError) as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise MediaError(f"cannot be read: {error.strerror}", where=path) from error
    kind = kind_of(path)
    if kind is None:
        raise MediaError(left_out_note([path]), where=path)
    if kind == "video":
        frames = probe(path).frames
        return File(path, name, kind, sha256, frames or 1)
    if sha256 not in known:
        read_image(path)
    return File(path, name, kind, sha256)


@dataclass(frozen=True)
class Prompts:
    """Prompts by file, or a list of which each path draws one; neither is no prompt at all."""

    listed: tuple[str, ...] = ()
    by_name: dict[str, str] | None = None
    sidecars: bool = False

    def of(self, file: File, draw: float) -> str | None:
        """The prompt of a path.

        Args:
            file: where it starts.
            draw: in [0, 1), chooses among the listed.

        Raises:
            ConfigError: a sidecar or an entry is missing.
        """
        if self.listed:
            return self.listed[int(draw * len(self.listed))]
        if self.by_name is not None:
            for name in (file.name, file.path.name):
                if name in self.by_name:
                    return self.by_name[name]
            raise ConfigError("a sample has no prompt", [("prompts", f"no entry for {file.name}")])
        if self.sidecars:
            path = file.path.with_suffix(".txt")
            if not path.exists():
                raise ConfigError("a sample has no prompt", [("prompts", f"{path}: no such file")])
            try:
                return read_text(path, ConfigError, limit=MAX_CAPTION_BYTES).strip()
            except ConfigError as error:
                raise ConfigError("a caption cannot be read", [("prompts", _line(error))]) from error
        return None


def read_prompts(name: str) -> Prompts:
    """What `prompts` means.

    Raises:
        ConfigError: no such file, or neither text nor lines of JSON.
    """
    if name == "none":
        return Prompts()
    if name == "sidecar":
        return Prompts(sidecars=True)
    path = Path(name).expanduser()
    try:
        if path.suffix != ".jsonl":
            lines = read_text(path, ConfigError).split("\n")
            prompts = Prompts(tuple(line.strip() for line in lines if line.strip()))
        else:
            rows = [row for _, row in iter_objects(path, ConfigError)]
            prompts = Prompts(by_name={str(row["file_name"]): str(row["text"]) for row in rows})
    except (ConfigError, KeyError) as error:
        told = _line(error) if isinstance(error, ConfigError) else f"{path}: a line without {error}"
        expected = "none, sidecar, a .txt of one prompt per line, or a .jsonl of file_name and text"
        raise ConfigError("no prompts here", [("prompts", told)], expected=expected) from error
    if not (prompts.listed or prompts.by_name):
        raise ConfigError("no prompts here", [("prompts", f"{path} is empty")])
    return prompts


def _line(error: ConfigError) -> str:
    return f"{error.where}: {error.what}" + ("" if error.got is None else f" ({error.got})")
