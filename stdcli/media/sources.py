"""What the user names as input: one file, a folder or a glob, as a list of pictures and clips.

Files are told apart by suffix; nothing is opened. A name with `%05d` or `%d` in it stands for numbered
pictures and is a clip.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stdcli.config.names import did_you_mean
from stdcli.errors import MediaError
from stdcli.media.heif import HEIF_SUFFIXES, INSTALL, heif_formats

IMAGE_SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".tif", ".tiff",
    ".bmp", ".gif",
})  # fmt: skip
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".3gp",
    ".ogv",
})  # fmt: skip

OTHER_SUFFIXES = HEIF_SUFFIXES | {
    ".jxl", ".jp2", ".j2k", ".jpx", ".psd", ".psb", ".xcf", ".kra", ".svg", ".ico", ".icns", ".tga",
    ".dds", ".exr", ".hdr", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi", ".dib", ".jif", ".avifs", ".dng",
    ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".m2ts", ".m2v", ".mpe",
    ".vob", ".mxf", ".divx", ".asf", ".ogg", ".ogm", ".f4v", ".3g2", ".rm", ".rmvb", ".dv", ".y4m",
}  # fmt: skip
"""Of pictures and clips that are not read."""

Kind = Literal["image", "video", "sequence"]


@dataclass(frozen=True)
class MediaSource:
    """One input file."""

    path: Path
    kind: Kind


def kind_of(path: Path) -> Kind | None:
    """Picture or clip by suffix, in any case; None for neither."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES or (suffix in HEIF_SUFFIXES and heif_formats()):
        return "image"
    return "video" if suffix in VIDEO_SUFFIXES else None


def is_left_out(path: Path) -> bool:
    """Whether a file goes by its suffix for a picture or clip of a kind that is not read."""
    return path.suffix.lower() in OTHER_SUFFIXES and kind_of(path) is None


def left_out_note(files: Sequence[Path]) -> str | None:
    """One sentence that names files left out, and says what reads them; None for no file."""
    if not files:
        return None
    names = ", ".join(file.name for file in files[:SHOWN])
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    heif = any(file.suffix.lower() in HEIF_SUFFIXES for file in files)
    remedy = f"; {INSTALL} reads HEIC" if heif else ""
    return f"left out, of a kind that is not read: {names}{more}{remedy}"


SHOWN = 10
NUMBER = re.compile(r"%(?:0(\d+))?d")


def has_number(path: Path) -> bool:
    """Whether a name could stand for numbered pictures; so could `100%done.mp4`, the name of a file."""
    return NUMBER.search(path.name) is not None


def is_pattern(path: Path) -> bool:
    """Whether an input's name stands for numbered pictures: what is a file is a file."""
    return has_number(path) and not path.is_file()


def near_files(path: Path) -> str | None:
    """A question that names the files beside `path` whose names look like its own; None if there are none."""
    try:
        return did_you_mean(path.name, [file.name for file in path.parent.iterdir()])
    except OSError:
        return None


def resolve_input(name: str | Path, *, left_out: list[Path] | None = None) -> list[MediaSource]:
    """Find the inputs behind a name.

    Args:
        name: a file; a folder, meaning the pictures and clips right inside it; numbered pictures, as in
            `frames/%05d.png`; or a pattern with `*`, `?`, `[...]` or `**`. A name that exists is never taken
            for a pattern, nor are the folders at its beginning that exist. Hidden files are left out unless
            the pattern's last part starts with a dot.
        left_out: receives those of the files that are pictures or clips of a kind that is not read.

    Returns:
        At least one source, numbers in names in counting order (`f2.png` before `f10.png`).

    Raises:
        MediaError: nothing of that name, a file of another kind, or no picture and no clip among the files.
    """
    try:
        return _resolve(Path(name).expanduser(), [] if left_out is None else left_out)
    except (OSError, RuntimeError, ValueError) as error:  # too long, a closed folder, no such ~user, `**.png`
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"cannot be read: {reason}", where=name) from error


def _resolve(path: Path, left_out: list[Path]) -> list[MediaSource]:
    if path.is_file():
        kind = kind_of(path)
        if kind is None:
            what = "not a picture or clip, going by its suffix"
            raise MediaError(what, where=path, expected=_known_suffixes(), hint=_heif_hint([path]))
        return [MediaSource(path, kind)]
    if path.is_dir():
        files = [file for file in path.iterdir() if not file.name.startswith(".")]
    elif is_pattern(path):
        return [MediaSource(path, "sequence")]
    elif set(str(path)) & set("*?["):
        files = _match(path)
    elif path.exists():
        raise MediaError("a device, not a file", where=path)
    else:
        raise MediaError("no such file or folder", where=path, hint=near_files(path))
    sources = [MediaSource(file, kind) for file in files if file.is_file() and (kind := kind_of(file))]
    others = sorted(file for file in files if file.is_file() and is_left_out(file))
    if not sources:
        what = "no picture or clip here"
        raise MediaError(what, where=path, expected=_known_suffixes(), hint=_heif_hint(others))
    left_out += others
    return sorted(sources, key=lambda source: _counting_order(source.path))


def _match(pattern: Path) -> list[Path]:
    base, parts = Path(pattern.anchor or "."), list(pattern.relative_to(pattern.anchor).parts)
    while len(parts) > 1 and (base / parts[0]).is_dir():  # its brackets are its own
        base /= parts.pop(0)
    found = base.glob("/".join(parts))
    return [file for file in found if not file.name.startswith(".") or pattern.name.startswith(".")]


def _counting_order(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split(r"(\d+)", str(path).lower())
    return [(int(part.isdecimal()), int(part) if part.isdecimal() else 0, part) for part in parts], str(path)


def _heif_hint(files: Sequence[Path]) -> str | None:
    return INSTALL if any(file.suffix.lower() in HEIF_SUFFIXES for file in files) else None


def _known_suffixes() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
