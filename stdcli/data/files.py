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

from stdcli.data.split import is_held_out
from stdcli.disk.opening import open_file
from stdcli.errors import MediaError
from stdcli.media.arrays import check_rgb
from stdcli.media.image import read_image
from stdcli.media.probe import probe
from stdcli.media.sources import Kind, is_left_out, kind_of, left_out_note, resolve_input
from stdcli.media.video import iter_frames

_THREADS = 4


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
