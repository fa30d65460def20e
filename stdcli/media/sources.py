"""What the user names as input: one file, a folder or a glob, as a list of pictures and clips.

Files are told apart by suffix; nothing is opened. A name with `%05d` or `%d` in it stands for numbered
pictures and is a clip.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stdcli.config.names import did_you_mean
from stdcli.errors import MediaError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".3gp",
    ".ogv",
})  # fmt: skip

Kind = Literal["image", "video", "sequence"]


@dataclass(frozen=True)
class Source:
    """One input file."""

    path: Path
    kind: Kind


def kind_of(path: Path) -> Kind | None:
    """Picture or clip by suffix, in any case; None for neither."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "video" if suffix in VIDEO_SUFFIXES else None


NUMBER = re.compile(r"%(?:0(\d+))?d")


def is_pattern(path: Path) -> bool:
    """Whether a name stands for numbered pictures."""
    return NUMBER.search(path.name) is not None


def near_files(path: Path) -> str | None:
    """A question that names the files beside `path` whose names look like its own; None if there are none."""
    try:
        return did_you_mean(path.name, [file.name for file in path.parent.iterdir()])
    except OSError:
        return None


def resolve_input(name: str | Path) -> list[Source]:
    """Find the inputs behind a name.

    Args:
        name: a file; a folder, meaning the pictures and clips right inside it; numbered pictures, as in
            `frames/%05d.png`; or a pattern with `*`, `?`, `[...]` or `**`. A name that exists is never taken
            for a pattern. Hidden files are left out unless the pattern's last part starts with a dot.

    Returns:
        At least one source, numbers in names in counting order (`f2.png` before `f10.png`).

    Raises:
        MediaError: nothing of that name, a file of another kind, or no picture and no clip among the files.
    """
    try:
        return _resolve(Path(name).expanduser())
    except (OSError, RuntimeError) as error:  # a name too long, a closed folder, no such ~user
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"cannot be read: {reason}", where=name) from error


def _resolve(path: Path) -> list[Source]:
    if path.is_file():
        kind = kind_of(path)
        if kind is None:
            what = "not a picture or clip, going by its suffix"
            raise MediaError(what, where=path, expected=_known_suffixes())
        return [Source(path, kind)]
    if path.is_dir():
        files = [file for file in path.iterdir() if not file.name.startswith(".")]
    elif is_pattern(path):
        return [Source(path, "sequence")]
    elif set(str(path)) & set("*?["):
        files = _match(path)
    elif path.exists():
        raise MediaError("a device, not a file", where=path)
    else:
        raise MediaError("no such file or folder", where=path, hint=near_files(path))
    sources = [Source(file, kind) for file in files if file.is_file() and (kind := kind_of(file))]
    if not sources:
        raise MediaError("no picture or clip here", where=path, expected=_known_suffixes())
    return sorted(sources, key=lambda source: _counting_order(source.path))


def _match(pattern: Path) -> list[Path]:
    base = Path(pattern.anchor or ".")
    found = base.glob(str(pattern.relative_to(pattern.anchor)))
    return [file for file in found if not file.name.startswith(".") or pattern.name.startswith(".")]


def _counting_order(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split(r"(\d+)", str(path).lower())
    return [(int(part.isdecimal()), int(part) if part.isdecimal() else 0, part) for part in parts], str(path)


def _known_suffixes() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
