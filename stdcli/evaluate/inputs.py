"""What is evaluated with: contents and styles as arrays, each under a short name of its own.

Legend: F frames, H W pixels, h w of a style.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from stdcli.disk.hashes import hash_file
from stdcli.errors import MediaError
from stdcli.evaluate.ids import make_ids
from stdcli.media.arrays import fit_max_size
from stdcli.media.image import read_image
from stdcli.media.probe import probe
from stdcli.media.sequence import iter_sequence, probe_sequence
from stdcli.media.sources import MediaSource, resolve_input
from stdcli.media.video import iter_frames


@dataclass(frozen=True)
class Content:
    """A photo or clip to restyle.

    Attributes:
        id: short name, unique among the contents.
        frames: uint8 [F, H, W, 3]; F is 1 for a photo.
        sha256: of the file; of the pixels where there are many files.
        fps: of a clip; None for a photo.
        name: as its file is called, without suffix; the folder of numbered pictures.
        total: frames that the clip has, of which `frames` are the first.
    """

    id: str
    frames: np.ndarray
    sha256: str
    fps: Fraction | None = None
    name: str = ""
    total: int = 1

    @property
    def is_clip(self) -> bool:
        """Whether there is a before and after."""
        return self.fps is not None


@dataclass(frozen=True)
class Style:
    """A style picture: uint8 [h, w, 3] under a short name."""

    id: str
    rgb: np.ndarray
    sha256: str


def read_contents(
    names: Iterable[str | Path], *, size_px: int | None, frames: int, left_out: list[Path] | None = None
) -> list[Content]:
    """Read photos and the beginnings of clips.

    Args:
        names: files, folders, globs, numbered pictures.
        size_px: longer side that they are shrunk to; None leaves them.
        frames: frames of a clip that are read at most.
        left_out: see `resolve_input`.

    Raises:
        MediaError: nothing of that name, or it cannot be read.
    """
    sources = [source for name in names for source in resolve_input(name, left_out=left_out)]
    read = [_read(source, size_px, frames) for source in sources]
    names = [_name(source) for source in sources]
    return [
        replace(content, id=own, name=name)
        for own, name, content in zip(make_ids(names), names, read, strict=True)
    ]


def read_styles(names: Iterable[str | Path], *, left_out: list[Path] | None = None) -> list[Style]:
    """Read style pictures; of files of other kinds in a folder, `left_out` is told, see `resolve_input`.

    Raises:
        MediaError: nothing of that name, a clip, or it cannot be read.
    """
    sources = [source for name in names for source in resolve_input(name, left_out=left_out)]
    for source in sources:
        if source.kind != "image":
            raise MediaError("a style is a picture", where=source.path, hint="take a frame of it")
    ids = make_ids(source.path.stem for source in sources)
    return [
        Style(name, read_image(source.path).rgb, hash_file(source.path))
        for name, source in zip(ids, sources, strict=True)
    ]


def _name(source: MediaSource) -> str:
    return source.path.parent.resolve().name if source.kind == "sequence" else source.path.stem


def _read(source: MediaSource, size_px: int | None, frames: int) -> Content:
    if source.kind == "image":
        return Content("", _fitted([read_image(source.path).rgb], size_px), hash_file(source.path))
    if source.kind == "video":
        info = probe(source.path)
        pixels = _fitted(islice(iter_frames(source.path, info), frames), size_px)
        return Content("", pixels, hash_file(source.path), info.fps, total=info.frames)
    info = probe_sequence(source.path)
    pixels = _fitted(islice(iter_sequence(info), frames), size_px)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Content("", pixels, digest, info.fps, total=info.frames)


def _fitted(frames: Iterable[np.ndarray], size_px: int | None) -> np.ndarray:
    plain = [np.ascontiguousarray(frame[..., :3]) for frame in frames]
    return np.stack([fit_max_size(frame, size_px) if size_px else frame for frame in plain])
